"""Full-batch E-MSA on networks of affine layers: Levenberg–Marquardt steps through all layers, in the metric of H̃.

A maximization of H̃ sees every layer alone. The second derivative of J through the whole network, CᵀC + λ when those of
the layers are left out, couples them; some samples say what it is, a row of C each. A step then maximizes
−∇J·d − ½|Cd|² − ½λ|d|² − ½ρ d·Gd, where ρG is the curvature of both penalties of H̃, layer by layer, and ρ is the
damping of Levenberg and Marquardt [1]_. By the Woodbury identity that takes G⁻¹ on R + 1 vectors and a system of R
unknowns, and another ρ costs next to nothing. ρ follows the ratio of the decrease of J to the one that the model
promised, by the rule of Nielsen [2]_. Other samples, drawn for the next step, say how far the rows can be trusted:
where they see much more curvature along the step than those that it came from, twice as many are drawn.

It ends where ρ has to be so large that the rows no longer matter, as at the kinks of ReLU networks. The gain that is
recorded is what the model promises; feasibility errors are not computed (nan).

.. [1] D. Marquardt, *An algorithm for least-squares estimation of nonlinear parameters*, SIAM J. Appl. Math. 11 (1963).
.. [2] H. Nielsen, *Damping parameter in Marquardt's method*, Report IMM-REP-1999-05, Technical University of Denmark.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver.maximizers import GaussNewton
from ocsolver.solvers.base import Iterate, Step, Timed
from ocsolver.solvers.coupled import flat_slope, moved
from ocsolver.solvers.penalty import CALIBRATION, AdaptivePenalty, rounding_of
from ocsolver.transcription import Sweep

__all__ = ["LevenbergMemory", "levenberg_step"]

FEW = 100  # rows at first
WORK = 1e9  # multiplications that the products of all rows may take
SURPRISE = 2.0  # curvature along a step, relative to what its rows said, from which they were too few
POWER = 7  # of Nielsen's rule
HOPELESS = 10.0  # ρ relative to the curvature of the rows, in the metric of G, from which they do not matter
ROUNDING = 1e3  # smallest ρ in the same unit, in units of the last place
PATIENCE = 30  # rejections in a row after which no ρ is believed to help


class Trial(NamedTuple):
    """A step, and what the model says about it."""

    step: Tensor  # d (D,)
    promised: float  # decrease of J
    seen: float  # |Cd|²


class Model(NamedTuple):
    """−∇J·d − ½|Cd|² − ½λ|d|² at a control, and its maximizers with any penalty ½ρ d·Gd."""

    slope: Tensor  # −∇J (D,)
    rows: Tensor  # C (R, D)
    shift: float  # λ
    plain: Tensor  # G⁻¹ slope (D,)
    images: Tensor  # C G⁻¹ (R, D)
    gram: Tensor  # C G⁻¹ Cᵀ (R, R), in double precision
    right: Tensor  # C G⁻¹ slope (R,)
    unit: float  # mean diagonal of the gram matrix

    def step(self, rho: float) -> Trial:
        """Step for a ρ."""
        damped = self.gram.clone()
        damped.diagonal().add_(rho)
        inner = torch.cholesky_solve(self.right[:, None], torch.linalg.cholesky_ex(damped)[0])[:, 0]
        step = torch.addmv(self.plain, self.images.mT, inner.to(self.plain), alpha=-1.0).div_(rho)
        seen = self.along(step)
        return Trial(step, float(self.slope @ step) - 0.5 * seen - 0.5 * self.shift * float(step @ step), seen)

    def along(self, step: Tensor) -> float:
        """|Cd|²."""
        images = self.rows @ step
        return float(images @ images)


class LevenbergMemory(NamedTuple):
    """What crosses iterations."""

    rho: float | None  # None: not known yet
    calibrated: bool = False  # a step was accepted
    model: Model | None = None  # at the present control
    models: int = 0  # made so far
    rows: int = FEW  # to ask for
    taken: Trial | None = None  # the last one that was accepted
    surprised: bool = False  # by the last one
    rejected: int = 0  # in a row
    hopeless: bool = False


def levenberg_step(
    maximizer: GaussNewton, transcription: Timed, iterate: Iterate, rule: AdaptivePenalty
) -> Iterate | None:
    """One step and its test; None where there are no rows, or none that matter."""
    old, sweep = iterate.sweep.forward, iterate.sweep
    memory: LevenbergMemory = iterate.memory or LevenbergMemory(rule.initial)
    if memory.hopeless:
        return None
    if memory.model is None:
        memory = transcription.clock.time("maximize", _modelled, maximizer, sweep, memory)
    model, rho = memory.model, memory.rho
    if model is None:
        return None
    assert rho is not None
    tried = transcription.clock.time("maximize", model.step, rho)
    trial = transcription.forward(moved(sweep.blocks, tried.step), old)
    usable = tried.promised > 0 and bool(trial.finite)
    small = abs(tried.promised) <= float(rounding_of(old))  # then J cannot judge: the residual does
    ratio = float(old.cost - trial.cost) / tried.promised if usable and not small else 0.5 if usable else -math.inf
    new, stalled, accepted = iterate, False, ratio >= (rule.accept if memory.calibrated else CALIBRATION)
    if accepted:
        sweep, value = transcription.settle(trial, iterate.first_gradient)
        accepted = not small or bool(value < iterate.residual)
    if accepted:
        new, memory = replace(iterate, sweep=sweep, residual=value), _learned(memory, rule, model, tried, ratio)
    else:
        hopeless = memory.calibrated and not small and rho > HOPELESS * model.unit
        memory = memory._replace(rho=rule.grow * rho, rejected=memory.rejected + 1, hopeless=hopeless)
        stalled = small or (not hopeless and memory.rejected >= PATIENCE)
    unknown, no = torch.full_like(old.cost, torch.nan), torch.zeros_like(trial.finite)
    gain, penalty = torch.full_like(old.cost, tried.promised), torch.full_like(old.cost, rho)
    flags = torch.full_like(no, accepted), no, torch.full_like(no, stalled)
    return replace(new, step=Step(gain, unknown, unknown, unknown, penalty, *flags), memory=memory, trial=trial)


def _learned(
    memory: LevenbergMemory, rule: AdaptivePenalty, model: Model, tried: Trial, ratio: float
) -> LevenbergMemory:
    """Memory after an accepted step."""
    assert memory.rho is not None
    rho = memory.rho * max(rule.shrink, 1.0 - (2.0 * min(ratio, 1.0) - 1.0) ** POWER)
    if ratio > 0.75 and not memory.calibrated:  # a first ρ that was given may be far too large
        rho = min(rho, model.unit)
    return memory._replace(rho=rho, calibrated=True, model=None, taken=tried, rejected=0)


def _modelled(maximizer: GaussNewton, sweep: Sweep, memory: LevenbergMemory) -> LevenbergMemory:
    """Memory with the model at the present control; without where there are no rows."""
    blocks, sizes = sweep.blocks, [block.current.numel() for block in sweep.blocks]
    most = math.isqrt(int(WORK) // sum(sizes))
    response = None if sweep.response is None or most < FEW else sweep.response(min(memory.rows, most), memory.models)
    if response is None:
        return memory
    rows, shift = response.rows, 0.0 if memory.rho is None else response.shift / memory.rho
    slope, images = flat_slope(blocks), []
    for block, part in zip(blocks, torch.split(torch.cat((slope[None], rows)), sizes, -1), strict=True):
        inverse = maximizer.inverse(block, shift / float(block.weights[0]))
        images.append(inverse(part.view(-1, *block.current.shape) / block.weights[:, None, None]).flatten(1))
    together = torch.cat(images, 1) if len(images) > 1 else images[0]
    products = (together @ rows.mT).double()  # of the slope and of the rows with the rows
    right, gram = products[0], products[1:]
    unit = float(gram.diagonal().mean())
    model = Model(slope, rows, response.shift, together[0], together[1:], gram, right, unit)
    rho = model.unit if memory.rho is None else memory.rho
    rho = max(rho, ROUNDING * torch.finfo(slope.dtype).eps * model.unit)
    memory = memory._replace(rho=rho, model=model, models=memory.models + 1)
    if memory.taken is None:
        return memory
    surprised = model.along(memory.taken.step) > SURPRISE * memory.taken.seen
    if surprised and memory.surprised and len(rows) == memory.rows:  # there may be more
        return memory._replace(rows=2 * memory.rows, surprised=False)
    return memory._replace(surprised=surprised)
