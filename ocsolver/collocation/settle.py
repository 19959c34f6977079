"""Controls without bounds that rest where H is flat but not largest, such as an angle that is half a turn off.

Newton's method on the equations of the maximum principle is content with any point at which ∂H/∂u = 0. If H is
periodic in u, as with the direction of a thrust, neighbouring points of a solution then may differ by turns, or by half
a turn, where H is least. The neighbours know better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ocsolver.collocation.errors import gain, improved
from ocsolver.collocation.fine import Fine, between
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = ["settled"]

Array = np.ndarray[Any, np.dtype[Any]]

NEWTON = 4  # steps on H from the control of a neighbour
EQUAL, GAIN = 1e-9, 1e-6  # differences of H, relative to 1 + |L|, that count as none and as a gain
TURN = 2.0 * np.pi
JUMP = 3.0  # distances of neighbours, relative to the usual one, from which on a closer control is looked for
SMALL = 0.5  # the same without units: much less than half a turn
CLOSER = 0.1  # factor of the distance to the neighbour that an equally good control has to win


def settled(stacked: Stacked, limits: Bounds, mesh: Mesh, point: Point) -> Array | None:
    """The control (N, s, G, m) with the better of what its neighbours suggest; None if they suggest nothing."""
    at = between(stacked, limits, mesh, point, mesh.tableau.c)
    N, s, G, m = at.u.shape
    unit = 1.0 + np.abs(stacked.values(at.t, at.x, at.u).running)
    flat = _flat(at)
    u, unit = flat.u.copy(), unit.reshape(N * s, 1, G)
    moved = False
    for _ in range(N * s):  # what is better spreads from point to point
        taken = np.zeros(unit.shape, dtype=bool)
        for neighbour in (np.roll(u, 1, 0), np.roll(u, -1, 0)):
            won, trial = _suggested(stacked, limits, flat._replace(u=u), neighbour)
            better = won > GAIN * unit
            u = np.where(better[..., None], trial, u)
            taken |= better
        if not taken.any():
            break
        moved = True
    turned = _turned(stacked, flat, u, unit, lambda angle: np.unwrap(angle, axis=0))
    moved, u = moved or bool((turned != u).any()), turned
    middle = np.abs(u - np.median(u, 0)).max((1, 3)).argmin(0)  # of each group: where the control is most usual
    usual = np.minimum(JUMP * np.median(np.abs(np.diff(u, axis=0)).max(-1), 0), SMALL)  # (1, G)
    for order, step in ((range(1, N * s), -1), (range(N * s - 2, -1, -1), 1)):  # among equals, the nearest
        for k in order:
            if (np.abs(u[k] - u[k + step]).max(-1) <= usual).all():
                continue
            here = Fine(*(part[k : k + 1] for part in flat._replace(u=u)))
            neighbour = u[k + step : k + step + 1]
            won, trial = _suggested(stacked, limits, here, neighbour)
            distance, other = np.abs(here.u - neighbour).max(-1), np.abs(trial - neighbour).max(-1)
            better = (won >= -EQUAL * unit[k : k + 1]) & (other < CLOSER * distance) & (step * (middle - k) > 0)
            if better.any():
                u[k : k + 1] = np.where(better[..., None], trial, here.u)
                moved = True
    if not moved:
        return None
    around_zero = _turned(stacked, flat, u, unit, lambda angle: angle - TURN * np.round(np.median(angle, 0) / TURN))
    return around_zero.reshape(N, s, G, m)


def _turned(stacked: Stacked, at: Fine, u: Array, unit: Array, by_turns: Callable[[Array], Array]) -> Array:
    """Angles, that is components whose whole turns leave H as it is, moved by turns; the others as they are."""
    own = stacked.values(at.t, at.x, u)
    for j in range(u.shape[-1]):
        turned = u.copy()
        turned[..., j] = by_turns(u[..., j])
        if (np.abs(gain(stacked, at, own, turned)) <= EQUAL * unit).all():
            u, own = turned, stacked.values(at.t, at.x, turned)
    return u


def _flat(at: Fine) -> Fine:
    """All points one after the other: (N·s, 1, G, …)."""
    return Fine(*(part.reshape(part.shape[0] * part.shape[1], 1, *part.shape[2:]) for part in at))


def _suggested(stacked: Stacked, limits: Bounds, at: Fine, u: Array) -> tuple[Array, Array]:
    """What H gains (N, 1, G) by the control to which Newton's method on H leads from another one, and this control."""
    for _ in range(NEWTON):
        u = improved(stacked, limits, at._replace(u=u))
    won = gain(stacked, at, stacked.values(at.t, at.x, at.u), u)
    return np.where(np.isfinite(won), won, -np.inf), u
