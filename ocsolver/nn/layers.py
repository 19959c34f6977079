"""One layer of a network as a function of its input and its parameters; it knows nothing of control."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ocsolver.errors import InputError, ShapeError, UnsupportedError, complaint
from ocsolver.nn.network import ResidualNetwork

__all__ = ["Layer", "layers_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """The map g(x, θ) of a module, or x + δ·module(x; θ) with a step δ; θ holds what requires a gradient.

    Attributes
    ----------
    module : Module
        The layer's body.
    name : str
        How messages call it.
    step : float or None
        δ of a residual layer.
    """

    module: nn.Module
    name: str
    step: float | None = None

    @property
    def weight(self) -> float:
        """Weight w of the site: δ, or 1 of a layer that is not residual."""
        return 1.0 if self.step is None else self.step

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    @property
    def m(self) -> int:
        """Number of trainable parameters."""
        return sum(value.numel() for value in self.parameters.values())

    @cached_property
    def inplace(self) -> bool:
        """Whether some activation overwrites its input, which frozen states must survive."""
        return any(getattr(part, "inplace", False) for part in self.module.modules())

    def vector(self) -> Tensor:
        """Parameters as one vector (m,)."""
        return torch.cat([value.detach().reshape(-1) for value in self.parameters.values()])

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        values = torch.split(theta, [value.numel() for value in self.parameters.values()])
        shapes = [value.shape for value in self.parameters.values()]
        return {name: value.view(s) for name, value, s in zip(self.parameters, values, shapes, strict=True)}

    def body(self, x: Tensor, theta: Tensor | None, seed: int | None = None) -> Tensor:
        """Output of the module for x (B, …) and θ (m,); a seed fixes its random masks."""
        x = x.clone() if self.inplace else x
        with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
            if seed is not None:
                torch.manual_seed(seed)
            if theta is None or not self.parameters:
                result: Any = self.module(x)
            else:
                result = functional_call(self.module, self._split(theta), (x,))
        if not isinstance(result, Tensor):
            todo = "Let every layer return one tensor."
            raise InputError(
                complaint(f"output of {self.name}", expected="a tensor", got=type(result).__name__, todo=todo)
            )
        return result

    def __call__(self, x: Tensor, theta: Tensor | None, seed: int | None = None) -> Tensor:
        rate = self.body(x, theta, seed)
        if self.step is None:
            return rate
        if rate.shape != x.shape:
            expected, got = f"shape {tuple(x.shape)}, as its input", f"shape {tuple(rate.shape)}"
            todo = "A residual layer x + δ·block(x) keeps the shape; change it in `lift` or `head`."
            raise ShapeError(complaint(f"output of {self.name}", expected=expected, got=got, todo=todo))
        return x + self.step * rate

    def bodies(self, x: Tensor, theta: Tensor, *, stacked: bool, seed: int | None = None) -> Tensor:
        """Outputs of the module for R pairs x (R, B, …) and θ (R, m), by one stacked evaluation or one by one."""
        if stacked:
            return torch.vmap(self.body)(x, theta)
        return torch.stack([self.body(each, t, seed) for each, t in zip(x, theta, strict=True)])

    @cached_property
    def _randoms(self) -> tuple[nn.Module, ...]:
        kinds = (nn.modules.dropout._DropoutNd, nn.RReLU)
        return tuple(part for part in self.module.modules() if isinstance(part, kinds))

    def random(self) -> bool:
        """Whether the layer draws masks in its present mode."""
        return any(part.training for part in self._randoms)


def layers_of(network: Any) -> tuple[Layer, ...]:
    """Layers of a ResidualNetwork, of a Sequential (one per child) or of a list of modules.

    Raises
    ------
    InputError
        If it is none of these, or a parameter belongs to two layers.
    UnsupportedError
        If a layer couples the samples of a batch.
    """
    if isinstance(network, ResidualNetwork):
        parts: list[tuple[str, Any, float | None]] = [(f"lift[{k}]", part, None) for k, part in enumerate(network.lift)]
        parts += [(f"layers[{k}]", part, network.step) for k, part in enumerate(network.layers)]
        parts += [(f"head[{k}]", part, None) for k, part in enumerate(network.head)]
    elif isinstance(network, nn.Sequential) or (
        isinstance(network, Iterable) and not isinstance(network, (str, dict, nn.Module))
    ):
        parts = [(f"layer {k}", part, None) for k, part in enumerate(network)]
    else:
        todo = "Wrap your modules in torch.nn.Sequential, one child per layer."
        expected = "a ResidualNetwork, a torch.nn.Sequential or a list of modules"
        raise InputError(complaint("network", expected=expected, got=type(network).__name__, todo=todo))
    layers = []
    for name, part, step in parts:
        if not isinstance(part, nn.Module):
            todo = "Pass torch modules, in the order in which they act."
            raise InputError(complaint(name, expected="a torch.nn.Module", got=type(part).__name__, todo=todo))
        layers.append(Layer(part, f"{name} ({type(part).__name__})", step))
    if not any(layer.m for layer in layers):
        todo = "Give at least one layer parameters that require a gradient."
        raise InputError(complaint("network", expected="trainable parameters", got="none", todo=todo))
    _refuse_shared(layers)
    return tuple(layers)


def refuse_coupled(layers: Iterable[Layer]) -> None:
    """Raise UnsupportedError for batch normalization in training mode: a costate per sample needs uncoupled samples."""
    for layer in layers:
        for part in layer.module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
                todo = "Use GroupNorm or LayerNorm, or freeze its statistics by module.eval()."
                raise UnsupportedError(
                    complaint(
                        layer.name,
                        expected="a layer that treats every sample alone",
                        got=f"{type(part).__name__} in training mode, which couples the samples of a batch",
                        todo=todo,
                    )
                )


def _refuse_shared(layers: Iterable[Layer]) -> None:
    """Raise InputError if two layers hold the same trainable parameter: blocks are maximized independently."""
    owner: dict[int, str] = {}
    for layer in layers:
        for name, value in layer.parameters.items():
            if id(value) in owner:
                todo = "Make a new module per layer, or nest those that share it in one Sequential, as one layer."
                got = f"{name} shared by {owner[id(value)]} and {layer.name}"
                raise InputError(
                    complaint("network", expected="parameters of its own in every layer", got=got, todo=todo)
                )
            owner[id(value)] = layer.name
