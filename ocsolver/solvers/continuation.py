"""From an easy problem to a hard one in steps, each solved from the last; it does not know what a parameter means."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.status import Status
from ocsolver.transcription import Discretization

__all__ = ["Continuation"]

LOOSE = 1e-4  # tolerance on the way; the last problem is solved to that of the run
ENDED = (Status.STOPPED, Status.INTERRUPTED, Status.MAX_SECONDS)


@dataclass(frozen=True, eq=False)
class Continuation(Solver):
    """Solve a family of problems one after the other, the last one being the problem that `solve` was given [1]_.

    Each problem starts from the solution before, stretched to its horizon. Where one fails, the step from the last
    success is halved. `max_iterations` holds for each problem, `max_seconds` for all.

    Parameters
    ----------
    solver : Solver
        Solves each problem.
    family : callable
        ``family(value) -> OptimalControlProblem``, for a length of the horizon, a weight, or any other parameter.
    values : sequence of float
        Values on the way; the last one belongs to the problem itself.
    halvings : int, default 8
        How often a step may be halved before the continuation is given up.

    References
    ----------
    .. [1] E. Allgower, K. Georg, *Introduction to Numerical Continuation Methods*, SIAM 2003.

    Examples
    --------
    Maximization without a penalty, on horizons that grow:

    >>> import ocsolver as oc
    >>> def family(horizon):
    ...     return oc.OptimalControlProblem(
    ...         lambda t, x, u: u - x**3,
    ...         lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
    ...         initial_state=[1.5],
    ...         horizon=(0.0, horizon),
    ...         control_set=oc.Unconstrained(1),
    ...     )
    >>> solver = oc.Continuation(oc.EMSA(), family, [1.0, 2.0, 4.0, 8.0])
    >>> print(f"{float(oc.solve(family(8.0), solver, mesh=200).cost):.4f}")
    0.5069
    """

    solver: Solver
    family: Callable[[Any], OptimalControlProblem]
    values: Sequence[Any]
    halvings: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Solver):
            todo = "Pass an instance such as oc.EMSA()."
            raise InputError(complaint("Continuation solver", expected="a Solver", got=repr(self.solver), todo=todo))
        if not callable(self.family):
            todo = "Pass a function family(value) -> OptimalControlProblem."
            raise InputError(complaint("Continuation family", expected="a callable", got=repr(self.family), todo=todo))
        if len(self.values) == 0:
            todo = "Give the values on the way, the last one being that of the problem."
            raise InputError(complaint("Continuation values", expected="at least one value", got="none", todo=todo))
        if isinstance(self.halvings, bool) or not isinstance(self.halvings, int) or self.halvings < 0:
            todo = "0 gives up at the first failure."
            got = repr(self.halvings)
            raise InputError(complaint("Continuation halvings", expected="an int ≥ 0", got=got, todo=todo))

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        begin = time.perf_counter()

        def solved(target: Any, start: Any, **changes: Any) -> Solution:
            changed = replace(limits.after(time.perf_counter() - begin), **changes)
            return self.solver.run(target, discretization, _stretched(start, target), changed)

        loose = None if limits.tolerance is None else max(limits.tolerance, LOOSE)
        ahead, reached, halvings, count = list(self.values), None, 0, 0
        while True:
            value, last = ahead[0], len(ahead) == 1
            solution = solved(problem, start) if last else solved(self._member(value), start, tolerance=loose)
            count += 1
            good, ended = bool(solution.success.all()), not set(ENDED).isdisjoint(solution.status)
            if (last and good) or ended or (not good and (reached is None or halvings >= self.halvings)):
                break
            if good:
                reached, start, halvings = ahead.pop(0), solution, max(0, halvings - 1)
            else:
                ahead.insert(0, reached + (value - reached) / 2)
                halvings += 1
        before = "" if reached is None else f", after {reached}"
        note = (
            f"the last of {count} problems" if last and good else f"the continuation ended at the value {value}{before}"
        )
        none = {"max_iterations": 0, "tolerance": None, "callback": None}
        return self._told(solution, problem, note, lambda target, start: solved(target, start, **none))

    def _member(self, value: Any) -> OptimalControlProblem:
        member = self.family(value)
        if not isinstance(member, OptimalControlProblem):
            todo = "Return the problem that belongs to the value."
            got = type(member).__name__
            raise InputError(
                complaint("Continuation family(value)", expected="an OptimalControlProblem", got=got, todo=todo)
            )
        return member

    def _told(self, solution: Solution, problem: Any, note: str, run: Callable[[Any, Any], Solution]) -> Solution:
        """The solution with a note; where the way was left early, that of the problem under the last control."""
        statuses, own = solution.status, solution.notes
        if solution.problem is not problem:
            solution = run(problem, solution)
        notes = [f"{note}; {other}" if other else note for other in own]
        return replace(solution, status=statuses, notes=notes, solver=repr(self))


def _stretched(start: Any, problem: OptimalControlProblem) -> Any:
    """A start on the horizon of a problem: a Solution on another one is stretched."""
    if not isinstance(start, Solution) or problem.free_time is not None:
        return start
    t0, t1 = problem.horizon
    first, last = start.t[0, 0], start.t[-1, 0]
    if (float(first), float(last)) == tuple(float(torch.tensor(end).to(first)) for end in problem.horizon):
        return start

    def control(t: Tensor) -> Tensor:
        share = ((t.to(first) - t0) / (t1 - t0)).clamp(0.0, 1.0)
        return start.control((first + share * (last - first))[None])[0]

    return control
