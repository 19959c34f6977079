"""What can be said about a control without trusting whoever produced it; it prints numbers and never says "optimal"."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver._shapes import group_mean
from ocsolver._threads import threads_for
from ocsolver.adjoints import ContinuousAdjoint
from ocsolver.continuous import ContinuousTranscription
from ocsolver.hamiltonian import hamiltonian, terminal_cost, terminal_costate
from ocsolver.integrators import TorchDiffEq
from ocsolver.intervals import Intervals, Linearization, run_backward, run_forward
from ocsolver.residual import maximum_gap, projected_gradient
from ocsolver.transcription import Sweep

__all__ = ["Certificate", "certify_sweep", "cost_bound", "precise"]

MAX_STEPS = 300  # of an integrator in one interval, before a row counts as too stiff to be checked
ROUGH = TorchDiffEq("dopri5", rtol=1e-6, atol=1e-8, max_steps=MAX_STEPS)  # for derivatives, which only weigh defects


@dataclass(frozen=True, eq=False)
class Certificate:
    """Residuals of the maximum principle and of the discretization, each (G,).

    Attributes
    ----------
    max_gap, mean_gap : Tensor, shape (G,)
        Largest and time-averaged max_U H − H(u), units of cost per time; inf where H has no finite maximum.
    projected_gradient : Tensor, shape (G,)
        L² norm over time of P_U(u + ∂H/∂u) − u.
    state_defect, costate_defect : Tensor, shape (G,)
        Largest error of one interval in x and p against an integration at 1e-12.
    transversality : Tensor, shape (G,)
        Largest |p(t1) + ∇Φ(x(t1))|.
    hamiltonian_drift : Tensor, shape (G,)
        Range of H along the trajectory: zero for an optimal control of an autonomous problem; NaN for problems that
        depend on time.
    cost_error : Tensor, shape (G,)
        Bound from the local defects on |J − J resimulated|, correct to second order in the defects.
    """

    max_gap: Tensor
    mean_gap: Tensor
    projected_gradient: Tensor
    state_defect: Tensor
    costate_defect: Tensor
    transversality: Tensor
    hamiltonian_drift: Tensor
    cost_error: Tensor

    def __str__(self) -> str:
        groups = self.max_gap.numel()
        lines = [f"certificate ({groups} control groups, worst)" if groups > 1 else "certificate"]
        for entry in fields(self):
            value = getattr(self, entry.name)
            known = value[~torch.isnan(value)]
            text = f"{float(known.max()):.3e}" if known.numel() else "not applicable (the problem depends on time)"
            lines.append(f"  {entry.name.replace('_', ' '):20s} {text}")
        return "\n".join(lines)


@torch.no_grad()
def certify_sweep(transcription: ContinuousTranscription, sweep: Sweep) -> Certificate:
    """Certificate of a sweep of a continuous problem."""
    with threads_for(transcription.problem, transcription.mesh):
        return _certificate(transcription, sweep)


def _certificate(transcription: ContinuousTranscription, sweep: Sweep) -> Certificate:
    (block,), forward, p = sweep.blocks, sweep.forward, sweep.p
    block = replace(block, fine=True)
    problem, x, u = transcription.problem, forward.x, forward.u
    G = transcription.groups
    gap = maximum_gap(block)
    defects, costate_defects, cost_error = _defects(transcription, forward, p)
    boundary = (p[-1] - terminal_costate(problem, x[-1])).abs().amax(-1)
    return Certificate(
        max_gap=gap.amax(0),
        mean_gap=(block.weights[:, None] * gap).sum(0) / block.weights.sum(),
        projected_gradient=projected_gradient(block),
        state_defect=_worst(defects.abs().amax((0, -1)), G),
        costate_defect=_worst(costate_defects.abs().amax((0, -1)), G),
        transversality=_worst(boundary, G),
        hamiltonian_drift=_drift(transcription, x, p, u),
        cost_error=cost_error,
    )


def _worst(rows: Tensor, groups: int) -> Tensor:
    """Largest value of each group: (B,) -> (G,)."""
    return rows.amax(0, keepdim=True) if groups == 1 else rows


def _defects(transcription: ContinuousTranscription, forward: Any, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One-interval errors of x (N, B, n) and p (N, B, n), and the bound they give on the error of J (G,)."""
    problem, own, x, u = transcription.problem, transcription.intervals, forward.x, forward.u
    intervals = Intervals(problem, precise(x, transcription.groups), own.t, own.h)
    costates = ContinuousAdjoint(intervals.integrator).one_interval(intervals, x[1:], p[1:], u)
    bound, defects = cost_bound(intervals, forward.linearization, x, p, u, forward.cost)
    return defects, p[:-1] - costates, bound


