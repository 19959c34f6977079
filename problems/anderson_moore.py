"""Anderson-Moore regulator with time-varying weights (A04); statement, optimum and nothing about solving it."""

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
    horizon: float = 10.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Scalar regulator with a discounted cost, Anderson and Moore, page 64.

    Minimize J = ∫e^{−t}(2u² + ½x²) dt subject to ẋ = x/2 + u, x(t0) = 5, u free, T = 10. With y = e^{−t/2}x and
    v = e^{−t/2}u it is ẏ = v, J = ∫(2v² + ½y²) dt, hence J* = y0² tanh(T/2) and, with s = t1 − t,
    y* = y0 cosh(s/2) / cosh(T/2), v* = −½y0 sinh(s/2) / cosh(T/2), p* = 4e^{−t}u*.

    Parameters
    ----------
    horizon : float, default 10.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 5.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, anderson-moore-64.
    .. [2] B. D. O. Anderson, J. B. Moore, Optimal Control: Linear Quadratic Methods (1990), p. 64.
    """
    x0 = initial_states(initial_state, [5.0], dtype)  # (B, 1)
    start, t1 = math.exp(-0.5 * t0) * x0.double(), t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * x + u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.exp(-t) * (2.0 * u.square() + 0.5 * x.square())[..., 0]

    def state(t: Any) -> Tensor:
        now = columns(t)
        return start * torch.exp(0.5 * now) * torch.cosh(0.5 * (t1 - now)) / math.cosh(0.5 * horizon)

    def control(t: Any) -> Tensor:
        now = columns(t)
        return -0.5 * start * torch.exp(0.5 * now) * torch.sinh(0.5 * (t1 - now)) / math.cosh(0.5 * horizon)

    def costate(t: Any) -> Tensor:
        return 4.0 * torch.exp(-columns(t)) * control(t)

    costs = math.tanh(0.5 * horizon) * start[:, 0].square()
    return Reference(
        name="anderson-moore",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="danielrherber/dt-qp-project, anderson-moore-64",
        id="A04",
        group_costs=tuple(costs.tolist()),
    )
