"""Collocation: the maximum principle on an adaptive mesh, for constraints, free ends and high accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ocsolver._call import call
from ocsolver.boxed import in_a_box
from ocsolver.collocation.absolutes import Absolutes
from ocsolver.collocation.camp import Camp
from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.errors import VIOLATION
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.stop import Stop
from ocsolver.constraints import Constraint
from ocsolver.continuous import ContinuousTranscription, check_numbers
from ocsolver.errors import UnsupportedError, complaint
from ocsolver.freetime import on_unit_time
from ocsolver.maximizers.base import positive_int
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.attempts import FAILURES, best, from_solution, merit, tried_alone
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.collocated import iterate_of, limits_of, report, warm_start
from ocsolver.solvers.recalled import EVEN, Memory, Posed
from ocsolver.status import Status
from ocsolver.transcription import Control, Discretization, transcribe

__all__ = ["Collocation", "violated_start"]


@dataclass(frozen=True)
class Collocation(Solver):
    """Solve the maximum principle, collocated at Gauss points, by an interior-point method on an adaptive mesh.

    Control bounds, path constraints, terminal constraints, a free final time and free initial states are served; the
    multipliers of the collocation equations are the costates. It starts from a trivial guess, encloses the times at
    which a control jumps or reaches a bound, and divides intervals until the errors of the cost are below the tolerance
    of `solve`. Its control is a polynomial on each interval, so one that jumps only at nodes.

    Parameters
    ----------
    stages : int, default 3
        Gauss points s of an interval; the order is 2s. Where costates swing along a constraint on states, Radau points
        take their place, of order 2s − 1.
    max_intervals : int, default 1000
        Largest number of intervals of a mesh.

    References
    ----------
    .. [1] W. Hager, *Runge–Kutta methods in optimal control and the transformed adjoint system*, Numer. Math. 87,
       2000.
    .. [2] A. Wächter, L. Biegler, *On the implementation of an interior-point filter line-search algorithm for
       large-scale nonlinear programming*, Math. Program. 106 (2006).

    Examples
    --------
    The double integrator in minimal time, J* = 2:

    >>> import torch, ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
    ...     lambda t, x, u: torch.ones_like(x[..., 0]),
    ...     initial_state=[-1.0, 0.0],
    ...     horizon=(0.0, oc.FreeTime()),
    ...     control_set=oc.Box(-1.0, 1.0),
    ...     terminal_constraint=oc.Constraint(lambda x: x),
    ... )
    >>> solution = oc.solve(problem, oc.Collocation())
    >>> print(f"{float(solution.cost):.6f}, switch at {solution.switches[0][0][0]:.4f}")
    2.000000, switch at 1.0000
    """

    stages: int = 3
    max_intervals: int = 1000

    def __post_init__(self) -> None:
        positive_int(self.stages, "Collocation stages")
        positive_int(self.max_intervals, "Collocation max_intervals")

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        begin = time.perf_counter()
        _check_choices(problem, discretization)
        given = discretization.mesh
        memory = start.memory if isinstance(start, Solution) and given is None else None
        known = memory.posed(problem, self.stages) if isinstance(memory, Memory) else None
        bar = tqdm(total=limits.max_iterations, desc="Collocation") if limits.progress else None
        watched = limits.progress or limits.callback is not None
        reporter = _Reporter(self, problem, limits, bar) if watched else None
        stop = Stop(limits.max_iterations, limits.max_seconds, limits.tolerance, begin)
        outside = [""] * problem.groups
        tried: list[tuple[Campaign, dict[int, Campaign]]] = []
        if known is None or not known.starts_inside():
            outside = violated_start(problem)
        damps = problem.path_constraint is not None and problem.path_constraint.arguments == 2
        finer = start is None and given is None and not any(outside)
        for posed in self._statements(problem, given, start) if known is None else (known,):
            campaign = self._campaign(problem, posed, stop, reporter, damps)
            if tried:  # one run, as its history goes
                campaign.history, campaign.counts = tried[0][0].history, tried[0][0].counts | {"meshes": 0}
            if posed.warm is not None:
                campaign = from_solution(campaign, posed)
            else:
                campaign = best(campaign, posed.nodes, posed.control, finer=finer)
            tried.append((campaign, tried_alone(campaign, posed, damps, outside)))
            if campaign.succeeded or campaign.ending is not None or not campaign.camp.time_left():
                break
        if bar is not None:
            bar.close()
        campaign, alone = tried[0] if len(tried) == 1 else max(tried, key=lambda one: merit(one[0]))
        campaign.history, campaign.counts = tried[-1][0].history, tried[-1][0].counts
        _explain(campaign, outside, lambda: self._first(problem, given, start))
        return report(problem, campaign, alone, begin, repr(self))

    def _campaign(
        self, problem: OptimalControlProblem, posed: Posed, stop: Stop, reporter: Any, damps: bool
    ) -> Campaign:
        """A campaign for one statement of the problem."""
        clocked = problem.free_time is not None
        setting = self.stages, self.max_intervals, stop, clocked, reporter, posed.of_the_set, damps
        return Campaign(posed.stacked, posed.limits, *setting)

    @staticmethod
    def _first(problem: OptimalControlProblem, mesh: Any, start: Any) -> tuple[ContinuousTranscription, Control]:
        """The first mesh, and the control to begin with."""
        if mesh is None:
            mesh = len(start) if isinstance(start, (Tensor, np.ndarray)) and start.ndim == 3 else EVEN
        inner = transcribe(problem, Discretization(mesh, None, None))
        return inner, inner.start(None if isinstance(start, Solution) else start)

    def _statements(self, problem: OptimalControlProblem, mesh: Any, start: Any) -> Iterator[Posed]:
        """The problem, checked: as it is, and with controls in the place of absolute values, if there are some.

        The latter comes first where they are those of controls: kinks of states are passed in an instant.
        """
        _check_control_set(problem)
        inner, control = self._first(problem, mesh, start)
        inner.check(control, derivatives=False)
        _check_constraints(problem, control[0])
        boxed = in_a_box(problem)
        assert boxed is not None
        plain = Stacked(on_unit_time(boxed), begin=problem.horizon[0], source=problem)
        statements: list[tuple[Stacked, Absolutes | None]] = [(plain, None)]
        if not plain.separable:  # else its functions have been read operation by operation
            inner.check_derivatives(control)
            absolutes = Absolutes.of(problem) if boxed is problem else None
            if absolutes is not None:
                unit = on_unit_time(absolutes.smooth)
                smooth = Stacked(unit, begin=problem.horizon[0], source=problem, guise=absolutes.guise)
                if smooth.separable:
                    statements.insert(0 if absolutes.of_controls else 1, (smooth, absolutes))
        for stacked, kinks in statements:
            yield self._posed(problem, stacked, kinks, inner, control, mesh, start)

    def _posed(
        self,
        problem: OptimalControlProblem,
        stacked: Stacked,
        absolutes: Absolutes | None,
        inner: ContinuousTranscription,
        control: Control,
        mesh: Any,
        start: Any,
    ) -> Posed:
        """Where campaigns start."""
        unit = stacked.problem
        sides, (t0, t1) = limits_of(stacked), unit.horizon
        rows = problem.control_set.inequalities(problem.initial_state.new_zeros(problem.m)).numel()
        rows += 0 if stacked.guise is None else stacked.guise.rows
        if isinstance(start, Solution) and start.problem is not None:
            own = None if mesh is None else inner.mesh.nodes.numpy()
            warm = warm_start(problem, unit, start, self.stages, own, absolutes)
            return Posed(stacked, sides, t0 + (t1 - t0) * warm.fractions, rows, warm=warm.start)
        nodes = (t0 + (t1 - t0) * inner.mesh.nodes).to(torch.float64).numpy()[:, None].repeat(stacked.groups, 1)
        if start is None:
            return Posed(stacked, sides, nodes, rows)
        u = control[0]
        if absolutes is not None:
            x = problem.initial_state.expand(len(u), -1, -1)
            u = absolutes.extended(inner.nodes[:-1, None], x, u)
        return Posed(stacked, sides, nodes, rows, u.to(torch.float64).cpu().numpy())


@dataclass(eq=False)
class _Reporter:
    """Called after each iteration: progress bar and the user's callback."""

    solver: Collocation
    problem: OptimalControlProblem
    limits: Limits
    bar: Any

    def __call__(self, k: int, camp: Camp) -> bool:
        if self.bar is not None:
            cost, error = float(camp.cost.mean()), float(camp.residual.max())
            self.bar.set_postfix(cost=f"{cost:.6g}", residual=f"{error:.1e}", intervals=len(camp.mesh.h))
            self.bar.update()
        if self.limits.callback is None:
            return False
        return bool(self.limits.callback(k, iterate_of(self.problem, camp)))


