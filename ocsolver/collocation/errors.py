"""How wrong a collocated solution is, interval by interval; it mends nothing.

The error of an interval is what a simulation of its control would change in J (the defects of the collocation
polynomials, weighted by the costate), and how far the control between the Gauss points is from maximizing H. Both are
of second order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.dense import control_basis, state_basis, state_slope, with_ends
from ocsolver.collocation.points import PointValues, Stacked, weighted
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = ["VIOLATION", "Errors", "Fine", "between", "estimate", "gain", "improved"]

Array = np.ndarray[Any, np.dtype[Any]]

VIOLATION = 1e-7  # of constraints that counts as none
FINE = 6  # Gauss points per interval for the estimates
RISING = 1e-4  # slope of H, relative to 1 + |L|, that counts as rising
LARGE = 100.0  # size of a control from which its errors are relative
CONCENTRATED = 10.0  # ratio of a multiplier to what it is an interval before, that means that it is a mass
AT_ONCE = 20_000  # points at which controls are compared in one evaluation
CONVEX = 1e-9  # curvature of H, relative to the largest, that counts as convex


class Errors(NamedTuple):
    """Estimates per interval (N, G), the first two in units of J.

    The distance of the control from where H is largest is relative to |u| where that is large, and zero near a bound.
    Violations are relative to bounds that are larger than 1.
    """

    defect: Array  # of the simulation, signed
    gap: Array  # ∫ max H − H(u) ≥ 0
    control: Array
    violation: Array  # of path constraints between their points
    last: Array  # the same at the end (G,), of constraints that are first met there

    @property
    def total(self) -> Array:
        """Error of J (G,)."""
        result: Array = np.abs(self.defect).sum(0) + self.gap.sum(0)
        return result


class Fine(NamedTuple):
    """A solution between its points."""

    sigma: Array  # (q,)
    t: Array  # (N, q, G)
    x: Array  # (N, q, G, v)
    p: Array
    u: Array  # (N, q, G, m), between the bounds
    y: Array  # (N, q, G, e)


def between(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point, sigma: Array) -> Fine:
    """A solution at fractions σ (q,) of all intervals; its control is in the control set."""
    tableau = mesh.tableau
    ends, inner = state_basis(tableau, sigma), control_basis(tableau, sigma)
    x, p = (
        np.einsum("qj,njgv->nqgv", ends, with_ends(tableau, a, b))
        for a, b in ((point.nodes, point.x), (point.costates, point.p))
    )
    u, y = (np.einsum("qj,njgc->nqgc", inner, values) for values in (point.u, point.y))
    t = mesh.t[:-1, None] + mesh.h[:, None] * sigma[:, None]
    inside = stacked.project(np.clip(u, limits.control_lower, limits.control_upper))
    return Fine(sigma, t, x, p, inside, y)


def estimate(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point) -> Errors:
    """Errors of all intervals."""
    tab, fine = mesh.tableau, gauss(FINE)
    at = between(stacked, limits, mesh, point, fine.c)
    slope = np.einsum("qj,njgv->nqgv", state_slope(tab, fine.c), with_ends(tab, point.nodes, point.x))  # dx/dσ
    q = stacked.expand(at.t, at.x, at.u, at.p, at.y)
    h, w = mesh.h[:, None], mesh.h[:, None] * fine.b[:, None]
    stages = stacked.values(mesh.points, point.x, point.u).running
    excess = (at.p * (slope / h[..., None] - q.f)).sum(-1) + q.running
    defect = (w * excess).sum(1) - (mesh.weights * stages).sum(1)
    better = _better_control(stacked, limits, at, q)
    best = gain(stacked, at, q, better)
    for some in _others(stacked, limits, at.u):  # in case H is not concave
        best = np.fmax(best, _largest_gain(stacked, at, q, some))
    best = np.where(_unbounded(stacked, limits, at, q), np.inf, best)
    lower, upper = limits.control_lower, limits.control_upper
    inside = ((at.u > lower) & (at.u < upper) & (better > lower) & (better < upper)).all((1, 3))
    distance = (np.abs(better - at.u) / np.maximum(1.0, np.abs(at.u) / LARGE)).max((1, 3))
    violation, last = _violation(limits, q.c), np.zeros(mesh.h.shape[1])
    if q.c.size:  # at the nodes, too, where polynomials that meet constraints at all Gauss points may swing
        at = between(stacked, limits, mesh, point, np.array([0.0, 1.0]))
        c = stacked.values(at.t, at.x, at.u).c
        violation = np.maximum(violation, _violation(limits, c))
        last = np.where(_first_met_at_the_end(mesh, point), _violation(limits, c[-1:, 1:])[0], 0.0)
    return Errors(defect, (w * np.maximum(best, 0.0)).sum(1), np.where(inside, distance, 0.0), violation, last)


def _first_met_at_the_end(mesh: Mesh, point: Point) -> Array:
    """Groups in which the multiplier of a constraint is concentrated in the last interval (G,)."""
    density = (mesh.weights[-2:, ..., None] * np.abs(point.y[-2:])).sum(1) / mesh.h[-2:, :, None]  # (2, G, e)
    return np.asarray((density[-1] > CONCENTRATED * density[0]).any(-1)) if len(density) > 1 else mesh.h[-1] > 0


def _violation(limits: Bounds, c: Array) -> Array:
    """Largest violation of path constraints in each interval (N, G), relative to bounds that are larger than 1."""
    distances = (
        np.where(np.isfinite(side), sign * (side - c) / np.maximum(1.0, np.abs(side)), 0.0)
        for side, sign in ((limits.path_lower, 1.0), (limits.path_upper, -1.0))
    )
    worst = np.maximum(*distances)
    return np.asarray(np.nan_to_num(worst, nan=0.0).max((1, 3), initial=0.0))


def _others(stacked: Stacked, limits: Bounds, u: Array) -> Iterator[list[Array]]:
    """Controls to compare with, some at a time: a grid where the set is compact, else its bounds."""
    grid = stacked.candidates
    if grid is not None:
        at_once = max(1, AT_ONCE // u[..., 0].size)
        for first in range(0, len(grid), at_once):
            yield [np.broadcast_to(point, u.shape) for point in grid[first : first + at_once]]
        return
    for j in range(u.shape[-1]):
        for bound in (limits.control_lower[j], limits.control_upper[j]):
            if np.isfinite(bound):
                other = u.copy()
                other[..., j] = bound
                yield [other]


def _unbounded(stacked: Stacked, limits: Bounds, at: Fine, q: PointValues) -> Array:
    """Where H is convex or rises in a control that has no bound on that side, so has no maximum (N, q, G)."""
    open_up, open_down = np.isinf(limits.control_upper), np.isinf(limits.control_lower)
    if not (open_up | open_down).any():
        return np.zeros(at.t.shape, dtype=bool)
    assert q.jacobian is not None
    assert q.hessian is not None
    bend = np.einsum("...ii->...i", q.hessian)[..., stacked.v :]  # of −H
    slope = -weighted(q.jacobian, at.p, at.y)[..., stacked.v :]
    flat = CONVEX * (1.0 + np.abs(bend).max(initial=0.0))
    steep = RISING * (1.0 + np.abs(q.running)[..., None])
    rising = (np.abs(bend) <= flat) & (((slope > steep) & open_up) | ((slope < -steep) & open_down))
    result: Array = (((bend < -flat) & (open_up | open_down)) | rising).any(-1)
    return result


def gain(stacked: Stacked, at: Fine, q: PointValues, u: Array) -> Array:
    """H(u) − H of the own control (N, q, G)."""
    return _largest_gain(stacked, at, q, [u])


def _largest_gain(stacked: Stacked, at: Fine, q: PointValues, controls: list[Array]) -> Array:
    """The largest gain of some controls (N, q, G), all in one evaluation; what is no number is ignored."""
    k = len(controls)

    def repeated(values: Array) -> Array:
        return np.concatenate([values] * k) if k > 1 else values

    other = stacked.values(repeated(at.t), repeated(at.x), np.concatenate(controls))
    parts = [part.reshape(k, *own.shape) for part, own in zip(other[:3], q[:3], strict=True)]
    gains = (at.p * (parts[0] - q.f)).sum(-1) - (parts[1] - q.running) - (at.y * (parts[2] - q.c)).sum(-1)
    return np.asarray(np.fmax.reduce(gains))


def improved(stacked: Stacked, limits: Bounds, at: Fine) -> Array:
    """A control that is nearer to where H is largest, by one step of Newton's method (N, q, G, m)."""
    return _better_control(stacked, limits, at, stacked.expand(at.t, at.x, at.u, at.p, at.y))


