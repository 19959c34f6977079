"""Several random starts of any solver, and the best of what they end at; it knows costs, not how they were found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.constraints import FreeInitialState
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.maximizers.base import positive_int
from ocsolver.outcome import History
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem, changed
from ocsolver.sets import ControlSet
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.emsa import EMSA
from ocsolver.solvers.lagrangian import AugmentedLagrangian
from ocsolver.status import Status
from ocsolver.transcription import Discretization, transcribe

__all__ = ["MultiStart"]

SAME = 1e-4  # difference of two costs, relative to max(1, |J|), up to which they count as one minimum
FREQUENCIES = (0.25, 2.0)  # of smooth random controls, in periods per horizon
SWITCHES = 3  # of bang-bang ones, at most


@dataclass(frozen=True)
class MultiStart(Solver):
    """Solve from several random admissible controls and return the best solution.

    The first start is `initial_control`; the others are in turn constant, smooth and bang-bang in time. Where there is
    one trajectory all starts run as one batch; else one after the other, because the callables may close over data of
    the trajectories, and the best is chosen per group. `max_iterations` holds for each start.

    The solution's `minima` lists, per group, the distinct costs (up to 1e-4, relative to max(1, |J|)) at which
    successful starts ended, each with the number of starts.

    Parameters
    ----------
    solver : Solver, optional
        Solves from each start; None means ``EMSA()``, or ``AugmentedLagrangian()`` for constraints and free ends.
    n : int, default 16
        Number of starts.
    seed : int, default 0
        Of the random controls.
    scale : float, default 1.0
        Size of random controls in directions without bounds.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: 0.01 * u[..., 0] ** 2,
    ...     lambda x: (x[..., 0] ** 2 - 1.0) ** 2 + 0.1 * x[..., 0],
    ...     initial_state=[0.3],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Box(-3.0, 3.0),
    ... )
    >>> solution = oc.solve(problem, oc.MultiStart(n=8), mesh=20)
    >>> print([f"{cost:.3f}" for cost, _ in solution.minima[0]], f"x(1) = {float(solution.x[-1]):.2f}")
    ['-0.083', '0.104'] x(1) = -1.01
    """

    solver: Solver | None = None
    n: int = 16
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.solver is not None and not isinstance(self.solver, Solver):
            todo = "Pass an instance such as oc.EMSA(), or None."
            raise InputError(complaint("MultiStart solver", expected="a Solver", got=repr(self.solver), todo=todo))
        positive_int(self.n, "MultiStart n")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            todo = "Another seed gives other starts."
            raise InputError(complaint("MultiStart seed", expected="an int", got=repr(self.seed), todo=todo))
        if not isinstance(self.scale, (int, float)) or not 0.0 < self.scale < math.inf:
            todo = "Pass the size of a usual control."
            raise InputError(
                complaint("MultiStart scale", expected="a positive number", got=repr(self.scale), todo=todo)
            )

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        if not isinstance(problem, OptimalControlProblem):
            todo = "Train networks from several initializations instead."
            got = type(problem).__name__
            raise UnsupportedError(complaint("MultiStart", expected="an OptimalControlProblem", got=got, todo=todo))
        inner = self.solver or (AugmentedLagrangian() if problem.restrictions else EMSA())
        starts = _Starts(self, problem, discretization, start)
        if problem.trajectories == 1:
            every = inner.run(_replicated(problem, self.n), discretization, starts.together, limits)
            best, minima = _ranked([every.cost.tolist()], [every.status])
            chosen = _one_group(every, best[0], problem)
        else:
            solutions = self._one_by_one(inner, problem, discretization, starts, limits)
            costs = torch.stack([solution.cost for solution in solutions]).T.tolist()
            best, minima = _ranked(costs, [[s.status[g] for s in solutions] for g in range(problem.groups)])
            chosen = solutions[best[0]]
            if len(set(best)) > 1:  # every group from where it did best

                def mixed(t: Tensor) -> Tensor:
                    return torch.stack([solutions[i].control(t)[0, g] for g, i in enumerate(best)])

                chosen = inner.run(problem, discretization, mixed, limits)
        notes = [
            f"{note}; {_told(found, self.n)}" if note else _told(found, self.n)
            for note, found in zip(chosen.notes, minima, strict=True)
        ]
        return replace(chosen, notes=notes, minima=minima, solver=repr(self))

    def _one_by_one(
        self, inner: Solver, problem: OptimalControlProblem, discretization: Discretization, starts: Any, limits: Limits
    ) -> list[Solution]:
        begin, solutions = time.perf_counter(), []
        for i in range(self.n):
            left = limits.after(time.perf_counter() - begin)
            solutions.append(inner.run(problem, discretization, starts.alone(i), left))
            if {Status.STOPPED, Status.INTERRUPTED, Status.MAX_SECONDS} & set(solutions[-1].status):
                break
        return solutions


class _Starts:
    """Starting controls as functions of time: the first is the user's, the others are random."""

    def __init__(
        self, solver: MultiStart, problem: OptimalControlProblem, discretization: Discretization, start: Any
    ) -> None:
        self.problem, self.like = problem, problem.initial_state
        self.t0, t1 = problem.horizon
        self.duration = t1 - self.t0
        if isinstance(start, Solution):
            self.first: Callable[[float], Tensor] = lambda s: start.control(_between(start.t, s))[0]
        else:
            transcription = transcribe(problem, discretization)
            (u,) = transcription.start(start)
            nodes = transcription.mesh.nodes
            self.first = lambda s: u[min(max(int(torch.searchsorted(nodes, s, right=True)) - 1, 0), len(u) - 1)]
        generator = torch.Generator().manual_seed(solver.seed)
        draw = _Draw(problem.control_set, self.like, solver.scale, generator)
        kinds = (draw.constant, draw.smooth, draw.bang_bang)
        self.random = [[kinds[i % 3]() for _ in range(problem.groups)] for i in range(solver.n - 1)]

    def alone(self, i: int) -> Callable[[Tensor], Tensor]:
        """Start i, t -> (G, m)."""
        return lambda t: self._at(i, self._relative(t))

    def together(self, t: Tensor) -> Tensor:
        """All starts of a problem with one trajectory, (n, m)."""
        return torch.cat([self._at(i, self._relative(t)) for i in range(len(self.random) + 1)])

    def _relative(self, t: Any) -> float:
        return min(max((float(t) - self.t0) / self.duration, 0.0), 1.0)

    def _at(self, i: int, s: float) -> Tensor:
        u = self.first(s) if i == 0 else torch.stack([control(s) for control in self.random[i - 1]])
        return self.problem.control_set.project(u.to(self.like))


