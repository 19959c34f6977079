"""The unknowns of a collocated problem, what is measured of them, and their steps; it knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from ocsolver._record import record
from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.kkt import Direction
from ocsolver.collocation.points import EndPoint, PointValues
from ocsolver.collocation.tableau import Tableau

__all__ = ["Bounds", "Curves", "Mesh", "Model", "Optimality", "Point", "Residual", "Step", "every", "largest", "total"]

Array = np.ndarray[Any, np.dtype[Any]]


@record
class Mesh:
    """Nodes of every group and what they imply."""

    t: Array  # (N + 1, G)
    tableau: Tableau

    @cached_property
    def h(self) -> Array:
        """Lengths (N, G)."""
        return np.diff(self.t, axis=0)

    @cached_property
    def points(self) -> Array:
        """Times of the Gauss points (N, s, G)."""
        return self.t[:-1, None] + self.h[:, None] * self.tableau.c[:, None]

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights (N, s, G)."""
        return self.h[:, None] * self.tableau.b[:, None]

    @cached_property
    def lengths(self) -> Array:
        """Lengths for each value at a Gauss point (N, 1, G, 1)."""
        return self.h[:, None, :, None]


class Curves(Protocol):
    """Polynomials by their values at nodes and points."""

    @property
    def nodes(self) -> Array:
        """States at the nodes (N + 1, G, v)."""

    @property
    def costates(self) -> Array:
        """Costates there."""

    @property
    def x(self) -> Array:
        """States at the points (N, s, G, v)."""

    @property
    def u(self) -> Array:
        """Controls there (N, s, G, m)."""

    @property
    def p(self) -> Array:
        """Costates there (N, s, G, v)."""

    @property
    def y(self) -> Array:
        """Multipliers of path constraints there (N, s, G, e)."""


@record
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

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """All arrays in the order in which they stand here; barriers as bounds and multipliers."""
        one, two, three, four = self.controls, self.paths, self.ends, self.starts
        return (
            *(self.x, self.u, self.p, self.nodes, self.costates, self.slack, self.y, self.end_slack, self.nu),
            *(one.bounds, one.z, two.bounds, two.z, three.bounds, three.z, four.bounds, four.z),
        )

    @property
    def bounded(self) -> tuple[tuple[Barrier, Array], ...]:
        """Barriers, each with its values: controls, slacks of the path, slacks of the end, initial states."""
        values = (self.u, self.slack, self.end_slack, self.nodes[0])
        return tuple(zip((self.controls, self.paths, self.ends, self.starts), values, strict=True))

    def part(self, rows: Array) -> Point:
        """The point of some groups."""
        return self._mapped(self, lambda own, _: np.ascontiguousarray(own[..., rows, :]))

    def with_part(self, other: Point, rows: Array) -> Point:
        """The same, but some groups as in the point of these."""

        def replaced(own: Array, new: Array) -> Array:
            result = own.copy()
            result[..., rows, :] = new
            return result

        return self._mapped(other, replaced)

    def merged(self, other: Point, use: Array) -> Point:
        """Another point in the groups of `use` (G,)."""
        return self._mapped(other, lambda own, new: np.where(use[:, None], new, own))

    def _mapped(self, other: Point, function: Callable[[Array, Array], Array]) -> Point:
        """A point whose arrays are functions of those of this one and another."""
        values: dict[str, Any] = {}
        for entry in fields(self):
            a, b = getattr(self, entry.name), getattr(other, entry.name)
            if isinstance(a, Barrier):
                values[entry.name] = Barrier(function(a.bounds, b.bounds), function(a.z, b.z), a.idle, a.partial)
            else:
                values[entry.name] = function(a, b)
        return Point(**values)

    def shifted(self, step: Step, alpha: Array) -> Point:
        """Primal variables after a step; α (G,)."""
        a, d = alpha[:, None], step.d
        slack, end_slack = self.slack + a * step.path, self.end_slack + a * step.end
        return self.primal(self.x + a * d.x, self.u + a * d.u, self.nodes + a * d.nodes, slack, end_slack)

    def with_duals(self, step: Step, alpha: Array, elastic: Array, *barriers: Barrier) -> Point:
        """Multipliers after a step; α (G,), that of the elastic constraints, and the barriers as they are then."""
        a, e, d = alpha[:, None], elastic[:, None], step.d
        p, costates = self.p + a * d.p, self.costates + a * d.costates
        return self.dual(p, costates, self.y + e * step.y, self.nu + e * d.multipliers, *barriers)

    def primal(self, x: Array, u: Array, nodes: Array, slack: Array, end_slack: Array) -> Point:
        """Other primal variables."""
        barriers = self.controls, self.paths, self.ends, self.starts
        return Point(x, u, self.p, nodes, self.costates, slack, self.y, end_slack, self.nu, *barriers)

    def dual(self, p: Array, costates: Array, y: Array, nu: Array, *barriers: Barrier) -> Point:
        """Other multipliers; barriers of controls, path, end and start."""
        return Point(self.x, self.u, p, self.nodes, costates, self.slack, y, self.end_slack, nu, *barriers)


