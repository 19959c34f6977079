"""What the race says, from its records alone: seconds and steps to each threshold, spreads over the seeds, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scripts._claims import known
from scripts._race import passage

__all__ = ["CLOCK", "family_runs", "print_table", "summarize", "value_at"]

OURS = "E-MSA"
UNITS = ("seconds", "cpu_seconds", "steps")
CLOCK = "cpu_seconds"  # what decides: every run has one thread, and a busy machine stretches its seconds at random


def family_runs(race: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs of one race by method; one method has several if its whole grid took part."""
    families: dict[str, list[dict[str, Any]]] = {}
    for run in race["runs"]:
        families.setdefault(run["family"], []).append(run)
    return families


def values_of(run: dict[str, Any], measure: str) -> list[float]:
    """Curve of what counts; missing numbers are as bad as can be."""
    worst = math.inf if measure == "loss" else 0.0
    return [worst if value is None else value for value in run["curve"][measure]]


def best(values: Iterable[float], measure: str) -> float:
    """Lowest loss or highest accuracy."""
    return min(values, default=math.inf) if measure == "loss" else max(values, default=0.0)


def value_at(run: dict[str, Any], measure: str, unit: str, place: float) -> float:
    """Loss or accuracy of a run after some seconds or steps: of its last point until then; NaN before the first."""
    values = [v for v, x in zip(values_of(run, measure), run["curve"][unit], strict=True) if x <= place]
    return values[-1] if values else math.nan


def target_of(races: Sequence[dict[str, Any]], step: int) -> float | None:
    """Median over the seeds of the accuracy after some steps, for the usual optimizer that is best there."""
    levels: dict[str, list[float]] = {}
    for race in races:
        for name, runs in family_runs(race).items():
            if not name.startswith(OURS) and runs[0]["first_order"]:
                accuracy = value_at(runs[0], "accuracy", "step", step)
                levels.setdefault(name, []).append(0.0 if math.isnan(accuracy) else accuracy)
    return max((statistics.median(level) for level in levels.values()), default=None)


def row_at(run: dict[str, Any], threshold: float, hold: int) -> dict[str, Any] | None:
    """Point of the curve at which a threshold counts as reached that was not known before the race."""
    curve = run["curve"]
    k = passage(curve["accuracy"], lambda value: value >= threshold, hold)
    return None if k is None else {name: column[k] for name, column in curve.items()}


def arrival(runs: Sequence[dict[str, Any]], threshold: float, hold: int, unit: str) -> float:
    """Seconds or steps until the first of some runs reaches a threshold."""
    column = "step" if unit == "steps" else unit
    arrivals = []
    for run in runs:
        key = f"{threshold:g}"
        row = run["reached"][key] if key in run["reached"] else row_at(run, threshold, hold)
        arrivals.append(math.inf if row is None else known(row[column]))
    return min(arrivals, default=math.inf)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and number of seeds that arrived; never is infinite."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "largest": max(values),
        "arrived": sum(math.isfinite(value) for value in values),
        "seeds": len(values),
    }


def ratio(theirs: float, ours: float) -> float:
    """Theirs over ours; infinite if only they never arrive, NaN if we never do."""
    return theirs / ours if math.isfinite(ours) and ours > 0.0 else math.nan


def at_threshold(races: Sequence[dict[str, Any]], threshold: float, hold: int) -> dict[str, Any]:
    """All methods at one threshold, and the best competitors against E-MSA."""
    names = list(family_runs(races[0]))
    arrivals = {
        name: {unit: [arrival(family_runs(race)[name], threshold, hold, unit) for race in races] for unit in UNITS}
        for name in names
    }
    medians = {name: statistics.median(times[CLOCK]) for name, times in arrivals.items()}
    result: dict[str, Any] = {
        "methods": {name: {unit: spread(values) for unit, values in times.items()} for name, times in arrivals.items()}
    }
    for group, competitors in groups_of(races[0]).items():
        if OURS not in names or not competitors:
            continue
        rival = min(competitors, key=lambda name: medians[name])
        theirs, ours = arrivals[rival], arrivals[OURS]
        result[group] = {
            "competitor": rival if math.isfinite(medians[rival]) else None,
            "ratio": {unit: ratio(statistics.median(theirs[unit]), statistics.median(ours[unit])) for unit in UNITS},
            "by_seed": [ratio(a, b) for a, b in zip(theirs[CLOCK], ours[CLOCK], strict=True)],
        }
    return result


