"""Double integrator brought to rest with least fuel (B03); statement, optimum and nothing about solving it."""

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
    bound: float = 5.0,
    horizon: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Double integrator brought to rest with least fuel.

    Minimize J = ∫|u| dt subject to ẋ1 = x2, ẋ2 = u, x(t0) = (−1, 0), x(t1) = (0, 0), −b ≤ u ≤ b, b = 5, T = 1. Full
    thrust for τ = ½(T − √(T² − 4/b)), then coasting, then full braking for τ: J* = 2bτ, and p1* = 2/(T − 2τ),
    p2* = p1*(½T − t + t0), which is 1 and −1 at the switches.

    Parameters
    ----------
    bound : float, default 5.0
        Largest thrust b > 4/T².
    horizon : float, default 1.0
        Length T of the time interval.
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
    .. [1] control-toolbox/CTProblems.jl, double integrator, consumption.
    """
    if bound * horizon**2 <= 4.0:
        raise ValueError(f"bound: expected more than 4/T² = {4.0 / horizon**2:g}, got {bound:g}.")
    coasting = math.sqrt(horizon**2 - 4.0 / bound)
    burn = 0.5 * (horizon - coasting)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u[..., 0].abs()

    def control(t: Any) -> Tensor:
        past = columns(t) - t0
        return bound * ((past < burn).double() - (past >= burn + coasting).double())

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        parts = (past, (past - burn).clamp_min(0.0), (past - burn - coasting).clamp_min(0.0))
        weights = (1.0, -1.0, -1.0)
        position = sum(0.5 * bound * w * part.square() for w, part in zip(weights, parts, strict=True)) - 1.0
        velocity = sum(bound * w * part for w, part in zip(weights, parts, strict=True))
        return torch.cat((torch.as_tensor(position), torch.as_tensor(velocity)), -1)

    def costate(t: Any) -> Tensor:
        p2 = (horizon - 2.0 * (columns(t) - t0)) / coasting
        return torch.cat((torch.full_like(p2, 2.0 / coasting), p2), -1)

    return Reference(
        name="minimum-fuel",
        problem=oc.OptimalControlProblem(
            double_integrator(dtype),
            running_cost,
            initial_state=torch.tensor([[-1.0, 0.0]], dtype=dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box(-bound, bound),
            terminal_constraint=oc.Constraint(lambda x: x),
        ),
        cost=2.0 * bound * burn,
        exact=Exact(
            control,
            state,
            costate,
            switches=(t0 + burn, t0 + burn + coasting),
            terminal_multiplier=-costate(t0 + horizon),
        ),
        tags=frozenset({"bang-bang", "non-smooth", "closed-form", "terminal-constraint"}),
        source="control-toolbox/CTProblems.jl, double integrator, consumption",
        id="B03",
    )
