"""The sequential quadratic Hamiltonian method: maximize H − ε|u − u_now|², and let ε follow the fall of J."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers import Maximizer
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.solvers.msa import check_maximizer, estimated_constant, freeze, step_terms
from ocsolver.solvers.penalty import rounding_of
from ocsolver.transcription import Control

__all__ = ["SQH"]

SMALLEST = 1e-12  # times the first ε: a control that does not move there has stalled
PATIENCE = 100  # iterations without an accepted step after which no ε is believed to help


class ProximalMemory(NamedTuple):
    """What the method carries from one iteration to the next, each (G,)."""

    epsilon: Tensor
    smallest: Tensor  # at this ε an unmoving group has stalled
    rejected: Tensor  # largest ε whose step was rejected since the last accepted one
    unmoved: Tensor  # smallest ε that left the control where it was since then
    idle: Tensor  # iterations since then


@dataclass(frozen=True)
class SQH(SweepSolver):
    """Sequential quadratic Hamiltonian method: maximize H − ε‖u − u_now‖² at all times, accept where J falls [1]_.

    A step is taken iff J falls by at least η∫‖Δu‖² dt; then ε becomes ζ ε, and σ ε where it is not. The test sees
    values of J only, and the maximization values of H only if the maximizer is `Enumeration`: with it the method serves
    finite sets, and running costs that jump in u. Each group has its own ε. On smooth problems `EMSA` is faster.

    Parameters
    ----------
    maximizer : Maximizer, optional
        None picks one that fits the control set; use ``Enumeration()`` where H jumps in u.
    epsilon : float, optional
        First ε > 0; None derives it from the gradient of H and the scale of J.
    grow, shrink : float, default 2.0 and 0.8
        σ > 1 and ζ < 1.
    decrease : float, default 1e-9
        η > 0.

    References
    ----------
    .. [1] S. Hofmann, A. Borzì, *A sequential quadratic Hamiltonian algorithm for training explicit RK neural
       networks*, J. Comput. Appl. Math. 405 (2022).

    Examples
    --------
    A fee for every moment at which the control is not zero, higher as time goes by:

    >>> import ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: (0.25 + 0.1 * t) * (u[..., 0] != 0).to(x.dtype),
    ...     lambda x: 0.5 * x[..., 0] ** 2,
    ...     initial_state=[1.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Box(-1.0, 1.0),
    ... )
    >>> solution = oc.solve(problem, oc.SQH(oc.Enumeration()), tolerance=1e-3)
    >>> print(solution.status[0].name, sorted(set(solution.u[..., 0].flatten().tolist())))
    CONVERGED [-1.0, 0.0]
    """

    maximizer: Maximizer | None = None
    epsilon: float | None = None
    grow: float = 2.0
    shrink: float = 0.8
    decrease: float = 1e-9

    def __post_init__(self) -> None:
        check_maximizer(self.maximizer)
        ranges = {
            "epsilon": (0.0, math.inf),
            "grow": (1.0, math.inf),
            "shrink": (0.0, 1.0),
            "decrease": (0.0, math.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if name == "epsilon" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
                expected = f"a number in ({low:g}, {high:g})"
                todo = "Leave it out for the default."
                raise InputError(complaint(f"SQH {name}", expected=expected, got=repr(value), todo=todo))

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        memory: ProximalMemory = iterate.memory or self._first_memory(iterate)
        old, zero = iterate.sweep.forward, torch.zeros_like(memory.epsilon)
        penalty = Penalty(zero, zero, memory.epsilon)
        control = tuple(transcription.maximize(self.maximizer, block, penalty).u for block in iterate.sweep.blocks)
        control = freeze(iterate, control)
        terms = step_terms(iterate, control)
        trial = transcription.forward(control, old)
        moved = _squared_distance(iterate, control)
        fall = old.cost - trial.cost + rounding_of(old)
        accepted = iterate.active & trial.finite & (moved > 0) & (fall >= self.decrease * moved)
        new = iterate
        if bool(accepted.any()):
            sweep, value = transcription.settle(transcription.merge(accepted, trial, old), iterate.first_gradient)
            new = replace(iterate, sweep=sweep, residual=torch.where(accepted, value, iterate.residual))
        following, stalled = self._remember(memory, accepted, moved > 0, iterate.active)
        constant = estimated_constant(old.cost, trial.cost, terms)
        step = Step(*terms, constant, memory.epsilon, accepted | ~iterate.active, torch.zeros_like(accepted), stalled)
        return replace(new, step=step, memory=following, trial=trial)

    def _first_memory(self, iterate: Iterate) -> ProximalMemory:
        """ε with which a step along the gradient of H would change J by a tenth of its scale."""
        scale = iterate.sweep.forward.scale
        if self.epsilon is None:
            slope = torch.stack([_integral(block, block.current_slope) for block in iterate.sweep.blocks]).sum(0)
            epsilon = 5.0 * slope / scale
            epsilon = torch.where(torch.isfinite(epsilon) & (epsilon > 0), epsilon, 1.0)
        else:
            epsilon = torch.full_like(scale, self.epsilon)
        zero = torch.zeros_like(epsilon)
        return ProximalMemory(epsilon, SMALLEST * epsilon, zero, zero + torch.inf, zero)

    def _remember(
        self, memory: ProximalMemory, accepted: Tensor, moved: Tensor, active: Tensor
    ) -> tuple[ProximalMemory, Tensor]:
        """Memory after a trial, and the groups (G,) that have stalled."""
        epsilon = memory.epsilon
        rejected = torch.where(
            accepted, 0.0, torch.where(moved, torch.maximum(memory.rejected, epsilon), memory.rejected)
        )
        unmoved = torch.where(
            accepted, torch.inf, torch.where(moved, memory.unmoved, torch.minimum(memory.unmoved, epsilon))
        )
        idle = torch.where(accepted, 0.0, memory.idle + 1.0)
        new = torch.where(accepted, self.shrink, torch.where(moved, self.grow, 0.25)) * epsilon
        # where steps jump with ε (finite sets) the values that help lie between the rejected and the unmoved ones
        outside = ~accepted & ((new <= rejected) | (new >= unmoved))
        new = torch.where(outside, (rejected * unmoved).sqrt(), new)
        stuck = ~moved & (epsilon <= memory.smallest)
        stalled = active & (stuck | (idle >= PATIENCE) | (unmoved < 1.001 * rejected))
        return ProximalMemory(torch.where(active, new, epsilon), memory.smallest, rejected, unmoved, idle), stalled


def _integral(block: HamiltonianBlock, values: Tensor) -> Tensor:
    """∫‖v‖² dt of values (K, G, m): (G,)."""
    return (block.weights[:, None] * values.square().sum(-1)).sum(0)


def _squared_distance(iterate: Iterate, control: Control) -> Tensor:
    """∫‖u − u_now‖² dt (G,)."""
    pairs = zip(iterate.sweep.blocks, control, strict=True)
    return torch.stack([_integral(block, u - block.current) for block, u in pairs]).sum(0)
