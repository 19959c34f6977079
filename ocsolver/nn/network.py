"""Residual networks as ordinary torch modules; this file knows nothing of control."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["ResidualNetwork", "check_block"]


class ResidualNetwork(nn.Module):
    """Lift layers, `depth` residual layers x + δ·block(x), head layers: Euler steps of ẋ = block(x) on [0, depth·δ].

    Parameters
    ----------
    block : callable
        ``block() -> Module`` makes the body of one residual layer; it must keep the shape of its input.
    depth : int
        Number of residual layers.
    step : float
        δ > 0.
    lift, head : Module or list of Modules, optional
        Layers before and after, of any shape; the children of a ``torch.nn.Sequential`` are layers of their own, nest
        them to make one layer of several modules.

    Raises
    ------
    InputError
        For a block that is not a factory, a depth or a step that is not positive.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Sections 4 and 5.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import ocsolver as oc
    >>> network = oc.nn.ResidualNetwork(
    ...     block=lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()), depth=4, step=0.5, lift=nn.Linear(3, 8)
    ... )
    >>> network(torch.zeros(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, block: Callable[[], nn.Module], depth: int, step: float, lift: Any = None, head: Any = None
    ) -> None:
        super().__init__()
        check_block(block)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            todo = "Pass the number of residual layers."
            raise InputError(complaint("depth", expected="an int ≥ 1", got=repr(depth), todo=todo))
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0.0 < step < math.inf:
            todo = "Pass the time step δ of a layer, such as 0.5."
            raise InputError(complaint("step", expected="a positive number", got=repr(step), todo=todo))
        self.step = float(step)
        self.lift = nn.ModuleList(_modules(lift, "lift"))
        self.layers = nn.ModuleList(_modules([block() for _ in range(depth)], "block()"))
        self.head = nn.ModuleList(_modules(head, "head"))

    def forward(self, x: Tensor) -> Tensor:
        """Output (B, …) for inputs (B, …)."""
        for layer in self.lift:
            x = layer(x)
        for k, layer in enumerate(self.layers):
            rate = layer(x)
            if rate.shape != x.shape:
                todo = "Residual layers keep the shape; change it in `lift` or `head`."
                what, expected = f"output of block {k}", f"shape {tuple(x.shape)}"
                raise ShapeError(complaint(what, expected=expected, got=f"shape {tuple(rate.shape)}", todo=todo))
            x = x + self.step * rate
        for layer in self.head:
            x = layer(x)
        return x


def check_block(block: Any) -> None:
    """Raise InputError unless a block is a factory of modules."""
    if isinstance(block, nn.Module) or not callable(block):
        todo = "Pass a function that makes a new body, e.g. lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh())."
        raise InputError(complaint("block", expected="a function () -> Module", got=type(block).__name__, todo=todo))


def _modules(given: Any, what: str) -> list[nn.Module]:
    """List of modules from None, a module or an iterable of modules."""
    if given is None:
        return []
    if isinstance(given, nn.Module) and not isinstance(given, (nn.Sequential, nn.ModuleList)):
        return [given]
    parts = list(given) if isinstance(given, Iterable) else [given]
    for part in parts:
        if not isinstance(part, nn.Module):
            todo = "Pass a torch module or a list of them."
            raise InputError(complaint(what, expected="torch.nn.Modules", got=type(part).__name__, todo=todo))
    return parts
