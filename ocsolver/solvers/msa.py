"""The method of successive approximations, its extension by Eq. (7), and the control of the penalty ρ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import Penalty, Terms
from ocsolver.maximizers import Maximizer, second_order
from ocsolver.solvers.acceleration import CurvaturePairs
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.transcription import Control

__all__ = ["EMSA", "MSA", "AdaptivePenalty"]

WILD = 10.0  # largest penalty of a quasi-Newton step relative to its predicted gain
PATIENCE = 100  # iterations without an accepted step after which no ρ is believed to help


def check_maximizer(maximizer: Any) -> None:
    """Raise InputError unless `maximizer` is None or a Maximizer."""
    if maximizer is not None and not isinstance(maximizer, Maximizer):
        todo = "Pass an instance such as oc.LBFGS(), or None for the default."
        raise InputError(complaint("maximizer", expected="a Maximizer", got=repr(maximizer), todo=todo))


def step_terms(iterate: Iterate, control: Control) -> Terms:
    """∫ΔH and both feasibility errors ∫‖Δf‖², ∫‖Δ∇ₓH‖² of Lemma 1 for a trial control, each (G,)."""
    total: list[Tensor] = []
    for block, u in zip(iterate.sweep.blocks, control, strict=True):
        terms = block.terms(u)
        parts = torch.stack([(block.weights[:, None] * term).sum(0) for term in terms])
        total.append(parts)
    return Terms(*torch.stack(total).sum(0))


def estimated_constant(old_cost: Tensor, new_cost: Tensor, terms: Terms) -> Tensor:
    """Lemma 1's constant Ĉ = max(0, (J_new − J_old + ∫ΔH) / (E_f + E_q)) seen in one step (G,)."""
    error = terms.state_error + terms.costate_error
    excess = (new_cost - old_cost + terms.gain).clamp_min(0.0)
    return torch.where(error > 0, excess / error.clamp_min(torch.finfo(error.dtype).tiny), torch.zeros_like(error))


def freeze(iterate: Iterate, control: Control) -> Control:
    """Keep the current control in groups that no longer move."""
    return tuple(torch.where(iterate.active[:, None], u, old) for u, old in zip(control, iterate.control, strict=True))


def take(transcription: Timed, iterate: Iterate, control: Control, rho: Tensor) -> Iterate:
    """Move every active group to a trial control that could be simulated; no test of the cost."""
    control = freeze(iterate, control)
    terms = step_terms(iterate, control)
    old = iterate.sweep.forward
    trial = transcription.forward(control, old)
    accepted = iterate.active & trial.finite
    failed = iterate.active & ~trial.finite
    unmoved = torch.stack([(u == v).all(-1).all(0) for u, v in zip(control, iterate.control, strict=True)]).all(0)
    step = Step(*terms, estimated_constant(old.cost, trial.cost, terms), rho, ~failed, failed, iterate.active & unmoved)
    if not bool(accepted.any()):
        return replace(iterate, step=step, trial=trial)
    sweep = transcription.backward(transcription.merge(accepted, trial, old))
    value, _ = transcription.residual(sweep, iterate.first_gradient)
    return replace(iterate, sweep=sweep, residual=value, step=step, trial=trial)


@dataclass(frozen=True)
class MSA(SweepSolver):
    """Method of successive approximations: sweep forward, sweep backward, maximize H, repeat (Algorithm 1).

    It converges only for short horizons or weak coupling; use `EMSA` otherwise.

    Parameters
    ----------
    maximizer : Maximizer, optional
        None picks one that fits the control set.
    relaxation : float, default 1.0
        ω in (0, 1]: u ← ω argmax H + (1 − ω) u. Needs a convex control set unless 1.

    References
    ----------
    .. [1] F. Chernousko, A. Lyubushin, *Method of successive approximations for solution of optimal control problems*,
       Optim. Control Appl. Methods 3 (1982).
    .. [2] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Algorithm 1.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.MSA(relaxation=0.5)
    MSA(maximizer=None, relaxation=0.5)
    """

    maximizer: Maximizer | None = None
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        check_maximizer(self.maximizer)
        omega = self.relaxation
        if isinstance(omega, bool) or not isinstance(omega, (int, float)) or not 0.0 < omega <= 1.0:
            todo = "1 is plain MSA; smaller values damp it."
            raise InputError(complaint("MSA relaxation", expected="a number in (0, 1]", got=repr(omega), todo=todo))

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        control = []
        for block in iterate.sweep.blocks:
            if self.relaxation < 1.0 and not block.control_set.convex:
                todo = "Use relaxation=1 or EMSA."
                raise UnsupportedError(
                    complaint("MSA relaxation", expected="a convex control set", got=block.control_set, todo=todo)
                )
            target = transcription.maximize(self.maximizer, block).u
            control.append(target if self.relaxation == 1.0 else torch.lerp(block.current, target, self.relaxation))
        return take(transcription, iterate, tuple(control), torch.zeros_like(iterate.cost))


