"""Social distancing that spares the hospitals (B31); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch

import ocsolver as oc
from problems import sir_distancing
from problems.reference import Reference, published

__all__ = ["build"]


def build(
    *,
    capacity: float = 0.08,
    horizon: float = 100.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Social distancing that keeps an epidemic below the capacity of the hospitals.

    Minimize J = ∫(I² + 0.05u²) dt subject to Ṡ = −0.32(1 − u)SI, İ = 0.32(1 − u)SI − 0.1I, (S, I)(t0) = (0.99, 0.01),
    I ≤ 0.08, 0 ≤ u ≤ 0.8, T = 100. J* = 1.298585044; the capacity is used up from about 20.9 to 72.6, and the optimal
    control stays inside its bounds, up to 0.62.

    Parameters
    ----------
    capacity : float, default 0.08
        Largest number of infectious.
    horizon : float, default 100.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0.99, 0.01).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] zouyilin2000/pockit, sir_epidemic_control.py.
    """
    free = sir_distancing.build(horizon=horizon, t0=t0, initial_state=initial_state, dtype=dtype).problem
    return Reference(
        name="sir-capacity",
        problem=oc.OptimalControlProblem(
            free.dynamics,
            free.running_cost,
            initial_state=free.initial_state,
            horizon=free.horizon,
            control_set=free.control_set,
            path_constraint=oc.Constraint(lambda t, x: x[..., 1:], -torch.inf, capacity),
        ),
        cost=published(1.298585044, unchanged=initial_state is None and (capacity, horizon) == (0.08, 100.0)),
        exact=None,
        tags=frozenset({"smooth", "path-constraint"}),
        source="zouyilin2000/pockit, sir_epidemic_control.py",
        id="B31",
    )
