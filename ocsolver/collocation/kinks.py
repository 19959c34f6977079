"""Functions with kinks, such as |u|, rounded off while the barrier is high: a mode of torch, no change to user code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Rounded", "Watch"]

ABS = {torch.abs, torch.absolute, Tensor.abs, Tensor.absolute, Tensor.__abs__}
RELU = {torch.relu, Tensor.relu, torch.nn.functional.relu}
CLAMP = {torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, torch.clamp_min, Tensor.clamp_min}
CLAMP |= {torch.clamp_max, Tensor.clamp_max}
LARGER = {torch.maximum, Tensor.maximum, torch.fmax, Tensor.fmax}
SMALLER = {torch.minimum, Tensor.minimum, torch.fmin, Tensor.fmin}
KINKED = ABS | RELU | CLAMP | LARGER | SMALLER


class Watch(TorchFunctionMode):
    """Notes whether a function with a kink is called on something that is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in KINKED and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            self.found = True
        return func(*args, **(kwargs or {}))


class Rounded(TorchFunctionMode):
    """Replaces |z| by √(z² + ε²) − ε, and what is made of it.

    Parameters
    ----------
    epsilon : float
        Radius ε of the rounding; the largest error of |z|.
    memory : list, optional
        Arguments and multipliers of the calls of the iteration before; renewed by this one.

    Notes
    -----
    Newton's method converges badly for √(z² + ε²): its curvature ε²/r³, r = √(z² + ε²), vanishes away from the kink.
    With the slope w as a variable of its own and w r = z linearized, the curvature is (1 − w z/r)/r, and the iterations
    converge as for a smooth function [1]_.

    .. [1] T. Chan, G. Golub, P. Mulet, *A nonlinear primal-dual method for total variation-based image restoration*,
       SIAM J. Sci. Comput. 20 (1999).
    """

    def __init__(self, epsilon: float, memory: list[tuple[Tensor, Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self.epsilon, self.memory = epsilon, memory
        self.before, self.calls = [] if memory is None else list(memory), 0
        if memory is not None:
            memory.clear()

    def _abs(self, z: Tensor) -> Tensor:
        """Value and slope are exact, the curvature is the primal–dual one."""
        with torch.no_grad():
            start = z.clone()
            r = (start * start + self.epsilon**2) ** 0.5
            w = self._multiplier(start, r)
            bend = (1.0 - w * start / r) / r
        move = z - start  # zero, but differentiable
        return (r - self.epsilon) + start / r * move + 0.5 * bend * move * move

    def _multiplier(self, z: Tensor, r: Tensor) -> Tensor:
        """w of this call, by the linearized relation if the iteration before is known."""
        w = z / r
        if self.memory is None:
            return w
        if self.calls < len(self.before) and self.before[self.calls][0].shape == z.shape:
            z0, r0, w0 = self.before[self.calls]
            w = ((z0 + (1.0 - w0 * z0 / r0) * (z - z0)) / r0).clamp(-1.0, 1.0)
        self.memory.append((z, r, w))
        self.calls += 1
        return w

    def _larger(self, a: Any, b: Any) -> Tensor:
        larger: Tensor = 0.5 * (a + b + self._abs(a - b))
        return larger

    def _smaller(self, a: Any, b: Any) -> Tensor:
        smaller: Tensor = 0.5 * (a + b - self._abs(a - b))
        return smaller

    def _clamp(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        z, *sides = args
        low, high = kwargs.get("min"), kwargs.get("max")
        if func in (torch.clamp_max, Tensor.clamp_max):
            high = sides[0] if sides else high
        else:
            low = sides[0] if sides else low
            high = sides[1] if len(sides) > 1 else high
        z = z if low is None else self._larger(z, low)
        return z if high is None else self._smaller(z, high)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in KINKED or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return func(*args, **kwargs)
        if func in ABS:
            return self._abs(args[0])
        if func in RELU:
            return self._larger(args[0], 0.0)
        if func in CLAMP:
            return self._clamp(func, args, kwargs)
        return (self._larger if func in LARGER else self._smaller)(args[0], args[1])
