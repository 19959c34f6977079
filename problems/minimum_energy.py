"""Double integrator brought to rest with least energy (B01); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems._double_integrator import double_integrator
from problems.reference import Exact, Reference, columns, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    horizon: float = 1.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Double integrator brought to rest with least energy.

    Minimize J = ½∫u² dt subject to ẋ1 = x2, ẋ2 = u, x(t0) = (−1, 0), x(t1) = (0, 0), u free, T = 1. With τ = t − t0:
    u* = p2* = α + βτ, p1* = −β, where α = −(6x1 + 4Tx2)/T² and β = (12x1 + 6Tx2)/T³ at the start; from (−1, 0) in
    unit time u* = 6 − 12t and J* = 6.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (−1, 0).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/CTProblems.jl, double integrator, energy.
    .. [2] control-toolbox/bocop, integrator_2D.
    """
    x0 = initial_states(initial_state, [-1.0, 0.0], dtype)  # (B, 2)
    x1, x2 = x0.double()[:, :1], x0.double()[:, 1:]
    alpha = -(6.0 * x1 + 4.0 * horizon * x2) / horizon**2
    beta = (12.0 * x1 + 6.0 * horizon * x2) / horizon**3

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * u[..., 0].square()

    def control(t: Any) -> Tensor:
        return alpha + beta * (columns(t) - t0)

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        position = x1 + past * (x2 + past * (alpha / 2.0 + beta * past / 6.0))
        return torch.cat((position, x2 + past * (alpha + 0.5 * beta * past)), -1)

    def costate(t: Any) -> Tensor:
        p2 = control(t)
        return torch.cat((-beta.expand_as(p2), p2), -1)

    costs = 0.5 * (alpha**2 * horizon + alpha * beta * horizon**2 + beta**2 * horizon**3 / 3.0)[:, 0]
    return Reference(
        name="minimum-energy",
        problem=oc.OptimalControlProblem(
            double_integrator(dtype),
            running_cost,
            initial_state=x0,
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate, terminal_multiplier=-costate(t0 + horizon)),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "terminal-constraint"}),
        source="control-toolbox/CTProblems.jl, double integrator, energy; control-toolbox/bocop, integrator_2D",
        id="B01",
        group_costs=tuple(costs.tolist()),
    )
