"""Jaddu-Shimemura problem with a bound that moves (B29); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from problems._arcs import Array, integrate
from problems.reference import Exact, Reference, columns, initial_states

__all__ = ["build"]

# The boundary value problem of the three arcs, solved by shooting: p(t0), and when the bound begins and ceases to act.
START = (0.27278432824440824, 0.14953198234120202)
ENTRY, EXIT = 0.2901127016750559, 0.7012788618109284


def build(
    *,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Regulator with a very cheap control below a parabola.

    Minimize J = ∫(x1² + x2² + 0.005u²) dt subject to ẋ1 = x2, ẋ2 = −x2 + u, x(t0) = (0, −1),
    x2 ≤ b(τ) = 8(τ − ½)² − ½ with τ = t − t0, u free, T = 1. J* = 0.169820536338.

    The bound acts for 0.290113 < τ < 0.701279. There u* = b + ḃ; elsewhere u* = 100p2. The control is continuous, so
    that p2 = u/100 everywhere; the entry, the exit and p(t0) solve a boundary value problem of three arcs.

    Parameters
    ----------
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0, −1).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, jaddu-shimemura, case 1.
    .. [2] PSOPT/psopt, stc1.
    """
    x0 = initial_states(initial_state, [0.0, -1.0], dtype)  # (B, 2)
    a = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=dtype)
    b = torch.tensor([0.0, 1.0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ a, u, b)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x.square().sum(-1) + 0.005 * u[..., 0].square()

    def below(t: Tensor, x: Tensor) -> Tensor:
        excess: Tensor = x[..., 1] - bound(t - t0)
        return excess[..., None]

    cost, exact = (None, None) if initial_state is not None else _arcs(t0)
    return Reference(
        name="jaddu-shimemura-constrained",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=x0,
            horizon=(t0, t0 + 1.0),
            control_set=oc.Unconstrained(1),
            path_constraint=oc.Constraint(below, -torch.inf, 0.0),
        ),
        cost=cost,
        exact=exact,
        tags=frozenset({"smooth", "linear-quadratic", "path-constraint"}),
        source="danielrherber/dt-qp-project, jaddu-shimemura case 1; PSOPT/psopt, stc1",
        id="B29",
    )


def bound(past: Any) -> Any:
    """Bound on x2 after a time."""
    return 8.0 * (past - 0.5) ** 2 - 0.5


def _arcs(t0: float) -> tuple[float, Exact]:
    """Cost and exact solution from the solved boundary values."""

    def free(t: float, y: Array) -> Array:
        x1, x2, p1, p2, _cost = y
        return np.array([x2, 100.0 * p2 - x2, 2.0 * x1, 2.0 * x2 - p1 + p2, x1 * x1 + x2 * x2 + 50.0 * p2 * p2])

    def bounded(t: float, y: Array) -> Array:
        x1, x2, _p1, p2, _cost = y
        slope = 16.0 * t - 8.0
        return np.array([x2, slope, 2.0 * x1, 0.01 * (slope + 16.0), x1 * x1 + x2 * x2 + 50.0 * p2 * p2])

    arcs = integrate((free, bounded, free), (0.0, ENTRY, EXIT, 1.0), [0.0, -1.0, *START, 0.0])

    def course(t: Any) -> Tensor:
        """x1, x2, p1, p2 and the cost, (*T, 1, 5)."""
        return arcs(torch.as_tensor(t, dtype=torch.float64) - t0)

    def multiplier(t: Any) -> Tensor:
        past, y = columns(t) - t0, course(t)
        density = 0.01 * (16.0 * past + 8.0) + y[..., 2:3] - y[..., 3:4] - 2.0 * y[..., 1:2]
        return torch.where((past >= ENTRY) & (past < EXIT), density, 0.0)

    return float(course(t0 + 1.0)[..., 4]), Exact(
        control=lambda t: 100.0 * course(t)[..., 3:4],
        state=lambda t: course(t)[..., :2],
        costate=lambda t: course(t)[..., 2:4],
        switches=(t0 + ENTRY, t0 + EXIT),
        path_multiplier=multiplier,
    )
