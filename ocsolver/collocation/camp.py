"""Where a campaign stands: a mesh, a point on it, and the way to a lower barrier there; it knows no other mesh."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ocsolver.collocation.descent import Crew, Patience, descend, set_out
from ocsolver.collocation.errors import VIOLATION, Errors, estimate
from ocsolver.collocation.march import Marched
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.stop import Stop, Stopped
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Bounds, Mesh, Model, Point, every

__all__ = ["Camp", "State"]

Array = np.ndarray[Any, np.dtype[Any]]
State = tuple[System, Point, Model, Array]  # equations, point, model and μ

LOOSE = 1.0  # accuracy of the equations on meshes that are not the last, relative to μ
COARSE, FINER = 1e-4, 1e-2  # μ at which the first mesh is left, and its factor from mesh to mesh
KINKED = 2e-9  # least final μ where kinks are rounded, which does not go well with bounds that are nearer
LAST = 0.03  # final μ relative to the tolerance
TOUCHING = 0.1  # the same relative to the square of the accuracy of controls
ACCURACY, SINGLE = 1e-9, 1e-4  # of the Newton equations, without units; in single precision
PATIENCE, LATER = 150, 80  # iterations on the first mesh and on later ones
LEAST = 1e-12  # ∫|L| dt + |Φ|, relative to the size of J, that residuals are at least relative to


@dataclass(eq=False)
class Camp:
    """The current mesh and point, and what is known of them. Levels of μ are relative to the size of J per time."""

    stacked: Stacked
    limits: Bounds
    stop: Stop
    clocked: bool
    callback: Any
    history: list[Array]  # costs and errors (…, 2, G)
    counts: dict[str, int]
    careful: bool = False  # how far steps may leave the linearization
    smaller: Array | float = 1.0  # J relative to what it looked like at first (G,)
    system: System = field(init=False)
    point: Point = field(init=False)
    model: Model = field(init=False)
    mu: Array = field(init=False)
    cost: Array = field(init=False)
    residual: Array = field(init=False)
    unfinished: Array = field(init=False)  # whether the last iterations ended before they had an end (G,)
    reached: State | None = None  # where the last iteration has led
    _scaled: tuple[Model, Array, Array] | None = None  # scale of a model, and that or more
    _estimated: tuple[Point, float, Errors] | None = None  # errors of a point, and the rounding of kinks they saw

    @property
    def mesh(self) -> Mesh:
        """Current mesh."""
        return self.system.mesh

    @property
    def state(self) -> State:
        """All that iterations change."""
        return self.system, self.point, self.model, self.mu

    @state.setter
    def state(self, state: State) -> None:
        self.system, self.point, self.model, self.mu = state

    def keep(self, before: State, groups: Array) -> None:
        """Take some groups back to where they were on the same mesh."""
        system, point, _, mu = before
        rows = groups[:, None]
        rho_end = np.where(rows, system.rho_end, self.system.rho_end)
        rho_path = np.where(rows, system.rho_path, self.system.rho_path)
        scale_x = np.where(rows, system.scale_x, self.system.scale_x)
        size = np.where(groups, system.size, self.system.size)
        self.system = replace(self.system, rho_end=rho_end, rho_path=rho_path, scale_x=scale_x, size=size)
        self.point, self.mu = self.point.merged(point, groups), np.where(groups, mu, self.mu)
        self.model = self.system.linearize(self.point, self.mu)

    # ------------------------------------------------------------------ barrier

    @cached_property
    def final(self) -> float:
        """Last μ, not as low where there are kinks; a control that just touches a bound is kept off it by about √μ."""
        return max(min(LAST * self.stop.goal, TOUCHING * self.stop.fineness**2), self._sharpest)

    @property
    def _sharpest(self) -> float:
        return KINKED if self.stacked.kinked else 0.0

    @property
    def first(self) -> float:
        """μ at which the first mesh is left."""
        return COARSE if self.has_barrier else self.final

    @property
    def has_barrier(self) -> bool:
        """Whether anything has bounds, or kinks that are rounded."""
        return self.limits.some or self.stacked.kinked

    def _end(self, hat: float) -> Array:
        """μ at which a mesh is left (G,): the last one relative to the size of the J that was found."""
        last = hat * self.smaller if hat <= self.final else hat
        return np.zeros(self.stacked.groups) + np.maximum(last, self._sharpest)

    # -------------------------------------------------------------------- solve

    def solve(
        self, hat: float, wanted: Array, doubts: int | None = None, *, exact: bool = False, most: int | None = None
    ) -> Array:
        """Iterate on the current mesh until μ is `hat`: which groups are solved (G,).

        It is solved as exactly as J is to be known on a mesh that may be the last, or wherever that is asked for. With
        `doubts`, it is given up after so many iterations that have not come closer to a solution; it has `most`
        iterations, or those of this mesh.
        """
        exact |= hat <= self.final or self.limits.path_lower.size > 0
        accuracy = self.accuracy if exact else max(self.accuracy, LOOSE * hat)
        iterations = most or (PATIENCE if self.counts["meshes"] == 0 else LATER)
        patience = Patience(iterations, accuracy, doubts, self.callback is not None, self.left, self._count)

        def watch(rows: Array, seen: Array) -> None:
            if len(rows) < len(wanted):  # the others are as they were
                before, own = np.stack((self.cost, self.residual)), seen
                seen = before[None].repeat(len(own), 0)
                seen[..., rows] = own
            self._note(seen)
            if self.callback is not None and (k := sum(map(len, self.history)) - 1):
                self.state = crew.state
                if self.callback(k, self):
                    raise Stopped

        mu_end = np.minimum(self._end(hat) * self.system.unit, self.mu)
        start, marched = (self.system, self.point, self.mu, mu_end), None
        if every(wanted):
            marched = set_out(*start, patience, clocked=self.clocked, careful=self.careful)
        if marched is not None and self._arrive(marched):
            return wanted.copy()
        crew = Crew.gather(*start, wanted, clocked=self.clocked, careful=self.careful)
        try:
            descend(crew, patience, watch, marched)
        finally:
            self.state = self.reached = crew.state
            self.unfinished = wanted & ~(crew.converged | crew.failed)
        return crew.converged

    def _arrive(self, marched: Marched) -> bool:
        """Be where a single group has marched: whether it is solved."""
        if len(marched.seen):
            self._note(marched.seen)
        self._count(marched.steps + marched.stuck)
        self.point, self.model, self.mu = marched.point, marched.model, marched.state[:1]
        self.reached, self.unfinished = self.state, np.array([not marched.done])
        if marched.interrupt is not None:
            raise marched.interrupt
        return marched.done

    def _note(self, seen: Array) -> None:
        """Costs and errors of all groups at some iterations (…, 2, G)."""
        self.history.append(seen)
        self.cost, self.residual = seen[-1]

    def _count(self, steps: int) -> None:
        self.counts["iterations"] += steps

    def left(self) -> int:
        """Iterations that are left, none if time is not."""
        return 0 if self.stop.late() else max(self.stop.max_iterations - self.counts["iterations"], 0)

    def time_left(self) -> bool:
        """Whether iterations and seconds are left."""
        return self.left() > 0

    # ----------------------------------------------------------------- measures

    @property
    def accuracy(self) -> float:
        """Of the Newton equations in this precision."""
        return ACCURACY if self.stacked.problem.dtype == torch.float64 else SINGLE

    @property
    def allowed(self) -> float:
        """Violation up to which a solution counts as admissible."""
        return 10 * max(VIOLATION, self.accuracy)

    @property
    def admissible(self) -> Array:
        """Groups whose constraints are met as well as the barrier allows (G,)."""
        if not self.limits.end_lower.size and not self.limits.path_lower.size:
            return np.ones(self.stacked.groups, dtype=bool)
        return np.asarray(self.model.now.violation <= self.allowed + self.blurred)

    @property
    def blurred(self) -> Array:
        """Violation that the barrier may hide (G,)."""
        return 10 * self.mu / self.system.unit

    def scale(self) -> Array:
        """∫|L| dt + |Φ| (G,)."""
        return self._scales()[1]

    def goal(self) -> Array:
        """Error of J to be reached (G,)."""
        return self.stop.goal * self._size()

    def gap(self) -> Array:
        """Mean of max H − H, relative to the size of J (G,)."""
        return np.asarray(self.errors().raised / self._size())

    def _size(self) -> Array:
        return self._scales()[2]

    def _scales(self) -> tuple[Model, Array, Array]:
        known = self._scaled
        if known is None or known[0] is not self.model:
            scale = self.system.scale(self.model.now.values, self.model.now.end)
            self._scaled = known = self.model, scale, np.maximum(scale, LEAST * self.system.size)
        return known

    def errors(self) -> Errors:
        """Errors of the current solution, estimated once."""
        known = self._estimated
        if known is None or known[0] is not self.point or known[1] != self.stacked.epsilon:
            errors = estimate(self.stacked, self.limits, self.mesh, self.point)
            self._estimated = known = self.point, self.stacked.epsilon, errors
        return known[2]

    def violation(self) -> Array:
        """Violation between the points of every interval (N, G), where constraints can be met."""
        return self._where_possible(self.errors().violation)

    def worst(self) -> Array:
        """The largest of them (G,)."""
        return self._where_possible(self.errors().worst)

    def _where_possible(self, violation: Array) -> Array:
        return np.where(self.admissible, violation, 0.0) if self.limits.path_lower.size else violation
