"""Gauss–Legendre collocation: the coefficients of one interval; it knows no problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ocsolver._quadrature import legendre

__all__ = ["Tableau", "gauss"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Tableau:
    """The s-point Gauss method X_i = x + h Σ_j a_ij f(X_j), x⁺ = x + h Σ_j b_j f(X_j) in derivative form.

    With α = a⁻¹ the stage equations are Σ_j α_ij (X_j − x) = h f(X_i), and x⁺ = x + Σ_j d_j (X_j − x), d = αᵀb. The
    discrete costate equations of an optimal control problem are those of the same method, run backwards [1]_: there
    `adjoint`_ij = b_j α_ji / b_i takes the place of α.

    .. [1] W. Hager, *Runge–Kutta methods in optimal control and the transformed adjoint system*, Numer. Math. 87,
       2000.
    """

    c: Array  # (s,), points in (0, 1)
    b: Array  # (s,), weights
    alpha: Array  # (s, s)
    row: Array  # (s,), Σ_j α_ij
    d: Array  # (s,)
    adjoint: Array  # (s, s)

    @property
    def s(self) -> int:
        """Number of points."""
        return len(self.c)


@cache
def gauss(s: int) -> Tableau:
    """Coefficients of the s-point Gauss method, of order 2s [1]_.

    .. [1] E. Hairer, S. Nørsett, G. Wanner, *Solving Ordinary Differential Equations I*, Section II.7.
    """
    c, b = legendre(s)
    powers = np.arange(1, s + 1)
    a = (c[:, None] ** powers / powers) @ np.linalg.inv(c[:, None] ** (powers - 1))
    alpha = np.linalg.inv(a)
    parts = c, b, alpha, alpha.sum(1), alpha.T @ b, (b * alpha.T) / b[:, None]
    return Tableau(*(np.ascontiguousarray(part) for part in parts))
