"""Polynomials of an interval: values between the Gauss points; they know no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ocsolver.collocation.tableau import Tableau

__all__ = ["control_basis", "state_basis", "state_slope", "with_ends"]

Array = np.ndarray[Any, np.dtype[Any]]


def control_basis(tableau: Tableau, sigma: Array) -> Array:
    """Values at fractions σ (q,) of the polynomials of degree s − 1 that are 1 at one point of the method: (q, s)."""
    return np.asarray(np.vander(sigma, tableau.s, increasing=True) @ _coefficients(tableau, ends=False))


def state_basis(tableau: Tableau, sigma: Array) -> Array:
    """The same for the points of `with_ends`: (q, s + 2), or s + 1."""
    coefficients = _coefficients(tableau, ends=True)
    return np.asarray(np.vander(sigma, len(coefficients), increasing=True) @ coefficients)


def state_slope(tableau: Tableau, sigma: Array) -> Array:
    """Derivatives of `state_basis` by σ, in its shape."""
    coefficients = _coefficients(tableau, ends=True)[1:]
    powers = np.arange(1, len(coefficients) + 1)
    rates = powers * np.vander(sigma, len(coefficients), increasing=True)
    return np.asarray(rates @ coefficients)


@cache
def _coefficients(tableau: Tableau, *, ends: bool) -> Array:
    """Coefficients of the basis polynomials in their columns, those of σ⁰ first; few points, so well conditioned."""
    points = tableau.c
    if ends:
        points = with_ends(tableau, np.array([[0.0], [1.0]]), points[None, :, None])[0, :, 0]
    return np.asarray(np.linalg.inv(np.vander(points, increasing=True)))


def with_ends(tableau: Tableau, nodes: Array, stages: Array) -> Array:
    """Values at 0, the points and 1: (N + 1, *b), (N, s, *b) -> (N, s + 2, *b), or s + 1 if the last point is 1."""
    parts = (nodes[:-1, None], stages) if tableau.closed else (nodes[:-1, None], stages, nodes[1:, None])
    return np.concatenate(parts, 1)
