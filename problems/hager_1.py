"""Hager's first problem (A02); statement, optimum and nothing about solving it."""

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
    """Scalar regulator with a cross term, Hager's test of Runge-Kutta discretizations.

    Minimize J = ∫(u² + xu + 1.25x²) dt subject to ẋ = x/2 + u, x(t0) = 1, u free, T = 1. With v = u + x/2 it is
    ẋ = v, J = ∫(v² + x²) dt, hence J* = x0² tanh T and, with s = t1 − t, x* = x0 cosh s / cosh T,
    v* = −x0 sinh s / cosh T, p* = 2v*.

    Parameters
    ----------
    horizon : float, default 1.0
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
    .. [1] danielrherber/dt-qp-project, linear-quadratic/hager-1.
    .. [2] W. W. Hager, "Runge-Kutta methods in optimal control and the transformed adjoint system", Numer. Math. 87
       (2000).
    """
    x0 = initial_states(initial_state, [1.0], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * x + u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (u * (u + x) + 1.25 * x.square())[..., 0]

    def state(t: Any) -> Tensor:
        return start * torch.cosh(t1 - columns(t)) / math.cosh(horizon)

    def costate(t: Any) -> Tensor:
        return -2.0 * start * torch.sinh(t1 - columns(t)) / math.cosh(horizon)

    def control(t: Any) -> Tensor:
        return 0.5 * (costate(t) - state(t))

    costs = math.tanh(horizon) * start[:, 0].square()
    return Reference(
        name="hager-1",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="danielrherber/dt-qp-project, linear-quadratic/hager-1",
        id="A02",
        group_costs=tuple(costs.tolist()),
    )
