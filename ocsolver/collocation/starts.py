"""The first solution of a campaign: from one trivial guess after the other, or from a solution of a similar problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ocsolver.collocation.camp import Camp
from ocsolver.collocation.compiled import fastest_system
from ocsolver.collocation.guess import Tries, constraint_scales, first_point, guesses, scales
from ocsolver.collocation.saddles import beyond_saddle
from ocsolver.collocation.settle import settled
from ocsolver.collocation.switches import Switch
from ocsolver.collocation.system import System
from ocsolver.collocation.unknowns import Mesh, every
from ocsolver.collocation.warm import warm_point

__all__ = ["First", "Start", "dear_enough", "first_solution"]

Array = np.ndarray[Any, np.dtype[Any]]

WARM_BARRIERS = 1e-5, 1e-2  # of starts from a solution of a similar problem
NEARBY = 3e-4  # the first of them, at most, relative to the square of the change of the initial state
JUMPING = 1e-4  # the same relative to that change where controls jump, whose times have to move
HASTE = 30  # iterations from there in which the last μ may be reached at once
SAFE = 10.0  # prices of violations are at least so many times the multipliers known from elsewhere
SHIFTS = (0.0, -0.5, 0.5)  # of controls, relative to their ranges, for which J and the rates are looked at
FIRST_BARRIER = 0.1  # μ, relative to the size of J
SADDLES, EASY = 3, 5  # saddle points that are left, and iterations of problems that are taken to have none
NOTHING = 1e-2  # costates, relative to the size of J, that do not pull
MET, SOUND = 2, 4  # ranks of first solutions: their constraints are met; they are solved, too, and not too rough
FOLLOWED = 1e-4  # defects of the dynamics, scaled, of a trajectory that is one
ROUGH = 0.1  # error of J on the first mesh, relative to its size, above which another guess is tried
PRICE = 1e2  # of a violation at the end or at one point at first, relative to the size of J
WAY_PRICE = 10.0  # of a violation all the way, on the first mesh: dear ones cut steps along curved constraints


class Start(NamedTuple):
    """Values of everything at the nodes and Gauss points of a mesh."""

    x: Array  # (N, s, G, v)
    u: Array  # (N, s, G, m)
    p: Array  # (N, s, G, v)
    nodes: Array  # (N + 1, G, v)
    costates: Array  # (N + 1, G, v)
    y: Array | None = None  # (N, s, G, e), multipliers of path constraints
    nu: Array | None = None  # (G, k), of terminal constraints
    system: System | None = None  # of the same problem from other initial states, on the mesh of the start
    singular: bool = False  # whether singular arcs have been seen, which nothing but the barrier keeps calm
    base: Array | None = None  # nodes without those that enclose jumps of the control, of a single group
    jumps: Sequence[Switch] = ()  # which it encloses


class First(NamedTuple):
    """What has become of the first mesh."""

    solved: Array  # which groups are solved (G,)
    hat: float  # μ at which it was left, relative to the size of J per time
    started: bool = True  # whether the guesses led to solutions


def first_solution(camp: Camp, mesh: Mesh, control: Array | None, warm: Start | None, tries: Tries) -> First:
    """Solve on the first mesh.

    Parameters
    ----------
    camp : Camp
        Is set up on the mesh.
    mesh : Mesh
        The first mesh.
    control : Array or None
        Control to start from (N, G, m).
    warm : Start or None
        A solution of a similar problem, from which to start instead.
    tries : Tries
        Which guesses are tried.
    """
    first = _guessed(camp, mesh, control, tries) if warm is None else _warmed(camp, mesh, warm)
    nearby = warm is not None and warm.system is not None and every(first.solved) and first.hat <= camp.final
    if not nearby:  # else its start, which had been looked at, was a solution of the same problem
        _leave_saddles(camp, first)
    return first


def _warmed(camp: Camp, mesh: Mesh, warm: Start) -> First:
    """From a solution of a similar problem: in a few iterations to the last μ, or as from a guess.

    Where that leads nowhere, it starts once more from further inside the bounds.
    """
    solved, before = np.zeros(camp.stacked.groups, dtype=bool), None
    for barrier in _barriers(camp, warm) if camp.has_barrier else (camp.final,):
        _start_warm(camp, mesh, warm, barrier)
        if len(solved) == 1 and barrier < camp.first:
            solved = camp.solve(camp.final, ~solved, most=HASTE)
            if every(solved) or not camp.time_left():
                return First(solved, camp.final)
            if not camp.unfinished.any():
                continue
        now = camp.solve(camp.first, ~solved, most=None if len(solved) == 1 else HASTE)
        if before is not None:
            camp.keep(before, solved)
        solved = solved | now
        if every(solved):
            break
        few = 2 * solved.sum() < len(solved)
        if few or not camp.time_left():
            return First(solved & ~few, camp.first)  # a few are not worth the meshes to come
        before = camp.state if solved.any() else None
    return First(solved, camp.first)


def _guessed(camp: Camp, mesh: Mesh, control: Array | None, tries: Tries) -> First:
    """From one guess after the other, until all groups are solved; without the others the first one has to be sound."""
    G, hat = camp.stacked.groups, camp.first
    solved, rank = np.zeros(G, dtype=bool), np.full(G, -1)
    for guess in guesses(tries, clocked=camp.clocked, ends=camp.limits.end_lower.size > 0):
        camp.careful = guess.careful
        parts = guess.trajectory(camp.stacked, camp.limits, mesh, control, guess.longer)
        for _ in range(2):
            before = camp.state if rank.max() >= 0 else None
            _start(camp, mesh, *parts)
            now = _settle(camp, camp.solve(hat, rank < SOUND))
            reached = _rank(camp, now)
            better = reached > rank
            if before is not None:
                camp.keep(before, ~better)
            solved, rank = np.where(better, now, solved), np.maximum(rank, reached)
            if (rank == SOUND).all() or not camp.time_left():
                return First(solved, hat)
            if not (better & (rank == MET)).any():
                break
            # It meets the constraints and no more: once again from there, with room around it.
            parts = camp.point.x, camp.point.nodes, camp.point.u
    good: Array = (rank == SOUND) | (tries is not Tries.FIRST)
    return First(solved & good, hat, bool(good.all()))


def _rank(camp: Camp, solved: Array) -> Array:
    """How good the current solution of each group is as a start (G,): infeasible, …, `MET`, …, `SOUND`.

    It is sound where the errors of the mesh are small enough for the solution to mean anything.
    """
    exact = camp.errors().total <= ROUGH * np.maximum(camp.scale(), camp.system.size)
    met = camp.admissible & (solved | (camp.model.now.feasibility <= FOLLOWED))
    return np.asarray(MET * met + solved + (met & solved & exact))


# ---------------------------------------------------------------------------------------------------- first points


def _begin(camp: Camp, mesh: Mesh, x: Array, nodes: Array, u: Array, shifts: tuple[float, ...] = SHIFTS) -> None:
    """The equations on the first mesh, with scales and prices from a trajectory."""
    stacked, limits = camp.stacked, camp.limits
    scale_x, scale_u, size = scales(stacked, limits, mesh, x, nodes, u, shifts)
    paths, ends = constraint_scales(stacked, limits, mesh, x, nodes, u, (scale_x, scale_u))
    way = WAY_PRICE * (size / mesh.h.sum(0))[:, None] / paths
    prices = way + np.zeros((*mesh.points.shape, 1)), PRICE * size[:, None] / ends
    camp.system = fastest_system()(stacked, limits, mesh, scale_x, scale_u, size, *prices)


def _start(camp: Camp, mesh: Mesh, x: Array, nodes: Array, u: Array) -> None:
    _begin(camp, mesh, x, nodes, u)
    camp.mu = FIRST_BARRIER * camp.system.size / camp.system.duration
    camp.point = first_point(camp.stacked, camp.limits, mesh, x, nodes, u, camp.mu)


def _barriers(camp: Camp, warm: Start) -> tuple[float, float]:
    """Barriers to start with, relative to the size of J: the first one is lower where a single start is near."""
    first, last = WARM_BARRIERS
    limits = camp.limits
    if len(limits.start_lower) == 1 and warm.system is not None and not warm.singular:
        own = np.maximum(np.minimum(warm.nodes[0], limits.start_upper), limits.start_lower)
        change = float((np.abs(own - warm.nodes[0]) / warm.system.scale_x).max())
        first = min(first, max(JUMPING * change if warm.jumps else NEARBY * change**2, camp.final))
    return first, last


def _start_warm(camp: Camp, mesh: Mesh, warm: Start, barrier: float) -> None:
    """Start where a similar problem ended: its multipliers are known, so the barrier may be low at once."""
    y, nu = warm.y, warm.nu
    if warm.system is None or y is None or nu is None:
        _begin(camp, mesh, warm.x, warm.nodes, warm.u, (0.0,))
        y = _usable(y, (*mesh.points.shape, camp.limits.path_lower.size))
        nu = _usable(nu, (camp.stacked.groups, camp.limits.end_lower.size))
        camp.system = dear_enough(camp.system, mesh, y, nu)
    else:
        camp.system = warm.system.again(camp.stacked, camp.limits)
    camp.mu = barrier * camp.system.unit
    parts = (warm.x, warm.u, warm.p, y, warm.nodes, warm.costates)
    camp.point = warm_point(camp.system, parts, (None, nu), camp.mu)


def dear_enough(system: System, mesh: Mesh, y: Array, nu: Array | None = None) -> System:
    """The equations on a mesh where multipliers of the path (N, s, G, e), and perhaps of the end (G, k), are known."""
    rho_path = np.maximum(system.rho_path.max((0, 1)), SAFE * np.abs(y))
    rho_end = system.rho_end if nu is None else np.maximum(system.rho_end, SAFE * np.abs(nu))
    return replace(system, mesh=mesh, rho_path=rho_path, rho_end=rho_end)


def _usable(multipliers: Array | None, shape: tuple[int, ...]) -> Array:
    """Multipliers of a similar problem; zeros where it has other constraints or did not find them."""
    if multipliers is None or multipliers.shape != shape or not np.isfinite(multipliers).all():
        return np.zeros(shape)
    return multipliers


# ------------------------------------------------------------------------------------------- solutions that are none


def _settle(camp: Camp, solved: Array) -> Array:
    """Solve again from better controls, where solutions without bounds rest at others: which groups are solved."""
    unbounded = np.isinf(camp.errors().total) & np.isfinite(camp.cost) & solved
    u = settled(camp.stacked, camp.limits, camp.mesh, camp.point) if unbounded.any() else None
    if u is None:
        return solved
    before, point = camp.state, camp.point
    parts = (point.x, u, point.p, point.y, point.nodes, point.costates)
    camp.point = warm_point(camp.system, parts, (point.end_slack, point.nu), camp.mu)
    camp.model = camp.system.linearize(camp.point, camp.mu)
    again = camp.solve(camp.first, unbounded)
    camp.keep(before, ~again)
    return solved | again


def _leave_saddles(camp: Camp, first: First) -> None:
    """Go on to lower solutions from saddle points, if a single group may have ended there."""
    easy = camp.counts["iterations"] <= EASY and not _rests(camp)
    if camp.stacked.groups > 1 or not first.solved.all() or easy:
        return
    for _ in range(SADDLES):
        if not camp.time_left():
            break
        before = camp.state
        camp.point, at_saddle = beyond_saddle(camp.system, camp.point, camp.mu, camp.model)
        if not at_saddle.any():
            break
        phi = camp.model.now.barrier
        camp.model = camp.system.linearize(camp.point, camp.mu)
        lower = camp.solve(first.hat, at_saddle, exact=True) & (camp.model.now.barrier < phi)
        if not lower.all():
            camp.state = before
            break


def _rests(camp: Camp) -> bool:
    """Whether costates vanish: nothing pulls at the start, which may be a saddle point."""
    system = camp.system
    return bool((np.abs(camp.point.costates) * system.scale_x <= NOTHING * system.size[:, None]).all())
