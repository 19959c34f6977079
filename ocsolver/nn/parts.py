"""Affine maps and other parameters inside of layers of any kind, for averages over mini-batches; it knows no solver.

A layer is run again from its stored input, for some samples only, so that a training step need not keep its graph. One
product with random signs then gives, in expectation, the squares of the derivatives by the outputs z of every affine
map: exactly where each z_j feeds one component, as behind an activation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ocsolver._autodiff import gradients, leaf
from ocsolver.affine import AffineView, ConvolutionView, LinearView, Part, enough_samples
from ocsolver.nn.layers import Layer
from ocsolver.nn.taps import Tap, is_affine, tapped

__all__ = ["Inside", "inside_of", "parts_of"]

PROBES = 4  # products with random signs for parameters outside of affine maps


class Inside(NamedTuple):
    """What a layer consists of."""

    maps: tuple[nn.Module, ...]  # affine maps, in the order of the parameters
    sizes: tuple[tuple[int, bool], ...]  # of the parts: number of parameters, and whether they are those of a map
    samples: int  # that are enough for averages


def inside_of(layer: Layer, x: Tensor) -> Inside:
    """Affine maps that act exactly once in a layer, seen on the samples x (B, …), and the other parameters."""
    candidates: list[Any] = [part for part in layer.module.modules() if is_affine(part)]
    calls: Counter[nn.Module] = Counter()
    with ExitStack() as stack, tapped(candidates, [layer] * len(candidates)) as taps:
        for part in candidates:
            stack.callback(part.register_forward_hook(lambda module, *_: calls.update([module])).remove)
        layer.body(x, None)
    maps, samples = {}, 1
    for k, part in enumerate(candidates):
        if calls[part] == 1:
            maps[id(part.weight)] = part
            positions = _positions(part, taps[k], len(x))
            samples = max(samples, enough_samples(1 + part.weight[0].numel(), positions))
    biases = {id(part.bias): part for part in maps.values() if part.bias is not None}
    sizes: list[tuple[int, bool]] = []
    for value in layer.parameters.values():
        if id(value) in biases:  # follows its weight
            sizes[-1] = (sizes[-1][0] + value.numel(), True)
        else:
            sizes.append((value.numel(), id(value) in maps))
    ordered = [maps[id(value)] for value in layer.parameters.values() if id(value) in maps]
    return Inside(tuple(ordered), tuple(sizes), samples)


def parts_of(
    layers: Sequence[Layer], insides: Sequence[Inside], states: Sequence[Tensor], thetas: Tensor, seed: int | None
) -> tuple[Part, ...]:
    """Parts of equal layers at their inputs (B, …) and parameters (K, m); means are over some of the samples."""
    each = [
        _parts(layer, inside, x[: inside.samples], theta, seed)
        for layer, inside, x, theta in zip(layers, insides, states, thetas, strict=True)
    ]
    return each[0] if len(each) == 1 else tuple(_together(equal) for equal in zip(*each, strict=True))


def _parts(layer: Layer, inside: Inside, x: Tensor, theta: Tensor, seed: int | None) -> tuple[Part, ...]:
    """Parts of one layer."""
    maps, others = inside.maps, not all(mapped for _, mapped in inside.sizes)
    generator = torch.Generator().manual_seed(0)  # the global one belongs to the user
    with torch.enable_grad(), tapped(maps, [layer] * len(maps)) as taps:
        theta = leaf(theta)
        rates = layer.body(x, theta, seed)

        def product(variables: Sequence[Tensor], *, last: bool) -> tuple[Tensor, ...]:
            signs = 2.0 * torch.randint(2, rates.shape, generator=generator).to(rates) - 1.0
            return gradients(rates, variables, signs, retain_graph=not last)

        slopes = product([taps[k].outputs for k in range(len(maps))], last=not others) if maps else ()
        squares = theta.new_zeros(theta.shape)
        for k in range(PROBES if others else 0):
            squares = squares + product([theta], last=k + 1 == PROBES)[0].square() / (PROBES * len(x))
    views = (_view(part, taps[k], slopes[k], len(x)) for k, part in enumerate(maps))
    pieces = torch.split(squares, [size for size, _ in inside.sizes])
    return tuple(
        Part(view=next(views)) if mapped else Part(squares=piece[None])
        for piece, (_, mapped) in zip(pieces, inside.sizes, strict=True)
    )


def _positions(part: Any, tap: Tap, samples: int) -> int:
    """Number of positions of each sample at which a map acts."""
    return max(1, tap.outputs.numel() // (samples * len(part.weight)))


def _view(part: Any, tap: Tap, slopes: Tensor, samples: int) -> AffineView:
    """View of an affine map, whose sensitivities are unknown."""
    bias = part.bias is not None and part.bias.requires_grad
    inputs, rows = tap.inputs.detach(), len(part.weight)
    if isinstance(part, nn.Linear):
        flat, s = inputs.reshape(1, -1, inputs.shape[-1]), slopes.reshape(1, -1, rows)
        return LinearView(flat, lambda: s, _unknown, rows, bias, flat.shape[1] // samples)
    geometry = part.kernel_size, part.stride, part.padding, part.dilation
    return ConvolutionView(inputs, lambda: slopes, _unknown, rows, bias, *geometry)


def _unknown() -> Tensor:
    raise NotImplementedError("averages do not use sensitivities")


def _together(parts: Sequence[Part]) -> Part:
    """One part of equal layers on vectors; a convolution never comes here."""
    if parts[0].squares is not None:
        return Part(squares=torch.cat([part.squares for part in parts if part.squares is not None]))
    views = [part.map for part in parts]
    first = views[0]
    assert isinstance(first, LinearView)
    slopes = torch.cat([view.slopes for view in views])
    inputs = torch.cat([view.inputs for view in views])
    return Part(view=LinearView(inputs, lambda: slopes, _unknown, first.rows, first.bias, first.positions))
