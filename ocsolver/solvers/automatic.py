"""What `solve` does if no solver is named: collocation where it applies, E-MSA elsewhere and to find a basin."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from ocsolver.continuous import DEFAULT_INTERVALS
from ocsolver.errors import InputError
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.collocation import Collocation, violated_start
from ocsolver.solvers.emsa import EMSA
from ocsolver.solvers.lagrangian import AugmentedLagrangian
from ocsolver.solvers.multistart import MultiStart
from ocsolver.status import Status
from ocsolver.transcription import Discretization

__all__ = ["Automatic"]

LARGEST = 40  # states and controls of a group for which dense blocks pay
ENTRIES = 100_000_000  # of the stage equations of all groups on the default mesh
NEAR = 1e-5  # residual of a group that stalled near its answer
LONGEST, RANDOM = 20.0, 40.0  # seconds that E-MSA, and random starts, may take to find an answer
STARTS = 8  # of a single problem that nothing else has solved
ADMISSIBLE = 1e-7  # violation of constraints
VISIBLE, ALIKE = 1e-4, 2.0  # violation that the time or the mesh does not explain, and factor of one that is alike
CLOSER = 0.1  # factor of the violation that makes up for being cut short
FIRST, ENOUGH = 0.7, 700  # share of the iterations that the first attempt may take, and how many it may always take
UNFINISHED = (Status.STALLED, Status.MAX_ITERATIONS)
LOST = (Status.DIVERGED, Status.NONFINITE, Status.INTEGRATION_FAILED)
SHARES = (0.25, 0.75)  # of the way between the bounds: other controls to start from


@dataclass(frozen=True)
class Automatic(Solver):
    """Collocation in double precision, for problems of moderate size with a box or ball of controls; else E-MSA.

    A mesh, an integrator or an adjoint that is asked for belongs to E-MSA, whose control is constant on the intervals
    of that mesh; so do runs of a fixed number of iterations. If collocation does not converge, E-MSA globalizes, with
    an augmented Lagrangian where there are constraints: its control is the start of a second attempt; then other
    controls are tried, at last some random ones at once, as long as there is time. The best answer counts; its
    history is its own, its total of seconds that of all attempts. They share `max_iterations`, but each of the random
    ones may take so many.

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
        if limits.callback is not None:  # it watches one run
            return Collocation().run(problem, discretization, start, limits)
        most = min(limits.max_iterations, max(ENOUGH, int(FIRST * limits.max_iterations)))
        best = Collocation().run(problem, discretization, start, replace(limits, max_iterations=most))
        used = best.stats.iterations
        if used >= limits.max_iterations or not _hopeless(best, problem):
            return best
        hopes = [best]
        for answers in _others(problem, discretization, limits, begin, used):
            hopes += answers
            for answer in answers:
                if _better(answer, best) and _has_maximum(answer):
                    best = answer
            if not _hopeless(best, problem) or _interrupted(answers[-1]):
                break
        seconds = time.perf_counter() - begin
        late = limits.max_seconds is not None and seconds >= limits.max_seconds
        answer = best if late else _not_late(_infeasible(best, hopes))
        return replace(answer, stats=replace(answer.stats, seconds={**answer.stats.seconds, "total": seconds}))

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


def _others(
    problem: OptimalControlProblem, discretization: Discretization, limits: Limits, begin: float, used: int
) -> Iterator[Sequence[Solution]]:
    """Answers from other starts, one start after the other, after so many iterations since `begin`."""

    def left() -> Limits:
        return limits.after(time.perf_counter() - begin, used)

    def starts() -> Iterator[Any]:
        free, quiet = Discretization(None, None, None), replace(left(), progress=False)
        solver = AugmentedLagrangian(EMSA()) if problem.restrictions else EMSA()
        with suppress(InputError):  # functions that collocation can do without at the initial state
            yield solver.run(problem, free, None, quiet.within(LONGEST))
        sides = problem.control_set.enclosure(problem.initial_state)
        assert sides is not None
        if bool(torch.isfinite(sides[0]).all() & torch.isfinite(sides[1]).all()):
            for share in SHARES:
                yield problem.control_set.project(torch.lerp(*sides, share))

    start: Any = None
    for start in starts():
        rest = left()
        if _interrupted(start) or rest.max_iterations <= 0 or rest.max_seconds == 0.0:
            break
        answer = Collocation().run(problem, discretization, start, rest)
        used += answer.stats.iterations
        yield (start, answer) if isinstance(start, Solution) else (answer,)
    rest = left()
    if problem.trajectories == 1 and rest.max_seconds != 0.0 and not _interrupted(start):
        each = replace(rest.within(RANDOM), max_iterations=limits.max_iterations)
        yield (MultiStart(Collocation(), STARTS).run(problem, discretization, None, each),)


def _hopeless(solution: Solution, problem: OptimalControlProblem) -> bool:
    """Whether some group is far from an answer, farther than singular arcs that keep a residual from the tolerance.

    Groups whose fixed initial state violates a constraint do not count: no other control helps them.
    """
    failed = (*LOST, *UNFINISHED, Status.INFEASIBLE)
    far = [
        status in failed and not (float(value) <= NEAR and status in UNFINISHED)
        for value, status in zip(solution.residual, solution.status, strict=True)
    ]
    return any(far) and any(one and not note for one, note in zip(far, violated_start(problem), strict=True))


def _not_late(solution: Solution) -> Solution:
    """The solution without the word that the time ran out: it was that of an attempt, which nobody has set."""
    if Status.MAX_SECONDS not in solution.status:
        return solution
    status: list[Status] = [Status.STALLED if status is Status.MAX_SECONDS else status for status in solution.status]
    return replace(solution, status=status)


def _infeasible(best: Solution, answers: Sequence[Solution]) -> Solution:
    """The best answer, or one that says that nothing is feasible and violates constraints hardly more."""
    if bool(best.success.all()) or Status.INFEASIBLE in best.status or _violation(best) <= VISIBLE:
        return best
    said = [
        answer
        for answer in answers
        if Status.INFEASIBLE in answer.status and bool((answer.success | ~best.success).all())
    ]
    nearest = min(said, key=_violation, default=best)
    return nearest if _violation(nearest) <= ALIKE * _violation(best) else best


def _violation(solution: Solution) -> float:
    """Sum of the largest violations of all constraints."""
    return sum(float(v.sum()) for v in solution.violations.values())


def _interrupted(start: Any) -> bool:
    """Whether it is what somebody has interrupted, who wants no other attempt."""
    return isinstance(start, Solution) and Status.INTERRUPTED in start.status


def _has_maximum(solution: Solution) -> bool:
    """Whether H has a maximum at all along a solution."""
    return bool(torch.isfinite(solution.certificate.mean_gap).all())


def _better(new: Solution, old: Solution) -> bool:
    """More groups that succeed; of as many, one that is nearer to admissible, or is so too and has a lower cost."""
    successes = int(new.success.sum()) - int(old.success.sum())
    if successes < 0 or any(status in LOST for status in new.status):
        return False
    if successes > 0 or any(status in LOST for status in old.status):
        return True
    cut = any(status is Status.MAX_SECONDS for status in new.status)
    violations = [_violation(s) for s in (new, old)]
    if not bool(old.success.all()) and violations[1] > ADMISSIBLE:
        return violations[0] < (CLOSER if cut else 1.0) * violations[1]
    if cut or violations[0] > max(violations[1], ADMISSIBLE):
        return False
    costs = [float((s.cost + s.certificate.cost_error).sum()) for s in (new, old)]  # J may look lower than it is
    return costs[0] < costs[1]
