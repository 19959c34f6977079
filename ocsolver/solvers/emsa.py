"""The extended method of successive approximations: maximize the augmented Hamiltonian of Eq. (7)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import Penalty, Terms
from ocsolver.maximizers import GaussNewton, Maximizer, second_order
from ocsolver.solvers.acceleration import CurvaturePairs, Proposal
from ocsolver.solvers.averaged import AveragedMemory, averaged_step
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.solvers.coupled import CoupledMemory, coupled_step
from ocsolver.solvers.levenberg import levenberg_step
from ocsolver.solvers.msa import check_maximizer, estimated_constant, freeze, step_terms, take
from ocsolver.solvers.newton import NewtonSteps
from ocsolver.solvers.penalty import (
    CALIBRATION,
    AdaptivePenalty,
    Outcome,
    PenaltyMemory,
    natural_penalty,
    rejected_rho,
    remember,
    rounding_of,
)
from ocsolver.solvers.sampling import SampledMemory, learn, note_step
from ocsolver.transcription import Control

__all__ = ["EMSA"]

CAUTION = 10.0  # factor of the first ρ on mini-batches, where a step is judged only after it was taken
WILD = 10.0  # largest penalty of a quasi-Newton step relative to its predicted gain


@dataclass(frozen=True)
class EMSA(SweepSolver):
    """Extended method of successive approximations: maximize the augmented Hamiltonian of Eq. (7) (Algorithm 2).

    With an adaptive penalty, a maximization that lowered J is followed by steps that maximize H̃ at all times together:
    Newton steps where the second derivatives of all interval maps are cheap, else quasi-Newton steps with the curvature
    of H̃ as initial matrix. All pass the same test, so J never rises. On networks the default maximizer is then
    `GaussNewton`, and fully connected ones with one output take Levenberg–Marquardt steps through all layers; on
    mini-batches curvature is averaged, and training answers with an average of the weights.

    Parameters
    ----------
    maximizer : Maximizer, optional
        None picks one that fits the control set and the problem.
    rho : float or AdaptivePenalty
        A float is the paper's fixed ρ ≥ 0 (per sample and per unit of time); the default adapts it.
    accelerate : bool, default True
        Take the coupling between different times into account; only with an adaptive penalty.

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

    def pack(self, memory: SampledMemory | AveragedMemory | None) -> dict[str, Any] | None:
        return None if memory is None else memory.pack()

    def unpack(self, packed: dict[str, Any] | None) -> SampledMemory | AveragedMemory | None:
        if packed is None:
            return None
        return AveragedMemory.unpack(packed) if "averages" in packed else SampledMemory.unpack(packed)

    def moved(self, memory: SampledMemory | AveragedMemory | None, control: Control) -> Any:
        return None if memory is None else memory.moved(control)

    def answer(self, memory: Any, control: Control) -> Control:
        mean = memory.mean if isinstance(memory, AveragedMemory) else None
        return control if mean is None else mean

    def origin(self, memory: Any, control: Control) -> Control:
        current = memory.current if isinstance(memory, AveragedMemory) else None
        return control if current is None else current

    def retreat(self, memory: Any) -> tuple[Control, Any] | None:
        return memory.retreat() if isinstance(memory, AveragedMemory) else None

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        if isinstance(self.rho, AdaptivePenalty):
            if transcription.sampled:
                return self._sampled_step(transcription, iterate, self.rho)
            if self._couples(iterate):
                return self._coupled_step(transcription, iterate, self.rho)
            return self._adaptive_step(transcription, iterate, self.rho)
        rho = torch.full_like(iterate.cost, self.rho)
        return take(transcription, iterate, self._argmax(transcription, iterate, rho), rho)

    def target(self, transcription: Timed, iterate: Iterate) -> Control | None:
        if isinstance(self.rho, AdaptivePenalty):
            return None
        return self._argmax(transcription, iterate, torch.full_like(iterate.cost, self.rho))

    def _couples(self, iterate: Iterate) -> bool:
        """Whether the blocks are layers that Gauss–Newton steps and their quasi-Newton coupling serve."""
        ours = self.maximizer is None or isinstance(self.maximizer, GaussNewton)
        return self.accelerate and ours and all(block.layered and block.groups == 1 for block in iterate.sweep.blocks)

    def _coupled_step(self, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> Iterate:
        """Step through all layers by the rows of the whole network, where it has them, else by quasi-Newton pairs."""
        maximizer = self.maximizer or GaussNewton()
        assert isinstance(maximizer, GaussNewton)
        if maximizer.form != "cg" and not isinstance(iterate.memory, CoupledMemory):
            new = levenberg_step(maximizer, transcription, iterate, rule)
            if new is not None:
                return new
            iterate = replace(iterate, memory=None)
        return coupled_step(maximizer, transcription, iterate, rule)

    def _argmax(self, transcription: Timed, iterate: Iterate, rho: Tensor) -> Control:
        penalty = Penalty.uniform(rho)
        return tuple(transcription.maximize(self.maximizer, block, penalty).u for block in iterate.sweep.blocks)

    # ---------------------------------------------------------- adaptive ρ

    @staticmethod
    def _first_rho(iterate: Iterate, rule: AdaptivePenalty) -> Tensor:
        return natural_penalty(iterate) if rule.initial is None else torch.full_like(iterate.cost, rule.initial)

    def _first_memory(self, iterate: Iterate, rule: AdaptivePenalty) -> PenaltyMemory:
        rho, blocks = self._first_rho(iterate, rule), iterate.sweep.blocks
        fits = self.accelerate and len(blocks) == 1 and second_order(blocks[0])
        coupled = fits and iterate.sweep.terminal is not None
        pairs = NewtonSteps.start(iterate) if coupled else CurvaturePairs.empty(blocks[0]) if fits else None
        none, zero = torch.zeros_like(iterate.active), torch.zeros_like(rho)
        return PenaltyMemory(rho, rho * 1e-12, none, pairs, zero + 1.0, zero, zero, zero + torch.inf)

    def _trial(
        self, transcription: Timed, iterate: Iterate, memory: PenaltyMemory
    ) -> tuple[Control, Proposal | None, PenaltyMemory]:
        """Control to try, the (quasi-)Newton steps in it, and the memory with their ρ."""
        if memory.pairs is None or not memory.pairs.ready:
            return freeze(iterate, self._argmax(transcription, iterate, memory.rho)), None, memory
        block = iterate.sweep.blocks[0]
        arguments = (iterate.sweep, memory.rho, iterate.active)
        fast = transcription.clock.time("maximize", memory.pairs.propose, *arguments)
        u = block.control_set.project(block.current + memory.length[:, None] * fast.step)
        if not bool((fast.usable | ~iterate.active).all()):
            (plain,) = self._argmax(transcription, iterate, memory.rho)
            u = torch.where(fast.usable[:, None], u, plain)
        return freeze(iterate, (u,)), fast, memory._replace(rho=fast.rho)

    def _adaptive_step(self, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> Iterate:
        memory: PenaltyMemory = iterate.memory or self._first_memory(iterate, rule)
        old = iterate.sweep.forward
        control, fast, memory = self._trial(transcription, iterate, memory)
        terms = step_terms(iterate, control)
        trial = transcription.forward(control, old)
        outcome = self._outcome(rule, memory, iterate, fast, terms, trial)

        new, pairs = iterate, memory.pairs
        # steps below rounding are judged by the residual, unless there is nothing left to improve
        eps = torch.finfo(old.cost.dtype).eps
        unsure = iterate.active & outcome.tiny & trial.finite & (outcome.fast | (iterate.residual > 1e3 * eps))
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
                pairs = None if pairs is None else pairs.add(iterate.sweep, sweep)

        next_memory, stalled = remember(rule, memory, outcome, pairs, iterate.active)
        taken = outcome.accepted | ~iterate.active
        step = Step(*terms, outcome.constant, memory.rho, taken, torch.zeros_like(taken), stalled)
        return replace(new, step=step, memory=next_memory, trial=trial)

    @staticmethod
    def _outcome(
        rule: AdaptivePenalty,
        memory: PenaltyMemory,
        iterate: Iterate,
        proposal: Proposal | None,
        terms: Terms,
        trial: Any,
    ) -> Outcome:
        """Compare the decrease of J with what the step promised: ∫ΔH, or the model of a (quasi-)Newton step."""
        old, predicted, fast = iterate.sweep.forward, terms.gain, torch.zeros_like(iterate.active)
        if proposal is not None:
            fast = proposal.usable
            predicted = torch.where(fast, memory.length * proposal.predicted, predicted)
        still = ~(predicted > 0)
        tiny = ~still & (predicted <= rounding_of(old))
        ratio = (old.cost - trial.cost) / predicted
        # a quasi-Newton step far outside the region in which H̃ can be trusted saturates networks: not taken
        wild = fast & (0.5 * memory.rho * (terms.state_error + terms.costate_error) > WILD * predicted)
        threshold = torch.where(memory.calibrated, rule.accept, CALIBRATION)  # until a step was accepted
        accepted = iterate.active & trial.finite & ~still & ~tiny & ~wild & (ratio >= threshold)
        constant = estimated_constant(old.cost, trial.cost, terms)
        binding = predicted / (terms.state_error + terms.costate_error).clamp_min(torch.finfo(predicted.dtype).tiny)
        return Outcome(accepted, fast, still, tiny, wild, trial.finite, ratio, constant, binding)

    # ---------------------------------------------------------- mini-batches

    def _first_sampled_memory(self, iterate: Iterate, rule: AdaptivePenalty) -> SampledMemory:
        caution = CAUTION if rule.initial is None else 1.0
        return SampledMemory.start(caution * self._first_rho(iterate, rule))

    def _sampled_step(self, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> Iterate:
        """Step on a mini-batch, which first judges the last step, because that did not see its samples."""
        maximizer = GaussNewton() if self.maximizer is None else self.maximizer
        if all(maximizer.averages(block) for block in iterate.sweep.blocks):
            return averaged_step(maximizer, transcription, iterate, rule.initial)
        memory: SampledMemory = iterate.memory or self._first_sampled_memory(iterate, rule)
        old = iterate.sweep.forward
        rounding, previous = rounding_of(old), memory.judged(iterate.control)
        if previous is not None:
            memory = learn(memory, transcription.forward(previous, old).cost - old.cost, rounding)
        control = self._argmax(transcription, iterate, memory.rho)
        terms = step_terms(iterate, control)
        trial = transcription.forward(control, old)
        drop = old.cost - trial.cost
        threshold = torch.where(memory.steps > 0, rule.accept, CALIBRATION)  # until a step was judged
        accepted = trial.finite & (terms.gain > 0) & (drop >= threshold * terms.gain)
        constant = estimated_constant(old.cost, trial.cost, terms)
        step = Step(*terms, constant, memory.rho, accepted, torch.zeros_like(accepted), torch.zeros_like(accepted))
        memory = note_step(memory, accepted, terms.gain, drop, iterate.control)
        if not bool(accepted.any()):
            tiny = trial.finite & (terms.gain <= rounding)
            rho = torch.where(tiny, memory.rho / 4.0, rejected_rho(rule, memory.rho, trial.finite, constant))
            return replace(iterate, step=step, memory=memory._replace(rho=rho), trial=trial)
        sweep, value = transcription.settle(trial, iterate.first_gradient)
        return replace(iterate, sweep=sweep, residual=value, step=step, memory=memory, trial=trial)
