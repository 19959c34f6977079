"""Maximization by a formula of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver._call import call
from ocsolver._shapes import check_shape
from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.base import Maximizer, Maximum, unsupported

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm(Maximizer):
    """Use a known formula for argmax H, evaluated at the start of each interval with the costate at its end.

    It serves MSA (no penalty) on problems with one control per trajectory (G = B). The formula belongs to the
    continuous Hamiltonian, so with RK4 the fixed point differs from the discrete optimum by O(h).

    Parameters
    ----------
    argmax : callable
        ``argmax(t, x, p) -> (*b, m)`` with x, p (*b, B, n) and t broadcasting against ``x[..., 0]``.

    Examples
    --------
    >>> import ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
    ...     initial_state=[1.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Unconstrained(1),
    ... )
    >>> solution = oc.solve(problem, oc.MSA(oc.ClosedForm(lambda t, x, p: p)), max_iterations=30, tolerance=None)
    >>> print(f"{float(solution.cost):.3f}")
    0.381
    """

    argmax: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.argmax):
            todo = "Pass a function argmax(t, x, p) -> (*b, m)."
            raise InputError(complaint("ClosedForm argmax", expected="a callable", got=repr(self.argmax), todo=todo))

    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        if penalty is not None and not penalty.zero:
            todo = "Use oc.MSA(ClosedForm(…)), or another maximizer with EMSA."
            raise unsupported(self, "no penalty (MSA)", "an augmented Hamiltonian (EMSA)", todo)
        K, _, B, n = block.x.shape
        if block.groups != B or block.t is None:
            todo = "Use oc.LBFGS() or oc.ProjectedNewton() for shared controls and networks."
            raise unsupported(self, "one control per trajectory (G = B)", f"G = {block.groups}, B = {B}", todo)
        u = call(self.argmax, "argmax", block.t[:, 0], block.x[:, 0], block.sensitivity[:, 0, :, :n])
        check_shape(u, (K, B, block.current.shape[-1]), what="ClosedForm argmax(t, x, p)", todo="Return (*b, m).")
        u = block.control_set.project(u)
        gain = block.value(u)
        finite = torch.isfinite(gain) & torch.isfinite(u).all(-1)
        return Maximum(torch.where(finite[..., None], u, block.current), torch.where(finite, gain, 0.0), memory)
