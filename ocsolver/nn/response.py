"""How the losses of single samples respond to all weights of a network of affine layers; it knows no solver.

Where a network has one output z, the second derivative of a loss ℓ(z) by the weights is ℓ″ (∂z/∂θ)(∂z/∂θ)ᵀ, when second
derivatives of layers are left out [1]_: the product of one row √ℓ″ ∂z/∂θ with itself. It is the gradient that the
sample's costates gave anyway, times √ℓ″/ℓ′; samples whose loss is stationary are left out.

.. [1] N. Schraudolph, *Fast curvature matrix-vector products for second-order gradient descent*, Neural Computation 14
   (2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver.affine import LinearView
from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.nn.loss import Loss, sample_losses

__all__ = ["drawn", "rows_of", "steepness"]


def drawn(samples: int, count: int, draw: int) -> Tensor:
    """Indices of so many samples, or of all; others for each draw."""
    if samples <= count:
        return torch.arange(samples)
    generator = torch.Generator().manual_seed(draw)  # the global one belongs to the user
    return torch.randperm(samples, generator=generator)[:count]


def steepness(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """√ℓ″/ℓ′ (R,) of losses of one output, zero where the loss is concave or stationary; None if ℓ″ is not known."""
    with torch.enable_grad():
        point = leaf(outputs)
        (slope,) = gradients(sample_losses(loss, point, targets), (point,), create_graph=True)
        try:
            (second,) = gradients(slope, (point,))
        except RuntimeError:  # of torch's losses some have no second derivative
            return None
    factor = second.clamp_min(0.0).sqrt() / slope.detach()
    return torch.nan_to_num(factor, 0.0, 0.0, 0.0).reshape(-1)


def rows_of(blocks: Sequence[HamiltonianBlock], picked: Tensor, factor: Tensor) -> Tensor | None:
    """The derivatives of some samples' losses by the whole control, times a factor each, over √R: (R, D).

    None unless all layers are affine maps of vectors, or if all factors are zero.
    """
    views = [block.affine for block in blocks]
    if not all(isinstance(view, LinearView) and view.positions == 1 for view in views) or not bool(factor.any()):
        return None
    factor, parts = factor[:, None, None] / math.sqrt(len(picked)), []
    for block, view in zip(blocks, views, strict=True):
        assert view is not None
        x, y = (each.mT.index_select(-1, picked).permute(2, 0, 1) for each in (view.inputs, view.sensitivities))
        y = y * (factor * block.weights[:, None])
        weights = (y[..., None] * x[..., None, :]).flatten(-2)  # (R, K, r · columns)
        parts.append((torch.cat((weights, y), -1) if view.bias else weights).flatten(1))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
