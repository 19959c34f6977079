"""The loop that drives every sweep solver, group by group; it knows no algorithm and no problem class."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ocsolver.arcs import with_arcs
from ocsolver.errors import UnsupportedError, complaint
from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.maximizers import Maximizer, default_maximizer
from ocsolver.problem import OptimalControlProblem
from ocsolver.residual import no_maximum, residual
from ocsolver.solution import History, Outcome, Solution, Stats, assemble
from ocsolver.status import Status
from ocsolver.transcription import Control, Discretization, Failure, Sweep, Transcription, transcribe

__all__ = ["Iterate", "Limits", "Solver", "SweepSolver"]

NO_MAXIMUM = "∂H/∂u = 0 along the control, but H has no maximum there: it is convex in a control without bounds"
BOTTOMLESS = "J has fallen far below any size it had: it seems to have no minimum, unless the control is bounded"
DIVERGENCE = 1e4  # growth of cost or residual that ends a group
FALL = 1e12  # by how many times its first size, and 1, J may fall


@dataclass(frozen=True)
class Limits:
    """When to stop, and whom to tell."""

    max_iterations: int
    max_seconds: float | None
    tolerance: float | None
    callback: Callable[[int, Any], Any] | None
    progress: bool

    def after(self, seconds: float, iterations: int = 0) -> Limits:
        """What is left to one more run when others have taken their part."""
        left = None if self.max_seconds is None else max(0.0, self.max_seconds - seconds)
        return replace(self, max_iterations=max(0, self.max_iterations - iterations), max_seconds=left)

    def within(self, seconds: float) -> Limits:
        """The same, for a run that takes at most so many seconds."""
        return replace(self, max_seconds=seconds if self.max_seconds is None else min(seconds, self.max_seconds))


@dataclass(frozen=True, eq=False)
class Step:
    """What one iteration did, each (G,); the entries of the history."""

    gain: Tensor
    state_error: Tensor
    costate_error: Tensor
    constant: Tensor
    rho: Tensor
    accepted: Tensor
    failed: Tensor  # the trial could not be simulated and the solver has no remedy
    stalled: Tensor  # the solver cannot move although the residual is above the tolerance

    @classmethod
    def none(cls, like: Tensor) -> Step:
        """Entry 0 of the history: nothing done yet."""
        nan, no = torch.full_like(like, torch.nan), torch.zeros_like(like, dtype=torch.bool)
        return cls(nan, nan, nan, nan, nan, ~no, no, no)


@dataclass(frozen=True, eq=False)
class Iterate:
    """State of a run between two iterations."""

    sweep: Sweep
    residual: Tensor  # (G,)
    first_gradient: Tensor  # (G,), projected gradient norm of the starting control
    active: Tensor  # (G,), groups that still move
    step: Step
    memory: Any = None  # what crosses mini-batches, meshes and checkpoints: ρ, averages, acceleration history
    trial: Any = None  # the last forward sweep that failed, for the diagnosis

    @property
    def control(self) -> Control:
        """Control blocks."""
        control: Control = self.sweep.forward.control
        return control

    @property
    def u(self) -> Any:
        """Control (N, G, m), or the tuple of blocks of a network."""
        return self.control[0] if len(self.control) == 1 else self.control

    @property
    def x(self) -> Any:
        """States."""
        return self.sweep.forward.x

    @property
    def p(self) -> Any:
        """Costates."""
        return self.sweep.p

    @property
    def cost(self) -> Tensor:
        """J (G,)."""
        cost: Tensor = self.sweep.forward.cost
        return cost


def require_free_end(problem: Any, solver: Any) -> None:
    """Raise UnsupportedError if a problem has constraints or free ends, for solvers that know none."""
    names = getattr(problem, "restrictions", ())
    if names:
        todo = "Use oc.Collocation(), or oc.AugmentedLagrangian(solver) for constraints."
        expected = "a fixed start, a fixed horizon and a free end, without path constraints"
        raise UnsupportedError(complaint(type(solver).__name__, expected=expected, got=", ".join(names), todo=todo))


class Solver(ABC):
    """Abstract base class of solvers: a frozen bag of algorithm choices."""

    @abstractmethod
    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        """Solve a problem.

        Parameters
        ----------
        problem : OptimalControlProblem
            The problem.
        discretization : Discretization
            Mesh, integrator and adjoint.
        start : object
            Initial control in any form that `solve` takes.
        limits : Limits
            When to stop.

        Returns
        -------
        Solution
            With a status per group; never raises on a numerical failure.
        """


@dataclass
class Clock:
    """Seconds by part of an iteration."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def time(self, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, adding its time and one count to a part."""
        begin = time.perf_counter()
        result = function(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
        self.counts[part] = self.counts.get(part, 0) + 1
        return result


class Timed:
    """A transcription that counts and times its sweeps."""

    def __init__(self, inner: Transcription, *, sampled: bool = False) -> None:
        self.inner = inner
        self.sampled = sampled  # a mini-batch: the next step sees another one
        self.clock = Clock()
        self.groups = inner.groups
        self.merge = inner.merge
        self.diagnose = inner.diagnose

    def forward(self, control: Control, near: Any = None) -> Any:
        """Timed forward sweep."""
        return self.clock.time("forward", self.inner.forward, control, near)

    def backward(self, forward: Any) -> Sweep:
        """Timed backward sweep."""
        sweep: Sweep = self.clock.time("backward", self.inner.backward, forward)
        return sweep

    def settle(self, forward: Any, first_gradient: Tensor | None) -> tuple[Sweep, Tensor]:
        """Backward sweep and residual of an accepted trial; on a mini-batch neither: nobody reads them."""
        if self.sampled:
            return Sweep(forward, (), None), torch.full_like(forward.cost, torch.inf)
        sweep = self.backward(forward)
        return sweep, self.residual(sweep, first_gradient)[0]

    def residual(self, sweep: Sweep, first_gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        """Timed residual; inf where the simulation failed, and on a mini-batch, where nobody asks for it."""
        if self.sampled or not bool(sweep.forward.finite.any()):
            unknown = torch.full_like(sweep.forward.cost, torch.inf)
            return unknown, unknown
        value, norm = self.clock.time("residual", residual, sweep.blocks, sweep.forward.scale, first_gradient)
        return torch.where(sweep.forward.finite, torch.nan_to_num(value, nan=torch.inf), torch.inf), norm

    def maximize(self, maximizer: Maximizer | None, block: HamiltonianBlock, *arguments: Any) -> Any:
        """Timed maximization, by the default maximizer of the block if none is given."""
        return self.clock.time("maximize", (maximizer or default_maximizer(block)).maximize, block, *arguments)


class SweepSolver(Solver):
    """Abstract base class of solvers that iterate maximization and sweeps; subclasses write `step`."""

    @staticmethod
    def first_iterate(transcription: Timed, control: Control) -> Iterate:
        """First sweep of a starting control."""
        sweep = transcription.backward(transcription.forward(control))
        value, norm = transcription.residual(sweep, None)
        return Iterate(sweep, value, norm, sweep.forward.finite, Step.none(sweep.forward.cost))

    def init(self, transcription: Timed, control: Control, memory: Any = None) -> Iterate:
        """First iterate, with what an earlier run remembered."""
        return replace(self.first_iterate(transcription, control), memory=memory)

    def pack(self, memory: Any) -> dict[str, Any] | None:
        """Memory as plain data for a checkpoint; solvers with a memory override both."""
        return None

    def unpack(self, packed: dict[str, Any] | None) -> Any:
        """Memory from what `pack` returned."""
        return None

    def moved(self, memory: Any, control: Control) -> Any:
        """Memory for a control that was changed from outside between two steps on mini-batches."""
        return memory

    def answer(self, memory: Any, control: Control) -> Control:
        """What training on mini-batches leaves in the network after a step to `control`: perhaps an average."""
        return control

    def origin(self, memory: Any, control: Control) -> Control:
        """The control to go on from where a network holds `control`, which is what the last step left."""
        return control

    def retreat(self, memory: Any) -> tuple[Control, Any] | None:
        """Control before the last step and a more careful memory, if that step was taken untested on a mini-batch."""
        return None

    def target(self, transcription: Timed, iterate: Iterate) -> Control | None:
        """The control of the next iteration, if it depends on the present sweep alone (for `Anderson`); else None."""
        return None

    @abstractmethod
    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        """One maximization and one forward sweep, accepted or not, for the active groups."""

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        require_free_end(problem, self)
        inner = transcribe(problem, discretization)
        control = inner.start(start)
        inner.check(control)
        transcription = Timed(inner)
        run = Run(self, transcription, self.init(transcription, control), limits)
        run.principle = isinstance(problem, OptimalControlProblem)
        solution: Solution = with_arcs(run.guard(lambda: self._iterate(run)))
        return solution

    def _iterate(self, run: Run) -> None:
        while run.iterations < run.limits.max_iterations and run.running:
            if not run.advance(self.step(run.transcription, replace(run.iterate, active=run.active))):
                return


class Run:
    """One run: history, statuses and stopping rules of all groups."""

    def __init__(self, solver: Solver, transcription: Timed, first: Iterate, limits: Limits) -> None:
        self.solver, self.transcription, self.limits = solver, transcription, limits
        self.begin = time.perf_counter()
        self.iterate = self.best = first
        self.status = [Status.RUNNING] * transcription.groups
        self.notes = [""] * transcription.groups
        self.principle = False  # whether controls must maximize H, as in continuous time, not merely be stationary
        self.history: list[tuple[Tensor, Tensor, Step]] = []
        self.reference_cost = first.cost.abs() + first.sweep.forward.scale
        self.reference_residual = first.residual.clamp_min(limits.tolerance or 0.0)
        self.bar = tqdm(total=limits.max_iterations, disable=not limits.progress, desc=type(solver).__name__)
        self._record()
        for g in range(transcription.groups):
            if not bool(first.sweep.forward.finite[g]):
                self._fail(g, transcription.diagnose(first.sweep.forward, g), "with the initial control")
        self._judge()

    @property
    def iterations(self) -> int:
        """Iterations done."""
        return len(self.history) - 1

    @property
    def running(self) -> bool:
        """Whether some group still moves."""
        return Status.RUNNING in self.status

    @property
    def active(self) -> Tensor:
        """Groups that still move (G,)."""
        return torch.tensor([s is Status.RUNNING for s in self.status], device=self.iterate.cost.device)

    def advance(self, iterate: Iterate) -> bool:
        """Take the result of an iteration; False means stop."""
        limits = self.limits
        self.iterate = iterate
        self._record()
        self._judge()
        if limits.progress:
            cost, residual = float(iterate.cost.mean()), float(iterate.residual.max())
            self.bar.set_postfix(cost=f"{cost:.6g}", residual=f"{residual:.1e}")
            self.bar.update()
        if limits.callback is not None and limits.callback(self.iterations, iterate):
            self._end_all(Status.STOPPED)
        if limits.max_seconds is not None and time.perf_counter() - self.begin > limits.max_seconds:
            self._end_all(Status.MAX_SECONDS)
        return self.running

    def guard(self, loop: Callable[[], Any]) -> Solution:
        """Run a loop to its end; Ctrl-C returns the best iterate."""
        try:
            loop()
            self._end_all(Status.COMPLETED if self.limits.tolerance is None else Status.MAX_ITERATIONS)
        except KeyboardInterrupt:
            self._end_all(Status.INTERRUPTED)
            sweep = self.transcription.backward(self.best.sweep.forward)
            self.iterate = replace(self.best, sweep=sweep)
        finally:
            self.bar.close()
        if self.principle and Status.CONVERGED in self.status:
            self._doubt()
        return self._solution()

    def _doubt(self) -> None:
        """Stationary controls that maximize nothing have not converged to anything that is wanted."""
        for g, lost in enumerate(no_maximum(self.iterate.sweep.blocks).tolist()):
            if lost and self.status[g] is Status.CONVERGED:
                self.status[g], self.notes[g] = Status.STALLED, NO_MAXIMUM

    def _record(self) -> None:
        new = self.iterate
        self.history.append((new.cost, new.residual, new.step))
        better = new.cost < self.best.cost
        if bool(better.all()) or self.best is new:
            self.best = new
        elif bool(better.any()):
            forward = self.transcription.merge(better, new.sweep.forward, self.best.sweep.forward)
            residual = torch.where(better, new.residual, self.best.residual)
            self.best = replace(new, sweep=replace(new.sweep, forward=forward), residual=residual)

    def _judge(self) -> None:
        """Move groups from RUNNING to their status."""
        new, limits = self.iterate, self.limits
        if len(self.history) == 2:
            self.reference_cost = torch.maximum(self.reference_cost, new.sweep.forward.scale)
        diverged = (new.cost > DIVERGENCE * self.reference_cost) | (new.residual > DIVERGENCE * self.reference_residual)
        for g in range(len(self.status)):
            if self.status[g] is not Status.RUNNING:
                continue
            if bool(new.step.failed[g]):
                self._fail(g, self.transcription.diagnose(new.trial, g), f"in iteration {len(self.history) - 1}")
            elif limits.tolerance is not None and bool(new.residual[g] <= limits.tolerance):
                self.status[g] = Status.CONVERGED
            elif bool(new.cost[g] < -FALL * self.reference_cost[g].clamp_min(1.0)):
                self.status[g], self.notes[g] = Status.DIVERGED, BOTTOMLESS
            elif bool(diverged[g]):
                self.status[g] = Status.DIVERGED
            elif bool(new.step.stalled[g]) and limits.tolerance is not None:
                self.status[g] = Status.STALLED

    def _fail(self, group: int, failure: Failure, when: str) -> None:
        self.status[group] = failure.status
        self.notes[group] = f"{failure.message}, {when}"

    def _end_all(self, status: Status) -> None:
        self.status = [status if s is Status.RUNNING else s for s in self.status]

    def _solution(self) -> Solution:
        costs, residuals, steps = zip(*self.history, strict=True)
        series = {name: torch.stack([getattr(step, name) for step in steps]) for name in Step.__dataclass_fields__}
        history = History(
            cost=torch.stack(costs),
            residual=torch.stack(residuals),
            hamiltonian_gain=series["gain"],
            state_error=series["state_error"],
            costate_error=series["costate_error"],
            constant=series["constant"],
            rho=series["rho"],
            accepted=series["accepted"],
        )
        clock = self.transcription.clock
        stats = Stats(
            iterations=len(self.history) - 1,
            sweeps=clock.counts,
            seconds={**clock.seconds, "total": time.perf_counter() - self.begin},
        )
        outcome = Outcome(self.iterate.residual, self.status, self.notes, history, stats, repr(self.solver))
        solution: Solution = assemble(self.transcription.inner, self.iterate.sweep, outcome)
        return solution
