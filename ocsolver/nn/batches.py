"""Batches, accuracies and modes: what training asks of loaders and networks; it knows no solver."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["accuracy_of", "as_batch", "batches_of", "check_loader", "mode_of"]


def check_loader(loader: Any, what: str = "loader") -> None:
    """Raise InputError unless a loader can be iterated again and again."""
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        todo = "Pass a DataLoader or a list of (inputs, targets) batches."
        expected = "an iterable that starts anew each time"
        raise InputError(complaint(what, expected=expected, got=type(loader).__name__, todo=todo))


def batches_of(loader: Any) -> int | None:
    """Batches of a loader, if it knows."""
    try:
        return len(loader)
    except TypeError:
        return None


def as_batch(item: Any, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a batch on the network's device; floating ones in its dtype."""
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not all(isinstance(part, Tensor) for part in item):
        inside = ", ".join(type(part).__name__ for part in item) if isinstance(item, (tuple, list)) else ""
        got = f"{type(item).__name__}({inside})" if inside else type(item).__name__
        todo = "Let the loader give two tensors per batch."
        raise InputError(complaint("batch", expected="a pair (inputs, targets) of tensors", got=got, todo=todo))
    like = next(network.parameters())
    inputs, targets = (part.to(like) if part.is_floating_point() else part.to(like.device) for part in item)
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or not len(inputs):
        got = f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}"
        todo = "Samples go along the first axis."
        raise ShapeError(complaint("batch", expected="as many targets as inputs, at least one", got=got, todo=todo))
    return inputs, targets


def accuracy_of(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples whose largest output is the target; NaN unless outputs are (B, C) and targets integers (B,)."""
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool)
    if outputs.ndim != 2 or targets.ndim != 1 or not whole:
        return math.nan
    return float((outputs.argmax(-1) == targets).double().mean())


@contextlib.contextmanager
def mode_of(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode; afterwards every part has its own again."""
    before = {module: module.training for module in network.modules()}
    if network.training != training:
        network.train(training)
    elif not training:
        network.eval()
    try:
        yield
    finally:
        for module, flag in before.items():
            module.training = flag
