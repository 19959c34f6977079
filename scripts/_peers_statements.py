"""What a problem of the side-by-side benchmark is, for every front end; nothing here solves anything.

A statement is written with plain arithmetic and the functions `exp`, `sin` and `cos` of a namespace `m`: the modules
`math`, `numpy`, `casadi` and `sympy` serve, and so does any object with these three.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FreeEnd", "Statement"]

INFINITY = math.inf


@dataclass(frozen=True)
class FreeEnd:
    """A final time to be found, with a guess and bounds."""

    guess: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Statement:
    """Minimize ∫ running dt + terminal over [0, horizon] from `start`, with controls between bounds.

    Parameters
    ----------
    id : str
        Label of the reference problem.
    name : str
        Descriptive name.
    dynamics : callable
        (m, t, x, u) -> list of derivatives.
    start : tuple of float
        Initial state.
    horizon : float or FreeEnd
        Final time.
    cost : float
        Known minimum J*.
    nearby : tuple of float
        Another initial state for the warm solve, 1 % away.
    running, terminal : callable, optional
        Costs: (m, t, x, u) -> number and (m, x) -> number.
    end : tuple of (float or None), optional
        Fixed components of the final state.
    lower, upper : tuple of float
        Bounds of the control, infinite where there are none.
    below : callable, optional
        State constraints: (m, t, x) -> list of expressions that must be ≤ 0.
    scale : tuple of float, optional
        Sizes of the states.
    guess : tuple of float, optional
        Constant control to start from; default 0 moved into the bounds.
    kind : str
        ``'smooth'``, ``'bounds'`` (active), ``'jumps'``, ``'state'`` (constraint).
    """

    id: str
    name: str
    dynamics: Callable[..., list[Any]]
    start: tuple[float, ...]
    horizon: float | FreeEnd
    cost: float
    nearby: tuple[float, ...]
    running: Callable[..., Any] | None = None
    terminal: Callable[..., Any] | None = None
    end: tuple[float | None, ...] = ()
    lower: tuple[float, ...] = (-INFINITY,)
    upper: tuple[float, ...] = (INFINITY,)
    below: Callable[..., list[Any]] | None = None
    scale: tuple[float, ...] = ()
    guess: tuple[float, ...] = ()
    kind: str = "smooth"

    @property
    def states(self) -> int:
        """Number n of states."""
        return len(self.start)

    @property
    def controls(self) -> int:
        """Number m of controls."""
        return len(self.lower)

    @property
    def final(self) -> tuple[float | None, ...]:
        """Fixed final state by component, None where free."""
        return self.end or (None,) * self.states

    @property
    def scales(self) -> tuple[float, ...]:
        """Sizes of the states, 1 where nothing was said."""
        return self.scale or (1.0,) * self.states

    @property
    def first_control(self) -> tuple[float, ...]:
        """Constant control to start from."""
        return self.guess or tuple(min(max(0.0, low), high) for low, high in zip(self.lower, self.upper, strict=True))

    @property
    def first_horizon(self) -> float:
        """Final time, or the guess of it."""
        return self.horizon.guess if isinstance(self.horizon, FreeEnd) else self.horizon

    def first_states(self, times: Sequence[float]) -> list[list[float]]:
        """States to start from: the line between fixed ends, else a simulation, else the initial state."""
        if self.end:
            ends = [a if b is None else b for a, b in zip(self.start, self.end, strict=True)]
            return [
                [a + (b - a) * t / self.first_horizon for a, b in zip(self.start, ends, strict=True)] for t in times
            ]
        try:
            rows = self.simulated(times)
        except (OverflowError, ZeroDivisionError, ValueError):
            rows = []
        bound = [100.0 * max(size, abs(a)) for size, a in zip(self.scales, self.start, strict=True)]
        if not rows or any(abs(a) > most for row in rows for a, most in zip(row, bound, strict=True)):
            return [list(self.start) for _ in times]
        return rows

    def simulated(self, times: Sequence[float]) -> list[list[float]]:
        """States of the first control by RK4."""

        def rate(t: float, x: list[float], step: float, slope: list[float]) -> list[float]:
            return self.dynamics(math, t, [a + step * k for a, k in zip(x, slope, strict=True)], self.first_control)

        x, rows = list(self.start), [list(self.start)]
        for t, later in itertools.pairwise(times):
            h = later - t
            k1 = rate(t, x, 0.0, x)
            k2 = rate(t + h / 2, x, h / 2, k1)
            k3 = rate(t + h / 2, x, h / 2, k2)
            k4 = rate(t + h, x, h, k3)
            x = [a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(x, k1, k2, k3, k4, strict=True)]
            rows.append(x)
        return rows
