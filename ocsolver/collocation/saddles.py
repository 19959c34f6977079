"""Saddle points: solutions of the equations from which J falls to both sides of some direction.

Newton's method takes saddle points for solutions. The curvature along its steps shows them only where a step has a part
in the direction of the fall, and at a saddle that is symmetric in itself none has. The response of a solution to forces
on its controls is the inverse of the second derivative of J along the constraints; Lanczos's method finds its extreme
eigenvalues, of which a negative one belongs to such a direction [1]_.

.. [1] G. Golub, C. Van Loan, *Matrix Computations*, 4th ed. (2013), section 10.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ocsolver.collocation.kkt import Direction, directions
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Point, Step, total

__all__ = ["beyond_saddle"]

Array = np.ndarray[Any, np.dtype[Any]]

VECTORS = 8  # of the Krylov space
FALLS = 1e-6  # curvature without units, relative to 1, that counts as negative
ROUNDING = 1e-9  # of eigenvalues, relative to the largest
PUSH = 0.1  # change of the controls, relative to their size, that is tried
SHARE = 0.9  # of the way to a bound


def beyond_saddle(system: System, point: Point, mu: Array, model: Model) -> tuple[Point, Array]:
    """A point beside a saddle point, on its lower side, and which groups rest at one (G,); the others stay."""
    step = _falling(system, point, mu, model)
    if step is None:
        return point, np.zeros(len(mu), dtype=bool)
    at_saddle = step.bend < -FALLS * step.length * system.size
    size = np.abs(step.d.u / system.scale_u).max((0, 1, 3), initial=0.0)
    best, lowest = point, np.full_like(mu, np.inf)
    for sign in (1.0, -1.0):
        push = np.where(at_saddle, sign * PUSH / np.maximum(size, 1e-300), 0.0)
        alpha = push * system.room(point, step.scaled(push), np.full_like(mu, SHARE))
        trial = system.shifted(point, step, alpha)
        phi = np.where(at_saddle, system.at(trial, mu).barrier, np.inf)
        best, lowest = best.merged(trial, phi < lowest), np.fmin(lowest, phi)
    return best, np.isfinite(lowest)


def _falling(system: System, point: Point, mu: Array, model: Model) -> Step | None:
    """A direction of negative curvature, if one is found."""
    if _convex(model):
        return None
    inside, ends = system.unforced(point, mu, model)
    unit = system.weights / (system.scale_u**2 * (system.size * system.duration)[:, None])
    everybody, tableau, v = np.ones(len(mu), dtype=bool), system.mesh.tableau, system.stacked.v

    def answer(u: Array) -> Direction | None:
        np.multiply(system.mesh.lengths / system.weights * unit, u, out=inside.right_z[..., v:])
        return directions(everybody, tableau, inside, ends)

    vectors, answers = np.empty((2, VECTORS, *point.u.shape))  # of the Krylov space, orthonormal
    u = np.random.default_rng(0).normal(size=point.u.shape) * system.scale_u
    for k in range(VECTORS):
        for _ in range(2):  # rounding leaves something of the others
            u = u - _sum(_products(vectors[:k], unit * u), vectors[:k])
        vectors[k] = u / np.sqrt(np.maximum(total(unit * u * u), 1e-300))[:, None]
        found = answer(vectors[k])
        if found is None:
            return None
        answers[k] = u = found.u
    inverse = np.stack([_products(vectors, unit * u) for u in answers])  # (K, K, G)
    if not np.isfinite(inverse).all():
        return None
    values, shares = np.linalg.eigh(inverse.transpose(2, 0, 1))
    if not (values[:, 0] < -ROUNDING * values[:, -1]).any():
        return None
    lowest = _sum(shares[..., 0].T, vectors)
    found = answer(lowest)
    return None if found is None else system.along(point, model, found, total(unit * lowest * found.u))


def _products(vectors: Array, u: Array) -> Array:
    """Products of vectors (K, N, s, G, m) with another one (K, G)."""
    result: Array = np.einsum("knsgm,nsgm->kg", vectors, u)
    return result


def _sum(shares: Array, vectors: Array) -> Array:
    """Σ shares (K, G) · vectors (K, N, s, G, m)."""
    result: Array = np.einsum("kg,knsgm->nsgm", shares, vectors)
    return result


def _convex(model: Model) -> bool:
    """Whether the Hessians by (x, u) are nowhere indefinite: then J falls from no solution along the constraints."""
    curvatures = (np.linalg.eigvalsh(hessian) for hessian in (model.hessian, model.now.end.hessian))
    return all(bool((values >= -ROUNDING * np.abs(values).max(initial=0.0)).all()) for values in curvatures)
