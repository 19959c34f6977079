"""From a trivial guess to a solution of the wanted accuracy: interior-point iterations on meshes that are refined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ocsolver.collocation.compiled import fastest_system
from ocsolver.collocation.damping import resting, swinging
from ocsolver.collocation.descent import Crew, Patience, descend
from ocsolver.collocation.errors import VIOLATION, Errors, estimate
from ocsolver.collocation.guess import Tries, constraint_scales, ends_inside, first_point, guesses, scales, warm_point
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.refine import refined_nodes, resampled
from ocsolver.collocation.saddles import beyond_saddle
from ocsolver.collocation.settle import settled
from ocsolver.collocation.stop import Stop, Stopped
from ocsolver.collocation.switches import Switch, find_switches
from ocsolver.collocation.system import System
from ocsolver.collocation.tableau import Tableau, gauss, radau
from ocsolver.collocation.unknowns import Bounds, Mesh, Model, Point
from ocsolver.collocation.verdict import Ending, worst_violation
from ocsolver.status import Status

__all__ = ["Campaign", "Start"]

Array = np.ndarray[Any, np.dtype[Any]]

WARM_BARRIER = 1e-4  # of a start from a solution of a similar problem
LOOSE = 1.0  # accuracy of the equations on meshes that are not the last, relative to μ
SAFE = 10.0  # prices of violations are at least so many times the multipliers known from elsewhere
SHIFTS = (0.0, -0.5, 0.5)  # of controls, relative to their ranges, for which J and the rates are looked at
FIRST_BARRIER = 0.1  # μ, relative to the size of J
COARSE, FINER = 1e-4, 1e-2  # μ at which the first mesh is left, and its factor from mesh to mesh
SHARPEST_KINK = 5e-9
LAST = 0.03  # final μ relative to the tolerance
SMALLER = 0.03  # least factor by which the final μ is lower where J turns out small
TOUCHING = 0.1  # the same relative to the square of the accuracy of controls
ACCURACY, SINGLE = 1e-9, 1e-4  # of the Newton equations, without units; in single precision
SADDLES, EASY = 3, 5  # saddle points that are left, and iterations of problems that are taken to have none
NOTHING = 1e-2  # costates, relative to the size of J, that do not pull
LEVELS = 10  # meshes
PATIENT_LEVELS = 2  # meshes that bring nothing
PATIENCE, LATER = 150, 80  # iterations on the first mesh and on later ones
DOUBTS = 8  # iterations after which a start near to its bounds is given up if it has not come closer to a solution
LEAST = 1e-12  # ∫|L| dt + |Φ|, relative to the size of J, that residuals are at least relative to
MET, SOUND = 2, 4  # ranks of first solutions: their constraints are met; they are solved, too, and not too rough
FOLLOWED = 1e-4  # defects of the dynamics, scaled, of a trajectory that is one
ROUGH = 0.1  # error of J on the first mesh, relative to its size, above which another guess is tried
PRICE = 1e2  # of a violation at the end or at one point at first, relative to the size of J
WAY_PRICE = 10.0  # of a violation all the way, on the first mesh: dear ones cut steps along curved constraints


class Start(NamedTuple):
    """Values of everything at the nodes and Gauss points of a mesh."""

    x: Array  # (N, s, G, v)
    u: Array  # (N, s, G, m)
    p: Array  # (N, s, G, v)
    nodes: Array  # (N + 1, G, v)
    costates: Array  # (N + 1, G, v)
    y: Array | None = None  # (N, s, G, e), multipliers of path constraints
    nu: Array | None = None  # (G, k), of terminal constraints


@dataclass(eq=False)
class Campaign:
    """A run: it owns the current mesh and point, and says in the end how each group fared."""

    stacked: Stacked
    limits: Bounds
    stages: int
    max_intervals: int
    stop: Stop
    clocked: bool
    callback: Any = None
    of_the_set: int = 0  # path constraints, the last ones, that describe the control set
    damps: bool = False  # whether Radau's method takes the place of Gauss's where costates swing
    damped: bool = False  # whether it has done so
    rested: bool = False  # whether it has seen singular arcs
    tries: Tries = Tries.ALL
    history: list[tuple[Array, Array]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"iterations": 0, "meshes": 0})
    status: list[Status] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    _iterated: tuple[System, Point, Model, Array] | None = None  # where the last iteration has led
    _estimated: tuple[Point, float, Errors] | None = None  # errors of a point, and the rounding of kinks they saw
    careful: bool = False  # how far steps may leave the linearization
    system: System = field(init=False)
    point: Point = field(init=False)
    model: Model = field(init=False)
    mu: Array = field(init=False)
    unfinished: Array = field(init=False)  # whether the last iterations ended before they had an end (G,)
    cost: Array = field(init=False)
    residual: Array = field(init=False)
    error: Array = field(init=False)  # estimated distance of J from its minimum (G,)
    smaller: Array | float = field(default=1.0, init=False)  # J relative to what it looked like at first (G,)
    started: bool = field(init=False)  # whether its guesses led to solutions, or no others are to come
    nodes: Array = field(init=False)  # of the first mesh (N + 1, G)
    lost: Array = field(init=False)  # ended farther from a solution than by a gap that does not close (G,)

    @property
    def mesh(self) -> Mesh:
        """Current mesh."""
        return self.system.mesh

    def another(self, *, damps: bool, at_once: bool = False, tries: Tries = Tries.ALL) -> Campaign:
        """Another campaign for the same problem, whose history goes on; it may have Radau's points `at_once`."""
        fresh: dict[str, Any] = {
            "status": [],
            "notes": [],
            "damped": at_once,
            "rested": False,
            "_iterated": None,
            "_estimated": None,
        }
        counts, history = {**self.counts, "meshes": 0}, list(self.history)
        return replace(self, damps=damps, tries=tries, counts=counts, history=history, **fresh)

    @property
    def _tableau(self) -> Tableau:
        """Method of the next mesh."""
        return (radau if self.damped else gauss)(self.stages)

    @property
    def successes(self) -> Array:
        """Groups that converged (G,)."""
        return np.array([status is Status.CONVERGED for status in self.status])

    # -------------------------------------------------------------------- run

    def run(self, nodes: Array, control: Array | None = None, warm: Start | None = None) -> None:
        """Solve from a guess: nodes (N + 1, G), control (N, G, m), or values of everything at its Gauss points."""
        self.nodes = nodes
        self.ending: Status | None = None
        self.started = True
        with np.errstate(all="ignore"):
            try:
                solved = self._run(nodes, control, warm)
            except (KeyboardInterrupt, Stopped) as reason:
                if self._iterated is None:
                    raise
                self._state = self._iterated  # what came after is not whole
                self.ending = Status.INTERRUPTED if isinstance(reason, KeyboardInterrupt) else Status.STOPPED
                solved = np.zeros(self.stacked.groups, dtype=bool)
            self._judge(solved)

    def _run(self, nodes: Array, control: Array | None, warm: Start | None) -> Array:
        G = self.stacked.groups
        mesh = Mesh(nodes, self._tableau)
        solved = self._first(mesh, control, warm)
        if G == 1 and solved.all() and (self.counts["iterations"] > EASY or self._rests()):
            self._leave_saddles()
        base = [nodes[:, g] for g in range(G)]
        switches: list[list[Switch]] = []
        final, hat = self._final, self._first_barrier
        worst_of_all = G + 1, np.inf
        best, wasted, finished = (worst_of_all, self._state, solved), 0, np.zeros(G, dtype=bool)
        for level in range(LEVELS):
            self.counts["meshes"] = level + 1
            errors, goal = self.errors(), self.goal()
            violation = self._met(errors)
            total = errors.total
            good = ~solved | (total <= np.maximum(goal, 4e-15 * self.scale() * self.mesh.h.shape[0]))
            fine = np.maximum(errors.control.max(0) / self.stop.fineness, violation.max(0) / VIOLATION)
            good &= ~solved | (fine <= 1.0)
            worst = np.maximum(total / goal, fine)
            score = float(np.max(np.where(solved, worst, 0.0)))
            above = int((solved & (self._gap(errors) > self.stop.goal)).sum())
            if hat > final:
                best = worst_of_all, self._state, solved
            elif above < best[0][0] or (above == best[0][0] and score < 0.8 * best[0][1]):
                best, wasted = ((above, score), self._state, solved), 0
            else:
                wasted += 1
            if hat <= final:
                finished |= good
            if finished.all() or wasted >= PATIENT_LEVELS or not self.time_left() or level == LEVELS - 1:
                break
            if not solved.any():
                break  # nobody would iterate on a finer mesh, which would only look worse
            switches = find_switches(
                self.stacked, self.limits, self.mesh, self.point, self.system.size, switches, violation * (hat <= final)
            )
            if hat <= final:  # the barrier may be what keeps it from the goal
                self.smaller = np.where(solved, np.clip(self.scale() / self.system.size, SMALLER, 1.0), 1.0)
            floor = 4.0 * self.mu * self.limits.control_lower.size
            goal = np.where(finished, np.inf, goal)  # what is finished is not refined any more
            self.damped |= self.damps and bool((swinging(self.mesh, self.point) & solved).any())
            self.rested = self.rested or bool((resting(self.system, self.point, self.model) & solved).any())
            plan = refined_nodes(
                self.mesh,
                base,
                errors,
                switches,
                violation,
                goal,
                self.stop.fineness,
                floor,
                2 * self.stages - self._tableau.closed,
                self.max_intervals,
            )
            hat = final if good.all() or FINER * hat < 3.0 * final else FINER * hat
            now = self._refine(plan.nodes, hat, solved, finished)
            if not now.any():
                break  # the coarser mesh is the answer
            base, solved = plan.base, now
        _, self._state, solved = best
        return solved

    def _refine(self, nodes: Array, hat: float, wanted: Array, finished: Array) -> Array:
        """Go on to a finer mesh: which groups are solved (G,).

        A solution may be too near to its bounds to move. If it does not at once, it starts again from further inside;
        if that leads nowhere, it gets all the time it wants, unless the coarser mesh can be the answer.
        """
        before, done = self._state, ~wanted
        for doubts, inside in ((DOUBTS, False), (None, True), (None, False))[: 2 if hat <= self._final else 3]:
            self._state = before
            mesh = Mesh(nodes, self._tableau)
            if inside:
                self.mu = np.maximum(self.mu, COARSE * self.system.size / self.system.duration)
            self._move(mesh)
            done = self._follow(hat, wanted, finished, doubts)
            if (done | ~wanted).all() or not self.time_left():
                break
            self.damped |= self.damps
        return done

    def _follow(self, hat: float, wanted: Array, finished: Array, doubts: int | None) -> Array:
        """Solve on a finer mesh; finished groups that fail there are left as they were (G,)."""
        start = self.point
        now = self._solve(hat, wanted, doubts)
        lost = finished & ~now
        if lost.any():
            self.point = self.point.merged(start, lost)
            self.model = self.system.linearize(self.point, self.mu)
        return now | finished

    @property
    def _state(self) -> tuple[System, Point, Model, Array]:
        return self.system, self.point, self.model, self.mu

    @_state.setter
    def _state(self, state: tuple[System, Point, Model, Array]) -> None:
        self.system, self.point, self.model, self.mu = state

    @property
    def _final(self) -> float:
        """Last μ, relative to the size of J; kinks cannot be rounded as sharply as bounds can be approached.

        A control that just touches a bound is kept off it by about √μ.
        """
        last = min(LAST * self.stop.goal, TOUCHING * self.stop.fineness**2)
        return max(last, self._sharpest)

    @property
    def _sharpest(self) -> float:
        """Least μ, relative to the size of J, to which kinks can be rounded."""
        return SHARPEST_KINK if self.stacked.kinked else 0.0

    def _end(self, hat: float) -> Array:
        """μ at which a mesh is left, relative to the size of J (G,): the last one to that of the J that was found."""
        last = hat * self.smaller if hat <= self._final else hat
        return np.maximum(last, self._sharpest) * np.ones(self.stacked.groups)

    @property
    def _first_barrier(self) -> float:
        """μ at which the first mesh is left, relative to the size of J."""
        return COARSE if self._has_barrier else self._final

    @property
    def _has_barrier(self) -> bool:
        lim = self.limits
        starts = (lim.start_lower < lim.start_upper) & (np.isfinite(lim.start_lower) | np.isfinite(lim.start_upper))
        controls = np.isfinite(lim.control_lower) | np.isfinite(lim.control_upper)
        ends = lim.end_lower < lim.end_upper
        return bool(self.stacked.kinked or lim.path_lower.size or starts.any() or controls.any() or ends.any())

    @property
    def accuracy(self) -> float:
        """Of the Newton equations in this precision."""
        return ACCURACY if self.stacked.problem.dtype == torch.float64 else SINGLE

    @property
    def _allowed(self) -> float:
        """Violation up to which a solution counts as admissible."""
        return 10 * max(VIOLATION, self.accuracy)

    def time_left(self) -> bool:
        """Whether iterations and seconds are left."""
        return self.counts["iterations"] < self.stop.max_iterations and not self.stop.late()

    def scale(self) -> Array:
        """∫|L| dt + |Φ| (G,)."""
        return self.system.scale(self.model.now.values, self.model.now.end)

    def goal(self) -> Array:
        """Error of J to be reached (G,)."""
        return self.stop.goal * np.maximum(self.scale(), LEAST * self.system.size)

    def _gap(self, errors: Errors) -> Array:
        """Mean of max H − H, relative to the size of J (G,)."""
        return np.asarray(errors.gap.sum(0) / np.maximum(self.scale(), LEAST * self.system.size))

    def _met(self, errors: Errors) -> Array:
        """Violation between the points of every interval (N, G), where constraints can be met."""
        return np.where(self._admissible, errors.violation, 0.0)

    @property
    def _admissible(self) -> Array:
        """Groups whose constraints are met as well as the barrier allows (G,)."""
        return np.asarray(self.model.now.violation <= self._allowed + 10 * self.mu / self.system.unit)

    def errors(self) -> Errors:
        """Errors of the current solution, estimated once."""
        if (
            self._estimated is None
            or self._estimated[0] is not self.point
            or self._estimated[1] != self.stacked.epsilon
        ):
            errors = estimate(self.stacked, self.limits, self.mesh, self.point)
            self._estimated = self.point, self.stacked.epsilon, errors
        return self._estimated[2]

    # ------------------------------------------------------------------ starts

    def _first(self, mesh: Mesh, control: Array | None, warm: Start | None) -> Array:
        """Solve on the first mesh from one guess after the other, until all groups are solved (G,)."""
        G = self.stacked.groups
        hat = self._first_barrier
        solved = np.zeros(G, dtype=bool)
        if warm is not None:
            self._start_warm(mesh, warm)
            solved = self._solve(hat, np.ones(G, dtype=bool))
            if solved.all():
                return solved
        rank = np.full(G, -1)
        for guess in guesses(self.tries, clocked=self.clocked, ends=self.limits.end_lower.size > 0):
            self.careful = guess.careful
            parts = guess.trajectory(self.stacked, self.limits, mesh, control, guess.longer)
            for _ in range(2):
                before = self._state if rank.max() >= 0 else None
                self._start(mesh, *parts)
                now = self._settle(hat, self._solve(hat, rank < SOUND))
                reached = self._rank(now)
                better = reached > rank
                if before is not None:
                    self._keep(before, ~better)
                solved, rank = np.where(better, now, solved), np.maximum(rank, reached)
                if (rank == SOUND).all() or not self.time_left():
                    return solved
                if not (better & (rank == MET)).any():
                    break
                # It meets the constraints and no more: once again from there, with room around it.
                parts = self.point.x, self.point.nodes, self.point.u
        good: Array = (rank == SOUND) | (self.tries is not Tries.FIRST)
        self.started = bool(good.all())
        return solved & good

    def _settle(self, hat: float, solved: Array) -> Array:
        """Solve again from better controls, where solutions without bounds rest at others: which groups are solved."""
        unbounded = np.isinf(self.errors().total) & np.isfinite(self.cost) & solved
        u = settled(self.stacked, self.limits, self.mesh, self.point) if unbounded.any() else None
        if u is None:
            return solved
        before, point = self._state, self.point
        parts = (point.x, u, point.p, point.y, point.nodes, point.costates)
        self.point = warm_point(self.system, parts, (point.end_slack, point.nu), self.mu)
        self.model = self.system.linearize(self.point, self.mu)
        again = self._solve(hat, unbounded)
        self._keep(before, ~again)
        return solved | again

    def _rests(self) -> bool:
        """Whether costates vanish: nothing pulls at the start, which may be a saddle point."""
        return bool((np.abs(self.point.costates) * self.system.scale_x <= NOTHING * self.system.size[:, None]).all())

    def _leave_saddles(self) -> None:
        """Go on to lower solutions from those of the first mesh that are saddle points."""
        for _ in range(SADDLES):
            if not self.time_left():
                break
            before = self._state
            self.point, at_saddle = beyond_saddle(self.system, self.point, self.mu, self.model)
            if not at_saddle.any():
                break
            phi = self.model.now.barrier
            self.model = self.system.linearize(self.point, self.mu)
            lower = self._solve(self._first_barrier, at_saddle, exact=True) & (self.model.now.barrier < phi)
            if not lower.all():
                self._state = before
                break

    def _rank(self, solved: Array) -> Array:
        """How good the current solution of each group is as a start (G,): infeasible, …, `MET`, …, `SOUND`.

        It is sound where the errors of the mesh are small enough for the solution to mean anything.
        """
        exact = self.errors().total <= ROUGH * np.maximum(self.scale(), self.system.size)
        met = self._admissible & (solved | (self.model.now.feasibility <= FOLLOWED))
        return np.asarray(MET * met + solved + (met & solved & exact))

    def _keep(self, before: tuple[System, Point, Model, Array], groups: Array) -> None:
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

    def _begin(self, mesh: Mesh, x: Array, nodes: Array, u: Array, shifts: tuple[float, ...] = SHIFTS) -> None:
        """The equations on the first mesh, with scales and prices from a trajectory."""
        scale_x, scale_u, size = scales(self.stacked, self.limits, mesh, x, nodes, u, shifts)
        paths, ends = constraint_scales(self.stacked, self.limits, mesh, x, nodes, u, (scale_x, scale_u))
        way = WAY_PRICE * (size / mesh.h.sum(0))[:, None] / paths
        prices = way + np.zeros((*mesh.points.shape, 1)), PRICE * size[:, None] / ends
        self.system = fastest_system()(self.stacked, self.limits, mesh, scale_x, scale_u, size, *prices)

    def _start(self, mesh: Mesh, x: Array, nodes: Array, u: Array) -> None:
        self._begin(mesh, x, nodes, u)
        self.mu = FIRST_BARRIER * self.system.size / self.system.duration
        self.point = first_point(self.stacked, self.limits, mesh, x, nodes, u, self.mu)

    def _start_warm(self, mesh: Mesh, warm: Start) -> None:
        """Start where a similar problem ended: its multipliers are known, so the barrier may be low at once."""
        self._begin(mesh, warm.x, warm.nodes, warm.u, (0.0,))
        self.mu = (WARM_BARRIER if self._has_barrier else self._final) * self.system.unit
        y = _usable(warm.y, (*mesh.points.shape, self.limits.path_lower.size))
        nu = _usable(warm.nu, (self.stacked.groups, self.limits.end_lower.size))
        rho_path = np.maximum(self.system.rho_path, SAFE * np.abs(y))
        rho_end = np.maximum(self.system.rho_end, SAFE * np.abs(nu))
        self.system = replace(self.system, rho_path=rho_path, rho_end=rho_end)
        nodes, end_slack = ends_inside(self.stacked, self.limits, warm.nodes)
        parts = (warm.x, warm.u, warm.p, y, nodes, warm.costates)
        self.point = warm_point(self.system, parts, (end_slack, nu), self.mu)

    def _move(self, mesh: Mesh) -> None:
        """Go on from the current solution on another mesh."""
        x, u, p, y, at_nodes, costates = resampled(self.mesh, self.limits, self.point, mesh)
        y = self._massive(y, mesh)
        rho_path = np.maximum(self.system.rho_path.max((0, 1)), SAFE * np.abs(y))
        self.system = replace(self.system, mesh=mesh, rho_path=rho_path)
        ends = self.point.end_slack, self.point.nu
        self.point = warm_point(self.system, (x, u, p, y, at_nodes, costates), ends, self.mu)

    def _massive(self, y: Array, mesh: Mesh) -> Array:
        """Multipliers on another mesh; where a constraint is first met at the end, their integral counts."""
        late = (self.errors().last > VIOLATION)[:, None]
        if not late.any():
            return y
        mass = (self.mesh.weights[-1][..., None] * self.point.y[-1]).sum(0)  # (G, e)
        ending = late & (mesh.points > self.mesh.t[-2])[..., None]
        y = np.where(ending, 0.0, y)
        y[-1] = np.where(late, mass / mesh.h[-1][:, None], y[-1])
        return y

    # ------------------------------------------------------------------- solve

    def _solve(self, hat: float, wanted: Array, doubts: int | None = None, *, exact: bool = False) -> Array:
        """Iterate on the current mesh until μ is `hat` relative to the size of J: which groups are solved (G,).

        It is solved as exactly as J is to be known on a mesh that may be the last, or wherever that is asked for.
        """
        crew = Crew.gather(
            self.system, self.point, self.mu, self._end(hat), wanted, clocked=self.clocked, careful=self.careful
        )
        exact |= hat <= self._final or self.limits.path_lower.size > 0
        accuracy = self.accuracy if exact else max(self.accuracy, LOOSE * hat)
        iterations = PATIENCE if self.counts["meshes"] == 0 else LATER
        patience = Patience(iterations, accuracy, doubts, self.callback is not None, self.time_left, self._count)

        def watch(cost: Array, error: Array) -> None:
            self.cost, self.residual = cost, error
            self.history.append((cost, error))
            if self.callback is not None and len(self.history) > 1:
                self._state = crew.state
                if self.callback(len(self.history) - 1, self):
                    raise Stopped

        try:
            descend(crew, patience, watch)
        finally:
            self._state = self._iterated = crew.state
            self.unfinished = wanted & ~(crew.converged | crew.failed)
        return crew.converged

    def _count(self) -> None:
        self.counts["iterations"] += 1

    # -------------------------------------------------------------------- end

    def _judge(self, solved: Array) -> None:
        """Status, note and residual of every group."""
        errors, scale = self.errors(), self.scale()
        self.cost = self.system.cost(self.model.now.values, self.model.now.end)
        self.error = errors.total
        self.residual = self._gap(errors)
        ending = Ending(
            solved=solved,
            unfinished=self.unfinished,
            admissible=self.model.now.violation <= self._allowed,
            possible=self._admissible,
            cost=self.cost,
            size=scale,
            error=self.error,
            residual=self.residual,
            between=errors.violation.max(0),
        )
        for g in range(len(solved)):
            status, note = self.ending, ""
            if status is None:
                status, note = ending.verdict(g, self.stop, self.counts["iterations"], self._worst)
            self.status.append(status)
            self.notes.append(note)
        self.lost = ~self.successes & ~(self._admissible & ending.meaningful)

    def _worst(self, g: int) -> str | None:
        """Which constraint of a group is violated most, by how much, and when."""
        t = self.mesh.points[:, :, g]
        if self.clocked:
            t = self.stacked.begin + t * self.point.nodes[0, g, -1]
        constraints = len(self.limits.path_lower) // self.stacked.members
        return worst_violation(self.model.now, self.limits, g, t, constraints, self.of_the_set)


def _usable(multipliers: Array | None, shape: tuple[int, ...]) -> Array:
    """Multipliers of a similar problem; zeros where it has other constraints or did not find them."""
    if multipliers is None or multipliers.shape != shape or not np.isfinite(multipliers).all():
        return np.zeros(shape)
    return multipliers
