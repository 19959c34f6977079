"""The next mesh, and a solution on it: intervals are divided where errors are, and switches enclosed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ocsolver.collocation.dense import control_basis, state_basis, with_ends
from ocsolver.collocation.errors import Errors
from ocsolver.collocation.switches import Switch
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = ["Plan", "refined_nodes", "resampled"]

Array = np.ndarray[Any, np.dtype[Any]]

MOST_PARTS = 4  # into which one interval is divided
GROWTH = 2.5  # of a mesh


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
    fineness: float,
    floor: Array,
    order: int,
    most: int,
) -> Plan:
    """Divide intervals whose error (of J, or of the control) is too large, and enclose the switches."""
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
        while parts.sum() > min(most, GROWTH * len(share)) and parts.max() > 2:
            parts = np.maximum(1, parts - 1)
        if parts.sum() > most:
            parts[:] = 1
        fresh = _divided(nodes, parts)
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


def _divided(nodes: Array, parts: Array) -> Array:
    """Nodes of intervals divided into equal parts."""
    first = np.repeat(np.cumsum(parts) - parts, parts)
    share = (np.arange(parts.sum()) - first) / np.repeat(parts, parts)
    return np.append(np.repeat(nodes[:-1], parts) + share * np.repeat(np.diff(nodes), parts), nodes[-1])


def _padded(nodes: Array, count: int) -> Array:
    """Halve the longest intervals until there are `count` nodes."""
    while len(nodes) < count:
        h = np.diff(nodes)
        longest = np.argsort(h)[::-1][: count - len(nodes)]
        parts = np.ones(len(h), dtype=int)
        parts[longest[h[longest] > 0.5 * h.max()]] = 2
        nodes = _divided(nodes, parts)
    return nodes


def resampled(mesh: Mesh, limits: Bounds, point: Point, t: Array) -> tuple[Array, ...]:
    """A solution on the mesh t (N + 1, G): x, u, p, y at its Gauss points, states and costates at its nodes."""
    new = Mesh(t, mesh.tableau)
    N, s = new.h.shape[0], mesh.tableau.s
    states, costates = with_ends(point.nodes, point.x), with_ends(point.costates, point.p)
    rows = [
        _resampled_group(mesh, limits, point, g, (states, costates), new.points[:, :, g], t[:, g])
        for g in range(t.shape[1])
    ]
    inside, ends = N * s, slice(N * s, None)
    x, p, u, y = (np.stack(part, 1) for part in zip(*rows, strict=True))  # (N s + N + 1, G, …)
    at_points = (part[:inside].reshape(N, s, *part.shape[1:]) for part in (x, u, p, y))
    return (*at_points, x[ends], p[ends])


def _resampled_group(
    mesh: Mesh, limits: Bounds, point: Point, g: int, dense: tuple[Array, Array], points: Array, nodes: Array
) -> tuple[Array, Array, Array, Array]:
    """States, costates, controls and path multipliers of a group at points and nodes, one after the other."""
    times = np.concatenate((points.reshape(-1), nodes))
    k = np.clip(np.searchsorted(mesh.t[:, g], times, side="right") - 1, 0, mesh.h.shape[0] - 1)
    sigma = (times - mesh.t[k, g]) / mesh.h[k, g]
    ends, inner = state_basis(mesh.tableau.s, sigma), control_basis(mesh.tableau.s, sigma)
    x = np.einsum("kj,kjv->kv", ends, dense[0][k, :, g])
    p = np.einsum("kj,kjv->kv", ends, dense[1][k, :, g])
    u = np.einsum("kj,kjc->kc", inner, point.u[k, :, g])
    y = np.einsum("kj,kjc->kc", inner, point.y[k, :, g])
    return x, p, np.clip(u, limits.control_lower, limits.control_upper), y