def violated_start(problem: OptimalControlProblem) -> list[str]:
    """Per group what an initial state that is fixed has against a path constraint on states, or an empty text."""
    constraint, t0 = problem.path_constraint, problem.horizon[0]
    none = [""] * problem.groups
    if constraint is None or constraint.arguments != 2 or problem.free_initial_state is not None:
        return none
    x = problem.initial_state
    excess = constraint.violation(constraint.path(x.new_full((1,), t0), x, x))  # (B, c)
    worst, component = (part.reshape(problem.groups, -1) for part in excess.max(-1))
    notes = []
    for amount, which in zip(worst, component, strict=True):
        row = int(amount.argmax())
        text = f"path_constraint component {int(which[row])} is violated by {float(amount[row]):.3g} at t = {t0:g}"
        notes.append(f"{text}, by the initial state" if float(amount[row]) > VIOLATION else "")
    return notes


def _explain(
    campaign: Campaign, start: list[str], first: Callable[[], tuple[ContinuousTranscription, Control]]
) -> None:
    """Say what is wrong with groups that had no chance: an inadmissible start, functions that are not finite."""
    for g, note in enumerate(start):
        if note:
            campaign.status[g], campaign.notes[g] = Status.INFEASIBLE, note
    hopeless = [g for g, status in enumerate(campaign.status) if status in FAILURES and not start[g]]
    if not hopeless:
        return
    inner, control = first()
    forward = inner.forward(control)
    for g in hopeless:
        failure = None if bool(forward.finite[g]) else inner.diagnose(forward, g)
        unknown = campaign.error[g] > abs(campaign.camp.cost[g])  # nothing is known of J: no control may keep it finite
        if failure is not None and (failure.status is Status.NONFINITE or unknown):
            campaign.status[g], campaign.notes[g] = failure.status, f"{failure.message}, with the initial control"


