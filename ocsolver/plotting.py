"""Pictures of a solution: states, control within its set, costates, Hamiltonian, convergence; it knows no algorithm."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.panels import (
    CONTROL_COLORS,
    GRAY,
    INK,
    LEGEND_ENTRIES,
    RED,
    STATE_COLORS,
    Array,
    legend,
    logarithmic,
    note,
    numbers,
    positive,
    shades,
    style,
    widen,
)
from ocsolver.path_panels import DENSE_POINTS, Structured, draw_path, mark_structure, steps_of
from ocsolver.sets import Ball, ControlSet, FiniteSet, Product

__all__ = ["plot_solution"]

FAINT_LINES = 200  # more lines of other trajectories than these would be a smear
REACH = 4.0  # limits of the control farther away than this many of its own ranges are left out of view


class Plottable(Structured, Protocol):
    """What a solution must offer to be drawn."""

    @property
    def cost(self) -> Tensor: ...  # (G,)
    @property
    def residual(self) -> Tensor: ...  # (G,)
    @property
    def status(self) -> Sequence[Any]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def history(self) -> Any: ...
    @property
    def problem(self) -> Any: ...
    def control(self, t: Any) -> Tensor: ...
    def state(self, t: Any) -> Tensor: ...
    def costate(self, t: Any) -> Tensor: ...
    def hamiltonian(self) -> tuple[Tensor, Tensor]: ...


class Limit(NamedTuple):
    """A level that components of the control may not cross (or, of a finite set, may take)."""

    kind: str
    level: float
    components: tuple[int, ...]


def plot_solution(solution: Plottable, trajectory: int = 0) -> Figure:
    """Draw one trajectory of a solution.

    Panels: states, control with the limits of its set, costates, and convergence; where the problem is known also the
    Hamiltonian at the midpoints of the intervals and its gap to the maximum, and a path constraint with its bounds and
    multipliers. Switching times are dotted lines, singular arcs bands behind the control. Where all trajectories share
    a control, the others are drawn faintly. Curves end where a trajectory ceases to be finite; the rest is shaded.

    Parameters
    ----------
    solution : Solution
        What `solve` or `load` returned.
    trajectory : int, default 0
        Which of the B trajectories to draw.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot, so nothing pops up and nothing needs to be closed.

    Raises
    ------
    InputError
        If there is no such trajectory.
    """
    i = _checked_index(trajectory, solution.x.shape[1])
    g = min(i, solution.u.shape[1] - 1)  # G = 1 or G = B
    known = solution.problem is not None
    constrained = known and solution.problem.path_constraint is not None
    rows = 2 + known + constrained
    figure = Figure(figsize=(11.0, 2.0 + 2.0 * rows), layout="constrained")
    panels = figure.subplots(rows, 2)
    if known:
        (states, hamiltonian), (control, gap), (costates, convergence) = panels[:3]
        _draw_hamiltonian(hamiltonian, gap, solution, i, g)
        timed, lowest = [states, control, costates, hamiltonian, gap], [control, costates, gap]
    else:
        (states, control), (costates, convergence) = panels
        timed = lowest = [states, control, costates]
    if constrained:
        path, multiplier = panels[3]
        draw_path(path, multiplier, solution, i, g)
        timed, lowest = [*timed, path, multiplier], [gap, path, multiplier]
    _draw_rows(states, solution, i, g, "x", "states")
    _draw_control(control, solution, g)
    _draw_rows(costates, solution, i, g, "p", "costates")
    _draw_convergence(convergence, solution, g)
    mark_structure(timed, control, solution, g)
    _finish_time_axes(timed, lowest, numbers(solution.t[:, g]), numbers(solution.x[:, i]))
    _write_title(figure, solution, i, g)
    figure.align_ylabels()
    return figure


def _checked_index(trajectory: Any, trajectories: int) -> int:
    whole = isinstance(trajectory, int | np.integer) and not isinstance(trajectory, bool)
    if not whole or not 0 <= trajectory < trajectories:
        expected = f"an int from 0 to {trajectories - 1}" if trajectories > 1 else "0, the only trajectory"
        todo = "Pass the index of a row of initial_state."
        raise InputError(complaint("trajectory", expected=expected, got=repr(trajectory), todo=todo))
    return int(trajectory)


# ---------------------------------------------------------------------------------------------------------- the panels


def _draw_rows(ax: Axes, solution: Plottable, i: int, g: int, name: str, title: str) -> None:
    """States or costates of trajectory i, over faint ones of the trajectories with the same control."""
    style(ax, title, name)
    rows: Tensor = solution.x if name == "x" else solution.p
    t, values = numbers(solution.t[:, g]), numbers(rows[:, i])  # (N + 1,), (N + 1, n)
    B, n = rows.shape[1:]
    colors = shades(n, STATE_COLORS)
    if solution.u.shape[1] == 1 and B > 1:
        others = [b for b in range(0, B, math.ceil(B * n / FAINT_LINES)) if b != i]
        for j in range(n):
            ax.plot(t, numbers(rows[:, others, j]), color=colors[j], linewidth=0.6, alpha=0.3, zorder=1.5)
    times, curves = _dense(solution, i, name, t, values)
    for j in range(n):
        label = f"{name}[{j}]" if n > 1 else name
        ax.plot(times, curves[:, j], color=colors[j], linewidth=1.8 if n <= LEGEND_ENTRIES else 1.0, label=label)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size == 0:
        note(ax, f"no finite {title}")
    elif finite.size < values.size and finite.max() > 1e3 * np.median(finite) > 0.0:
        # A blow-up: on a linear scale its last value would flatten everything before it.
        ax.set_yscale("symlog", linthresh=float(np.median(finite)))
    legend(ax, n, name)


def _dense(solution: Plottable, i: int, name: str, t: Array, values: Array) -> tuple[Array, Array]:
    """Curve between the nodes where it can be had and is tame, else the nodes; every node is among the times."""
    parts = math.ceil(DENSE_POINTS / (t.size - 1))
    if solution.problem is None or parts == 1 or not np.isfinite(values).all():
        return t, values
    fractions = np.arange(parts) / parts
    times = np.append((t[:-1, None] + np.diff(t)[:, None] * fractions).ravel(), t[-1])
    curves = numbers((solution.state(times) if name == "x" else solution.costate(times))[:, i])
    low, high = values.min(0), values.max(0)
    margin = 0.5 * (high - low) + 1e-6 * np.abs(values).max()
    # Where steps are long against a stiff problem, the slopes at the nodes say nothing about the curve between them.
    tame = np.isfinite(curves).all() and (curves >= low - margin).all() and (curves <= high + margin).all()
    return (times, curves) if tame else (t, values)


def _draw_control(ax: Axes, solution: Plottable, g: int) -> None:
    """Control, with the limits of its set."""
    m = solution.u.shape[-1]
    style(ax, "control", "u")
    t, u, drawstyle = steps_of(solution, g)
    colors = shades(m, CONTROL_COLORS)
    limits = [] if solution.problem is None else list(_limits(solution.problem.control_set, solution.u))
    view = _view(u, [limit.level for limit in limits])
    lines = {"bounds": "--", "radius": "-.", "points": ":"}
    labeled: set[str] = set()
    for limit in limits:
        alone = m > 1 and len(limit.components) == 1
        inside = any(view[0] <= other.level <= view[1] for other in limits if other.kind == limit.kind)
        label = limit.kind if inside else f"{limit.kind} (out of view)"
        ax.axhline(
            limit.level,
            color=colors[limit.components[0]] if alone else GRAY,
            linestyle=lines[limit.kind],
            linewidth=1.0,
            zorder=1.5,
            label=None if limit.kind in labeled else label,
        )
        labeled.add(limit.kind)
        if limit.kind == "radius" and limit.level > 0 and len(limit.components) > 1:
            norm = np.linalg.norm(u[:, limit.components], axis=-1)
            ax.plot(t, norm, drawstyle=drawstyle, color=GRAY, linewidth=1.0, label="‖u‖")
    for j in range(m):
        label = f"u[{j}]" if m > 1 else "u"
        width = 1.5 if m <= LEGEND_ENTRIES else 1.0
        ax.plot(t, u[:, j], drawstyle=drawstyle, color=colors[j], linewidth=width, label=label)
    ax.set_ylim(*view)
    legend(ax, m, "u", always=bool(limits))


def _limits(control_set: ControlSet, like: Tensor, first: int = 0) -> Iterator[Limit]:
    """Levels to draw; `first` is the place of this set's first component in the control."""
    if isinstance(control_set, Product):
        for factor in control_set.sets:
            yield from _limits(factor, like, first)
            first += factor.m
        return
    every = range(first, first + control_set.m)
    levels: dict[float, list[int]] = {}
    kind = "bounds"
    if isinstance(control_set, Ball):
        kind, levels = "radius", {sign * float(control_set.radius): list(every) for sign in (-1.0, 1.0)}
    elif isinstance(control_set, FiniteSet):
        kind = "points"
        for j, column in zip(every, control_set.points.T.tolist(), strict=True):
            for level in sorted(set(column)):
                levels.setdefault(level, []).append(j)
    else:
        for side in control_set.bounds(like) or ():
            for j, level in zip(every, side.tolist(), strict=True):
                if math.isfinite(level) and j not in levels.get(level, []):
                    levels.setdefault(level, []).append(j)
    for level, components in levels.items():
        yield Limit(kind, level, tuple(components))


