"""Polynomials of an interval: values between the Gauss points; they know no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ocsolver.collocation.tableau import Tableau

__all__ = ["control_basis", "limited", "state_basis", "state_slope", "with_ends"]

Array = np.ndarray[Any, np.dtype[Any]]

LOOKS = np.linspace(0.0, 1.0, 21)  # where polynomials are looked at
JUMP = 0.1  # difference of neighbouring points, relative to that of the bounds, from which on a control jumps


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


def limited(tableau: Tableau, u: Array, lower: Array, upper: Array, strict: Array | None = None) -> Array:
    """Controls (N, s, G, m) whose polynomials keep their integral and their bounds (m,) where controls jump.

    They are drawn towards their mean [1]_. To cut off what leaves the bounds is right where a control reaches them
    smoothly; but at a jump it changes the integral, and with it where the trajectory leads, by more than all other
    errors. Nobody cuts off what leaves the bounds of `strict` controls (m,), so they keep them everywhere.

    .. [1] X. Zhang, C.-W. Shu, *On maximum-principle-satisfying high order schemes for scalar conservation laws*,
       J. Comput. Phys. 229 (2010), equation (2.7).
    """
    N, s = u.shape[:2]
    width = upper - lower
    if strict is None and not np.isfinite(width).any():
        return u
    flat = u.reshape(N * s, *u.shape[2:])
    between = np.abs(flat[1:] - flat[:-1]) > JUMP * np.where(width > 0, width, np.inf)
    if strict is None and not between.any():
        return u
    steep = np.zeros((N * s + 1, *u.shape[2:]), dtype=bool)  # before the first point, between points, after the last
    steep[1:-1] = between
    jumps = np.any([steep[k : N * s + k : s] for k in range(s + 1)], axis=0)  # of every interval (N, G, m)
    if strict is not None:
        jumps = jumps | strict
    rows = np.flatnonzero(jumps.any((1, 2)))
    if not rows.size:
        return u
    some = u[rows]
    mean = np.einsum("s,nsgm->ngm", tableau.b, some)[:, None]
    values = np.einsum("qs,nsgm->nqgm", _looks(tableau), some)
    with np.errstate(all="ignore"):
        high = (upper - mean) / (values.max(1, keepdims=True) - mean)
        low = (mean - lower) / (mean - values.min(1, keepdims=True))
    share = np.where(jumps[rows, None], np.clip(np.fmin(high, low), 0.0, 1.0), 1.0)
    result = u.copy()
    result[rows] = np.where(share < 1.0, mean + share * (some - mean), some)
    return result


@cache
def _looks(tableau: Tableau) -> Array:
    return control_basis(tableau, LOOKS)
