"""What `solve` does if no solver is named: collocation where it applies, E-MSA elsewhere and to find a basin."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from ocsolver.continuous import DEFAULT_INTERVALS
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.collocation import Collocation, violated_start
from ocsolver.solvers.emsa import EMSA
from ocsolver.solvers.lagrangian import AugmentedLagrangian
from ocsolver.status import Status
from ocsolver.transcription import Discretization

__all__ = ["Automatic"]

LARGEST = 40  # states and controls of a group for which dense blocks pay
ENTRIES = 100_000_000  # of the stage equations of all groups on the default mesh
NEAR = 1e-5  # residual of a group that stalled near its answer
LONGEST = 20.0  # seconds that augmented Lagrangians may take to find a start
LOST = (Status.DIVERGED, Status.NONFINITE, Status.INTEGRATION_FAILED)
SHARES = (0.25, 0.75)  # of the way between the bounds: other controls to start from


@dataclass(frozen=True)
class Automatic(Solver):
    """Collocation in double precision, for problems of moderate size with a box or ball of controls; else E-MSA.

    A mesh, an integrator or an adjoint that is asked for belongs to E-MSA, whose control is constant on the intervals
    of that mesh; so do runs of a fixed number of iterations. If collocation does not converge, E-MSA globalizes, with
    an augmented Lagrangian where there are constraints: its control is the start of a second attempt; then other
    controls are tried, as long as there is time. The best answer counts.

    Examples
    --------
    >>> from ocsolver.solvers.automatic import Automatic
    >>> Automatic()
    Automatic()
    """

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        if not self._collocates(problem, discretization, limits):
            return EMSA().run(problem, discretization, start, limits)
        if discretization.mesh is None and not (problem.restrictions or isinstance(start, Solution)):
            discretization = replace(discretization, mesh=DEFAULT_INTERVALS)
        begin = time.perf_counter()
        best = Collocation().run(problem, discretization, start, limits)
        if not _hopeless(best, problem) or limits.callback is not None:
            return best
        used = best.stats.iterations
        for guess in self._guesses(problem, limits.after(time.perf_counter() - begin, used)):
            left = limits.after(time.perf_counter() - begin, used)
            if left.max_iterations <= 0 or left.max_seconds == 0.0:
                break
            other = Collocation().run(problem, discretization, guess, left)
            used += other.stats.iterations
            for answer in (guess, other):
                if isinstance(answer, Solution) and _better(answer, best) and _has_maximum(answer):
                    best = answer
            if not _hopeless(best, problem):
                break
        return best

    @staticmethod
    def _collocates(problem: Any, discretization: Discretization, limits: Limits) -> bool:
        if not isinstance(problem, OptimalControlProblem):
            return False
        box = problem.control_set.enclosure(problem.initial_state) is not None
        asked = discretization.integrator is not None or discretization.adjoint is not None
        if problem.restrictions:
            return box and not asked
        asked |= discretization.mesh is not None or limits.tolerance is None
        states = problem.n * problem.trajectories // problem.groups
        stages = 3 * (2 * states + problem.m)
        fits = states + problem.m <= LARGEST and DEFAULT_INTERVALS * problem.groups * stages**2 <= ENTRIES
        return box and fits and not asked and problem.dtype == torch.float64

    @staticmethod
    def _guesses(problem: OptimalControlProblem, limits: Limits) -> Any:
        """Other starts, one after the other."""
        quiet = replace(limits, progress=False)
        rough: Solver = EMSA()
        if problem.restrictions:
            seconds = LONGEST if quiet.max_seconds is None else min(LONGEST, quiet.max_seconds)
            rough, quiet = AugmentedLagrangian(rough), replace(quiet, max_seconds=seconds)
        yield rough.run(problem, Discretization(None, None, None), None, quiet)
        sides = problem.control_set.enclosure(problem.initial_state)
        assert sides is not None
        if bool(torch.isfinite(sides[0]).all() & torch.isfinite(sides[1]).all()):
            for share in SHARES:
                yield problem.control_set.project(torch.lerp(*sides, share))


def _hopeless(solution: Solution, problem: OptimalControlProblem) -> bool:
    """Whether some group is far from an answer, farther than singular arcs that keep a residual from the tolerance.

    Groups whose fixed initial state violates a constraint do not count: no other control helps them.
    """
    failed = (*LOST, Status.STALLED, Status.INFEASIBLE)
    far = [
        status in failed and not (float(value) <= NEAR and status is Status.STALLED)
        for value, status in zip(solution.residual, solution.status, strict=True)
    ]
    return any(far) and any(one and not note for one, note in zip(far, violated_start(problem), strict=True))


def _has_maximum(solution: Solution) -> bool:
    """Whether H has a maximum at all along a solution."""
    return bool(torch.isfinite(solution.certificate.mean_gap).all())


def _better(new: Solution, old: Solution) -> bool:
    """More groups that succeed, or as many at a lower cost and no larger violation; none that ran away or was cut."""
    if any(status in (*LOST, Status.MAX_SECONDS) for status in new.status):
        return False
    successes = int(new.success.sum()) - int(old.success.sum())
    if successes:
        return successes > 0
    sums = [sum(float(v.sum()) for v in s.violations.values()) for s in (new, old)]
    costs = [float(s.cost.sum()) for s in (new, old)]
    if bool(new.success.all() & old.success.all()):  # on a coarse mesh J may look lower than it is
        costs = [J + float(s.certificate.cost_error.sum()) for J, s in zip(costs, (new, old), strict=True)]
    return sums[0] <= max(1.1 * sums[1], 1e-7) and costs[0] < costs[1]
