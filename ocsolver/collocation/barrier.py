"""Primal–dual logarithmic barriers for variables between bounds; they know nothing of what the variables mean."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import numpy as np

from ocsolver._record import record

__all__ = ["Barrier", "longest"]

Array = np.ndarray[Any, np.dtype[Any]]

PUSH = 1e-2  # of the range or of the size of a bound, by which a start is moved inside
LOW, HIGH = 1e4, 1e10  # factors by which z may be less and more than μ / slack
TINY = np.finfo(float).tiny


@record
class Barrier:
    """Values between bounds with the multipliers of both sides, all of one shape (*b, G, d).

    A side that is infinite has no multiplier; components with equal bounds are left to the caller. Infinities and their
    quotients are meant: callers run under ``np.errstate(all="ignore")``. Both sides stand in one array, the lower
    first, so that one operation serves both.
    """

    bounds: Array  # (2, *b, G, d)
    z: Array  # (2, *b, G, d), multipliers ≥ 0
    idle: bool = False  # whether no component has a bound
    partial: bool = True  # whether some components have none
    _held: list[Array] = field(default_factory=list, repr=False)  # the last values and their slacks

    @classmethod
    def start(cls, lower: Array, upper: Array, shape: tuple[int, ...]) -> Barrier:
        """Multipliers to be set by `centered`."""
        bounds = np.empty((2, *shape))
        bounds[0], bounds[1] = lower, upper
        finite = np.isfinite(bounds)
        return cls(bounds, finite * 1.0, not finite.any(), not finite.all())

    @property
    def lower(self) -> Array:
        """Lower bounds."""
        side: Array = self.bounds[0]
        return side

    @property
    def upper(self) -> Array:
        """Upper bounds."""
        side: Array = self.bounds[1]
        return side

    @property
    def low(self) -> Array:
        """Multipliers of the lower bounds."""
        side: Array = self.z[0]
        return side

    @property
    def high(self) -> Array:
        """Multipliers of the upper bounds."""
        side: Array = self.z[1]
        return side

    def held(self, z: Array) -> Barrier:
        """The same bounds with other multipliers."""
        return Barrier(self.bounds, z, self.idle, self.partial, self._held)

    def inside(self, value: Array, push: float = PUSH) -> Array:
        """Values moved strictly between the bounds."""
        width = self.upper - self.lower
        left = np.minimum(push * np.maximum(np.abs(self.lower), 1.0), push * width)
        right = np.minimum(push * np.maximum(np.abs(self.upper), 1.0), push * width)
        moved = np.where(np.isfinite(self.lower), np.maximum(value, self.lower + left), value)
        moved = np.where(np.isfinite(self.upper), np.minimum(moved, self.upper - right), moved)
        return np.where(width > 0, moved, self.lower)

    def slacks(self, value: Array) -> Array:
        """Distances to the sides (2, *b, G, d), inf where there is none; those of the last values are kept."""
        if not self._held or self._held[0] is not value:
            slack = self._distances(value)
            self._held[:] = value, np.maximum(slack, TINY, out=slack)
        return self._held[1]

    def _distances(self, value: Array) -> Array:
        """Signed distances to the sides (2, *b, G, d)."""
        result = np.empty_like(self.bounds)
        np.subtract(value, self.bounds[0], out=result[0])
        np.subtract(self.bounds[1], value, out=result[1])
        return result

    def centered(self, value: Array, mu: Array) -> Barrier:
        """Multipliers μ / slack; μ broadcasts over (*b, G, d)."""
        return self if self.idle else self.held(mu / self.slacks(value))

    def curvature(self, value: Array) -> Array:
        """Σ = z_l / s_l + z_u / s_u."""
        if self.idle:
            return np.zeros_like(value)
        ratio = self.z / self.slacks(value)
        result: Array = ratio[0] + ratio[1]
        return result

    def slope(self, value: Array, mu: Array) -> Array:
        """Derivative of −μ Σ log s."""
        if self.idle:
            return np.zeros_like(value)
        push = mu / self.slacks(value)
        result: Array = push[1] - push[0]
        return result

    def logarithm(self, value: Array) -> Array:
        """Σ log s, (*b, G, d); not finite outside."""
        if self.idle:
            return np.zeros_like(value)
        logs = np.log(self._distances(value))
        if self.partial:
            logs[np.isinf(self.bounds)] = 0.0
        result: Array = logs[0] + logs[1]
        return result

    def step(self, value: Array, move: Array, mu: Array) -> Array:
        """Newton steps of both multipliers (2, *b, G, d) for a step of the values."""
        if self.idle:
            return self.z
        slack = self.slacks(value)
        change = self.z / slack
        change[0] *= -move
        change[1] *= move
        change += mu / slack
        change -= self.z
        return change

    def room(self, value: Array, move: Array, share: Array) -> Array:
        """Largest α ≤ 1 per group that leaves 1 − share of every slack: (G,)."""
        if self.idle:
            return np.ones_like(share)
        ratio = move / self.slacks(value)
        ratio[0] *= -1.0
        return longest(ratio, share)

    def dual_room(self, steps: Array, share: Array) -> Array:
        """The same for the multipliers: (G,)."""
        return np.ones_like(share) if self.idle else longest(steps / -self.z, share)

    def moved(self, steps: Array, alpha: Array, value: Array, mu: Array) -> Barrier:
        """Multipliers after a step, kept within factors of μ / slack at the new values.

        Those that are much less than that promise room near bounds where there is none.
        """
        if self.idle:
            return self
        pull = mu / self.slacks(value)
        z = self.z + alpha * steps
        np.maximum(z, pull / LOW, out=z)
        return self.held(np.minimum(z, HIGH * pull, out=z))

    def complementarity(self, value: Array, mu: Array) -> Array:
        """Largest |z s − μ| per group (G,)."""
        if self.idle:
            return np.zeros(value.shape[-2])
        error = self.z * self.slacks(value)
        error -= mu
        np.abs(error, out=error)
        if self.partial:
            error[np.isinf(self.bounds)] = 0.0
        return _per_group(error)


def _per_group(values: Array) -> Array:
    """Largest value of each group: (*b, G, d) -> (G,)."""
    result: Array = values.max(_all_but_groups(values), initial=0.0)
    return result


def longest(ratio: Array, share: Array) -> Array:
    """Longest α ≤ 1 with α ratio ≤ share; ratios that are no numbers are none."""
    worst = np.fmax.reduce(ratio, _all_but_groups(ratio), initial=0.0)
    result: Array = np.minimum(1.0, share / np.maximum(worst, TINY))
    return result


def _all_but_groups(values: Array) -> tuple[int, ...]:
    """Axes of (*b, G, d) other than that of the groups."""
    return (*range(values.ndim - 2), values.ndim - 1)
