"""The picture of Figure 1, drawn from the stored numbers."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts import _sine
from scripts._figure1_claims import SUCCESSIVE, median_curve

__all__ = ["TITLES", "draw"]

TITLES = {
    "good": "(a) good initialization",
    "zero": "(b) exactly zero",
    "noise": f"(b) zero + U(±{_sine.NOISE})",
}
COLORS = {
    "E-MSA, fixed ρ": "#e0662a",
    "E-MSA, adaptive ρ": "#b3261e",
    "SGD": "#6b6b6b",
    "Adagrad": "#2a9d6f",
    "Adam": "#1f5fa8",
}


def draw(results: dict[str, Any]) -> Figure:
    """Training loss (line, with the range over the seeds) and test loss (dotted) of every panel."""
    with matplotlib.rc_context({"font.size": 9, "pdf.fonttype": 42}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        axes = figure.subplots(1, len(TITLES), sharey=True)
        for ax, start in zip(axes, TITLES, strict=True):
            draw_panel(ax, results, start)
        axes[0].set_ylabel("mean squared error")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(COLORS), frameon=False)
        seeds = len(results["seeds"])
        note = f"lines: median training loss of {seeds} seeds; bands: their range; dotted: median test loss"
        figure.suptitle(f"Approximating the sine by a network of 20 layers and 5 nodes   ({note})", fontsize=9)
    return figure


def draw_panel(ax: Axes, results: dict[str, Any], start: str) -> None:
    """One panel, with the chosen parameter of every method in its own legend."""
    for method, color in COLORS.items():
        record = results["panels"][start][method]
        train = np.array([run["train"] for run in record["runs"]], dtype=float)
        k = np.arange(train.shape[1])
        thick = 1.8 if method in SUCCESSIVE else 1.2
        ax.fill_between(k, train.min(0), train.max(0), color=color, alpha=0.13, linewidth=0)
        ax.plot(k, np.median(train, 0), color=color, linewidth=thick, label=method)
        ax.plot(k, median_curve(results, start, method, "test"), color=color, linewidth=thick, linestyle=":")
    chosen = [
        f"{m.removeprefix('E-MSA, fixed ')} {results['panels'][start][m]['choice']:g}"
        for m in COLORS
        if m != SUCCESSIVE[1]
    ]
    ax.text(0.98, 0.98, "tuned: " + ", ".join(chosen), transform=ax.transAxes, ha="right", va="top", fontsize=7)
    ax.set(yscale="log", xlabel="iterations", title=TITLES[start], xlim=(0, results["iterations"]))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
