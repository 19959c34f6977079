"""A collocated solution between its points; it judges nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.compiled import called, compiled
from ocsolver.collocation.dense import control_basis, state_basis, state_slope, with_ends
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.tableau import Tableau
from ocsolver.collocation.unknowns import Bounds, Curves, Mesh

__all__ = ["Fine", "between", "tables"]

Array = np.ndarray[Any, np.dtype[Any]]


class Fine(NamedTuple):
    """A solution between its points."""

    t: Array  # (N, q, G)
    x: Array  # (N, q, G, v)
    p: Array
    u: Array  # (N, q, G, m), between the bounds
    y: Array  # (N, q, G, e)
    rate: Array  # (N, q, G, v), of the states


def between(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Curves, sigma: Array) -> Fine:
    """A solution at fractions σ (q,) of all intervals; its control is in the control set."""
    t = mesh.t[:-1, None] + mesh.h[:, None] * sigma[:, None]
    x, p, u, y, rate = (_in_numpy if compiled is None else _in_c)(limits, mesh, point, tuple(sigma.tolist()))
    return Fine(t, x, p, stacked.project(u), y, rate)


@lru_cache(maxsize=64)
def tables(tableau: Tableau, sigma: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Polynomials of states, their derivatives, and polynomials of controls, at fractions σ in their rows."""
    at = np.array(sigma)
    parts = state_basis(tableau, at), state_slope(tableau, at), control_basis(tableau, at)
    return tuple(np.ascontiguousarray(part) for part in parts)  # type: ignore[return-value]


def _in_numpy(limits: Bounds, mesh: Mesh, point: Curves, sigma: tuple[float, ...]) -> tuple[Array, ...]:
    """States, costates, controls, path multipliers, and rates of the states."""
    ends, slopes, inner = tables(mesh.tableau, sigma)
    x, p = (with_ends(mesh.tableau, a, b) for a, b in ((point.nodes, point.x), (point.costates, point.p)))
    rate = np.einsum("qj,njgv->nqgv", slopes, x) / mesh.lengths
    x, p = (np.einsum("qj,njgv->nqgv", ends, values) for values in (x, p))
    u, y = (np.einsum("qj,njgc->nqgc", inner, values) for values in (point.u, point.y))
    return x, p, np.clip(u, limits.control_lower, limits.control_upper), y, rate


def _in_c(limits: Bounds, mesh: Mesh, point: Curves, sigma: tuple[float, ...]) -> tuple[Array, ...]:
    """The same."""
    (N, G), v = mesh.h.shape, point.x.shape[-1]
    x, p, u, y, rate = results = tuple(
        np.empty((N, len(sigma), G, d)) for d in (v, v, point.u.shape[-1], point.y.shape[-1], v)
    )
    inside = point.x, point.u, point.p, point.nodes, point.costates, point.y
    sides = limits.control_lower, limits.control_upper
    called(compiled.between, tables(mesh.tableau, sigma), (mesh.h,), inside, sides, results)
    return x, p, u, y, rate
