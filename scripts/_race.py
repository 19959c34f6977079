"""A race of training runs in one process, step by step: exactly one runs at a time, and only its own clock ticks.

Every run has a thread, and a baton goes round from run to run between two steps, so that whatever else happens on the
machine happens to all of them. Quick steps may take several in a turn: what the others leave in the processor's caches
would otherwise slow them down, by a fifth for the smallest networks. It knows no method, no network and no data.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["COLUMNS", "Baton", "Measure", "Rules", "Watch", "passage", "race"]

COLUMNS = ("step", "turn", "seconds", "cpu_seconds", "loss", "accuracy")
Measure = Callable[[], tuple[float, float]]  # loss and accuracy of the run as it stands


class Baton:
    """Right to run, handed on in a fixed order to those that are still in the race."""

    def __init__(self, names: Iterable[str]) -> None:
        self.waiting = {name: threading.Semaphore(0) for name in names}
        self.order = list(self.waiting)
        self.turns = 0
        self.over = threading.Event()  # everybody has left
        self.stopped = False  # set from outside: whoever gets the baton next gives up

    def start(self) -> None:
        """Give it to the first one."""
        self.waiting[self.order[0]].release()

    def take(self, name: str) -> None:
        """Wait for it."""
        self.waiting[name].acquire()
        self.turns += 1

    def hand_on(self, name: str, *, leave: bool = False) -> None:
        """Give it to the next one in the round; whoever leaves gets it no more."""
        place = self.order.index(name)
        following = self.order[(place + 1) % len(self.order)]
        if leave:
            self.order.remove(name)
        if self.order:
            self.waiting[following].release()
        else:
            self.over.set()


@dataclass(frozen=True)
class Rules:
    """What is recorded of a run, and when it is over."""

    measure: str  # "loss", to be at most a threshold, or "accuracy", to be at least one
    thresholds: tuple[float, ...]
    due: Callable[[int], bool]  # steps at which the run is evaluated
    hold: int = 1  # evaluations in a row that must keep a threshold before it counts
    leave_early: bool = True  # when all thresholds are reached

    def passed(self, value: float, threshold: float) -> bool:
        """Whether a value is good enough."""
        return value <= threshold if self.measure == "loss" else value >= threshold

    def kept(self, step: int) -> bool:
        """Whether a step gets a point of the curve: all evaluations, or 5 % apart where every step is evaluated."""
        if step <= 50 or self.measure == "accuracy":
            return True
        return math.floor(20 * math.log(step)) > math.floor(20 * math.log(step - 1))


def passage(values: Sequence[float | None], good: Callable[[float], bool], hold: int) -> int | None:
    """Index of the first of `hold` values in a row that are good; a shorter row at the end counts for nothing."""
    run = 0
    for k, value in enumerate(values):
        run = run + 1 if value is not None and good(value) else 0
        if run == hold:
            return k - hold + 1
    return None


@dataclass
class Watch:
    """Clock and records of one run, which tells it after every step; without a baton the run has the process alone.

    The clock runs from the return of `begin` or `tick` to the next `tick`: neither waiting nor evaluation counts.
    """

    name: str
    rules: Rules
    limit: int  # steps
    seconds_limit: float = math.inf
    turn_seconds: float = 0.0  # least length of a turn; 0 is one step
    baton: Baton | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    status: str = "RUNNING"
    points: list[tuple[Any, ...]] = field(default_factory=list)  # rows of COLUMNS
    reached: dict[float, tuple[Any, ...]] = field(default_factory=dict)  # threshold -> row
    _rows: dict[float, list[tuple[Any, ...]]] = field(default_factory=dict)  # good rows in a row
    _since: tuple[float, float] = (0.0, 0.0)
    _turn_began: float = 0.0  # on its own clock

    def begin(self) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), time.thread_time())

    def tick(self, step: int, measure: Measure) -> bool:
        """Stop the clock, evaluate if it is time, let the others have a turn, and say whether the run is over."""
        since = self._since
        self.cpu_seconds += time.thread_time() - since[1]
        self.seconds += time.perf_counter() - since[0]
        self.steps = step
        over = step >= self.limit or self.seconds >= self.seconds_limit
        if over or self.rules.due(step):
            self._evaluate(step, measure, over)
        if self.status == "RUNNING" and over:
            self.status = "COMPLETED"
        if self.baton is not None and self.baton.stopped:
            self.status = "INTERRUPTED"
        if self.status == "RUNNING" and self.baton is not None and self.seconds - self._turn_began >= self.turn_seconds:
            random = torch.get_rng_state()
            self.baton.hand_on(self.name)
            self.baton.take(self.name)
            torch.set_rng_state(random)  # as this run left it: no run notices the others
            self._turn_began = self.seconds
        self.begin()
        return self.status != "RUNNING"

    def _evaluate(self, step: int, measure: Measure, last: bool) -> None:
        loss, accuracy = measure()
        turn = 0 if self.baton is None else self.baton.turns
        row = (step, turn, self.seconds, self.cpu_seconds, loss, accuracy)
        rules, value = self.rules, loss if self.rules.measure == "loss" else accuracy
        news = False
        for threshold in rules.thresholds:
            if threshold in self.reached:
                continue
            held = [*self._rows.get(threshold, []), row] if rules.passed(value, threshold) else []
            self._rows[threshold] = held
            if len(held) == rules.hold:
                self.reached[threshold] = held[0]
                news = True
        if news or last or rules.kept(step) or not math.isfinite(loss):
            self.points.append(row)
        if not math.isfinite(loss):
            self.status = "NONFINITE"
        elif rules.leave_early and len(self.reached) == len(rules.thresholds):
            self.status = "REACHED"

    def record(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "method": self.name,
            "status": self.status,
            "steps": self.steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "milliseconds_per_step": 1e3 * self.seconds / max(1, self.steps),
            "curve": {column: [point[k] for point in self.points] for k, column in enumerate(COLUMNS)},
            "reached": {
                f"{threshold:g}": dict(zip(COLUMNS, self.reached[threshold], strict=True))
                if threshold in self.reached
                else None
                for threshold in self.rules.thresholds
            },
        }


def race(watches: Sequence[Watch], runs: Mapping[str, Callable[[Watch], None]]) -> int:
    """Let all runs go round by round until the last one is over; returns the number of turns.

    Parameters
    ----------
    watches : sequence of Watch
        One per run, in the order of the round.
    runs : mapping
        For each name what to do: it calls `Watch.begin` once and `Watch.tick` after every step, and returns when that
        says so.

    Returns
    -------
    int
        Turns taken by all of them.
    """
    baton = Baton([watch.name for watch in watches])
    errors: list[BaseException] = []

    def run(watch: Watch) -> None:
        baton.take(watch.name)  # preparations are not clocked, but they too need a turn
        try:
            torch.set_num_threads(1)  # of this thread
            torch.manual_seed(0)
            runs[watch.name](watch)
            watch.status = "ENDED" if watch.status == "RUNNING" else watch.status
        except BaseException as error:
            errors.append(error)
            baton.stopped = True
        finally:
            baton.hand_on(watch.name, leave=True)

    threads = [threading.Thread(target=run, args=(watch,), name=watch.name, daemon=True) for watch in watches]
    before = torch.get_rng_state()
    with warnings.catch_warnings():  # here, because its effect is on all threads
        warnings.simplefilter("ignore")
        for watch, thread in zip(watches, threads, strict=True):
            watch.baton = baton
            thread.start()
        baton.start()
        try:
            wait(baton)
        except KeyboardInterrupt:
            baton.stopped = True
            while not baton.over.is_set():  # every run ends its step, however often one asks
                with contextlib.suppress(KeyboardInterrupt):
                    wait(baton)
            raise
        finally:
            for thread in threads:
                thread.join()
            torch.set_rng_state(before)
    if errors:
        raise errors[0]
    return baton.turns


def wait(baton: Baton) -> None:
    """Wait for the end, open to Ctrl-C; not by joining threads, which Ctrl-C makes pass for dead before Python 3.13."""
    while not baton.over.wait(0.2):
        pass
