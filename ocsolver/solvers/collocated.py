"""Between problems and solutions of the library and the arrays of collocation; it knows no algorithm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver._record import record
from ocsolver._shapes import group_mean
from ocsolver.arcs import FURTHER, TOLERANCE, with_arcs
from ocsolver.collocation.absolutes import Absolutes
from ocsolver.collocation.camp import Camp
from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.fine import between
from ocsolver.collocation.points import Stacked, weighted
from ocsolver.collocation.starts import Start
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Bounds, Mesh
from ocsolver.collocation.verdict import beyond
from ocsolver.constraints import Constraint
from ocsolver.hamiltonian import hamiltonian
from ocsolver.integrators import RK4
from ocsolver.mesh import Mesh as TimeMesh
from ocsolver.outcome import History, Stats
from ocsolver.pieces import Pieces, locate, shifted
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.ended import Ended
from ocsolver.solvers.recalled import Memory, first_fractions
from ocsolver.transcription import Discretization
from ocsolver.violations import POINTS, measure_violations

__all__ = ["Warm", "iterate_of", "limits_of", "report", "warm_start"]

Array = np.ndarray[Any, np.dtype[Any]]

CURVED = 10.0  # change of H relative to the largest one of singular arcs
ACTIVE = 1e-3  # inequalities of a control set so near to zero hold with a multiplier
ROUNDING = 1e3  # difference of nodes that is none, in units of rounding


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().to(torch.float64).numpy()
    return array


def limits_of(stacked: Stacked) -> Bounds:
    """Bounds of a problem on unit time."""
    problem = stacked.problem
    sides = problem.control_set.bounds(problem.initial_state)
    assert sides is not None
    free = problem.free_initial_state
    start = (problem.initial_state, problem.initial_state) if free is None else (free.lower, free.upper)
    x, t = problem.initial_state, problem.initial_state.new_full((1,), problem.horizon[0])
    u = problem.control_set.project(x.new_zeros(problem.groups, problem.m))

    def bounds(constraint: Constraint | None, *arguments: Tensor) -> tuple[Array, Array]:
        if constraint is None:
            return np.zeros(0), np.zeros(0)
        with torch.no_grad():
            values = constraint.terminal(*arguments) if len(arguments) == 1 else constraint.path(*arguments)
        lower, upper = constraint.bounds(values)
        return np.tile(_array(lower), stacked.members), np.tile(_array(upper), stacked.members)

    path, end = bounds(problem.path_constraint, t, x, u), bounds(problem.terminal_constraint, x)
    low, high = (_array(side).reshape(stacked.groups, stacked.v) for side in start)
    return Bounds(_array(sides[0]), _array(sides[1]), *path, *end, low, high)


@record
class _View:
    """Arrays of a campaign as tensors of the original problem."""

    problem: OptimalControlProblem

    def tensor(self, values: Array) -> Tensor:
        """With dtype and device of the run."""
        own = torch.from_numpy(np.ascontiguousarray(values))
        return own if self._native else own.to(self.problem.initial_state)

    @cached_property
    def _native(self) -> bool:
        """Whether tensors of the problem are as those of arrays."""
        like = self.problem.initial_state
        return like.dtype is torch.float64 and like.is_cpu

    def states(self, values: Array) -> Tensor:
        """Stacked states (*b, G, v), the duration left out: (*b, B, n)."""
        return self.tensor(values.reshape(*values.shape[:-2], self.problem.trajectories, -1)[..., : self.problem.n])

    def costates(self, values: Array) -> Tensor:
        """Costates per trajectory: (*b, G, v) -> (*b, B, n)."""
        return self.states(values) if self._members(values) == 1 else self._members(values) * self.states(values)

    def multipliers(self, values: Array) -> Tensor:
        """Multipliers per trajectory: (*b, G, members · c) -> (*b, B, c)."""
        rows = self._members(values) * values
        return self.tensor(rows.reshape(*values.shape[:-2], self.problem.trajectories, -1))

    def _members(self, values: Array) -> int:
        """Trajectories of each group."""
        return int(self.problem.trajectories // values.shape[-2])

    def durations(self, nodes: Array) -> Array:
        """Factors from the time of the campaign to that of the problem (G,), from stacked states (N + 1, G, v)."""
        if self.problem.free_time is None:
            return np.ones(nodes.shape[1])
        result: Array = nodes[0].reshape(nodes.shape[1], self._members(nodes), -1)[:, 0, -1]
        return result

    def times(self, t: Array, nodes: Array) -> Tensor:
        """Nodes in the time of the problem (N + 1, G)."""
        if self.problem.free_time is None:
            return self.tensor(t)
        return self.tensor(self.problem.horizon[0] + self.durations(nodes) * t)


def iterate_of(problem: OptimalControlProblem, camp: Camp) -> SimpleNamespace:
    """What a callback sees of an iteration."""
    view, point = _View(problem), camp.point
    return SimpleNamespace(
        t=view.times(camp.mesh.t, point.nodes),
        u=view.tensor(np.einsum("s,nsgm->ngm", camp.mesh.tableau.b, camp.stacked.controls(point.u))),
        x=view.states(point.nodes),
        p=view.costates(point.costates),
        cost=view.tensor(camp.cost),
        residual=view.tensor(camp.residual),
    )


def report(
    problem: OptimalControlProblem, campaign: Campaign, alone: Mapping[int, Campaign], begin: float, solver: str
) -> Solution:
    """The Solution of a campaign that has ended, and of those of some groups `alone`."""
    view, ended = _View(problem), Ended.of(campaign)
    ended = ended.with_alone(alone) if alone else ended
    times, x = view.times(ended.t, ended.nodes), view.states(ended.nodes)
    multipliers, y = {}, None
    if problem.path_constraint is not None:
        y = view.multipliers(ended.y / view.durations(ended.nodes)[:, None])
        y = y[..., : y.shape[-1] - campaign.of_the_set]
        multipliers["path_constraint"] = torch.einsum("s,nsgc->ngc", view.tensor(gauss(campaign.stages).b), y)
    if problem.terminal_constraint is not None:
        multipliers["terminal_constraint"] = view.multipliers(ended.nu)
    boxed = campaign.stacked.guise is None and not campaign.of_the_set
    readable = campaign.stacked.tape is not None and boxed
    pieces = Pieces(view.tensor(campaign.stacked.controls(ended.u)), view.states(ended.x), view.costates(ended.p), y)
    course = campaign.history[0] if len(campaign.history) == 1 else np.concatenate(campaign.history)
    counts = {"iterations_alone": sum(own.counts["iterations"] for own in alone.values())} if alone else {}
    solution = Solution(
        residual=view.tensor(ended.residual),
        status=campaign.status,
        notes=campaign.notes,
        history=_history(view, course),
        stats=Stats(len(course) - 1, campaign.counts | counts, {"total": time.perf_counter() - begin}),
        solver=solver,
        t=times,
        x=x,
        p=view.costates(ended.costates),
        u=view.tensor(ended.means(campaign.limits)) if boxed else pieces.mean_control(problem),
        cost=view.tensor(ended.cost),
        problem=problem,
        discretization=Discretization(_first_mesh(ended.t), RK4(), None),
        shared_control=problem.shared_control,
        pieces=pieces,
        multipliers=multipliers,
        switches=[[] for _ in campaign.status],
        singular=[[] for _ in campaign.status],
        violations=_violations(view, campaign, ended) if readable else measure_violations(problem, times, x, pieces),
        memory=None if alone else Memory.of(problem, campaign),
    )
    slopes = partial(_slopes, view, campaign, ended) if readable and pieces.stages % 2 and not alone else None
    sides = (campaign.limits.control_lower, campaign.limits.control_upper) if boxed else None
    arcs: Solution = with_arcs(solution, slopes, sides)
    return arcs


def _violations(view: _View, campaign: Campaign, ended: Ended) -> dict[str, Tensor]:
    """The same as `measure_violations`, by tapes."""
    problem, stacked, limits = view.problem, campaign.stacked, campaign.limits
    found: dict[str, Array] = {}
    if problem.terminal_constraint is not None:
        camp = campaign.camp
        known = ended.nodes is camp.point.nodes  # groups that were tried alone ended elsewhere
        c = camp.model.now.end.c if known else stacked.end_values(ended.nodes[-1])[1]
        found["terminal_constraint"] = beyond(c, limits.end_lower, limits.end_upper)
    if problem.path_constraint is not None:
        sigma = np.sort(np.append(np.linspace(0.0, 1.0, POINTS), gauss(campaign.stages).c))
        at = between(stacked, limits, Mesh(ended.t, gauss(campaign.stages)), ended, sigma)
        c = stacked.values(at.t, at.x, at.u).c
        found["path_constraint"] = beyond(c, limits.path_lower, limits.path_upper).max((0, 1))
    members = stacked.members
    return {
        name: view.tensor(worst.reshape(len(worst), members, worst.shape[-1] // members).max(1))
        for name, worst in found.items()
    }


def _slopes(view: _View, campaign: Campaign, ended: Ended, move: Array) -> tuple[Array, Array] | None:
    """`arcs.Slopes` by tapes, for an odd number of Gauss points of which the middle one is in the middle.

    There are none where H is curved so much along all of the way that it depends on every control.
    """
    stacked, limits, middle = campaign.stacked, campaign.limits, ended.x.shape[1] // 2
    if _curved(campaign, move):
        return None
    x, p, u, y = (part[:, middle] for part in (ended.x, ended.p, ended.u, ended.y))
    u = np.clip(np.stack((u, u + move)), limits.control_lower, limits.control_upper)
    t = 0.5 * (ended.t[:-1] + ended.t[1:])
    t, x, p, y = (np.broadcast_to(part, (2, *part.shape)) for part in (t, x, p, y))
    q = stacked.expand(t, x, u, p, y)
    assert q.jacobian is not None
    duration = view.durations(ended.nodes)
    near = -weighted(q.jacobian, p, y)[..., stacked.v :] / duration[:, None]
    return near, np.abs(q.running[0]) / duration


def _curved(campaign: Campaign, move: Array) -> bool:
    """Whether ∂²H/∂u² alone changes H by more than arcs may that count as singular, when controls are moved so far."""
    camp, moved = campaign.camp, move > 0
    assert camp.model.now.values.hessian is not None
    bend = np.abs(np.einsum("...ii->...i", camp.model.now.values.hessian)[..., campaign.stacked.v :]).min((0, 1))
    change = bend * move**2 / FURTHER * camp.system.duration[:, None]  # (G, m)
    return bool((change[:, moved] > CURVED * TOLERANCE * camp.scale()[:, None]).all())


def _first_mesh(t: Array) -> TimeMesh:
    """Mesh of the first group of nodes (N + 1, G), relative to its horizon."""
    relative = (t[:, 0] - t[0, 0]) / (t[-1, 0] - t[0, 0])
    relative[-1] = 1.0
    return TimeMesh.of_checked(torch.from_numpy(relative))


def _history(view: _View, course: Array) -> History:
    """Of costs and errors (iterations + 1, 2, G)."""
    costs, residuals = view.tensor(course[:, 0]), view.tensor(course[:, 1])
    unknown, accepted = torch.full_like(costs, torch.nan), torch.ones_like(costs, dtype=torch.bool)
    return History(costs, residuals, unknown, unknown, unknown, unknown, unknown, accepted)


class Warm(NamedTuple):
    """A start and the nodes it belongs to, as fractions of the horizon (N + 1, G)."""

    fractions: Array
    start: Start


def warm_start(
    problem: OptimalControlProblem,
    unit: OptimalControlProblem,
    solution: Solution,
    s: int,
    nodes: Array | None,
    absolutes: Absolutes | None,
) -> Warm:
    """A start from a Solution of this or a similar problem: states, control and costates at the Gauss points.

    Controls may stand for `absolutes`.

    Where the horizons overlap, as in receding-horizon control, times are those of the solution; else they count from
    the start.
    """
    old = solution.t
    if nodes is None:
        nodes = first_fractions(_array(old))
    t0, t1 = problem.horizon
    if problem.free_time is not None:
        t1 = t0 + float(old[-1, 0] - old[0, 0])
    fractions = np.repeat(nodes[:, None], unit.groups, 1)
    N, count = len(nodes) - 1, len(nodes)
    inner = nodes[:-1, None] + np.diff(nodes)[:, None] * gauss(s).c  # (N, s)
    times = (t0 + (t1 - t0) * torch.as_tensor(np.concatenate((nodes, inner.ravel())))).to(solution.x)
    at, rows = _read(problem, solution, times, s, count)
    state, costate, control = (_array(part) for part in at)
    stacked = Stacked(unit)
    G, members = stacked.groups, stacked.members

    def stack(values: Array, extra: float) -> Array:
        if unit.n > problem.n:
            values = np.concatenate((values, np.full((*values.shape[:-1], 1), extra)), -1)
        return values.reshape(len(values), G, -1)

    x, p = stack(state, t1 - t0), stack(costate, 0.0) / members
    if absolutes is not None:
        control = _array(absolutes.extended(times[:, None], at[0], at[2]))
    u = np.broadcast_to(control, (len(control), G, unit.m))

    def inside(values: Array) -> Array:
        return np.asarray(values[count:].reshape(N, s, *values.shape[1:]))

    nu = None
    if problem.terminal_constraint is not None and "terminal_constraint" in solution.multipliers:
        nu = _array(solution.multipliers["terminal_constraint"]).reshape(G, -1) / members
    y = None
    if rows is not None or problem.path_constraint is None:
        rows = _with_the_set(problem, times, *at, rows)
        duration = t1 - t0 if unit.n > problem.n else 1.0
        y = inside(_array(rows).reshape(len(rows), G, -1)) * duration / members
    return Warm(fractions, Start(inside(x), inside(u), inside(p), x[:count], p[:count], y, nu))


def _read(
    problem: OptimalControlProblem, solution: Solution, times: Tensor, s: int, count: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """States, costates, control and path multipliers, if known, at times of which the first `count` are nodes."""
    path, old, nodes = problem.path_constraint is not None, solution.pieces, solution.t

    def joined(ends: Tensor, own: Tensor) -> Tensor:
        return torch.cat((ends.expand(count, -1, -1), own.flatten(0, 1)))

    rounding = ROUNDING * torch.finfo(nodes.dtype).eps * (nodes[-1] - nodes[0])
    same = len(nodes) == count and bool(((nodes - times[:count, None]).abs() <= rounding).all())
    if same and old is not None and old.stages == s:
        x, p, u = (
            joined(solution.x, old.state),
            joined(solution.p, old.costate),
            joined(old.control[0, :1], old.control),
        )
        y = old.path_multipliers
        rows = None if y is None else joined(y[0, :1], y)
    else:
        k, sigma = locate(nodes, shifted(times, nodes))
        curves = solution.curves
        x, p, u = curves.states(solution.x, k, sigma), curves.costates(solution.p, k, sigma), curves.controls(k, sigma)
        rows = None if old is None else old.multipliers(k, sigma)
    return (x, p, problem.control_set.project(u)), rows if path else None


def _with_the_set(
    problem: OptimalControlProblem, t: Tensor, x: Tensor, p: Tensor, u: Tensor, rows: Tensor | None
) -> Tensor:
    """Multipliers of path constraints, and those that inequalities of the control set must have: (T, B, c)."""
    rows = x.new_zeros(*x.shape[:-1], 0) if rows is None else rows
    path, G = problem.path_constraint, u.shape[-2]
    with torch.enable_grad():
        v = leaf(u)
        inequalities = problem.control_set.inequalities(v)  # (T, G, k)
        if not inequalities.shape[-1]:
            return rows
        value = hamiltonian(problem, t[:, None], x, p, v)
        if path is not None:
            value = value - (rows * path.path(t[:, None], x, v)).sum(-1)
        (force,) = gradients(group_mean(value, G), (v,))
        normals = [gradients(part, (v,), retain_graph=True)[0] for part in inequalities.unbind(-1)]
    normal = torch.stack(normals, -2)  # (T, G, k, m)
    active = inequalities.detach() >= -ACTIVE
    own = (normal * force[..., None, :]).sum(-1) / normal.square().sum(-1).clamp_min(1e-12)
    own = torch.where(active, own.clamp_min(0.0), 0.0)
    return torch.cat((rows, own.expand(*rows.shape[:-1], own.shape[-1])), -1)
