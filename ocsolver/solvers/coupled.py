"""Full-batch E-MSA on layers with a quasi-Newton coupling of the layers; it knows how ρ is judged, not what a layer is.

A maximization of H̃ sees every layer alone. Its damped Gauss–Newton inverse M⁻¹/ρ, rebuilt every few steps from the
states and costates, is the initial matrix of a limited-memory BFGS model of J [1]_, which learns the coupling between
the layers from the steps taken. ρ needs no search: the last pair (s, y) fixes it as ρ = ½ yᵀM⁻¹y / sᵀy, half of
the scaling of Shanno and Phua [2]_ in the metric of H̃. A step that fails the test of J is shortened, and the next ones
are not much longer than the last that passed; when that does not help, the pairs are dropped and the maximization of H̃
alone takes over, with ρ from the ratio test. The gain that is recorded is the slope along the step; feasibility errors
are not computed (nan), but for a rejected maximization, where Lemma 1 then says how much larger ρ has to be.

.. [1] J. Nocedal, S. Wright, *Numerical Optimization*, 2006, Algorithm 7.4.
.. [2] D. Shanno, K. Phua, *Matrix conditioning and nonlinear optimization*, Math. Programming 14 (1978).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock, Terms
from ocsolver.maximizers import GaussNewton
from ocsolver.maximizers.structured import Linear
from ocsolver.solvers.base import Iterate, Step, Timed
from ocsolver.solvers.msa import estimated_constant, step_terms
from ocsolver.solvers.penalty import CALIBRATION, AdaptivePenalty, rejected_rho, rounding_of
from ocsolver.transcription import Control

__all__ = ["CoupledMemory", "coupled_step", "flat_slope", "preconditioned", "stepped"]

REFRESH = 4  # quasi-Newton steps with one M
HISTORY = 20  # pairs kept
GROWTH, CAUTION = 4.0, 2.0  # longest step relative to the last one, after a good and after a fair one
SCALE = 0.5  # of ρ: the secant value is the larger of the two that a pair offers
SHORTEST = 0.01  # fraction of a quasi-Newton step below which its pairs are dropped
PATIENCE = 30  # rejections in a row after which no ρ is believed to help


class Pair(NamedTuple):
    """A step s, the change y that it made to the gradient of J, and sᵀy."""

    s: Tensor  # (D,)
    y: Tensor  # (D,)
    product: float


class CoupledMemory(NamedTuple):
    """What crosses iterations; vectors hold all blocks one after the other."""

    rho: Tensor  # (1,)
    calibrated: bool = False  # a step was accepted
    pairs: tuple[Pair, ...] = ()  # newest last
    direction: Tensor | None = None  # the step that is being shortened
    length: float = 1.0
    radius: float = math.inf  # of the region of trust: longest step to try
    rejected: int = 0  # in a row
    inverses: tuple[Linear, ...] = ()  # M⁻¹ of the blocks
    age: int = 0  # directions computed

    @classmethod
    def start(cls, rule: AdaptivePenalty, forward: Any) -> CoupledMemory:
        """Nothing known but, perhaps, a first ρ."""
        return cls(torch.full_like(forward.cost, rule.initial or 0.0))


def coupled_step(maximizer: GaussNewton, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty) -> Iterate:
    """One Gauss–Newton or quasi-Newton step, and its test."""
    blocks, old = iterate.sweep.blocks, iterate.sweep.forward
    memory: CoupledMemory = iterate.memory or CoupledMemory.start(rule, old)
    slope = flat_slope(blocks)
    if memory.direction is None:
        memory = transcription.clock.time("maximize", _direction, maximizer, blocks, slope, old, memory)
    assert memory.direction is not None
    fast, rho, unknown = bool(memory.pairs), memory.rho, torch.full_like(old.cost, torch.nan)
    step = memory.length * memory.direction
    control = stepped(blocks, step)
    terms, constant = Terms((slope @ step)[None], unknown, unknown), unknown
    trial = transcription.forward(control, old)
    drop, promised = float(old.cost - trial.cost), float(terms.gain)
    ratio = drop / promised if promised > 0 and bool(trial.finite) else -math.inf
    accepted = ratio >= (rule.accept if memory.calibrated else CALIBRATION)
    new, stalled = iterate, False
    if accepted:
        sweep, value = transcription.settle(trial, iterate.first_gradient)
        new = replace(iterate, sweep=sweep, residual=value)
        memory = _learned(memory, rule, fast, ratio, step, slope - flat_slope(sweep.blocks))
    else:
        if not fast:
            terms = step_terms(iterate, control)
            constant = estimated_constant(old.cost, trial.cost, terms)
        memory = _rejected(memory, rule, fast, ratio, trial.finite, constant)
        stalled = memory.rejected >= PATIENCE or (not fast and promised <= float(rounding_of(old)))
    flag, no = torch.full_like(trial.finite, accepted), torch.zeros_like(trial.finite)
    record = Step(*terms, constant, rho, flag, no, torch.full_like(no, stalled))
    return replace(new, step=record, memory=memory, trial=trial)


def flat_slope(blocks: Sequence[HamiltonianBlock]) -> Tensor:
    """−∇J by the whole control (D,): w ∂H/∂u of all sites."""
    return torch.cat([(block.weights[:, None, None] * block.current_slope).flatten() for block in blocks])


def stepped(blocks: Sequence[HamiltonianBlock], step: Tensor) -> Control:
    """The present control plus a step (D,)."""
    parts = torch.split(step, [block.current.numel() for block in blocks])
    return tuple(block.current + part.view_as(block.current) for block, part in zip(blocks, parts, strict=True))


def preconditioned(inverses: Sequence[Linear], blocks: Sequence[HamiltonianBlock], vectors: Tensor) -> Tensor:
    """M⁻¹ of vectors (*l, D), block by block; the weights turn a gradient of J into one of H."""
    parts = torch.split(vectors, [block.current.numel() for block in blocks], -1)
    images = [
        inverse(part.reshape(*part.shape[:-1], *block.current.shape) / block.weights[:, None, None]).flatten(-3)
        for inverse, part, block in zip(inverses, parts, blocks, strict=True)
    ]
    return torch.cat(images, -1) if len(images) > 1 else images[0]


def _direction(
    maximizer: GaussNewton, blocks: Sequence[HamiltonianBlock], slope: Tensor, forward: Any, memory: CoupledMemory
) -> CoupledMemory:
    """The next step: M⁻¹∇H / ρ, or that of the quasi-Newton model by the two-loop recursion."""
    if memory.age % REFRESH == 0:
        memory = memory._replace(inverses=tuple(maximizer.inverse(block) for block in blocks))
    initial = partial(preconditioned, memory.inverses, blocks)
    if not memory.pairs:
        step, rho = initial(slope), memory.rho
        if not bool(rho > 0):  # the first step promises, to first order, all of J
            rho = (slope @ step)[None] / forward.scale.clamp_min(torch.finfo(slope.dtype).tiny)
            rho = torch.where(torch.isfinite(rho) & (rho > 0), rho, 1.0)
        return memory._replace(rho=rho, direction=step / rho, length=1.0, age=memory.age + 1)
    last = memory.pairs[-1]
    scale = SCALE * float(last.y @ initial(last.y)) / last.product
    vector, factors = slope, []
    for s, y, product in reversed(memory.pairs):
        factors.append(float(s @ vector) / product)
        vector = torch.sub(vector, y, alpha=factors[-1])
    step = initial(vector) / scale
    for (s, y, product), factor in zip(memory.pairs, reversed(factors), strict=True):
        step = torch.add(step, s, alpha=factor - float(y @ step) / product)
    if not math.isfinite(scale * float(step @ step)):
        return _direction(maximizer, blocks, slope, forward, memory._replace(pairs=(), age=0))
    length = min(1.0, memory.radius / max(float(torch.linalg.vector_norm(step)), torch.finfo(step.dtype).tiny))
    rho = torch.full_like(memory.rho, scale)
    return memory._replace(rho=rho, direction=step, length=length, age=memory.age + 1)


def _learned(
    memory: CoupledMemory, rule: AdaptivePenalty, fast: bool, ratio: float, step: Tensor, change: Tensor
) -> CoupledMemory:
    """Memory after an accepted step, which changed −∇J by −`change`."""
    pairs, product = memory.pairs, float(step @ change)
    if product > 1e-8 * math.sqrt(float(step @ step) * float(change @ change)):
        pairs = (*pairs, Pair(step, change, product))[-HISTORY:]
    radius = float(torch.linalg.vector_norm(step)) * (GROWTH if ratio > 0.75 else CAUTION)
    factor = 1.0 if fast else rule.shrink if ratio > 0.75 else 2.0 if ratio < 0.25 else 1.0
    return memory._replace(
        rho=factor * memory.rho,
        calibrated=True,
        pairs=pairs,
        direction=None,
        length=1.0,
        radius=radius,
        rejected=0,
    )


def _rejected(
    memory: CoupledMemory, rule: AdaptivePenalty, fast: bool, ratio: float, finite: Tensor, constant: Tensor
) -> CoupledMemory:
    """Memory after a rejected step: a shorter one, no pairs, or a larger ρ."""
    memory = memory._replace(rejected=memory.rejected + 1)
    if not fast:
        return memory._replace(rho=rejected_rho(rule, memory.rho, finite, constant), direction=None, age=memory.age - 1)
    length = memory.length * (min(0.5, max(0.1, 0.5 / (1.0 - ratio))) if ratio > -math.inf else 0.1)
    if length >= SHORTEST:
        return memory._replace(length=length)
    return memory._replace(pairs=(), direction=None, length=1.0, age=0)
