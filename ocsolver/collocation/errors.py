"""How wrong a collocated solution is, interval by interval; it mends nothing.

The error of an interval is what a simulation of its control would change in J (the defects of the collocation
polynomials, weighted by the costate), and how far the control between the Gauss points is from maximizing H. Both are
of second order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.compiled import called, compiled
from ocsolver.collocation.fine import Fine, between, tables
from ocsolver.collocation.points import PointValues, Stacked, weighted
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.tapes import PointTape
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = ["VIOLATION", "Errors", "estimate", "gain", "improved"]

Array = np.ndarray[Any, np.dtype[Any]]

VIOLATION = 1e-7  # of constraints that counts as none
FINE = 6  # Gauss points per interval for the estimates
FINE_AT = tuple(gauss(FINE).c.tolist())
RISING = 1e-4  # slope of H, relative to 1 + |L|, that counts as rising
LARGE = 100.0  # size of a control from which its errors are relative
CONCENTRATED = 10.0  # ratio of a multiplier to what it is an interval before, that means that it is a mass
AT_ONCE = 20_000  # points at which controls are compared in one evaluation
CONVEX = 1e-9  # curvature of H, relative to the largest, that counts as convex
LEAST = 1e-12  # eigenvalue of −∂²H/∂u², relative to its size, above which H counts as concave


class Errors(NamedTuple):
    """Estimates per interval (N, G), the first two in units of J, and over all intervals (G,).

    The distance of the control from where H is largest is relative to |u| where that is large, and zero near a bound.
    Violations are relative to bounds that are larger than 1.
    """

    defect: Array  # of the simulation, signed
    gap: Array  # ∫ max H − H(u) ≥ 0
    control: Array
    violation: Array  # of path constraints between their points
    last: Array  # the same at the end (G,), of constraints that are first met there
    total: Array  # error of J
    raised: Array  # ∫ max H − H(u)
    farthest: Array  # the largest distance of the control
    worst: Array  # the largest violation between the points


def estimate(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point) -> Errors:
    """Errors of all intervals."""
    if compiled is not None and stacked.tape is not None and stacked.boxed:
        return _in_c(stacked, limits, mesh, point, stacked.tape)
    tab = gauss(FINE)
    at = between(stacked, limits, mesh, point, tab.c)
    q = stacked.expand(at.t, at.x, at.u, at.p, at.y)
    better, best = _better_control(limits, at, q)
    for controls in _compared(stacked, limits, at.u, better):
        best = _best_gain(stacked, at, q, controls, best)
    defect, gap, control = _summed(limits, mesh, at, q, better, best)
    stages = stacked.values(mesh.points, point.x, point.u).running
    violation, last = _violation(limits, q.c), np.zeros(mesh.h.shape[1])
    if q.c.size:  # at the nodes, too, where polynomials that meet constraints at all Gauss points may swing
        at = between(stacked, limits, mesh, point, np.array([0.0, 1.0]))
        c = stacked.values(at.t, at.x, at.u).c
        violation = np.maximum(violation, _violation(limits, c))
        last = np.where(_first_met_at_the_end(mesh, point), _violation(limits, c[-1:, 1:])[0], 0.0)
    defect, raised = defect - (mesh.weights * stages).sum(1), gap.sum(0)
    total = np.abs(defect).sum(0) + raised
    return Errors(defect, gap, control, violation, last, total, raised, control.max(0), violation.max(0))


def _in_c(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point, tape: PointTape) -> Errors:
    """The same of functions that are recorded, and of a control set that is a box."""
    tab, (N, G) = gauss(FINE), mesh.h.shape
    results = tuple(np.empty(shape) for shape in (4 * ((N, G),) + 5 * ((G,),)))
    sides, path = (limits.control_lower, limits.control_upper), (limits.path_lower, limits.path_upper)
    grid = stacked.candidates if stacked.candidates is not None else np.empty((0, len(sides[0])))
    inside = point.x, point.u, point.p, point.nodes, point.costates, point.y
    rules = (tab.c, tab.b), tables(mesh.tableau, FINE_AT), tables(mesh.tableau, (0.0, 1.0))
    times, programs = (mesh.t, mesh.h, mesh.weights, mesh.points), (tape.values.parts, tape.derivatives.parts)
    called(compiled.estimate, *rules, times, inside, sides, path, (grid,), results, programs)
    errors = Errors(*results)
    if point.y.size:
        return errors._replace(last=np.where(_first_met_at_the_end(mesh, point), errors.last, 0.0))
    return errors


def _first_met_at_the_end(mesh: Mesh, point: Point) -> Array:
    """Groups in which the multiplier of a constraint is concentrated in the last interval (G,)."""
    density = (mesh.weights[-2:, ..., None] * np.abs(point.y[-2:])).sum(1) / mesh.h[-2:, :, None]  # (2, G, e)
    return np.asarray((density[-1] > CONCENTRATED * density[0]).any(-1)) if len(density) > 1 else mesh.h[-1] > 0


def _compared(stacked: Stacked, limits: Bounds, u: Array, better: Array) -> Iterator[list[Array]]:
    """Controls to compare with, some at a time: better ones and, in case H is not concave, all over the set.

    That is a grid where the set is compact, else its bounds.
    """
    points, grid = u[..., 0].size, stacked.candidates
    others = _at_bounds(limits, u) if grid is None else (np.broadcast_to(point, u.shape) for point in grid)
    controls = chain([better], others)
    while some := list(islice(controls, max(1, AT_ONCE // points))):
        yield some


def _at_bounds(limits: Bounds, u: Array) -> Iterator[Array]:
    """Controls with one component at a bound."""
    for j in range(u.shape[-1]):
        for bound in (limits.control_lower[j], limits.control_upper[j]):
            if np.isfinite(bound):
                other = u.copy()
                other[..., j] = bound
                yield other


def gain(stacked: Stacked, at: Fine, q: PointValues, u: Array) -> Array:
    """H(u) − H of the own control (N, q, G)."""
    return _best_gain(stacked, at, q, [u], np.full(at.t.shape, np.nan))


def improved(stacked: Stacked, limits: Bounds, at: Fine) -> Array:
    """A control that is nearer to where H is largest, by one step of Newton's method (N, q, G, m)."""
    return _better_control(limits, at, stacked.expand(at.t, at.x, at.u, at.p, at.y))[0]


