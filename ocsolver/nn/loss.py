"""Losses per sample and weight decay, and what is asked of them; it knows neither networks nor solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ocsolver._call import call
from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["Loss", "check_objective", "check_uncoupled", "sample_losses"]

Loss = Callable[[Tensor, Tensor], Tensor]


def check_objective(loss: Any, weight_decay: Any) -> None:
    """Raise InputError unless the loss can be called and the weight decay is a number ≥ 0."""
    if not callable(loss):
        todo = "For example torch.nn.CrossEntropyLoss(reduction='none')."
        raise InputError(complaint("loss", expected="a callable", got=repr(loss), todo=todo))
    number = isinstance(weight_decay, (int, float)) and not isinstance(weight_decay, bool)
    if not number or not 0.0 <= weight_decay < math.inf:
        todo = "Pass λ of ½ λ ‖θ‖² per layer, or leave it out."
        raise InputError(complaint("weight_decay", expected="a number ≥ 0", got=repr(weight_decay), todo=todo))


def sample_losses(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Losses (B,), checked to be one value per sample."""
    losses: Any = call(loss, "loss", outputs, targets)
    if not isinstance(losses, Tensor) or tuple(losses.shape) != (len(outputs),):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        expected = f"shape (B,) = ({len(outputs)},)"
        todo = "Return one value per sample: reduction='none' in torch's losses, .sum(-1) over components."
        raise ShapeError(complaint("loss(outputs, targets)", expected=expected, got=got, todo=todo))
    return losses


def check_uncoupled(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Raise ShapeError unless the loss of the first sample is the same with and without the others."""
    together, alone = sample_losses(loss, outputs, targets), sample_losses(loss, outputs[:1], targets[:1])
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-6, equal_nan=True):
        todo = "If outputs (B, 1) meet targets (B,), use outputs[:, 0], or targets[:, None] and .sum(-1)."
        expected, got = "a loss of each sample alone", "one that changes with the other samples"
        raise ShapeError(complaint("loss(outputs, targets)", expected=expected, got=got, todo=todo))
