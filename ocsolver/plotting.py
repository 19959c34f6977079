"""Pictures of a solution: states, control within its set, costates, Hamiltonian, convergence; it knows no algorithm."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.sets import Ball, ControlSet, FiniteSet, Product

__all__ = ["plot_solution"]

LEGEND_ENTRIES = 8  # more components than these are told apart by shade alone
FAINT_LINES = 200  # more lines of other trajectories than these would be a smear
DENSE_POINTS = 400  # points of a curve between which nobody sees a corner
REACH = 4.0  # limits of the control farther away than this many of its own ranges are left out of view
INK, GRAY, RED = "#222222", "#6b6b6b", "#b3261e"
STATE_COLORS = ("#1f5fa8", "#e0662a", "#2a9d6f", "#b5478f", "#d9a400", "#4fb3d9", "#7a5230", "#8a8a8a")
CONTROL_COLORS = ("#4b2e83", "#c2185b", "#00838f", "#8d6e00", "#5c6bc0", "#ef6c00", "#558b2f", "#8a8a8a")

Array = NDArray[np.float64]


class Plottable(Protocol):
    """What a solution must offer to be drawn."""

    @property
    def t(self) -> Tensor: ...  # (N + 1, G)
    @property
    def x(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def p(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def u(self) -> Tensor: ...  # (N, G, m)
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

    Panels: states, control as steps with the limits of its set, costates, and convergence; where the problem is known
    also the Hamiltonian at the midpoints of the intervals and its gap to the maximum. Where all trajectories share a
    control, the others are drawn faintly. Curves end where a trajectory ceases to be finite; the rest is shaded.

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
    figure = Figure(figsize=(11.0, 8.0 if solution.problem is not None else 6.0), layout="constrained")
    if solution.problem is not None:
        (states, hamiltonian), (control, gap), (costates, convergence) = figure.subplots(3, 2)
        _draw_hamiltonian(hamiltonian, gap, solution, i, g)
        timed, lowest = [states, control, costates, hamiltonian, gap], [control, costates, gap]
    else:
        (states, control), (costates, convergence) = figure.subplots(2, 2)
        timed = lowest = [states, control, costates]
    _draw_rows(states, solution, i, "x", "states")
    _draw_control(control, solution, g)
    _draw_rows(costates, solution, i, "p", "costates")
    _draw_convergence(convergence, solution, g)
    _finish_time_axes(timed, lowest, _numbers(solution.t[:, g]), _numbers(solution.x[:, i]))
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


def _draw_rows(ax: Axes, solution: Plottable, i: int, name: str, title: str) -> None:
    """States or costates of trajectory i, over faint ones of the trajectories with the same control."""
    _style(ax, title, name)
    rows: Tensor = solution.x if name == "x" else solution.p
    t, values = _numbers(solution.t[:, 0]), _numbers(rows[:, i])  # (N + 1,), (N + 1, n)
    B, n = rows.shape[1:]
    colors = _colors(n, STATE_COLORS)
    if solution.u.shape[1] == 1 and B > 1:
        others = [b for b in range(0, B, math.ceil(B * n / FAINT_LINES)) if b != i]
        for j in range(n):
            ax.plot(t, _numbers(rows[:, others, j]), color=colors[j], linewidth=0.6, alpha=0.3, zorder=1.5)
    times, curves = _dense(solution, i, name, t, values)
    for j in range(n):
        label = f"{name}[{j}]" if n > 1 else name
        ax.plot(times, curves[:, j], color=colors[j], linewidth=1.8 if n <= LEGEND_ENTRIES else 1.0, label=label)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size == 0:
        _note(ax, f"no finite {title}")
    elif finite.size < values.size and finite.max() > 1e3 * np.median(finite) > 0.0:
        # A blow-up: on a linear scale its last value would flatten everything before it.
        ax.set_yscale("symlog", linthresh=float(np.median(finite)))
    _legend(ax, n, name)


def _dense(solution: Plottable, i: int, name: str, t: Array, values: Array) -> tuple[Array, Array]:
    """Curve between the nodes where it can be had and is tame, else the nodes; every node is among the times."""
    parts = math.ceil(DENSE_POINTS / (t.size - 1))
    if solution.problem is None or parts == 1 or not np.isfinite(values).all():
        return t, values
    fractions = np.arange(parts) / parts
    times = np.append((t[:-1, None] + np.diff(t)[:, None] * fractions).ravel(), t[-1])
    curves = _numbers((solution.state(times) if name == "x" else solution.costate(times))[:, i])
    low, high = values.min(0), values.max(0)
    margin = 0.5 * (high - low) + 1e-6 * np.abs(values).max()
    # Where steps are long against a stiff problem, the slopes at the nodes say nothing about the curve between them.
    tame = np.isfinite(curves).all() and (curves >= low - margin).all() and (curves <= high + margin).all()
    return (times, curves) if tame else (t, values)


def _draw_control(ax: Axes, solution: Plottable, g: int) -> None:
    """Control as steps, with the limits of its set."""
    m = solution.u.shape[-1]
    _style(ax, "control", "u")
    t, u = _numbers(solution.t[:, g]), _numbers(solution.u[:, g])  # (N + 1,), (N, m)
    steps = np.concatenate([u, u[-1:]])
    colors = _colors(m, CONTROL_COLORS)
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
            norm = np.linalg.norm(steps[:, limit.components], axis=-1)
            ax.plot(t, norm, drawstyle="steps-post", color=GRAY, linewidth=1.0, label="‖u‖")
    for j in range(m):
        label = f"u[{j}]" if m > 1 else "u"
        width = 1.5 if m <= LEGEND_ENTRIES else 1.0
        ax.plot(t, steps[:, j], drawstyle="steps-post", color=colors[j], linewidth=width, label=label)
    ax.set_ylim(*view)
    _legend(ax, m, "u", always=bool(limits))


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
    _style(ax, "Hamiltonian", "H")
    _style(gap_ax, "gap to the maximum of H", r"$\max_U H - H$")
    t = _numbers(solution.t[:, g])
    middle = 0.5 * (t[1:] + t[:-1])
    value, gap = (_numbers(part) for part in solution.hamiltonian())
    H = value[:, i]
    if not np.isfinite(H).any():
        for panel in (ax, gap_ax):
            _note(panel, "no finite trajectory")
        return
    ax.plot(middle, H, color=INK, linewidth=1.5, label="H")
    if solution.u.shape[1] == 1 and value.shape[1] > 1:
        mean = value.mean(1)  # what a shared control maximizes
        ax.plot(middle, mean, color=GRAY, linewidth=1.2, linestyle="--", label="mean over trajectories")
        _legend(ax, 1, "H", always=True)
        H = np.stack([H, mean], -1)
    _widen(ax, H)
    excess = np.where(np.isfinite(value[:, i]), gap[:, g], np.nan)
    if _logarithmic(gap_ax, excess):
        gap_ax.plot(middle, _positive(excess), color=RED, linewidth=1.0, marker=".", markersize=2.5)
    else:
        _note(gap_ax, "zero on every interval" if (excess == 0).any() else "no finite maximum of H over U")


def _widen(ax: Axes, H: Array) -> None:
    """Let a constant H look constant: errors of rounding and of the mesh shall not fill the panel."""
    finite = H[np.isfinite(H)]
    middle, half = 0.5 * float(finite.max() + finite.min()), 0.55 * float(np.ptp(finite))
    half = max(half, 0.02 * float(np.abs(finite).max()), 1e-12)
    ax.set_ylim(middle - half, middle + half)


def _draw_convergence(ax: Axes, solution: Plottable, g: int) -> None:
    """Cost above its lowest value, residual and ρ on a log scale; ticks mark rejected iterations."""
    _style(ax, "convergence", "")
    ax.set_xlabel("iteration")
    history, end = solution.history, _iterations(solution, g)
    k = np.arange(end + 1)
    cost, residual, rho = (_numbers(getattr(history, name)[: end + 1, g]) for name in ("cost", "residual", "rho"))
    finite = cost[np.isfinite(cost)]
    above = cost - finite.min() if finite.size else np.full_like(cost, np.nan)
    drawn = False
    for values, color, width, label in (
        (above, STATE_COLORS[0], 1.5, "cost − lowest"),
        (residual, RED, 1.5, "residual"),
        (rho, GRAY, 1.0, "ρ"),
    ):
        if _logarithmic(ax, values):
            marker = "o" if end < 25 else ""
            ax.plot(k, _positive(values), color=color, linewidth=width, marker=marker, markersize=3, label=label)
            drawn = True
    if not drawn:
        _note(ax, "no finite values" if not finite.size else "zero throughout")
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
    _legend(ax, 1, "", always=drawn)


def _iterations(solution: Plottable, g: int) -> int:
    """Number of iterations of a group; one that converged before the others did not move afterwards."""
    residual = solution.history.residual[:, g].cpu().numpy()
    # It converged when its residual first fell below the tolerance, and kept that value.
    return int(np.argmax(residual <= residual[-1])) if solution.status[g].name == "CONVERGED" else residual.size - 1


# ------------------------------------------------------------------------------------------------------------ the style


def _numbers(values: Tensor) -> Array:
    """Float64 array with infinities as NaN, which matplotlib leaves out."""
    array: Array = values.detach().cpu().double().numpy()
    return np.where(np.isfinite(array), array, np.nan)


def _positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _logarithmic(ax: Axes, values: Array) -> bool:
    """Use a log scale if there is something to draw on it."""
    drawable = bool((values > 0).any())
    if drawable:
        ax.set_yscale("log")
    return drawable


def _colors(count: int, palette: tuple[str, ...]) -> list[str]:
    if count <= len(palette):
        return list(palette[:count])
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, count))]


def _style(ax: Axes, title: str, name: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_ylabel(name)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def _legend(ax: Axes, count: int, name: str, *, always: bool = False) -> None:
    """Legend above the panel, where it hides nothing; for many components a word on the order of the shades."""
    if count > LEGEND_ENTRIES:
        title = f"{name}[0] dark … {name}[{count - 1}] light"
        ax.set_title(title, loc="right", fontsize=8, color=GRAY)
    elif count > 1 or always:
        entries = len(ax.get_legend_handles_labels()[1])
        spacing: dict[str, Any] = {
            "borderaxespad": 0.15,
            "handlelength": 1.5,
            "handletextpad": 0.4,
            "columnspacing": 1.0,
        }
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=entries, fontsize=8, frameon=False, **spacing)


def _note(ax: Axes, text: str) -> None:
    """Say why a panel is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GRAY, fontsize=9)
    ax.set_yticks([])


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
