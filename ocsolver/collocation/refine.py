"""The next mesh, and a solution on it: intervals are divided where errors are, and switches enclosed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ocsolver._record import record
from ocsolver.collocation.dense import control_basis, state_basis, with_ends
from ocsolver.collocation.errors import VIOLATION, Errors
from ocsolver.collocation.switches import Switch
from ocsolver.collocation.unknowns import Curves, Mesh

__all__ = ["Plan", "divided", "padded", "refined_nodes", "resampled"]

Array = np.ndarray[Any, np.dtype[Any]]

MOST_PARTS = 4  # into which one interval is divided
GROWTH = 2.5  # of a mesh
GRADING = 50.0  # ratio of the distances of nodes from a switch
NARROWER = 0.03  # least factor from mesh to mesh for the last interval, whose multiplier grows as it shrinks


@record
class Plan:
    """Nodes of a new mesh, group by group."""

    nodes: Array  # (N + 1, G)
    base: list[Array]  # nodes without those that enclose switches


def refined_nodes(
    mesh: Mesh,
    base: list[Array],
    errors: Errors,
    switches: list[list[Switch]],
    violation: Array,
    goal: Array,
    fineness: float,
    floor: Array,
    order: int,
    most: int,
) -> Plan:
    """Divide intervals whose error (of J, of the control, or of constraints) is too large, and enclose the switches."""
    N, G = errors.gap.shape
    total = np.abs(errors.defect) + np.maximum(errors.gap - floor * mesh.h, 0.0)
    new_base, lists = [], []
    for g in range(G):
        if goal[g] == np.inf:  # finished
            new_base.append(base[g])
            lists.append(mesh.t[:, g])
            continue
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
        rough = np.zeros(len(share))
        np.maximum.at(rough, own, errors.control[:, g])
        finer = np.ceil((rough / fineness) ** (2.0 / order))  # half of the order of J
        parts = np.maximum(parts, np.clip(finer, 1, MOST_PARTS).astype(int))
        excess = np.zeros(len(share))
        np.maximum.at(excess, own, np.where(near, 0.0, violation[:, g]))
        finer = np.ceil((2.0 * excess / VIOLATION) ** (2.0 / order))
        parts = np.maximum(parts, np.where(excess > VIOLATION, np.clip(finer, 2, MOST_PARTS), 1).astype(int))
        while parts.sum() > min(most, GROWTH * len(share)) and parts.max() > 2:
            parts = np.maximum(1, parts - 1)
        if parts.sum() > most:
            parts[:] = 1
        fresh = divided(nodes, parts)
        if excess[-1] > VIOLATION and errors.last[g] > VIOLATION:
            fresh = _cut_off(fresh, mesh.h[-1, g] * max(0.5 * VIOLATION / errors.last[g], NARROWER))
        new_base.append(fresh)
        lists.append(_enclosed(fresh, switches[g], graded=mesh.tableau.closed))
    longest = max(len(nodes) for nodes in lists)
    return Plan(np.stack([padded(nodes, longest) for nodes in lists], 1), new_base)


def _enclosed(nodes: Array, switches: list[Switch], *, graded: bool) -> Array:
    """Nodes with one at every switch and one on each side, and no others close to it.

    Where intervals end in a point of the method, the control is undetermined there if that is the switch: the error
    grows with the interval, so that the lengths on both sides are `graded`.
    """
    start, end = nodes[0], nodes[-1]
    kept = nodes
    if not switches:
        return nodes
    extra: list[float] = []
    for switch in switches:
        kept = kept[(np.abs(kept - switch.time) > 3.0 * switch.width) | (kept == start) | (kept == end)]
        extra += [switch.time - switch.width, switch.time, switch.time + switch.width]
        width = GRADING * switch.width
        while graded and width < np.abs(kept - switch.time).min() / 3.0:
            extra += [switch.time - width, switch.time + width]
            width *= GRADING
    inside = np.array([t for t in extra if start < t < end])
    merged = np.unique(np.concatenate((kept, inside)))
    gaps = np.diff(merged)
    tiny = 1e-12 * (end - start)
    keep = np.concatenate(([True], gaps > tiny))
    merged = merged[keep]
    merged[-1] = end
    return merged


def _cut_off(nodes: Array, width: float) -> Array:
    """Nodes with so narrow an interval at the end that a constraint first met there is met up to its last point."""
    kept = nodes[:-1][nodes[-1] - nodes[:-1] > 2.0 * width]
    return np.array([*kept, nodes[-1] - width, nodes[-1]])


def divided(nodes: Array, parts: Array) -> Array:
    """Nodes of intervals divided into equal parts."""
    if parts.max() == 1:
        return nodes
    first = np.repeat(np.cumsum(parts) - parts, parts)
    share = (np.arange(parts.sum()) - first) / np.repeat(parts, parts)
    return np.append(np.repeat(nodes[:-1], parts) + share * np.repeat(np.diff(nodes), parts), nodes[-1])


def padded(nodes: Array, count: int) -> Array:
    """Halve the longest intervals until there are `count` nodes."""
    while len(nodes) < count:
        h = np.diff(nodes)
        longest = np.argsort(h)[::-1][: count - len(nodes)]
        parts = np.ones(len(h), dtype=int)
        parts[longest[h[longest] > 0.5 * h.max()]] = 2
        nodes = divided(nodes, parts)
    return nodes


def resampled(mesh: Mesh, point: Curves, new: Mesh) -> tuple[Array, ...]:
    """A solution on another mesh: x, u, p, y at its points, states and costates at its nodes.

    If the method changes, costates at nodes are not trusted. Controls may leave their bounds.
    """
    t, s, G = new.t, mesh.tableau.s, new.t.shape[1]
    times = np.concatenate((new.points.reshape(-1, G), t))  # (N s + N + 1, G)
    k = np.stack([np.searchsorted(mesh.t[:, g], times[:, g], side="right") for g in range(G)], 1)
    if new.tableau.closed:  # the last point of an interval has its values from the left
        last = slice(s - 1, s * len(new.h), s)
        k[last] = np.stack([np.searchsorted(mesh.t[:, g], times[last, g]) for g in range(G)], 1)
    k = np.clip(k - 1, 0, mesh.h.shape[0] - 1)
    groups = np.arange(G)
    sigma = ((times - mesh.t[k, groups]) / mesh.h[k, groups]).ravel()
    ends, inner = (basis(mesh.tableau, sigma).reshape(*k.shape, -1) for basis in (state_basis, control_basis))

    def values(basis: Array, stages: Array) -> Array:
        if not stages.shape[-1]:
            return np.zeros((*k.shape, 0))
        return np.asarray(np.einsum("kgj,kgjd->kgd", basis, stages.swapaxes(1, 2)[k, groups]))

    x = values(ends, with_ends(mesh.tableau, point.nodes, point.x))
    if new.tableau is mesh.tableau:
        p = values(ends, with_ends(mesh.tableau, point.costates, point.p))
    else:
        p = values(inner, point.p)
    u, y = values(inner, point.u), values(inner, point.y)
    inside = new.h.shape[0] * s
    at_points = (part[:inside].reshape(inside // s, s, *part.shape[1:]) for part in (x, u, p, y))
    return (*at_points, x[inside:], p[inside:])
