"""Interior-point iterations on the collocated maximum principle; they know one mesh and nothing of its refinement.

The unknowns are states and controls at the Gauss points, states at the nodes, and the multipliers of the collocation
equations, which are the costates. Control bounds, path constraints, terminal constraints and free initial states enter
by primal–dual barriers whose weights are those of the quadrature, so that μ means the same on every mesh. Steps pass a
filter [1]_; the curvature along a step is tested instead of the inertia of the matrix [2]_.

.. [1] A. Wächter, L. Biegler, *On the implementation of an interior-point filter line-search algorithm*, Math. Program.
   106 (2006).
.. [2] N.-Y. Chiang, V. Zavala, *An inertia-free filter line-search algorithm for large-scale nonlinear programming*,
   Comput. Optim. Appl. 64 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ocsolver.collocation import elastic
from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.kkt import Direction, Ends, newton_direction
from ocsolver.collocation.points import EndPoint, PointValues, Stacked
from ocsolver.collocation.tableau import Tableau

__all__ = ["Mesh", "Point", "Residual", "Walk"]

Array = np.ndarray[Any, np.dtype[Any]]

RHO_END, RHO_PATH = 1e2, 1e2  # first prices of constraint violations
CURVATURE = 1e-10  # that a step must have, relative to its length
NONLINEAR = 0.1  # largest defect that a step may leave, relative to what it changes
TRIES, SHORT = 4, 0.1
SHRINK, GROW = 0.5, 1.0  # largest relative changes of the duration in one step
FILTER_SHRINK = 1e-5
ARMIJO = 1e-4
HALVINGS = 12
BOUNDARY = 0.99


@dataclass(frozen=True, eq=False)
class Mesh:
    """Nodes of every group and what they imply."""

    t: Array  # (N + 1, G)
    tableau: Tableau

    @property
    def h(self) -> Array:
        """Lengths (N, G)."""
        return np.diff(self.t, axis=0)

    @property
    def points(self) -> Array:
        """Times of the Gauss points (N, s, G)."""
        return self.t[:-1, None] + self.h[:, None] * self.tableau.c[:, None]

    @property
    def weights(self) -> Array:
        """Quadrature weights (N, s, G)."""
        return self.h[:, None] * self.tableau.b[:, None]


@dataclass(frozen=True, eq=False)
class Point:
    """All unknowns of an iteration."""

    x: Array  # (N, s, G, v)
    u: Array  # (N, s, G, m)
    p: Array  # (N, s, G, v)
    nodes: Array  # (N + 1, G, v)
    costates: Array  # (N + 1, G, v)
    slack: Array  # (N, s, G, e), of the path constraints
    y: Array  # (N, s, G, e), their multipliers
    end_slack: Array  # (G, k), of the terminal constraints
    nu: Array  # (G, k)
    controls: Barrier
    paths: Barrier
    ends: Barrier
    starts: Barrier  # of the initial states

    def shifted(self, d: Direction, path: Array, end: Array, alpha: Array) -> Point:
        """Primal variables after a step; α (G,)."""
        a = alpha[:, None]
        return replace(
            self,
            x=self.x + a * d.x,
            u=self.u + a * d.u,
            nodes=self.nodes + a * d.nodes,
            slack=self.slack + a * path,
            end_slack=self.end_slack + a * end,
        )


@dataclass(frozen=True, eq=False)
class Limits:
    """Bounds of everything that has some; equal ones make equations instead of barriers."""

    control_lower: Array  # (m,)
    control_upper: Array
    path_lower: Array  # (e,)
    path_upper: Array
    end_lower: Array  # (k,)
    end_upper: Array
    start_lower: Array  # (G, v)
    start_upper: Array

    @property
    def path_fixed(self) -> Array:
        """Equality constraints on the path (e,)."""
        return np.asarray(self.path_lower == self.path_upper)

    @property
    def end_fixed(self) -> Array:
        """Equality constraints at the end (k,)."""
        return np.asarray(self.end_lower == self.end_upper)

    @property
    def start_fixed(self) -> Array:
        """Fixed components of the initial state (G, v)."""
        return np.asarray(self.start_lower == self.start_upper)


@dataclass(frozen=True, eq=False)
class Residual:
    """Residuals of a point, and how large they are."""

    values: PointValues
    end: EndPoint
    stage: Array  # (N, s, G, v), Σ α (X − x) − h f
    gap: Array  # (N, G, v), of the nodes
    path: Array  # (N, s, G, e), c − slack
    terminal: Array  # (G, k)
    feasibility: Array  # (G,), θ
    barrier: Array  # (G,), φ


class Walk:
    """Iterations on one mesh for all groups of a problem."""

    def __init__(
        self, stacked: Stacked, limits: Limits, mesh: Mesh, scale_x: Array, scale_u: Array, size: Array
    ) -> None:
        self.stacked, self.limits, self.mesh, self.size = stacked, limits, mesh, size
        self.scale_x, self.scale_u = scale_x, scale_u  # (G, v), (m,)
        self.rho_path = RHO_PATH * size[:, None] / mesh.weights[..., None]  # (N, s, G, 1): a price per point
        self.rho_end = (RHO_END * size)[:, None]
        self.clocked = False  # the last state of every group is the duration
        self.price = RHO_END
        self.delta = np.zeros(stacked.groups)
        self.last_delta = np.zeros(stacked.groups)
        self.filter: list[list[tuple[float, float]]] = [[] for _ in range(stacked.groups)]
        self.theta_max = np.full(stacked.groups, np.inf)

    # ------------------------------------------------------------- evaluation

    def residual(self, point: Point, mu: Array, values: PointValues, end: EndPoint | None = None) -> Residual:
        """Residuals and the two measures of the filter."""
        tab, mesh = self.mesh.tableau, self.mesh
        h = mesh.h[:, None, :, None]
        difference = point.x - point.nodes[:-1, None]  # (N, s, G, v)
        stage = np.einsum("ij,njgv->nigv", tab.alpha, difference) - h * values.f
        gap = np.diff(point.nodes, axis=0) - np.einsum("j,njgv->ngv", tab.d, difference)
        path = values.c - point.slack
        if end is None:
            cost, c = self.stacked.end_values(point.nodes[-1])
            empty = np.zeros((len(cost), 0))
            end = EndPoint(cost, c, empty, empty, empty)
        terminal = end.c - point.end_slack
        theta = _sum(np.abs(stage) / self.scale_x) + _sum(np.abs(gap) / self.scale_x)
        phi = self.merit(point, mu, values, end, path, terminal)
        return Residual(values, end, stage, gap, path, terminal, theta, phi)

    def cost(self, values: PointValues, end: EndPoint) -> Array:
        """J (G,)."""
        result: Array = (self.mesh.weights * values.running).sum((0, 1)) + end.cost
        return result

    def merit(
        self, point: Point, mu: Array, values: PointValues, end: EndPoint, path: Array, terminal: Array
    ) -> Array:
        """φ = J + smooth ρ|c| − μ ∫ Σ log slack (G,)."""
        w, duration = self.mesh.weights[..., None], self.duration
        logs = _sum(w * point.controls.logarithm(point.u)) + _sum(w * point.paths.logarithm(point.slack))
        logs = logs + duration * (
            point.ends.logarithm(point.end_slack).sum(-1) + point.starts.logarithm(point.nodes[0]).sum(-1)
        )
        with np.errstate(invalid="ignore"):
            result: Array = self.cost(values, end) - mu * logs
        if path.shape[-1]:
            result = result + _sum(w * elastic.price(path, self.rho_path, mu[:, None]))
        return result + elastic.price(terminal, self.rho_end, (mu * duration)[:, None]).sum(-1)

    @property
    def duration(self) -> Array:
        """Length of the horizon (G,)."""
        result: Array = self.mesh.t[-1] - self.mesh.t[0]
        return result

    # -------------------------------------------------------------- direction

    def linearize(self, point: Point, mu: Array) -> Model:
        """Derivatives at a point, and what the barriers make of them."""
        mesh = self.mesh
        values = self.stacked.expand(mesh.points, point.x, point.u, point.p, point.y, iterate=True)
        return self._model(point, mu, values, self.stacked.end(point.nodes[-1], point.nu))

    def remodel(self, point: Point, mu: Array, *, model: Model) -> Model:
        """The model for another barrier parameter."""
        return self._model(point, mu, model.now.values, model.now.end)

    def _model(self, point: Point, mu: Array, values: PointValues, end: EndPoint) -> Model:
        v = self.stacked.v
        now = self.residual(point, mu, values, end)
        jacobian, hessian = values.jacobian, values.hessian
        assert jacobian is not None and hessian is not None
        cz = jacobian[..., v + 1 :, :]
        hessian = hessian.copy()
        diagonal = np.einsum("...ii->...i", hessian)  # a view
        diagonal[..., v:] += point.controls.curvature(point.u)
        pull, aim = self._path_terms(point, mu, now.path)
        if cz.shape[-2]:
            hessian += np.einsum("...ci,...c,...cj->...ij", cz, pull, cz)
        cost = jacobian[..., v, :]
        slope = cost - np.einsum("...f,...fi->...i", point.p, jacobian[..., :v, :])
        return Model(now, jacobian, hessian, slope, pull, aim)

    def _path_terms(self, point: Point, mu: Array, gap: Array) -> tuple[Array, Array]:
        """Curvature of the path constraints' terms, and the multipliers they aim at."""
        loose = self._loose(point.paths, point.slack, self.limits.path_fixed)
        pull = 1.0 / (elastic.give(gap, point.y, self.rho_path, mu[:, None]) + loose)
        push = point.paths.slope(point.slack, mu[:, None])
        rest = gap - elastic.gap(point.y, self.rho_path, mu[:, None]) + loose * (push - point.y)
        return pull, point.y + pull * rest

    @staticmethod
    def _loose(barrier: Barrier, slack: Array, fixed: Array) -> Array:
        """1/Σ of the slacks; zero where an equality leaves none."""
        with np.errstate(divide="ignore"):
            return np.where(fixed, 0.0, np.minimum(1.0 / barrier.curvature(slack), 1e30))

    def direction(self, point: Point, mu: Array, model: Model, now: Residual | None = None) -> Step | None:
        """Newton step, with the residuals of `now` in place of the model's own (second-order correction)."""
        mesh, tab, v, h = self.mesh, self.mesh.tableau, self.stacked.v, self.mesh.h[:, None, :, None]
        own = now is None
        now = model.now if now is None else now
        jacobian, mu_end = model.jacobian, (mu * self.duration)[:, None]
        cz = jacobian[..., v + 1 :, :]
        aim = model.aim if own else model.aim + model.pull * (now.path - model.now.path)
        slope = model.slope + np.einsum("...c,...ci->...i", aim, cz)
        du = slope[..., v:] + point.controls.slope(point.u, mu[:, None])
        adjoint = np.einsum("ij,njgv->nigv", tab.adjoint, point.p) - (tab.d / tab.b)[:, None, None] * point.costates[1:, None]
        back = (1 - tab.d.sum()) * point.costates[1:] + np.einsum("i,nigv->ngv", tab.b * tab.row, point.p)
        hessian = model.hessian
        if self.delta.any():
            hessian = hessian.copy()
            diagonal = np.einsum("...ii->...i", hessian)
            diagonal += (self.delta * self.size / self.duration)[:, None] / self.scale_z**2
        ends = self._ends(point, mu_end, model.now.end, now.terminal)
        found = newton_direction(
            tab,
            mesh.h,
            hessian,
            jacobian[..., :v, :v],
            jacobian[..., :v, v:],
            (-(h * slope[..., :v] + adjoint), -du, -now.stage),
            (-now.gap, back - point.costates[:-1]),
            ends,
        )
        if found is None:
            return None
        return self._completed(point, mu, mu_end, model, now, found, aim, hessian)

    @property
    def scale_z(self) -> Array:
        """Scales of (x, u) (G, v + m)."""
        return np.concatenate((self.scale_x, np.broadcast_to(self.scale_u, (len(self.scale_x), len(self.scale_u)))), -1)

    def _ends(self, point: Point, mu_end: Array, end: EndPoint, terminal: Array) -> Ends:
        fixed = self.limits.start_fixed
        x0, q0 = point.nodes[0], point.costates[0]
        loose = self._loose(point.ends, point.end_slack, self.limits.end_fixed)
        bend = elastic.give(terminal, point.nu, self.rho_end, mu_end)
        push = point.ends.slope(point.end_slack, mu_end)
        return Ends(
            start_x=np.where(fixed, 1.0, point.starts.curvature(x0)),
            start_q=np.where(fixed, 0.0, -1.0),
            start_right=np.where(fixed, self.limits.start_lower - x0, q0 - point.starts.slope(x0, mu_end)),
            hessian=end.hessian,
            jacobian=end.jacobian,
            slack=bend + loose,
            end_right=-(point.costates[-1] + end.slope + np.einsum("ge,gev->gv", point.nu, end.jacobian)),
            constraint_right=elastic.gap(point.nu, self.rho_end, mu_end) - terminal + loose * (point.nu - push),
        )

    def _completed(
        self, point: Point, mu: Array, mu_end: Array, model: Model, now: Residual, d: Direction, aim: Array, hessian: Array
    ) -> Step:
        """Steps of slacks and multipliers, the slope of φ and the curvature along the step."""
        v, w = self.stacked.v, self.mesh.weights[..., None]
        dz = np.concatenate((d.x, d.u), -1)
        image = np.einsum("...ci,...i->...c", model.jacobian[..., v + 1 :, :], dz)
        new = aim + model.pull * image
        loose = self._loose(point.paths, point.slack, self.limits.path_fixed)
        path = loose * (new - point.paths.slope(point.slack, mu[:, None]))
        end = np.einsum("gev,gv->ge", model.now.end.jacobian, d.nodes[-1])
        loose = self._loose(point.ends, point.end_slack, self.limits.end_fixed)
        end_step = loose * (point.nu + d.multipliers - point.ends.slope(point.end_slack, mu_end))
        cost = model.jacobian[..., v, :]
        slope = _sum(w * cost * dz) + (model.now.end.slope * d.nodes[-1]).sum(-1)
        slope = slope + _sum(w * point.controls.slope(point.u, mu[:, None]) * d.u)
        slope = slope + _sum(w * point.paths.slope(point.slack, mu[:, None]) * path)
        slope = slope + _sum(w * elastic.multiplier(model.now.path, self.rho_path, mu[:, None]) * (image - path))
        slope = slope + (elastic.multiplier(model.now.terminal, self.rho_end, mu_end) * (end - end_step)).sum(-1)
        slope = slope + (point.ends.slope(point.end_slack, mu_end) * end_step).sum(-1)
        slope = slope + (point.starts.slope(point.nodes[0], mu_end) * d.nodes[0]).sum(-1)
        bend = _sum(w * dz * np.einsum("...ij,...j->...i", hessian, dz))
        bend = bend + np.einsum("gv,gvw,gw->g", d.nodes[-1], model.now.end.hessian, d.nodes[-1])
        bend = bend + (point.ends.curvature(point.end_slack) * end_step**2).sum(-1)
        bend = bend + (point.starts.curvature(point.nodes[0]) * d.nodes[0] ** 2).sum(-1)
        length = _sum(w * (dz / self.scale_z) ** 2) / self.duration
        return Step(d, path, new - point.y, end_step, slope, bend, length)

    # ------------------------------------------------------------------ errors

    def errors(self, point: Point, mu: Array, model: Model) -> tuple[Array, Array, Array]:
        """Dual infeasibility, primal infeasibility and complementarity, without units (G,)."""
        tab, v, h = self.mesh.tableau, self.stacked.v, self.mesh.h[:, None, :, None]
        cz = model.jacobian[..., v + 1 :, :]
        slope = model.slope + np.einsum("...c,...ci->...i", point.y, cz)
        dual_u = slope[..., v:] - point.controls.low + point.controls.high
        adjoint = np.einsum("ij,njgv->nigv", tab.adjoint, point.p) - (tab.d / tab.b)[:, None, None] * point.costates[1:, None]
        dual_x = h * slope[..., :v] + adjoint
        end = model.now.end
        transversal = point.costates[-1] + end.slope + np.einsum("ge,gev->gv", point.nu, end.jacobian)
        unit = self.duration / self.size
        dual = np.maximum(_largest(dual_u * self.scale_u) * unit, _largest(dual_x * self.scale_x) / self.size)
        dual = np.maximum(dual, np.abs(transversal * self.scale_x).max(-1) / self.size)
        now = model.now
        primal = np.maximum(_largest(now.stage / self.scale_x), _largest(now.gap / self.scale_x))
        mu_end = (mu * self.duration)[:, None]
        path = now.path - elastic.gap(point.y, self.rho_path, mu[:, None])
        terminal = now.terminal - elastic.gap(point.nu, self.rho_end, mu_end)
        primal = np.maximum(primal, np.maximum(_largest(path), np.abs(terminal).max(-1, initial=0.0)))
        gap = np.maximum(
            point.controls.complementarity(point.u, mu[:, None]), point.paths.complementarity(point.slack, mu[:, None])
        )
        ends = np.maximum(
            point.ends.complementarity(point.end_slack, mu_end), point.starts.complementarity(point.nodes[0], mu_end)
        )
        return dual, primal, np.maximum(gap * unit, ends / self.size)

    # -------------------------------------------------------------------- step

    def step(self, point: Point, mu: Array, model: Model, active: Array) -> tuple[Point, Array]:
        """One iteration of the active groups: the next point, and which groups moved."""
        step = self._regular_direction(point, mu, model, active)
        if step is None:
            return point, np.zeros_like(active)
        share = np.maximum(BOUNDARY, 1.0 - mu * self.duration / self.size)
        mu_end = (mu * self.duration)[:, None]
        alpha = self._room(point, step, share)
        for _ in range(TRIES):
            short = active & (alpha < SHORT)
            if not short.any():
                break
            before = self.delta
            self.delta = np.where(short, np.maximum(8.0 * self.delta, np.maximum(self.last_delta / 3.0, 1e-2)), before)
            other = self.direction(point, mu, model)
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
        duals = (
            point.controls.step(point.u, step.d.u, mu[:, None]),
            point.paths.step(point.slack, step.path, mu[:, None]),
            point.ends.step(point.end_slack, step.end, mu_end),
            point.starts.step(point.nodes[0], step.d.nodes[0], mu_end),
        )
        barriers = (point.controls, point.paths, point.ends, point.starts)
        dual_alpha = np.min([b.dual_room(pair, share) for b, pair in zip(barriers, duals, strict=True)], axis=0)
        room0 = alpha
        moved, alpha, step = self._search(point, mu, model, step, alpha, share, active)
        self.info = (room0, alpha, dual_alpha, step.slope, model.now.feasibility)
        a, z = np.where(moved, alpha, 0.0)[:, None], np.where(moved, dual_alpha, 0.0)[:, None]
        new = point.shifted(step.d, step.path, step.end, a[:, 0])
        values = (new.u, new.slack, new.end_slack, new.nodes[0])
        mus = (mu[:, None], mu[:, None], mu_end, mu_end)
        controls, paths, ends, starts = (
            b.moved(pair, z, value, m) for b, pair, value, m in zip(barriers, duals, values, mus, strict=True)
        )
        below = np.minimum(
            _room_below(point.y, step.y, self.rho_path, share),
            _room_below(point.nu, step.d.multipliers, self.rho_end, share),
        )
        e = np.minimum(a, below[:, None])
        return replace(
            new,
            p=point.p + a * step.d.p,
            costates=point.costates + a * step.d.costates,
            y=point.y + e * step.y,
            nu=point.nu + e * step.d.multipliers,
            controls=controls,
            paths=paths,
            ends=ends,
            starts=starts,
        ), moved

    def _room(self, point: Point, step: Step, share: Array) -> Array:
        """Largest primal step that stays inside (G,)."""
        rooms = (
            point.controls.room(point.u, step.d.u, share),
            point.paths.room(point.slack, step.path, share),
            point.ends.room(point.end_slack, step.end, share),
            point.starts.room(point.nodes[0], step.d.nodes[0], share),
        )
        result: Array = np.min(rooms, axis=0)
        if self.clocked:
            T, dT = point.nodes[0, :, -1], step.d.nodes[0, :, -1]
            result = np.minimum(result, 1.0 / np.maximum(1.0, np.maximum(-dT / (SHRINK * T), dT / (GROW * T))))
        return result

    def _regular_direction(self, point: Point, mu: Array, model: Model, active: Array) -> Step | None:
        """Newton step of positive curvature, the Hessian shifted where that needs it."""
        for _ in range(40):
            step = self.direction(point, mu, model)
            if step is None:
                bad = active.copy()
            else:
                bad = active & ~(step.bend >= CURVATURE * step.length * self.size)
            if not bad.any():
                self.last_delta = np.where(self.delta > 0, self.delta, self.last_delta)
                return step
            first = np.maximum(1e-4, self.last_delta / 3.0)
            self.delta = np.where(bad, np.where(self.delta > 0, 8.0 * self.delta, first), self.delta)
            if self.delta.max() > 1e20:
                break
        return None

    def _search(
        self, point: Point, mu: Array, model: Model, step: Step, alpha: Array, share: Array, active: Array
    ) -> tuple[Array, Array, Step]:
        """Filter line search with one second-order correction: who moved, how far, along which step."""
        now = model.now
        theta_min = 1e-4 * np.maximum(1.0, now.feasibility)
        tab = self.mesh.tableau
        reach = _sum(np.abs(np.einsum("ij,njgv->nigv", tab.alpha, step.d.x - step.d.nodes[:-1, None])) / self.scale_x)
        moved, waiting = np.zeros_like(active), active.copy()
        taken, trial_alpha = np.zeros_like(alpha), alpha.copy()
        for halving in range(HALVINGS):
            trial = point.shifted(step.d, step.path, step.end, np.where(waiting, trial_alpha, taken))
            tried = self.residual(trial, mu, self.stacked.values(self.mesh.points, trial.x, trial.u))
            good, armijo = self._acceptable(now, tried, step.slope, trial_alpha, theta_min)
            good &= waiting & (tried.feasibility <= (1 - trial_alpha) * now.feasibility + NONLINEAR * trial_alpha * reach + 1e-12)
            if halving == 0 and not good[waiting].all() and (tried.feasibility > now.feasibility)[waiting & ~good].any():
                corrected = self._correct(point, mu, model, tried, trial_alpha, share)
                if corrected is not None:
                    other, beta = corrected
                    trial2 = point.shifted(other.d, other.path, other.end, beta)
                    tried2 = self.residual(trial2, mu, self.stacked.values(self.mesh.points, trial2.x, trial2.u))
                    good2, armijo2 = self._acceptable(now, tried2, step.slope, trial_alpha, theta_min)
                    use = waiting & ~good & good2 & (tried2.feasibility <= now.feasibility + NONLINEAR * trial_alpha * reach)
                    if use.any():
                        step = step.merged(other, use)
                        trial_alpha = np.where(use, beta, trial_alpha)
                        good, armijo = good | use, np.where(use, armijo2, armijo)
            for g in np.flatnonzero(good & ~armijo):
                self.filter[g].append(
                    (
                        (1 - FILTER_SHRINK) * float(now.feasibility[g]),
                        float(now.barrier[g] - FILTER_SHRINK * now.feasibility[g]),
                    )
                )
            taken = np.where(good, trial_alpha, taken)
            moved |= good
            waiting &= ~good
            if not waiting.any():
                break
            trial_alpha = np.where(waiting, 0.5 * trial_alpha, trial_alpha)
        return moved, taken, step

    def _acceptable(self, now: Residual, tried: Residual, slope: Array, alpha: Array, theta_min: Array) -> tuple[Array, Array]:
        """Which trials pass the filter, and which of those by the Armijo rule."""
        theta, phi = tried.feasibility, tried.barrier
        noise = 1e-13 * (np.abs(now.barrier) + self.size)
        finite = np.isfinite(theta) & np.isfinite(phi)
        with np.errstate(invalid="ignore", over="ignore"):
            descends = (slope < 0) & (alpha * (-slope / self.size) ** 2.3 > now.feasibility**1.1)
            switching = descends & (now.feasibility <= theta_min)
            armijo = phi <= now.barrier + ARMIJO * alpha * slope + noise
            better = (theta <= (1 - FILTER_SHRINK) * now.feasibility) | (
                phi <= now.barrier - FILTER_SHRINK * now.feasibility + noise
            )
        dominated = np.array(
            [any(theta[g] >= t and phi[g] >= f for t, f in self.filter[g]) for g in range(len(theta))]
        )
        tiny = (theta <= 1e-12) & (now.feasibility <= 1e-12) & (phi <= now.barrier + noise)
        passed = finite & (theta <= self.theta_max) & ~dominated & (np.where(switching, armijo, better) | tiny)
        return passed, switching & armijo

    def _correct(
        self, point: Point, mu: Array, model: Model, tried: Residual, alpha: Array, share: Array
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
        if not all(np.isfinite(part).all() for part in (combined.stage, combined.path, combined.terminal)):
            return None
        step = self.direction(point, mu, model, combined)
        return None if step is None else (step, self._room(point, step, share))

    def reset(self, now: Residual) -> None:
        """Empty filter: the barrier parameter has changed."""
        self.filter = [[] for _ in self.filter]
        self.theta_max = np.maximum(1e4 * np.maximum(1.0, now.feasibility), 1.0)


@dataclass(frozen=True, eq=False)
class Model:
    """Quadratic model at a point."""

    now: Residual
    jacobian: Array  # (N, s, G, v + 1 + e, v + m)
    hessian: Array  # (N, s, G, v + m, v + m), barrier terms included
    slope: Array  # (N, s, G, v + m), of −H
    pull: Array  # (N, s, G, e), curvature of the path terms
    aim: Array  # (N, s, G, e), multipliers they aim at


@dataclass(frozen=True, eq=False)
class Step:
    """A step of everything, and what the model says of it."""

    d: Direction
    path: Array  # (N, s, G, e), of the slacks
    y: Array
    end: Array  # (G, k)
    slope: Array  # (G,), derivative of φ
    bend: Array  # (G,), curvature
    length: Array  # (G,)

    def merged(self, other: Step, use: Array) -> Step:
        """Other groups' steps where `use` (G,)."""
        pick = lambda a, b: np.where(use[:, None], b, a)  # noqa: E731
        d = Direction(*(pick(a, b) for a, b in zip(self.d, other.d, strict=True)))
        return Step(
            d,
            pick(self.path, other.path),
            pick(self.y, other.y),
            pick(self.end, other.end),
            np.where(use, other.slope, self.slope),
            np.where(use, other.bend, self.bend),
            np.where(use, other.length, self.length),
        )


def _sum(values: Array) -> Array:
    """Sum over everything but the groups: (N, *, G, d) -> (G,)."""
    axes = (*range(values.ndim - 2), values.ndim - 1)
    result: Array = values.sum(axis=axes)
    return result


def _largest(values: Array) -> Array:
    axes = (*range(values.ndim - 2), values.ndim - 1)
    result: Array = np.abs(values).max(axis=axes, initial=0.0)
    return result


def _room_below(value: Array, move: Array, rho: Array, share: Array) -> Array:
    """Largest α ≤ 1 per group that keeps multipliers inside (−ρ, ρ) (G,)."""
    ratio = np.maximum(move / (rho - value), -move / (rho + value))
    axes = (*range(ratio.ndim - 2), ratio.ndim - 1)
    worst = ratio.max(axis=axes, initial=0.0)
    with np.errstate(divide="ignore"):
        result: Array = np.minimum(1.0, np.where(worst > 0, share / worst, 1.0))
    return result