@dataclass(frozen=True)
class AdaptivePenalty:
    """Ratio test of Theorem 2: accept a step iff J fell by a fraction of ∫ΔH, and let ρ follow the ratio.

    With r = (J_k − J_{k+1}) / ∫ΔH: reject if r < `accept` and maximize again with a larger ρ (states and costates are
    reused); accept otherwise, with a larger ρ next time if r < ¼ and a smaller one if r > ¾. Until the first acceptance
    ρ is calibrated upwards: a step is taken only if r ≥ ¼.

    Parameters
    ----------
    initial : float, optional
        First ρ > 0; None derives it from the first maximization, free of the scales of state and cost.
    accept : float, default 1e-3
        Smallest accepted ratio, in (0, ¼).
    grow, shrink : float, default 3.0 and 0.5
        Factors of ρ; grow > 1 > shrink > 0.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Lemma 1 and Theorem 2.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.EMSA(rho=oc.AdaptivePenalty(initial=1.0)).rho.initial
    1.0
    """

    initial: float | None = None
    accept: float = 1e-3
    grow: float = 3.0
    shrink: float = 0.5

    def __post_init__(self) -> None:
        ranges = {"initial": (0.0, math.inf), "accept": (0.0, 0.25), "grow": (1.0, math.inf), "shrink": (0.0, 1.0)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if name == "initial" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
                todo = "Leave it out for the default."
                expected = f"a number in ({low:g}, {high:g})"
                raise InputError(complaint(f"AdaptivePenalty {name}", expected=expected, got=repr(value), todo=todo))


class PenaltyMemory(NamedTuple):
    """What E-MSA carries from one iteration to the next, each (G,) but the pairs."""

    rho: Tensor
    smallest: Tensor  # at this ρ an unmoving group has stalled
    calibrated: Tensor  # bool: a step was accepted
    pairs: CurvaturePairs | None  # None: no acceleration
    length: Tensor  # fraction of the quasi-Newton step to try
    idle: Tensor  # iterations since the last accepted step
    rejected: Tensor  # largest ρ whose plain step was rejected since then
    unmoved: Tensor  # smallest ρ that left the control where it was since then


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
    rho: float | AdaptivePenalty = AdaptivePenalty()
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

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        if isinstance(self.rho, AdaptivePenalty):
            return self._adaptive_step(transcription, iterate, self.rho)
        rho = torch.full_like(iterate.cost, self.rho)
        return take(transcription, iterate, self._argmax(transcription, iterate, rho), rho)

    def _argmax(self, transcription: Timed, iterate: Iterate, rho: Tensor) -> Control:
        penalty = Penalty.uniform(rho)
        return tuple(transcription.maximize(self.maximizer, block, penalty).u for block in iterate.sweep.blocks)

    # ---------------------------------------------------------- adaptive ρ

    def _first_memory(self, iterate: Iterate, rule: AdaptivePenalty) -> PenaltyMemory:
        rho = natural_penalty(iterate) if rule.initial is None else torch.full_like(iterate.cost, rule.initial)
        blocks = iterate.sweep.blocks
        fits = self.accelerate and len(blocks) == 1 and second_order(blocks[0])
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
        memory: PenaltyMemory = iterate.memory or self._first_memory(iterate, rule)
        rho, old = memory.rho, iterate.sweep.forward
        control, fast = self._trial(transcription, iterate, memory)
        terms = step_terms(iterate, control)
        trial = transcription.forward(control, old)
        constant = estimated_constant(old.cost, trial.cost, terms)

        noise = 100 * torch.finfo(rho.dtype).eps * old.scale
        predicted = terms.gain
        if bool(fast.any()):
            block = iterate.sweep.blocks[0]
            first_order = (
                block.weights[:, None, None] * block.current_expansion.gradient * (control[0] - block.current)
            ).sum((0, 2))
            predicted = torch.where(fast, first_order, predicted)
        still = ~(predicted > 0)
        tiny = ~still & (predicted <= noise)
        ratio = (old.cost - trial.cost) / predicted
        threshold = torch.where(memory.calibrated, rule.accept, 0.25)
        accepted = iterate.active & trial.finite & ~still & ~tiny & (ratio >= threshold)
        improvable = iterate.residual > 1e3 * torch.finfo(rho.dtype).eps
        # a quasi-Newton step far outside the region in which H̃ can be trusted saturates networks: not taken
        wild = fast & (0.5 * rho * (terms.state_error + terms.costate_error) > WILD * predicted)
        accepted = accepted & ~wild
        trying = accepted | (iterate.active & tiny & trial.finite & improvable)

        new = iterate
        pairs = memory.pairs
        if bool(trying.any()):
            sweep = transcription.backward(transcription.merge(trying, trial, old))
            value, _ = transcription.residual(sweep, iterate.first_gradient)
            worse = trying & ~accepted & ~(value < iterate.residual)  # steps below rounding: judged by the residual
            accepted = trying & ~worse
            if bool(worse.any()) and bool(accepted.any()):
                sweep = transcription.backward(transcription.merge(accepted, trial, old))
                value, _ = transcription.residual(sweep, iterate.first_gradient)
            if bool(accepted.any()):
                new = replace(iterate, sweep=sweep, residual=torch.where(accepted, value, iterate.residual))
                if pairs is not None:
                    pairs = pairs.add(iterate.sweep.blocks[0], sweep.blocks[0])

        # ρ: towards twice the constant that the step revealed, never by less than the factor
        revealed = torch.where(trial.finite, 2.0 * constant, torch.zeros_like(rho))
        larger = torch.minimum(torch.maximum(rule.grow * rho, revealed), 100 * rho)
        next_rho = torch.where(accepted & (ratio > 0.75), rule.shrink * rho, rho)
        next_rho = torch.where(accepted & (ratio > 0.95), 0.1 * rho, next_rho)
        next_rho = torch.where(accepted & (ratio < 0.25) & ~tiny, 2.0 * rho, next_rho)
        next_rho = torch.where(accepted & tiny, rho, next_rho)
        # quasi-Newton: with twice the constant, the secant value, H̃ has the curvature of J along the step
        secant = torch.minimum(torch.maximum(2.0 * constant, 0.2 * rho), 2.0 * rho)
        next_rho = torch.where(accepted & fast & ~tiny, secant, next_rho)
        secant = torch.minimum(torch.maximum(2.0 * constant, rho), rule.grow * rho)
        next_rho = torch.where(~accepted & fast & trial.finite, secant, next_rho)
        next_rho = torch.where(~accepted & ~fast, larger, next_rho)
        next_rho = torch.where(still & trial.finite & ~fast, rho / 4.0, next_rho)
        # where steps jump with ρ (finite sets) the values that help lie between the rejected and the unmoved ones
        rejected = torch.where(~fast & ~still, torch.maximum(memory.rejected, rho), memory.rejected)
        unmoved = torch.where(~fast & still, torch.minimum(memory.unmoved, rho), memory.unmoved)
        rejected, unmoved = torch.where(accepted, 0.0, rejected), torch.where(accepted, torch.inf, unmoved)
        outside = ~accepted & ~fast & ((next_rho <= rejected) | (next_rho >= unmoved))
        next_rho = torch.where(outside, (rejected * unmoved).sqrt(), next_rho)
        # a failed quasi-Newton step is shortened; if that does not help, its pairs are dropped and a plain step is due
        failed = iterate.active & fast & ~accepted
        shorter = torch.where(trial.finite, (0.5 / (1.0 - ratio)).clamp(0.1, 0.5), 0.1)
        length = torch.where(accepted, 1.0, torch.where(failed, shorter * memory.length, memory.length))
        give_up = failed & ((length < 0.01) | wild)
        if pairs is not None and bool(give_up.any()):
            pairs = pairs.forget(give_up)
        length = torch.where(give_up, 1.0, length)
        idle = torch.where(accepted, 0.0, memory.idle + 1.0)
        stalled = iterate.active & (
            (still & ~fast & (rho <= memory.smallest)) | (idle >= PATIENCE) | (unmoved < 1.001 * rejected)
        )
        next_rho = torch.where(iterate.active, next_rho, rho)
        step = Step(*terms, constant, rho, accepted | ~iterate.active, torch.zeros_like(accepted), stalled)
        memory = PenaltyMemory(
            next_rho, memory.smallest, memory.calibrated | accepted, pairs, length, idle, rejected, unmoved
        )
        return replace(new, step=step, memory=memory, trial=trial)


def natural_penalty(iterate: Iterate) -> Tensor:
    """First ρ (G,): along the gradient of H, ρ E for the step that would change J by a tenth of its scale."""
    scale = iterate.sweep.forward.scale
    rho = torch.zeros_like(scale)
    for block in iterate.sweep.blocks:
        _, slope = block.gradient(block.current)
        size = torch.linalg.vector_norm(slope, dim=-1).amax(0)
        small = 1e-3 / size.clamp_min(torch.finfo(size.dtype).tiny)
        terms = block.terms(block.current + small[:, None] * slope)
        w = block.weights[:, None]
        gain = (w * terms.gain).sum(0)
        error = (w * (terms.state_error + terms.costate_error)).sum(0)
        # a step of length s along the gradient gains s·gain and costs ½ρ s²·error: ρ that stops it at s·gain = scale/10
        budget = torch.where(scale > 0, scale / 10, gain / small)
        rho = torch.maximum(rho, gain.square() / (error * budget).clamp_min(torch.finfo(rho.dtype).tiny))
    return torch.where(torch.isfinite(rho) & (rho > 0), rho, torch.ones_like(rho))
