"""Layers f = φ(z) with an affine map z = Θx̃, as structured Gauss–Newton sees them; it knows no network and no penalty.

Here x̃ = [x; 1], the bias is the last column of Θ, and every component of z feeds at most one component of f, as behind
an activation or a max-pool. With the slopes s = φ′(z) and y = s∘p = ∂H/∂z, the first derivatives of a layer are
∂f_j/∂Θ_j = s_j x̃ and ∇ₓH = Wᵀy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AffineView", "ConvolutionView", "LinearView", "Part", "Shape", "enough_samples"]

POSITIONS = 2  # times the columns of a convolution, from which its Gram matrix is estimated on mini-batches
IMAGES = 10  # at least
SAMPLES = 32  # times the columns of a linear map, from which the Gram matrices of its rows are estimated


class Shape(NamedTuple):
    """Shape of Θ = [W b], and its relation to a control vector, which has the rows of W first and then b."""

    rows: int  # r
    width: int  # columns of W
    bias: bool

    @property
    def plain(self) -> tuple[int, int, bool]:
        """As plain data."""
        return self.rows, self.width, self.bias

    @property
    def size(self) -> int:
        """Number of entries of Θ."""
        return self.rows * (self.width + self.bias)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """W (*l, r, columns) and b (*l, r, 1) from control vectors (*l, m)."""
        weights = u[..., : self.rows * self.width].reshape(*u.shape[:-1], self.rows, self.width)
        return weights, u[..., self.rows * self.width :, None] if self.bias else None

    def matrix(self, u: Tensor) -> Tensor:
        """Θ from control vectors: (*l, m) -> (*l, r, a)."""
        weights, bias = self.split(u)
        return weights if bias is None else torch.cat((weights, bias), -1)

    def vector(self, matrix: Tensor) -> Tensor:
        """Control vectors from Θ: (*l, r, a) -> (*l, m)."""
        weights = matrix[..., : self.width].flatten(-2)
        return torch.cat((weights, matrix[..., self.width]), -1) if self.bias else weights


class Part(NamedTuple):
    """Consecutive parameters of K equal layers that share an average: Θ of an affine map, or any others.

    Attributes
    ----------
    view : AffineView or None
        Of an affine map, on some of the samples; its slopes s satisfy ⟨s_j²⟩ = ⟨Σ_i (∂f_i/∂z_j)²⟩.
    squares : Tensor (K, size) or None
        Of other parameters: an estimate of the diagonal of ⟨FᵀF⟩, F = ∂f/∂θ.
    """

    view: AffineView | None = None
    squares: Tensor | None = None

    @property
    def map(self) -> AffineView:
        """The view of an affine map."""
        assert self.view is not None
        return self.view


def enough_samples(columns: int, positions: int) -> int:
    """Number of samples from which A of a map with so many columns and positions is estimated on mini-batches."""
    return max(IMAGES, math.ceil(POSITIONS * columns / positions))


def _some(columns: Tensor, most: int) -> Tensor:
    """At most so many columns (*l, a, S), evenly spaced."""
    return columns[..., :: -(-columns.shape[-1] // most)]


@dataclass(frozen=True, eq=False)
class AffineView(ABC):
    """Abstract base class: inputs and sensitivities of K equal affine layers; means ⟨·⟩ are over the samples.

    Attributes
    ----------
    inputs : Tensor
        x, without the 1.
    derivative : callable
        Returns the slopes s = φ′(z), which not every use needs.
    fall : callable
        Returns the sensitivities y = ∂H/∂z of every sample.
    rows : int
        Number r of rows of Θ.
    bias : bool
        Whether the control has a bias, after the weights.
    """

    inputs: Tensor
    derivative: Callable[[], Tensor]
    fall: Callable[[], Tensor]
    rows: int
    bias: bool

    @cached_property
    def slopes(self) -> Tensor:
        """s = φ′(z), in the shape of the sensitivities."""
        return self.derivative()

    @cached_property
    def sensitivities(self) -> Tensor:
        """y = ∂H/∂z."""
        return self.fall()

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of columns of W."""

    @property
    def columns(self) -> int:
        """Number a of columns of Θ, that of the bias included."""
        return self.width + self.bias

    @property
    @abstractmethod
    def samples(self) -> int:
        """Number of samples, or of positions in all of them, that an estimated Gram matrix is made of."""

    @property
    def shape(self) -> Shape:
        """Shape of Θ."""
        return Shape(self.rows, self.width, self.bias)

    @abstractmethod
    def gram(self, *, estimate: bool = False) -> Tensor:
        """A = ⟨x̃x̃ᵀ⟩, summed over the positions of a kernel (K, a, a); an estimate may leave samples out."""

    @abstractmethod
    def row_gram(self, *, estimate: bool = False) -> Tensor:
        """⟨s_j² x̃x̃ᵀ⟩ of every row, summed over the positions (K, r, a, a): ∂f_jᵀ∂f_j; an estimate as above."""

    @abstractmethod
    def root(self, most: int) -> Tensor:
        """R with RRᵀ about A, from at most so many samples or positions (K, a, S)."""

    @abstractmethod
    def slope_square(self) -> Tensor:
        """⟨s_j²⟩, averaged over the positions (K, r)."""

    @abstractmethod
    def sensitivity_gram(self) -> Tensor:
        """B = ⟨yyᵀ⟩, summed over the positions (K, r, r)."""


