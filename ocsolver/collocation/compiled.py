"""The system of collocation with its measures computed in C, where that was compiled; the mathematics is `System`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ocsolver.collocation.kkt import Direction
from ocsolver.collocation.points import EndPoint, PointValues
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Point, Residual, Step

try:
    from ocsolver.collocation import _measures as compiled
except ImportError:  # there was no compiler
    compiled = None  # type: ignore[assignment]

__all__ = ["CompiledSystem", "fastest_system"]

Array = np.ndarray[Any, np.dtype[Any]]


def fastest_system() -> type[System]:
    """`CompiledSystem` where its part in C was compiled."""
    return System if compiled is None else CompiledSystem


class CompiledSystem(System):
    """The same equations, each measure in one pass over the mesh."""

    @cached_property
    def _constants(self) -> tuple[Array, ...]:
        """What no iteration changes, in the order of `_measures.c`."""
        tab, mesh, limits = self.mesh.tableau, self.mesh, self.limits
        fixed = limits.path_fixed.astype(float), limits.end_fixed.astype(float)
        parts = (tab.alpha, tab.adjoint, tab.row, tab.d, tab.b, mesh.h, mesh.weights, self.scale_x, self.scale_z)
        prices = self.rho_path, self.rho_end
        return _contiguous(*parts, self.size, self.duration, *prices, *fixed)

    def residual(self, point: Point, mu: Array, values: PointValues, end: EndPoint | None = None) -> Residual:
        end = self.last(point) if end is None else end
        x, c = point.x, point.slack
        results = (
            np.empty(x.shape),
            np.empty((len(x), *x.shape[2:])),
            np.empty(c.shape),
            np.empty(point.end_slack.shape),
            np.empty(len(mu)),
            np.empty(len(mu)),
        )
        inside = _contiguous(values.f, values.running, values.c)
        compiled.residual(self._constants, point.arrays, mu, inside, _contiguous(end.cost, end.c), results)
        return Residual(values, end, *results)

    def _model(self, point: Point, mu: Array, values: PointValues, end: EndPoint) -> Model:
        if self.limits.control_fixed.any():
            return super()._model(point, mu, values, end)
        now = self.residual(point, mu, values, end)
        assert values.jacobian is not None
        assert values.hessian is not None
        jacobian, x, c = np.ascontiguousarray(values.jacobian), point.x.shape, point.slack.shape
        z = jacobian.shape[:-2] + jacobian.shape[-1:]
        shapes = ((*z, z[-1]), z, x, z, (x[0], *x[2:]), z, c, c)
        results = tuple(np.empty(shape) for shape in shapes)
        inside = _contiguous(values.f, values.running, values.c, jacobian, values.hessian)
        compiled.model(self._constants, point.arrays, mu, inside, (now.path,), results)
        hessian, slope, adjoint, *rest = results
        return Model(now, jacobian, hessian, slope, adjoint, *rest)

    def _completed(self, point: Point, mu: Array, model: Model, d: Direction, aim: Array, hessian: Array) -> Step:
        now, end = model.now, model.now.end
        inside = (model.jacobian, hessian, model.gradient, model.pull, aim, now.path, now.terminal)
        own = _contiguous(*inside, end.slope, end.jacobian, end.hessian)
        c, k, G = point.slack.shape, point.end_slack.shape, len(mu)
        path, y, last, derivative, bend, length, reach = (np.empty(shape) for shape in (c, c, k, G, G, G, G))
        results = (path, y, last, derivative, bend, length, reach)
        moved = _contiguous(d.x, d.u, d.nodes, d.multipliers)
        compiled.complete(self._constants, point.arrays, mu, own, moved, results)
        return Step(d, *results)

    def errors(self, point: Point, mu: Array, model: Model) -> tuple[Array, Array, Array]:
        now, end = model.now, model.now.end
        inside = (model.slope, model.adjoint, model.jacobian, now.stage, now.gap, now.path, now.terminal)
        own = _contiguous(*inside, end.slope, end.jacobian)
        results = np.empty(len(mu)), np.empty(len(mu)), np.empty(len(mu))
        compiled.errors(self._constants, point.arrays, mu, own, results)
        return results


def _contiguous(*arrays: Array | None) -> tuple[Array, ...]:
    """The arrays without gaps in memory."""
    return tuple(np.ascontiguousarray(array) for array in arrays)
