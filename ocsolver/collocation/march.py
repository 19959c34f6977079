"""Iterations of a single group, one after the other in C, until there is something to decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.compiled import Bent, CompiledSystem, compiled
from ocsolver.collocation.points import EndPoint, PointValues, Stacked
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Optimality, Point, Residual

__all__ = ["Marched", "can_march", "march"]

Array = np.ndarray[Any, np.dtype[Any]]


class Marched(NamedTuple):
    """Where a march has ended."""

    steps: int
    stuck: bool  # whether no further step leads anywhere
    point: Point
    model: Model
    filter: Array  # corners (2, K, 1)
    seen: Array  # cost and error at all points on the way but the first, and the last unless it is stuck there (2, …)
    interrupt: KeyboardInterrupt | None  # what has ended it


def can_march(system: System) -> bool:
    """Whether the equations are those of one group, all in C."""
    stacked = system.stacked
    alone = isinstance(system, CompiledSystem) and len(system.size) == 1
    return alone and stacked.separable and not system.limits.control_fixed.any()


def march(
    system: System,
    point: Point,
    model: Model,
    rules: Array,
    state: Array,
    filter: Array,
    most: int,
    proceed: Callable[[], bool],
) -> Marched:
    """Take up to `most` steps; the order of `rules` and of `state`, which changes, is that of `_march.c`.

    `proceed` says at every trial whether to go on.
    """
    assert isinstance(system, CompiledSystem)
    places = _Place.at(system, point), _Place.at(system, point)
    calls, interrupts = [place.evaluation(system) for place in places], list[KeyboardInterrupt]()

    def evaluate(which: int, whole: int) -> bool:
        try:
            calls[which - 1](whole)
            return proceed()
        except KeyboardInterrupt as reason:  # what has been reached so far is not lost
            interrupts.append(reason)
            return False

    held = filter.shape[1]
    corners, seen = np.empty((2, held + most)), np.empty((2, most))
    corners[:, :held] = filter[..., 0]
    arrays = tuple(np.ascontiguousarray(part) for part in (*point.arrays, *_known(model)))
    here, known = arrays[: len(point.arrays)], arrays[len(point.arrays) :]
    one, other = ((*place.point, *place.known) for place in places)
    numbers = rules, state, corners, seen
    steps, at, own, stuck = compiled.march(system.constants, here, state[:1], known, one, other, numbers, evaluate)
    reached = places[at - 1].as_point(point) if at else point
    values, end = places[at - 1].values if at else (model.now.values, model.now.end)
    if own:
        model = places[own - 1].as_model(values, end)
    looks = steps if stuck or interrupts else max(steps - 1, 0)
    parts = corners[:, : int(state[3]), None], seen[:, :looks]
    return Marched(steps, bool(stuck), reached, model, *parts, interrupts[0] if interrupts else None)


def _known(model: Model) -> tuple[Array, ...]:
    """What is known at a point, in the order of `_march.c`."""
    now, end, none = model.now, model.now.end, np.empty(1)
    values = now.values
    assert values.jacobian is not None
    assert values.hessian is not None
    functions = values.f, values.running, values.c, values.jacobian, values.hessian
    residual = now.stage, now.gap, now.path, now.terminal, now.feasibility, now.barrier
    bent = model.hessian, model.slope, model.adjoint, model.right, model.back, model.gradient, model.pull, model.aim
    return (*functions, *end, *residual, *bent, none, none, none, none)


@dataclass(frozen=True, eq=False)
class _Place:
    """Room for a point and all that is known there."""

    point: tuple[Array, ...]
    values: tuple[PointValues, EndPoint]
    residual: tuple[Array, ...]
    model: Bent
    optimality: Optimality

    @classmethod
    def at(cls, system: CompiledSystem, like: Point) -> _Place:
        """Room on the mesh of a system; bounds are those of a point there."""
        x, e, D, v = like.x.shape, like.slack.shape[-1], system.scale_z.shape[-1], like.x.shape[-1]
        (G, k), bounds = like.end_slack.shape, like.arrays[9::2]
        point = tuple(np.empty(part.shape) for part in like.arrays[:9])
        for own in bounds:
            point += np.ascontiguousarray(own), np.empty(own.shape)
        c, jacobian, hessian = np.empty((*x[:-1], e)), np.empty((*x[:-1], v + 1 + e, D)), np.empty((*x[:-1], D, D))
        values = PointValues(np.empty(x), np.empty(x[:-1]), c, jacobian, hessian)
        end = EndPoint(np.empty(G), np.empty((G, k)), np.empty((G, v)), np.empty((G, k, v)), np.empty((G, v, v)))
        residual, model = system.residual_arrays(like), system.model_arrays(like)
        return cls(point, (values, end), residual, model, Optimality(*np.empty((4, G))))

    @property
    def known(self) -> tuple[Array, ...]:
        """What is known at the point, in the order of `_march.c`."""
        values, end = self.values
        return (*values, *end, *self.residual, *self.model, *self.optimality)  # type: ignore[arg-type]

    def evaluation(self, system: System) -> Callable[[int], None]:
        """The functions at the point, whole with their derivatives and multipliers, as they are at every call."""
        stacked: Stacked = system.stacked
        assert stacked.tape is not None
        assert stacked.end_tape is not None
        values, end = self.values
        x, u, p, nodes, y, nu = (self.point[i] for i in (0, 1, 2, 3, 6, 8))

        def rows(count: int, *arrays: Array | None) -> list[Array]:
            return [array.reshape(count, array.size // count) for array in arrays if array is not None]

        points, G = x.size // x.shape[-1], len(nu)
        inside, inputs, ends = rows(points, *values), rows(points, system.mesh.points, x, u, p, y), rows(G, *end)
        alone = stacked.tape.values.bound(inputs[:3], inside[:3]), stacked.end_tape.values.bound([nodes[-1]], ends[:2])
        whole = (
            stacked.tape.derivatives.bound(inputs, inside),
            stacked.end_tape.derivatives.bound([nodes[-1], nu], ends),
        )

        def evaluate(all: int) -> None:
            for program in whole if all else alone:
                program()

        return evaluate

    def as_point(self, like: Point) -> Point:
        """The point; what its barriers know of their bounds is that of another one."""
        barriers = like.controls, like.paths, like.ends, like.starts
        held = [barrier.held(z) for barrier, z in zip(barriers, self.point[10::2], strict=True)]
        return Point(*self.point[:9], *held)  # type: ignore[arg-type]

    def as_model(self, values: PointValues, end: EndPoint) -> Model:
        """The model, which may be that of another point, where these are the values."""
        assert values.jacobian is not None
        now = Residual(values, end, *self.residual)
        return Model(now, values.jacobian, *self.model, self.optimality)
