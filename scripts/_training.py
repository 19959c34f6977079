"""Training runs with their curves, and the tuning of one parameter on a logarithmic grid by the training loss.

It knows the sine network's loss, but no figure and no claim.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from scripts import _sine
from scripts._sine import Case

__all__ = ["OPTIMIZERS", "Run", "Tuning", "descend", "end_level", "half_decade", "successive", "tune"]

EXTENSIONS = 6  # grid points that may be added beyond an edge
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "Adam": torch.optim.Adam,
}


@dataclass
class Run:
    """One training run: entry k of a curve belongs to the control after k iterations."""

    seed: int
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    seconds: float = 0.0  # wall clock, without the evaluation of the test loss
    cpu_seconds: float = 0.0  # the same on the processor, which other programs do not disturb
    parts: dict[str, float] = field(default_factory=dict)
    status: str = "COMPLETED"
    control: Tensor = field(default_factory=lambda: torch.zeros(0))


def descend(optimizer: str, step_size: float, start: str, case: Case, iterations: int) -> Run:
    """Full-batch training by one of torch's optimizers with its default options; an iteration is one gradient step."""
    run = Run(case.seed)
    u = case.starts[start].clone().requires_grad_()
    method = OPTIMIZERS[optimizer]([u], lr=step_size)  # type: ignore[call-arg]  # every optimizer takes lr
    for k in range(iterations + 1):
        with torch.no_grad():
            run.test.append(float(_sine.loss(u, case.test)))
        begin = clock()
        value = _sine.loss(u, case.train)
        run.train.append(float(value.detach()))
        if k < iterations:
            method.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            method.step()
        add_time(run, begin)
        if not math.isfinite(run.train[-1]):
            run.status = "NONFINITE"
            break
    return finish(run, u.detach(), iterations)


def successive(solver: oc.Solver, start: str, case: Case, iterations: int) -> Run:
    """Training by a solver of the library; an iteration is one maximization with its sweeps."""
    run = Run(case.seed)

    def evaluate(k: int, iterate: Any) -> None:
        begin = clock()
        with torch.no_grad():
            run.test.append(float(_sine.loss(iterate.u, case.test)))
        add_time(run, begin, -1.0)

    u = case.starts[start]
    run.test.append(float(_sine.loss(u, case.test)))
    begin = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.ConvergenceWarning)  # the status is kept
        solution = oc.solve(
            _sine.control_problem(case.train),
            solver,
            mesh=_sine.LAYERS,
            integrator=oc.Euler(),
            initial_control=u,
            max_iterations=iterations,
            tolerance=None,
            callback=evaluate,
        )
    add_time(run, begin)
    run.parts = {part: seconds for part, seconds in solution.stats.seconds.items() if part != "total"}
    run.status = solution.status[0].name
    run.train = solution.history.cost[:, 0].tolist()
    return finish(run, solution.u, iterations)


def clock() -> tuple[float, float]:
    """Wall clock and processor time."""
    return time.perf_counter(), time.process_time()


def add_time(run: Run, begin: tuple[float, float], sign: float = 1.0) -> None:
    """Add the time since `begin` to a run."""
    wall, cpu = clock()
    run.seconds += sign * (wall - begin[0])
    run.cpu_seconds += sign * (cpu - begin[1])


def finish(run: Run, control: Tensor, iterations: int) -> Run:
    """Fill the curves of a run that ended early: a failed run has infinite loss, a frozen one keeps its last."""
    for curve in (run.train, run.test):
        last = curve[-1] if math.isfinite(curve[-1]) else math.inf
        curve[:] = [value if math.isfinite(value) else math.inf for value in curve]
        curve.extend([last] * (iterations + 1 - len(curve)))
    run.control = control
    return run


def end_level(run: Run) -> float:
    """Training loss at the end: the median of the last tenth of the iterations, because some curves oscillate."""
    return statistics.median(run.train[-max(1, (len(run.train) - 1) // 10) :])


def half_decade(k: int) -> float:
    """10^(k/2), rounded to three digits."""
    return float(f"{10 ** (k / 2):.3g}")


@dataclass
class Tuning:
    """Runs of every value on the grid, and the value with the lowest median level."""

    choice: float
    runs: dict[float, list[Any]]
    level: Callable[[Any], float]

    def score(self, value: float) -> float:
        """Median level of a value."""
        return statistics.median(self.level(run) for run in self.runs[value])

    @property
    def at_edge(self) -> bool:
        """Whether the best value is the smallest or largest that was tried."""
        return self.choice in (min(self.runs), max(self.runs))


def tune(exponents: range, train: Callable[[float], list[Any]], level: Callable[[Any], float] = end_level) -> Tuning:
    """Choose from a grid of half decades by the level of its runs; a choice at the edge extends the grid by a step."""
    tuning = Tuning(math.nan, {}, level)
    first, last, step = exponents[0], exponents[-1], exponents.step
    waiting = list(exponents)
    for _ in range(EXTENSIONS + 1):
        for k in waiting:
            tuning.runs[half_decade(k)] = train(half_decade(k))
        tuning.choice = min(tuning.runs, key=tuning.score)
        if not tuning.at_edge:
            break
        if tuning.choice == half_decade(first):
            first -= step
            waiting = [first]
        else:
            last += step
            waiting = [last]
    return tuning
