"""Social distancing that spares the hospitals (B31); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from problems import sir_distancing
from problems._arcs import Array, integrate
from problems.reference import Exact, Reference, columns

__all__ = ["build"]

# The boundary value problem of the three arcs, solved by shooting: p(t0), and when the bound begins and ceases to act.
START = (-3.238306366715692, -6.439573784538522)
ENTRY, EXIT = 20.947332058670973, 72.58797741267908
CAPACITY = 0.08


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
    I ≤ 0.08, 0 ≤ u ≤ 0.8, T = 100. J* = 1.298585083584. (A solver that relaxes the bound by 1e-8 finds 4e-8 less.)

    The capacity is used up for 20.947332 < τ < 72.587977 with τ = t − t0. There u* = 1 − 0.3125/S; elsewhere
    u* = 3.2SI(pS − pI), which stays inside its bounds. The control is continuous; the entry, the exit and p(t0) solve
    a boundary value problem of three arcs.

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
    unchanged = initial_state is None and (capacity, horizon) == (CAPACITY, 100.0)
    cost, exact = _arcs(t0) if unchanged else (None, None)
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
        cost=cost,
        exact=exact,
        tags=frozenset({"smooth", "path-constraint"}),
        source="zouyilin2000/pockit, sir_epidemic_control.py",
        id="B31",
    )


def _arcs(t0: float) -> tuple[float, Exact]:
    """Cost and exact solution from the solved boundary values."""

    def free(_: float, y: Array) -> Array:
        S, I, pS, pI, _cost = y
        u = 3.2 * S * I * (pS - pI)
        contact, gain = 0.32 * (1.0 - u), pS - pI
        new = contact * S * I
        pull = gain * contact * S + 0.1 * pI + 2.0 * I
        return np.array([-new, new - 0.1 * I, gain * contact * I, pull, I * I + 0.05 * u * u])

    def full(_: float, y: Array) -> Array:
        S, I, pS, pI, _cost = y
        u = 1.0 - 0.3125 / S
        slope = 0.1 * I * (1.0 / S**2 - 0.625 / S**3) / (3.2 * I)  # of pS − pI = u/(3.2SI)
        rate = (pS - pI) * 0.32 * (1.0 - u) * I
        return np.array([-0.1 * I, 0.0, rate, rate - slope, I * I + 0.05 * u * u])

    arcs = integrate((free, full, free), (0.0, ENTRY, EXIT, 100.0), [0.99, 0.01, *START, 0.0])

    def course(t: Any) -> Tensor:
        """S, I, pS, pI and the cost, (*T, 1, 5)."""
        return arcs(torch.as_tensor(t, dtype=torch.float64) - t0)

    def control(t: Any) -> Tensor:
        S, I, pS, pI, _ = course(t).unbind(-1)
        u: Tensor = 3.2 * S * I * (pS - pI)
        return u[..., None]

    def multiplier(t: Any) -> Tensor:
        past, (S, I, pS, pI, _) = columns(t) - t0, course(t).unbind(-1)
        u = 1.0 - 0.3125 / S
        slope = 0.1 * (1.0 / S**2 - 0.625 / S**3) / 3.2
        density = 0.32 * (1.0 - u) * (pS - pI) * (I - S) - slope - 0.1 * pI - 2.0 * I
        return torch.where((past >= ENTRY) & (past < EXIT), density[..., None], 0.0)

    return float(course(t0 + 100.0)[..., 4]), Exact(
        control,
        state=lambda t: course(t)[..., :2],
        costate=lambda t: course(t)[..., 2:4],
        switches=(t0 + ENTRY, t0 + EXIT),
        path_multiplier=multiplier,
    )
