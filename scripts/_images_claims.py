"""What the paper says of its Figures 2, 3 and 4, checked one by one on the stored numbers and on nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from scripts._claims import Claim, compared, known
from scripts._images import BASELINES, SUCCESSIVE

__all__ = ["COUNTS", "check_claims", "runs_of"]

COUNTS = (25, 50, 100, 200)  # mini-batches at which "early stages of training" are read
LEVELS = {"mnist": (0.90, 0.95, 0.97, 0.98), "fashion": (0.75, 0.80, 0.85, 0.88), "digits": (0.5,)}
REACHED = {"Adam": (0.983, 5), SUCCESSIVE: (0.975, 2)}  # accuracy and epochs that a sound implementation reaches


def check_claims(results: dict[str, Any]) -> list[Claim]:
    """Check the statements about a figure, as far as its runs go.

    Parameters
    ----------
    results : dict
        The content of its JSON file.

    Returns
    -------
    list of Claim
        Each with a verdict and its numbers.
    """
    claims = [*ahead(results), *ahead_of_any_step(results), *later(results), *slower(results)]
    return claims + (list(reached(results)) if results["data"] == "mnist" else [])


def runs_of(results: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """Runs of a method."""
    return [run for run in results["runs"] if run["method"] == method]


def at(run: dict[str, Any], step: int) -> float | None:
    """Test loss of a run after a number of steps, or None if it was not evaluated there."""
    test = run["test"]
    return known(test["loss"][test["step"].index(step)]) if step in test["step"] else None


def curve(results: dict[str, Any], method: str, steps: Sequence[int]) -> list[float]:
    """Median test loss over the seeds at each of the steps that every run has reached."""
    rows = []
    for step in steps:
        values = [at(run, step) for run in runs_of(results, method)]
        if values and None not in values:
            rows.append(statistics.median(value for value in values if value is not None))
    return rows


def ahead(results: dict[str, Any]) -> Iterator[Claim]:
    """Good performance per iteration, at early stages."""
    for baseline in BASELINES:
        ours, theirs = curve(results, SUCCESSIVE, COUNTS), curve(results, baseline, COUNTS)
        both = min(len(ours), len(theirs))
        if both:
            statement = f"{SUCCESSIVE} is ahead of tuned {baseline} per mini-batch (median test loss)"
            yield compared(statement, list(COUNTS[:both]), ours[:both], theirs[:both])


def ahead_of_any_step(results: dict[str, Any]) -> Iterator[Claim]:
    """The same with parameters chosen anew for each count, by the validation loss of the tuning runs."""
    steps = [k for k in COUNTS if all(k in entry["step"] for e in results["tuning"].values() for entry in e["grid"])]

    def best(method: str) -> list[float]:
        grid = results["tuning"][method]["grid"]
        return [min(known(entry["loss"][entry["step"].index(k)]) for entry in grid) for k in steps]

    for baseline in BASELINES:
        if steps and {SUCCESSIVE, baseline} <= results["tuning"].keys():
            statement = (
                f"{SUCCESSIVE} is ahead of {baseline} per mini-batch, parameters chosen anew for each count "
                "(validation loss, one seed)"
            )
            yield compared(statement, steps, best(SUCCESSIVE), best(baseline))


def later(results: dict[str, Any]) -> Iterator[Claim]:
    """How it stands where the runs of E-MSA end."""
    runs = runs_of(results, SUCCESSIVE)
    if not runs or not all(run["complete"] for run in runs):
        return
    last = [runs[0]["steps"]]
    for baseline in BASELINES:
        ours, theirs = curve(results, SUCCESSIVE, last), curve(results, baseline, last)
        if ours and theirs:
            epochs = last[0] / runs[0]["per_epoch"]
            yield compared(f"{SUCCESSIVE} is ahead of tuned {baseline} after {epochs:g} epochs", last, ours, theirs)


def seconds_to(run: dict[str, Any], level: float) -> float:
    """Seconds until the test accuracy is at least a level at two evaluations in a row; infinite if it never is."""
    accuracy = [value if value is not None else 0.0 for value in run["test"]["accuracy"]]
    for k in range(len(accuracy) - 1):
        if min(accuracy[k : k + 2]) >= level:
            return float(run["test"]["seconds"][k])
    return math.inf


def told(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.3g} s" if math.isfinite(seconds) else "never"


def slower(results: dict[str, Any]) -> Iterator[Claim]:
    """Figure 3: the gains per iteration are outweighed by the running time."""
    if results["figure"] != 3:
        return
    levels = LEVELS[results["data"]]
    for baseline in BASELINES:
        pairs = [
            [statistics.median(seconds_to(run, level) for run in runs_of(results, method)) for level in levels]
            for method in (SUCCESSIVE, baseline)
            if runs_of(results, method)
        ]
        if len(pairs) < 2:
            continue
        ours, theirs = pairs
        some = [k for k in range(len(levels)) if math.isfinite(min(ours[k], theirs[k]))]
        if not some:
            continue
        evidence = "; ".join(f"{100 * levels[k]:g} %: {told(ours[k])} against {told(theirs[k])}" for k in some)
        statement = f"{SUCCESSIVE} with L-BFGS needs more seconds than tuned {baseline} to each test accuracy"
        yield Claim(statement, all(ours[k] > theirs[k] for k in some), evidence)


def reached(results: dict[str, Any]) -> Iterator[Claim]:
    """Sanity of the training: the accuracies are those of a working network."""
    for method, (level, epochs) in REACHED.items():
        runs = runs_of(results, method)
        if not runs or not all(run["complete"] for run in runs):
            continue
        best = []
        for run in runs:
            test = run["test"]
            known = [
                a or 0.0 for k, a in zip(test["step"], test["accuracy"], strict=True) if k <= epochs * run["per_epoch"]
            ]
            best.append(max(known, default=0.0))
        median = statistics.median(best)
        evidence = f"best of {len(runs)} seeds: " + ", ".join(f"{100 * value:.2f} %" for value in best)
        statement = f"{method} reaches {100 * level:g} % test accuracy within {epochs} epochs (median)"
        yield Claim(statement, median >= level, evidence)
