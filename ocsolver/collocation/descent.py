"""Interior-point iterations on one mesh until the barrier is as low as wanted; it knows nothing of other meshes.

Groups that are done are left out of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ocsolver._record import record
from ocsolver.collocation.errors import VIOLATION
from ocsolver.collocation.interior import Walk, rules
from ocsolver.collocation.march import Marched, can_march, march
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Point, total

__all__ = ["Crew", "Patience", "descend", "set_out"]

Array = np.ndarray[Any, np.dtype[Any]]

SHARPEST_KINK = 5e-9  # radius by which kinks are rounded at least
KAPPA, CLEAR = 30.0, 1.0  # a barrier problem counts as solved when its error is below so many μ, and below this
FASTER, POWER = 0.2, 1.5  # decrease of μ
FAIR, NEARLY = 1e-4, 12  # dual error that is good enough after so many iterations: singular arcs
STUCK = 8  # iterations that fail in a row before a group is given up
DEARER, HIGHEST_PRICE = 1000.0, 1e13  # steps of the prices of violations; the last one, relative to the size of J
NO_PROGRESS = 0.5  # error relative to the first one
STILL = 1e-2  # relative change of control and violation by a price so much higher, if these cannot be less
LARGER = 10.0  # ratio to the size assumed from which on that of J is corrected
CROWD = 8  # groups from which on it pays to leave those out that are done
FRESH = np.nan, np.inf, 0.0, 0.0, 0.0, 0.0, 0.0  # state of a walk that begins, after its μ
NO_CORNERS = np.empty((2, 0, 1))


@record
class Patience:
    """How long to go on, and how exactly to solve."""

    iterations: int
    accuracy: float  # of the Newton equations, without units
    doubts: int | None  # iterations after which it is given up without progress
    together: bool  # whether somebody watches all groups, so that even those stay that are done
    left: Callable[[], int]  # iterations that are left, none if time is not
    count: Callable[[int], None]  # called with the number of iterations

    def going_on(self) -> bool:
        """Whether there are iterations left."""
        return self.left() > 0


@dataclass(eq=False)
class Crew:
    """Some groups on their way, and how each of them fares."""

    rows: Array  # which groups they are
    system: System
    point: Point
    mu: Array  # (G,)
    mu_end: Array  # (G,), where to stop
    walk: Walk
    failed: Array  # (G,), given up or not wanted
    fails: Array  # (G,), iterations in a row that did not move
    nearly: Array  # (G,), iterations that were good enough for singular arcs
    converged: Array  # (G,)
    hopeless: Array  # (G,), their constraints cannot be met
    before: tuple[Array, Array] | None = None  # control and violation when prices were raised last
    _model: Model | None = None

    @classmethod
    def gather(
        cls, system: System, point: Point, mu: Array, mu_end: Array, wanted: Array, *, clocked: bool, careful: bool
    ) -> Crew:
        """All groups at a start; those `wanted` go on until μ is `mu_end` (G,), which is no higher."""
        _round_kinks(system, mu)
        walk = Walk(system, clocked=clocked, careful=careful)
        none = np.zeros(len(mu), dtype=int)
        return cls(np.arange(len(mu)), system, point, mu.copy(), mu_end, walk, ~wanted, none, none, none > 0, none > 0)

    @property
    def model(self) -> Model:
        """The model where the groups are, made when somebody asks for it."""
        if self._model is None:
            self._model = self.system.linearize(self.point, self.mu)
        return self._model

    @model.setter
    def model(self, model: Model) -> None:
        self._model = model

    @property
    def state(self) -> tuple[System, Point, Model, Array]:
        """Where the groups are."""
        return self.system, self.point, self.model, self.mu

    def look(self, accuracy: float) -> tuple[Array, Array]:
        """Errors (G,), and which groups are still at work (G,); prices of violations are raised where these pay."""
        found = self.system.optimality(self.point, self.mu, self.model)
        error = found.error
        dearer = self._raise_prices(error, found.bought, accuracy)
        settled = self.mu <= 1.0001 * self.mu_end
        if not settled.any():
            self.nearly, self.converged = np.zeros_like(self.nearly), np.zeros_like(settled)
            return error, ~self.failed
        settled &= ~dearer
        done = settled & (found.dual <= accuracy) & (found.primal <= accuracy)
        done &= found.complementarity <= KAPPA * self.mu / self.system.unit
        fair = settled & (found.dual <= FAIR) & (found.primal <= accuracy**0.5)
        self.nearly = np.where(fair, self.nearly + 1, 0)
        self.converged = done | (self.nearly >= NEARLY)
        return error, ~(self.converged | self.failed)

    def _raise_prices(self, error: Array, bought: Array, accuracy: float) -> Array:
        """A higher price of violations that pay, `bought` (G,) as they are: which groups (G,)."""
        system, hat = self.system, self.mu / self.system.unit
        solved, stuck = error <= _solved(hat), self.fails > STUCK // 2
        raised = solved | stuck
        if raised.any():
            most = accuracy + VIOLATION + 10 * hat
            raised = ((solved & (bought > most)) | (stuck & (self.model.now.violation > most))) & ~(
                self.failed | self.hopeless
            )
        if raised.any():
            same = raised & self._unmoved()
            self.hopeless = self.hopeless | same | (raised & (system.dearest >= HIGHEST_PRICE * system.size))
            raised &= ~self.hopeless
            self.before = self.point.u, self.model.now.violation
            factor = np.where(raised, DEARER, 1.0)[:, None]
            scale = system.scale(self.model.now.values, self.model.now.end)
            size = np.where(raised & (scale > LARGER * system.size), scale, system.size)
            self.mu, self.mu_end = self.mu * size / system.size, self.mu_end * size / system.size
            self.system = replace(system, size=size, rho_end=factor * system.rho_end, rho_path=factor * system.rho_path)
            self.walk.system = self.system
            self.model = self.system.remodel(self.point, self.mu, model=self.model)
            self.walk.reset(self.model.now)
        return raised

    def _unmoved(self) -> Array:
        """Groups whose control and violation the last, much higher price did not change (G,): it is as small as can be.

        A constraint that is merely expensive to meet draws the control along with the price.
        """
        if self.before is None:
            return np.zeros(len(self.mu), dtype=bool)
        u, violation = self.before
        now = self.model.now.violation
        still = np.abs(now - violation) <= STILL * now
        result: Array = still & (total(np.abs(self.point.u - u)) <= STILL * total(np.abs(u)))
        return result

    def march(self, error: Array, accuracy: float, most: int, proceed: Callable[[], bool]) -> Marched:
        """The iterations of a single group, up to `most` of them; `proceed` says at every trial whether to go on."""
        walk = self.walk
        most_bought = np.inf if self.hopeless[0] else accuracy + VIOLATION
        own = _rules(accuracy, self.mu_end[0], most_bought, most, clocked=walk.clocked, careful=walk.careful)
        corners, shifts = walk.filter.shape[1], (walk.delta[0], walk.last_delta[0])
        state = np.array([self.mu[0], error[0], walk.theta_max[0], corners, walk.steps, self.nearly[0], *shifts])
        found = march(self.system, self.point, self.model, own, state, walk.filter, most, proceed)
        self.arrive(found)
        return found

    def arrive(self, marched: Marched) -> None:
        """Go on from where a march of the single group has led."""
        walk, state = self.walk, marched.state
        self.point, self.model, walk.filter = marched.point, marched.model, marched.filter
        self.converged = np.array([marched.done])
        self.mu, walk.theta_max, self.nearly = state[:1], state[2:3], state[5:6].astype(int)
        walk.steps, walk.delta, walk.last_delta = int(state[4]), state[6:7], state[7:8]
        if marched.steps:
            self.fails = np.zeros_like(self.fails)
        if marched.stuck:
            self.count(np.array([True]))

    def advance(self, error: Array, active: Array) -> None:
        """Lower the barrier where it is time, and take a step."""
        self._lower_barrier(error, active)
        self.point, moved, found = self.walk.step(self.point, self.mu, self.model, active)
        self.count(active & ~moved)
        found = self.system.at(self.point, self.mu, whole=True) if found is None else found
        self.model = self.system.model(self.point, self.mu, found)

    def count(self, stuck: Array) -> None:
        """Note the groups whose step led nowhere: their next one is that of a shifted Hessian.

        First of all, the multipliers of their bounds are put on the central path: those that are far off it promise
        room near bounds where there is none, which no shift mends.
        """
        walk = self.walk
        self.fails = np.where(stuck, self.fails + 1, 0)
        if (self.fails == 1).any():
            self.point = self.point.merged(self.system.centered(self.point, self.mu), self.fails == 1)
            self.model = self.system.remodel(self.point, self.mu, model=self.model)
        self.failed = self.failed | (self.fails > STUCK)
        walk.last_delta = np.where(stuck, np.maximum(1e-4, 10 * walk.last_delta), walk.last_delta)
        walk.delta = np.where(stuck, walk.last_delta, 0.0)

    def _lower_barrier(self, error: Array, active: Array) -> None:
        """Lower the barrier as often as the point solves its problem; of the model, only the errors are asked."""
        system, unit, lowered = self.system, self.system.unit, False
        for _ in range(4):
            hat = self.mu / unit
            ready = active & (error <= _solved(hat)) & (self.mu > self.mu_end)
            if not ready.any():
                break
            lower = np.maximum(self.mu_end, unit * np.minimum(FASTER * hat, hat**POWER))
            self.mu, lowered = np.where(ready, lower, self.mu), True
            _round_kinks(system, self.mu)
            if system.stacked.kinked:
                self.model = system.linearize(self.point, self.mu)
            error = system.measured(self.point, self.mu, self.model).error
        if lowered:
            if not system.stacked.kinked:
                self.model = system.remodel(self.point, self.mu, model=self.model)
            self.walk.reset(self.model.now)

    def part(self, rows: Array) -> Crew:
        """Some of these groups."""
        system, point, mu = self.system.part(rows), self.point.part(rows), self.mu[rows]
        return Crew(
            rows=self.rows[rows],
            system=system,
            point=point,
            mu=mu,
            mu_end=self.mu_end[rows],
            walk=self.walk.part(rows, system),
            failed=self.failed[rows],
            fails=self.fails[rows],
            nearly=self.nearly[rows],
            converged=self.converged[rows],
            hopeless=self.hopeless[rows],
            before=self.before and (self.before[0][:, :, rows], self.before[1][rows]),
        )

    def take(self, part: Crew) -> None:
        """Take over what a part has reached; the model is left as it was."""
        rows = part.rows
        self.point = self.point.with_part(part.point, rows)
        for mine, other in ((self.mu, part.mu), (self.failed, part.failed), (self.converged, part.converged)):
            mine[rows] = other
        rho_end, rho_path = self.system.rho_end.copy(), self.system.rho_path.copy()
        rho_end[rows], rho_path[:, :, rows] = part.system.rho_end, part.system.rho_path
        size = self.system.size.copy()
        size[rows] = part.system.size
        self.system = replace(self.system, size=size, rho_end=rho_end, rho_path=rho_path)


def _rules(accuracy: float, mu_end: float, most_bought: float, most: int, *, clocked: bool, careful: bool) -> Array:
    """Of a march, in the order of `_march.c`."""
    own = accuracy, mu_end, most_bought, most, KAPPA, CLEAR, FASTER, POWER, FAIR, NEARLY
    return np.array((*own, *rules(clocked=clocked, careful=careful)))


def _round_kinks(system: System, mu: Array) -> None:
    """Kinks are rounded as widely as the barrier is high, but not as sharply as bounds can be approached."""
    if not system.stacked.kinked:
        return
    system.stacked.epsilon = max(SHARPEST_KINK, float((mu / system.unit).max()))


def _solved(hat: Array) -> Array:
    """Error (G,) below which a barrier problem counts as solved, from μ relative to the size of J."""
    return np.minimum(KAPPA * hat, CLEAR)


Watch = Callable[[Array, Array], None]  # which groups, and their costs and errors (…, 2, G)


def set_out(
    system: System, point: Point, mu: Array, mu_end: Array, patience: Patience, *, clocked: bool, careful: bool
) -> Marched | None:
    """The first iterations of a single group, before anybody has looked; None if others have to see them."""
    if patience.together or not can_march(system) or not (left := patience.left()):
        return None
    most = min(patience.iterations, left, patience.doubts or left)
    own = _rules(patience.accuracy, mu_end[0], patience.accuracy + VIOLATION, most, clocked=clocked, careful=careful)
    return march(system, point, None, own, np.array([mu[0], *FRESH]), NO_CORNERS, most, patience.going_on)


def descend(crew: Crew, patience: Patience, watch: Watch, marched: Marched | None) -> None:
    """Iterate until all groups of a crew are done, or the patience is at its end; a single one may have `marched`.

    `watch` is told at every iteration which groups are at work, their costs and errors; what it raises passes through.
    """
    everybody, first, iteration = crew, np.zeros(len(crew.mu)), 0
    try:
        if marched is not None:
            crew.arrive(marched)
            iteration = marched.steps + marched.stuck
            first = marched.seen[0, 1] if len(marched.seen) else first
        else:
            crew.walk.reset(crew.model.now)
        while iteration < patience.iterations and not crew.converged.all():
            error, active = crew.look(patience.accuracy)
            cost = crew.system.cost(crew.model.now.values, crew.model.now.end)
            watch(crew.rows, np.stack((cost, error))[None])
            first = error if iteration == 0 else first
            if iteration == patience.doubts:
                crew.failed = crew.failed | (active & (error > NO_PROGRESS * first[crew.rows]))
                active = active & ~crew.failed
            if not active.any() or not patience.left():
                break
            crowded = len(active) >= CROWD and 2 * active.sum() <= len(active)
            if crowded and not patience.together and crew.system.stacked.separable:
                if crew is not everybody:
                    everybody.take(crew)
                crew, error, active = crew.part(np.flatnonzero(active)), error[active], active[active]
            if can_march(crew.system):
                marched = _march(crew, patience, iteration, error, watch)
                iteration += marched.steps + marched.stuck
            else:
                crew.advance(error, active)
                patience.count(1)
                iteration += 1
    finally:
        if crew is not everybody:
            everybody.take(crew)
            everybody.model = everybody.system.linearize(everybody.point, everybody.mu)


def _march(crew: Crew, patience: Patience, iteration: int, error: Array, watch: Watch) -> Marched:
    """With a single group, take as many steps as there are to take, but none after the doubts."""
    most = 1 if patience.together else min(patience.iterations - iteration, patience.left())
    if patience.doubts is not None and iteration < patience.doubts:
        most = min(most, patience.doubts - iteration)
    marched = crew.march(error, patience.accuracy, most, patience.going_on)
    if marched.seen.size:
        watch(crew.rows, marched.seen)
    patience.count(marched.steps + marched.stuck)
    if marched.interrupt is not None:
        raise marched.interrupt
    return marched
