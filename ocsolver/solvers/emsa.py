"""The extended method of successive approximations: maximize the augmented Hamiltonian of Eq. (7)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import Penalty, Terms
from ocsolver.maximizers import Maximizer, second_order
from ocsolver.solvers.acceleration import CurvaturePairs
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.solvers.msa import check_maximizer, estimated_constant, freeze, step_terms, take
from ocsolver.solvers.penalty import AdaptivePenalty, Outcome, PenaltyMemory, natural_penalty, remember
from ocsolver.transcription import Control

__all__ = ["EMSA"]

WILD = 10.0  # largest penalty of a quasi-Newton step relative to its predicted gain


@dataclass(frozen=True)
class EMSA(SweepSolver):
    """Extended method of successive approximations: maximize the augmented Hamiltonian of Eq. (7) (Algorithm 2).

    With an adaptive penalty on problems whose second derivatives are cheap, plain steps alternate with quasi-Newton
    steps that use the curvature of H̃ as initial matrix; both pass the same test, so J never rises.

    Parameters
    ----------
    maximizer : Maximizer, optional
        None picks one that fits the control set and the problem.
    rho : float or AdaptivePenalty
        A float is the paper's fixed ρ ≥ 0 (per sample and per unit of time); the default adapts it.
    accelerate : bool, default True
        Learn the coupling between different times by quasi-Newton steps; only with an adaptive penalty.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Algorithm 2.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.EMSA(rho=2.0).rho
    2.0
    """

    maximizer: Maximizer | None = None
    rho: float | AdaptivePenalty = field(default_factory=AdaptivePenalty)
    accelerate: bool = True

    def __post_init__(self) -> None:
        check_maximizer(self.maximizer)
        if not isinstance(self.accelerate, bool):
            todo = "Pass True (the default) or False."
            raise InputError(complaint("EMSA accelerate", expected="a bool", got=repr(self.accelerate), todo=todo))
        if isinstance(self.rho, AdaptivePenalty):
            return
        if isinstance(self.rho, bool) or not isinstance(self.rho, (int, float)) or not 0.0 <= self.rho < float("inf"):
            todo = "Pass a number, or oc.AdaptivePenalty() (the default)."
            raise InputError(complaint("EMSA rho", expected="a finite number ≥ 0", got=repr(self.rho), todo=todo))

    def pack(self, memory: PenaltyMemory | None) -> dict[str, Any] | None:
        return None if memory is None else memory._replace(pairs=None)._asdict()

    def unpack(self, packed: dict[str, Any] | None) -> PenaltyMemory | None:
        return None if packed is None else PenaltyMemory(**packed)

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        if isinstance(self.rho, AdaptivePenalty):
            return self._adaptive_step(transcription, iterate, self.rho)
        rho = torch.full_like(iterate.cost, self.rho)
        return take(transcription, iterate, self._argmax(transcription, iterate, rho), rho)

    def _argmax(self, transcription: Timed, iterate: Iterate, rho: Tensor) -> Control:
        penalty = Penalty.uniform(rho)
        return tuple(transcription.maximize(self.maximizer, block, penalty).u for block in iterate.sweep.blocks)

    # ---------------------------------------------------------- adaptive ρ

    def _first_memory(self, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> PenaltyMemory:
        rho = natural_penalty(iterate) if rule.initial is None else torch.full_like(iterate.cost, rule.initial)
        blocks = iterate.sweep.blocks
        fits = self.accelerate and not transcription.sampled and len(blocks) == 1 and second_order(blocks[0])
        pairs = CurvaturePairs.empty(blocks[0]) if fits else None
        none, zero = torch.zeros_like(iterate.active), torch.zeros_like(rho)
        return PenaltyMemory(rho, rho * 1e-12, none, pairs, zero + 1.0, zero, zero, zero + torch.inf)

    def _trial(self, transcription: Timed, iterate: Iterate, memory: PenaltyMemory) -> tuple[Control, Tensor]:
        """Control to try, and the groups (G,) in which it is a quasi-Newton step."""
        fast = torch.zeros_like(iterate.active)
        if memory.pairs is None or memory.pairs.s.shape[0] == 0:
            return freeze(iterate, self._argmax(transcription, iterate, memory.rho)), fast
        block = iterate.sweep.blocks[0]
        step, usable = memory.pairs.step(block, memory.rho)
        fast = iterate.active & usable
        u = block.control_set.project(block.current + memory.length[:, None] * step)
        if not bool((fast | ~iterate.active).all()):
            (plain,) = self._argmax(transcription, iterate, memory.rho)
            u = torch.where(fast[:, None], u, plain)
        return freeze(iterate, (u,)), fast

    def _adaptive_step(self, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> Iterate:
        memory: PenaltyMemory = iterate.memory or self._first_memory(transcription, iterate, rule)
        old = iterate.sweep.forward
        control, fast = self._trial(transcription, iterate, memory)
        terms = step_terms(iterate, control)
        trial = transcription.forward(control, old)
        outcome = self._outcome(rule, memory, iterate, control, fast, terms, trial)

        new, pairs = iterate, memory.pairs
        # steps below rounding are judged by the residual, unless there is nothing left to improve
        eps = torch.finfo(old.cost.dtype).eps
        unsure = iterate.active & outcome.tiny & trial.finite & (iterate.residual > 1e3 * eps)
        trying = outcome.accepted | unsure
        if bool(trying.any()):
            forward = transcription.merge(trying, trial, old)
            sweep, value = transcription.settle(forward, iterate.first_gradient)
            accepted = outcome.accepted | (unsure & (value < iterate.residual))
            if bool(accepted.any()) and not torch.equal(accepted, trying):
                forward = transcription.merge(accepted, trial, old)
                sweep, value = transcription.settle(forward, iterate.first_gradient)
            outcome = outcome._replace(accepted=accepted)
            if bool(accepted.any()):
                new = replace(iterate, sweep=sweep, residual=torch.where(accepted, value, iterate.residual))
                pairs = None if pairs is None else pairs.add(iterate.sweep.blocks[0], sweep.blocks[0])

        next_memory, stalled = remember(rule, memory, outcome, pairs, iterate.active)
        taken = outcome.accepted | ~iterate.active
        step = Step(*terms, outcome.constant, memory.rho, taken, torch.zeros_like(taken), stalled)
        return replace(new, step=step, memory=next_memory, trial=trial)

    @staticmethod
    def _outcome(
        rule: AdaptivePenalty,
        memory: PenaltyMemory,
        iterate: Iterate,
        control: Control,
        fast: Tensor,
        terms: Terms,
        trial: Any,
    ) -> Outcome:
        """Compare the decrease of J with what the step promised: ∫ΔH, or the slope for a quasi-Newton step."""
        old, predicted = iterate.sweep.forward, terms.gain
        if bool(fast.any()):
            block = iterate.sweep.blocks[0]
            slope = block.weights[:, None, None] * block.current_expansion.gradient
            predicted = torch.where(fast, (slope * (control[0] - block.current)).sum((0, 2)), predicted)
        still = ~(predicted > 0)
        tiny = ~still & (predicted <= 100 * torch.finfo(predicted.dtype).eps * old.scale)
        ratio = (old.cost - trial.cost) / predicted
        # a quasi-Newton step far outside the region in which H̃ can be trusted saturates networks: not taken
        wild = fast & (0.5 * memory.rho * (terms.state_error + terms.costate_error) > WILD * predicted)
        threshold = torch.where(memory.calibrated, rule.accept, 0.25)
        accepted = iterate.active & trial.finite & ~still & ~tiny & ~wild & (ratio >= threshold)
        constant = estimated_constant(old.cost, trial.cost, terms)
        return Outcome(accepted, fast, still, tiny, wild, trial.finite, ratio, constant)
