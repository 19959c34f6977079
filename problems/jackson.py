"""Jackson's reactor with a singular arc (A24); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    horizon: float = 4.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Largest yield over a blend of two catalysts, with a singular arc.

    Maximize c(t1) subject to ȧ = −u(k1a − k2b), ḃ = u(k1a − k2b) − (1 − u)k3b, ċ = (1 − u)k3b, k = (1, 10, 1),
    (a, b, c)(t0) = (1, 0, 0), 0 ≤ u ≤ 1, T = 4. The largest c(t1) is 0.191815; the optimal control has a singular arc.

    Parameters
    ----------
    horizon : float, default 4.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (3,) or (B, 3), optional
        One or several initial states; default (1, 0, 0).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem as a minimization of −c(t1), with its cost.

    References
    ----------
    .. [1] control-toolbox/bocop, jackson_basic.
    .. [2] control-toolbox/CTDirect.jl, jackson.jl.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, _ = x.unbind(-1)
        blend = u[..., 0]
        first = blend * (a - 10.0 * b)
        second = b - blend * b
        return torch.stack((-first, first - second, second), -1)

    def terminal_cost(x: Tensor) -> Tensor:
        return -x[..., 2]

    return Reference(
        name="jackson",
        problem=oc.OptimalControlProblem(
            dynamics,
            None,
            terminal_cost,
            initial_state=initial_states(initial_state, [1.0, 0.0, 0.0], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box(0.0, 1.0),
        ),
        cost=published(-0.191815, unchanged=initial_state is None and horizon == 4.0),
        exact=None,
        tags=frozenset({"maximization", "bang-bang", "singular"}),
        source="control-toolbox/bocop, jackson_basic; control-toolbox/CTDirect.jl, jackson.jl",
        id="A24",
    )
