"""E-MSA on mini-batches by a maximizer that averages curvature: a step costs hardly more than that of a gradient.

One sweep gives the cost, the costates and ∂H/∂u, and the averaged curvature a step from them. Nothing tests the step
on its own batch. Instead, some steps are judged on the next one: with Δu the last step, s = 1/ρ its length and J′ the
cost of the next batch, the fall of J′ from the old to the new weights (one more forward sweep) and its slope along Δu
at the new ones (free: the gradient is there) determine a parabola a s − c s². Together with the slope g that the own
batch promised they give ρ by the rule of `sampling`. A step after which J′ is far above the usual is judged at once,
and taken back if it did harm.

The first steps promise no more than two and a half times the cost: twice would be, on a parabola whose minimum is zero,
the step to the minimum, for any metric, and four times the limit of stability. So it calibrates ρ before anything was
judged (the step size of Polyak [1]_, a little longer). Such steps follow the noise of the batches rather than average
it out. So training ends with an average of the weights that were visited, over a window that grows with the number of
steps [2]_. The longer the window, the more noise it takes out, and the longer the steps may be, which in the long run
find better weights: what they may promise grows to sixteen times the cost, and the answer of ρ to noise fades.

.. [1] B. Polyak, *Introduction to Optimization*, 1987, Section 5.3.
.. [2] O. Shamir, T. Zhang, *Stochastic Gradient Descent for Non-smooth Optimization*, ICML 2013 (polynomial decay).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.maximizers import Maximizer
from ocsolver.solvers.base import Iterate, Step, Timed
from ocsolver.solvers.sampling import FASTEST, SLOWEST, WINDOW, noise_answer, noise_factor, penalty_of
from ocsolver.transcription import Control, Sweep

__all__ = ["AveragedMemory", "averaged_step", "fading_answer", "largest_gain"]

FIRST_GAIN = 0.1  # of the cost, that the first step promises
LARGEST_GAIN, LATER = 2.5, 16.0  # of the cost, that a step may promise, at first and in the long run
SETTLED = 400.0  # steps after which it may promise √2 times more than at first, and ρ leaves noise to the average
EARLY = 4  # steps that are all judged
LENGTH = 1.9  # of a step, relative to the one that gains most at once; the average takes out the noise of long ones
CALIBRATION = 0.1  # smallest factor of ρ from one of them to the next
JUDGE = 10  # afterwards every so manieth
DECAY = 8.0  # of the averaged weights: they are those of the last k / DECAY steps, about
USUAL = 20.0  # steps over which the usual cost is averaged
ALARM = 2.0  # times the usual cost
BLAME = 0.5  # share of the excess that a step must have caused to be taken back; the rest may be the batch
RETREAT = 4.0  # factor of ρ after a step that was taken back


CONTROLS = ("previous", "current", "mean", "earlier")


def _listed(control: Control | None) -> list[Tensor] | None:
    return None if control is None else list(control)


class AveragedMemory(NamedTuple):
    """What crosses mini-batches, each (1,) but the controls and the averages of the maximizer."""

    rho: Tensor
    taken: Tensor  # ρ of the last step, which may have been larger
    promised: Tensor  # average slope of the own batch's gain, g
    slope: Tensor  # average of a
    curvature: Tensor  # average of c
    judged: Tensor  # steps in the averages
    steps: Tensor
    usual: Tensor  # cost
    gain: Tensor  # fall of the own batch's cost that the last step promised, to first order
    previous: Control | None  # control before the last step
    current: Control | None  # control after it
    mean: Control | None  # average of the controls, that of the last step included
    earlier: Control | None  # average before it
    averages: tuple[Any, ...]  # of the maximizer, block by block

    def pack(self) -> dict[str, Any]:
        """Plain data."""
        controls = {name: _listed(getattr(self, name)) for name in CONTROLS}
        return self._asdict() | controls | {"averages": list(self.averages)}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> AveragedMemory:
        """Memory from plain data."""
        controls = {name: None if packed[name] is None else tuple(packed[name]) for name in CONTROLS}
        return cls(**packed | controls | {"averages": tuple(packed["averages"])})

    def moved(self, control: Control) -> AveragedMemory:
        """Memory for weights that were changed from outside: the last step cannot be judged any more."""
        kept = (*CONTROLS, "averages")
        numbers = {name: value.to(control[0]) for name, value in self._asdict().items() if name not in kept}
        none: dict[str, Any] = dict.fromkeys(CONTROLS)
        return AveragedMemory(**numbers, **none, averages=(None,) * len(control))

    def last(self, control: Control) -> Control | None:
        """Control before the last step, or None if there is none to be judged, or it was one of other weights."""
        shapes = [] if self.previous is None else [block.shape for block in self.previous]
        return self.previous if shapes == [block.shape for block in control] else None

    def retreat(self) -> tuple[Control, AveragedMemory] | None:
        """Control before the last step, and the memory with which to try again from there."""
        if self.previous is None:
            return None
        memory = self._replace(rho=RETREAT * self.taken, previous=None, current=self.previous, mean=self.earlier)
        return self.previous, memory


def first_memory(cost: Tensor, blocks: int) -> AveragedMemory:
    """Nothing known."""
    zero = torch.zeros_like(cost)
    return AveragedMemory(*(zero,) * 7, cost, zero, None, None, None, None, (None,) * blocks)


def averaged_step(maximizer: Maximizer, transcription: Timed, iterate: Iterate, initial: float | None) -> Iterate:
    """One step; the blocks are those that `maximizer.averages` accepts."""
    memory: AveragedMemory = iterate.memory or first_memory(iterate.cost, len(iterate.sweep.blocks))
    sweep, memory = _judge(transcription, iterate, memory)
    forward = sweep.forward
    served = [
        transcription.clock.time("maximize", maximizer.sampled_step, block, average)
        for block, average in zip(sweep.blocks, memory.averages, strict=True)
    ]
    steps, averages = zip(*served, strict=True)
    unit = first_order_fall(sweep.blocks, steps)
    rho, tiny = memory.rho, torch.finfo(unit.dtype).tiny
    if not bool(rho > 0):
        rho = unit / (FIRST_GAIN * forward.scale).clamp_min(tiny) if initial is None else torch.full_like(unit, initial)
    taken = torch.maximum(rho, unit / (largest_gain(memory.steps) * forward.scale).clamp_min(tiny)).clamp_min(tiny)
    gain = unit / taken
    accepted = torch.isfinite(gain) & (gain >= 0)  # a step of length zero still averages
    moved = bool(accepted)
    share = 1.0 / (memory.steps + 1.0).clamp_max(USUAL)
    control, memory = forward.control, memory._replace(previous=None)
    if moved:
        control = tuple(block.current + step / taken for block, step in zip(sweep.blocks, steps, strict=True))
        mean = _mean(memory, control)
        memory = memory._replace(previous=forward.control, current=control, mean=mean, earlier=memory.mean)
    memory = memory._replace(
        rho=torch.where(accepted, rho, memory.rho),
        taken=taken,
        steps=memory.steps + 1.0,
        usual=torch.lerp(memory.usual, forward.cost, share),
        gain=gain,
        averages=averages if moved else memory.averages,
    )
    settled = replace(sweep, forward=replace(forward, control=control), blocks=())
    unknown, no = torch.full_like(gain, torch.nan), torch.zeros_like(accepted)
    step = Step(gain, unknown, unknown, unknown, taken, accepted, no, no)
    return replace(iterate, sweep=settled, step=step, memory=memory, trial=forward)


def largest_gain(steps: Tensor) -> Tensor:
    """What the next step may promise after so many, relative to the cost (1,)."""
    age = steps / SETTLED
    return (LARGEST_GAIN * (1.0 + age * age.clamp_min(1.0)).sqrt()).clamp_max(LATER)


def fading_answer(steps: Tensor) -> Tensor:
    """Largest factor by which noise may raise ρ after so many steps (1,); in the long run, the average answers."""
    return (noise_answer(steps) / (1.0 + steps / SETTLED)).clamp_min(1.0)


def _mean(memory: AveragedMemory, control: Control) -> Control:
    """Average of the controls so far, with the next one."""
    if memory.mean is None:
        return control
    share = (DECAY + 1.0) / (float(memory.steps) + DECAY + 1.0)
    return tuple(torch.lerp(mean, block, share) for mean, block in zip(memory.mean, control, strict=True))


def _judge(transcription: Timed, iterate: Iterate, memory: AveragedMemory) -> tuple[Sweep, AveragedMemory]:
    """Learn from the last step, or take it back: the sweep to go on from."""
    sweep, forward = iterate.sweep, iterate.sweep.forward
    previous = memory.last(iterate.control)
    alarm = bool(forward.cost > ALARM * memory.usual)
    if previous is None or not (alarm or int(memory.steps) <= EARLY or int(memory.steps) % JUDGE == 0):
        return sweep, memory
    back = transcription.forward(previous, forward)
    fall = back.cost - forward.cost
    if alarm and bool(-fall > BLAME * (forward.cost - memory.usual)):
        return transcription.backward(back), memory._replace(rho=RETREAT * memory.taken, mean=memory.earlier)
    last = [new - old for old, new in zip(previous, forward.control, strict=True)]
    return sweep, _learn(memory, fall, first_order_fall(sweep.blocks, last))


def first_order_fall(blocks: Sequence[HamiltonianBlock], steps: Sequence[Tensor]) -> Tensor:
    """∫ ∂H/∂u·Δu, by which the cost falls to first order along a step Δu (1,)."""
    falls = [
        (block.weights[:, None] * (block.current_slope * step).sum(-1)).sum(0)
        for block, step in zip(blocks, steps, strict=True)
    ]
    return torch.stack(falls).sum(0)


def _learn(memory: AveragedMemory, fall: Tensor, slope: Tensor) -> AveragedMemory:
    """Choose ρ after the next batch judged a step."""
    rho = memory.taken
    seen = torch.stack((rho * memory.gain, rho * (2.0 * fall - slope), rho.square() * (fall - slope).clamp_min(0.0)))
    if not bool(torch.isfinite(seen).all()):
        return memory
    share = 1.0 / (memory.judged + 1.0).clamp_max(WINDOW)
    averages = torch.stack((memory.promised, memory.slope, memory.curvature))
    promised, a, curvature = torch.lerp(averages, seen, share)
    best = penalty_of(promised, curvature, LENGTH) * noise_factor(promised, a, fading_answer(memory.steps))
    fastest, slowest = FASTEST * memory.rho, SLOWEST * memory.rho
    if int(memory.steps) <= EARLY:  # ρ is still unknown
        fastest, slowest = CALIBRATION * memory.rho, torch.maximum(slowest, rho)
    chosen = torch.minimum(torch.maximum(best, fastest), slowest)
    return memory._replace(rho=chosen, promised=promised, slope=a, curvature=curvature, judged=memory.judged + 1.0)
