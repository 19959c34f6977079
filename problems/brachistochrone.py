"""Curve of fastest descent (B14); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    target: tuple[float, float] = (2.0, 2.0),
    gravity: float = 9.8,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Curve of fastest descent, y pointing down.

    Minimize J = T subject to ẋ = v sin θ, ẏ = v cos θ, v̇ = g cos θ from rest at the origin to (x, y)(t0 + T) = (2, 2),
    v free, 0 ≤ θ ≤ π, g = 9.8. The optimum is a cycloid: with ω = √(g/r), τ = t − t0 and φ = ωτ, x = r(φ − sin φ),
    y = r(1 − cos φ), v = 2√(gr) sin ½φ, θ* = ½φ. The last angle solves (φ − sin φ)/(1 − cos φ) = x(t1)/y(t1) and
    J* = φ/ω. With P = 1/(2√(gr)) the costates are px = P, py = P cot ½φ(t1), pv = (cos θ − v py)/g.

    Parameters
    ----------
    target : (float, float), default (2.0, 2.0)
        Final position, both coordinates positive.
    gravity : float, default 9.8
        Acceleration g > 0.
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
    .. [1] PSOPT/psopt, brac1.
    """
    X, Y = target
    if min(X, Y, gravity) <= 0.0:
        raise ValueError(f"target and gravity: expected positive numbers, got {target} and {gravity:g}.")

    def excess(angle: float) -> float:
        return Y * (angle - math.sin(angle)) - X * (1.0 - math.cos(angle))

    last = float(brentq(excess, 1e-3 * min(1.0, X / Y), 2.0 * math.pi, xtol=1e-15, rtol=1e-15))
    radius = Y / (1.0 - math.cos(last))
    omega, speed = math.sqrt(gravity / radius), 2.0 * math.sqrt(gravity * radius)
    duration, px, py = last / omega, 1.0 / speed, 1.0 / (speed * math.tan(0.5 * last))

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        v, sin, cos = x[..., 2], torch.sin(u[..., 0]), torch.cos(u[..., 0])
        return torch.stack((v * sin, v * cos, gravity * cos), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(x[..., 0])

    def control(t: Any) -> Tensor:
        return 0.5 * omega * (columns(t) - t0)

    def state(t: Any) -> Tensor:
        angle = omega * (columns(t) - t0)
        x, y = radius * (angle - torch.sin(angle)), radius * (1.0 - torch.cos(angle))
        return torch.cat((x, y, speed * torch.sin(0.5 * angle)), -1)

    def costate(t: Any) -> Tensor:
        theta = control(t)
        pv = (torch.cos(theta) - speed * py * torch.sin(theta)) / gravity
        return torch.cat((torch.full_like(pv, px), torch.full_like(pv, py), pv), -1)

    return Reference(
        name="brachistochrone",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.zeros(1, 3, dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Box(0.0, math.pi),
            terminal_constraint=oc.Constraint(lambda x: x[..., :2], target, target),
        ),
        cost=duration,
        exact=Exact(
            control,
            state,
            costate,
            final_time=t0 + duration,
            terminal_multiplier=torch.tensor([[-px, -py]], dtype=torch.float64),
        ),
        tags=frozenset({"smooth", "closed-form", "terminal-constraint", "free-time"}),
        source="PSOPT/psopt, brac1",
        id="B14",
    )
