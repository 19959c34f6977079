"""Where the iterations start if nothing is known: trivial guesses."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.unknowns import Bounds, Mesh, Point

__all__ = [
    "Guess",
    "Tries",
    "barrier_between",
    "constraint_scales",
    "ends_inside",
    "first_point",
    "guesses",
    "scales",
    "straight",
]

Array = np.ndarray[Any, np.dtype[Any]]

LINEARIZATIONS = 10  # of terminal constraints
FAR = 1e3  # a simulation that goes so far from the start is no guess
CANDIDATES, VERGE = 100, 0.01  # constant controls, and relative distance to constraints below which others are tried
STILL, LARGE = 1e-6, 10.0  # states relative to how far they may move, and steps that change scales
DEPENDENT = 1e-6  # singular values, relative to the largest, that are none
LONGER = 3.0, 10.0, 30.0  # factors of the guessed duration that are tried where a shorter one does not reach the end


class Guess(NamedTuple):
    """A trivial start: how to get states (N, s, G, v), nodes (N + 1, G, v) and a control (N, s, G, m)."""

    trajectory: Callable[[Stacked, Bounds, Mesh, Array | None, float], tuple[Array, Array, Array]]
    careful: bool = False  # how far steps may leave the linearization
    longer: float = 1.0  # factor of the guessed duration, where it is free


class Tries(Enum):
    """Which guesses a run has."""

    ALL = slice(None)
    FIRST = slice(1)
    OTHERS = slice(1, None)


def guesses(tries: Tries, *, clocked: bool, ends: bool) -> list[Guess]:
    """What is tried, one after the other; a free duration is the last state, `ends` are constrained.

    From too short a duration, the least violation nearby is often that of a trajectory which hardly starts.
    """
    longer = [Guess(simulated, longer=factor) for factor in LONGER] if clocked else []
    line = [Guess(partial(straight, clocked=clocked))] if ends else []
    return [Guess(simulated), *line, *longer, Guess(simulated, careful=True), Guess(at_rest)][tries.value]


def barrier_between(lower: Array, upper: Array, shape: tuple[int, ...]) -> Barrier:
    """Barrier of components whose bounds differ; equal bounds are equations."""
    fixed = lower == upper
    return Barrier.start(np.where(fixed, -np.inf, lower), np.where(fixed, np.inf, upper), shape)


def _control(stacked: Stacked, limits: Bounds, mesh: Mesh, control: Array | None) -> Array:
    """Control (N, s, G, m): the one given, or one amid its bounds and the path constraints at the start."""
    N, s, G = mesh.points.shape
    if control is not None:
        return np.repeat(control[:, None], s, 1)
    lower, upper = limits.control_lower, limits.control_upper
    both = np.isfinite(lower) & np.isfinite(upper)
    middle = np.where(both, 0.5 * (np.where(both, lower, 0.0) + np.where(both, upper, 0.0)), np.clip(0.0, lower, upper))
    middle = np.broadcast_to(middle, (G, lower.size))
    return np.array(np.broadcast_to(_amid(stacked, limits, mesh, middle), (N, s, G, lower.size)))


def _amid(stacked: Stacked, limits: Bounds, mesh: Mesh, middle: Array) -> Array:
    """A constant control (G, m) not on the verge of the path constraints that depend on it: the middle, if it is not.

    On their verge it is in a corner of the admissible set, and from there the iterations may lead to another solution
    than from its inside. Of some points between the bounds it is the one farthest from any of them, each distance
    relative to the values that the constraint takes there.
    """
    if not limits.path_lower.size:
        return middle
    lower, upper = (np.broadcast_to(side, middle.shape) for side in (limits.control_lower, limits.control_upper))
    low, high = np.where(np.isfinite(lower), lower, middle - 1.0), np.where(np.isfinite(upper), upper, middle + 1.0)
    shares = np.random.default_rng(0).random((CANDIDATES, 1, *middle.shape))
    u = np.concatenate((middle[None, None], low + (high - low) * shares))  # (M, 1, G, m)
    x = np.broadcast_to(_start(stacked, limits, 1.0), (len(u), 1, len(middle), stacked.v))
    t = np.broadcast_to(mesh.t[0], u.shape[:-1])
    c = stacked.values(t, x, u).c  # (M, 1, G, e)
    spread = np.ptp(c, 0)
    c, spread = c[..., mixed := (spread > 0).any((0, 1))], spread[..., mixed]
    if not mixed.any() or not np.isfinite(c).all():
        return middle
    distance = np.minimum(c - limits.path_lower[mixed], limits.path_upper[mixed] - c) / np.maximum(spread, 1e-300)
    room = np.where(high > low, np.minimum(u - lower, upper - u), np.inf) / np.where(high > low, high - low, 1.0)
    verge = distance[0, 0].min(-1) < VERGE  # (G,)
    best = np.where(verge, np.concatenate((distance, room), -1).min(-1)[:, 0].argmax(0), 0)
    return np.asarray(u[best, 0, np.arange(len(middle))])


def _start(stacked: Stacked, limits: Bounds, longer: float) -> Array:
    """Initial state (G, v): the one given, inside its bounds; the last one is a duration if `longer` is not 1."""
    x0 = stacked.problem.initial_state.detach().cpu().double().numpy()
    start = np.array(np.where(limits.start_fixed, limits.start_lower, x0.reshape(stacked.groups, stacked.v)))
    if longer != 1.0:
        start[:, -1] = np.clip(longer * start[:, -1], limits.start_lower[..., -1], limits.start_upper[..., -1])
    return start


def at_rest(
    stacked: Stacked, limits: Bounds, mesh: Mesh, control: Array | None, longer: float
) -> tuple[Array, Array, Array]:
    """The initial state everywhere: states (N, s, G, v), nodes (N + 1, G, v), control (N, s, G, m)."""
    N, s, G = mesh.points.shape
    start = _start(stacked, limits, longer)
    x = np.broadcast_to(start, (N, s, *start.shape)).copy()
    return x, np.broadcast_to(start, (N + 1, *start.shape)).copy(), _control(stacked, limits, mesh, control)


def straight(
    stacked: Stacked, limits: Bounds, mesh: Mesh, control: Array | None, longer: float, *, clocked: bool
) -> tuple[Array, Array, Array]:
    """A line to the nearest state that meets the terminal constraints, as by `at_rest`; a duration stays what it is."""
    x, nodes, u = at_rest(stacked, limits, mesh, control, longer)
    start, end = nodes[0], nodes[0].copy()
    for _ in range(LINEARIZATIONS):
        values = stacked.end(end, np.zeros((len(end), limits.end_lower.shape[-1])))
        excess = values.c - np.clip(values.c, limits.end_lower, limits.end_upper)
        if not np.isfinite(excess).all() or not np.isfinite(values.jacobian).all():
            return x, nodes, u
        end -= np.einsum("gve,ge->gv", np.linalg.pinv(values.jacobian), excess)
        if clocked:
            end[:, -1] = start[:, -1]
    way = end - start
    length = mesh.t[-1] - mesh.t[0]
    at_points, at_nodes = ((t - mesh.t[0]) / length for t in (mesh.points, mesh.t))
    return start + at_points[..., None] * way, start + at_nodes[..., None] * way, u


def simulated(
    stacked: Stacked, limits: Bounds, mesh: Mesh, control: Array | None, longer: float
) -> tuple[Array, Array, Array]:
    """States simulated by RK4 steps; groups that leave the neighborhood stay at rest."""
    x, nodes, u = at_rest(stacked, limits, mesh, control, longer)
    sigma = mesh.tableau.c[:, None, None]
    trajectory, slopes = stacked.simulated(mesh.t, nodes[0], u.mean(1))
    far = FAR * (1.0 + np.abs(nodes[0]).max(-1)[:, None])
    good = (np.isfinite(trajectory) & (np.abs(trajectory) <= far)).all((0, 2))[:, None]
    # the parabola through both nodes with this slope at the first
    left, change = (slopes * mesh.h[..., None])[:, None], np.diff(trajectory, axis=0)[:, None]
    inner = trajectory[:-1, None] + sigma * left + sigma**2 * (change - left)
    return np.where(good, inner, x), np.where(good, trajectory, nodes), u


def scales(
    stacked: Stacked,
    limits: Bounds,
    mesh: Mesh,
    x: Array,
    nodes: Array,
    u: Array,
    shifts: tuple[float, ...],
) -> tuple[Array, Array, Array]:
    """Scales of states (G, v) and controls (m,), and the size of J (G,), also for controls that are `shifts` away.

    States are as large as on the way of the guess, or as a step that meets the terminal constraints; those that rest
    at zero may move as fast as the controls allow.
    """
    width = limits.control_upper - limits.control_lower
    control = np.where(np.isfinite(width) & (width > 0), width, 1.0)
    reach, size = np.zeros_like(nodes[0]), np.abs(stacked.end_values(nodes[-1])[0])
    for shift in shifts:
        other = np.clip(
            u + shift * np.where(np.isfinite(width), width, 2.0), limits.control_lower, limits.control_upper
        )
        values = stacked.values(mesh.points, x, other)
        running = (mesh.weights * np.abs(values.running)).sum((0, 1))
        size = np.fmax(size, np.where(np.isfinite(running), running, 0.0))
        reach = np.fmax(reach, (mesh.weights[..., None] * np.abs(values.f)).sum((0, 1)))
    state = np.maximum(np.abs(nodes).max(0), np.abs(x).max((0, 1)))
    far = np.maximum(np.abs(_to_the_end(stacked, limits, nodes[-1])), np.where(state <= STILL * reach, reach, 0.0))
    state = np.maximum(np.maximum(state, np.where(np.isfinite(far) & (far > LARGE), far, 0.0)), 1.0)
    return state, control, np.where(size > 1e-3, size, 1.0)


def _to_the_end(stacked: Stacked, limits: Bounds, x: Array) -> Array:
    """The shortest step from final states (G, v) that meets the linearized terminal constraints."""
    if not limits.end_lower.size:
        return np.zeros_like(x)
    end = stacked.end(x, np.zeros((len(x), len(limits.end_lower))))
    missing = np.clip(end.c, limits.end_lower, limits.end_upper) - end.c
    if not (np.isfinite(missing).all() and np.isfinite(end.jacobian).all()):
        return np.zeros_like(x)
    result: Array = (np.linalg.pinv(end.jacobian, rcond=DEPENDENT) @ missing[..., None])[..., 0]
    return result


def constraint_scales(
    stacked: Stacked, limits: Bounds, mesh: Mesh, x: Array, nodes: Array, u: Array, scales: tuple[Array, Array]
) -> tuple[Array, Array]:
    """By how much path (G, e) and terminal constraints (G, k) change with the scales of x and u; 1 if that is less."""
    G, v = scales[0].shape
    paths, ends = np.ones((G, len(limits.path_lower))), np.ones((G, len(limits.end_lower)))
    if paths.size:
        none = np.zeros((*x.shape[:2], *paths.shape))
        jacobian = stacked.expand(mesh.points, x, u, np.zeros_like(x), none).jacobian
        assert jacobian is not None
        both = np.concatenate((scales[0], np.broadcast_to(scales[1], (G, u.shape[-1]))), -1)[:, None]
        paths = (np.abs(jacobian[..., v + 1 :, :]) * both).max((0, 1, -1))
    if ends.size:
        ends = (np.abs(stacked.end(nodes[-1], np.zeros_like(ends)).jacobian) * scales[0][:, None]).max(-1)
    paths, ends = (np.where(np.isfinite(scale), np.maximum(scale, 1.0), 1.0) for scale in (paths, ends))
    return paths, ends


def first_point(stacked: Stacked, limits: Bounds, mesh: Mesh, x: Array, nodes: Array, u: Array, mu: Array) -> Point:
    """A start from states (N, s, G, v), (N + 1, G, v) and controls (N, s, G, m); costates zero."""
    controls = barrier_between(limits.control_lower, limits.control_upper, u.shape)
    u = np.where(limits.control_fixed, limits.control_lower, controls.inside(u))
    nodes, end_slack = ends_inside(stacked, limits, nodes)
    starts = barrier_between(limits.start_lower, limits.start_upper, nodes[0].shape)
    ends = barrier_between(limits.end_lower, limits.end_upper, end_slack.shape)
    c = stacked.values(mesh.points, x, u).c
    paths = barrier_between(limits.path_lower, limits.path_upper, c.shape)
    slack = np.where(limits.path_fixed, limits.path_lower, paths.inside(c))
    m, mu_end = mu[:, None], (mu * (mesh.t[-1] - mesh.t[0]))[:, None]
    return Point(
        x=x,
        u=u,
        p=np.zeros_like(x),
        nodes=nodes,
        costates=np.zeros_like(nodes),
        slack=slack,
        y=np.zeros_like(slack),
        end_slack=end_slack,
        nu=np.zeros_like(end_slack),
        controls=controls.centered(u, m),
        paths=paths.centered(slack, m),
        ends=ends.centered(end_slack, mu_end),
        starts=starts.centered(nodes[0], mu_end),
    )


def ends_inside(stacked: Stacked, limits: Bounds, nodes: Array) -> tuple[Array, Array]:
    """Nodes (N + 1, G, v), the first of them strictly inside its bounds, and such slacks of the last (G, k)."""
    starts = barrier_between(limits.start_lower, limits.start_upper, nodes[0].shape)
    nodes = nodes.copy()
    nodes[0] = np.where(limits.start_fixed, limits.start_lower, starts.inside(nodes[0]))
    _, end = stacked.end_values(nodes[-1])
    ends = barrier_between(limits.end_lower, limits.end_upper, end.shape)
    return nodes, np.where(limits.end_fixed, limits.end_lower, ends.inside(end))
