"""Dynamics and costs of the problems of the side-by-side benchmark, in plain arithmetic for every front end.

`m` is a namespace with `exp`, `sin` and `cos`: `math`, `numpy`, `torch`, `casadi` and `sympy` serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "brachistochrone",
    "damped",
    "distancing",
    "double_integrator",
    "growth",
    "hypersensitive",
    "integrator",
    "leukaemia",
    "maximum_range",
    "moon_lander",
    "pendulum",
    "squares",
    "stirred_tank",
    "tuberculosis",
    "van_der_pol",
    "van_der_pol_bounded",
]

Vector = Sequence[Any]


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
