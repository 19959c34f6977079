"""Anderson acceleration of a map from controls to controls; it knows the map, not what it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.maximizers.base import positive_int
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.solvers.msa import estimated_constant, freeze, step_terms
from ocsolver.solvers.penalty import rounding_of
from ocsolver.transcription import Control

__all__ = ["Anderson"]

SHORTEST = 1e-10  # fraction of a step of the map below which a group has stalled


class MixingMemory(NamedTuple):
    """Differences of the last controls u and steps f = G(u) − u, newest last, zero where forgotten."""

    du: Tensor  # (h, G, D)
    df: Tensor  # (h, G, D)
    u: Tensor  # (G, D), control of the last iteration
    f: Tensor  # (G, D)
    fraction: Tensor  # (G,), of the plain step to try where the mixing was rejected


@dataclass(frozen=True)
class Anderson(SweepSolver):
    """Anderson acceleration [1]_ of a solver whose iteration is a map u ← G(u): MSA, EMSA(rho=number), GradientDescent.

    With f = G(u) − u, the next control is u + f − Σ γ_j (Δu_j + Δf_j), where γ minimizes ‖f − Σ γ_j Δf_j‖ in L² over
    the last steps: the secant method in the space that they span. Every step must lower J. A group whose step does not
    forgets its history and moves along f alone, by a fraction that is halved until J falls and doubled after that. So
    a diverging map is no obstacle. Each group mixes its own history.

    Parameters
    ----------
    solver : SweepSolver
        The solver to accelerate; it decides what f is.
    memory : int, default 5
        Number of differences kept.

    References
    ----------
    .. [1] H. Walker, P. Ni, *Anderson acceleration for fixed-point iterations*, SIAM J. Numer. Anal. 49 (2011).

    Examples
    --------
    Plain MSA diverges on horizons longer than π/2 here:

    >>> import ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
    ...     initial_state=[1.0],
    ...     horizon=(0.0, 5.0),
    ...     control_set=oc.Unconstrained(1),
    ... )
    >>> oc.solve(problem, oc.Anderson(oc.MSA())).status[0].name
    'CONVERGED'
    """

    solver: SweepSolver
    memory: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.solver, SweepSolver):
            todo = "Pass oc.MSA(), oc.EMSA(rho=2.0) or oc.GradientDescent(0.1)."
            raise InputError(complaint("Anderson solver", expected="a sweep solver", got=repr(self.solver), todo=todo))
        positive_int(self.memory, "Anderson memory")

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        target = self.solver.target(transcription, iterate)
        if target is None or not all(block.control_set.convex for block in iterate.sweep.blocks):
            todo = "Use oc.MSA(), oc.EMSA(rho=2.0) or oc.GradientDescent(0.1), on a convex control set; or oc.EMSA()."
            expected = "a solver that maps controls to controls, on a convex control set"
            raise UnsupportedError(complaint("Anderson", expected=expected, got=repr(self.solver), todo=todo))
        u, f = _flat(iterate, iterate.control), _flat(iterate, target) - _flat(iterate, iterate.control)
        memory = self._extended(iterate.memory, u, f)
        step, mixed = _mix(memory)
        control = freeze(iterate, _projected(iterate, u + step))
        terms = step_terms(iterate, control)
        old = iterate.sweep.forward
        trial = transcription.forward(control, old)
        accepted = iterate.active & trial.finite & (old.cost - trial.cost + rounding_of(old) >= 0)
        new = iterate
        if bool(accepted.any()):
            sweep, value = transcription.settle(transcription.merge(accepted, trial, old), iterate.first_gradient)
            new = replace(iterate, sweep=sweep, residual=torch.where(accepted, value, iterate.residual))
        memory, stalled = _remember(memory, accepted, mixed, iterate.active)
        constant = estimated_constant(old.cost, trial.cost, terms)
        zero, no = torch.zeros_like(constant), torch.zeros_like(accepted)
        stalled = stalled | (iterate.active & (f == 0).all(-1))
        outcome = Step(*terms, constant, zero, accepted | ~iterate.active, no, stalled)
        return replace(new, step=outcome, memory=memory, trial=trial)

    def _extended(self, memory: MixingMemory | None, u: Tensor, f: Tensor) -> MixingMemory:
        """Memory with the differences to the last iteration; groups that did not move get zeros."""
        if memory is None:
            none = u.new_zeros(0, *u.shape)
            return MixingMemory(none, none, u, f, torch.ones_like(u[:, 0]))
        moved = (u != memory.u).any(-1, keepdim=True)
        du, df = (torch.where(moved, new - old, 0.0) for new, old in ((u, memory.u), (f, memory.f)))
        kept = 1 - self.memory if self.memory > 1 else len(memory.du)
        return memory._replace(
            du=torch.cat((memory.du[kept:], du[None])), df=torch.cat((memory.df[kept:], df[None])), u=u, f=f
        )


def _mix(memory: MixingMemory) -> tuple[Tensor, Tensor]:
    """Step (G, D) of every group, and which of them (G,) mix their history."""
    mixed = (memory.df != 0).any(-1).any(0) if len(memory.df) else torch.zeros_like(memory.fraction, dtype=torch.bool)
    plain = memory.fraction[:, None] * memory.f
    if not bool(mixed.any()):
        return plain, mixed
    columns = memory.df.permute(1, 2, 0)  # (G, D, h)
    finite = torch.isfinite(columns).all(-1).all(-1) & torch.isfinite(memory.f).all(-1)
    mixed = mixed & finite
    size = torch.linalg.vector_norm(columns, dim=1, keepdim=True)  # columns of unit length, or zero
    size = torch.where(size > 0, size, 1.0)
    columns = torch.where(mixed[:, None, None], columns / size, 0.0)
    gamma = torch.linalg.pinv(columns, rtol=1e-10) @ torch.where(mixed[:, None], memory.f, 0.0)[..., None]  # (G, h, 1)
    both = (memory.du + memory.df).permute(1, 2, 0) / size
    return torch.where(mixed[:, None], memory.f - (both @ gamma)[..., 0], plain), mixed


def _remember(memory: MixingMemory, accepted: Tensor, mixed: Tensor, active: Tensor) -> tuple[MixingMemory, Tensor]:
    """Memory after a trial, and the groups (G,) that have stalled."""
    failed = active & ~accepted
    fraction = torch.where(failed & ~mixed, 0.5 * memory.fraction, memory.fraction)
    fraction = torch.where(accepted & ~mixed, (2.0 * fraction).clamp_max(1.0), fraction)
    keep = ~failed[:, None]
    memory = memory._replace(du=memory.du * keep, df=memory.df * keep, fraction=fraction)
    return memory, failed & (fraction < SHORTEST)


def _flat(iterate: Iterate, control: Control) -> Tensor:
    """All blocks, scaled by √w, as vectors (G, D)."""
    parts = [
        (block.weights.sqrt()[:, None, None] * u).transpose(0, 1).flatten(1)
        for block, u in zip(iterate.sweep.blocks, control, strict=True)
    ]
    return torch.cat(parts, -1)


def _projected(iterate: Iterate, vectors: Tensor) -> Control:
    """Inverse of `_flat`, projected onto the control sets."""
    blocks = iterate.sweep.blocks
    sizes = [block.current.shape[0] * block.current.shape[2] for block in blocks]
    control = []
    for block, part in zip(blocks, torch.split(vectors, sizes, dim=-1), strict=True):
        K, G, m = block.current.shape
        u = part.reshape(G, K, m).transpose(0, 1) / block.weights.sqrt()[:, None, None]
        control.append(block.control_set.project(u))
    return tuple(control)