class _Draw:
    """Random controls [0, 1] -> (m,) in a set, some up to a projection."""

    def __init__(self, control_set: ControlSet, like: Tensor, scale: float, generator: torch.Generator) -> None:
        self.control_set, self.like, self.scale, self.generator = control_set, like, scale, generator

    def constant(self) -> Callable[[float], Tensor]:
        value = self._point()
        return lambda s: value

    def smooth(self) -> Callable[[float], Tensor]:
        """Back and forth between two points along a sine."""
        a, b, (frequency, phase) = self._point(), self._point(), self._uniform(2).tolist()
        frequency = FREQUENCIES[0] + (FREQUENCIES[1] - FREQUENCIES[0]) * frequency
        return lambda s: torch.lerp(a, b, 0.5 + 0.5 * math.sin(2 * math.pi * (frequency * s + phase)))

    def bang_bang(self) -> Callable[[float], Tensor]:
        """Corners of the set, with one or more switches."""
        count = 1 + int(float(self._uniform(1)) * SWITCHES)
        times = self._uniform(count).sort().values
        values = [self._corner() for _ in range(count + 1)]
        return lambda s: values[int((times < s).sum())]

    def _uniform(self, size: int) -> Tensor:
        return torch.rand(size, dtype=torch.float64, generator=self.generator)

    def _point(self, *, corner: bool = False) -> Tensor:
        m, like = self.control_set.m, self.like
        noise = self.scale * torch.randn(m, dtype=torch.float64, generator=self.generator).to(like)
        unit = self._uniform(m).to(like)
        sides = self.control_set.bounds(like)
        if sides is not None:
            low, high = sides
            finite = torch.isfinite(low), torch.isfinite(high)
            one_sided = torch.where(finite[0], low + noise.abs(), torch.where(finite[1], high - noise.abs(), noise))
            share = unit.round() if corner else unit
            return torch.where(finite[0] & finite[1], low + share * (high - low), one_sided)
        points = self.control_set.candidates(like)
        if points is not None:
            return points[int(float(self._uniform(1)) * len(points))]
        return self.control_set.project(noise)

    def _corner(self) -> Tensor:
        return self._point(corner=True)


