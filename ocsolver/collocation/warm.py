"""Where the iterations start if a solution of another mesh, or of a similar problem, is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from ocsolver.collocation.barrier import PUSH, Barrier
from ocsolver.collocation.compiled import called, compiled
from ocsolver.collocation.guess import barrier_between, ends_inside
from ocsolver.collocation.points import preference, weighted
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Point

__all__ = ["warm_point"]

Array = np.ndarray[Any, np.dtype[Any]]

NEARER = 1e-12  # by which slacks of the end are at least off their bounds, relative to the range or size of these


def warm_point(system: System, parts: tuple[Array, ...], ends: tuple[Array | None, Array], mu: Array) -> Point:
    """A start from a solution of another mesh, on the central path of μ as nearly as its costates tell.

    `parts` are x, u, p, y, nodes and costates, `ends` slacks and multipliers of the terminal constraints (G, k). Where
    there are no slacks, the solution is that of another problem, and its ends may be anywhere.
    """
    point = None if compiled is None else _in_c(system, parts, ends, mu)
    return _in_numpy(system, parts, ends, mu) if point is None else point


def _in_numpy(system: System, parts: tuple[Array, ...], ends: tuple[Array | None, Array], mu: Array) -> Point:
    x, u, p, y, nodes, costates = parts
    end_slack, nu = ends
    stacked, limits, mesh = system.stacked, system.limits, system.mesh
    values = stacked.expand(mesh.points, x, u, p, y)
    assert values.jacobian is not None
    assert values.hessian is not None
    r = weighted(values.jacobian, p, y)[..., stacked.v :]  # −∂H/∂u
    controls = barrier_between(limits.control_lower, limits.control_upper, u.shape)
    m = mu[:, None]
    width = limits.control_upper - limits.control_lower
    unit = np.where(np.isfinite(width) & (width > 0), width, system.scale_u)
    low = m / (np.maximum(r, 0.0) + 4.0 * m / unit)
    high = m / (np.maximum(-r, 0.0) + 4.0 * m / unit)
    # what Newton's method would carry beyond a bound belongs to the central path of that bound
    raw = np.einsum("...ii->...i", values.hessian)[..., stacked.v :]
    bend = np.maximum(raw, 0.0)
    down, up = (r > 0) & (r >= bend * (u - controls.lower)), (r < 0) & (-r >= bend * (controls.upper - u))
    convex = (raw < -1e-9 * np.abs(raw).max()) & np.isfinite(width)
    if convex.any():  # both bounds are local maxima of H
        better = preference(stacked, (limits.control_lower, limits.control_upper), mesh.points, x, u, p, y)
        down, up = np.where(convex, better < 0, down), np.where(convex, better > 0, up)
    u = np.where(down, controls.lower + low, np.where(up, controls.upper - high, u))
    u = np.clip(u, controls.lower + low, controls.upper - high)
    u = np.where(limits.control_fixed, limits.control_lower, u)
    paths = barrier_between(limits.path_lower, limits.path_upper, values.c.shape)
    y = np.clip(y, -0.9 * system.rho_path, 0.9 * system.rho_path)
    room = limits.path_upper - limits.path_lower
    reach = (
        np.where(np.isfinite(room) & (room > 0), np.minimum(0.25 * room, 1.0), 1.0) * np.sqrt(mu / system.unit)[:, None]
    )
    below, above = m / (np.maximum(-y, 0.0) + m / reach), m / (np.maximum(y, 0.0) + m / reach)
    slack = np.clip(values.c, paths.lower + below, np.maximum(paths.upper - above, paths.lower + below))
    slack = np.where(limits.path_fixed, limits.path_lower, slack)
    mu_end = (mu * system.duration)[:, None]
    starts = barrier_between(limits.start_lower, limits.start_upper, nodes[0].shape)
    at_end = barrier_between(limits.end_lower, limits.end_upper, nu.shape)
    if end_slack is None:
        nodes, end_slack = ends_inside(stacked, limits, nodes)
    else:
        nodes = nodes.copy()
        nodes[0] = np.where(limits.start_fixed, limits.start_lower, nodes[0])
        end_slack = np.where(limits.end_fixed, limits.end_lower, at_end.inside(end_slack, NEARER))
    return Point(
        x=x,
        u=u,
        p=p,
        nodes=nodes,
        costates=costates,
        slack=slack,
        y=y,
        end_slack=end_slack,
        nu=np.clip(nu, -0.99 * system.rho_end, 0.99 * system.rho_end),
        controls=controls.centered(u, m),
        paths=paths.centered(slack, m),
        ends=at_end.centered(end_slack, mu_end),
        starts=starts.centered(nodes[0], mu_end),
    )


def _in_c(system: System, parts: tuple[Array, ...], ends: tuple[Array | None, Array], mu: Array) -> Point | None:
    """The same; None where H is convex in a control between bounds, or functions are not recorded."""
    tape, end_tape = system.stacked.tape, system.stacked.end_tape
    if tape is None or end_tape is None:
        return None
    x, u, p, y, nodes, costates = parts
    slack, nu = ends
    lim, nodes, push = system.limits, nodes.copy(), 0.0 if slack is not None else PUSH
    if slack is None:
        slack = np.empty(nu.shape)  # where the terminal constraints are put
    shapes = (u.shape, y.shape, nu.shape, nodes[0].shape)
    barriers = [np.empty((2, 2, *shape)) for shape in shapes]  # bounds and multipliers
    own = np.empty(u.shape), np.empty(y.shape), np.empty(y.shape), np.empty(nu.shape), np.empty(nu.shape)
    sizes = system.scale_u, system.size, system.duration, system.rho_path, system.rho_end
    inside = lim.control_lower, lim.control_upper, lim.path_lower, lim.path_upper
    sides = *inside, lim.end_lower, lim.end_upper, lim.start_lower, lim.start_upper
    start, way, pushes = nodes[0], (system.mesh.points, x, nodes[-1]), np.array([push, push or NEARER])
    programs = tape.derivatives.parts, end_tape.values.parts
    results = (*own, start, *barriers)
    if not called(compiled.warm, sizes, sides, way, (u, p, y, slack, nu), (mu, pushes), results, programs):
        return None
    held = [Barrier(both[0], both[1], *missing) for both, missing in zip(barriers, lim.open, strict=True)]
    u, slack, y, end_slack, nu = own
    return Point(x, u, p, nodes, costates, slack, y, end_slack, nu, *held)
