"""Scalar regulator with a fixed end (B35); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    end: float = 0.5,
    horizon: float = 2.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Scalar regulator with a fixed end.

    Minimize J = ½∫(x² + u²) dt subject to ẋ = u, x(t0) = 1, x(t1) = ½, u free, T = 2. With τ = t − t0, s = t1 − t:
    x* = (x0 sinh s + x1 sinh τ)/sinh T, u* = p* = (x1 cosh τ − x0 cosh s)/sinh T,
    J* = ((x0² + x1²) cosh T − 2x0x1)/(2 sinh T).

    Parameters
    ----------
    end : float, default 0.5
        Final state x1.
    horizon : float, default 2.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 1.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] PSOPT/psopt, lqr_gauss.
    """
    x0 = initial_states(initial_state, [1.0], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon
    sinh, cosh = math.sinh(horizon), math.cosh(horizon)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() + u.square())[..., 0]

    def control(t: Any) -> Tensor:
        return (end * torch.cosh(columns(t) - t0) - start * torch.cosh(t1 - columns(t))) / sinh

    def state(t: Any) -> Tensor:
        return (end * torch.sinh(columns(t) - t0) + start * torch.sinh(t1 - columns(t))) / sinh

    costs = ((start.square() + end**2) * cosh - 2.0 * end * start)[:, 0] / (2.0 * sinh)
    return Reference(
        name="scalar-lqr-terminal",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=x0,
            horizon=(t0, t1),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x, end, end),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, control, terminal_multiplier=-control(t1)),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "terminal-constraint"}),
        source="PSOPT/psopt, lqr_gauss",
        id="B35",
        group_costs=tuple(costs.tolist()),
    )
