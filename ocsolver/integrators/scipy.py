"""SciPy's initial-value solvers, stiff ones among them, on the flat vector of all rows; no gradient passes through."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, ClassVar, final

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import LinAlgWarning
from torch import Tensor

from ocsolver.integrators._flat import BudgetExhaustedError, FlatSystem
from ocsolver.integrators._rows import RowsFailedError, UnitField, integrate_masked
from ocsolver.integrators.base import Field, Integrator, check_method, check_positive, checked_fractions

_ORDERS = {"RK23": 3, "RK45": 5, "DOP853": 8, "Radau": 5, "BDF": 5, "LSODA": 12}
_EXPLICIT = ("RK23", "RK45", "DOP853")


@final
@dataclass(frozen=True)
class SolveIVP(Integrator):
    """Adaptive methods of `scipy.integrate.solve_ivp`; Radau, BDF and LSODA are the ones for stiff problems.

    The error is controlled by the worst row: SciPy's norm is a root mean square over all rows, so the tolerances are
    divided by the square root of their number (not for LSODA, whose norm is a maximum). All rows share the steps. A row
    that blows up costs one more integration of the others. The stiff methods get their Jacobian, block diagonal over
    rows, by automatic differentiation of the field, evaluated on a new leading axis of length d.

    The computation is in float64, but for the field, which sees tensors of z's dtype and device. The result is detached
    from the graph of z, u and the field.

    Parameters
    ----------
    method : {"RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"}
        Explicit Runge-Kutta methods of orders 3, 5 and 8; implicit Runge-Kutta of order 5; multistep up to order 5;
        multistep that switches between Adams (up to order 12) and BDF.
    rtol, atol : float
        Relative and absolute tolerance of a local step; each row's error, a root mean square over its components, is
        kept below one in the scale atol + rtol * abs(z). rtol is raised to what rounding permits where it is below.
    max_evaluations : int
        Evaluations of the field in one interval before the rows that need the smallest steps are given up.

    Raises
    ------
    InputError
        If `method` is unknown or a number is not positive.

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       sections II.4 and II.5.
    .. [2] E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer 1996, sections IV.8 and
       V.1.

    Examples
    --------
    >>> import torch
    >>> t, h = torch.zeros(()).double(), torch.ones(()).double()
    >>> z, u = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    >>> z1 = SolveIVP("Radau", rtol=1e-9).step(lambda t, z, u: -1e4 * (z - torch.cos(t)), t, h, z, u)
    >>> bool(abs(z1 - torch.cos(h)) < 1e-3)
    True
    """

    method: str = "DOP853"
    rtol: float = 1e-8
    atol: float = 1e-10
    max_evaluations: int = dataclass_field(default=100_000, kw_only=True)

    differentiable: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_method(self.method, tuple(_ORDERS))
        for name in ("rtol", "atol", "max_evaluations"):
            check_positive(name, getattr(self, name))

    @property
    def order(self) -> int:
        """Order of the method's step; of a multistep method, the highest that it uses."""
        return _ORDERS[self.method]

    def step(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return self.dense(field, t, h, z, u, (1.0,))[-1]

    def dense(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor, fractions: Sequence[float]) -> Tensor:
        # By the method's own interpolant.
        points = checked_fractions(fractions)
        t, h, u = t.detach(), h.detach(), u.detach()

        def attempt(z: Tensor, alive: Tensor | None) -> Tensor:  # (Q, *b, B, d)
            system = FlatSystem(UnitField(field, t, h, u, alive), z, self.max_evaluations, self.method in _EXPLICIT)
            flat = self._solve(system, z.reshape(-1).double().cpu().numpy(), points)
            values = torch.from_numpy(flat.T.copy()).to(z).reshape(len(points), *z.shape)
            if points[0] == 0.0:
                values[0] = z  # an interpolant may miss it by rounding
            return values

        with torch.no_grad():
            return integrate_masked(attempt, z.detach()).expand(len(points), *z.shape)

    def _solve(self, system: FlatSystem, start: np.ndarray[Any, Any], points: list[float]) -> np.ndarray[Any, Any]:
        """Solve on [0, 1]; gives (n, Q), or RowsFailedError. SciPy's failures are translated here and nowhere else."""
        shrink = 1.0 if self.method == "LSODA" else math.sqrt(system.rows)
        options: dict[str, Any] = {
            "method": self.method,
            "rtol": max(self.rtol / shrink, system.rounding),
            "atol": self.atol / shrink,
            # The last step ends at 1 exactly, so that asking for 1 alone needs no interpolant.
            "t_eval": None if points == [1.0] else points,
            **self._jacobian(system),
        }
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.filterwarnings("ignore", message="lsoda: ")
                warnings.filterwarnings("ignore", category=LinAlgWarning)
                result = solve_ivp(system.slope, (0.0, 1.0), start, **options)
        except BudgetExhaustedError:
            raise RowsFailedError(system.suspects()) from None
        except RuntimeError as failure:
            if system.error is not None or "singular" not in str(failure):
                raise
            raise RowsFailedError(system.suspects()) from None
        if system.error is not None:  # a compiled solver may swallow what the field raised
            raise system.error
        if result.status != 0:
            raise RowsFailedError(system.suspects())
        values: np.ndarray[Any, Any] = result.y
        return values[:, -1:] if options["t_eval"] is None else values

    def _jacobian(self, system: FlatSystem) -> dict[str, Any]:
        if self.method in ("Radau", "BDF"):
            return {"jac": system.dense_jacobian if system.rows == 1 else system.sparse_jacobian}
        if self.method == "LSODA" and system.rows == 1:
            return {"jac": system.dense_jacobian}
        if self.method == "LSODA":
            return {"jac": system.banded_jacobian, "lband": system.size - 1, "uband": system.size - 1}
        return {}
