"""Extremals that consist of several smooth arcs, integrated by scipy to twelve digits; it solves no boundary values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

__all__ = ["Arcs", "Array", "integrate"]

Array = NDArray[np.float64]
Rate = Callable[[float, Array], Array]


@dataclass(frozen=True, eq=False)
class Arcs:
    """Dense solution (k components) of one initial value problem after another.

    Parameters
    ----------
    nodes : ndarray, shape (K + 1,)
        Times at which the arcs meet, with both ends.
    pieces : sequence of callable
        The K arcs, (T) -> (k, T).
    """

    nodes: Array
    pieces: Sequence[Callable[[Array], Array]]

    def arc(self, t: Any) -> NDArray[np.int64]:
        """Arc of each time: (*T) -> (*T)."""
        return np.clip(np.searchsorted(self.nodes, np.asarray(t), side="right") - 1, 0, len(self.pieces) - 1)

    def __call__(self, t: Any) -> Tensor:
        """Values of all components: (*T) -> (*T, 1, k)."""
        times = torch.as_tensor(t, dtype=torch.float64)
        flat = times.reshape(-1).numpy()
        values = np.stack([piece(flat) for piece in self.pieces])  # (K, k, T)
        return torch.as_tensor(values[self.arc(flat), :, np.arange(len(flat))]).reshape(*times.shape, 1, -1)


def integrate(rates: Sequence[Rate], nodes: Sequence[float], start: Any) -> Arcs:
    """Integrate each arc from the end of the one before it."""
    y = np.array(start, dtype=float)
    pieces = []
    for rate, left, right in zip(rates, nodes[:-1], nodes[1:], strict=True):
        run: Any = solve_ivp(rate, (left, right), y, method="DOP853", rtol=1e-13, atol=1e-15, dense_output=True)
        pieces.append(run.sol)
        y = run.y[:, -1]
    return Arcs(np.array(nodes), pieces)
