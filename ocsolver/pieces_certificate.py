"""Certificate of polynomial controls on meshes of each group's own; it knows the trajectory, not who produced it."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver._shapes import group_mean
from ocsolver._threads import threads_for
from ocsolver.adjoints import ContinuousAdjoint
from ocsolver.certificate import Certificate, cost_bound, precise
from ocsolver.hamiltonian import (
    HamiltonianBlock,
    dynamics,
    hamiltonian,
    running_cost,
    terminal_cost,
)
from ocsolver.intervals import Intervals
from ocsolver.kinks import cut_at_kinks
from ocsolver.lifted import lifted
from ocsolver.pieces import Pieces, Samples, gauss
from ocsolver.problem import OptimalControlProblem
from ocsolver.residual import maximum_gap

__all__ = ["Trajectory", "certify_pieces", "gaps"]

POINTS = 5  # at least so many quadrature points in every interval, and two more than the control has


class Trajectory(Protocol):
    """What a solution must offer to be certified."""

    @property
    def t(self) -> Tensor: ...  # (N + 1, G)
    @property
    def x(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def p(self) -> Tensor: ...  # (N + 1, B, n)
    @property
    def cost(self) -> Tensor: ...  # (G,)
    @property
    def curves(self) -> Pieces: ...
    @property
    def multipliers(self) -> dict[str, Tensor]: ...


@torch.no_grad()
def certify_pieces(problem: OptimalControlProblem, solution: Trajectory) -> Certificate:
    """Certificate of a trajectory made of polynomials, on its own mesh, for a problem with or without constraints."""
    with threads_for(problem, len(solution.x) - 1):
        return _certificate(problem, solution)


def _certificate(problem: OptimalControlProblem, solution: Trajectory) -> Certificate:
    G = problem.groups
    samples, weights = _sampled(problem, solution)
    block = _block(problem, samples)
    gap = _admissible_gap(problem, samples, block)
    move = block.control_set.project(block.current + block.current_slope) - block.current
    state, costate, cost_error = _defects(problem, solution)
    return Certificate(
        max_gap=gap.amax((0, 1)),
        mean_gap=(weights * gap).sum((0, 1)) / weights.sum((0, 1)),
        projected_gradient=(weights.flatten(0, 1) * move.square().sum(-1)).sum(0).sqrt(),
        state_defect=_worst(state, G),
        costate_defect=_worst(costate, G),
        transversality=_transversality(problem, solution, samples, weights),
        hamiltonian_drift=_drift(problem, samples),
        cost_error=cost_error,
    )


@torch.no_grad()
def gaps(problem: OptimalControlProblem, solution: Trajectory) -> Tensor:
    """Mean over each interval of max H − H(u), over the admissible controls (N, G)."""
    samples, _ = _sampled(problem, solution)
    gap = _admissible_gap(problem, samples, _block(problem, samples))
    return torch.einsum("q,nqg->ng", gauss(gap.shape[1], gap)[1], gap)


def _worst(rows: Tensor, groups: int) -> Tensor:
    """Largest entry of each group, inf for what could not be integrated: (*, B, n) -> (G,)."""
    largest = torch.nan_to_num(rows.abs(), nan=torch.inf).amax(-1).flatten(0, -2).amax(0)
    return largest.amax(0, keepdim=True) if groups == 1 else largest


# ------------------------------------------------------------------------------------------------- the maximum of H


def _sampled(problem: OptimalControlProblem, solution: Trajectory) -> tuple[Samples, Tensor]:
    """Trajectory at quadrature points inside the intervals, and their weights (N, Q, G)."""
    pieces = solution.curves
    points, weights = gauss(max(POINTS, pieces.stages + 2), solution.x)
    samples = pieces.samples(problem, solution.t, solution.x, solution.p, points)
    return samples, solution.t.diff(dim=0)[:, None] * weights[:, None]


def _price(problem: OptimalControlProblem, t: Tensor, x: Tensor, u: Tensor, nu: Tensor | None) -> Tensor:
    """ν·c of the path constraint (*b, B); zero without one."""
    path = problem.path_constraint
    if path is None or nu is None:
        return x.new_zeros(x.shape[:-1])
    return (nu * path.path(t, x, u)).sum(-1)


def _valid(problem: OptimalControlProblem, nu: Tensor | None) -> Tensor | None:
    """Multipliers of sides that exist; others prove nothing."""
    if nu is None or problem.path_constraint is None:
        return None
    lower, upper = problem.path_constraint.bounds(nu)
    return torch.where(torch.isfinite(torch.where(nu > 0, upper, lower)), nu, 0.0)


def _block(problem: OptimalControlProblem, at: Samples) -> HamiltonianBlock:
    """H − ν·c at all points as a block of K = N Q sites, each with one point."""
    t, x, p, u = (z.flatten(0, 1)[:, None] for z in at[:4])  # (K, 1, …)
    nu = _valid(problem, at.nu)
    nu = None if nu is None else nu.flatten(0, 1)[:, None]

    def rates(x: Tensor, u: Tensor) -> Tensor:
        cost = running_cost(problem, t, x, u) + _price(problem, t, x, u, nu)
        return torch.cat((dynamics(problem, t, x, u), cost[..., None]), -1)

    return HamiltonianBlock(
        rates=rates,
        x=x,
        sensitivity=torch.cat((p, -torch.ones_like(p[..., :1])), -1),
        state_components=problem.n,
        weights=x.new_ones(len(x)),
        points=x.new_ones(1),
        current=u[:, 0],
        control_set=problem.control_set,
        t=t,
        fine=True,
    )


def _admissible_gap(problem: OptimalControlProblem, at: Samples, block: HamiltonianBlock) -> Tensor:
    """Bound on max H − H(u) over all v ∈ U with lower ≤ c(t, x, v) ≤ upper, by weak duality (N, Q, G).

    For admissible v, H(v) − H(u) ≤ max_U (H − ν·c) − (H − ν·c)(u) + Σ_j |ν_j| (distance of c_j(u) to the side of ν_j).
    """
    gap = maximum_gap(block).reshape(*at.u.shape[:-1])
    path, nu = problem.path_constraint, _valid(problem, at.nu)
    if path is None or nu is None or path.arguments < 3:  # a constraint on the state alone leaves U as it is
        return gap
    values = path.path(at.t, at.x, at.u)
    lower, upper = path.bounds(values)
    room = torch.where(nu > 0, upper - values, values - lower).clamp_min(0.0)
    slack = (nu.abs() * torch.where(nu == 0, 0.0, room)).sum(-1)
    gap = gap + group_mean(slack, problem.groups)
    return gap if bool(torch.isfinite(gap).all()) else torch.where(torch.isfinite(gap), gap, _best_trial(problem, at))


def _best_trial(problem: OptimalControlProblem, at: Samples) -> Tensor:
    """Largest H(v) − H(u) over the corners that one constraint makes with U, and a grid of U (N, Q, G).

    It is exact where H and one constraint are affine in a single control, and says at least something elsewhere; needed
    where H − ν·c is affine in an unbounded control, so that rounding decides whether it has a maximum.
    """
    path, sets = problem.path_constraint, problem.control_set
    assert path is not None
    with torch.enable_grad():
        u = leaf(at.u)
        values = path.path(at.t, at.x, u)
        slopes = [gradients(value.sum(), (u,), retain_graph=True)[0] for value in values.unbind(-1)]
    values, groups = values.detach(), problem.groups
    allowed = path.violation(values).clamp_min(1e-9)
    trials = []
    for j, slope in enumerate(slopes):
        for side in path.bounds(values):
            if bool(torch.isfinite(side[j])):
                missing = group_mean(side[j] - values[..., j], groups)[..., None]
                length = slope.square().sum(-1, keepdim=True)
                trials.append(sets.project(at.u + slope * torch.where(length > 0, missing / length, 0.0)))
    grid = sets.candidates(at.u, fine=True)
    trials += [] if grid is None else [point.expand(at.u.shape) for point in grid]
    best = torch.zeros_like(at.u[..., 0])
    current = hamiltonian(problem, at.t, at.x, at.p, at.u)
    for v in trials:
        outside = (path.violation(path.path(at.t, at.x, v)) > allowed).any(-1)  # (N, Q, B)
        gain = torch.where(outside, -torch.inf, hamiltonian(problem, at.t, at.x, at.p, v) - current)
        best = torch.maximum(best, group_mean(gain, groups))
    return best


def _drift(problem: OptimalControlProblem, at: Samples) -> Tensor:
    """Range over time of the group mean of H, NaN if the problem depends on time (G,)."""
    other = at.t.flip(0) + 0.1234
    value = hamiltonian(problem, at.t, at.x, at.p, at.u)
    price = _price(problem, at.t, at.x, at.u, at.nu)
    steady = torch.equal(value, hamiltonian(problem, other, at.x, at.p, at.u))
    if not (steady and torch.equal(price, _price(problem, other, at.x, at.u, at.nu))):
        return torch.full_like(at.t[0, 0], torch.nan)
    mean = group_mean(value, problem.groups).flatten(0, 1)
    return mean.amax(0) - mean.amin(0)


# ---------------------------------------------------------------------------------------------- the two equations


def _defects(problem: OptimalControlProblem, solution: Trajectory) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of one interval in x (N + 1, B, n), the initial state first, and in p (N, B, n); bound on that of J."""
    t, x, p, pieces = cut_at_kinks(problem.control_set, solution.t, solution.x, solution.p, solution.curves)
    simple, control = lifted(problem, t, x[0], pieces)
    number = torch.arange(len(x) - 1, dtype=x.dtype, device=x.device)[:, None]
    intervals = Intervals(simple, precise(x, problem.groups), number, torch.ones_like(number))
    bound, defects = cost_bound(intervals, None, x, None, control, solution.cost)
    free = problem.free_initial_state
    start = problem.initial_state if free is None else torch.minimum(torch.maximum(x[0], free.lower), free.upper)
    priced, control = lifted(problem, t, x[0], pieces, priced=True)
    adjoint = ContinuousAdjoint(intervals.integrator)
    costates = adjoint.one_interval(replace(intervals, problem=priced), x[1:], p[1:], control)
    return torch.cat(((x[0] - start)[None], defects)), p[:-1] - costates, bound


