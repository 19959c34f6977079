"""The pictures of Figures 2, 3 and 4, drawn from the stored numbers."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from scripts._images import METHODS, SUCCESSIVE
from scripts._images_claims import runs_of

__all__ = ["draw"]

COLORS = {SUCCESSIVE: "#e0662a", "SGD": "#6b6b6b", "Adagrad": "#2a9d6f", "Adam": "#1f5fa8"}
FAST = "#a3123f"  # E-MSA by another maximizer
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "digits": "digits (quick run)"}
LOWEST = {"mnist": 0.85, "fashion": 0.65, "digits": 0.0}  # accuracy that is shown
FIRST_SECOND = 0.3  # where a logarithmic axis of seconds begins


def draw(results: dict[str, Any], against: str) -> Figure:
    """Loss and accuracy, train and test, against ``"epoch"`` or ``"seconds"``."""
    with matplotlib.rc_context({"font.size": 9, "pdf.fonttype": 42}):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        for row, part in enumerate(("train", "test")):
            for ax, what in zip(axes[row], ("loss", "accuracy"), strict=True):
                draw_panel(ax, results, part, what, against)
        for ax in axes[1]:
            ax.set_xlabel("epoch" if against == "epoch" else "seconds on one core, without evaluation")
        if against == "seconds" and results.get("race"):
            for ax, what in zip(axes[1], ("loss", "accuracy"), strict=True):
                draw_race(ax, results["race"], what)
        handles, labels = axes[1][0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
        seeds = max((len(runs_of(results, method)) for method in METHODS), default=0)
        note = f"lines: median of {seeds} seeds; bands: their range"
        depth = results["study"]["size"]["depth"] + 3
        figure.suptitle(f"{TITLES[results['data']]}, residual CNN of {depth} layers   ({note})", fontsize=10)
    return figure


def draw_panel(ax: Axes, results: dict[str, Any], part: str, what: str, against: str) -> None:
    """One panel; training numbers are means over the mini-batches since the last point, before their steps."""
    for method, color in COLORS.items():
        runs = [run for run in runs_of(results, method) if run[part]["step"]]
        if not runs:
            continue
        steps = sorted(set.intersection(*(set(run[part]["step"]) for run in runs)) - {0})
        if not steps:
            continue
        values = np.array([[number(run[part][what][run[part]["step"].index(k)]) for k in steps] for run in runs])
        x = np.array(steps) / runs[0]["per_epoch"] if against == "epoch" else seconds_at(runs, steps)
        ax.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        name = f"{method}, " + ("adaptive ρ" if method == SUCCESSIVE else f"step {runs[0]['value']:g}")
        width = 1.8 if method == SUCCESSIVE else 1.2
        ax.plot(x, np.median(values, 0), color=color, linewidth=width, label=name, marker="." if part == "test" else "")
    ax.set_title(f"{'(a)' if what == 'loss' else '(b)'} {part} {what}", fontsize=9)
    if what == "loss":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(LOWEST[results["data"]], 1.0)
    if against == "seconds":
        ax.set_xscale("log")
        ax.set_xlim(left=FIRST_SECOND)
    ax.grid(alpha=0.25, linewidth=0.5, which="both")
    ax.spines[["top", "right"]].set_visible(False)


def draw_race(ax: Axes, runs: list[dict[str, Any]], what: str) -> None:
    """E-MSA by the default maximizer on the test images, from the race."""
    steps = sorted(set.intersection(*(set(run["step"]) for run in runs)))
    rows = {key: np.array([[number(run[key][run["step"].index(k)]) for k in steps] for run in runs]) for key in runs[0]}
    x, values = np.median(rows["seconds"], 0), rows[what]
    ax.fill_between(x, values.min(0), values.max(0), color=FAST, alpha=0.15, linewidth=0)
    name = f"{SUCCESSIVE}, Gauss–Newton"
    ax.plot(x, np.median(values, 0), color=FAST, linewidth=1.8, linestyle="--", label=name)


def number(value: float | None) -> float:
    """A stored number; a missing one leaves a gap."""
    return np.nan if value is None else value


def seconds_at(runs: list[dict[str, Any]], steps: list[int]) -> np.ndarray[Any, Any]:
    """Median seconds after each number of steps; interpolated between evaluations, for steps cost about the same."""
    times = [np.interp(steps, [0, *run["test"]["step"]], [0.0, *run["test"]["seconds"]]) for run in runs]
    return np.asarray(np.median(times, axis=0))
