"""The problems of the side-by-side benchmark, stated once for every front end; nothing here solves anything.

A statement is written with plain arithmetic and the functions `exp`, `sin` and `cos` of a namespace `m`: the modules
`math`, `numpy`, `casadi` and `sympy` serve, and so does any object with these three.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["STATEMENTS", "FreeEnd", "Statement"]

Vector = Sequence[Any]
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


def integrator(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A01: x' = u."""
    return [u[0]]


def double_integrator(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B01, B02, B05: x1' = x2, x2' = u."""
    return [x[1], u[0]]


def van_der_pol(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A14, in the coordinates of bocop."""
    return [x[1], (1 - x[0] ** 2) * x[1] - x[0] + u[0]]


def van_der_pol_bounded(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A15, in the coordinates of CasADi."""
    return [(1 - x[1] ** 2) * x[0] - x[1] + u[0], x[0]]


def stirred_tank(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A18, Kirk."""
    rate = (x[1] + 0.5) * m.exp(25 * x[0] / (x[0] + 2))
    return [-(2 + u[0]) * (x[0] + 0.25) + rate, 0.5 - x[1] - rate]


def tuberculosis(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A26, two strains."""
    susceptible, treated, l1, l2, i1, i2 = x
    people = 30000.0
    infection, strong = 13.0 * i1 / people, 0.029 * i2 / people
    return [
        429 - infection * susceptible - strong * susceptible - 0.0143 * susceptible,
        2 * u[0] * l1 - 0.0143 * treated + (1 - (1 - u[1]) * 0.5) * i1 - infection * treated - strong * treated,
        infection * susceptible
        - 0.5143 * l1
        - 2 * u[0] * l1
        + (1 - u[1]) * 0.4 * i1
        + infection * treated
        - strong * l1,
        (1 - u[1]) * 0.1 * i1 - 1.0143 * l2 + strong * (susceptible + l1 + treated),
        0.5 * l1 - 0.0143 * i1 - i1,
        l2 - 0.0143 * i2,
    ]


def leukaemia(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A28."""
    stem, blood, ill = x
    room = 1 - blood - ill
    return [
        0.5 * stem * (1 - stem) - 0.14 * stem,
        0.14 * stem + 0.43 * blood * room - 0.44 * blood,
        0.27 * ill * room - 0.05 * ill - 0.015 * ill / (0.1 + ill) - u[0] * ill,
    ]


def distancing(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A31, B31."""
    new = 0.32 * (1 - u[0]) * x[0] * x[1]
    return [-new, new - 0.1 * x[1]]


def pendulum(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A37."""
    return [x[1], 6 * (u[0] - x[0])]


def growth(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """A38."""
    return [x[0] * u[0]]


def brachistochrone(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B14."""
    return [x[2] * m.sin(u[0]), x[2] * m.cos(u[0]), 9.8 * m.cos(u[0])]


def maximum_range(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B16."""
    return [x[2] * m.cos(u[0]), x[2] * m.sin(u[0]), 0.5 - m.sin(u[0])]


def moon_lander(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B17."""
    return [x[1], -1 + u[0] / x[2], -u[0] / 2.349]


def hypersensitive(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B20."""
    return [-(x[0] ** 3) + u[0]]


def damped(m: Any, t: Any, x: Vector, u: Vector) -> list[Any]:
    """B29."""
    return [x[1], -x[1] + u[0]]


def squares(*weights: float) -> Callable[..., Any]:
    """Running cost Σ weights·(states, then controls)²."""

    def running(m: Any, t: Any, x: Vector, u: Vector) -> Any:
        return sum(w * z**2 for w, z in zip(weights, [*x, *u], strict=True) if w != 0)

    return running


STATEMENTS: tuple[Statement, ...] = (
    Statement("A01", "scalar LQR", integrator, (1.0,), 2.0, 0.482013790037908, (1.01,), squares(0.5, 0.5)),
    Statement("A14", "Van der Pol", van_der_pol, (1.0, 0.0), 2.0, 1.047806908, (1.01, 0.0), squares(0.5, 0.5, 0.5)),
    Statement(
        "A15",
        "Van der Pol, bounded",
        van_der_pol_bounded,
        (0.0, 1.0),
        10.0,
        2.8733043,
        (0.0, 1.01),
        squares(1.0, 1.0, 1.0),
        lower=(-0.75,),
        upper=(1.0,),
        kind="bounds",
    ),
    Statement(
        "A18", "stirred tank", stirred_tank, (0.05, 0.0), 0.78, 0.02660335546, (0.0505, 0.0), squares(1.0, 1.0, 0.1)
    ),
    Statement(
        "A26",
        "tuberculosis",
        tuberculosis,
        (19000.0, 250.0, 9000.0, 500.0, 1000.0, 250.0),
        5.0,
        5152.0731,
        (19190.0, 252.5, 9090.0, 505.0, 1010.0, 252.5),
        lambda m, t, x, u: x[3] + x[5] + 25 * u[0] ** 2 + 250 * u[1] ** 2,
        lower=(0.05, 0.05),
        upper=(0.95, 0.95),
        scale=(2e4, 1e4, 1e4, 1e3, 1e3, 1e3),
        guess=(0.5, 0.5),
        kind="bounds",
    ),
    Statement(
        "A28",
        "leukaemia",
        leukaemia,
        (1 - 0.14 / 0.5, 0.3255, 0.3715),
        10.0,
        0.8889013142,
        (1.01 * (1 - 0.14 / 0.5), 0.328755, 0.375215),
        squares(0.0, 0.0, 2.0, 1.0),
    ),
    Statement(
        "A31",
        "SIR distancing",
        distancing,
        (0.99, 0.01),
        100.0,
        1.231624311,
        (0.9899, 0.0101),
        squares(0.0, 1.0, 0.05),
        lower=(0.0,),
        upper=(0.8,),
    ),
    Statement(
        "A37",
        "linear pendulum",
        pendulum,
        (-4.0, 2.0),
        5.0,
        -11.844845205344521,
        (-4.04, 2.02),
        terminal=lambda m, x: -x[0],
        lower=(-2.0,),
        upper=(2.0,),
        kind="jumps",
    ),
    Statement(
        "A38",
        "consumption",
        growth,
        (1.0,),
        1.5,
        -1.64872127070013,
        (1.01,),
        lambda m, t, x, u: -(1 - u[0]) * x[0],
        lower=(0.0,),
        upper=(1.0,),
        guess=(0.5,),
        kind="jumps",
    ),
    Statement(
        "B01",
        "double integrator, energy",
        double_integrator,
        (-1.0, 0.0),
        1.0,
        6.0,
        (-1.01, 0.0),
        squares(0.0, 0.0, 0.5),
        end=(0.0, 0.0),
    ),
    Statement(
        "B02",
        "double integrator, time",
        double_integrator,
        (-1.0, 0.0),
        FreeEnd(1.5, 0.1, 10.0),
        2.0,
        (-1.01, 0.0),
        running=lambda m, t, x, u: 1.0,
        end=(0.0, 0.0),
        lower=(-1.0,),
        upper=(1.0,),
        kind="jumps",
    ),
    Statement(
        "B05",
        "Bryson-Denham",
        double_integrator,
        (0.0, 1.0),
        1.0,
        4.0,
        (0.0, 1.01),
        squares(0.0, 0.0, 0.5),
        end=(0.0, -1.0),
        below=lambda m, t, x: [x[0] - 1 / 9],
        kind="state",
    ),
    Statement(
        "B14",
        "brachistochrone",
        brachistochrone,
        (0.0, 0.0, 0.0),
        FreeEnd(1.0, 0.1, 10.0),
        0.824759143156625,
        (0.02, 0.02, 0.0),
        running=lambda m, t, x, u: 1.0,
        end=(2.0, 2.0, None),
        lower=(0.0,),
        upper=(math.pi,),
        guess=(1.0,),
    ),
    Statement(
        "B16",
        "maximum range",
        maximum_range,
        (0.0, 0.0, 0.0),
        2.0,
        -1.712314875,
        (0.01, 0.001, 0.0),
        terminal=lambda m, x: -x[0],
        end=(None, 0.1, None),
        guess=(0.5,),
    ),
    Statement(
        "B17",
        "moon lander",
        moon_lander,
        (1.0, -0.783, 1.0),
        FreeEnd(1.5, 0.1, 10.0),
        1.42031259904919767,
        (1.01, -0.79083, 1.0),
        lambda m, t, x, u: u[0],
        end=(0.0, 0.0, None),
        lower=(0.0,),
        upper=(1.227,),
        guess=(0.8,),
        kind="jumps",
    ),
    Statement(
        "B20",
        "hypersensitive",
        hypersensitive,
        (1.5,),
        25.0,
        1.330806904943,
        (1.515,),
        squares(0.5, 0.5),
        end=(1.0,),
    ),
    Statement(
        "B29",
        "Jaddu-Shimemura, state bound",
        damped,
        (0.0, -1.0),
        1.0,
        0.1698205,
        (0.0, -1.01),
        squares(1.0, 1.0, 0.005),
        below=lambda m, t, x: [x[1] - 8 * (t - 0.5) ** 2 + 0.5],
        kind="state",
    ),
    Statement(
        "B31",
        "SIR distancing, capacity",
        distancing,
        (0.99, 0.01),
        100.0,
        1.298585,
        (0.9899, 0.0101),
        squares(0.0, 1.0, 0.05),
        lower=(0.0,),
        upper=(0.8,),
        below=lambda m, t, x: [x[1] - 0.08],
        kind="state",
    ),
)
