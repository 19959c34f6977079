"""Adaptive explicit methods of torchdiffeq, which autograd can pass; the one place that translates its failures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import ClassVar, final

import torch
from torch import Tensor
from torchdiffeq import odeint

from ocsolver.integrators._rows import RowsFailedError, UnitField, integrate_masked
from ocsolver.integrators.base import Field, Integrator, check_method, check_positive, checked_fractions

_ORDERS = {"dopri5": 5, "dopri8": 8, "bosh3": 3, "adaptive_heun": 2}
_UNDERFLOW, _NONFINITE, _TOO_MANY = "underflow in dt", "non-finite values in state", "max_num_steps exceeded"
_NOT_FINITE = 1e10  # stands for an infinite norm: large enough to reject a step, and a first step survives it


@final
@dataclass(frozen=True)
class TorchDiffEq(Integrator):
    """Adaptive explicit Runge-Kutta methods of the package torchdiffeq.

    The error is controlled by the worst row, hence adding rows changes another row by no more than the tolerance. All
    rows share the steps. A row that blows up, or that would need more than `max_steps` steps, costs one more
    integration of the others. Gradients are those of the steps taken, with step sizes held fixed.

    Parameters
    ----------
    method : {"dopri5", "dopri8", "bosh3", "adaptive_heun"}
        Dormand-Prince of orders 5 and 8, Bogacki-Shampine of order 3, Heun of order 2.
    rtol, atol : float
        Relative and absolute tolerance of a local step; each row's error, a root mean square over its components, is
        kept below one in the scale atol + rtol * abs(z). rtol is raised to ten units of rounding where it is below.
    max_steps : int
        Steps, rejected ones included, between two requested points, before a row is given up as too stiff.
    all_or_none : bool
        For rows that only serve together: if one fails, all do, at once, and none is integrated again without it.

    Raises
    ------
    InputError
        If `method` is unknown or a number is not positive.

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       sections II.4 and II.5.

    Examples
    --------
    >>> import torch
    >>> t, h = torch.zeros(()).double(), torch.ones(()).double()
    >>> z, u = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    >>> z1 = TorchDiffEq("dopri5", rtol=1e-9).step(lambda t, z, u: -z, t, h, z, u)
    >>> bool(abs(z1 - torch.exp(-h)) < 1e-8)
    True
    """

    method: str = "dopri5"
    rtol: float = 1e-7
    atol: float = 1e-9
    max_steps: int = dataclass_field(default=10_000, kw_only=True)
    all_or_none: bool = dataclass_field(default=False, kw_only=True)

    differentiable: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_method(self.method, tuple(_ORDERS))
        for name in ("rtol", "atol", "max_steps"):
            check_positive(name, getattr(self, name))

    @property
    def order(self) -> int:
        """Order of the method's step."""
        return _ORDERS[self.method]

    def step(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return self.dense(field, t, h, z, u, (1.0,))[-1]

    def dense(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor, fractions: Sequence[float]) -> Tensor:
        # Each point ends a step: torchdiffeq's interpolant is only of order 4, and would look beyond t + h.
        points = checked_fractions(fractions)
        starts = points[0] == 0.0
        nodes = torch.tensor(points if starts else [0.0, *points], dtype=torch.float64, device=z.device)

        def attempt(z: Tensor, alive: Tensor | None) -> Tensor:  # (Q, *b, B, d)
            values = self._attempt(_WatchedField(field, t, h, u, alive), nodes, z)
            return values if starts else values[1:]

        values = integrate_masked(attempt, z)
        return values.expand(len(points), *z.shape)

    def _attempt(self, watched: _WatchedField, nodes: Tensor, z: Tensor) -> Tensor:
        if len(nodes) == 1:
            return z[None]
        options = {"norm": watched.norm, "step_t": nodes[1:], "max_num_steps": self.max_steps}
        rtol = max(self.rtol, 10 * torch.finfo(z.dtype).eps)
        try:
            values: Tensor = odeint(watched, z, nodes, rtol=rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as failure:
            if watched.error is not None:  # the user's own assertion
                raise
            rows = watched.suspects(str(failure), self.order)
            raise RowsFailedError(torch.ones_like(rows) if self.all_or_none else rows) from None
        return values


class _WatchedField(UnitField):
    """The field as torchdiffeq sees it; it watches states and errors to tell which row made an integration fail."""

    def __init__(self, field: Field, t: Tensor, h: Tensor, u: Tensor, alive: Tensor | None) -> None:
        super().__init__(field, t, h, u, alive)
        self._state: Tensor | None = None  # (*b, B, d)
        self._errors: deque[Tensor] = deque(maxlen=64)  # each (*b, B)

    def callback_step(self, s: Tensor, z: Tensor, length: Tensor) -> None:
        """Called by torchdiffeq before each step."""
        self._state = z

    def norm(self, ratio: Tensor) -> Tensor:
        """Worst row's root mean square. Detached: torchdiffeq must not differentiate its choice of a first step."""
        rows = torch.linalg.vector_norm(ratio.detach(), dim=-1) / math.sqrt(ratio.shape[-1])
        self._errors.append(rows)
        worst = rows.amax()
        return worst if bool(torch.isfinite(worst)) else torch.full_like(worst, _NOT_FINITE)

    def suspects(self, message: str, order: int) -> Tensor:
        """Rows (*b, B) to blame for a failure of torchdiffeq, at least one; its other assertions are raised again."""
        errors = self._errors[-1].nan_to_num(nan=torch.inf)
        if message.startswith(_UNDERFLOW):
            return errors >= errors.amax().clamp(max=1.0)
        if message.startswith(_NONFINITE) and self._state is not None:
            return ~torch.isfinite(self._state.detach()).all(dim=-1)
        if message.startswith(_TOO_MANY):  # a row alone would take steps longer by error**(-1 / order)
            recent = torch.stack(tuple(self._errors)).nan_to_num(nan=1e3).clamp(max=1e3)
            demand = recent.pow(1 / order).mean(dim=0)
            return demand >= 0.5 * demand.amax()
        raise AssertionError(message)
