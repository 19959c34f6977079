"""Neural ODE with shared weights on XOR (A45); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build", "xor"]


def xor() -> tuple[Tensor, Tensor]:
    """Features aᵢ (B, m) and labels yᵢ (B,) of the four samples."""
    samples = torch.tensor([-2.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    labels = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    features = torch.stack(
        (torch.ones_like(samples), torch.tanh(2.0 * (samples + 1.0)), torch.tanh(2.0 * (samples - 1.0))), -1
    )
    return features, labels


def build(
    *,
    mu: float = 1.0,
    horizon: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Linear neural ODE that learns XOR softly: four trajectories, one control.

    Minimize J = ∫‖c‖² dt + μ Σᵢ(zᵢ(t1) − yᵢ)² subject to żᵢ = aᵢ·c − 0.4zᵢ, zᵢ(t0) = 0, with
    aᵢ = (1, tanh 2(sᵢ + 1), tanh 2(sᵢ − 1)), s = (−2, 0, 0, 2), y = (−1, 1, 1, −1), c(t) ∈ ℝ³ free, T = 1.

    The library minimizes the mean over the trajectories of a group, so each of the four pays the running cost ‖c‖² and
    the terminal cost 4μ(zᵢ − yᵢ)²; the mean is J. With K = (1 − e^{−0.8T})/0.8 and q = (I/K + μAᵀA)⁻¹μAᵀy:
    J* = ‖q‖²/K + μ‖Aq − y‖² and c*(t) = q e^{−0.4(t1 − t)}/K. Costates are those of one trajectory's own cost.

    Parameters
    ----------
    mu : float, default 1.0
        Weight μ of the labels.
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
    .. [1] zouyilin2000/pockit, neural_ode_xor.py, with a penalty in place of the margins.
    """
    features, labels = xor()
    t1 = t0 + horizon
    gramian = (1.0 - math.exp(-0.8 * horizon)) / 0.8
    normal = torch.eye(3, dtype=torch.float64) / gramian + mu * features.T @ features
    q: Tensor = torch.linalg.solve(normal, mu * features.T @ labels)
    a, y = features.to(dtype), labels.to(dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (a * u).sum(-1, keepdim=True) - 0.4 * x

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u.square().sum(-1)

    def terminal_cost(x: Tensor) -> Tensor:
        return (4.0 * mu) * (x[..., 0] - y).square()

    def control(t: Any) -> Tensor:
        return torch.exp(-0.4 * (t1 - columns(t))) * q / gramian

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        grown = torch.exp(-0.4 * (horizon - past)) * -torch.expm1(-0.8 * past) / 0.8
        return grown / gramian * (features @ q)[:, None]

    def costate(t: Any) -> Tensor:
        return -8.0 * mu * torch.exp(-0.4 * (t1 - columns(t))) * (features @ q - labels)[:, None]

    return Reference(
        name="neural-ode-xor",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            terminal_cost,
            initial_state=torch.zeros(4, 1, dtype=dtype),
            horizon=(t0, t1),
            control_set=oc.Unconstrained(3),
            shared_control=True,
        ),
        cost=float(q @ q / gramian + mu * (features @ q - labels).square().sum()),
        exact=Exact(control, state, costate),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "ensemble"}),
        source="zouyilin2000/pockit, neural_ode_xor.py",
        id="A45",
    )
