"""The collocated maximum principle as a system of equations on one mesh: residuals, Newton steps and errors.

The unknowns are states and controls at the Gauss points, states at the nodes, and the multipliers of the collocation
equations, which are the costates. Control bounds, path constraints, terminal constraints and free initial states enter
by primal–dual barriers whose weights are those of the quadrature, so that μ means the same on every mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ocsolver.collocation import elastic
from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.kkt import Direction, Ends, directions
from ocsolver.collocation.points import EndPoint, PointValues, Stacked
from ocsolver.collocation.unknowns import Bounds, Mesh, Model, Point, Residual, Step, largest, total

__all__ = ["System"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class System:
    """Equations of all groups on one mesh."""

    stacked: Stacked
    limits: Bounds
    mesh: Mesh
    scale_x: Array  # (G, v), sizes of the states
    scale_u: Array  # (m,), sizes of the controls
    size: Array  # (G,), size of J
    rho_path: Array  # (N, s, G, 1), prices of violations
    rho_end: Array  # (G, 1)

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
        theta = total(np.abs(stage) / self.scale_x) + total(np.abs(gap) / self.scale_x)
        phi = self.merit(point, mu, values, end, path, terminal)
        return Residual(values, end, stage, gap, path, terminal, theta, phi)

    def at(self, point: Point, mu: Array) -> Residual:
        """The same of a trial."""
        return self.residual(point, mu, self.stacked.values(self.mesh.points, point.x, point.u))

    def cost(self, values: PointValues, end: EndPoint) -> Array:
        """J (G,)."""
        result: Array = (self.mesh.weights * values.running).sum((0, 1)) + end.cost
        return result

    def merit(self, point: Point, mu: Array, values: PointValues, end: EndPoint, path: Array, terminal: Array) -> Array:
        """φ = J + smooth ρ|c| − μ ∫ Σ log slack (G,)."""
        w, duration = self.mesh.weights[..., None], self.duration
        logs = total(w * point.controls.logarithm(point.u)) + total(w * point.paths.logarithm(point.slack))
        logs = logs + duration * (
            point.ends.logarithm(point.end_slack).sum(-1) + point.starts.logarithm(point.nodes[0]).sum(-1)
        )
        result: Array = self.cost(values, end) - mu * logs
        if path.shape[-1]:
            result = result + total(w * elastic.price(path, self.rho_path, mu[:, None]))
        return np.asarray(result + elastic.price(terminal, self.rho_end, (mu * duration)[:, None]).sum(-1))

    @cached_property
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
        assert jacobian is not None
        assert hessian is not None
        hessian = hessian.copy()
        diagonal = np.einsum("...ii->...i", hessian)  # a view
        diagonal[..., v:] += point.controls.curvature(point.u)
        fixed = v + np.flatnonzero(self.limits.control_fixed)
        if fixed.size:  # they stay where they are
            jacobian = jacobian.copy()
            jacobian[..., fixed] = hessian[..., fixed] = hessian[..., fixed, :] = 0.0
            hessian[..., fixed, fixed] = 1.0
        cz = jacobian[..., v + 1 :, :]
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
        return np.where(fixed, 0.0, np.minimum(1.0 / barrier.curvature(slack), 1e30))

    def direction(
        self, point: Point, mu: Array, model: Model, delta: Array, active: Array, now: Residual | None = None
    ) -> Step | None:
        """Newton step of the active groups for a Hessian shifted by δ (G,); None if there is none.

        The residuals of `now` take the place of the model's own: a second-order correction.
        """
        mesh, tab, v, h = self.mesh, self.mesh.tableau, self.stacked.v, self.mesh.h[:, None, :, None]
        own = now is None
        now = model.now if now is None else now
        jacobian, mu_end = model.jacobian, (mu * self.duration)[:, None]
        cz = jacobian[..., v + 1 :, :]
        aim = model.aim if own else model.aim + model.pull * (now.path - model.now.path)
        slope = model.slope + np.einsum("...c,...ci->...i", aim, cz)
        du = slope[..., v:] + point.controls.slope(point.u, mu[:, None])
        adjoint = self._adjoint(point)
        back = (1 - tab.d.sum()) * point.costates[1:] + np.einsum("i,nigv->ngv", tab.b * tab.row, point.p)
        hessian = model.hessian
        if delta.any():
            hessian = hessian.copy()
            diagonal = np.einsum("...ii->...i", hessian)
            diagonal += (delta * self.size / self.duration)[:, None] / self.scale_z**2
        ends = self._ends(point, mu_end, model.now.end, now.terminal)
        right = (-(h * slope[..., :v] + adjoint), -du, -now.stage)
        gaps = (-now.gap, back - point.costates[:-1])
        rates = jacobian[..., :v, :v], jacobian[..., :v, v:]
        found = directions(active, tab, mesh.h, hessian, *rates, right, gaps, ends)
        if found is None:
            return None
        return self._completed(point, mu, mu_end, model, now, found, aim, hessian)

    def _adjoint(self, point: Point) -> Array:
        """Σ β_ij P_j − (d_i/b_i) q⁺ (N, s, G, v): the costate's part of the stage equations."""
        tab = self.mesh.tableau
        ends = (tab.d / tab.b)[:, None, None] * point.costates[1:, None]
        return np.asarray(np.einsum("ij,njgv->nigv", tab.adjoint, point.p) - ends)

    @cached_property
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
        self,
        point: Point,
        mu: Array,
        mu_end: Array,
        model: Model,
        now: Residual,
        d: Direction,
        aim: Array,
        hessian: Array,
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
        slope = total(w * cost * dz) + (model.now.end.slope * d.nodes[-1]).sum(-1)
        slope = slope + total(w * point.controls.slope(point.u, mu[:, None]) * d.u)
        slope = slope + total(w * point.paths.slope(point.slack, mu[:, None]) * path)
        slope = slope + total(w * elastic.multiplier(model.now.path, self.rho_path, mu[:, None]) * (image - path))
        slope = slope + (elastic.multiplier(model.now.terminal, self.rho_end, mu_end) * (end - end_step)).sum(-1)
        slope = slope + (point.ends.slope(point.end_slack, mu_end) * end_step).sum(-1)
        slope = slope + (point.starts.slope(point.nodes[0], mu_end) * d.nodes[0]).sum(-1)
        bend = total(w * dz * np.einsum("...ij,...j->...i", hessian, dz))
        bend = bend + np.einsum("gv,gvw,gw->g", d.nodes[-1], model.now.end.hessian, d.nodes[-1])
        bend = bend + (point.ends.curvature(point.end_slack) * end_step**2).sum(-1)
        bend = bend + (point.starts.curvature(point.nodes[0]) * d.nodes[0] ** 2).sum(-1)
        length = total(w * (dz / self.scale_z) ** 2) / self.duration
        return Step(d, path, new - point.y, end_step, slope, bend, length)

    # ------------------------------------------------------------------ errors

    def errors(self, point: Point, mu: Array, model: Model) -> tuple[Array, Array, Array]:
        """Dual infeasibility, primal infeasibility and complementarity, without units (G,)."""
        v, h = self.stacked.v, self.mesh.h[:, None, :, None]
        cz = model.jacobian[..., v + 1 :, :]
        slope = model.slope + np.einsum("...c,...ci->...i", point.y, cz)
        dual_u = slope[..., v:] - point.controls.low + point.controls.high
        adjoint = self._adjoint(point)
        dual_x = h * slope[..., :v] + adjoint
        end = model.now.end
        transversal = point.costates[-1] + end.slope + np.einsum("ge,gev->gv", point.nu, end.jacobian)
        unit = self.duration / self.size
        dual = np.maximum(largest(dual_u * self.scale_u) * unit, largest(dual_x * self.scale_x) / self.size)
        dual = np.maximum(dual, np.abs(transversal * self.scale_x).max(-1) / self.size)
        now = model.now
        primal = np.maximum(largest(now.stage / self.scale_x), largest(now.gap / self.scale_x))
        mu_end = (mu * self.duration)[:, None]
        path = now.path - elastic.gap(point.y, self.rho_path, mu[:, None])
        terminal = now.terminal - elastic.gap(point.nu, self.rho_end, mu_end)
        primal = np.maximum(primal, np.maximum(largest(path), np.abs(terminal).max(-1, initial=0.0)))
        gap = np.maximum(
            point.controls.complementarity(point.u, mu[:, None]), point.paths.complementarity(point.slack, mu[:, None])
        )
        ends = np.maximum(
            point.ends.complementarity(point.end_slack, mu_end), point.starts.complementarity(point.nodes[0], mu_end)
        )
        return dual, primal, np.maximum(gap * unit, ends / self.size)
