"""Panels of a path constraint and marks of a control's structure; they know nothing of how either was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ocsolver.panels import GRAY, INK, LEGEND_ENTRIES, STATE_COLORS, Array, legend, note, numbers, shades, style, widen

__all__ = ["draw_path", "mark_structure", "steps_of"]

DENSE_POINTS = 400  # of a curve between which nobody sees a corner
AMBER = "#d9a400"


class Structured(Protocol):
    """What a solution must offer for these panels."""

    @property
    def t(self) -> Tensor: ...  # (N + 1, G)
    @property
    def x(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def p(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def u(self) -> Tensor: ...  # (N, G, m)
    @property
    def pieces(self) -> Any: ...
    @property
    def curves(self) -> Any: ...
    @property
    def switches(self) -> Sequence[Sequence[tuple[float, int]]]: ...
    @property
    def singular(self) -> Sequence[Sequence[tuple[float, float, int]]]: ...
    @property
    def problem(self) -> Any: ...
    def control(self, t: Any) -> Tensor: ...


def steps_of(solution: Structured, g: int) -> tuple[Array, Array, str]:
    """Times (T,), values (T, m) and draw style of the control of a group; jumps are vertical."""
    t = numbers(solution.t[:, g])
    if solution.pieces is None:
        u = numbers(solution.u[:, g])
        return t, np.concatenate([u, u[-1:]]), "steps-post"
    sigma = np.linspace(0.0, 1.0, _points(len(t) - 1))
    sigma[-1] = 1.0 - 1e-9  # the value to the left of the node
    times = (t[:-1, None] + np.diff(t)[:, None] * sigma).ravel()
    return times, numbers(solution.control(times)[:, g]), "default"


def _points(intervals: int) -> int:
    return max(3, math.ceil(DENSE_POINTS / intervals))


def draw_path(ax: Axes, multiplier_ax: Axes, solution: Structured, i: int, g: int) -> None:
    """Path constraint of trajectory i between its bounds, and below it the multipliers."""
    style(ax, "path constraint", "c")
    style(multiplier_ax, "multiplier of the path constraint", "ν")
    path = solution.problem.path_constraint
    sigma = torch.linspace(0.0, 1.0, _points(len(solution.u))).to(solution.x)
    with torch.no_grad():
        at = solution.curves.samples(solution.problem, solution.t, solution.x, solution.p, sigma)
        values = path.path(at.t, at.x, at.u)[:, :, i].flatten(0, 1)  # (T, c)
    times, c = numbers(at.t[:, :, g].flatten()), values.shape[-1]
    colors = shades(c, STATE_COLORS)
    width = 1.6 if c <= LEGEND_ENTRIES else 1.0
    levels = [level for side in path.bounds(values) for level in side.tolist()]
    for j, level in enumerate(levels):
        if math.isfinite(level):
            ax.axhline(level, color=colors[j % c] if c > 1 else GRAY, linestyle="--", linewidth=1.0, zorder=1.5)
    nu = None if at.nu is None else numbers(at.nu[:, :, min(i, at.nu.shape[2] - 1)].flatten(0, 1))
    for j in range(c):
        label = f"[{j}]" if c > 1 else ""
        ax.plot(times, numbers(values[:, j]), color=colors[j], linewidth=width, label=f"c{label}")
        if nu is not None:
            multiplier_ax.plot(times, nu[:, j], color=colors[j], linewidth=width, label=f"ν{label}")
    widen(ax, np.append(numbers(values), [level for level in levels if math.isfinite(level)]))
    legend(ax, c, "c")
    if nu is None:
        note(multiplier_ax, "not computed by this solver")
    else:
        multiplier_ax.axhline(0.0, color=GRAY, linewidth=0.8, zorder=1.5)


def mark_structure(axes: Sequence[Axes], control: Axes, solution: Structured, g: int) -> None:
    """Switching times as dotted lines across all panels over time, singular arcs as bands behind the control."""
    for time in sorted({time for time, _ in (solution.switches[g] if solution.switches else ())}):
        for ax in axes:
            ax.axvline(time, color=INK, linestyle=":", linewidth=0.8, alpha=0.7, zorder=1.2)
    for first, last, _ in solution.singular[g] if solution.singular else ():
        control.axvspan(first, last, color=AMBER, alpha=0.15, linewidth=0, zorder=0.5)