@record
class Bounds:
    """Bounds of everything that has some; equal ones make equations instead of barriers."""

    control_lower: Array  # (m,)
    control_upper: Array
    path_lower: Array  # (e,)
    path_upper: Array
    end_lower: Array  # (k,)
    end_upper: Array
    start_lower: Array  # (G, v)
    start_upper: Array

    def part(self, rows: Array) -> Bounds:
        """The bounds of some groups."""
        return replace(self, start_lower=self.start_lower[rows], start_upper=self.start_upper[rows])

    def from_states(self, x0: Array) -> Bounds:
        """The same with initial states x0 (G, v) where these are fixed."""
        starts = x0, x0
        if not self.pinned:
            fixed = self.start_fixed
            starts = np.where(fixed, x0, self.start_lower), np.where(fixed, x0, self.start_upper)
        path, end = (self.path_lower, self.path_upper), (self.end_lower, self.end_upper)
        other = Bounds(self.control_lower, self.control_upper, *path, *end, *starts)
        other.__dict__.update(self._shared)  # which are the same
        return other

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """All that does not change with fixed initial states."""
        names = "open", "some", "control_fixed", "path_fixed", "end_fixed", "start_fixed", "pinned", "some_fixed"
        return {name: getattr(self, name) for name in names}

    @cached_property
    def some(self) -> bool:
        """Whether there are any inequalities, or constraints on the path."""
        starts = (self.start_lower < self.start_upper) & (np.isfinite(self.start_lower) | np.isfinite(self.start_upper))
        controls = np.isfinite(self.control_lower) | np.isfinite(self.control_upper)
        ends = self.end_lower < self.end_upper
        return bool(self.path_lower.size or starts.any() or controls.any() or ends.any())

    @cached_property
    def control_fixed(self) -> Array:
        """Controls that nothing is left of (m,)."""
        return np.asarray(self.control_lower == self.control_upper)

    @cached_property
    def some_fixed(self) -> bool:
        """Whether nothing is left of some controls."""
        return bool(self.control_fixed.any())

    @cached_property
    def path_fixed(self) -> Array:
        """Equality constraints on the path (e,)."""
        return np.asarray(self.path_lower == self.path_upper)

    @cached_property
    def end_fixed(self) -> Array:
        """Equality constraints at the end (k,)."""
        return np.asarray(self.end_lower == self.end_upper)

    @cached_property
    def start_fixed(self) -> Array:
        """Fixed components of the initial state (G, v)."""
        return np.asarray(self.start_lower == self.start_upper)

    @cached_property
    def pinned(self) -> bool:
        """Whether the initial state is fixed."""
        return bool(self.start_fixed.all())

    @cached_property
    def open(self) -> tuple[tuple[bool, bool], ...]:
        """Of controls, path, end and start: whether barriers have no bound at all, and whether one is missing."""
        pairs = (
            (self.control_lower, self.control_upper, self.control_fixed),
            (self.path_lower, self.path_upper, self.path_fixed),
            (self.end_lower, self.end_upper, self.end_fixed),
            (self.start_lower, self.start_upper, self.start_fixed),
        )
        finite = [np.isfinite((lower, upper)) & ~fixed for lower, upper, fixed in pairs]
        return tuple((not bool(part.any()), not bool(part.all())) for part in finite)