def groups_of(race: dict[str, Any]) -> dict[str, list[str]]:
    """Competitors of E-MSA: the usual optimizers, and all, with those that average weights or know a curvature."""
    names = [name for name in family_runs(race) if not name.startswith(OURS)]
    first_order = {run["family"] for run in race["runs"] if run["first_order"]}
    return {"best_first_order": [name for name in names if name in first_order], "best_of_all": names}


def at_equal_time(races: Sequence[dict[str, Any]], measure: str) -> dict[str, Any]:
    """Best loss or accuracy that each method has when E-MSA ends: it has reached everything, or its limit."""
    levels: dict[str, list[float]] = {}
    times = []
    for race in races:
        families = family_runs(race)
        if OURS not in families:
            return {}
        times.append(families[OURS][0][CLOCK])
        for name, runs in families.items():
            ends = [value_at(run, measure, CLOCK, times[-1]) for run in runs]
            levels.setdefault(name, []).append(best([end for end in ends if not math.isnan(end)], measure))
    return {
        "seconds": statistics.median(times),
        "methods": {
            name: {"median": statistics.median(values), "least": min(values), "largest": max(values)}
            for name, values in levels.items()
        },
    }


def summarize(races: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything about one task.

    Parameters
    ----------
    races : sequence of dict
        Its records, one per seed, with the same methods and rules.

    Returns
    -------
    dict
        For each threshold medians, spreads and ratios; steps and what they cost; the level at equal time.
    """
    rules = races[0]["rules"]
    thresholds = list(rules["thresholds"])
    result: dict[str, Any] = {"seeds": [race["seed"] for race in races]}
    if rules["target_step"] is not None:
        target = target_of(races, rules["target_step"])
        result["target"] = target
        thresholds += [] if target is None else [target]
    result["thresholds"] = {f"{value:g}": at_threshold(races, value, rules["hold"]) for value in thresholds}
    cost: dict[str, list[tuple[float, float]]] = {}
    for race in races:
        for run in race["runs"]:
            milliseconds = 1e3 * run[CLOCK] / max(1, run["steps"])
            cost.setdefault(run["family"], []).append((milliseconds, run["forward_equivalents"]))
    result["milliseconds_per_step"] = {name: statistics.median(a for a, _ in pairs) for name, pairs in cost.items()}
    result["forward_equivalents"] = {name: statistics.median(b for _, b in pairs) for name, pairs in cost.items()}
    result["equal_time"] = at_equal_time(races, rules["measure"])
    return result


def shown(value: float | None, digits: str = ".3g") -> str:
    """Number, or a dash for never."""
    return "–" if value is None or not math.isfinite(value) else format(value, digits)


def print_table(task: str, summary: dict[str, Any]) -> None:
    """One line per method with processor seconds and steps to each threshold, then the ratios."""
    levels = summary["thresholds"]
    seeds = len(summary["seeds"])
    print(f"\n{task}: processor seconds (steps) to each threshold, medians of {seeds} seed{'s' if seeds > 1 else ''}")
    print(f"{'':14s}{'ms/step':>9s}{'fwd/step':>9s}" + "".join(f"{level:>19s}" for level in levels))
    for name, milliseconds in summary["milliseconds_per_step"].items():
        cells = []
        for level in levels.values():
            part = level["methods"][name]
            steps = shown(part["steps"]["median"], ".0f")
            cells.append(f"{shown(part[CLOCK]['median'])} ({steps})")
        forward = shown(summary["forward_equivalents"][name], ".1f")
        print(f"{name:14s}{milliseconds:9.2f}{forward:>9s}" + "".join(f"{cell:>19s}" for cell in cells))
    for group in ("best_first_order", "best_of_all"):
        rivals = [level[group] for level in levels.values() if group in level]
        if rivals:
            cells = [f"{shown(rival['ratio'][CLOCK])} {rival['competitor'] or ''}" for rival in rivals]
            print(f"{group.replace('_', ' ') + ' / E-MSA':32s}" + "".join(f"{cell:>19s}" for cell in cells))
    if summary["equal_time"]:
        equal = summary["equal_time"]
        parts = "   ".join(f"{name} {shown(part['median'], '.4g')}" for name, part in equal["methods"].items())
        print(f"after {shown(equal['seconds'])} s, when E-MSA ends:   {parts}")
