"""Gauss–Legendre quadrature on the unit interval; it knows no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

__all__ = ["legendre"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@cache
def legendre(s: int) -> tuple[Array, Array]:
    """Points in (0, 1) and weights (s,), of degree 2s − 1; not to be written to."""
    points, weights = np.polynomial.legendre.leggauss(s)
    return 0.5 * (points + 1.0), 0.5 * weights
