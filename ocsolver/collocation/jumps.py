"""Where jumps of controls go if the initial state changes, to first order: one step of Newton's method tells.

Two nodes enclose a jump so closely that what the control is between them stands for its time. The step on that mesh
changes the control there, and its integral by as much as the jump moves. This is the sensitivity of switching times of
H. Maurer, C. Büskens, J.-H. Kim, C. Kaya, *Optimization methods for the verification of second order sufficient
conditions for bang–bang controls*, Optim. Control Appl. Meth. 26 (2005), on a mesh.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.switches import Switch
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Mesh, Model, Point

__all__ = ["Jump", "enclosed_jumps", "moved_jumps", "warp"]

Array = np.ndarray[Any, np.dtype[Any]]

RISE = 0.1  # of a control, relative to its range, from which on it jumps
ROUNDING = 1.0 + 1e-6  # of the width of an enclosure
DOUBT = 0.1  # half the width of an enclosure, relative to the way of its jump
STRETCH = 2.0  # factor by which intervals between jumps may become longer or shorter


class Jump(NamedTuple):
    """A jump of a control of the first group."""

    switch: Switch
    cells: slice  # intervals that enclose it
    rise: float  # of the control


def enclosed_jumps(mesh: Mesh, u: Array, bounds: tuple[Array, Array], switches: list[Switch]) -> list[Jump]:
    """Jumps of controls u (N, s, G, m) with bounds (m,) among the switches of the first group, if there are any."""
    t, found = mesh.t[:, 0], []
    for switch in switches:
        reach, j = ROUNDING * switch.width, switch.component
        if j >= u.shape[-1]:
            continue
        inside = np.flatnonzero((t[:-1] >= switch.time - reach) & (t[1:] <= switch.time + reach))
        if not inside.size or inside[0] == 0 or inside[-1] == len(u) - 1:
            continue
        before, after = u[inside[0] - 1, -1, 0, j], u[inside[-1] + 1, 0, 0, j]
        if abs(after - before) > RISE * (bounds[1][j] - bounds[0][j]):
            found.append(Jump(switch, slice(int(inside[0]), int(inside[-1]) + 1), float(after - before)))
    return found


def moved_jumps(system: System, point: Point, mu: Array, model: Model, jumps: list[Jump]) -> list[Switch]:
    """The jumps for the initial state of a system, from the solution for another one; the farther, the less close."""
    with np.errstate(all="ignore"):
        step = system.direction(point, mu, model, np.zeros(1), np.ones(1, dtype=bool))
    if step is None:
        return []
    moved = []
    for switch, cells, rise in jumps:
        gain = float((system.mesh.weights[cells, :, 0] * step.d.u[cells, :, 0, switch.component]).sum())
        way = -gain / rise
        moved.append(switch._replace(time=switch.time + way, width=max(switch.width, DOUBT * abs(way))))
    return moved


def warp(ends: tuple[float, float], jumps: list[Jump], moved: list[Switch]) -> tuple[list[float], list[float]] | None:
    """Times that go with the jumps, before and after; None if these come too close to each other, or to an end."""
    before, after = [ends[0]], [ends[0]]
    for jump, switch in zip(jumps, moved, strict=True):
        before += _around(jump.switch)
        after += _around(switch)
    before.append(ends[1])
    after.append(ends[1])
    for k in range(0, len(before), 3):  # between jumps
        old, new = before[k + 1] - before[k], after[k + 1] - after[k]
        if not old / STRETCH <= new <= old * STRETCH:
            return None
    return before, after


def _around(switch: Switch) -> tuple[float, float, float]:
    """The nodes that enclose a switch."""
    return switch.time - switch.width, switch.time, switch.time + switch.width
