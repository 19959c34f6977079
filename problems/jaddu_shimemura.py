"""Jaddu-Shimemura problem without its path constraint (A10); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from problems._riccati import LinearQuadratic
from problems.reference import Reference, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    horizon: float = 1.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Regulator with a very cheap control.

    Minimize J = ∫(x1² + x2² + 0.005u²) dt subject to ẋ1 = x2, ẋ2 = −x2 + u, x(t0) = (0, −1), u free, T = 1. The
    optimum comes from the Riccati equation. The small control weight makes plain successive approximations diverge
    violently.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0, −1).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, jaddu-shimemura, case 0.
    """
    x0 = initial_states(initial_state, [0.0, -1.0], dtype)  # (B, 2)
    drift, push = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[0.0], [1.0]])
    one = np.eye(2)
    costs, exact = LinearQuadratic(drift, push, one, 0.005 * one[:1, :1], 0.0 * one).solve(x0, (t0, t0 + horizon))
    a = torch.as_tensor(drift.T.copy(), dtype=dtype)
    b = torch.as_tensor(push[:, 0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ a, u, b)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x.square().sum(-1) + 0.005 * u[..., 0].square()

    return Reference(
        name="jaddu-shimemura",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t0 + horizon), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=exact,
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="danielrherber/dt-qp-project, jaddu-shimemura case 0",
        id="A10",
        group_costs=tuple(costs.tolist()),
    )