def _better_control(stacked: Stacked, limits: Bounds, at: Fine, q: Any) -> Array:
    """One projected Newton step on H, to a bound where H is not concave (N, q, G, m)."""
    v = stacked.v
    slope = -weighted(q.jacobian, at.p, at.y)[..., v:]  # ∂H/∂u
    bend = np.einsum("...ii->...i", q.hessian)[..., v:]
    curvature = -q.hessian[..., v:, v:]
    lower, upper = limits.control_lower, limits.control_upper
    held = ((at.u <= lower) & (slope < 0)) | ((at.u >= upper) & (slope > 0))
    eye = np.eye(slope.shape[-1])
    free = ~held
    matrix = np.where(free[..., :, None] & free[..., None, :], -curvature, eye)
    matrix = matrix + 1e-14 * np.abs(bend).max(-1, initial=0.0)[..., None, None] * eye
    alone = len(eye) == 1
    least = matrix[..., 0] if alone else np.linalg.eigvalsh(matrix)[..., :1]
    concave = least > 1e-12 * np.maximum(np.abs(matrix).max((-1, -2)), 1e-300)[..., None]
    matrix, right = np.where(concave[..., None], matrix, eye), np.where(held, 0.0, slope)
    with np.errstate(all="ignore"):
        step = right / matrix[..., 0] if alone else np.linalg.solve(matrix, right[..., None])[..., 0]
    newton = np.clip(at.u + step, lower, upper)
    target = np.where(slope > 0, upper, lower)
    bang = np.where(np.isfinite(target) & (slope != 0), target, at.u)
    return np.where(concave, newton, np.where(held, at.u, bang))
