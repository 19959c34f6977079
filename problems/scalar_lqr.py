"""Scalar linear-quadratic regulator (A01); statement, optimum and nothing about solving it."""

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
    """Scalar regulator whose control pays as much as its state.

    Minimize J = ½∫(x² + u²) dt subject to ẋ = u, x(t0) = 1, u free. With s = t1 − t:
    J* = ½ x0² tanh T, x* = x0 cosh s / cosh T, u* = p* = −x0 sinh s / cosh T.

    The theory of the iterations is explicit: the plain method of successive approximations diverges iff T > π/2.
    With λ = (2T/π)², a penalty ρ converges iff ρ > (λ − 1)/2 and a relaxation ω iff ω < 2/(1 + λ).

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 1.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] Derivation by hand.
    .. [2] maptor/maptor, examples/lqr, is the same problem after u -> u - x/2.
    """
    x0 = initial_states(initial_state, [1.0], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() + u.square())[..., 0]

    def control(t: Any) -> Tensor:
        return -start * torch.sinh(t1 - columns(t)) / math.cosh(horizon)

    def state(t: Any) -> Tensor:
        return start * torch.cosh(t1 - columns(t)) / math.cosh(horizon)

    costs = 0.5 * math.tanh(horizon) * start[:, 0].square()
    return Reference(
        name="scalar-lqr",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, control),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="derivation; maptor/maptor, examples/lqr",
        id="A01",
        group_costs=tuple(costs.tolist()),
    )
