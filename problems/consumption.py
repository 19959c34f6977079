"""Consumption and investment (A38); statement, optimum and nothing about solving it."""

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
    horizon: float = 1.5,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Invest first, consume last.

    Maximize ∫(1 − u)x dt subject to ẋ = xu, x(t0) = 1, 0 ≤ u ≤ 1, T = 1.5. With s = t1 − t: u* = 1 while s > 1 and 0
    after, p* = e^{s − 1} while s > 1 and s after. For positive x0 the largest integral is x0 e^{T − 1}, or x0 T where
    T ≤ 1.

    Parameters
    ----------
    horizon : float, default 1.5
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
        The problem as a minimization of −∫(1 − u)x dt, with its cost.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, optimal-consumption.
    .. [2] L. C. Evans, An Introduction to Mathematical Optimal Control Theory.
    """
    x0 = initial_states(initial_state, [1.0], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon
    invest = max(horizon - 1.0, 0.0)  # length of the first arc

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x * u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return ((u - 1.0) * x)[..., 0]

    def control(t: Any) -> Tensor:
        return torch.where(t1 - columns(t) > 1.0, 1.0, 0.0) + torch.zeros_like(start)

    def state(t: Any) -> Tensor:
        return start * torch.exp((columns(t) - t0).clamp(max=invest))

    def costate(t: Any) -> Tensor:
        left = t1 - columns(t)
        return torch.where(left > 1.0, torch.exp(left - 1.0), left) + torch.zeros_like(start)

    costs = -start[:, 0] * math.exp(invest) * min(horizon, 1.0)
    return Reference(
        name="consumption",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Box(0.0, 1.0)
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate, (t1 - 1.0,) if invest > 0.0 else ()),
        tags=frozenset({"maximization", "bang-bang", "closed-form"}),
        source="danielrherber/dt-qp-project, optimal-consumption",
        id="A38",
        group_costs=tuple(costs.tolist()),
    )