def _check_choices(problem: Any, discretization: Discretization) -> None:
    if not isinstance(problem, OptimalControlProblem):
        got, todo = type(problem).__name__, "Use oc.EMSA()."
        raise UnsupportedError(complaint("Collocation", expected="an OptimalControlProblem", got=got, todo=todo))
    for name in ("integrator", "adjoint"):
        if getattr(discretization, name) is not None:
            todo = "Leave it out; the accuracy is that of the tolerance."
            got = repr(getattr(discretization, name))
            raise UnsupportedError(
                complaint(f"Collocation {name}", expected="None: it is a method of its own", got=got, todo=todo)
            )


def _check_control_set(problem: OptimalControlProblem) -> None:
    if problem.control_set.enclosure(problem.initial_state) is None:
        todo = "Relax the set to a Box (and round the result), or use oc.EMSA()."
        expected = "an Unconstrained set, a Box or a Ball"
        raise UnsupportedError(complaint("Collocation", expected=expected, got=problem.control_set, todo=todo))


def _check_constraints(problem: OptimalControlProblem, u: Tensor) -> None:
    """Call the constraints once and check what they return."""
    x = problem.initial_state.expand(2, 3, *problem.initial_state.shape).contiguous()
    t = x.new_full((2, 3, 1), problem.horizon[0])
    with torch.no_grad():
        if problem.terminal_constraint is not None:
            constraint: Constraint = problem.terminal_constraint
            output = call(constraint.function, "terminal_constraint", x)
            constraint.check("terminal_constraint", output, x)
        if problem.path_constraint is not None:
            constraint = problem.path_constraint
            arguments = (t, x, u[:1].expand(2, 3, *u.shape[1:]))[: constraint.arguments]
            output = call(constraint.function, "path_constraint", *arguments)
            constraint.check("path_constraint", output, x)
            check_numbers("path_constraint", output)
