"""One collocation problem from a start to its end on one mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ocsolver.collocation.barrier import Barrier
from ocsolver.collocation.interior import Limits, Mesh, Model, Point, Walk
from ocsolver.collocation.points import Stacked

Array = np.ndarray[Any, np.dtype[Any]]

KAPPA = 10.0  # a barrier problem counts as solved when its error is below so many μ
FASTER, POWER = 0.2, 1.5  # decrease of μ


def barrier_between(lower: Array, upper: Array, shape: tuple[int, ...]) -> Barrier:
    """Barrier of components whose bounds differ; equal bounds are equations."""
    fixed = lower == upper
    return Barrier.start(np.where(fixed, -np.inf, lower), np.where(fixed, np.inf, upper), shape)


def first_point(stacked: Stacked, limits: Limits, mesh: Mesh, x: Array, nodes: Array, u: Array, mu: Array) -> Point:
    """A start from states (N, s, G, v), (N + 1, G, v) and controls (N, s, G, m); costates zero."""
    controls = barrier_between(limits.control_lower, limits.control_upper, u.shape)
    u = controls.inside(u)
    starts = barrier_between(limits.start_lower, limits.start_upper, nodes[0].shape)
    nodes = nodes.copy()
    nodes[0] = np.where(limits.start_fixed, limits.start_lower, starts.inside(nodes[0]))
    c = stacked.values(mesh.points, x, u).c
    paths = barrier_between(limits.path_lower, limits.path_upper, c.shape)
    slack = np.where(limits.path_fixed, limits.path_lower, paths.inside(c))
    _, end = stacked.end_values(nodes[-1])
    ends = barrier_between(limits.end_lower, limits.end_upper, end.shape)
    end_slack = np.where(limits.end_fixed, limits.end_lower, ends.inside(end))
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


@dataclass
class Report:
    iterations: int
    status: str
    log: list


def solve_on_mesh(walk: Walk, point: Point, mu: Array, mu_end: Array, tol: float, max_iter: int = 200, verbose=False):
    """Returns point, mu, converged (G,), iterations."""
    G = walk.stacked.groups
    unit = walk.size / walk.duration
    converged = np.zeros(G, bool)
    failed = np.zeros(G, bool)
    fails = np.zeros(G, int)
    model = walk.linearize(point, mu)
    walk.reset(model.now)
    it = 0
    while it < max_iter:
        dual, primal, comp = walk.errors(point, mu, model)
        error = np.maximum(np.maximum(dual, primal), comp)
        _, _, comp0 = walk.errors(point, 0 * mu, model)
        converged = (mu <= mu_end * 1.0001) & (np.maximum(dual, primal) <= tol) & (comp <= KAPPA * mu / unit)
        viol = np.maximum(np.abs(model.now.path).max((0, 1, 3), initial=0.0), np.abs(model.now.terminal).max(-1, initial=0.0))
        raise_ = (~failed) & (error <= KAPPA * mu / unit) & (viol > 1e-7 + 10 * mu / unit) & (walk.rho_end[:, 0] < 1e6 * walk.size)
        if raise_.any():
            walk.rho_end = np.where(raise_[:, None], 10 * walk.rho_end, walk.rho_end)
            walk.rho_path = np.where(raise_[:, None], 10 * walk.rho_path, walk.rho_path)
            model = walk.remodel(point, mu, model)
            walk.reset(model.now)
            if verbose: print("raise rho", walk.rho_end, viol)
            dual, primal, comp = walk.errors(point, mu, model)
            error = np.maximum(np.maximum(dual, primal), comp)
            converged = converged & ~raise_
        if verbose:
            print(f"{it:3d} J {walk.cost(model.now.values, model.now.end)} mu {mu} dual {dual} primal {primal} comp {comp} delta {walk.delta} {walk.last_delta} info {getattr(walk,'info',None)}")
        active = ~(converged | failed)
        if not active.any():
            break
        # barrier update
        for _ in range(4):
            solved = active & (error <= KAPPA * mu / unit) & (mu > mu_end)
            if not solved.any():
                break
            hat = mu / unit
            new = np.maximum(mu_end, unit * np.minimum(FASTER * hat, hat**POWER))
            mu = np.where(solved, new, mu)
            dual, primal, comp = walk.errors(point, mu, model)
            error = np.maximum(np.maximum(dual, primal), comp)
            model = walk.remodel(point, mu, model)
            walk.reset(model.now)
        point_new, moved = walk.step(point, mu, model, active)
        stuck = active & ~moved
        fails = np.where(stuck, fails + 1, 0)
        if stuck.any():
            walk.last_delta = np.where(stuck, np.maximum(1e-4, 10 * walk.last_delta), walk.last_delta)
            walk.delta = np.where(stuck, walk.last_delta, walk.delta)
            failed |= fails > 12
        else:
            walk.delta = np.zeros(G)
        point = point_new
        model = walk.linearize(point, mu)
        it += 1
    return point, mu, converged, it, model


def warm_point(walk: Walk, old: Point, parts, mu: Array) -> Point:
    """A start from a solution of another mesh, on the central path of μ as nearly as its costates tell."""
    x, u, p, y, nodes, costates = parts
    stacked, limits, mesh = walk.stacked, walk.limits, walk.mesh
    v = stacked.v
    values = stacked.expand(mesh.points, x, u, p, y)
    weights = np.concatenate((-p, np.ones((*p.shape[:-1], 1)), y), -1)
    r = np.einsum("...c,...ci->...i", weights, values.jacobian)[..., v:]  # −∂H/∂u
    controls = barrier_between(limits.control_lower, limits.control_upper, u.shape)
    m = mu[:, None]
    width = limits.control_upper - limits.control_lower
    unit = np.where(np.isfinite(width), width, walk.scale_u)
    low = m / (np.maximum(r, 0.0) + 4.0 * m / unit)
    high = m / (np.maximum(-r, 0.0) + 4.0 * m / unit)
    u = np.clip(u, limits.control_lower + low, limits.control_upper - high)
    paths = barrier_between(limits.path_lower, limits.path_upper, values.c.shape)
    y = np.clip(y, -0.9 * walk.rho_path, 0.9 * walk.rho_path)
    below = m / (np.maximum(-y, 0.0) + m)
    above = m / (np.maximum(y, 0.0) + m)
    slack = np.clip(values.c, paths.lower + below, np.maximum(paths.upper - above, paths.lower + below))
    slack = np.where(limits.path_fixed, limits.path_lower, slack)
    controls, paths = controls.centered(u, m), paths.centered(slack, m)
    mu_end = (mu * walk.duration)[:, None]
    nodes[0] = np.where(limits.start_fixed, limits.start_lower, old.nodes[0])
    ends = barrier_between(limits.end_lower, limits.end_upper, old.nu.shape)
    starts = barrier_between(limits.start_lower, limits.start_upper, nodes[0].shape)
    end_slack = np.where(limits.end_fixed, limits.end_lower, ends.inside(old.end_slack, 1e-12))
    return Point(x=x, u=u, p=p, nodes=nodes, costates=costates, slack=slack, y=y, end_slack=end_slack, nu=old.nu,
        controls=controls, paths=paths, ends=ends.centered(end_slack, mu_end), starts=starts.centered(nodes[0], mu_end))
