"""Derivatives of batched functions by reverse mode on replicated inputs; it knows nothing of control.

A Jacobian of d outputs is one vector-Jacobian product on d copies stacked on a new leading axis, each copy with its own
unit cotangent. This asks of user code only that it accepts leading axes, as every callable of the library has to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gradients", "replicate", "unit_cotangents"]


def replicate(tensor: Tensor, copies: int) -> Tensor:
    """Stack `copies` views of a tensor on a new leading axis: (*s) -> (copies, *s)."""
    return tensor.expand(copies, *tensor.shape)


def leaf(tensor: Tensor) -> Tensor:
    """Independent variable with the values of a tensor (views materialized), for autograd; never write to it."""
    return tensor.detach().contiguous().requires_grad_()


def unit_cotangents(like: Tensor, copies: int) -> Tensor:
    """Cotangents for `copies` replicas (copies, …, d): replica i gets the unit vector e_i in the last axis."""
    eye = torch.eye(copies, like.shape[-1], dtype=like.dtype, device=like.device)
    return eye.reshape(copies, *(1,) * (like.ndim - 2), like.shape[-1]).expand_as(like)


def gradients(
    output: Tensor,
    inputs: Sequence[Tensor],
    cotangent: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """Vector-Jacobian products; an input that the output ignores has zero gradient."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    if cotangent is None:
        cotangent = torch.ones_like(output)
    return torch.autograd.grad(
        output, list(inputs), cotangent, retain_graph, create_graph=create_graph, materialize_grads=True
    )
