"""Lotka-Volterra fishing (A25); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    binary: bool = False,
    efforts: int = 1,
    horizon: float = 12.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Fishing that brings predator and prey to rest.

    Minimize J = ∫((x1 − 1)² + (x2 − 1)²) dt subject to ẋ1 = x1 − x1x2 − 0.4x1w1, ẋ2 = −x2 + x1x2 − 0.2x2w2,
    x(t0) = (0.5, 0.7), T = 12, with one effort w1 = w2 or two independent ones.

    Efforts in [0, 1]: J* = 1.344083 with one effort, 1.08801 with two; the optimum has a singular arc. Efforts in
    {0, 1}: the infimum is the same and is not attained; with one effort 2 switches reach 1.38276, 56 switches 1.34416.

    Parameters
    ----------
    binary : bool, default False
        Whether the efforts are restricted to 0 and 1; `cost` is then the infimum.
    efforts : int, default 1
        Number of independent controls, 1 or 2.
    horizon : float, default 12.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0.5, 0.7).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] mintOC, Lotka Volterra fishing problem.
    .. [2] PSOPT/psopt, examples lotka and lotka2.
    """
    sign = torch.tensor([1.0, -1.0], dtype=dtype)
    catch = torch.tensor([0.4, 0.2], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x * (sign * (1.0 - x.flip(-1)) - catch * u)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (x - 1.0).square().sum(-1)

    corners = [[0.0], [1.0]] if efforts == 1 else [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    tags = {"discrete", "no-minimizer"} if binary else {"singular"}
    known = {1: 1.344083, 2: 1.08801}[efforts]
    return Reference(
        name="fishing" + ("-two-efforts" if efforts == 2 else "") + ("-binary" if binary else ""),
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [0.5, 0.7], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.FiniteSet(corners) if binary else oc.Box([0.0] * efforts, [1.0] * efforts),
        ),
        cost=published(known, unchanged=initial_state is None and horizon == 12.0),
        exact=None,
        tags=frozenset(tags),
        source="mintOC, Lotka Volterra fishing problem; PSOPT/psopt, examples lotka and lotka2",
        id="A25",
    )