def _best_gain(stacked: Stacked, at: Fine, q: PointValues, controls: list[Array], best: Array) -> Array:
    """What H gains by the best of some controls, or `best` (N, q, G), if that is more; no numbers are ignored."""
    k = len(controls)

    def repeated(values: Array) -> Array:
        return np.concatenate([values] * k) if k > 1 else values

    other = stacked.values(repeated(at.t), repeated(at.x), np.concatenate(controls) if k > 1 else controls[0])
    parts = [part.reshape(k, *own.shape) for part, own in zip(other[:3], q[:3], strict=True)]
    gains = (at.p * (parts[0] - q.f)).sum(-1) - (parts[1] - q.running) - (at.y * (parts[2] - q.c)).sum(-1)
    return np.asarray(np.fmax(best, np.fmax.reduce(gains)))


def _better_control(limits: Bounds, at: Fine, q: PointValues) -> tuple[Array, Array]:
    """One projected Newton step on H, to a bound where H is not concave (N, q, G, m), and what it may gain at most.

    That is inf where H is convex or rises in a control that has no bound on that side, so has no maximum, and else no
    number (N, q, G).
    """
    assert q.jacobian is not None
    assert q.hessian is not None
    sides = lower, upper = limits.control_lower, limits.control_upper
    if compiled is not None:
        better, best = np.empty(at.u.shape), np.empty(at.t.shape)
        called(compiled.better, (at.p, at.y), tuple(q), (at.u,), sides, (better, best))
        return better, best
    v = at.x.shape[-1]
    slope = -weighted(q.jacobian, at.p, at.y)[..., v:]  # ∂H/∂u
    bend = np.einsum("...ii->...i", q.hessian)[..., v:]  # of −H
    held = ((at.u <= lower) & (slope < 0)) | ((at.u >= upper) & (slope > 0))
    eye = np.eye(slope.shape[-1])
    free = ~held
    matrix = np.where(free[..., :, None] & free[..., None, :], q.hessian[..., v:, v:], eye)
    matrix = matrix + 1e-14 * np.abs(bend).max(-1, initial=0.0)[..., None, None] * eye
    alone = len(eye) == 1
    least = matrix[..., 0] if alone else np.linalg.eigvalsh(matrix)[..., :1]
    concave = least > LEAST * np.maximum(np.abs(matrix).max((-1, -2)), 1e-300)[..., None]
    matrix, right = np.where(concave[..., None], matrix, eye), np.where(held, 0.0, slope)
    with np.errstate(all="ignore"):
        step = right / matrix[..., 0] if alone else np.linalg.solve(matrix, right[..., None])[..., 0]
    newton = np.clip(at.u + step, lower, upper)
    target = np.where(slope > 0, upper, lower)
    bang = np.where(np.isfinite(target) & (slope != 0), target, at.u)
    better = np.where(concave, newton, np.where(held, at.u, bang))
    up, down = np.isinf(upper), np.isinf(lower)
    flat = CONVEX * (1.0 + np.abs(bend).max((0, 1, 3), initial=0.0))[:, None]  # of each group
    steep = RISING * (1.0 + np.abs(q.running)[..., None])
    rising = (np.abs(bend) <= flat) & (((slope > steep) & up) | ((slope < -steep) & down))
    unbounded = (((bend < -flat) & (up | down)) | rising).any(-1)
    return better, np.where(unbounded, np.inf, np.nan)


def _summed(
    limits: Bounds, mesh: Mesh, at: Fine, q: PointValues, better: Array, best: Array
) -> tuple[Array, Array, Array]:
    """∫ p·(ẋ − f) + L dt, ∫ of the best gains, and the distance to better controls, of each interval (N, G)."""
    w = mesh.h[:, None] * gauss(FINE).b[:, None]
    excess = (at.p * (at.rate - q.f)).sum(-1) + q.running
    lower, upper = limits.control_lower, limits.control_upper
    inside = ((at.u > lower) & (at.u < upper) & (better > lower) & (better < upper)).all((1, 3))
    distance = (np.abs(better - at.u) / np.maximum(1.0, np.abs(at.u) / LARGE)).max((1, 3))
    return (w * excess).sum(1), (w * np.maximum(best, 0.0)).sum(1), np.where(inside, distance, 0.0)


def _violation(limits: Bounds, c: Array) -> Array:
    """Largest violation of path constraints in each interval (N, G), relative to bounds that are larger than 1."""
    sides = limits.path_lower, limits.path_upper
    distances = (
        np.where(np.isfinite(side), sign * (side - c) / np.maximum(1.0, np.abs(side)), 0.0)
        for side, sign in zip(sides, (1.0, -1.0), strict=True)
    )
    worst = np.maximum(*distances)
    return np.asarray(np.nan_to_num(worst, nan=0.0).max((1, 3), initial=0.0))
