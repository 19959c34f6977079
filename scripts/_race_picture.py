"""One picture per task of the race, drawn from the stored records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts._race_results import CLOCK, family_runs, value_at

__all__ = ["draw"]

COLORS = {
    "E-MSA": "#e0662a",
    "E-MSA L-BFGS": "#f0b48c",
    "SGD": "#6b6b6b",
    "SGD mean": "#b0b0b0",
    "Adagrad": "#2a9d6f",
    "Adam": "#1f5fa8",
    "Adam mean": "#12305c",
    "AdamW": "#7fb0e0",
    "Muon": "#8a4fa8",
    "L-BFGS": "#b8860b",
    "K-FAC": "#a83232",
    "SINGD": "#5f8a2a",
}
POINTS = 200
LOWEST = 1e-4  # error that is shown; none at all has no logarithm


def draw(task: str, races: Sequence[dict[str, Any]]) -> Figure:
    """Loss or test error against seconds and against steps."""
    rules = races[0]["rules"]
    with matplotlib.rc_context({"font.size": 9, "pdf.fonttype": 42}):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, unit in zip(axes, (CLOCK, "step"), strict=True):
            draw_panel(ax, races, rules, unit)
        axes[0].set_ylabel("loss" if rules["measure"] == "loss" else "test error, 1 − accuracy")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, max(1, len(labels))), frameon=False)
        count = f"{len(races)} seed{'s' if len(races) > 1 else ''}"
        figure.suptitle(f"{task}   (lines: median of {count}; bands: their range)", fontsize=10)
    return figure


def draw_panel(ax: Axes, races: Sequence[dict[str, Any]], rules: dict[str, Any], unit: str) -> None:
    """One panel; where the whole grid of a method took part, its best value at each place."""
    measure = rules["measure"]
    for name in family_runs(races[0]):
        groups = [family_runs(race)[name] for race in races]
        places = [run["curve"][unit] for group in groups for run in group if run["curve"][unit]]
        if not places:
            continue
        grid = np.geomspace(max(1e-3, min(p[0] for p in places)), max(p[-1] for p in places), POINTS)
        rows = np.array([best_curve(group, measure, unit, grid) for group in groups])
        present = np.isfinite(rows).sum(0) * 2 > len(rows)
        if not present.any():
            continue
        x, rows = grid[present], rows[:, present]
        ours = name.startswith("E-MSA")
        width = 1.8 if ours else 1.2
        color = COLORS.get(name, "black")
        ax.fill_between(x, np.nanmin(rows, 0), np.nanmax(rows, 0), color=color, alpha=0.15, linewidth=0)
        ax.plot(x, np.nanmedian(rows, 0), color=color, linewidth=width, label=name, zorder=3 if ours else 2)
    for threshold in rules["thresholds"]:
        level = threshold if measure == "loss" else 1.0 - threshold
        ax.axhline(level, color="black", linewidth=0.5, linestyle=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("step" if unit == "step" else "seconds of processor time, without evaluation")
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)


def best_curve(runs: Sequence[dict[str, Any]], measure: str, unit: str, grid: Any) -> Any:
    """Loss or error of the best of some runs at each place; NaN where none of them runs."""
    rows = np.full((len(runs), len(grid)), np.nan)
    for row, run in zip(rows, runs, strict=True):
        if not run["curve"][unit]:
            continue
        end = run["curve"][unit][-1]
        for k, place in enumerate(grid):
            if place <= end * (1.0 + 1e-9):
                value = value_at(run, measure, unit, place)
                row[k] = value if measure == "loss" or math.isnan(value) else max(LOWEST, 1.0 - value)
    rows[~np.isfinite(rows)] = np.inf
    least = rows.min(0)
    return np.where(np.isfinite(least), least, np.nan)
