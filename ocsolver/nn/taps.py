"""Affine maps inside the layers of a network: which layers consist of one, and what passes through it in a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ocsolver._autodiff import gradients
from ocsolver.affine import AffineView, ConvolutionView, LinearView
from ocsolver.nn.layers import Layer

__all__ = ["Tap", "affine_module", "is_affine", "tapped", "view_of"]


class Tap(NamedTuple):
    """Input and output z of an affine map, with their graph."""

    inputs: Tensor
    outputs: Tensor


def affine_module(layer: Layer, x: Tensor) -> nn.Module | None:
    """The affine map of a layer whose controls are its weights, or None for any other layer.

    The map has to act on the input of the layer as it is, up to its shape, and every component of z has to feed at
    most one component of the output, which random signs reveal on the samples x.
    """
    owners = [part for part in layer.module.modules() if any(True for _ in part.parameters(recurse=False))]
    if len(owners) != 1 or not is_affine(owners[0]) or layer.random():
        return None
    with torch.enable_grad(), tapped(owners, [layer]) as taps:
        rates = layer.body(x, None)
        if 0 not in taps or not torch.equal(taps[0].inputs.flatten(1), x.flatten(1)):
            return None
        signs = 2.0 * torch.randint_like(rates, 2) - 1.0
        plain = gradients(rates, (taps[0].outputs,), torch.ones_like(rates), retain_graph=True)[0]
        signed = gradients(rates, (taps[0].outputs,), signs)[0]
    return owners[0] if torch.allclose(plain.abs(), signed.abs()) else None


def is_affine(module: nn.Module) -> bool:
    """Whether a module is a linear map or an ungrouped convolution with zero padding, its weight being trainable."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.weight.requires_grad
    return isinstance(module, nn.Linear) and module.weight.requires_grad


@contextmanager
def tapped(modules: Sequence[nn.Module | None], layers: Sequence[Layer]) -> Iterator[dict[int, Tap]]:
    """Collect what passes through the affine maps of layers while the body runs, by position in the sequence."""
    taps: dict[int, Tap] = {}

    def hook(position: int, layer: Layer) -> Any:
        def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            taps[position] = Tap(arguments[0], output)
            return output.clone() if layer.inplace else output

        return record

    with ExitStack() as stack:
        for position, (module, layer) in enumerate(zip(modules, layers, strict=True)):
            if module is not None:
                stack.callback(module.register_forward_hook(hook(position, layer)).remove)
        yield taps


def view_of(
    maps: Sequence[Any],
    taps: Sequence[Tap],
    following: Sequence[Tensor],
    falls: Callable[[], Sequence[Tensor]],
    weight: float,
) -> AffineView:
    """View of a family of equal layers x + w f, or of a layer f with w = 1.

    Parameters
    ----------
    maps : sequence of Modules
        The affine maps.
    taps : sequence of Tap
        What passed through them.
    following : sequence of Tensors
        The states behind the layers, in the graph of the taps.
    falls : callable
        Returns −∂loss_i/∂z, which is w ∂H/∂z, of each layer.
    weight : float
        w.
    """
    first = maps[0]
    bias = first.bias is not None and first.bias.requires_grad
    inputs = [tap.inputs.detach() for tap in taps]
    linear = isinstance(first, nn.Linear)

    def together(values: Sequence[Tensor]) -> Tensor:
        """Values of all samples and positions of K linear maps (K, B·P, ·)."""
        return torch.stack([value.reshape(-1, value.shape[-1]) for value in values])

    def slopes() -> Tensor:
        each = [
            gradients(state, (tap.outputs,), torch.full_like(state, 1.0 / weight), retain_graph=True)[0]
            for tap, state in zip(taps, following, strict=True)
        ]
        return together(each) if linear else each[0]

    def sensitivities() -> Tensor:
        return (together(falls()) if linear else falls()[0]) / weight

    if linear:
        flat = together(inputs)
        return LinearView(flat, slopes, sensitivities, first.out_features, bias, flat.shape[1] // len(inputs[0]))
    geometry = first.kernel_size, first.stride, first.padding, first.dilation
    return ConvolutionView(inputs[0], slopes, sensitivities, first.out_channels, bias, *geometry)
