"""Neural ODE with shared weights on XOR, with margins (B37); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import nnls
from torch import Tensor

import ocsolver as oc
from problems.neural_ode_xor import xor
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    margin: float = 1.0,
    horizon: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Linear neural ODE that learns XOR with a margin: four trajectories, one control.

    Minimize J = ∫‖c‖² dt subject to żᵢ = aᵢ·c − 0.4zᵢ, zᵢ(t0) = 0, yᵢzᵢ(t1) ≥ 1, with
    aᵢ = (1, tanh 2(sᵢ + 1), tanh 2(sᵢ − 1)), s = (−2, 0, 0, 2), y = (−1, 1, 1, −1), c(t) ∈ ℝ³ free, T = 1.

    With K = (1 − e^{−0.8T})/0.8 the end is zᵢ = aᵢ·q for c*(t) = q e^{−0.4(t1 − t)}/K, so that q is the shortest vector
    with yᵢaᵢ·q ≥ 1 and J* = ‖q‖²/K. q = ½KΣλᵢyᵢaᵢ with multipliers λ ≥ 0 of the margins, which are the dual of a
    nonnegative least-squares problem. The two samples s = 0 are the same: only the sum of their multipliers is
    determined, and is divided equally here. The library minimizes the mean over the trajectories, each of which pays
    ‖c‖²; in its units the multipliers are ν = −4λ and the costates pᵢ = 4λᵢyᵢe^{−0.4(t1 − t)}.

    Parameters
    ----------
    margin : float, default 1.0
        Least value of yᵢzᵢ(t1).
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
    .. [1] zouyilin2000/pockit, neural_ode_xor.py.
    """
    features, labels = xor()
    t1 = t0 + horizon
    gramian = (1.0 - math.exp(-0.8 * horizon)) / 0.8
    signed = (labels[:, None] * features)[[0, 1, 3]]  # each sample once
    # The shortest q with Gq ≥ 1 is Gᵀw, where w solves min ‖Gᵀw‖² + (Σw − 1)² over w ≥ 0, up to a factor.
    rows = torch.cat((signed.T, torch.ones(1, 3, dtype=torch.float64)))
    weights, _ = nnls(rows.numpy(), [0.0, 0.0, 0.0, 1.0])
    w = torch.as_tensor(weights)
    w = margin * w / float((signed @ (signed.T @ w)).min())
    q = signed.T @ w
    multipliers = (2.0 / gramian) * torch.stack((w[0], 0.5 * w[1], 0.5 * w[1], w[2]))
    a, y = features.to(dtype), labels.to(dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (a * u).sum(-1, keepdim=True) - 0.4 * x

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u.square().sum(-1)

    def control(t: Any) -> Tensor:
        return torch.exp(-0.4 * (t1 - columns(t))) * q / gramian

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        grown = torch.exp(-0.4 * (horizon - past)) * -torch.expm1(-0.8 * past) / 0.8
        return grown / gramian * (features @ q)[:, None]

    def costate(t: Any) -> Tensor:
        return torch.exp(-0.4 * (t1 - columns(t))) * (4.0 * multipliers * labels)[:, None]

    return Reference(
        name="neural-ode-xor-margin",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.zeros(4, 1, dtype=dtype),
            horizon=(t0, t1),
            control_set=oc.Unconstrained(3),
            shared_control=True,
            terminal_constraint=oc.Constraint(lambda x: y[:, None] * x, margin, torch.inf),
        ),
        cost=float(q @ q / gramian),
        exact=Exact(control, state, costate, terminal_multiplier=-4.0 * multipliers[:, None]),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "ensemble", "terminal-constraint"}),
        source="zouyilin2000/pockit, neural_ode_xor.py",
        id="B37",
    )
