"""From a trivial guess to a solution of the wanted accuracy: interior-point iterations on meshes that are refined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ocsolver.collocation.camp import COARSE, FINER, Camp
from ocsolver.collocation.damping import resting, swinging
from ocsolver.collocation.errors import VIOLATION
from ocsolver.collocation.guess import Tries
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.refine import refined_nodes, resampled
from ocsolver.collocation.starts import Start, dear_enough, first_solution
from ocsolver.collocation.stop import Stop, Stopped
from ocsolver.collocation.switches import Switch, find_switches, sides_of
from ocsolver.collocation.tableau import Tableau, gauss, radau
from ocsolver.collocation.unknowns import Bounds, Mesh, every
from ocsolver.collocation.verdict import Ending, worst_violation
from ocsolver.collocation.warm import warm_point
from ocsolver.status import Status

__all__ = ["Campaign"]

Array = np.ndarray[Any, np.dtype[Any]]

SMALLER = 0.03  # least factor by which the final μ is lower where J turns out small
LEVELS = 10  # meshes
BETTER = 0.8  # errors relative to those of the best mesh so far that are worth another one
PATIENT_LEVELS = 2  # meshes that bring nothing
ROUNDING = 4e-15  # of J in each interval, relative to its size
DOUBTS = 8  # iterations after which a start near to its bounds is given up if it has not come closer to a solution


@dataclass(eq=False)
class Campaign:
    """A run from mesh to mesh; it says in the end how each group fared."""

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
    history: list[Array] = field(default_factory=list)  # costs and errors (…, 2, G)
    counts: dict[str, int] = field(default_factory=lambda: {"iterations": 0, "meshes": 0})
    status: list[Status] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    camp: Camp = field(init=False)
    error: Array = field(init=False)  # estimated distance of J from its minimum (G,)
    started: bool = field(init=False)  # whether its guesses led to solutions, or no others are to come
    nodes: Array = field(init=False)  # of the first mesh (N + 1, G)
    base: list[Array] = field(init=False)  # of each group, the last nodes without those that enclose switches
    switches: list[list[Switch]] = field(init=False)  # which they are, if there are any
    lost: Array = field(init=False)  # ended farther from a solution than by a gap that does not close (G,)

    def another(self, *, damps: bool, at_once: bool = False, tries: Tries = Tries.ALL) -> Campaign:
        """Another campaign for the same problem, whose history goes on; it may have Radau's points `at_once`."""
        counts, history = {**self.counts, "meshes": 0}, list(self.history)
        return replace(
            self,
            damps=damps,
            damped=at_once,
            rested=False,
            tries=tries,
            history=history,
            counts=counts,
            status=[],
            notes=[],
        )

    @property
    def _tableau(self) -> Tableau:
        """Method of the next mesh."""
        return (radau if self.damped else gauss)(self.stages)

    @property
    def succeeded(self) -> bool:
        """Whether all groups converged."""
        return all(status is Status.CONVERGED for status in self.status)

    @property
    def successes(self) -> Array:
        """Groups that converged (G,)."""
        return np.array([status is Status.CONVERGED for status in self.status])

    # -------------------------------------------------------------------- run

    def run(self, nodes: Array, control: Array | None = None, warm: Start | None = None) -> None:
        """Solve from a guess: nodes (N + 1, G), control (N, G, m), or values of everything at its Gauss points."""
        self.nodes, self.base, self.switches = nodes, [nodes[:, g] for g in range(nodes.shape[1])], []
        if warm is not None and warm.base is not None:
            self.base, self.switches = [warm.base], [list(warm.jumps)]
        self.camp = Camp(self.stacked, self.limits, self.stop, self.clocked, self.callback, self.history, self.counts)
        self.ending: Status | None = None
        self.started = True
        with np.errstate(all="ignore"):
            try:
                solved = self._run(nodes, control, warm)
            except (KeyboardInterrupt, Stopped) as reason:
                if self.camp.reached is None:
                    raise
                self.camp.state = self.camp.reached  # what came after is not whole
                self.ending = Status.INTERRUPTED if isinstance(reason, KeyboardInterrupt) else Status.STOPPED
                solved = np.zeros(self.stacked.groups, dtype=bool)
            self._judge(solved)

    def _run(self, nodes: Array, control: Array | None, warm: Start | None) -> Array:
        camp, G = self.camp, self.stacked.groups
        mesh = Mesh(nodes, self._tableau) if warm is None or warm.system is None else warm.system.mesh
        solved, hat, self.started = first_solution(camp, mesh, control, warm, self.tries)
        base, switches = self.base, self.switches
        final, worst_of_all = camp.final, (G + 1, np.inf)
        best, wasted, finished = (worst_of_all, camp.state, solved, base, switches), 0, np.zeros(G, dtype=bool)
        for level in range(LEVELS):
            self.counts["meshes"] = level + 1
            good = ~solved | self._fine_enough()
            if level == 0 and hat <= final and every(good):
                break
            errors, goal = camp.errors(), camp.goal()
            above = int((solved & (camp.gap() > self.stop.goal)).sum())
            fine = np.maximum(errors.farthest / self.stop.fineness, camp.worst() / VIOLATION)
            score = above, float(np.max(np.where(solved, np.maximum(errors.total / goal, fine), 0.0)))
            if hat > final:
                best = worst_of_all, camp.state, solved, base, switches
            elif above < best[0][0] or (above == best[0][0] and score[1] < BETTER * best[0][1]):
                best, wasted = (score, camp.state, solved, base, switches), 0
            else:
                wasted += 1
            if hat <= final:
                finished |= good
            if finished.all() or wasted >= PATIENT_LEVELS or not camp.time_left() or level == LEVELS - 1:
                break
            if not solved.any():
                break  # nobody would iterate on a finer mesh, which would only look worse
            if hat <= final:  # the barrier may be what keeps it from the goal
                camp.smaller = np.where(solved, np.clip(camp.scale() / camp.system.size, SMALLER, 1.0), 1.0)
            sides = sides_of(self.limits, camp.mesh, camp.point, camp.system.size)
            self._look_at_arcs(solved, sides)
            violation = camp.violation()
            seen = violation * (hat <= final)
            switches = find_switches(self.stacked, self.limits, camp.mesh, camp.point, sides, switches, seen)
            plan = refined_nodes(
                camp.mesh,
                base,
                errors,
                switches,
                violation,
                np.where(finished, np.inf, goal),  # what is finished is not refined any more
                self.stop.fineness,
                4.0 * camp.mu * self.limits.control_lower.size,
                2 * self.stages - self._tableau.closed,
                self.max_intervals,
            )
            hat = final if good.all() or FINER * hat < 3.0 * final else FINER * hat
            now = self._refine(plan.nodes, hat, solved, finished)
            if not now.any():
                break  # the coarser mesh is the answer
            base, solved = plan.base, now
        _, camp.state, solved, self.base, self.switches = best
        return solved

    def _fine_enough(self) -> Array:
        """Whether the errors of the mesh are as small as they have to be (G,)."""
        camp, least, fineness = self.camp, ROUNDING * len(self.camp.mesh.h), self.stop.fineness
        errors = camp.errors()
        parts = errors.total, camp.goal(), camp.scale(), errors.farthest, camp.worst()
        return np.array(
            [
                error <= max(goal, least * scale) and farthest <= fineness and worst <= VIOLATION
                for error, goal, scale, farthest, worst in zip(*(part.tolist() for part in parts), strict=True)
            ]
        )

    def _look_at_arcs(self, solved: Array, sides: tuple[Array, Array]) -> None:
        """Note whether costates swing or arcs are singular: other points may do better."""
        camp = self.camp
        self.damped |= self.damps and bool((swinging(camp.mesh, camp.point) & solved).any())
        self.rested |= bool((resting(camp.system, camp.model, sides) & solved).any())

    # ----------------------------------------------------------------- next mesh

    def _refine(self, nodes: Array, hat: float, wanted: Array, finished: Array) -> Array:
        """Go on to a finer mesh: which groups are solved (G,).

        A solution may be too near to its bounds to move. If it does not at once, it starts again from further inside;
        if that leads nowhere, it gets all the time it wants, unless the coarser mesh can be the answer.
        """
        camp = self.camp
        before, done = camp.state, ~wanted
        for doubts, inside in ((DOUBTS, False), (None, True), (None, False))[: 2 if hat <= camp.final else 3]:
            last, mesh = camp.state, Mesh(nodes, self._tableau)
            kept = wanted & done & (camp.mesh.tableau is mesh.tableau)  # solved by the attempt before
            camp.state = before
            if inside:
                camp.mu = np.maximum(camp.mu, COARSE * camp.system.size / camp.system.duration)
            self._move(mesh)
            done = self._follow(hat, wanted & ~kept, finished, doubts)
            if kept.any():
                camp.keep(last, kept)
                done |= kept
            if (done | ~wanted).all() or not camp.time_left():
                break
            self.damped |= self.damps
        return done

    def _follow(self, hat: float, wanted: Array, finished: Array, doubts: int | None) -> Array:
        """Solve on a finer mesh; finished groups that fail there are left as they were (G,)."""
        camp, start = self.camp, self.camp.point
        now = camp.solve(hat, wanted, doubts)
        lost = finished & ~now
        if lost.any():
            camp.point = camp.point.merged(start, lost)
            camp.model = camp.system.linearize(camp.point, camp.mu)
        return now | finished

    def _move(self, mesh: Mesh) -> None:
        """Go on from the current solution on another mesh."""
        camp = self.camp
        x, u, p, y, at_nodes, costates = resampled(camp.mesh, camp.point, mesh)
        u = np.clip(u, self.limits.control_lower, self.limits.control_upper)
        y = self._massive(y, mesh)
        camp.system = dear_enough(camp.system, mesh, y)
        ends = camp.point.end_slack, camp.point.nu
        camp.point = warm_point(camp.system, (x, u, p, y, at_nodes, costates), ends, camp.mu)

    def _massive(self, y: Array, mesh: Mesh) -> Array:
        """Multipliers on another mesh; where a constraint is first met at the end, their integral counts."""
        old, late = self.camp.mesh, (self.camp.errors().last > VIOLATION)[:, None]
        if not late.any():
            return y
        mass = (old.weights[-1][..., None] * self.camp.point.y[-1]).sum(0)  # (G, e)
        ending = late & (mesh.points > old.t[-2])[..., None]
        y = np.where(ending, 0.0, y)
        y[-1] = np.where(late, mass / mesh.h[-1][:, None], y[-1])
        return y

    # -------------------------------------------------------------------- end

    def _judge(self, solved: Array) -> None:
        """Status, note and residual of every group."""
        camp, errors, now = self.camp, self.camp.errors(), self.camp.model.now
        self.error = errors.total
        camp.cost, camp.residual = camp.system.cost(now.values, now.end), camp.gap()
        parts = solved, now.violation, camp.cost, camp.scale(), errors.total, camp.residual, errors.worst
        endings = [Ending(*own) for own in zip(*(part.tolist() for part in parts), strict=True)]
        G = len(endings)
        self.status, self.notes, self.lost = [Status.CONVERGED] * G, [""] * G, np.zeros(G, dtype=bool)
        for g, ending in enumerate(endings):
            if self.ending is None and ending.converged(self.stop.tolerance, camp.allowed):
                continue
            bounds = camp.allowed, camp.allowed + float(camp.blurred[g])
            self.lost[g] = not (ending.violation <= bounds[1] and ending.meaningful)
            status, note = self.ending, ""
            undefined = "" if solved[g] else self._undefined(g)
            if status is None and undefined:
                status, note = Status.NONFINITE, undefined
            if status is None:
                rest = self.counts["iterations"], bool(camp.unfinished[g]), bounds, partial(self._worst, g)
                status, note = ending.verdict(self.stop, *rest)
            self.status[g], self.notes[g] = status, note

    def _times(self, g: int) -> Array:
        """Of the points, as the user knows them (N, s)."""
        t = self.camp.mesh.points[:, :, g]
        return self.stacked.begin + t * self.camp.point.nodes[0, g, -1] if self.clocked else t

    def _undefined(self, g: int) -> str:
        """Where functions are finite and their derivatives are not; an empty text if nowhere."""
        values = self.camp.model.now.values
        assert values.jacobian is not None
        assert values.hessian is not None
        defined = np.isfinite(values.f[:, :, g]).all(-1) & np.isfinite(values.running[:, :, g])
        defined &= np.isfinite(values.c[:, :, g]).all(-1)
        smooth = np.isfinite(values.jacobian[:, :, g]).all((-1, -2)) & np.isfinite(values.hessian[:, :, g]).all(
            (-1, -2)
        )
        rough = np.argwhere(defined & ~smooth)
        if not len(rough):
            return ""
        k, i = rough[0]
        u = ", ".join(f"{value:.4g}" for value in self.stacked.controls(self.camp.point.u[k, i, g]))
        where = f"t = {self._times(g)[k, i]:.6g}, u = [{u}]"
        return f"derivatives of the functions are not finite at {where}, as those of a root or a norm at zero"

    def _worst(self, g: int) -> str | None:
        """Which constraint of a group is violated most, by how much, and when."""
        t = self._times(g)
        constraints = len(self.limits.path_lower) // self.stacked.members
        return worst_violation(self.camp.model.now, self.limits, g, t, constraints, self.of_the_set)
