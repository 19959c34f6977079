"""Collocation at the points of Gauss or Radau: the coefficients of one interval; it knows no problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ocsolver._quadrature import legendre
from ocsolver._record import record

__all__ = ["Tableau", "gauss", "radau"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@record
class Tableau:
    """An s-point collocation method X_i = x + h Σ_j a_ij f(X_j), x⁺ = x + h Σ_j b_j f(X_j) in derivative form.

    With α = a⁻¹ the stage equations are Σ_j α_ij (X_j − x) = h f(X_i), and x⁺ = x + Σ_j d_j (X_j − x), d = αᵀb. In the
    discrete costate equations of an optimal control problem, which run backwards, `adjoint`_ij = b_j α_ji / b_i takes
    the place of α [1]_; for Gauss's points that is the same method.

    .. [1] W. Hager, *Runge–Kutta methods in optimal control and the transformed adjoint system*, Numer. Math. 87,
       2000.
    """

    c: Array  # (s,), points in (0, 1]
    b: Array  # (s,), weights
    alpha: Array  # (s, s)
    row: Array  # (s,), Σ_j α_ij
    d: Array  # (s,)
    adjoint: Array  # (s, s)

    @property
    def s(self) -> int:
        """Number of points."""
        return len(self.c)

    @property
    def closed(self) -> bool:
        """Whether the last point is the end of the interval."""
        return bool(self.c[-1] == 1.0)


@cache
def gauss(s: int) -> Tableau:
    """Coefficients of the s-point Gauss method, of order 2s [1]_.

    .. [1] E. Hairer, S. Nørsett, G. Wanner, *Solving Ordinary Differential Equations I*, Section II.7.
    """
    return _collocation(*legendre(s))


@cache
def radau(s: int) -> Tableau:
    """Coefficients of the s-point Radau IIA method, of order 2s − 1 [1]_: its last point is the end of the interval.

    .. [1] E. Hairer, G. Wanner, *Solving Ordinary Differential Equations II*, Section IV.5.
    """
    # the other points are the roots of P_{s−1} − P_s, divided by 1 − t
    polynomial = np.polynomial.Legendre([*[0.0] * (s - 1), 1.0, -1.0])
    roots = np.sort(polynomial.roots().real)[:-1]
    for _ in range(3):
        roots = roots - polynomial(roots) / polynomial.deriv()(roots)
    c = np.append(0.5 * (roots + 1.0), 1.0)
    powers = np.arange(s)
    b = np.linalg.solve(c ** powers[:, None], 1.0 / (powers + 1.0))
    return _collocation(c, b)


def _collocation(c: Array, b: Array) -> Tableau:
    """The method that collocates at the points c (s,) in (0, 1], whose quadrature has the weights b."""
    s = len(c)
    powers = np.arange(1, s + 1)
    a = (c[:, None] ** powers / powers) @ np.linalg.inv(c[:, None] ** (powers - 1))
    alpha = np.linalg.inv(a)
    parts = c, b, alpha, alpha.sum(1), alpha.T @ b, (b * alpha.T) / b[:, None]
    return Tableau(*(np.ascontiguousarray(part) for part in parts))
