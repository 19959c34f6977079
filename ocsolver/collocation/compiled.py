"""The system of collocation with its measures computed in C, where that was compiled; the mathematics is `System`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.kkt import Direction, Ends
from ocsolver.collocation.points import EndPoint, PointValues, Stacked
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Bounds, Model, Optimality, Point, Residual, Step

try:
    from ocsolver.collocation import _compiled as compiled
except ImportError:  # there was no compiler
    compiled = None  # type: ignore[assignment]

__all__ = ["Bent", "CompiledSystem", "called", "compiled", "fastest_system"]

Array = np.ndarray[Any, np.dtype[Any]]
Bent = tuple[Array, Array, Array, Array, Array, Array, Array, Array]  # of a model, what `quadratic` fills


def fastest_system() -> type[System]:
    """`CompiledSystem` where its part in C was compiled."""
    return System if compiled is None else CompiledSystem


class CompiledSystem(System):
    """The same equations, each measure in one pass over the mesh."""

    @cached_property
    def constants(self) -> tuple[Array, ...]:
        """What no iteration changes, in the order of `_frame.h`."""
        tab, mesh, limits = self.mesh.tableau, self.mesh, self.limits
        fixed = limits.path_fixed.astype(float), limits.end_fixed.astype(float)
        parts = (tab.alpha, tab.adjoint, tab.row, tab.d, tab.b, mesh.h, mesh.weights, self.scale_x, self.scale_z)
        prices = self.rho_path, self.rho_end
        start = limits.start_fixed.astype(float), np.asarray(limits.start_lower, float)
        return _contiguous(*parts, self.size, self.duration, *prices, *fixed, *start)

    def again(self, stacked: Stacked, limits: Bounds) -> System:
        other = super().again(stacked, limits)
        other.__dict__["constants"] = (*self.constants[:-1], np.ascontiguousarray(limits.start_lower, float))
        return other

    def residual(self, point: Point, mu: Array, values: PointValues, end: EndPoint | None = None) -> Residual:
        end = self.last(point) if end is None else end
        results = self.residual_arrays(point)
        inside = (values.f, values.running, values.c)
        called(compiled.residual, self.constants, point.arrays, mu, inside, (end.cost, end.c), results)
        return Residual(values, end, *results)

    def model(self, point: Point, mu: Array, now: Residual) -> Model:
        if self.limits.some_fixed:  # their equations are those of NumPy
            return super().model(point, mu, now)
        values = now.values
        assert values.jacobian is not None
        assert values.hessian is not None
        results = self.model_arrays(point)
        inside = (values.f, values.running, values.c, values.jacobian, values.hessian)
        called(compiled.model, self.constants, point.arrays, mu, inside, (now.path,), results)
        return Model(now, values.jacobian, *results)

    def residual_arrays(self, point: Point) -> tuple[Array, ...]:
        """Room for what `measure` fills, in its order."""
        x, G = point.x.shape, len(self.size)
        shapes = (x, (x[0], *x[2:]), point.slack.shape, point.end_slack.shape, (G,), (G,))
        return tuple(np.empty(shape) for shape in shapes)

    def model_arrays(self, point: Point) -> Bent:
        """Room for what `quadratic` fills, in its order."""
        x, c, D = point.x.shape, point.slack.shape, self.scale_z.shape[-1]
        z, gap = (*x[:-1], D), (x[0], *x[2:])
        parts = np.empty((*z, D)), np.empty(z), np.empty(x), np.empty(z)
        return *parts, np.empty(gap), np.empty(z), np.empty(c), np.empty(c)

    def _equations(self, point: Point, mu: Array, model: Model, now: Residual) -> tuple[Array, Array, Ends]:
        end, x0, nu = model.now.end, point.nodes[0].shape, point.nu.shape
        right = np.empty(model.right.shape) if model.aim.size else model.right
        results = (
            np.empty(model.aim.shape),
            right,
            np.empty(x0),
            np.empty(x0),
            np.empty(x0),
            np.empty(nu),
            np.empty(x0),
            np.empty(nu),
        )
        inside = (model.jacobian, model.right, model.pull, model.aim, model.now.path)
        own = (*inside, end.slope, end.jacobian, now.path, now.terminal)
        called(compiled.equations, self.constants, point.arrays, mu, own, results)
        aim, right, start_x, start_q, start_right, slack, end_right, constraint = results
        ends = Ends(start_x, start_q, start_right, end.hessian, end.jacobian, slack, end_right, constraint)
        return aim, right, ends

    def _completed(self, point: Point, mu: Array, model: Model, d: Direction, aim: Array, hessian: Array) -> Step:
        now, end = model.now, model.now.end
        inside = (model.jacobian, hessian, model.gradient, model.pull, aim, now.path, now.terminal)
        own = (*inside, end.slope, end.jacobian, end.hessian)
        c, k, G = point.slack.shape, point.end_slack.shape, len(mu)
        path, y, last, derivative, bend, length, reach = (np.empty(shape) for shape in (c, c, k, G, G, G, G))
        results = (path, y, last, derivative, bend, length, reach)
        moved = (d.x, d.u, d.nodes, d.multipliers)
        called(compiled.complete, self.constants, point.arrays, mu, own, moved, results)
        return Step(d, *results)

    def measured(self, point: Point, mu: Array, model: Model) -> Optimality:
        now, end = model.now, model.now.end
        inside = (model.slope, model.adjoint, model.jacobian, now.stage, now.gap, now.path, now.terminal)
        own = (*inside, end.slope, end.jacobian)
        results = Optimality(*(np.empty(len(mu)) for _ in range(4)))
        called(compiled.errors, self.constants, point.arrays, mu, own, results)
        return results

    def room(self, point: Point, step: Step, share: Array) -> Array:
        result = np.empty(len(share))
        called(compiled.room, self.constants, point.arrays, share, step.moves, (result,))
        return result

    def shifted(self, point: Point, step: Step, alpha: Array) -> Point:
        d = step.d
        x, u, nodes, slack, end_slack = results = tuple(
            np.empty(old.shape) for old in (point.x, point.u, point.nodes, point.slack, point.end_slack)
        )
        steps = (d.x, d.u, d.nodes, step.path, step.end)
        called(compiled.shift, self.constants, point.arrays, alpha, steps, results)
        return point.primal(x, u, nodes, slack, end_slack)

    def moved(self, point: Point, mu: Array, step: Step, moves: tuple[Array, ...], share: Array, alpha: Array) -> Point:
        new, d = self.shifted(point, step, alpha), step.d
        barriers = (point.controls, point.paths, point.ends, point.starts)
        olds = (point.p, point.costates, point.y, point.nu, *(barrier.z for barrier in barriers))
        p, costates, y, nu, *z = results = tuple(np.empty(old.shape) for old in olds)
        values = (new.u, new.slack, new.end_slack, new.nodes[0])
        duals = (d.p, d.costates, step.y, d.multipliers)
        lengths = (share, np.minimum(alpha, 1.0))
        called(compiled.multipliers, self.constants, point.arrays, mu, moves, values, duals, lengths, results)
        held: list[Barrier] = [barrier.held(own) for barrier, own in zip(barriers, z, strict=True)]
        return new.dual(p, costates, y, nu, *held)


def called(function: Callable[..., Any], *parts: Any) -> Any:
    """Call a function in C, with copies of arrays if some have gaps in memory; those of results have none."""
    try:
        return function(*parts)
    except ValueError:
        return function(*(_contiguous(*part) if isinstance(part, tuple) else _contiguous(part)[0] for part in parts))


def _contiguous(*parts: Any) -> tuple[Any, ...]:
    """The same, arrays among them without gaps in memory."""
    return tuple(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part for part in parts)
