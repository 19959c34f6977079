"""What became of every group of a run: its status, and what its user is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ocsolver._record import record
from ocsolver.collocation.stop import Stop
from ocsolver.collocation.unknowns import Bounds, Residual
from ocsolver.status import Status

__all__ = ["Ending", "beyond", "worst_violation"]

Array = np.ndarray[Any, np.dtype[Any]]

SURE = 1e-3  # error of J on the last mesh, relative to its size, of a solution that means anything
ALMOST = 10.0  # residual relative to the tolerance that is worth a word
BETWEEN = 1e-5  # violation of path constraints between their points up to which a solution is one


@record
class Ending:
    """Where a run has ended, each (G,)."""

    solved: Array  # the equations on the last mesh
    unfinished: Array  # or the iterations had no end there
    violation: Array  # of constraints, at the points where they are met
    allowed: float  # what counts as none
    blurred: Array  # violation that the barrier may hide
    cost: Array
    size: Array  # of J
    error: Array  # estimated distance of J from its minimum
    residual: Array  # mean of max H − H, relative to the size of J
    between: Array  # violation of path constraints between these points

    @property
    def meaningful(self) -> Array:
        """Whether it is near to a solution (G,)."""
        sure = self.error <= SURE * np.maximum(self.size, 1.0)
        return np.asarray(sure & (self.between <= BETWEEN))

    @property
    def possible(self) -> Array:
        """Whether constraints are met as far as the barrier allows it to be seen (G,)."""
        return np.asarray(self.violation <= self.allowed + self.blurred)

    def converged(self, tolerance: float | None) -> Array:
        """Whether it is a solution as good as is asked for (G,)."""
        if tolerance is None:
            return np.zeros(len(self.solved), dtype=bool)
        sound = self.solved & (self.violation <= self.allowed) & np.isfinite(self.cost)
        return np.asarray(sound & (self.residual <= tolerance) & self.meaningful)

    def verdict(self, g: int, stop: Stop, iterations: int, worst: Callable[[int], str | None]) -> tuple[Status, str]:
        """Status and note of a group that has not converged, where nobody has ended the run.

        `worst` names the constraint it violates most.
        """
        solved, possible = bool(self.solved[g]), bool(self.possible[g])
        admissible = bool(self.violation[g] <= self.allowed)
        if not np.isfinite(self.cost[g]):
            return Status.NONFINITE, "no finite trajectory was found"
        violated = None if admissible else worst(g)
        if np.isnan(self.violation[g]):
            return Status.NONFINITE, violated or "constraints are no numbers"
        if solved and not possible and violated:
            return Status.INFEASIBLE, violated
        if stop.tolerance is None:
            return (
                (Status.COMPLETED, "") if solved and admissible else (Status.STALLED, "the iterations stopped moving")
            )
        if stop.late():
            return Status.MAX_SECONDS, ""
        if iterations >= stop.max_iterations:
            return Status.MAX_ITERATIONS, ""
        if not admissible:
            if self.unfinished[g] or possible or violated is None:
                early = "the iterations on a mesh ended early"
                return Status.STALLED, early if violated is None else f"{early}, {violated}"
            return Status.INFEASIBLE, violated
        note = f"J is estimated to be within {self.error[g]:.1e} of its minimum"
        if np.isinf(self.error[g]):
            note = "H has no finite maximum along the solution: J may have no minimum, unless the control is bounded"
        elif solved and self.meaningful[g] and stop.tolerance < self.residual[g] <= ALMOST * stop.tolerance:
            note += f", and its residual {self.residual[g]:.1e} is just above the tolerance {stop.tolerance:.0e}"
        if self.between[g] > BETWEEN:
            note += f", path_constraint is violated by {self.between[g]:.1e} between the points where it is met"
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
