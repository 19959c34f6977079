"""The collocated maximum principle as a system of equations on one mesh: residuals, Newton steps and errors.

The unknowns are states and controls at the Gauss points, states at the nodes, and the multipliers of the collocation
equations, which are the costates. Control bounds, path constraints, terminal constraints and free initial states enter
by primal–dual barriers whose weights are those of the quadrature, so that μ means the same on every mesh.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from ocsolver._record import record
from ocsolver.collocation import elastic
from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.kkt import Direction, Ends, Linearized, directions
from ocsolver.collocation.points import EndPoint, PointValues, Stacked
from ocsolver.collocation.unknowns import (
    Bounds,
    Mesh,
    Model,
    Optimality,
    Point,
    Residual,
    Step,
    largest,
    total,
)

__all__ = ["System"]

Array = np.ndarray[Any, np.dtype[Any]]


@record
class System:
    """Equations of all groups on one mesh."""

    stacked: Stacked
    limits: Bounds
    mesh: Mesh
    scale_x: Array  # (G, v), sizes of the states
    scale_u: Array  # (m,), sizes of the controls
    size: Array  # (G,), size of J
    rho_path: Array  # (N, s, G, e), prices of violations
    rho_end: Array  # (G, k)

    @cached_property
    def duration(self) -> Array:
        """Length of the horizon (G,)."""
        result: Array = self.mesh.t[-1] - self.mesh.t[0]
        return result

    @cached_property
    def unit(self) -> Array:
        """Of the barrier parameter: size of J per time (G,)."""
        result: Array = self.size / self.duration
        return result

    def again(self, stacked: Stacked, limits: Bounds) -> System:
        """The same equations from other initial states."""
        scales = self.scale_x, self.scale_u, self.size
        other = type(self)(stacked, limits, self.mesh, *scales, self.rho_path, self.rho_end)
        kept = "duration", "unit", "scale_z", "weights"
        other.__dict__.update({name: getattr(self, name) for name in kept})
        return other

    def part(self, rows: Array) -> System:
        """The equations of some groups."""
        return replace(
            self,
            stacked=self.stacked.part(rows),
            limits=self.limits.part(rows),
            mesh=Mesh(self.mesh.t[:, rows], self.mesh.tableau),
            scale_x=self.scale_x[rows],
            size=self.size[rows],
            rho_path=self.rho_path[:, :, rows],
            rho_end=self.rho_end[rows],
        )

    @cached_property
    def scale_z(self) -> Array:
        """Scales of (x, u) (G, v + m)."""
        G, v = self.scale_x.shape
        result = np.empty((G, v + len(self.scale_u)))
        result[:, :v], result[:, v:] = self.scale_x, self.scale_u
        return result

    @property
    def dearest(self) -> Array:
        """Highest price of a violation (G,)."""
        result: Array = np.maximum(self.rho_end.max(-1, initial=0.0), self.rho_path.max((0, 1, -1), initial=0.0))
        return result

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights (N, s, G, 1)."""
        return self.mesh.weights[..., None]

    def at(self, point: Point, mu: Array, *, whole: bool = False) -> Residual:
        """Residuals at a point; of the `whole`, with the derivatives a model needs."""
        stacked, mesh = self.stacked, self.mesh
        if not whole:
            return self.residual(point, mu, stacked.values(mesh.points, point.x, point.u))
        values = stacked.expand(mesh.points, point.x, point.u, point.p, point.y, iterate=True)
        return self.residual(point, mu, values, stacked.end(point.nodes[-1], point.nu))

    def residual(self, point: Point, mu: Array, values: PointValues, end: EndPoint | None = None) -> Residual:
        """Residuals and the two measures of the filter."""
        tab, (N, s, G, v) = self.mesh.tableau, point.x.shape
        difference = (point.x - point.nodes[:-1, None]).reshape(N, s, G * v)
        stage = (tab.alpha @ difference).reshape(N, s, G, v) - self.mesh.lengths * values.f
        gap = point.nodes[1:] - point.nodes[:-1] - (tab.d @ difference).reshape(N, G, v)
        end = self.last(point) if end is None else end
        path, terminal = values.c - point.slack, end.c - point.end_slack
        theta = (np.abs(stage).sum((0, 1)) + np.abs(gap).sum(0)) / self.scale_x
        return Residual(
            values, end, stage, gap, path, terminal, theta.sum(-1), self._merit(point, mu, values, end, path, terminal)
        )

    def last(self, point: Point) -> EndPoint:
        """Terminal functions without derivatives."""
        cost, c = self.stacked.end_values(point.nodes[-1])
        empty = np.zeros((len(cost), 0))
        return EndPoint(cost, c, empty, empty, empty)

    def cost(self, values: PointValues, end: EndPoint) -> Array:
        """J (G,)."""
        result: Array = (self.mesh.weights * values.running).sum((0, 1)) + end.cost
        return result

    def scale(self, values: PointValues, end: EndPoint) -> Array:
        """∫|L| dt + |Φ| (G,)."""
        result: Array = (self.mesh.weights * np.abs(values.running)).sum((0, 1)) + np.abs(end.cost)
        return result

    def _merit(
        self, point: Point, mu: Array, values: PointValues, end: EndPoint, path: Array, terminal: Array
    ) -> Array:
        """φ = J + smooth ρ|c| − μ ∫ Σ log slack (G,)."""
        w, result = self.weights, self.cost(values, end)
        for barrier, value in ((point.controls, point.u), (point.paths, point.slack)):
            if not barrier.idle:
                result = result - mu * total(w * barrier.logarithm(value))
        for barrier, value in ((point.ends, point.end_slack), (point.starts, point.nodes[0])):
            if not barrier.idle:
                result = result - mu * self.duration * barrier.logarithm(value).sum(-1)
        if path.shape[-1]:
            result = result + total(w * elastic.price(path, self.rho_path, mu[:, None]))
        if terminal.shape[-1]:
            result = result + elastic.price(terminal, self.rho_end, (mu * self.duration)[:, None]).sum(-1)
        return np.asarray(result)

    # -------------------------------------------------------------- direction

    def linearize(self, point: Point, mu: Array) -> Model:
        """Derivatives at a point, and what the barriers make of them."""
        return self.model(point, mu, self.at(point, mu, whole=True))

    def remodel(self, point: Point, mu: Array, *, model: Model) -> Model:
        """The model for another barrier parameter."""
        return self.model(point, mu, self.residual(point, mu, model.now.values, model.now.end))

    def model(self, point: Point, mu: Array, now: Residual) -> Model:
        """What the barriers make of the derivatives at a point."""
        v, tab, controls = self.stacked.v, self.mesh.tableau, point.controls
        values = now.values
        jacobian, hessian = values.jacobian, values.hessian
        assert jacobian is not None
        assert hessian is not None
        fixed = v + np.flatnonzero(self.limits.control_fixed)
        if fixed.size:  # they stay where they are
            jacobian = jacobian.copy()
            jacobian[..., fixed] = 0.0
        cost, cz = jacobian[..., v, :], jacobian[..., v + 1 :, :]
        pull, aim = self._path_terms(point, mu, now.path)
        if fixed.size or cz.shape[-2] or not controls.idle:
            hessian = hessian.copy()
            np.einsum("...ii->...i", hessian)[..., v:] += controls.curvature(point.u)
            if fixed.size:
                hessian[..., fixed] = hessian[..., fixed, :] = 0.0
                hessian[..., fixed, fixed] = 1.0
            if cz.shape[-2]:
                hessian += np.einsum("...ci,...c,...cj->...ij", cz, pull, cz)
        slope = cost - np.einsum("...f,...fi->...i", point.p, jacobian[..., :v, :])
        N, s, G, _ = point.x.shape
        p = point.p.reshape(N, s, G * v)
        adjoint = (tab.adjoint @ p).reshape(N, s, G, v) - self._pulls * point.costates[1:, None]
        back = (tab.b * tab.row @ p).reshape(N, G, v) + (1 - tab.d.sum()) * point.costates[1:] - point.costates[:-1]
        right, gradient = slope * -self.mesh.lengths, self.weights * cost
        right[..., :v] -= adjoint
        if not controls.idle:
            push = controls.slope(point.u, mu[:, None])
            right[..., v:] -= self.mesh.lengths * push
            gradient[..., v:] += self.weights * push
        return Model(now, jacobian, hessian, slope, adjoint, right, back, gradient, pull, aim)

    @cached_property
    def _pulls(self) -> Array:
        """d_i / b_i (s, 1, 1)."""
        result: Array = (self.mesh.tableau.d / self.mesh.tableau.b)[:, None, None]
        return result

    def _path_terms(self, point: Point, mu: Array, gap: Array) -> tuple[Array, Array]:
        """Curvature of the path constraints' terms, and the multipliers they aim at."""
        if not gap.shape[-1]:
            return gap, gap
        loose = self._loose(point.paths, point.slack, self.limits.path_fixed)
        pull = 1.0 / (elastic.give(gap, point.y, self.rho_path, mu[:, None]) + loose)
        push = point.paths.slope(point.slack, mu[:, None])
        rest = gap - elastic.gap(point.y, self.rho_path, mu[:, None]) + loose * (push - point.y)
        return pull, point.y + pull * rest

    @staticmethod
    def _loose(barrier: Barrier, slack: Array, fixed: Array) -> Array:
        """1/Σ of the slacks; zero where an equality leaves none."""
        if barrier.idle:
            return np.where(fixed, 0.0, np.full_like(slack, 1e30))
        return np.where(fixed, 0.0, np.minimum(1.0 / barrier.curvature(slack), 1e30))

    def direction(
        self, point: Point, mu: Array, model: Model, delta: Array, active: Array, now: Residual | None = None
    ) -> Step | None:
        """Newton step of the active groups for a Hessian shifted by δ (G,); None if there is none.

        The residuals of `now` take the place of the model's own: a second-order correction.
        """
        v, hessian = self.stacked.v, model.hessian
        now = model.now if now is None else now
        aim, right, ends = self._equations(point, mu, model, now)
        if delta.any():
            hessian = hessian.copy()
            diagonal = np.einsum("...ii->...i", hessian)
            diagonal += (delta * self.size / self.duration)[:, None] / self.scale_z**2
        rates = model.jacobian[..., :v, :]
        inside = Linearized(self.mesh.h, hessian, rates, right, -now.stage, -now.gap, model.back)
        found = directions(active, self.mesh.tableau, inside, ends)
        return None if found is None else self._completed(point, mu, model, found, aim, hessian)

    def unforced(self, point: Point, mu: Array, model: Model) -> tuple[Linearized, Ends]:
        """The Newton system with right-hand sides of zero."""
        still, now = np.zeros_like, model.now
        rates = model.jacobian[..., : self.stacked.v, :]
        rest = still(model.right), still(now.stage), still(now.gap), still(model.back)
        ends = self._ends(point, (mu * self.duration)[:, None], now.end, now.terminal)
        start, last, constraint = (still(part) for part in (ends.start_right, ends.end_right, ends.constraint_right))
        ends = ends._replace(start_right=start, end_right=last, constraint_right=constraint)
        return Linearized(self.mesh.h, model.hessian, rates, *rest), ends

    def along(self, point: Point, model: Model, d: Direction, bend: Array) -> Step:
        """A solution of the unforced system under forces, as a step with its curvature and the length of its controls.

        Its slope is none, and neither is its reach.
        """
        path = y = model.now.path
        if path.shape[-1]:
            cz, dz = model.jacobian[..., self.stacked.v + 1 :, :], np.concatenate((d.x, d.u), -1)
            y = model.pull * np.einsum("...ci,...i->...c", cz, dz)
            path = self._loose(point.paths, point.slack, self.limits.path_fixed) * y
        end = d.multipliers
        if end.shape[-1]:
            end = self._loose(point.ends, point.end_slack, self.limits.end_fixed) * end
        length = total(self.weights * (d.u / self.scale_u) ** 2) / self.duration
        none = np.zeros_like(bend)
        return Step(d, path, y, end, none, bend, length, none)

    def _equations(self, point: Point, mu: Array, model: Model, now: Residual) -> tuple[Array, Array, Ends]:
        """What the path multipliers aim at, the right-hand side of the stages, and the boundary conditions."""
        aim, right = model.aim, model.right
        if aim.shape[-1]:
            if now is not model.now:
                aim = aim + model.pull * (now.path - model.now.path)
            cz = model.jacobian[..., self.stacked.v + 1 :, :]
            right = right - self.mesh.lengths * np.einsum("...c,...ci->...i", aim, cz)
        return aim, right, self._ends(point, (mu * self.duration)[:, None], model.now.end, now.terminal)

    def _ends(self, point: Point, mu_end: Array, end: EndPoint, terminal: Array) -> Ends:
        x0, q0 = point.nodes[0], point.costates[0]
        if point.starts.idle and self.limits.start_fixed.all():
            start = np.ones_like(x0), np.zeros_like(x0), self.limits.start_lower - x0
        else:
            fixed = self.limits.start_fixed
            start = (
                np.where(fixed, 1.0, point.starts.curvature(x0)),
                np.where(fixed, 0.0, -1.0),
                np.where(fixed, self.limits.start_lower - x0, q0 - point.starts.slope(x0, mu_end)),
            )
        slack = constraint = terminal
        end_right = -(point.costates[-1] + end.slope)
        if terminal.shape[-1]:
            loose = self._loose(point.ends, point.end_slack, self.limits.end_fixed)
            slack = elastic.give(terminal, point.nu, self.rho_end, mu_end) + loose
            push = point.ends.slope(point.end_slack, mu_end)
            constraint = elastic.gap(point.nu, self.rho_end, mu_end) - terminal + loose * (point.nu - push)
            end_right -= np.einsum("ge,gev->gv", point.nu, end.jacobian)
        return Ends(*start, end.hessian, end.jacobian, slack, end_right, constraint)

    def _completed(self, point: Point, mu: Array, model: Model, d: Direction, aim: Array, hessian: Array) -> Step:
        """Steps of slacks and multipliers, the slope of φ and the curvature along the step."""
        v, w, mu_end = self.stacked.v, self.weights, (mu * self.duration)[:, None]
        last, first = d.nodes[-1], d.nodes[0]
        dz = np.concatenate((d.x, d.u), -1)
        slope = total(model.gradient * dz) + (model.now.end.slope * last).sum(-1)
        bent = (hessian @ dz[..., None])[..., 0]
        weighed = w * dz
        bend = total(weighed * bent) + ((model.now.end.hessian @ last[..., None])[..., 0] * last).sum(-1)
        length = total(weighed * dz / self.scale_z**2) / self.duration
        change = (np.abs(model.jacobian[..., :v, :]) @ np.abs(dz)[..., None])[..., 0]
        reach = ((self.mesh.lengths * change).sum((0, 1)) / self.scale_x).sum(-1)
        path, y, end = model.now.path, model.now.path, model.now.terminal  # empty ones
        if path.shape[-1]:
            image = np.einsum("...ci,...i->...c", model.jacobian[..., v + 1 :, :], dz)
            new = aim + model.pull * image
            loose = self._loose(point.paths, point.slack, self.limits.path_fixed)
            push = point.paths.slope(point.slack, mu[:, None])
            path, y = loose * (new - push), new - point.y
            slope = slope + total(w * push * path)
            slope = slope + total(w * elastic.multiplier(model.now.path, self.rho_path, mu[:, None]) * (image - path))
        if end.shape[-1]:
            image = np.einsum("gev,gv->ge", model.now.end.jacobian, last)
            loose = self._loose(point.ends, point.end_slack, self.limits.end_fixed)
            push = point.ends.slope(point.end_slack, mu_end)
            end = loose * (point.nu + d.multipliers - push)
            slope = slope + (elastic.multiplier(model.now.terminal, self.rho_end, mu_end) * (image - end)).sum(-1)
            slope = slope + (push * end).sum(-1)
            bend = bend + (point.ends.curvature(point.end_slack) * end**2).sum(-1)
        if not point.starts.idle:
            slope = slope + (point.starts.slope(point.nodes[0], mu_end) * first).sum(-1)
            bend = bend + (point.starts.curvature(point.nodes[0]) * first**2).sum(-1)
        return Step(d, path, y, end, slope, bend, length, reach)

    # -------------------------------------------------------------------- moves

    def room(self, point: Point, step: Step, share: Array) -> Array:
        """Largest α ≤ 1 that leaves 1 − share of all distances to bounds (G,)."""
        pairs = zip(point.bounded, step.moves, strict=True)
        result: Array = np.min([barrier.room(value, move, share) for (barrier, value), move in pairs], axis=0)
        return result

    def shifted(self, point: Point, step: Step, alpha: Array) -> Point:
        """Primal variables after a step; α (G,)."""
        return point.shifted(step, alpha)

    def moved(self, point: Point, mu: Array, step: Step, moves: tuple[Array, ...], share: Array, alpha: Array) -> Point:
        """The point after a step of length α (G,), of multipliers at most 1; they keep 1 − share of what they have.

        The multipliers of bounds follow `moves`, those that `Step.moves` were before corrections.
        """
        new, m, mu_end = self.shifted(point, step, alpha), mu[:, None], (mu * self.duration)[:, None]
        weights = (m, m, mu_end, mu_end)
        changes = [
            barrier.step(value, move, weight)
            for (barrier, value), move, weight in zip(point.bounded, moves, weights, strict=True)
        ]
        rooms = [b.dual_room(change, share) for (b, _), change in zip(point.bounded, changes, strict=True)]
        a = np.min(rooms, axis=0)[:, None]
        barriers = [
            barrier.moved(change, a, value, weight)
            for (barrier, value), change, weight in zip(new.bounded, changes, weights, strict=True)
        ]
        below = np.minimum(
            elastic.room(point.y, step.y, self.rho_path, share),
            elastic.room(point.nu, step.d.multipliers, self.rho_end, share),
        )
        alpha = np.minimum(alpha, 1.0)
        return new.with_duals(step, alpha, np.minimum(alpha, below), *barriers)

    def centered(self, point: Point, mu: Array) -> Point:
        """The same point with the multipliers of all bounds on the central path."""
        weights = (mu, mu, mu * self.duration, mu * self.duration)
        barriers = [
            barrier.centered(value, weight[:, None])
            for (barrier, value), weight in zip(point.bounded, weights, strict=True)
        ]
        return point.dual(point.p, point.costates, point.y, point.nu, *barriers)

    # ------------------------------------------------------------------ errors

    def optimality(self, point: Point, mu: Array, model: Model) -> Optimality:
        """Dual infeasibility, primal infeasibility and complementarity, without units; μ is that of the model."""
        return self.measured(point, mu, model) if model.optimality is None else model.optimality

    def measured(self, point: Point, mu: Array, model: Model) -> Optimality:
        """The same for any μ: what is needed of the model does not depend on it."""
        v, now, end = self.stacked.v, model.now, model.now.end
        unit, mu_end = self.duration / self.size, (mu * self.duration)[:, None]
        slope = model.slope
        transversal = point.costates[-1] + end.slope
        primal = np.maximum(largest(now.stage / self.scale_x), largest(now.gap / self.scale_x))
        bought = np.zeros_like(mu)
        if now.path.shape[-1]:
            slope = slope + np.einsum("...c,...ci->...i", point.y, model.jacobian[..., v + 1 :, :])
            worth = elastic.gap(point.y, self.rho_path, mu[:, None])
            primal, bought = np.maximum(primal, largest(now.path - worth)), largest(worth)
        if now.terminal.shape[-1]:
            transversal = transversal + np.einsum("ge,gev->gv", point.nu, end.jacobian)
            worth = elastic.gap(point.nu, self.rho_end, mu_end)
            primal = np.maximum(primal, np.abs(now.terminal - worth).max(-1))
            bought = np.maximum(bought, np.abs(worth).max(-1))
        dual_u = slope[..., v:]
        if not point.controls.idle:
            dual_u = dual_u - point.controls.low + point.controls.high
        dual_x = self.mesh.lengths * slope[..., :v] + model.adjoint
        dual = np.maximum(largest(dual_x * self.scale_x), np.abs(transversal * self.scale_x).max(-1)) / self.size
        dual = np.maximum(largest(dual_u * self.scale_u) * unit, dual)
        inside, ends = (mu[:, None], unit), (mu_end, 1.0 / self.size)
        gap = np.max(
            [
                barrier.complementarity(value, m) * one
                for (barrier, value), (m, one) in zip(point.bounded, (inside, inside, ends, ends), strict=True)
            ],
            axis=0,
        )
        return Optimality(dual, primal, gap, bought)
