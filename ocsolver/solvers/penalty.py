"""The control of the penalty ρ by the ratio test of Theorem 2; it knows outcomes of steps, not how steps are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint
from ocsolver.solvers.acceleration import CurvaturePairs
from ocsolver.solvers.base import Iterate
from ocsolver.solvers.newton import NewtonSteps

__all__ = ["AdaptivePenalty", "Outcome", "PenaltyMemory", "natural_penalty", "rejected_rho", "remember", "rounding_of"]

CALIBRATION = 0.25  # ratio that the first step needs
ROUNDING = 100.0  # gains below this many units of the last place of the cost mean nothing
FAILURES = 20  # Newton steps rejected in a row after which a maximization is due
PATIENCE = 100  # iterations without an accepted step after which no ρ is believed to help


@dataclass(frozen=True)
class AdaptivePenalty:
    """Ratio test of Theorem 2: accept a step iff J fell by a fraction of ∫ΔH, and let ρ follow the ratio.

    With r = (J_k − J_{k+1}) / ∫ΔH: reject if r < `accept` and maximize again with a larger ρ (states and costates are
    reused); accept otherwise, with a larger ρ next time if r < ¼ and a smaller one if r > ¾. Until the first acceptance
    ρ is calibrated upwards: a step is taken only if r ≥ ¼. On mini-batches an accepted step is also judged by what it
    did to the next batch, and ρ grows as noise takes over; there `grow` answers rejections only and `shrink` nothing.

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
    pairs: CurvaturePairs | NewtonSteps | None  # None: no acceleration
    length: Tensor  # fraction of the quasi-Newton step to try
    idle: Tensor  # iterations since the last accepted step
    rejected: Tensor  # largest ρ whose plain step was rejected since then
    unmoved: Tensor  # smallest ρ that left the control where it was since then


class Outcome(NamedTuple):
    """What became of a trial, each (G,)."""

    accepted: Tensor
    fast: Tensor  # a quasi-Newton step
    still: Tensor  # no gain: the control did not move
    tiny: Tensor  # the gain is below rounding
    wild: Tensor  # a quasi-Newton step outside the region of trust
    finite: Tensor  # the trial could be simulated
    ratio: Tensor  # decrease of J over the predicted gain
    constant: Tensor  # Lemma 1's constant, as the step shows it
    binding: Tensor  # ρ at which the penalty of the step is half the predicted gain


def remember(
    rule: AdaptivePenalty,
    memory: PenaltyMemory,
    outcome: Outcome,
    pairs: CurvaturePairs | NewtonSteps | None,
    active: Tensor,
) -> tuple[PenaltyMemory, Tensor]:
    """Memory after a trial, and the groups (G,) that have stalled."""
    accepted, fast, still = outcome.accepted, outcome.fast, outcome.still
    # where steps jump with ρ (finite sets) the values that help lie between the rejected and the unmoved ones
    rejected = torch.where(~fast & ~still, torch.maximum(memory.rejected, memory.rho), memory.rejected)
    unmoved = torch.where(~fast & still, torch.minimum(memory.unmoved, memory.rho), memory.unmoved)
    rejected, unmoved = torch.where(accepted, 0.0, rejected), torch.where(accepted, torch.inf, unmoved)
    exact = pairs is not None and pairs.exact
    rho = _next_rho(rule, memory.rho, outcome, exact=exact)
    outside = ~accepted & ~fast & ((rho <= rejected) | (rho >= unmoved))
    rho = torch.where(outside, (rejected * unmoved).sqrt(), rho)
    # a failed quasi-Newton step is shortened; if that does not help, its pairs are dropped and a plain step is due
    failed = active & fast & ~accepted
    idle = torch.where(accepted, 0.0, memory.idle + 1.0)
    if exact:
        length = memory.length
        give_up = failed & (outcome.tiny | still | (idle >= FAILURES))
    else:
        shorter = torch.where(outcome.finite, (0.5 / (1.0 - outcome.ratio)).clamp(0.1, 0.5), 0.1)
        length = torch.where(accepted, 1.0, torch.where(failed, shorter * memory.length, memory.length))
        give_up = failed & ((length < 0.01) | outcome.wild)
    if pairs is not None and bool(give_up.any()):
        pairs = pairs.forget(give_up)
    stuck = still & ~fast & (memory.rho <= memory.smallest)
    stalled = active & (stuck | (idle >= PATIENCE) | (unmoved < 1.001 * rejected))
    new = PenaltyMemory(
        rho=torch.where(active, rho, memory.rho),
        smallest=memory.smallest,
        calibrated=memory.calibrated | accepted,
        pairs=pairs,
        length=torch.where(give_up, 1.0, length),
        idle=idle,
        rejected=rejected,
        unmoved=unmoved,
    )
    return new, stalled


