"""Aly-Chan totally singular problem (A34); statement, optimum and nothing about solving it."""

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
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Totally singular problem: the Hamiltonian never depends on the control along the optimum.

    Minimize J = ∫(x2² − x1²) dt subject to ẋ1 = x2, ẋ2 = u, x(t0) = (0, 1), −1 ≤ u ≤ 1, T = π/2. With
    τ = t − t0: u* = −sin τ, x* = (sin τ, cos τ), p* = (2cos τ, 0), J* = 0.

    Parameters
    ----------
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
    .. [1] ICLOCS2, Aly Chan.
    .. [2] Rapid-Design-of-Systems-Laboratory/beluga, AlyChan.
    """
    shift = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=dtype)
    push = torch.tensor([0.0, 1.0], dtype=dtype)
    weight = torch.tensor([-1.0, 1.0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ shift, u, push)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (weight * x.square()).sum(-1)

    def control(t: Any) -> Tensor:
        return -torch.sin(columns(t) - t0)

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        return torch.cat((torch.sin(past), torch.cos(past)), -1)

    def costate(t: Any) -> Tensor:
        p1 = 2.0 * torch.cos(columns(t) - t0)
        return torch.cat((p1, torch.zeros_like(p1)), -1)

    return Reference(
        name="aly-chan",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.tensor([[0.0, 1.0]], dtype=dtype),
            horizon=(t0, t0 + 0.5 * math.pi),
            control_set=oc.Box(-1.0, 1.0),
        ),
        cost=0.0,
        exact=Exact(control, state, costate),
        tags=frozenset({"singular", "closed-form"}),
        source="ICLOCS2, Aly Chan; Rapid-Design-of-Systems-Laboratory/beluga, AlyChan",
        id="A34",
    )
