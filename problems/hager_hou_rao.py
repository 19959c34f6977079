"""Hager-Hou-Rao nonlinear problem (A13); statement, optimum and nothing about solving it."""

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
    """Nonlinear problem with two controls that hides two scalar regulators.

    Minimize J = ∫(2y1²y2² + 1.25/y2² + u2/y2 + u1² + u2²) dt subject to ẏ1 = y1 + u1/y2 + y1y2u2,
    ẏ2 = −y2(½ + y2u2), y(t0) = (1, 1), u free, T = 1. With w = y1y2 and v = 1/y2 it separates into
    ẇ = w/2 + u1 with ∫(2w² + u1²) dt, and v̇ = v/2 + u2 with ∫(1.25v² + u2v + u2²) dt. With s = t1 − t the value
    function is P w² + tanh(s) v², P = 2(1 − e^{−3s})/(1 + 2e^{−3s}). Keep y2 positive.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (1, 1).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, hager-hou-rao-1.
    .. [2] W. W. Hager, H. Hou, A. V. Rao, "Convergence rate for a Gauss collocation method applied to unconstrained
       optimal control", J. Optim. Theory Appl. 169 (2016).
    """
    x0 = initial_states(initial_state, [1.0, 1.0], dtype)  # (B, 2)
    start, t1 = x0.double(), t0 + horizon
    w0, v0 = start[:, :1] * start[:, 1:], 1.0 / start[:, 1:]  # (B, 1)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        y1, y2 = x.unbind(-1)
        u1, u2 = u.unbind(-1)
        turn = y2 * u2
        return torch.stack((y1 + u1 / y2 + y1 * turn, -y2 * (0.5 + turn)), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        y1, y2 = x.unbind(-1)
        v = 1.0 / y2
        return 2.0 * (y1 * y2).square() + v * (1.25 * v + u[..., 1]) + u.square().sum(-1)

    def separated(t: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """P, w, tanh s and v, each (*T, B, 1) or (*T, 1, 1)."""
        left = t1 - columns(t)
        decay = torch.exp(-3.0 * left)
        mode, full = torch.exp(1.5 * left) + 2.0 * torch.exp(-1.5 * left), math.exp(1.5 * horizon)
        w = w0 * mode / (full + 2.0 / full)
        return (
            2.0 * (1.0 - decay) / (1.0 + 2.0 * decay),
            w,
            torch.tanh(left),
            v0 * torch.cosh(left) / math.cosh(horizon),
        )

    def control(t: Any) -> Tensor:
        weight, w, tanh, v = separated(t)
        return torch.cat((-weight * w, -(tanh + 0.5) * v), -1)

    def state(t: Any) -> Tensor:
        _, w, _, v = separated(t)
        return torch.cat((w * v, 1.0 / v), -1)

    def costate(t: Any) -> Tensor:
        weight, w, tanh, v = separated(t)
        return torch.cat((-2.0 * weight * w / v, 2.0 * (tanh * v**3 - weight * w.square() * v)), -1)

    decay = math.exp(-3.0 * horizon)
    costs = 2.0 * (1.0 - decay) / (1.0 + 2.0 * decay) * w0[:, 0].square() + math.tanh(horizon) * v0[:, 0].square()
    return Reference(
        name="hager-hou-rao",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Unconstrained(2)
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate),
        tags=frozenset({"smooth", "closed-form"}),
        source="danielrherber/dt-qp-project, hager-hou-rao-1",
        id="A13",
        group_costs=tuple(costs.tolist()),
    )
