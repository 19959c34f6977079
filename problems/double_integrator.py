"""Double integrator, distance against energy (A06); statement, optimum and nothing about solving it."""

from __future__ import annotations

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
    """Double integrator that trades distance for energy.

    Minimize J = −½x1(t1) + ½∫u² dt subject to ẋ1 = x2, ẋ2 = u, x(t0) = (0, 0), u free, T = 1. With s = t1 − t:
    u* = s/2, p* = (½, s/2), J* = −T³/24 − ½(x1 + T x2)(t0). The costate does not depend on the state, so the method
    of successive approximations is exact after one sweep.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0, 0).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/CTProblems.jl, double_integrator_energy_distance.jl.
    """
    x0 = initial_states(initial_state, [0.0, 0.0], dtype)  # (B, 2)
    start, t1 = x0.double(), t0 + horizon
    shift = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=dtype)
    push = torch.tensor([0.0, 1.0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ shift, u, push)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * u[..., 0].square()

    def terminal_cost(x: Tensor) -> Tensor:
        return -0.5 * x[..., 0]

    def control(t: Any) -> Tensor:
        return 0.5 * (t1 - columns(t)) + torch.zeros_like(start[:, :1])

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        velocity = start[:, 1:] + 0.25 * past * (2.0 * horizon - past)
        position = start[:, :1] + past * start[:, 1:] + past.square() * (3.0 * horizon - past) / 12.0
        return torch.cat((position, velocity), -1)

    def costate(t: Any) -> Tensor:
        p2 = control(t)
        return torch.cat((torch.full_like(p2, 0.5), p2), -1)

    costs = -(horizon**3) / 24.0 - 0.5 * (start[:, 0] + horizon * start[:, 1])
    return Reference(
        name="double-integrator",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            terminal_cost,
            initial_state=x0,
            horizon=(t0, t1),
            control_set=oc.Unconstrained(1),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="control-toolbox/CTProblems.jl, double_integrator_energy_distance.jl",
        id="A06",
        group_costs=tuple(costs.tolist()),
    )
