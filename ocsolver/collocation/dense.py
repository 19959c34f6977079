"""Polynomials of an interval: values between the Gauss points; they know no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ocsolver.collocation.tableau import gauss

__all__ = ["control_basis", "state_basis", "state_slope", "with_ends"]

Array = np.ndarray[Any, np.dtype[Any]]


def control_basis(s: int, sigma: Array) -> Array:
    """Values at fractions σ (q,) of the polynomials of degree s − 1 that are 1 at one Gauss point: (q, s)."""
    return np.asarray(np.vander(sigma, s, increasing=True) @ _coefficients(s, ends=False))


def state_basis(s: int, sigma: Array) -> Array:
    """The same for the points 0, Gauss points, 1: (q, s + 2)."""
    return np.asarray(np.vander(sigma, s + 2, increasing=True) @ _coefficients(s, ends=True))


def state_slope(s: int, sigma: Array) -> Array:
    """Derivatives of `state_basis` by σ: (q, s + 2)."""
    powers = np.arange(1, s + 2)
    rates = powers * np.vander(sigma, s + 1, increasing=True)
    return np.asarray(rates @ _coefficients(s, ends=True)[1:])


@cache
def _coefficients(s: int, *, ends: bool) -> Array:
    """Coefficients of the basis polynomials in their columns, those of σ⁰ first; few points, so well conditioned."""
    points = np.concatenate(([0.0], gauss(s).c, [1.0])) if ends else gauss(s).c
    return np.asarray(np.linalg.inv(np.vander(points, increasing=True)))


def with_ends(nodes: Array, stages: Array) -> Array:
    """Values at 0, the Gauss points and 1: (N + 1, G, v), (N, s, G, v) -> (N, s + 2, G, v)."""
    return np.concatenate((nodes[:-1, None], stages, nodes[1:, None]), 1)
