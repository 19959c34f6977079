"""What became of every group of a run: its status, and what its user is told."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, isinf, isnan
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.stop import Stop
from ocsolver.collocation.unknowns import Bounds, Residual
from ocsolver.status import Status

__all__ = ["Ending", "beyond", "worst_violation"]

Array = np.ndarray[Any, np.dtype[Any]]

SURE = 1e-3  # error of J on the last mesh, relative to its size, of a solution that means anything
ALMOST = 10.0  # residual relative to the tolerance that is worth a word
BETWEEN = 1e-5  # violation of path constraints between their points up to which a solution is one


class Ending(NamedTuple):
    """Where the run of a group has ended."""

    solved: bool  # the equations on the last mesh
    violation: float  # of constraints, at the points where they are met
    cost: float
    size: float  # of J
    error: float  # estimated distance of J from its minimum
    residual: float  # mean of max H − H, relative to the size of J
    between: float  # violation of path constraints between their points

    @property
    def meaningful(self) -> bool:
        """Whether it is near to a solution."""
        return self.error <= SURE * max(self.size, 1.0) and self.between <= BETWEEN

    def converged(self, tolerance: float | None, allowed: float) -> bool:
        """Whether it is a solution as good as is asked for; a violation that is `allowed` counts as none."""
        sound = self.solved and self.violation <= allowed and isfinite(self.cost) and self.meaningful
        return tolerance is not None and sound and self.residual <= tolerance

    def verdict(
        self,
        stop: Stop,
        iterations: int,
        unfinished: bool,
        bounds: tuple[float, float],
        worst: Callable[[], str | None],
    ) -> tuple[Status, str]:
        """Status and note of a group that has not converged, where nobody has ended the run.

        Parameters
        ----------
        stop : Stop
            When to stop.
        iterations : int
            Their number.
        unfinished : bool
            Whether those on the last mesh had no end.
        bounds : tuple of float
            Violation that counts as none, and that which the barrier may hide.
        worst : callable
            Names the constraint that is violated most.
        """
        admissible, possible = (self.violation <= bound for bound in bounds)
        if not isfinite(self.cost):
            return Status.NONFINITE, "no finite trajectory was found"
        violated = None if admissible else worst()
        if isnan(self.violation):
            return Status.NONFINITE, violated or "constraints are no numbers"
        if self.solved and not possible and violated:
            return Status.INFEASIBLE, violated
        if stop.tolerance is None:
            done = self.solved and admissible
            return (Status.COMPLETED, "") if done else (Status.STALLED, "the iterations stopped moving")
        if stop.late():
            return Status.MAX_SECONDS, ""
        if iterations >= stop.max_iterations:
            return Status.MAX_ITERATIONS, ""
        if not admissible:
            if unfinished or possible or violated is None:
                early = "the iterations on a mesh ended early"
                return Status.STALLED, early if violated is None else f"{early}, {violated}"
            return Status.INFEASIBLE, violated
        note = f"J is estimated to be within {self.error:.1e} of its minimum"
        if isinf(self.error):
            note = "H has no finite maximum along the solution: J may have no minimum, unless the control is bounded"
        elif self.solved and self.meaningful and stop.tolerance < self.residual <= ALMOST * stop.tolerance:
            note += f", and its residual {self.residual:.1e} is just above the tolerance {stop.tolerance:.0e}"
        if self.between > BETWEEN:
            note += f", path_constraint is violated by {self.between:.1e} between the points where it is met"
        return Status.STALLED, note


def worst_violation(
    now: Residual, limits: Bounds, g: int, times: Array, constraints: int, of_the_set: int
) -> str | None:
    """Which constraint of a group is violated most, by how much, and when; None if all are met.

    Parameters
    ----------
    now : Residual
        Values of the constraints.
    limits : Bounds
        Their bounds.
    g : int
        The group.
    times : ndarray (N, s)
        Of the points where path constraints are met, in the time of the user.
    constraints, of_the_set : int
        Path constraints of each member of an ensemble, and how many of them, the last ones, describe the control set.
    """

    def named(row: int) -> str:
        component = row % constraints
        return f"path_constraint component {component}" if component < constraints - of_the_set else "the control set"

    path = beyond(now.values.c[:, :, g], limits.path_lower, limits.path_upper)
    end = beyond(now.end.c[g], limits.end_lower, limits.end_upper)
    if np.isnan(end).any():
        return f"terminal_constraint component {int(np.isnan(end).argmax())} is no number"
    if np.isnan(path).any():
        k, i, row = np.argwhere(np.isnan(path))[0]
        return f"{named(int(row))} is no number at t = {times[k, i]:.6g}"
    if max(path.max(initial=0.0), end.max(initial=0.0)) == 0.0:
        return None
    if not path.size or path.max() < end.max(initial=0.0):
        component = int(end.argmax())
        return f"terminal_constraint component {component} is missed by {end.max():.3g}"
    k, i, row = np.unravel_index(int(path.argmax()), path.shape)
    return f"{named(int(row))} is violated by {path.max():.3g} at t = {times[k, i]:.6g}"


def beyond(c: Array, lower: Array, upper: Array) -> Array:
    """Distances to the interval between two bounds."""
    result: Array = np.maximum(np.maximum(lower - c, c - upper), 0.0)
    return result