def _between(t: Tensor, s: float) -> Tensor:
    """Time at the fraction s of a solution's horizon (1,)."""
    return (t[0, 0] + s * (t[-1, 0] - t[0, 0]))[None]


def _replicated(problem: OptimalControlProblem, n: int) -> OptimalControlProblem:
    """The problem of one trajectory n times over: callables that broadcast do not notice."""
    free, x0 = problem.free_initial_state, problem.initial_state.expand(n, -1)
    if free is not None:
        free = FreeInitialState(*(side.expand(n, -1) for side in (free.guess, free.lower, free.upper)))
    return changed(problem, initial_state=x0 if free is None else free, shared_control=False)


def _ranked(costs: list[list[float]], statuses: list[list[Status]]) -> tuple[list[int], list[list[tuple[float, int]]]]:
    """Per group the best start, among the successful if there are any, and the distinct minima with their counts."""
    best, minima = [], []
    for mine, status in zip(costs, statuses, strict=True):
        good = [i for i in range(len(mine)) if status[i] >= 0] or list(range(len(mine)))
        order = sorted(good, key=lambda i: (math.isnan(mine[i]), mine[i]))
        best.append(order[0])
        found: list[tuple[float, int]] = []
        for cost in (mine[i] for i in order if status[i] >= 0):
            if found and cost - found[-1][0] <= SAME * max(1.0, abs(cost)):
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((cost, 1))
        minima.append(found)
    return best, minima


def _told(found: list[tuple[float, int]], n: int) -> str:
    if not found:
        return f"none of {n} starts succeeded"
    more = "" if len(found) == 1 else f"; {len(found)} distinct minima from J = {found[0][0]:.6g} to {found[-1][0]:.6g}"
    return f"{found[0][1]} of {n} starts ended here{more}"


def _one_group(every: Solution, g: int, problem: OptimalControlProblem) -> Solution:
    """One group of a batch as a solution of the problem that was replicated."""

    def column(values: Tensor) -> Tensor:
        return values[:, g : g + 1]

    def row(values: Tensor) -> Tensor:
        return values[g : g + 1]

    pieces = every.pieces
    if pieces is not None:
        parts = {f.name: getattr(pieces, f.name) for f in fields(Pieces)}
        kept: dict[str, Any] = {name: None if part is None else part[:, :, g : g + 1] for name, part in parts.items()}
        pieces = Pieces(**kept)
    return replace(
        every,
        t=column(every.t),
        x=column(every.x),
        p=column(every.p),
        u=column(every.u),
        cost=row(every.cost),
        residual=row(every.residual),
        status=[every.status[g]],
        notes=[every.notes[g]],
        history=History(**{f.name: column(getattr(every.history, f.name)) for f in fields(History)}),
        problem=problem,
        shared_control=problem.shared_control,
        pieces=pieces,
        multipliers={name: row(v) if v.ndim == 2 else column(v) for name, v in every.multipliers.items()},
        violations={name: row(v) for name, v in every.violations.items()},
        switches=every.switches[g : g + 1],
        singular=every.singular[g : g + 1],
    )
