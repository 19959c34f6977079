"""Regulator whose time also costs (B10); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    end: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Regulator whose time also costs.

    Minimize J = T + ½∫(x² + u²) dt subject to ẋ = u, x(t0) = 0, x(t0 + T) = a, u free, a = 1. The Hamiltonian vanishes,
    so u² = x² + 2: x* = √2 sinh τ, u* = p* = √2 cosh τ with τ = t − t0, T* = arsinh(a/√2), J* = ½a√(a² + 2) + T*.

    Parameters
    ----------
    end : float, default 1.0
        Final state a > 0.
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
    .. [1] control-toolbox/CTProblems.jl, integrator with free time; derivation by hand.
    """
    if end <= 0.0:
        raise ValueError(f"end: expected a positive number, got {end:g}.")
    root = math.sqrt(2.0)
    duration = math.asinh(end / root)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 1.0 + 0.5 * (x.square() + u.square())[..., 0]

    def state(t: Any) -> Tensor:
        return root * torch.sinh(columns(t) - t0)

    def costate(t: Any) -> Tensor:
        return root * torch.cosh(columns(t) - t0)

    return Reference(
        name="free-time-regulator",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.zeros(1, 1, dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x, end, end),
        ),
        cost=0.5 * end * math.sqrt(end * end + 2.0) + duration,
        exact=Exact(
            costate,
            state,
            costate,
            final_time=t0 + duration,
            terminal_multiplier=-costate(t0 + duration),
        ),
        tags=frozenset({"smooth", "closed-form", "terminal-constraint", "free-time"}),
        source="control-toolbox/CTProblems.jl, integrator with free time",
        id="B10",
    )
