"""Where a collocated solution is wrong, by how much, and the mesh that mends it; it solves nothing.

The error of an interval is what a simulation of its control would change in J (the defects of the collocation
polynomials, weighted by the costate), and how far the control between the Gauss points is from maximizing H. Both are
of second order. Times at which a control reaches or leaves a bound are located as roots of ∂H/∂u at that bound, and
enclosed by two nodes whose distance shrinks from one mesh to the next: so jumps and kinks cost no accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.dense import control_basis, state_basis, state_slope, with_ends
from ocsolver.collocation.interior import Limits, Mesh, Point
from ocsolver.collocation.points import PointValues, Stacked, preference
from ocsolver.collocation.tableau import gauss

__all__ = ["Errors", "Switch", "estimate", "find_switches", "refined_nodes"]

Array = np.ndarray[Any, np.dtype[Any]]

FINE = 6  # Gauss points per interval for the estimates
MOST_PARTS = 4  # into which one interval is divided
SAFETY, SHARPEST = 3.0, 0.01
MOST_SWITCHES = 60  # per group; more are noise of a singular arc


class Errors(NamedTuple):
    """Estimates per interval (N, G), in units of J."""

    defect: Array  # of the simulation, signed
    gap: Array  # ∫ max H − H(u) ≥ 0


class Fine(NamedTuple):
    """A solution between its points."""

    sigma: Array  # (q,)
    t: Array  # (N, q, G)
    x: Array  # (N, q, G, v)
    p: Array
    u: Array  # (N, q, G, m), between the bounds
    y: Array  # (N, q, G, e)


def between(point: Point, mesh: Mesh, limits: Limits, sigma: Array) -> Fine:
    """A solution at fractions σ (q,) of all intervals."""
    s = mesh.tableau.s
    ends, inner = state_basis(s, sigma), control_basis(s, sigma)
    x, p = (
        np.einsum("qj,njgv->nqgv", ends, with_ends(a, b))
        for a, b in ((point.nodes, point.x), (point.costates, point.p))
    )
    u, y = (np.einsum("qj,njgc->nqgc", inner, values) for values in (point.u, point.y))
    t = mesh.t[:-1, None] + mesh.h[:, None] * sigma[:, None]
    return Fine(sigma, t, x, p, np.clip(u, limits.control_lower, limits.control_upper), y)


def estimate(stacked: Stacked, limits: Limits, mesh: Mesh, point: Point) -> Errors:
    """Errors of all intervals."""
    tab, fine = mesh.tableau, gauss(FINE)
    at = between(point, mesh, limits, fine.c)
    slope = np.einsum(
        "qj,njgv->nqgv", state_slope(tab.s, fine.c), with_ends(point.nodes, point.x)
    )  # dx/dσ
    q = stacked.expand(at.t, at.x, at.u, at.p, at.y)
    h, w = mesh.h[:, None], mesh.h[:, None] * fine.b[:, None]
    stages = stacked.values(mesh.points, point.x, point.u).running
    excess = (at.p * (slope / h[..., None] - q.f)).sum(-1) + q.running
    defect = (w * excess).sum(1) - (mesh.weights * stages).sum(1)
    gain = _gain(stacked, at, q, _better_control(stacked, limits, at, q))
    for j in range(at.u.shape[-1]):  # the bounds, in case H is not concave
        for bound in (limits.control_lower[j], limits.control_upper[j]):
            if np.isfinite(bound):
                u = at.u.copy()
                u[..., j] = bound
                gain = np.fmax(gain, _gain(stacked, at, q, u))
    return Errors(defect, (w * np.maximum(gain, 0.0)).sum(1))


def _gain(stacked: Stacked, at: Fine, q: PointValues, u: Array) -> Array:
    """H(u) − H of the own control (N, q, G)."""
    other = stacked.values(at.t, at.x, u)
    return np.asarray(
        (at.p * (other.f - q.f)).sum(-1) - (other.running - q.running) - (at.y * (other.c - q.c)).sum(-1)
    )


def _better_control(stacked: Stacked, limits: Limits, at: Fine, q: Any) -> Array:
    """One projected Newton step on H, to a bound where H is not concave (N, q, G, m)."""
    v = stacked.v
    slope = -(_weighted(q.jacobian, at, v)[..., v:])  # ∂H/∂u
    bend = np.einsum("...ii->...i", q.hessian)[..., v:]
    curvature = -q.hessian[..., v:, v:]
    lower, upper = limits.control_lower, limits.control_upper
    held = ((at.u <= lower) & (slope < 0)) | ((at.u >= upper) & (slope > 0))
    m = slope.shape[-1]
    eye = np.eye(m)
    free = ~held
    matrix = np.where(free[..., :, None] & free[..., None, :], -curvature, eye)
    matrix = matrix + 1e-14 * np.abs(bend).max(-1, initial=0.0)[..., None, None] * eye
    concave = np.linalg.eigvalsh(matrix)[..., :1] > 1e-12 * np.maximum(np.abs(matrix).max((-1, -2)), 1e-300)[..., None]
    with np.errstate(all="ignore"):
        step = np.linalg.solve(np.where(concave[..., None], matrix, eye), np.where(held, 0.0, slope)[..., None])[..., 0]
    newton = np.clip(at.u + step, lower, upper)
    target = np.where(slope > 0, upper, lower)
    bang = np.where(np.isfinite(target) & (slope != 0), target, at.u)
    return np.where(concave, newton, np.where(held, at.u, bang))


def _weighted(jacobian: Array, at: Fine, v: int) -> Array:
    """Gradient of −p·f + L + y·c (N, q, G, v + m)."""
    weights = np.concatenate((-at.p, np.ones((*at.p.shape[:-1], 1)), at.y), -1)
    return np.asarray(np.einsum("...c,...ci->...i", weights, jacobian))


# ------------------------------------------------------------------------------------------------------- switches


class Switch(NamedTuple):
    """A time at which a control reaches or leaves a bound."""

    time: float
    component: int
    width: float  # half the distance of the nodes that enclose it on the next mesh
    cell: float  # length of the interval in which it was found


def active_sides(point: Point, mesh: Mesh, size: Array, limits: Limits) -> Array:
    """−1, 0 or 1 at every Gauss point where the lower, no or the upper bound holds: (N, s, G, m)."""
    width = limits.control_upper - limits.control_lower
    unit = np.where(np.isfinite(width), width, 1.0)
    below, above = point.controls.slacks(point.u)
    duration = (mesh.t[-1] - mesh.t[0])[:, None]
    low = (point.controls.low * unit * duration / size[:, None] > below / unit) & np.isfinite(limits.control_lower)
    high = (point.controls.high * unit * duration / size[:, None] > above / unit) & np.isfinite(limits.control_upper)
    return np.where(low, -1, np.where(high, 1, 0))


def find_switches(
    stacked: Stacked, limits: Limits, mesh: Mesh, point: Point, size: Array, before: list[list[Switch]]
) -> list[list[Switch]]:
    """Switches of every group, in order of time; `before` are those of the mesh before, if there was one."""
    active = active_sides(point, mesh, size, limits)
    N, s, G, m = active.shape
    flat, times = active.reshape(N * s, G, m), mesh.points.reshape(N * s, G)
    bounds = (limits.control_lower, limits.control_upper)
    better = preference(stacked, bounds, mesh.points, point.x, point.u, point.p, point.y).reshape(N * s, G, m)
    u = point.u.reshape(N * s, G, m)
    constrained = bool(limits.end_lower.size or limits.path_lower.size)
    found: list[list[Switch]] = []
    for g in range(G):
        here: list[tuple[float, int]] = []
        for j in range(m):
            status = flat[:, g, j]
            sides = (limits.control_lower[j], limits.control_upper[j])
            for left, right in _merged_runs(status, np.flatnonzero(np.diff(status))):
                jump = _jump(u[:, g, j], status, left, right, sides) if constrained else None
                if jump is not None:
                    time = _by_area(mesh, u[:, g, j], g, *jump)
                else:
                    time = _located(times[:, g], u[:, g, j], better[:, g, j], status, left, right, sides)
                here.append((float(time), j))
        here = sorted(here) if len(here) <= MOST_SWITCHES else []
        found.append(_with_widths(here, mesh.t[:, g], before[g] if before else []))
    return found


def _merged_runs(status: Array, changes: Array) -> list[tuple[int, int]]:
    """Pairs (last point before, first point after) of every change; a bound-to-bound change over few free points is one."""
    runs: list[tuple[int, int]] = []
    k = 0
    while k < len(changes):
        left, right = int(changes[k]), int(changes[k]) + 1
        if k + 1 < len(changes) and status[left] != 0 and status[right] == 0:
            after = int(changes[k + 1]) + 1
            if status[after] == -status[left] and after - right <= 4:
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
    step = 1 if last == 0 else -1  # towards the free arc
    near, far = (right, right + 2) if last == 0 else (left, left - 2)
    if not np.isfinite(width) or not 0 <= far < len(u) or status[far] or status[near + step]:
        return None
    bound, value = bounds[0] if first + last < 0 else bounds[1], u[near + step]
    if abs(value - bound) < 0.1 * width or abs(value - u[far]) > 1e-3 * width:
        return None
    return (left, near + step, bound, value) if last == 0 else (near + step, right, value, bound)


def _by_area(mesh: Mesh, u: Array, g: int, left: int, right: int, start: float, end: float) -> float:
    """Where a jump has the integral of the values that it replaces: they meet the constraints, so they know it best."""
    s = mesh.tableau.s
    k0, k1 = left // s, right // s
    area = (mesh.weights[k0 : k1 + 1, :, g].reshape(-1) * u[k0 * s : (k1 + 1) * s]).sum()
    t0, t1 = mesh.t[k0, g], mesh.t[k1 + 1, g]
    return float(np.clip(t0 + (area - end * (t1 - t0)) / (start - end), t0, t1))


def _with_widths(found: list[tuple[float, int]], nodes: Array, before: list[Switch]) -> list[Switch]:
    """How closely to enclose each switch.

    Costates, and so the times, are wrong by the square of the interval in which a control may jump anywhere; the
    constant is that of the switch of the group that moved most since the mesh before.
    """
    cells, moves, constant = [], [], 0.0
    for time, j in found:
        k = int(np.clip(np.searchsorted(nodes, time) - 1, 0, len(nodes) - 2))
        cells.append(float(nodes[k + 1] - nodes[k]))
        known = [w for w in before if w.component == j and abs(w.time - time) <= max(4.0 * w.width, w.cell)]
        old = min(known, key=lambda w: abs(w.time - time)) if known else None
        moves.append(None if old is None else (abs(old.time - time), old.width))
        if old is not None:
            constant = max(constant, abs(old.time - time) / old.cell**2)
    result = []
    shortest = 1e-9 * float(nodes[-1] - nodes[0])
    for (time, j), cell, move in zip(found, cells, moves, strict=True):
        if move is None:
            width = 0.25 * cell
        elif move[0] > move[1]:  # it lay outside
            width = move[0]
        else:
            width = min(max(SAFETY * constant * cell**2, SHARPEST * cell), 0.25 * cell)
        result.append(Switch(time, j, max(width, shortest), cell))
    return result


# ----------------------------------------------------------------------------------------------------------- nodes


@dataclass(frozen=True, eq=False)
class Plan:
    """Nodes of a new mesh, group by group."""

    nodes: Array  # (N + 1, G)
    base: list[Array]  # nodes without those that enclose switches


def refined_nodes(
    mesh: Mesh,
    base: list[Array],
    errors: Errors,
    switches: list[list[Switch]],
    goal: Array,
    floor: Array,
    order: int,
    most: int,
) -> Plan:
    """Divide intervals whose error is too large, and enclose the switches."""
    N, G = errors.gap.shape
    total = np.abs(errors.defect) + np.maximum(errors.gap - floor * mesh.h, 0.0)
    new_base, lists = [], []
    for g in range(G):
        nodes = base[g]
        # errors of the intervals, collected on the base intervals; those of enclosing cells are the switches' affair
        middles = 0.5 * (mesh.t[1:, g] + mesh.t[:-1, g])
        own = np.clip(np.searchsorted(nodes, middles) - 1, 0, len(nodes) - 2)
        near = np.zeros(N, dtype=bool)
        for switch in switches[g]:
            k = np.clip(np.searchsorted(mesh.t[:, g], switch.time) - 1, 0, N - 1)
            near[k] = True
        share = np.zeros(len(nodes) - 1)
        np.add.at(share, own, np.where(near, 0.0, total[:, g]))
        wanted = 0.25 * goal[g] / max(len(share), 1)
        parts = np.ones(len(share), dtype=int)
        big = share > wanted
        parts[big] = np.clip(np.ceil((share[big] / wanted) ** (1.0 / order)), 2, MOST_PARTS)
        if share.sum() <= 0.5 * goal[g]:
            parts[:] = 1
        while parts.sum() > most and parts.max() > 1:
            parts = np.maximum(1, parts - 1)
        pieces = [np.linspace(nodes[k], nodes[k + 1], parts[k] + 1)[:-1] for k in range(len(share))]
        fresh = np.concatenate((*pieces, nodes[-1:]))
        new_base.append(fresh)
        lists.append(_enclosed(fresh, switches[g]))
    longest = max(len(nodes) for nodes in lists)
    return Plan(np.stack([_padded(nodes, longest) for nodes in lists], 1), new_base)


def _enclosed(nodes: Array, switches: list[Switch]) -> Array:
    """Nodes with one at every switch and one on each side, and no others close to it."""
    start, end = nodes[0], nodes[-1]
    kept = nodes
    extra: list[float] = []
    for switch in switches:
        kept = kept[(np.abs(kept - switch.time) > 3.0 * switch.width) | (kept == start) | (kept == end)]
        extra += [switch.time - switch.width, switch.time, switch.time + switch.width]
    inside = np.array([t for t in extra if start < t < end])
    merged = np.unique(np.concatenate((kept, inside)))
    gaps = np.diff(merged)
    tiny = 1e-12 * (end - start)
    keep = np.concatenate(([True], gaps > tiny))
    merged = merged[keep]
    merged[-1] = end
    return merged


def _padded(nodes: Array, count: int) -> Array:
    """Halve the longest intervals until there are `count` nodes."""
    while len(nodes) < count:
        k = int(np.argmax(np.diff(nodes)))
        nodes = np.insert(nodes, k + 1, 0.5 * (nodes[k] + nodes[k + 1]))
    return nodes


def resampled(
    stacked: Stacked, limits: Limits, mesh: Mesh, point: Point, t: Array, mu: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """A solution at the nodes and Gauss points of another mesh: x, nodes, u, p, costates, y."""
    new = Mesh(t, mesh.tableau)
    N, s = new.h.shape[0], mesh.tableau.s
    xs, ps, us, ys = [], [], [], []
    nodes, costates = [], []
    for g in range(t.shape[1]):
        times = np.concatenate((new.points[:, :, g].reshape(-1), t[:, g]))
        k = np.clip(np.searchsorted(mesh.t[:, g], times, side="right") - 1, 0, mesh.h.shape[0] - 1)
        sigma = (times - mesh.t[k, g]) / mesh.h[k, g]
        ends, inner = state_basis(s, sigma), control_basis(s, sigma)
        x = np.einsum("kj,kjv->kv", ends, with_ends(point.nodes, point.x)[k, :, g])
        p = np.einsum("kj,kjv->kv", ends, with_ends(point.costates, point.p)[k, :, g])
        u = np.clip(
            np.einsum("kj,kjc->kc", inner, point.u[k, :, g]), limits.control_lower, limits.control_upper
        )
        y = np.einsum("kj,kjc->kc", inner, point.y[k, :, g])
        count = N * s
        xs.append(x[:count].reshape(N, s, -1))
        ps.append(p[:count].reshape(N, s, -1))
        us.append(u[:count].reshape(N, s, -1))
        ys.append(y[:count].reshape(N, s, -1))
        nodes.append(x[count:])
        costates.append(p[count:])
    return (*(np.stack(part, 2) for part in (xs, us, ps, ys)), np.stack(nodes, 1), np.stack(costates, 1))
