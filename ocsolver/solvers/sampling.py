"""The control of the penalty ρ on mini-batches: what a step promised on its own batch, and what it did on the next.

On its own batch a step looks better than it is, because it also fits the noise of that batch. So the ratio test alone
lets ρ fall until the weights follow every batch. Another batch tells: along a step of length s = 1/ρ the own batch
promises the gain g s, its cost falls by g s − c s², and that of another batch by about a s − c s² with a smaller slope
a. Averages over the last steps give the length a / (2 c) at which the other batch gains most in one step. That is too
short in the long run, for it follows the noise in the directions of large curvature and starves the others [1]_. So

    ρ = 2 c / (LENGTH g) · min(g / a, √(1 + k / DECAY))    after k steps, with LENGTH between 1 and 2:

a penalty for the curvature, times an answer to the noise that grows no faster than the root of the number of steps,
as step sizes of stochastic gradients decay [2]_. The bound is needed: near a minimum a vanishes, and within an epoch
it even becomes negative, because batches drawn without replacement are anticorrelated there.

.. [1] Y. Wu, M. Ren, R. Liao, R. Grosse, *Understanding Short-Horizon Bias in Stochastic Meta-Optimization*, ICLR 2018.
.. [2] L. Bottou, F. Curtis, J. Nocedal, *Optimization Methods for Large-Scale Machine Learning*, SIAM Review 60 (2018).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.transcription import Control

__all__ = [
    "FASTEST",
    "SLOWEST",
    "WINDOW",
    "SampledMemory",
    "learn",
    "noise_answer",
    "noise_factor",
    "note_step",
    "penalty_of",
]

LENGTH = 1.4  # of a step, relative to the one that gains most at once, between 1 and 2
WINDOW = 30.0  # steps of the averages
DECAY = 20.0  # steps until noise may make ρ √2 times larger
SLOWEST, FASTEST = 1.5, 0.7  # factors of ρ from one step to the next


class SampledMemory(NamedTuple):
    """What E-MSA carries from one mini-batch to the next, each (1,) but the control."""

    rho: Tensor
    promised: Tensor  # average slope of the own batch's gain, g
    slope: Tensor  # average of a
    curvature: Tensor  # average of c
    steps: Tensor  # in the averages
    gain: Tensor  # ∫ΔH of the last step, on its own batch
    drop: Tensor  # fall of its own batch's cost
    previous: Control | None  # control before the last step; None if it was rejected

    @classmethod
    def start(cls, rho: Tensor) -> SampledMemory:
        """Nothing known but a first ρ."""
        zero = torch.zeros_like(rho)
        return cls(rho, zero, zero, zero, zero, zero, zero, None)

    def pack(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict() | {"previous": None if self.previous is None else list(self.previous)}

    def moved(self, control: Control) -> SampledMemory:
        """Memory for weights that were changed from outside: the last step cannot be judged any more."""
        numbers = {name: value.to(control[0]) for name, value in self._asdict().items() if name != "previous"}
        return SampledMemory(**numbers, previous=None)

    def judged(self, control: Control) -> Control | None:
        """Control before the last step, or None if there is none to be judged, or it was one of other weights."""
        shapes = [] if self.previous is None else [block.shape for block in self.previous]
        return self.previous if shapes == [block.shape for block in control] else None

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> SampledMemory:
        """Memory from plain data."""
        previous = packed["previous"]
        return cls(**packed | {"previous": None if previous is None else tuple(previous)})


def learn(memory: SampledMemory, fresh: Tensor, rounding: Tensor) -> SampledMemory:
    """Choose ρ after the last step made the cost of another batch fall by `fresh`; gains below `rounding` are noise."""
    rho = memory.rho
    lacking = (memory.gain - memory.drop).clamp_min(0.0)
    seen = torch.stack((rho * memory.gain, rho * (fresh + lacking), rho.square() * lacking))
    visible = memory.gain > rounding
    known = visible & torch.isfinite(seen).all(0)
    share = torch.where(known, 1.0 / torch.clamp(memory.steps + 1.0, max=WINDOW), 0.0)
    averages = torch.stack((memory.promised, memory.slope, memory.curvature))
    promised, slope, curvature = torch.lerp(averages, seen.nan_to_num(0.0, 0.0, 0.0), share)
    best = penalty_of(promised, curvature) * noise_factor(promised, slope, noise_answer(memory.steps))
    best = torch.minimum(torch.maximum(best, FASTEST * rho), SLOWEST * rho)
    chosen = torch.where(known, best, torch.where(visible, rho, FASTEST * rho))
    return memory._replace(rho=chosen, promised=promised, slope=slope, curvature=curvature, steps=memory.steps + known)


def penalty_of(promised: Tensor, curvature: Tensor, length: float = LENGTH) -> Tensor:
    """ρ from the averages of g and c for steps of a relative length, as if there were no noise (1,)."""
    return 2.0 * curvature / (length * promised)


def noise_answer(steps: Tensor) -> Tensor:
    """Largest factor by which noise may raise ρ after so many steps (1,)."""
    return (1.0 + steps / DECAY).sqrt()


def noise_factor(promised: Tensor, slope: Tensor, most: Tensor) -> Tensor:
    """The answer to noise, from the averages of g and a, up to a largest one (1,)."""
    return torch.where(slope > 0, (promised / slope).clamp_min(1.0), torch.inf).minimum(most)


def note_step(memory: SampledMemory, accepted: Tensor, gain: Tensor, drop: Tensor, control: Control) -> SampledMemory:
    """Remember a step from `control`, to be judged on the next batch; a rejected one is not judged."""
    previous = control if bool(accepted.all()) else None
    return memory._replace(gain=gain, drop=drop, previous=previous)