def precise(like: Tensor, groups: int) -> TorchDiffEq:
    """What counts as exact, in the precision of a tensor; of one problem, an interval that fails spoils all."""
    tolerance = max(1e-12, 50 * torch.finfo(like.dtype).eps)
    together = groups == 1
    return TorchDiffEq("dopri8", tolerance, tolerance * 1e-2, max_steps=MAX_STEPS, all_or_none=together)


def cost_bound(
    exact: Intervals, linearization: Linearization | None, x: Tensor, q: Tensor | None, u: Tensor, cost: Tensor
) -> tuple[Tensor, Tensor]:
    """Bound on |J − J of the exact trajectory| from the defects of one-interval maps (G,), and these (N, B, n).

    The dual-weighted cost 𝓛(x) = Φ + Σ ℓ_k + Σ q_{k+1}·(x_{k+1} − Ψ_k(x_k)), q the costate of J alone, is the exact J
    to first order in the defects; after one Newton step on the defects to second order. The bound is the distance to
    the latter, and as a margin 2 %, the second-order term and rounding.

    Parameters
    ----------
    exact : Intervals
        Interval maps that count as exact.
    linearization : Linearization or None
        Their derivatives, roughly; None to compute them.
    x : Tensor, shape (N + 1, B, n)
        States at the nodes.
    q : Tensor, shape (N + 1, B, n), or None
        Costates of J without multipliers; None to compute them.
    u : Tensor, shape (N, G, m)
        Control, as the maps take it.
    cost : Tensor, shape (G,)
        J as reported.

    Returns
    -------
    (Tensor, Tensor)
        Bound (G,), inf where it cannot be had, and defects.
    """
    problem, groups = exact.problem, cost.numel()
    if linearization is None:
        rough = replace(ROUGH, all_or_none=groups == 1)
        linearization = replace(exact, integrator=rough).linearize(x[:-1], u)
    if q is None:
        q = run_backward(linearization.jacobian, terminal_costate(problem, x[-1]), -linearization.slope)

    def dual_weighted(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_next, running = exact.end(x[:-1], u)
        defects = x[1:] - x_next
        parts = running + (q[1:] * defects).sum(-1)
        return group_mean(parts.sum(0) + terminal_cost(problem, x[-1]), groups), defects, running

    first, defects, running = dual_weighted(x)
    second, _, _ = dual_weighted(x + run_forward(linearization.jacobian, torch.zeros_like(x[0]), -defects))
    size = group_mean(running.abs().sum(0) + terminal_cost(problem, x[-1]).abs(), groups)
    rounding = 8 * len(u) ** 0.5 * torch.finfo(x.dtype).eps * size
    bound = 1.02 * (cost - second).abs() + (second - first).abs() + rounding
    return torch.nan_to_num(bound, nan=torch.inf), defects


def _drift(transcription: ContinuousTranscription, x: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Range over time of the group mean of H at the midpoints, NaN if f or L depend on time (G,)."""
    problem, G = transcription.problem, transcription.groups
    t = 0.5 * (transcription.nodes[1:] + transcription.nodes[:-1])[:, None]
    middle, costate = 0.5 * (x[1:] + x[:-1]), 0.5 * (p[1:] + p[:-1])
    value = hamiltonian(problem, t, middle, costate, u)
    if not torch.equal(value, hamiltonian(problem, t.flip(0) + 0.1234, middle, costate, u)):
        return value.new_full((G,), torch.nan)
    mean = value.mean(-1, keepdim=True) if G == 1 else value
    drift: Tensor = mean.amax(0) - mean.amin(0)
    return drift
