"""Double integrator brought to rest in least time (B02); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems._double_integrator import double_integrator
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    distance: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Double integrator brought to rest in least time.

    Minimize J = T subject to ẋ1 = x2, ẋ2 = u, x(t0) = (−d, 0), x(t0 + T) = (0, 0), −1 ≤ u ≤ 1, d = 1. The control
    accelerates fully for half the time and brakes fully for the other half: J* = T* = 2√d, and with the switch s = √d
    after the start p1* = 1/s, p2* = (s − t + t0)/s.

    Parameters
    ----------
    distance : float, default 1.0
        Distance d > 0 to go.
    t0 : float, default 0.0
        Initial time.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/CTProblems.jl, double integrator, time.
    .. [2] PSOPT/psopt, tests/test_maximum_principle.cpp.
    """
    if distance <= 0.0:
        raise ValueError(f"distance: expected a positive number, got {distance:g}.")
    half = math.sqrt(distance)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(x[..., 0])

    def control(t: Any) -> Tensor:
        return torch.where(columns(t) - t0 < half, 1.0, -1.0).double()

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        since = (past - half).clamp_min(0.0)
        return torch.cat((0.5 * past.square() - since.square() - distance, past - 2.0 * since), -1)

    def costate(t: Any) -> Tensor:
        p2 = 1.0 - (columns(t) - t0) / half
        return torch.cat((torch.full_like(p2, 1.0 / half), p2), -1)

    return Reference(
        name="minimum-time",
        problem=oc.OptimalControlProblem(
            double_integrator(dtype),
            running_cost,
            initial_state=torch.tensor([[-distance, 0.0]], dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Box(-1.0, 1.0),
            terminal_constraint=oc.Constraint(lambda x: x),
        ),
        cost=2.0 * half,
        exact=Exact(
            control,
            state,
            costate,
            switches=(t0 + half,),
            final_time=t0 + 2.0 * half,
            terminal_multiplier=-costate(t0 + 2.0 * half),
        ),
        tags=frozenset({"bang-bang", "closed-form", "terminal-constraint", "free-time"}),
        source="control-toolbox/CTProblems.jl, double integrator, time; PSOPT/psopt, tests/test_maximum_principle.cpp",
        id="B02",
    )
