"""Double integrator ẋ1 = x2, ẋ2 = u, which several reference problems share; it knows nothing of their costs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["double_integrator"]


def double_integrator(dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Dynamics (t, x, u) -> (x2, u) with constants of the wanted dtype."""
    shift = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=dtype)
    push = torch.tensor([0.0, 1.0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ shift, u, push)

    return dynamics
