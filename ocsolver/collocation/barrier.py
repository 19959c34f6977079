"""Primal–dual logarithmic barriers for variables between bounds; they know nothing of what the variables mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Barrier"]

Array = np.ndarray[Any, np.dtype[Any]]

PUSH = 1e-2  # of the range or of the size of a bound, by which a start is moved inside
DRIFT = 1e10  # factor by which z may differ from μ / slack


@dataclass(frozen=True, eq=False)
class Barrier:
    """Values between bounds with the multipliers of both sides, all of one shape (*b, G, d).

    A side that is infinite has no multiplier; components with equal bounds are left to the caller. Infinities and their
    quotients are meant: callers run under ``np.errstate(all="ignore")``.
    """

    lower: Array
    upper: Array
    low: Array  # multiplier of the lower side, ≥ 0
    high: Array

    @cached_property
    def idle(self) -> bool:
        """Whether no component has a bound."""
        return not bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @classmethod
    def start(cls, lower: Array, upper: Array, shape: tuple[int, ...]) -> Barrier:
        """Multipliers to be set by `centered`."""
        lower, upper = np.broadcast_to(lower, shape), np.broadcast_to(upper, shape)
        return cls(lower, upper, np.isfinite(lower) * 1.0, np.isfinite(upper) * 1.0)

    def inside(self, value: Array, push: float = PUSH) -> Array:
        """Values moved strictly between the bounds."""
        width = self.upper - self.lower
        left = np.minimum(push * np.maximum(np.abs(self.lower), 1.0), push * width)
        right = np.minimum(push * np.maximum(np.abs(self.upper), 1.0), push * width)
        moved = np.where(np.isfinite(self.lower), np.maximum(value, self.lower + left), value)
        moved = np.where(np.isfinite(self.upper), np.minimum(moved, self.upper - right), moved)
        return np.where(width > 0, moved, self.lower)

    def slacks(self, value: Array) -> tuple[Array, Array]:
        """Distances to the sides, inf where there is none."""
        tiny = np.finfo(float).tiny
        return np.maximum(value - self.lower, tiny), np.maximum(self.upper - value, tiny)

    def centered(self, value: Array, mu: Array) -> Barrier:
        """Multipliers μ / slack; μ broadcasts over (*b, G, d)."""
        below, above = self.slacks(value)
        return Barrier(self.lower, self.upper, mu / below, mu / above)

    def curvature(self, value: Array) -> Array:
        """Σ = z_l / s_l + z_u / s_u."""
        if self.idle:
            return np.zeros_like(value)
        below, above = self.slacks(value)
        result: Array = self.low / below + self.high / above
        return result

    def slope(self, value: Array, mu: Array) -> Array:
        """Derivative of −μ Σ log s."""
        if self.idle:
            return np.zeros_like(value)
        below, above = self.slacks(value)
        result: Array = mu / above - mu / below
        return result

    def logarithm(self, value: Array) -> Array:
        """Σ log s, (*b, G, d); −inf outside."""
        if self.idle:
            return np.zeros_like(value)
        below = np.where(np.isfinite(self.lower), np.log(np.maximum(value - self.lower, 0.0)), 0.0)
        above = np.where(np.isfinite(self.upper), np.log(np.maximum(self.upper - value, 0.0)), 0.0)
        result: Array = below + above
        return result

    def step(self, value: Array, move: Array, mu: Array) -> tuple[Array, Array]:
        """Newton steps of both multipliers for a step of the values."""
        if self.idle:
            return self.low, self.high
        below, above = self.slacks(value)
        return mu / below - self.low - self.low / below * move, mu / above - self.high + self.high / above * move

    def room(self, value: Array, move: Array, share: Array) -> Array:
        """Largest α ≤ 1 per group that leaves 1 − share of every slack: (G,)."""
        if self.idle:
            return np.ones_like(share)
        below, above = self.slacks(value)
        ratio = np.maximum(-move / below, move / above)
        return _largest(ratio, share)

    def dual_room(self, steps: tuple[Array, Array], share: Array) -> Array:
        """The same for the multipliers: (G,)."""
        if self.idle:
            return np.ones_like(share)
        ratio = np.maximum(
            np.where(self.low > 0, -steps[0] / self.low, 0.0), np.where(self.high > 0, -steps[1] / self.high, 0.0)
        )
        return _largest(ratio, share)

    def moved(self, steps: tuple[Array, Array], alpha: Array, value: Array, mu: Array) -> Barrier:
        """Multipliers after a step, kept within a factor of μ / slack at the new values."""
        if self.idle:
            return self
        below, above = self.slacks(value)
        low, high = self.low + alpha * steps[0], self.high + alpha * steps[1]
        low = np.clip(low, mu / below / DRIFT, DRIFT * mu / below)
        high = np.clip(high, mu / above / DRIFT, DRIFT * mu / above)
        return Barrier(self.lower, self.upper, low, high)

    def complementarity(self, value: Array, mu: Array) -> Array:
        """Largest |z s − μ| per group (G,)."""
        if self.idle:
            return np.zeros(value.shape[-2])
        below, above = self.slacks(value)
        error = np.maximum(
            np.where(np.isfinite(self.lower), np.abs(self.low * below - mu), 0.0),
            np.where(np.isfinite(self.upper), np.abs(self.high * above - mu), 0.0),
        )
        return _per_group(error)


def _per_group(values: Array) -> Array:
    """Largest value of each group: (*b, G, d) -> (G,)."""
    axes = (*range(values.ndim - 2), values.ndim - 1)
    result: Array = values.max(axis=axes, initial=0.0)
    return result


def _largest(ratio: Array, share: Array) -> Array:
    worst = _per_group(np.nan_to_num(ratio, nan=0.0, posinf=0.0))
    result: Array = np.minimum(1.0, np.where(worst > 0, share / worst, 1.0))
    return result
