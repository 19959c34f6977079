"""Interior-point iterations on one mesh; they know nothing of its refinement.

Steps pass a filter [1]_; the curvature along a step is tested instead of the inertia of the matrix [2]_.

.. [1] A. Wächter, L. Biegler, *On the implementation of an interior-point filter line-search algorithm*, Math. Program.
   106 (2006).
.. [2] N.-Y. Chiang, V. Zavala, *An inertia-free filter line-search algorithm for large-scale nonlinear programming*,
   Comput. Optim. Appl. 64 (2016).

With a single group, `_march.c` does the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Point, Residual, Step

__all__ = ["Walk", "rules"]

Array = np.ndarray[Any, np.dtype[Any]]

CURVATURE = 1e-10  # that a step must have, relative to its length
NONLINEAR = 0.3  # largest defect that a step may leave, relative to what it changes
CAREFUL, FIRST_STEPS = 0.1, 3  # the same for the first steps, whose multipliers know little
TRIES, SHORT = 4, 0.1  # to lengthen steps that bounds cut below this
SHRINK, GROW = 0.5, 1.0  # largest relative changes of the duration in one step
FILTER_SHRINK = 1e-5
ARMIJO = 1e-4
HALVINGS = 12
LONGEST = 16.0  # of steps of a shifted Hessian
BOUNDARY = 0.99  # share of the way to a bound


def rules(*, clocked: bool, careful: bool) -> tuple[float, ...]:
    """Of the steps of a walk, in the order of `_march.c`."""
    changes = (SHRINK, GROW) if clocked else (0.0, 0.0)
    search = ARMIJO, FILTER_SHRINK, CAREFUL, NONLINEAR, np.inf if careful else FIRST_STEPS, HALVINGS, LONGEST
    return CURVATURE, SHORT, TRIES, BOUNDARY, *changes, *search


class Walk:
    """Iterations on one mesh for all groups of a problem.

    Parameters
    ----------
    system : System
        The equations.
    clocked : bool
        Whether the last state of every group is the duration.
    careful : bool
        Whether all steps stay as near to the linearization as the first ones.
    """

    def __init__(self, system: System, *, clocked: bool, careful: bool) -> None:
        groups = system.stacked.groups
        self.system, self.clocked, self.careful = system, clocked, careful
        self.delta = np.zeros(groups)
        self.last_delta = np.zeros(groups)
        self.filter = np.empty((2, 0, groups))  # corners (θ, φ) of all groups, inf where a group has none
        self.theta_max = np.full(groups, np.inf)
        self.steps = 0

    def part(self, rows: Array, system: System) -> Walk:
        """The walk of some groups; `system` is theirs."""
        walk = Walk(system, clocked=self.clocked, careful=self.careful)
        walk.delta, walk.last_delta, walk.steps = self.delta[rows], self.last_delta[rows], self.steps
        walk.filter = self.filter[:, :, rows]
        walk.theta_max = self.theta_max[rows]
        return walk

    def step(self, point: Point, mu: Array, model: Model, active: Array) -> tuple[Point, Array, Residual | None]:
        """One iteration of the active groups: the next point, which groups moved, and the residuals, if known whole."""
        share = np.maximum(BOUNDARY, 1.0 - mu * self.system.duration / self.system.size)
        step = self._regular_direction(point, mu, model, active)
        if step is None:
            return point, np.zeros_like(active), None
        alpha = self._room(point, step, share)
        step, alpha = self._longer(point, mu, model, step, alpha, share, active)
        moves, first = step.moves, np.where(active, alpha, 0.0)  # moves are those of the multipliers of bounds
        if self.system.stacked.tape is not None:  # derivatives cost little: the first trial is made as if it were good
            guess = self.system.moved(point, mu, step, moves, np.where(active, share, 0.0), first)
            tried = self.system.at(guess, mu, whole=True)
        else:
            guess = self.system.shifted(point, step, alpha)
            tried = self.system.at(guess, mu)
        moved, taken, found = self._search(point, mu, model, step, alpha, share, active, tried)
        taken = self._stretched(point, mu, model.now, found, share, moved, taken, tried)
        if tried.values.jacobian is not None and found is step and (moved == active).all() and (taken == first).all():
            return guess, moved, tried
        taken, share = np.where(moved, taken, 0.0), np.where(moved, share, 0.0)
        return self.system.moved(point, mu, found, moves, share, taken), moved, None

    @property
    def _straight(self) -> float:
        """Largest defect that the next step may leave, relative to what it changes."""
        return CAREFUL if self.careful or self.steps < FIRST_STEPS else NONLINEAR

    def _widen(self, now: Residual, fresh: Array) -> None:
        """Another corner of the filter for the groups of `fresh` (G,)."""
        if fresh.any():
            theta, phi = (1 - FILTER_SHRINK) * now.feasibility, now.barrier - FILTER_SHRINK * now.feasibility
            corner = np.where(fresh, np.stack((theta, phi)), np.inf)
            self.filter = np.concatenate((self.filter, corner[:, None]), 1)

    def _stretched(
        self,
        point: Point,
        mu: Array,
        now: Residual,
        step: Step,
        share: Array,
        moved: Array,
        taken: Array,
        tried: Residual,
    ) -> Array:
        """Lengths (G,) of full steps of a shifted Hessian, doubled while φ falls: saddle points are left faster."""
        longer, phi = moved & (self.delta > 0) & (taken >= 1.0), tried.barrier
        theta_min, theta_max = _small(now), np.maximum(now.feasibility, NONLINEAR * step.reach) + 1e-12
        while longer.any() and taken.max() < LONGEST:
            alpha = np.where(longer, 2.0 * taken, taken)
            longer &= self._room(point, step.scaled(alpha), share) >= 1.0
            if not longer.any():
                break
            alpha = np.where(longer, alpha, taken)
            other = self.system.at(self.system.shifted(point, step, alpha), mu)
            good, _ = self._acceptable(now, other, step.slope, alpha, theta_min)
            longer &= good & (other.barrier < phi) & (other.feasibility <= theta_max)
            taken, phi = np.where(longer, alpha, taken), np.where(longer, other.barrier, phi)
        return taken

    def _longer(
        self, point: Point, mu: Array, model: Model, step: Step, alpha: Array, share: Array, active: Array
    ) -> tuple[Step, Array]:
        """Where bounds cut the step short, a shorter one of a shifted Hessian, if it promises more."""
        for _ in range(TRIES):
            short = active & (alpha < SHORT)
            if not short.any():
                break
            before = self.delta
            self.delta = np.where(short, np.maximum(8.0 * self.delta, np.maximum(self.last_delta / 3.0, 1e-2)), before)
            other = self.system.direction(point, mu, model, self.delta, active)
            if other is None:
                self.delta = before
                break
            room = self._room(point, other, share)
            better = short & (room * -other.slope > 1.5 * alpha * -step.slope) & (other.bend > 0)
            step, alpha = step.merged(other, better), np.where(better, room, alpha)
            self.last_delta = np.where(better, self.delta, self.last_delta)
            if not better.any():
                self.delta = before
                break
            self.delta = np.where(better, self.delta, before)
        return step, alpha

    def _room(self, point: Point, step: Step, share: Array) -> Array:
        """Largest primal step that stays inside (G,)."""
        result = self.system.room(point, step, share)
        if self.clocked:
            T, dT = point.nodes[0, :, -1], step.d.nodes[0, :, -1]
            result = np.minimum(result, 1.0 / np.maximum(1.0, np.maximum(-dT / (SHRINK * T), dT / (GROW * T))))
        return result

    def _regular_direction(self, point: Point, mu: Array, model: Model, active: Array) -> Step | None:
        """Newton step of positive curvature, the Hessian shifted where that needs it."""
        for _ in range(40):
            step = self.system.direction(point, mu, model, self.delta, active)
            bad = active if step is None else active & ~(step.bend >= CURVATURE * step.length * self.system.size)
            if step is not None and not bad.any():
                self.last_delta = np.where(self.delta > 0, self.delta, self.last_delta)
                return step
            first = np.maximum(1e-4, self.last_delta / 3.0)
            self.delta = np.where(bad, np.where(self.delta > 0, 8.0 * self.delta, first), self.delta)
            if self.delta.max() > 1e20:
                break
        return None

    def _search(
        self,
        point: Point,
        mu: Array,
        model: Model,
        step: Step,
        alpha: Array,
        share: Array,
        active: Array,
        tried: Residual,
    ) -> tuple[Array, Array, Step]:
        """Filter line search with one second-order correction: who moved, how far, along which step.

        `tried` is what the first trial has given.
        """
        now = model.now
        straight = self._straight
        self.steps += 1
        theta_min = _small(now)
        reach = step.reach
        moved, waiting = np.zeros_like(active), active.copy()
        taken, trial_alpha = np.zeros_like(alpha), alpha.copy()
        for halving in range(HALVINGS):
            if halving:
                trial = self.system.shifted(point, step, np.where(waiting, trial_alpha, taken))
                tried = self.system.at(trial, mu)
            good, armijo = self._acceptable(now, tried, step.slope, trial_alpha, theta_min)
            good &= waiting & (
                tried.feasibility <= (1 - trial_alpha) * now.feasibility + straight * trial_alpha * reach + 1e-12
            )
            left = waiting & ~good
            if halving == 0 and left.any() and (left & (tried.feasibility > now.feasibility)).any():
                corrected = self._correct(point, mu, model, tried, trial_alpha, share, left)
                if corrected is not None:
                    other, beta = corrected
                    trial2 = self.system.shifted(point, other, beta)
                    tried2 = self.system.at(trial2, mu)
                    good2, armijo2 = self._acceptable(now, tried2, step.slope, trial_alpha, theta_min)
                    use = left & good2 & (tried2.feasibility <= now.feasibility + straight * trial_alpha * reach)
                    if use.any():
                        step = step.merged(other, use)
                        trial_alpha = np.where(use, beta, trial_alpha)
                        good, armijo = good | use, np.where(use, armijo2, armijo)
            self._widen(now, good & ~armijo)
            taken = np.where(good, trial_alpha, taken)
            moved |= good
            waiting &= ~good
            if not waiting.any():
                break
            trial_alpha = np.where(waiting, 0.5 * trial_alpha, trial_alpha)
        return moved, taken, step

    def _acceptable(
        self, now: Residual, tried: Residual, slope: Array, alpha: Array, theta_min: Array
    ) -> tuple[Array, Array]:
        """Which trials pass the filter, and which of those by the Armijo rule."""
        theta, phi = tried.feasibility, tried.barrier
        noise = 1e-13 * (np.abs(now.barrier) + self.system.size)
        shrunk = FILTER_SHRINK * now.feasibility
        better = (theta <= now.feasibility - shrunk) | (phi <= now.barrier - shrunk + noise)
        switching = armijo = now.feasibility <= theta_min
        if switching.any():
            switching &= (slope < 0) & (alpha * (-slope / self.system.size) ** 2.3 > now.feasibility**1.1)
            armijo = switching & (phi <= now.barrier + ARMIJO * alpha * slope + noise)
            tiny = (theta <= 1e-12) & (now.feasibility <= 1e-12) & (phi <= now.barrier + noise)
            better = np.where(switching, armijo, better) | tiny
        passed = better & np.isfinite(theta + phi) & (theta <= self.theta_max)
        if self.filter.shape[1]:
            passed &= ~((theta >= self.filter[0]) & (phi >= self.filter[1])).any(0)
        return passed, armijo

    def _correct(
        self, point: Point, mu: Array, model: Model, tried: Residual, alpha: Array, share: Array, active: Array
    ) -> tuple[Step, Array] | None:
        """Second-order correction: the step with the residuals α c + c(trial)."""
        a = alpha[:, None]
        now = model.now
        combined = replace(
            now,
            stage=a * now.stage + tried.stage,
            gap=a * now.gap + tried.gap,
            path=a * now.path + tried.path,
            terminal=a * now.terminal + tried.terminal,
        )
        step = self.system.direction(point, mu, model, self.delta, active, combined)
        return None if step is None else (step, self._room(point, step, share))

    def reset(self, now: Residual) -> None:
        """Empty filter: the barrier parameter has changed."""
        self.filter = self.filter[:, :0]
        self.theta_max = np.maximum(1e4 * np.maximum(1.0, now.feasibility), 1.0)


def _small(now: Residual) -> Array:
    """Infeasibility below which φ alone counts (G,)."""
    result: Array = 1e-4 * np.maximum(1.0, now.feasibility)
    return result
