"""When controls jump, reach a bound or leave it; it knows nothing of meshes to come but how closely to enclose them.

A jump is where neither bound is preferred: for H affine in the control a root of ∂H/∂u. Two nodes enclose it whose
distance shrinks from one mesh to the next, and one more is put at the time itself: so jumps and kinks cost no accuracy.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.dense import control_basis
from ocsolver.collocation.errors import VIOLATION, improved
from ocsolver.collocation.fine import between
from ocsolver.collocation.points import Stacked, preference
from ocsolver.collocation.tableau import Tableau
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = ["Switch", "beyond_the_points", "find_switches", "sides_of", "touched"]

Array = np.ndarray[Any, np.dtype[Any]]

SAFETY, SHARPEST = 3.0, 0.01  # of the estimated error; smallest width relative to the interval
OUTSIDE = 0.5  # largest width, relative to the interval, around a switch that has moved farther than it was enclosed
SHARPER = 1e-4  # the same where meshes are graded towards switches
SLOWEST = 0.3  # width relative to the last move if constraints tie all times together
HIDDEN = 1e-7  # distance beyond a bound, relative to its size, that a control reaches after its last point
CLOSE = 0.01  # distance from a bound, relative to that of the two, of a control that is as good as on it
STEEP = 4  # points between two bounds that belong to a jump; more are an arc
LIFTED = 100.0  # distance from its bound, relative to that of the arc, of a constraint that has not reached it
MIXED = 1e-3  # change of a path constraint with the control, relative to its range, that matters
POWERS = 1, 2, 3  # of time, by which constraints approach their bounds
MOST_SWITCHES = 60  # per group; more are noise of a singular arc


class Sighting(NamedTuple):
    """Where a switch seems to be."""

    time: float
    component: int
    doubt: float = 0.0  # time in which the barrier blurs it


class Switch(NamedTuple):
    """A time at which a control reaches or leaves a bound."""

    time: float
    component: int
    width: float  # half the distance of the nodes that enclose it on the next mesh
    cell: float  # length of the interval in which it was found


def active_sides(barrier: Barrier, value: Array, unit: Array, mesh: Mesh, size: Array) -> Array:
    """−1, 0 or 1 at every Gauss point where the lower, no or the upper bound holds: (N, s, G, d)."""
    below, above = barrier.slacks(value)
    price = unit * (mesh.t[-1] - mesh.t[0])[:, None] / size[:, None]
    low = (barrier.low * price > below / unit) & np.isfinite(barrier.lower)
    high = (barrier.high * price > above / unit) & np.isfinite(barrier.upper)
    return np.where(low, -1, np.where(high, 1, 0))


def sides_of(limits: Bounds, mesh: Mesh, point: Point, size: Array) -> tuple[Array, Array]:
    """`active_sides` of the controls (N, s, G, m) and of the path constraints (N, s, G, e)."""
    width = limits.control_upper - limits.control_lower
    controls = active_sides(point.controls, point.u, np.where(np.isfinite(width), width, 1.0), mesh, size)
    return controls, active_sides(point.paths, point.slack, _ranges(point.slack), mesh, size)


def _ranges(slack: Array) -> Array:
    """By how much path constraints vary (G, e)."""
    result: Array = np.maximum(slack.max((0, 1)) - slack.min((0, 1)), 1e-12)
    return result


def find_switches(
    stacked: Stacked,
    limits: Bounds,
    mesh: Mesh,
    point: Point,
    sides: tuple[Array, Array],
    before: list[list[Switch]],
    violation: Array,
) -> list[list[Switch]]:
    """Switches of every group, in order of time, from which of the two `sides_of` everything holds.

    `before` are those of the mesh before, if there was one.

    Components of path constraints are counted after those of the control. They take part from where there is a
    `violation` (N, G) between the points on: most reach their bounds smoothly enough.
    """
    N, s, G, m = point.u.shape
    times = mesh.points.reshape(N * s, G)
    flat, path = (_flat(part) for part in sides)
    varies = _ranges(point.slack)
    bounds = (limits.control_lower, limits.control_upper)
    better = _flat(preference(stacked, bounds, mesh.points, point.x, point.u, point.p, point.y))
    u, slack = _flat(point.u), _flat(point.slack)
    constraint = stacked.problem.path_constraint
    mixed_at_all = constraint is not None and constraint.arguments > 2
    free = _flat(_unconstrained(stacked, limits, mesh, point)) if mixed_at_all else slack
    edges = _edges(mesh.tableau)
    outermost = np.einsum("qs,qsgm->qgm", edges, point.u[[0, -1]])  # at t0 and t1
    constrained = bool(limits.end_lower.size or limits.path_lower.size)
    found: list[list[Switch]] = []
    for g in range(G):
        old = before[g] if before else []
        here: list[Sighting] = []
        jumps: list[float] = []
        for j in range(m):
            status = flat[:, g, j]
            own = (limits.control_lower[j], limits.control_upper[j])
            for left, right in _merged_runs(status, _between(u[:, g, j], own)):
                jump = _jump(u[:, g, j], status, left, right, own) if constrained else None
                if jump is not None:
                    time = _by_area(mesh, u[:, g, j], g, *jump)
                    jumps.append(time)
                else:
                    time = _located(times[:, g], u[:, g, j], better[:, g, j], status, left, right, own)
                here.append(Sighting(float(time), j))
            for side, points in ((0, slice(0, s)), (-1, slice(-1, -s - 1, -1))):
                end = float(mesh.t[side, g]), float(outermost[side, g, j])
                hidden = beyond_the_points(times[points, g], u[points, g, j], status[points], *end, own)
                here += [Sighting(time, j) for time in hidden]
        for j in range(path.shape[-1]):
            own = (limits.path_lower[j], limits.path_upper[j])
            known = any(switch.component == m + j for switch in old)
            beyond = np.where(free[:, g, j] < own[0], -1, np.where(free[:, g, j] > own[1], 1, 0))
            mixed = np.abs(free[:, g, j] - slack[:, g, j]).max() > MIXED * varies[g, j]
            status = beyond if mixed else path[:, g, j]
            for left in map(int, np.flatnonzero(np.diff(status))):
                cells = slice(max(left // s - 1, 0), (left + 1) // s + 2)
                if mixed:
                    here.append(Sighting(_crossed(times[:, g], free[:, g, j], left, own), m + j))
                elif known or violation[cells, g].max() > VIOLATION:
                    time, doubt = touched(times[:, g], slack[:, g, j], status, left, own)
                    if not any(_near(mesh.t[:, g], time, jump) for jump in jumps):  # else it is known better
                        here.append(Sighting(time, m + j, doubt))
        here = sorted(here) if len(here) <= MOST_SWITCHES else []
        limits_of_width = SLOWEST if constrained else 0.0, SHARPER if mesh.tableau.closed else SHARPEST
        found.append(_with_widths(here, mesh.t[:, g], old, *limits_of_width))
    return found


@cache
def _edges(tableau: Tableau) -> Array:
    """Values at both ends of the polynomials through the points (2, s)."""
    return control_basis(tableau, np.array([0.0, 1.0]))


def _near(nodes: Array, one: float, other: float) -> bool:
    """Whether two times lie in the same interval, or in neighbors."""
    k, i = (int(np.searchsorted(nodes, time)) for time in (one, other))
    return abs(k - i) <= 1


def _flat(values: Array) -> Array:
    """All points one after the other: (N, s, G, d) as (N·s, G, d)."""
    return values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])


def _unconstrained(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point) -> Array:
    """What path constraints would be without their multipliers (N, s, G, e): they act where it is beyond a bound."""
    at = between(stacked, limits, mesh, point, mesh.tableau.c)
    u = improved(stacked, limits, at._replace(y=np.zeros_like(at.y)))
    return stacked.values(at.t, at.x, u).c


def _crossed(times: Array, free: Array, left: int, bounds: tuple[float, float]) -> float:
    """Where it passes a bound between two points."""
    bound = bounds[0] if min(free[left], free[left + 1]) < bounds[0] else bounds[1]
    first, last = free[left] - bound, free[left + 1] - bound
    return float(times[left] + (times[left + 1] - times[left]) * np.clip(first / (first - last), 0.0, 1.0))


def touched(times: Array, c: Array, status: Array, left: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """Where a constraint reaches or leaves its bound, and for how long it is as near to it as the barrier allows.

    Mixed constraints do that with a slope, state constraints of order q with the (q + 1)-th power of time if controls
    have no jump. Of these powers, the one that fits three free points best is extrapolated. Multipliers have their
    largest values where a state meets its bound, so that points count as active that have not reached it yet.
    """
    right = left + 1
    a, b = times[left], times[right]
    if status[left] * status[right]:
        return float(0.5 * (a + b)), 0.0
    edge, step = (left, -1) if status[left] == 0 else (right, 1)
    bound = bounds[0] if status[left] + status[right] < 0 else bounds[1]
    arc = status[: edge + 1][::-1] if step > 0 else status[edge:]  # from the edge on
    length = int(np.argmin(np.append(arc[1:] == arc[1], False)))
    distances = np.abs((c[: edge + 1][::-1] if step > 0 else c[edge:])[1 : length + 1] - bound).tolist()
    lifted = LIFTED * sorted(distances)[length // 2]
    free = edge - step * next((k for k, distance in enumerate(distances) if distance <= lifted), length)
    a, b = sorted((times[free], times[free - step]))
    points = free + step * np.arange(3)
    if points.min() < 0 or points.max() >= len(c) or status[points[step * (points - edge) >= 0]].any():
        return float(0.5 * (a + b)), 0.0
    t, distance = times[points], np.abs(c[points] - bound)
    best, where, doubt = np.inf, 0.5 * (a + b), 0.0
    for power in POWERS:
        root = distance ** (1.0 / power)
        slope = (root[1] - root[0]) / (t[1] - t[0])
        bend = abs((root[2] - root[1]) / (t[2] - t[1]) - slope) / max(abs(slope), 1e-300)
        if bend < best and slope * step > 0:
            best, where, doubt = bend, t[0] - root[0] / slope, lifted ** (1.0 / power) / abs(slope)
    return float(np.clip(where, a, b)), float(doubt)


def beyond_the_points(
    times: Array, u: Array, status: Array, end: float, last: float, bounds: tuple[float, float]
) -> list[float]:
    """Where a control that is free at all points of the first or last interval reaches a bound between these and `end`.

    The first of `times` is the nearest to the end, where the polynomial through the points has its `last` value.
    """
    if len(u) < 2 or status.any():
        return []
    for bound in bounds:
        outside = (last - bound) * np.sign(bound - u[0])
        if np.isfinite(bound) and outside > HIDDEN * max(1.0, abs(bound)):
            slope = (u[1] - u[0]) / (times[1] - times[0])
            time = times[0] + (bound - u[0]) / slope
            return [float(time)] if min(end, times[0]) < time < max(end, times[0]) else []
    return []


def _between(u: Array, bounds: tuple[float, float]) -> Array:
    """Points whose control is near to neither of two bounds; everywhere if there is only one."""
    low, high = bounds
    if not np.isfinite(high - low):
        return np.ones(len(u), dtype=bool)
    margin = CLOSE * (high - low)
    return np.asarray((u > low + margin) & (u < high - margin))


def _merged_runs(status: Array, between: Array) -> list[tuple[int, int]]:
    """Pairs (last point before, first point after) of every change; one of bound to bound is one.

    Near a jump multipliers are small, so that points there may count as free although they are close to a bound.
    """
    changes = np.flatnonzero(np.diff(status))
    runs: list[tuple[int, int]] = []
    k = 0
    while k < len(changes):
        left, right = int(changes[k]), int(changes[k]) + 1
        if k + 1 < len(changes) and status[left] != 0 and status[right] == 0:
            after = int(changes[k + 1]) + 1
            if status[after] == -status[left] and between[right:after].sum() <= STEEP:
                right = after
                k += 1
        runs.append((left, right))
        k += 1
    return runs


def _located(
    times: Array, u: Array, preference: Array, status: Array, left: int, right: int, bounds: tuple[float, float]
) -> float:
    """Where a jump has no preference between the bounds, or where a free control reaches its bound."""
    a, b, first, last = times[left], times[right], status[left], status[right]
    if first * last == -1:
        fall = preference[left] - preference[right]
        share = preference[left] / fall if fall != 0 else 0.5
        return float(a + (b - a) * np.clip(share, 0.0, 1.0))
    free = left if first == 0 else right  # linear extrapolation of the free control to the bound
    bound, other = bounds[0] if first + last < 0 else bounds[1], free + (-1 if first == 0 else 1)
    if 0 <= other < len(u) and status[other] == 0 and u[free] != u[other]:
        time = times[free] + (bound - u[free]) * (times[other] - times[free]) / (u[other] - u[free])
        return float(np.clip(time, a, b))
    return float(0.5 * (a + b))


def _jump(
    u: Array, status: Array, left: int, right: int, bounds: tuple[float, float]
) -> tuple[int, int, float, float] | None:
    """Points (left, right) and values between which a control jumps over intermediate ones, None if it does not."""
    first, last = status[left], status[right]
    if first * last == -1:
        start, end = bounds if first < 0 else bounds[::-1]
        return (left, right, start, end) if right - left > 1 else None
    width = bounds[1] - bounds[0]
    if not np.isfinite(width):
        return None
    inner, step = (right, 1) if last == 0 else (left, -1)  # towards the free arc
    bound, edge = bounds[0] if first + last < 0 else bounds[1], inner - step
    steep = 0
    while steep <= STEEP + 1:
        close = abs(u[inner] - bound) <= CLOSE * width  # the barrier keeps it off the bound where multipliers vanish
        edge, steep = (inner, 0) if close else (edge, steep + 1)
        inner += step
        far = inner + step
        if not 0 <= far < len(u) or status[inner] or status[far]:
            return None
        if not close and abs(u[inner] - u[far]) <= 1e-3 * width:
            break
    else:
        return None
    value = u[inner]
    if abs(value - bound) < 0.1 * width:
        return None
    return (edge, inner, bound, value) if last == 0 else (inner, edge, value, bound)


def _by_area(mesh: Mesh, u: Array, g: int, left: int, right: int, start: float, end: float) -> float:
    """Where a jump has the integral of the values that it replaces: they meet the constraints, so they know it best."""
    s = mesh.tableau.s
    k0, k1 = left // s, right // s
    area = (mesh.weights[k0 : k1 + 1, :, g].reshape(-1) * u[k0 * s : (k1 + 1) * s]).sum()
    t0, t1 = mesh.t[k0, g], mesh.t[k1 + 1, g]
    return float(np.clip(t0 + (area - end * (t1 - t0)) / (start - end), t0, t1))


def _with_widths(
    found: list[Sighting], nodes: Array, before: list[Switch], slowest: float, sharpest: float
) -> list[Switch]:
    """How closely to enclose each switch.

    Costates, and so all times, are wrong by the square of the intervals in which controls may jump anywhere, the
    longest one above all; the constant is that of the switch of the group that moved most since the mesh before.
    """
    cells, moves, moved, longest = [], [], 0.0, 0.0
    for time, j, _ in found:
        k = min(max(bisect_left(nodes, time) - 1, 0), len(nodes) - 2)
        cells.append(float(nodes[k + 1] - nodes[k]))
        known = [w for w in before if w.component == j and abs(w.time - time) <= max(4.0 * w.width, w.cell)]
        old = min(known, key=lambda w: abs(w.time - time)) if known else None
        moves.append(None if old is None else (abs(old.time - time), old.width))
        if old is not None:
            moved, longest = max(moved, abs(old.time - time)), max(longest, old.cell)
    constant = moved / longest**2 if longest else 0.0
    wrong = constant * max(cells, default=0.0) ** 2
    result = []
    shortest = 1e-9 * float(nodes[-1] - nodes[0])
    for (time, j, doubt), cell, move in zip(found, cells, moves, strict=True):
        if move is None:
            width = 0.25 * cell
        elif move[0] > move[1]:  # it lay outside
            width = min(move[0], OUTSIDE * cell)
        else:
            width = min(max(SAFETY * wrong, slowest * move[0], sharpest * cell, doubt), 0.25 * cell, move[1])
        result.append(Switch(time, j, max(width, shortest), cell))
    return result
