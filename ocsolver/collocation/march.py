"""Iterations of a single group, one after the other in C, until there is something to decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.compiled import CompiledSystem, called, compiled
from ocsolver.collocation.points import EndPoint, PointValues
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Model, Optimality, Point, Residual

__all__ = ["Marched", "can_march", "march"]

Array = np.ndarray[Any, np.dtype[Any]]


class Marched(NamedTuple):
    """Where a march has ended."""

    steps: int
    stuck: bool  # whether no further step leads anywhere
    done: bool  # whether the barrier problem is solved
    point: Point
    model: Model
    state: Array  # in the order of `_march.c`
    filter: Array  # corners (2, K, 1)
    seen: Array  # cost and error at the points on the way (…, 2, 1), without the first one if its model was known
    interrupt: KeyboardInterrupt | None  # what has ended it


def can_march(system: System) -> bool:
    """Whether the equations are those of one group, all in C; functions with kinks are not recorded."""
    stacked = system.stacked
    alone = isinstance(system, CompiledSystem) and len(system.size) == 1
    return alone and stacked.separable and not system.limits.some_fixed


def march(
    system: System,
    point: Point,
    model: Model | None,
    rules: Array,
    state: Array,
    filter: Array,
    most: int,
    proceed: Callable[[], bool],
) -> Marched:
    """Take up to `most` steps; the order of `rules` and of the `state` of a walk is that of `_march.c`.

    Without a model, it begins with one; else somebody has looked at the start. What is seen last is left to those who
    look again, unless it is solved there or no step leads on. `proceed` says at every trial whether to go on.
    """
    assert isinstance(system, CompiledSystem)
    tape, end_tape = system.stacked.tape, system.stacked.end_tape
    assert tape is not None
    assert end_tape is not None
    interrupts: list[KeyboardInterrupt] = []

    def go_on() -> bool:
        try:
            return proceed()
        except KeyboardInterrupt as reason:  # what has been reached so far is not lost
            interrupts.append(reason)
            return False

    layout = _Layout.of(point, system.scale_z.shape[-1])
    places, held, state = (np.empty(layout.size), np.empty(layout.size)), filter.shape[1], state.copy()
    corners, seen = np.empty((2, held + most)), np.empty((2, most + 1))
    corners[:, :held] = filter[..., 0]
    programs = tape.values.parts, tape.derivatives.parts, end_tape.values.parts, end_tape.derivatives.parts
    here, known = (system.constants, point.arrays, state[:1]), () if model is None else _known(model)
    numbers = system.mesh.points, rules, state, corners, seen
    answer = called(compiled.march, *here, known, places, numbers, programs, go_on)
    steps, looks, at, own, stuck, done = answer
    if own:
        model = layout.model(places[own - 1], places[at - 1] if at else None, model)
    assert model is not None
    reached = layout.point(places[at - 1], point) if at else point
    corners, seen = corners[:, : int(state[3]), None], seen[:, :looks].T[..., None]
    reason = interrupts[0] if interrupts else None
    return Marched(steps, bool(stuck), bool(done), reached, model, state, corners, seen, reason)


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


class _Layout(NamedTuple):
    """Where the arrays of a point and of what is known there stand in one piece of memory, as `_march.c` has it."""

    size: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]  # offsets in bytes, and shapes

    @classmethod
    def of(cls, point: Point, D: int) -> _Layout:
        """The layout of such points; D states and controls."""
        return _layout(point.x.shape, point.u.shape[-1], point.slack.shape[-1], point.nu.shape[-1], D)

    def _views(self, place: Array, first: int, last: int) -> list[Array]:
        return [np.ndarray(shape, float, place, offset) for offset, shape in self.parts[first:last]]

    def point(self, place: Array, like: Point) -> Point:
        """The point; what its barriers know of their bounds is that of another one."""
        values = self._views(place, 0, 13)
        barriers = like.controls, like.paths, like.ends, like.starts
        held = [barrier.held(z) for barrier, z in zip(barriers, values[9:], strict=True)]
        return Point(*values[:9], *held)  # type: ignore[arg-type]

    def model(self, place: Array, at: Array | None, start: Model | None) -> Model:
        """The model, which may be that of another point than the one reached `at`; none there means the start."""
        parts = self._views(place, 23, len(self.parts))
        if at is None:
            assert start is not None
            values, end = start.now.values, start.now.end
        else:
            own = self._views(at, 13, 23)
            values, end = PointValues(*own[:5]), EndPoint(*own[5:])
        assert values.jacobian is not None
        now = Residual(values, end, *parts[:6])
        return Model(now, values.jacobian, *parts[6:14], Optimality(*parts[14:]))  # type: ignore[call-arg, arg-type]


@lru_cache(maxsize=64)
def _layout(x: tuple[int, ...], m: int, e: int, k: int, D: int) -> _Layout:
    N, s, G, v = x
    u, c, z, nodes, gap = (N, s, G, m), (N, s, G, e), (N, s, G, D), (N + 1, G, v), (N, G, v)
    one, end, start = (G,), (G, k), (G, v)
    point = x, u, x, nodes, nodes, c, c, end, end, (2, *u), (2, *c), (2, *end), (2, *start)
    values = x, (N, s, G), c, (N, s, G, v + 1 + e, D), (*z, D)
    last = one, end, start, (G, k, v), (G, v, v)
    residual, bent = (x, gap, c, end, one, one), ((*z, D), z, x, z, gap, z, c, c)
    shapes = (*point, *values, *last, *residual, *bent, one, one, one, one)
    places = [0, *accumulate(prod(shape) for shape in shapes)]
    size = np.dtype(float).itemsize
    return _Layout(places[-1], tuple((size * place, shape) for place, shape in zip(places, shapes, strict=False)))
