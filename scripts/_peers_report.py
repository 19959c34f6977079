"""Table and picture of the side-by-side benchmark, from its stored record."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scripts._peers_protocol import COLD, WARM, fastest

__all__ = ["draw", "table"]

COLORS = {
    "ocsolver": "#e0662a",
    "CasADi": "#1f5fa8",
    "rockit": "#2a9d6f",
    "YAPSS": "#8a4fa8",
    "GEKKO": "#b8860b",
    "Dymos": "#a83232",
    "maptor": "#5f8a2a",
    "pockit": "#6b6b6b",
}


def tools(record: dict[str, Any]) -> list[str]:
    """Toolkits of a record, ours first."""
    found = {run["tool"] for problem in record["problems"].values() for run in problem["runs"].values()}
    return [tool for tool in COLORS if tool in found]


def nearest(runs: dict[str, Any], tool: str) -> str:
    """What the best refinement of a toolkit that never qualified came to: its re-simulated error, or nothing."""
    steps = [step for run in runs.values() if run["tool"] == tool for step in run["steps"]]
    reached = [
        max(abs(step["resimulated_error"]), step["miss"])
        for step in steps
        if step.get("resimulated_error") is not None and step.get("miss") is not None
    ]
    return f"({min(reached):.0e})" if reached else "–"


def cells(runs: dict[str, Any], tool: str) -> tuple[str, str]:
    """Times of a toolkit on one problem, cold and warm, in milliseconds; in parentheses the error it got stuck at."""
    cold, warm = (fastest(runs, key, tool) for key in (COLD, WARM))
    first = f"{1e3 * cold[1]:.3g}" if cold else nearest(runs, tool)
    return first, f"{1e3 * warm[1]:.3g}" if warm else "–"


def table(record: dict[str, Any]) -> str:
    """Markdown: processor milliseconds from statement to answer, and of the second solve."""
    names = tools(record)
    titles = [f"{tool}{' warm' if warm else ''}" for warm in (False, True) for tool in names]
    lines = [f"| problem | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for id, problem in record["problems"].items():
        pairs = [cells(problem["runs"], tool) for tool in names]
        row = [*(pair[0] for pair in pairs), *(pair[1] for pair in pairs)]
        lines.append(f"| {id} {problem['name']} | {' | '.join(row)} |")
    lines += ["", *winners(record), ""]
    summary = record["summary"]
    for label, key in (
        ("all", "all"),
        ("bounds, jumps, state constraints", "bounds_jumps_state"),
        ("least", "least"),
        ("warm", "warm"),
    ):
        value = summary[key]
        lines.append(f"- fastest peer / ocsolver, {label}: {'–' if value is None else f'{value:.2f}'}")
    if summary["ours_missing"]:
        lines.append(f"- not solved by ocsolver: {', '.join(summary['ours_missing'])}")
    for name, row in record["batch"].items():
        if isinstance(row, dict) and row.get("per_second"):
            lines.append(f"- batch, {name}: {row['per_second']:.3g} problems per second, error {row['error']:.1e}")
    return "\n".join(lines)


def winners(record: dict[str, Any]) -> list[str]:
    """Markdown: the fastest way of all toolkits but ours on each problem, its mesh and its errors."""
    titles = ["problem", "fastest of the others", "mesh", "ms", "error reported", "re-simulated", "miss", "violation"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for id, problem in record["problems"].items():
        best = fastest(problem["runs"], COLD)
        if best is None:
            continue
        run = problem["runs"][best[0]]
        step = run["steps"][-1]
        numbers = [step.get(key) for key in ("reported_error", "resimulated_error", "miss", "violation")]
        texts = ["–" if number is None else f"{number:.0e}" for number in numbers]
        lines.append(f"| {id} | {best[0]} | {run['mesh']} | {1e3 * best[1]:.3g} | {' | '.join(texts)} |")
    return lines


def draw(record: dict[str, Any]) -> Figure:
    """Seconds of every toolkit on every problem, cold and warm, on a logarithmic scale."""
    names, problems = tools(record), list(record["problems"].items())
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 1.2 + 0.3 * len(problems)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        panels = ((COLD, "statement to answer"), (WARM, "second solve"))
        for ax, (key, title) in zip(axes, panels, strict=True):
            for tool in names:
                places, times = [], []
                for row, (_, problem) in enumerate(problems):
                    best = fastest(problem["runs"], key, tool)
                    if best:
                        places.append(row)
                        times.append(best[1])
                ax.scatter(times, places, s=26, color=COLORS[tool], label=tool, zorder=3)
            ax.set_xscale("log")
            ax.set_xlabel("processor seconds")
            ax.set_title(title, fontsize=10)
            ax.grid(alpha=0.25, linewidth=0.5)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(range(len(problems)), [f"{id} {problem['name']}" for id, problem in problems])
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
