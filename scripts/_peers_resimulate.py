"""What a toolkit answered, and what its control really does: simulated anew by DOP853, interval by interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import ode

from scripts._peers_statements import FreeEnd, Statement

__all__ = ["Answer", "Control", "Truth", "resimulate"]

TOLERANCE = 1e-10
SAMPLES = 4  # places per interval where a state constraint is looked at


@dataclass(frozen=True)
class Control:
    """Piecewise polynomial: on [breaks[k], breaks[k + 1]] through values[k] at the relative places places[k].

    Parameters
    ----------
    breaks : array of float, shape (K + 1,)
        Times from 0 to the end.
    places : sequence of K arrays
        Places in [0, 1] of the values of each piece; one place is a constant, two are a line.
    values : sequence of K arrays of shape (places, m)
        Controls there.
    """

    breaks: np.ndarray
    places: Sequence[np.ndarray]
    values: Sequence[np.ndarray]


@dataclass(frozen=True)
class Answer:
    """Result of one toolkit: the cost that it reports, how to read its control, and what it says of itself."""

    cost: float
    control: Callable[[], Control]
    success: bool
    message: str
    extra: Callable[[], dict[str, Any]] = dict  # what else is asked of it, outside of the clock


@dataclass(frozen=True)
class Truth:
    """Cost of a control by re-simulation, largest miss of the fixed final states, largest violation of ≤ 0."""

    cost: float
    miss: float
    violation: float


def barycentric(places: np.ndarray) -> np.ndarray:
    """Weights of the barycentric formula."""
    differences = places[:, None] - places[None, :]
    np.fill_diagonal(differences, 1.0)
    weights: np.ndarray = 1.0 / differences.prod(1)
    weights /= np.abs(weights).max()
    return weights


class Piece:
    """One piece of a control as a function of time, moved into the bounds."""

    def __init__(self, statement: Statement, control: Control, k: int) -> None:
        self.start, self.length = float(control.breaks[k]), float(control.breaks[k + 1] - control.breaks[k])
        self.lower, self.upper = statement.lower, statement.upper
        self.places = [float(place) for place in control.places[k]]
        self.weights = [float(weight) for weight in barycentric(np.asarray(control.places[k], float))]
        self.values = np.asarray(control.values[k], float).tolist()

    def __call__(self, t: float) -> list[float]:
        place = (t - self.start) / self.length
        row = self.values[0] if len(self.values) == 1 else self.interpolated(place)
        return [min(max(u, a), b) for u, a, b in zip(row, self.lower, self.upper, strict=True)]

    def interpolated(self, place: float) -> list[float]:
        """Barycentric formula at a relative place."""
        total, sums = 0.0, [0.0] * len(self.values[0])
        for node, weight, row in zip(self.places, self.weights, self.values, strict=True):
            if abs(place - node) < 1e-14:
                return list(row)
            share = weight / (place - node)
            total += share
            sums = [s + share * u for s, u in zip(sums, row, strict=True)]
        return [s / total for s in sums]


def resimulate(statement: Statement, control: Control, start: Sequence[float] | None = None) -> Truth:
    """Simulate the control from the initial state at rtol = atol = 1e-10.

    Tolerances and misses are relative to the sizes of the states that the statement gives.

    Parameters
    ----------
    statement : Statement
        The problem.
    control : Control
        The control; where it leaves its bounds between the places, it is moved back to them.
    start : sequence of float, optional
        Initial state, if another one.

    Returns
    -------
    Truth
        Cost, miss and violation; infinite where the simulation fails.
    """
    piece: Piece
    scales = statement.scales

    def field(t: float, z: np.ndarray) -> list[float]:
        x, u = unscaled(z), piece(t)
        rates = statement.dynamics(math, t, x, u)
        running = statement.running(math, t, x, u) if statement.running else 0.0
        return [*(rate / size for rate, size in zip(rates, scales, strict=True)), running]

    def unscaled(z: np.ndarray) -> list[float]:
        return [a * size for a, size in zip(z.tolist(), scales, strict=False)]

    solver = ode(field).set_integrator("dop853", rtol=TOLERANCE, atol=TOLERANCE, nsteps=100000)
    first = [a / size for a, size in zip(statement.start if start is None else start, scales, strict=True)]
    z, violation = np.array([*first, 0.0]), 0.0
    end = float(control.breaks[-1])
    for k in range(len(control.places)):
        begin, stop = float(control.breaks[k]), float(control.breaks[k + 1])
        if stop <= begin:
            continue
        piece = Piece(statement, control, k)
        solver.set_initial_value(z, begin)
        marks = np.linspace(begin, stop, SAMPLES + 1)[1:] if statement.below else (stop,)
        for mark in marks:
            try:
                z = solver.integrate(mark)
            except (OverflowError, ZeroDivisionError, ValueError):
                return Truth(math.inf, math.inf, math.inf)
            if not (solver.successful() and np.isfinite(z).all()):
                return Truth(math.inf, math.inf, math.inf)
            if statement.below:
                violation = max(violation, *(float(v) for v in statement.below(math, mark, unscaled(z))))
    cost = float(z[-1])
    if statement.terminal is not None:
        cost += float(statement.terminal(math, unscaled(z)))
    misses = [abs(float(a) - b / size) for a, b, size in zip(z, statement.final, scales, strict=False) if b is not None]
    if not isinstance(statement.horizon, FreeEnd):
        misses.append(abs(end - statement.horizon))
    return Truth(cost, max(misses, default=0.0), violation)