def _view(u: Array, levels: list[float]) -> tuple[float, float]:
    """Range of the axis: the control and those levels that do not make it look flat."""
    finite = u[np.isfinite(u)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    reach = REACH * (high - low) if high > low else math.inf
    near = [level for level in levels if low - reach <= level <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - margin, high + margin


def _draw_hamiltonian(ax: Axes, gap_ax: Axes, solution: Plottable, i: int, g: int) -> None:
    """H at the midpoints of the intervals, and on its own axis max_U H − H."""
    style(ax, "Hamiltonian", "H")
    style(gap_ax, "gap to the maximum of H", r"$\max_U H - H$")
    t = numbers(solution.t[:, g])
    middle = 0.5 * (t[1:] + t[:-1])
    value, gap = (numbers(part) for part in solution.hamiltonian())
    H = value[:, i]
    if not np.isfinite(H).any():
        for panel in (ax, gap_ax):
            note(panel, "no finite trajectory")
        return
    ax.plot(middle, H, color=INK, linewidth=1.5, label="H")
    if solution.u.shape[1] == 1 and value.shape[1] > 1:
        mean = value.mean(1)  # what a shared control maximizes
        ax.plot(middle, mean, color=GRAY, linewidth=1.2, linestyle="--", label="mean over trajectories")
        legend(ax, 1, "H", always=True)
        H = np.stack([H, mean], -1)
    widen(ax, H)
    excess = np.where(np.isfinite(value[:, i]), gap[:, g], np.nan)
    if logarithmic(gap_ax, excess):
        gap_ax.plot(middle, positive(excess), color=RED, linewidth=1.0, marker=".", markersize=2.5)
    else:
        note(gap_ax, "zero on every interval" if (excess == 0).any() else "no finite maximum of H over U")


def _draw_convergence(ax: Axes, solution: Plottable, g: int) -> None:
    """Cost above its lowest value, residual and ρ on a log scale; ticks mark rejected iterations."""
    style(ax, "convergence", "")
    ax.set_xlabel("iteration")
    history, end = solution.history, _iterations(solution, g)
    k = np.arange(end + 1)
    cost, residual, rho = (numbers(getattr(history, name)[: end + 1, g]) for name in ("cost", "residual", "rho"))
    finite = cost[np.isfinite(cost)]
    above = cost - finite.min() if finite.size else np.full_like(cost, np.nan)
    drawn = False
    for values, color, width, label in (
        (above, STATE_COLORS[0], 1.5, "cost − lowest"),
        (residual, RED, 1.5, "residual"),
        (rho, GRAY, 1.0, "ρ"),
    ):
        if logarithmic(ax, values):
            marker = "o" if end < 25 else ""
            ax.plot(k, positive(values), color=color, linewidth=width, marker=marker, markersize=3, label=label)
            drawn = True
    if not drawn:
        note(ax, "no finite values" if not finite.size else "zero throughout")
    rejected = k[~history.accepted[: end + 1, g].cpu().numpy()]
    if rejected.size:
        place: dict[str, Any] = {
            "transform": ax.get_xaxis_transform(),
            "marker": "|",
            "linestyle": "none",
            "markersize": 6,
        }
        ax.plot(rejected, np.full(rejected.size, 0.03), color=INK, markeredgewidth=0.8, label="rejected", **place)
    ax.set_xlim(-0.02 * end - 0.5, 1.02 * end + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(ax, 1, "", always=drawn)


def _iterations(solution: Plottable, g: int) -> int:
    """Number of iterations of a group; one that converged before the others did not move afterwards."""
    residual = solution.history.residual[:, g].cpu().numpy()
    # It converged when its residual first fell below the tolerance, and kept that value.
    return int(np.argmax(residual <= residual[-1])) if solution.status[g].name == "CONVERGED" else residual.size - 1


# ----------------------------------------------------------------------------------------------------------- the figure


def _finish_time_axes(timed: list[Axes], lowest: list[Axes], t: Array, x: Array) -> None:
    """Give all panels over time the same axis, and shade it where the state is not finite."""
    finite = np.isfinite(x).all(-1)
    for ax in timed:
        if ax is not timed[0]:
            ax.sharex(timed[0])
        if ax in lowest:
            ax.set_xlabel("t")
        else:
            ax.tick_params(labelbottom=False)
        if not finite.all():
            ax.axvspan(float(t[max(int(np.argmin(finite)) - 1, 0)]), float(t[-1]), color=RED, alpha=0.07, linewidth=0)
    timed[0].set_xlim(float(t[0]), float(t[-1]))


def _write_title(figure: Figure, solution: Plottable, i: int, g: int) -> None:
    """Say how the run ended, at the top left; a failure in red and with its reason."""
    B, status = solution.x.shape[1], solution.status[g]
    facts = [
        status.name,
        *([f"trajectory {i} of {B}" + (" (one control for all)" if solution.u.shape[1] == 1 else "")] if B > 1 else []),
        f"J = {float(solution.cost[g]):.7g}",
        f"residual {float(solution.residual[g]):.1e}",
        f"{_iterations(solution, g)} iterations",
    ]
    text = "   ".join(facts)
    if solution.notes[g]:
        text += "\n" + textwrap.fill(textwrap.shorten(solution.notes[g], 360, placeholder=" …"), 120)
    color = INK if status >= 0 else RED
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=color, parse_math=False)
