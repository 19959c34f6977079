"""Tuning and races of all tasks, kept in one file as far as they are done; it knows no command line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scripts._race import Rules, Watch, race
from scripts._race_methods import EMSA, METHODS, SUCCESSIVE, Method, forward_equivalents
from scripts._race_results import summarize
from scripts._race_tasks import TUNING_SEED, Case, Task
from scripts._records import environment, storable, write_json
from scripts._training import half_decade, tune

__all__ = ["Racer", "SettingsError", "Study", "level", "settings_of"]


WARM_UPS = 3
TURN = 0.02  # seconds that a turn lasts at least


class SettingsError(Exception):
    """The file holds races of other settings."""


class Racer(NamedTuple):
    """A method with a step size."""

    name: str
    method: Method
    value: float


def plain(record: Any) -> Any:
    """A record as it is read from its file."""
    return json.loads(json.dumps(storable(record)))


def level(watch: Watch) -> float:
    """What tuning minimizes: the geometric mean of the steps to the thresholds, and a little more for the rest.

    The rest is the error at the end, or the loss relative to one plus it. A threshold that was not reached counts twice
    the steps of the run.
    """
    if watch.status == "NONFINITE" or not watch.points:
        return math.inf
    loss, accuracy = watch.points[-1][-2:]
    rest = 1.0 - accuracy if watch.rules.measure == "accuracy" else loss / (1.0 + loss)
    missed = 2.0 * watch.limit
    steps = [watch.reached[t][0] if t in watch.reached else missed for t in watch.rules.thresholds]
    mean = math.exp(sum(math.log(step) for step in steps) / len(steps))
    return float(mean * (1.0 + rest))


def settings_of(task: Task, methods: Sequence[Method], *, quick: bool) -> dict[str, Any]:
    """What must be equal for races to belong together."""
    settings = {
        "quick": quick,
        "methods": [method.name for method in methods],
        "E-MSA": repr(EMSA),
        "measure": task.measure,
        "thresholds": list(task.thresholds),
        "hold": task.hold,
        "leave_early": task.leave_early,
        "limit": task.limit,
        "tuning_limit": task.tuning_limit,
        "seconds": task.seconds,
        "target_step": task.target_step,
        "facts": task.facts,
    }
    result: dict[str, Any] = plain(settings)
    return result


def warm_up(racers: Sequence[Racer], case: Case) -> None:
    """A few short runs of everybody, unmeasured: where a run takes milliseconds, first calls would decide the race."""
    rules = Rules("loss", (), lambda step: False)
    for racer in list(racers) * WARM_UPS:
        watch = Watch(racer.name, rules, 30)
        watch.begin()
        racer.method.train(case, racer.value, watch)


@dataclass
class Study:
    """What was asked for, and everything that is done of it."""

    tasks: list[Task]
    methods: list[Method]
    seeds: int
    quick: bool
    path: Path
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict)  # task -> method -> choice and grid
    races: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # task -> records by seed

    def fitting(self, task: Task) -> list[Method]:
        """Methods that take part in a task."""
        return [method for method in self.methods if method.only in ("", task.measure)]

    # ------------------------------------------------------------------ what is done

    def take(self, earlier: dict[str, Any], *, strict: bool) -> None:
        """Take over what an earlier run has done with the same settings; if strict, other settings are an error."""
        for name, entries in earlier["tuning"].items():
            mine = self.tuning.setdefault(name, {})
            mine.update({method: entry for method, entry in entries.items() if method not in mine})
        for name, records in earlier["races"].items():
            task = next((task for task in self.tasks if task.name == name), None)
            wanted = None if task is None else settings_of(task, self.fitting(task), quick=self.quick)
            fitting = [record for record in records if wanted in (None, record["rules"])]
            if strict and len(fitting) < len(records):
                raise SettingsError(f"it holds races of {name} with other methods, limits or thresholds")
            kept = self.races.setdefault(name, [])
            kept += [record for record in fitting if record["seed"] not in {other["seed"] for other in kept}]

    def results(self) -> dict[str, Any]:
        """Everything, with its summary."""
        races = {name: sorted(records, key=lambda r: int(r["seed"])) for name, records in self.races.items() if records}
        results: dict[str, Any] = {"quick": self.quick}
        results["methods"] = {name: method.about for name, method in METHODS.items()}
        results["absent"] = [name for name, method in METHODS.items() if not method.default and name != NAMED_ONLY]
        results["summary"] = {name: summarize(records) for name, records in races.items()}
        return results | environment() | {"tuning": self.tuning, "races": races}

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, self.results())

    # ------------------------------------------------------------------ doing it

    def everything(self) -> Iterator[str]:
        """Tune and race whatever is not done; yields the name of a task after each of its seeds."""
        for task in self.tasks:
            for method in self.fitting(task):
                self.tune(task, method)
            done = {record["seed"] for record in self.races.setdefault(task.name, [])}
            for seed in sorted(set(range(self.seeds)) - done):
                self.races[task.name].append(self.race(task, seed))
                self.save()
                yield task.name

    def tune(self, task: Task, method: Method) -> None:
        """Choose the step size of a method on the tuning seed, unless it has none or is known."""
        grid = method.grids.get(task.measure)
        entries = self.tuning.setdefault(task.name, {})
        if grid is None or method.all_raced == task.measure:
            return
        settings = plain([self.quick, method.about, task.thresholds, task.tuning_limit, task.facts])
        if method.name in entries and entries[method.name]["settings"] == settings:
            return
        case = task.make(TUNING_SEED, True)
        rules = Rules(task.measure, task.thresholds, task.due_in_tuning)  # held twice would be too rough here
        if self.quick:
            grid = range(grid[0], grid[-1] + 1, 2)

        def trial(value: float) -> list[Watch]:
            watch = Watch(method.name, rules, task.tuning_limit)
            watch.begin()
            method.train(case, value, watch)
            return [watch]

        chosen = tune(grid, trial, level)
        entries[method.name] = plain(
            {
                "choice": chosen.choice,
                "at_edge": chosen.at_edge,
                "settings": settings,
                "grid": [
                    {"value": value, "level": chosen.score(value)} | chosen.runs[value][0].record()
                    for value in sorted(chosen.runs)
                ],
            }
        )
        self.save()
        print(f"{task.name}: {method.name} runs with step size {chosen.choice:g}", flush=True)

    def racers(self, task: Task) -> list[Racer]:
        """Who takes part, in the order of the round."""
        racers = []
        for method in self.fitting(task):
            grid = method.grids.get(task.measure)
            if grid is None:
                racers.append(Racer(method.name, method, math.nan))
            elif method.all_raced == task.measure:
                values = [half_decade(k) for k in (grid[1::2] if self.quick else grid)]
                racers += [Racer(f"{method.name} {value:g}", method, value) for value in values]
            else:
                racers.append(Racer(method.name, method, self.tuning[task.name][method.name]["choice"]))
        return racers

    def race(self, task: Task, seed: int) -> dict[str, Any]:
        """One race and its record."""
        case = task.make(seed, False)
        racers = self.racers(task)
        forward = {racer.name: forward_equivalents(racer.method, case, racer.value) for racer in racers}
        rules = Rules(task.measure, task.thresholds, task.due, task.hold, task.leave_early)
        if task.measure == "loss" and not self.quick:
            warm_up(racers, case)
        turn = 0.0 if self.quick else TURN
        watches = [
            Watch(racer.name, rules, min(task.limit, racer.method.limit or task.limit), task.seconds, turn)
            for racer in racers
        ]
        turns = race(watches, {racer.name: partial(racer.method.train, case, racer.value) for racer in racers})
        runs = [
            watch.record()
            | {
                "family": racer.method.name,
                "first_order": racer.method.first_order,
                "value": racer.value,
                "forward_equivalents": forward[racer.name],
            }
            for watch, racer in zip(watches, racers, strict=True)
        ]
        own = sum(watch.seconds for watch in watches)
        print(f"{task.name}, seed {seed}: {turns} turns, {own:.0f} s of training", flush=True)
        result: dict[str, Any] = plain(
            {
                "task": task.name,
                "seed": seed,
                "turns": turns,
                "rules": settings_of(task, self.fitting(task), quick=self.quick),
                "runs": runs,
            }
        )
        return result


NAMED_ONLY = f"{SUCCESSIVE} L-BFGS"  # takes part only when it is named