@record
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

    @cached_property
    def violation(self) -> Array:
        """Largest distance to a constraint at the Gauss points and at the end (G,)."""
        worst = np.zeros(len(self.barrier))
        if self.path.size:
            worst = np.abs(self.path).max((0, 1, 3))
        return np.maximum(worst, np.abs(self.terminal).max(-1)) if self.terminal.size else worst


class Optimality(NamedTuple):
    """How far a point is from solving a barrier problem, without units (G,)."""

    dual: Array
    primal: Array
    complementarity: Array
    bought: Array  # largest violation that the prices leave worth its while, at the multipliers as they are

    @property
    def error(self) -> Array:
        """The largest of the first three (G,)."""
        result: Array = np.maximum(np.maximum(self.dual, self.primal), self.complementarity)
        return result


@record
class Model:
    """Quadratic model at a point."""

    now: Residual
    jacobian: Array  # (N, s, G, v + 1 + e, v + m)
    hessian: Array  # (N, s, G, v + m, v + m), barrier terms included
    slope: Array  # (N, s, G, v + m), of −H
    adjoint: Array  # (N, s, G, v), the costates' part of the stage equations
    right: Array  # (N, s, G, v + m), right-hand side of the stages, without path terms
    back: Array  # (N, G, v), defects of the costates at the nodes
    gradient: Array  # (N, s, G, v + m), of φ, without path terms, the weights included
    pull: Array  # (N, s, G, e), curvature of the path terms
    aim: Array  # (N, s, G, e), multipliers they aim at
    optimality: Optimality | None = None  # if it has been measured together with the rest


@record
class Step:
    """A step of everything, and what the model says of it."""

    d: Direction
    path: Array  # (N, s, G, e), of the slacks
    y: Array
    end: Array  # (G, k)
    slope: Array  # (G,), derivative of φ
    bend: Array  # (G,), curvature
    length: Array  # (G,)
    reach: Array  # (G,), by how much its parts change the rates, also where they cancel

    @property
    def moves(self) -> tuple[Array, ...]:
        """Steps of what `Point.bounded` holds."""
        return self.d.u, self.path, self.end, self.d.nodes[0]

    def scaled(self, alpha: Array) -> Step:
        """What has bounds, with the steps of each group multiplied by α (G,)."""
        a = alpha[:, None]
        d = self.d._replace(u=a * self.d.u, nodes=a * self.d.nodes)
        return replace(self, d=d, path=a * self.path, end=a * self.end)

    def merged(self, other: Step, use: Array) -> Step:
        """Other groups' steps where `use` (G,)."""

        def pick(a: Array, b: Array) -> Array:
            return np.where(use[:, None], b, a)

        d = Direction(*(pick(a, b) for a, b in zip(self.d, other.d, strict=True)))
        return Step(
            d,
            pick(self.path, other.path),
            pick(self.y, other.y),
            pick(self.end, other.end),
            np.where(use, other.slope, self.slope),
            np.where(use, other.bend, self.bend),
            np.where(use, other.length, self.length),
            np.where(use, other.reach, self.reach),
        )


def every(groups: Array) -> bool:
    """Whether all groups are meant (G,): the list of a few is read sooner than an array is reduced."""
    return all(groups.tolist())


def total(values: Array) -> Array:
    """Sum over everything but the groups: (N, *, G, d) -> (G,)."""
    flat = values.reshape(-1, *values.shape[-2:])
    result: Array = flat.sum((0, 2))
    return result


def largest(values: Array) -> Array:
    """Largest size over everything but the groups: (N, *, G, d) -> (G,)."""
    flat = np.abs(values).reshape(-1, *values.shape[-2:])
    result: Array = flat.max((0, 2), initial=0.0)
    return result