@dataclass(frozen=True, eq=False)
class LinearView(AffineView):
    """Fully connected layers: inputs (K, B, a), slopes and sensitivities (K, B, r).

    Attributes
    ----------
    positions : int
        Number of positions of each sample at which the map acts, all of which are among the B.
    """

    positions: int = 1

    @property
    def samples(self) -> int:
        return self.inputs.shape[1]

    @property
    def width(self) -> int:
        return self.inputs.shape[-1]

    def _extended(self, every: int = 1) -> Tensor:
        """x̃ of every so many samples (K, a, S)."""
        x = self.inputs.mT[..., ::every]
        return torch.cat((x, torch.ones_like(x[:, :1])), 1) if self.bias else x

    def gram(self, *, estimate: bool = False) -> Tensor:
        x = self._extended()
        return x @ x.mT * (self.positions / x.shape[-1])

    def row_gram(self, *, estimate: bool = False) -> Tensor:
        every = max(1, self.inputs.shape[1] // (SAMPLES * self.columns)) if estimate else 1
        x, slopes = self._extended(every), self.slopes.mT[..., ::every]
        products = (x[:, :, None] * x[:, None]).flatten(1, 2)  # (K, a², B)
        grams = slopes.square() @ products.mT * (self.positions / x.shape[-1])
        return grams.reshape(*grams.shape[:-1], x.shape[1], x.shape[1])

    def root(self, most: int) -> Tensor:
        x = _some(self._extended(), most)
        return x * math.sqrt(self.positions / x.shape[-1])

    def slope_square(self) -> Tensor:
        return self.slopes.square().mean(1)

    def sensitivity_gram(self) -> Tensor:
        return self.sensitivities.mT @ self.sensitivities * (self.positions / self.inputs.shape[1])


@dataclass(frozen=True, eq=False)
class ConvolutionView(AffineView):
    """One convolution (K = 1): inputs (B, C, *space), slopes and sensitivities (B, r, *positions).

    Attributes
    ----------
    kernel, stride, padding, dilation : tuple of int
        Its geometry, one number per spatial axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def samples(self) -> int:
        return self._images * prod(self.inputs.shape[2:]) // prod(self.stride)

    @property
    def _images(self) -> int:
        """Number of images that an estimate uses."""
        return min(len(self.inputs), enough_samples(self.columns, prod(self.inputs.shape[2:])))

    @property
    def width(self) -> int:
        return self.inputs.shape[1] * prod(self.kernel)

    def gram(self, *, estimate: bool = False) -> Tensor:
        """A by autocorrelation: no patch is written out.

        The inputs are extended by zeros and the kernel takes all positions at which it sees any of them, so that the
        result depends on differences of taps only, and is not below the exact A (for a stride, which leaves positions
        out, only its expectation).
        """
        x = self.inputs
        if estimate:
            x = x[: self._images]
        channels, taps = x.shape[1], prod(self.kernel)
        reach = tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))
        convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(self.kernel)]
        swapped = x.transpose(0, 1)
        shifted = convolve(swapped, swapped, padding=reach)  # (C, C, *2·reach + 1): Σ x_c(q + shift) x_d(q)
        index = _tap_shifts(self.kernel, self.dilation, reach).to(x.device)  # (taps, taps)
        weights = shifted.flatten(2)[..., index].permute(0, 2, 1, 3).reshape(channels * taps, channels * taps)
        positions = prod(n + r for n, r in zip(x.shape[2:], reach, strict=True))
        share = 1.0 / (len(x) * prod(self.stride))
        if not self.bias:
            return (weights * share)[None]
        sums = x.flatten(2).sum((0, 2)).repeat_interleave(taps)
        corner = x.new_full((1, 1), float(len(x) * positions))
        return (torch.cat((torch.cat((weights, sums[:, None]), 1), torch.cat((sums[None], corner), 1))) * share)[None]

    def row_gram(self, *, estimate: bool = False) -> Tensor:
        patches = self._patches()  # (B P, a)
        squares = self.slopes.flatten(2).square().transpose(1, 2).reshape(-1, self.rows)  # (B P, r)
        grams = [patches.mT @ (patches * column[:, None]) for column in squares.mT]
        return (torch.stack(grams) / len(self.inputs))[None]

    def root(self, most: int) -> Tensor:
        patches = self._patches()
        x = _some(patches.mT, most)
        return (x * math.sqrt(len(patches) / len(self.inputs) / x.shape[-1]))[None]

    def _patches(self) -> Tensor:
        """x̃ at every position (B P, a), written out."""
        if len(self.kernel) != 2:
            x, k = self.inputs.unsqueeze(-2), (1, *self.kernel)
            geometry = {"dilation": (1, *self.dilation), "padding": (0, *self.padding), "stride": (1, *self.stride)}
        else:
            x, k = self.inputs, self.kernel
            geometry = {"dilation": self.dilation, "padding": self.padding, "stride": self.stride}
        patches = functional.unfold(x, k, **geometry).transpose(1, 2).flatten(0, 1)
        return torch.cat((patches, torch.ones_like(patches[:, :1])), 1) if self.bias else patches

    def slope_square(self) -> Tensor:
        return self.slopes.square().flatten(2).mean((0, 2))[None]

    def sensitivity_gram(self) -> Tensor:
        y = self.sensitivities.transpose(0, 1).flatten(1)
        return (y @ y.mT / len(self.inputs))[None]


def _tap_shifts(kernel: tuple[int, ...], dilation: tuple[int, ...], reach: tuple[int, ...]) -> Tensor:
    """Flat index of the shift between each pair of taps in an autocorrelation (taps, taps)."""
    axes = [torch.arange(k) * d for k, d in zip(kernel, dilation, strict=True)]
    taps = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (dims, taps)
    shifts = taps[:, :, None] - taps[:, None, :] + torch.tensor(reach)[:, None, None]
    index = torch.zeros_like(shifts[0])
    for shift, r in zip(shifts, reach, strict=True):
        index = index * (2 * r + 1) + shift
    return index