# ------------------------------------------------------------------------------------------------------- the ends


def _transversality(problem: OptimalControlProblem, solution: Trajectory, at: Samples, weights: Tensor) -> Tensor:
    """Largest fault at the ends (G,): p(t1) + ∇(Φ + ν·c), p(t0) of free components, ∂J/∂t1 of a free final time.

    What has bounds counts as the step of a projected gradient: z − P(z − ∂J/∂z).
    """
    x, p, G = solution.x, solution.p, problem.groups
    terminal, nu = problem.terminal_constraint, solution.multipliers.get("terminal_constraint")
    with torch.enable_grad():
        end = leaf(x[-1])
        value = terminal_cost(problem, end)
        if terminal is not None and nu is not None:
            value = value + (nu * terminal.terminal(end)).sum(-1)
        (slope,) = gradients(value, (end,))
    faults = [_worst((p[-1] + slope)[None], G)]
    free = problem.free_initial_state
    if free is not None:
        moved = torch.minimum(torch.maximum(x[0] + p[0], free.lower), free.upper)
        faults.append(_worst((x[0] - moved)[None], G))
    if problem.free_time is not None:
        last = solution.t[-1]
        moved = (last + _gain_of_time(problem, at, weights)).clamp(problem.free_time.lower, problem.free_time.upper)
        faults.append((last - moved).abs())
    return torch.stack(faults).amax(0)


def _gain_of_time(problem: OptimalControlProblem, at: Samples, weights: Tensor) -> Tensor:
    """−∂J/∂t1 (G,): the mean over time of H + (t − t0) ∂(H − ν·c)/∂t, which is H(t1) on an extremal."""
    with torch.enable_grad():
        t = leaf(at.t)
        value = hamiltonian(problem, t, at.x, at.p, at.u)
        (slope,) = gradients(value - _price(problem, t, at.x, at.u, at.nu), (t,))
    if problem.groups == 1:
        slope = slope / at.x.shape[2]
    rate = group_mean(value.detach(), problem.groups) + (at.t - problem.horizon[0]) * slope
    return (weights * rate).sum((0, 1)) / weights.sum((0, 1))
