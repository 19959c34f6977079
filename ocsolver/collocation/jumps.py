"""Where jumps of controls go if the initial state changes, to first order: one step of Newton's method tells.

Two nodes enclose a jump closely. If it moves, the integral of the control between these nodes changes; so there the
control counts as free, with the curvature that the time of the jump has. This is the sensitivity of switching times of
H. Maurer, C. Büskens, J.-H. Kim, C. Kaya, *Optimization methods for the verification of second order sufficient
conditions for bang–bang controls*, Optim. Control Appl. Meth. 26 (2005), on a mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.switches import Switch
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Mesh, Model, Point

__all__ = ["Jump", "around", "enclosed_jumps", "moved_jumps", "warp"]

Array = np.ndarray[Any, np.dtype[Any]]

RISE = 0.1  # of a control, relative to its range, from which on it jumps
BETWEEN = 0.01  # distance from the values before and after, relative to the rise, of one that is neither
ROUNDING = 1.0 + 1e-6  # of the width of an enclosure
SINGULAR = 0.1  # ratio of the rates of ∂H/∂u on both sides of a jump below which one side is singular
DOUBT = 0.1  # half the width of an enclosure, relative to the way of its jump
ASIDE = 0.5  # distance of a jump from the middle of its enclosure, relative to the half of it, that is too much
STRETCH = 2.0  # factor by which intervals between jumps may become longer or shorter


Knots = tuple[float, float, float]  # before, at and after a jump


class Jump(NamedTuple):
    """A jump of a control of the first group."""

    time: float
    component: int
    cells: slice  # intervals that enclose it
    nodes: tuple[float, ...]  # around these
    rise: float  # of the control
    pull: float  # rate of ∂H/∂u there, zero at the edges of singular arcs

    @property
    def knots(self) -> Knots:
        """The outermost of its nodes, and the one in the middle."""
        first, *inner, last = self.nodes
        return first, min(inner, key=lambda t: abs(2.0 * t - first - last), default=0.5 * (first + last)), last

    @property
    def centered(self) -> Switch:
        """An enclosure of the same width that has it in its middle: the same, if it is near to that."""
        first, last = self.nodes[0], self.nodes[-1]
        middle, half = 0.5 * (first + last), 0.5 * (last - first)
        aside = abs(self.time - middle) > ASIDE * half
        return Switch(self.time if aside else middle, self.component, half, last - first)


def enclosed_jumps(
    mesh: Mesh, u: Array, slope: Array, bounds: tuple[Array, Array], switches: list[Switch]
) -> list[Jump]:
    """Jumps of controls that two nodes enclose, in the order of time.

    Parameters
    ----------
    mesh : Mesh
        The mesh.
    u, slope : ndarray (N, s, G, m)
        Controls, and ∂H/∂u or its negative.
    bounds : tuple of ndarray (m,)
        Of the controls.
    switches : list of Switch
        Switches of the first group in the order of time. If enclosures overlap, the mesh does not tell one jump from
        the other, and there are none.
    """
    t, found = mesh.t[:, 0], []
    for switch in switches:
        reach, j = ROUNDING * switch.width, switch.component
        inside = np.flatnonzero((t[:-1] >= switch.time - reach) & (t[1:] <= switch.time + reach))
        if j >= u.shape[-1] or not inside.size or inside[0] == 0 or inside[-1] == len(u) - 1:
            continue
        cells = slice(int(inside[0]), int(inside[-1]) + 1)
        near = slice(cells.start - 1, cells.stop + 1)
        w, times = mesh.weights[near, :, 0], mesh.points[near, :, 0]
        own, slopes = u[near, :, 0, j], slope[near, :, 0, j]
        rise = float(own[-1, 0] - own[0, -1])
        if abs(rise) > RISE * (bounds[1][j] - bounds[0][j]):
            nodes = tuple(t[cells.start : cells.stop + 1].tolist())
            pull = _pull(times, slopes)
            time = _by_area(w, own, nodes[-1])
            if time is None:
                time = float(times[1:-1].mean() - (slopes[1:-1].mean() / pull if pull else 0.0))
            found.append(Jump(min(max(time, nodes[0]), nodes[-1]), j, cells, nodes, rise, pull))
    return found if all(a.nodes[-1] < b.nodes[0] for a, b in pairwise(found)) else []


def _pull(times: Array, slopes: Array) -> float:
    """Rate of ∂H/∂u between the first and the last points (n, s); zero if it does not pass zero there steadily.

    On one side of the jump to a singular arc it does not change.
    """
    middle = times[1:-1].mean()
    before, after = -slopes[0, -1] / (middle - times[0, -1]), slopes[-1, 0] / (times[-1, 0] - middle)
    steady = before * after > 0.0 and SINGULAR < abs(before / after) < 1.0 / SINGULAR
    return float((slopes[-1, 0] - slopes[0, -1]) / (times[-1, 0] - times[0, -1])) if steady else 0.0


def _by_area(w: Array, u: Array, end: float) -> float | None:
    """When a jump has the integral of the values that it replaces, those between the first and the last ones (n, s).

    None if there is none between the values before and after: then no constraint ties the jump to its time, which is
    that of the root of ∂H/∂u.
    """
    before, after, inside = u[0, -1], u[-1, 0], u[1:-1]
    if (np.minimum(np.abs(inside - before), np.abs(inside - after)) <= BETWEEN * abs(after - before)).all():
        return None
    return end - float((w[1:-1] * (inside - before)).sum() / (after - before))


def moved_jumps(system: System, point: Point, mu: Array, model: Model, jumps: list[Jump]) -> list[Switch]:
    """The jumps for the initial state of a system, from the solution for another one; the farther, the less close."""
    hessian, right, v = model.hessian.copy(), model.right.copy(), system.stacked.v
    for jump in jumps:
        length, j = jump.nodes[-1] - jump.nodes[0], v + jump.component
        if jump.pull == 0.0:
            continue  # as the Newton system has it
        hessian[jump.cells, :, 0, j, j] = abs(jump.pull) * length / abs(jump.rise)
        right[jump.cells, :, 0, j] = 0.0
    with np.errstate(all="ignore"):
        free = replace(model, hessian=hessian, right=right)
        step = system.direction(point, mu, free, np.zeros(1), np.ones(1, dtype=bool))
    if step is None:
        return []
    moved = []
    for jump in jumps:
        change = (system.mesh.weights[jump.cells, :, 0] * step.d.u[jump.cells, :, 0, jump.component]).sum()
        way, old = -float(change) / jump.rise, jump.centered
        moved.append(old._replace(time=old.time + way, width=max(old.width, DOUBT * abs(way))))
    return moved


def warp(
    ends: tuple[float, float], before: Iterable[Knots], after: Iterable[Knots]
) -> tuple[list[float], list[float]] | None:
    """Times that go with jumps, old and new; None if these come too close to each other, or to an end."""
    old, new = ([ends[0], *chain.from_iterable(knots), ends[1]] for knots in (before, after))
    for k in range(0, len(old), 3):  # between jumps
        was, now = old[k + 1] - old[k], new[k + 1] - new[k]
        if not was / STRETCH <= now <= was * STRETCH:
            return None
    return old, new


def around(switches: Iterable[Switch]) -> list[Knots]:
    """The nodes that enclose them."""
    return [(switch.time - switch.width, switch.time, switch.time + switch.width) for switch in switches]
