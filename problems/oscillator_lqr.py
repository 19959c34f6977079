"""Harmonic oscillator regulator (A08); statement, optimum and nothing about solving it."""

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
    horizon: float = 5.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Regulator of a harmonic oscillator.

    Minimize J = ½∫(x1² + x2² + u²) dt subject to ẋ1 = x2, ẋ2 = −x1 + u, x(t0) = (0, 1), u free, T = 5. The optimum
    comes from the Riccati equation; (1, 0) is another published initial state.

    Parameters
    ----------
    horizon : float, default 5.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0, 1).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/CTProblems.jl, lqr_ricatti.jl.
    """
    x0 = initial_states(initial_state, [0.0, 1.0], dtype)  # (B, 2)
    rotation, push = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[0.0], [1.0]])
    half = 0.5 * np.eye(2)
    costs, exact = LinearQuadratic(rotation, push, half, half[:1, :1], 0.0 * half).solve(x0, (t0, t0 + horizon))
    a = torch.as_tensor(rotation.T.copy(), dtype=dtype)
    b = torch.as_tensor(push[:, 0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ a, u, b)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return 0.5 * (x1.square() + x2.square() + u[..., 0].square())

    return Reference(
        name="oscillator-lqr",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t0 + horizon), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=exact,
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="control-toolbox/CTProblems.jl, lqr_ricatti.jl",
        id="A08",
        group_costs=tuple(costs.tolist()),
    )
