"""Constraint on state and control together (B12); statement, optimum and nothing about solving it."""

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
    horizon: float = 1.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Integrator that may not push harder than it is far from zero.

    Minimize J = −∫u dt subject to ẋ = u, x(t0) = −1, u ≥ 0, x + u ≤ 0, T = 1; the end is free. The constraint always
    acts: with τ = t − t0 and s = t1 − t, u* = −x*, x* = x0e^{−τ}, p* = e^{−s} − 1, the multiplier is e^{−s}, and
    J* = x0(1 − e^{−T}).

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several negative initial states; default −1.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/CTProblems.jl, integrator with a mixed constraint.
    """
    x0 = initial_states(initial_state, [-1.0], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return -u[..., 0]

    def state(t: Any) -> Tensor:
        return start * torch.exp(t0 - columns(t))

    def control(t: Any) -> Tensor:
        return -state(t)

    def costate(t: Any) -> Tensor:
        return torch.expm1(columns(t) - t1) + torch.zeros_like(start)

    def multiplier(t: Any) -> Tensor:
        return 1.0 + costate(t)

    costs = -start[:, 0] * math.expm1(-horizon)
    return Reference(
        name="mixed-constraint",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=x0,
            horizon=(t0, t1),
            control_set=oc.Box(0.0, torch.inf),
            path_constraint=oc.Constraint(lambda t, x, u: x + u, -torch.inf, 0.0),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate, path_multiplier=multiplier),
        tags=frozenset({"smooth", "closed-form", "path-constraint"}),
        source="control-toolbox/CTProblems.jl, integrator with a mixed constraint",
        id="B12",
        group_costs=tuple(costs.tolist()),
    )
