"""How every panel of a picture looks: palette, axes, legends; it knows nothing of what is drawn."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from torch import Tensor

LEGEND_ENTRIES = 8  # more components than these are told apart by shade alone
INK, GRAY, RED = "#222222", "#6b6b6b", "#b3261e"
STATE_COLORS = ("#1f5fa8", "#e0662a", "#2a9d6f", "#b5478f", "#d9a400", "#4fb3d9", "#7a5230", "#8a8a8a")
CONTROL_COLORS = ("#4b2e83", "#c2185b", "#00838f", "#8d6e00", "#5c6bc0", "#ef6c00", "#558b2f", "#8a8a8a")

Array = NDArray[np.float64]


def numbers(values: Tensor) -> Array:
    """Float64 array with infinities as NaN, which matplotlib leaves out."""
    array: Array = values.detach().cpu().double().numpy()
    return np.where(np.isfinite(array), array, np.nan)


def positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def logarithmic(ax: Axes, values: Array) -> bool:
    """Use a log scale if there is something to draw on it."""
    drawable = bool((values > 0).any())
    if drawable:
        ax.set_yscale("log")
    return drawable


def shades(count: int, palette: tuple[str, ...]) -> list[str]:
    if count <= len(palette):
        return list(palette[:count])
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, count))]


def style(ax: Axes, title: str, name: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_ylabel(name)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def legend(ax: Axes, count: int, name: str, *, always: bool = False) -> None:
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


def note(ax: Axes, text: str) -> None:
    """Say why a panel is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GRAY, fontsize=9)
    ax.set_yticks([])


def widen(ax: Axes, values: Array) -> None:
    """Let constant values look constant: errors of rounding and of the mesh shall not fill the panel."""
    finite = values[np.isfinite(values)]
    middle, half = 0.5 * float(finite.max() + finite.min()), 0.55 * float(np.ptp(finite))
    half = max(half, 0.02 * float(np.abs(finite).max()), 1e-12)
    ax.set_ylim(middle - half, middle + half)
