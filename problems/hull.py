"""Hull's problem (A05); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    horizon: float = 5.0,
    weight: float = 5.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Energy against a quadratic terminal cost; the optimal control is constant.

    Minimize J = (c/2)x(t1)² + ½∫u² dt subject to ẋ = u, x(t0) = 1.5, u free, c = 5, T = 5. u* = p* = −c x0/(1 + cT),
    J* = c x0²/(2(1 + cT)).

    The error of the plain method of successive approximations is multiplied by −cT in each iteration; a penalty ρ
    converges iff ρ > (cT − 1)/2 and a relaxation ω iff ω < 2/(1 + cT).

    Parameters
    ----------
    horizon : float, default 5.0
        Length T of the time interval.
    weight : float, default 5.0
        Weight c of the terminal cost.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 1.5.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] OpenMDAO/dymos, examples/hull_problem.
    """
    x0 = initial_states(initial_state, [1.5], dtype)  # (B, 1)
    start = x0.double()
    rate = -weight / (1.0 + weight * horizon) * start

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * u[..., 0].square()

    def terminal_cost(x: Tensor) -> Tensor:
        return (0.5 * weight) * x[..., 0].square()

    def control(t: Any) -> Tensor:
        return rate + torch.zeros_like(columns(t))

    def state(t: Any) -> Tensor:
        return start + (columns(t) - t0) * rate

    costs = 0.5 * weight / (1.0 + weight * horizon) * start[:, 0].square()
    return Reference(
        name="hull",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            terminal_cost,
            initial_state=x0,
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, control),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="OpenMDAO/dymos, examples/hull_problem",
        id="A05",
        group_costs=tuple(costs.tolist()),
    )
