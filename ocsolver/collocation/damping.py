"""Where Radau's method serves better than Gauss's: it damps what nothing but derivatives of the equations determines.

On singular arcs and where a constraint on states is active, the control follows from derivatives of ∂H/∂u or of the
constraint: the equations are differential-algebraic ones of a higher index. Gauss's method does not damp errors there,
as its stability function is −1 at infinity, and that of Radau's is 0 [1]_: controls rattle, costates swing.

.. [1] E. Hairer, G. Wanner, *Solving Ordinary Differential Equations II*, Sections IV.3, VI.1 and VII.4.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ocsolver.collocation.dense import control_basis
from ocsolver.collocation.system import System
from ocsolver.collocation.tableau import Tableau
from ocsolver.collocation.unknowns import Mesh, Model, Point

__all__ = ["resting", "swinging"]

Array = np.ndarray[Any, np.dtype[Any]]

SWINGS, SWING = 6, 1e-7  # errors in a row that change their sign, and their least size relative to the costate
STRAIGHT = 1e-9  # curvature of H, relative to the size of J, of which a control counts as linear


def resting(system: System, model: Model, sides: tuple[Array, Array]) -> Array:
    """Groups with a control that is singular on neighbouring intervals (G,): at no bound, and linear in H.

    Points where a path constraint is active do not count; `sides` are those of `sides_of`.
    """
    assert model.now.values.hessian is not None
    bend = np.einsum("...ii->...i", model.now.values.hessian)[..., system.stacked.v :]
    controls, paths = sides
    straight = np.abs(bend) * system.scale_u**2 <= STRAIGHT * system.unit[:, None]
    free = (controls == 0) & straight & ~system.limits.control_fixed & (paths == 0).all(-1, keepdims=True)
    still = free.all(1)
    result: Array = (still[1:] & still[:-1]).any((0, -1))
    return result


def swinging(mesh: Mesh, point: Point) -> Array:
    """Groups whose costates swing from node to node around the values between them (G,)."""
    if len(mesh.h) <= SWINGS:
        return np.zeros(mesh.h.shape[1], dtype=bool)
    start = _start(mesh.tableau)
    off = point.costates[:-1] - np.einsum("s,nsgv->ngv", start, point.p)
    size = np.abs(off)
    alternate = (off[1:] * off[:-1] < 0) & (size[1:] > 0.5 * size[:-1]) & (size[1:] < 2.0 * size[:-1])
    alternate &= size[1:] > SWING * np.abs(point.costates).max(0)
    runs = np.lib.stride_tricks.sliding_window_view(alternate, SWINGS, axis=0)
    result: Array = np.any(runs.all(-1), axis=(0, 2))
    return result


@cache
def _start(tableau: Tableau) -> Array:
    """Value at the left end of the polynomial through the points (s,)."""
    return np.asarray(control_basis(tableau, np.zeros(1))[0])
