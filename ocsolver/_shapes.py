"""Checks and small conversions of tensor shapes shared by everything above; it knows no mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["as_tensor", "check_finite", "check_shape", "group_mean", "per_row"]


def as_tensor(value: Any, *, what: str, like: Tensor | None = None) -> Tensor:
    """Detached floating copy of `value` (number, list, array or tensor) with the dtype and device of `like`."""
    try:
        tensor = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        todo = "Pass a number, a list, an array or a tensor."
        raise InputError(complaint(what, expected="numbers", got=repr(value)[:80], todo=todo)) from error
    if tensor.dtype is torch.bool or tensor.is_complex():
        raise InputError(complaint(what, expected="real numbers", got=tensor.dtype, todo="Convert it to a real dtype."))
    if like is not None:
        return tensor.to(dtype=like.dtype, device=like.device)
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def check_finite(tensor: Tensor, *, what: str, todo: str = "Remove the NaN or infinite entries.") -> None:
    """Raise InputError, naming the first offending index, unless every entry is finite."""
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            complaint(what, expected="finite entries", got=f"{tensor[index].item()} at index {index}", todo=todo)
        )


def group_mean(values: Tensor, groups: int) -> Tensor:
    """Mean over the trajectories of each group: (*, B) -> (*, G), with G = 1 (all share one control) or G = B."""
    return values.mean(-1, keepdim=True) if groups == 1 else values


def per_row(mask: Tensor, rows: int) -> Tensor:
    """Expand a value per group (*, G) to a value per trajectory (*, B)."""
    return mask.expand(*mask.shape[:-1], rows)


def check_shape(tensor: Any, shape: tuple[int, ...], *, what: str, todo: str) -> None:
    """Raise ShapeError unless `tensor` is a tensor of exactly the given shape."""
    if not isinstance(tensor, Tensor):
        raise ShapeError(complaint(what, expected="a tensor", got=type(tensor).__name__, todo=todo))
    if tuple(tensor.shape) != shape:
        raise ShapeError(complaint(what, expected=f"shape {shape}", got=f"shape {tuple(tensor.shape)}", todo=todo))