def _next_rho(rule: AdaptivePenalty, rho: Tensor, outcome: Outcome, *, exact: bool) -> Tensor:
    """ρ of the next step (G,): by the ratio, or towards twice the constant that the step revealed.

    In an `exact` model of J the penalty only says how far the model is trusted: there the ratio decides.
    """
    accepted, fast, still, tiny, _, finite, ratio, constant, _ = outcome
    revealed = _revealed(finite, constant)
    new = torch.where(accepted & (ratio > 0.75), rule.shrink * rho, rho)
    new = torch.where(accepted & (ratio > 0.95), 0.1 * rho, new)
    new = torch.where(accepted & (ratio < 0.25), 2.0 * rho, new)
    new = torch.where(accepted & tiny, rho, new)
    # quasi-Newton: with twice the constant, the secant value, H̃ has the curvature of J along the step
    if exact:
        good = accepted & fast & ~tiny & (ratio >= 0.25)
        # the better the model was, the further it is trusted: on a linear-quadratic problem without limit
        factor = torch.where(ratio > 0.75, (1.0 - ratio).abs().clamp(1e-3, 0.1), 0.5)
        new = torch.where(good, factor * rho, new)
        # at least the ρ at which the penalty of the rejected step would have been its gain, or else nothing changes
        enough = torch.maximum(rule.grow * rho, torch.minimum(outcome.binding, 1000.0 * rho))
        new = torch.where(~accepted & fast, torch.where(finite, enough, 10.0 * rho), new)
    else:
        new = torch.where(accepted & fast & ~tiny, revealed.clamp(0.2 * rho, 2.0 * rho), new)
        new = torch.where(~accepted & fast & finite, revealed.clamp(rho, rule.grow * rho), new)
    new = torch.where(~accepted & ~fast, rejected_rho(rule, rho, finite, constant), new)
    return torch.where(still & finite & ~fast, rho / 4.0, new)


def _revealed(finite: Tensor, constant: Tensor) -> Tensor:
    """Twice the constant of Lemma 1 that a step showed (G,), zero if it showed none."""
    return torch.where(finite & torch.isfinite(constant), 2.0 * constant, torch.zeros_like(constant))


def rejected_rho(rule: AdaptivePenalty, rho: Tensor, finite: Tensor, constant: Tensor) -> Tensor:
    """ρ after a rejected step (G,)."""
    return torch.minimum(torch.maximum(rule.grow * rho, _revealed(finite, constant)), 100 * rho)


def natural_penalty(iterate: Iterate) -> Tensor:
    """First ρ (G,): along the gradient of H, ρ E for the step that would change J by a tenth of its scale."""
    scale = iterate.sweep.forward.scale
    rho = torch.zeros_like(scale)
    for block in iterate.sweep.blocks:
        slope = block.current_slope
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


def rounding_of(forward: Any) -> Tensor:
    """Gain (G,) below which the fall of J is rounding."""
    gain: Tensor = ROUNDING * torch.finfo(forward.scale.dtype).eps * forward.scale
    return gain
