"""Polynomials of an interval: values between the Gauss points; they know no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.interpolate import BarycentricInterpolator

from ocsolver.collocation.tableau import gauss

__all__ = ["control_basis", "state_basis"]

Array = np.ndarray[Any, np.dtype[Any]]


def control_basis(s: int, sigma: Array) -> Array:
    """Values at fractions σ (q,) of the polynomials of degree s − 1 that are 1 at one Gauss point: (q, s)."""
    return np.asarray(BarycentricInterpolator(gauss(s).c, np.eye(s))(sigma))


def state_basis(s: int, sigma: Array) -> Array:
    """The same for the points 0, Gauss points, 1: (q, s + 2)."""
    return np.asarray(BarycentricInterpolator(_points(s), np.eye(s + 2))(sigma))


def state_slope(s: int, sigma: Array) -> Array:
    """Derivatives of `state_basis` by σ: (q, s + 2)."""
    nodes = _points(s)
    powers = np.arange(s + 2)
    inverse = np.linalg.inv(nodes[:, None] ** powers)  # coefficients of each basis polynomial in its column
    vander = powers * sigma[:, None] ** np.maximum(powers - 1, 0)
    return np.asarray(vander @ inverse)


@cache
def _points(s: int) -> Array:
    return np.concatenate(([0.0], gauss(s).c, [1.0]))


def with_ends(nodes: Array, stages: Array) -> Array:
    """Values at 0, the Gauss points and 1: (N + 1, G, v), (N, s, G, v) -> (N, s + 2, G, v)."""
    return np.concatenate((nodes[:-1, None], stages, nodes[1:, None]), 1)
