"""Elastic constraints: an exact penalty ρ|c|, smoothed by the barrier, as a relation of c and its multiplier.

A constraint c = 0 is relaxed to c = a − b with a, b ≥ 0 at the price ρ (a + b). The barrier −μ log(ab) makes the
multiplier ν = ρ − μ/a = μ/b − ρ, so that c = 2μν / (ρ² − ν²): the slacks need no variables of their own, |ν| < ρ, and
no linearization is infeasible [1]_.

.. [1] N. Gould, D. Orban, P. Toint, *An interior-point ℓ1-penalty method for nonlinear optimization*, 2015.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ocsolver.collocation.barrier import longest

__all__ = ["gap", "give", "multiplier", "price", "room"]

Array = np.ndarray[Any, np.dtype[Any]]


def gap(nu: Array, rho: Array, mu: Array) -> Array:
    """The c that belongs to a multiplier."""
    return np.asarray(2.0 * mu * nu / (rho**2 - nu**2))


def give(c: Array, nu: Array, rho: Array, mu: Array) -> Array:
    """Its derivative by the multiplier, primal–dual: with the slacks a, b of c and the prices ρ ∓ ν of ν."""
    own = multiplier(c, rho, mu)
    return np.asarray(mu / ((rho - own) * (rho - nu)) + mu / ((rho + own) * (rho + nu)))


def multiplier(c: Array, rho: Array, mu: Array) -> Array:
    """The multiplier that belongs to c: the derivative of `price`."""
    result = c * rho**2 / (mu + np.sqrt(mu**2 + (c * rho) ** 2))
    return np.asarray(np.clip(result, -(1 - 1e-14) * rho, (1 - 1e-14) * rho))


def price(c: Array, rho: Array, mu: Array) -> Array:
    """Smooth ρ|c|: the least ρ (a + b) − μ log(ab) with a − b = c, shifted to be zero at c = 0."""
    root = np.sqrt(mu**2 + (c * rho) ** 2)
    return np.asarray((root - mu) - mu * np.log((mu + root) / (2.0 * mu)))


def room(nu: Array, move: Array, rho: Array, share: Array) -> Array:
    """Largest α ≤ 1 per group that keeps multipliers (*b, G, d) inside (−ρ, ρ): (G,)."""
    return longest(np.maximum(move / (rho - nu), -move / (rho + nu)), share)
