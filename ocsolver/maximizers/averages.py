"""Curvature of layers averaged over mini-batches, part by part, and the steps made of it; it knows no solver.

A part is an affine map z = Θx̃ somewhere inside a layer, or some other parameters. For maps, ⟨FᵀF⟩ is taken as the
Kronecker product of A = ⟨x̃x̃ᵀ⟩ and K, the diagonal of ⟨∂f/∂zᵀ ∂f/∂z⟩, which is ⟨φ′(z)²⟩ where an activation follows;
for other parameters as its diagonal. All averages are free of bias, and damped by their uncertainty, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.affine import AffineView, Part, Shape
from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.maximizers.default import second_order
from ocsolver.maximizers.structured import damped_factor, finite, tiny, whitening

__all__ = ["BlockAverage"]

LONGEST_PAUSE = 50  # mini-batches between two updates
DECAY = 0.9  # per update
CAUTION = 0.5  # share of the uncertainty of averages that damps them
WIDE = 600  # columns from which A is kept as a matrix of low rank
RANK = 100  # of it


def against_noise(damping: float, weight: float, columns: float) -> float:
    """Damping on mini-batches: not below the uncertainty of the averages.

    The eigenvalues of a Gram matrix with a columns from B samples have relative errors of about √(a / B) (Marchenko and
    Pastur); `columns` is a / B of a batch, and averages with this weight have gathered some more of them.
    """
    batches = (1.0 + DECAY) / (1.0 - DECAY) * weight / (2.0 - weight)
    return damping + CAUTION * math.sqrt(columns / batches)


def next_due(steps: int) -> int:
    """Step of the next update: the pauses grow with the number of steps."""
    return steps + min(steps + 1, LONGEST_PAUSE)


def _more(weight: float) -> float:
    """Weight of averages with one more batch; divided by it they have no bias."""
    return DECAY * weight + (1.0 - DECAY)


class MapAverage(NamedTuple):
    """A and K of K equal affine maps."""

    weight: float  # gathered so far
    shape: tuple[int, int, bool]  # of Θ
    inputs: Tensor  # A (K, a, a)
    slopes: Tensor  # the diagonal of K (K, r)
    inverse: Tensor  # (A + damping)⁻¹ (K, a, a)
    inverse_slopes: Tensor  # K⁻¹, damped (K, r, 1)

    @classmethod
    def start(cls, view: AffineView) -> MapAverage:
        """Nothing gathered yet."""
        none = view.inputs.new_zeros(())
        return cls(0.0, view.shape.plain, none, none, none, none)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return Shape(*self.shape).size

    def update(self, part: Part, damping: float) -> MapAverage:
        """Averages with another batch."""
        view, weight = part.map, _more(self.weight)
        inputs = DECAY * self.inputs + (1.0 - DECAY) * finite(view.gram(estimate=True))
        slopes = DECAY * self.slopes + (1.0 - DECAY) * finite(view.slope_square())
        damping = against_noise(damping, weight, view.columns / view.samples)
        inverse = torch.cholesky_inverse(damped_factor(inputs / weight, damping))
        inverse_slopes = whitening(slopes / weight, damping).square()
        return MapAverage(weight, self.shape, inputs, slopes, inverse, inverse_slopes)

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u, both (K, size)."""
        shape = Shape(*self.shape)
        return shape.vector(self.inverse_slopes * shape.matrix(slope) @ self.inverse)


class WideAverage(NamedTuple):
    """The same for maps with many columns: A = RRᵀ + rest · (1 − P), P the projection on the range of R."""

    weight: float
    shape: tuple[int, int, bool]
    root: Tensor  # R, orthogonal columns (K, a, k)
    rest: Tensor  # trace of A outside of their range (K, 1, 1)
    slopes: Tensor  # (K, r)
    basis: Tensor  # orthonormal columns (K, a, k)
    share: Tensor  # that the inverse takes away from each of them (K, 1, k)
    inverse_rest: Tensor  # the inverse outside of their range (K, 1, 1)
    inverse_slopes: Tensor  # (K, r, 1)

    @classmethod
    def start(cls, view: AffineView) -> WideAverage:
        """Nothing gathered yet."""
        none = view.inputs.new_zeros(())
        return cls(0.0, view.shape.plain, none, none, none, none, none, none, none)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return Shape(*self.shape).size

    def update(self, part: Part, damping: float) -> WideAverage:
        """Averages with another batch; of the eigenvectors of A those with the largest eigenvalues are kept."""
        view, weight = part.map, _more(self.weight)
        new = math.sqrt(1.0 - DECAY) * finite(view.root(RANK))  # (K, a, S)
        columns = new if self.root.ndim == 0 else torch.cat((math.sqrt(DECAY) * self.root, new), -1)
        values, vectors = torch.linalg.eigh(columns.mT @ columns)  # ascending
        kept = min(RANK, columns.shape[-1], view.columns)
        dropped = values[..., :-kept].clamp_min(0.0).sum(-1)[..., None, None]
        values = values[..., None, -kept:].clamp_min(tiny(values))  # (K, 1, k)
        root, rest = columns @ vectors[..., -kept:], DECAY * self.rest + dropped
        slopes = DECAY * self.slopes + (1.0 - DECAY) * finite(view.slope_square())
        damping = against_noise(damping, weight, view.columns / new.shape[-1])
        mean = (values.sum(-1, keepdim=True) + rest) / view.columns
        level = rest / max(1, view.columns - kept)
        shift = damping * mean + weight * tiny(mean)
        share = (values - level) / (values + shift)
        inverse_slopes = whitening(slopes / weight, damping).square()
        inverse_rest, basis = weight / (level + shift), root / values.sqrt()
        return WideAverage(weight, self.shape, root, rest, slopes, basis, share, inverse_rest, inverse_slopes)

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u, both (K, size)."""
        shape = Shape(*self.shape)
        gradient = self.inverse_slopes * shape.matrix(slope)
        return shape.vector(self.inverse_rest * (gradient - (gradient @ self.basis * self.share) @ self.basis.mT))


class SingleAverage(NamedTuple):
    """Diagonal of ⟨FᵀF⟩ for parameters of other kinds."""

    weight: float
    squares: Tensor  # (K, size)
    inverse: Tensor  # damped (K, size)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.squares.shape[-1])

    def update(self, part: Part, damping: float) -> SingleAverage:
        """Averages with another batch; the estimate is noisy, so half of it is its mean."""
        assert part.squares is not None
        weight = _more(self.weight)
        squares = DECAY * self.squares + (1.0 - DECAY) * finite(part.squares)
        mean = squares.mean(-1, keepdim=True)
        return SingleAverage(weight, squares, weight / (0.5 * (squares + mean) + damping * mean + tiny(mean)))

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u, both (K, size)."""
        return self.inverse * slope


class DenseAverage(NamedTuple):
    """⟨FᵀF⟩ + ⟨QᵀQ⟩ of whole layers with few parameters and no affine map."""

    weight: float
    matrix: Tensor  # (K, m, m)
    factor: Tensor  # Cholesky factor, damped

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.factor.shape[-1])

    def update(self, block: HamiltonianBlock, damping: float) -> DenseAverage:
        """Averages with another batch."""
        expansion, weight = block.current_expansion, _more(self.weight)
        gram = (expansion.state_gram + expansion.costate_gram)[:, 0]
        matrix = DECAY * self.matrix + (1.0 - DECAY) * finite(gram)
        damping = against_noise(damping, weight, matrix.shape[-1] / block.x.shape[2])
        return DenseAverage(weight, matrix, damped_factor(matrix / weight, damping))

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u, both (K, m)."""
        return torch.cholesky_solve(slope[..., None], self.factor)[..., 0]


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (MapAverage, WideAverage, SingleAverage, DenseAverage)}


def _start(source: Part | HamiltonianBlock) -> Any:
    """An empty average of the kind that fits."""
    if isinstance(source, HamiltonianBlock):
        none = source.current.new_zeros(())
        return DenseAverage(0.0, none, none)
    if source.squares is not None:
        none = source.squares.new_zeros(())
        return SingleAverage(0.0, none, none)
    return (WideAverage if source.map.columns > WIDE else MapAverage).start(source.map)


class BlockAverage(NamedTuple):
    """Averages of all parts of a block of layers."""

    steps: int = 0
    due: int = 0  # step of the next update
    averages: tuple[Any, ...] = ()

    def pack(self) -> dict[str, Any]:
        """Plain data."""
        averages = [{"kind": type(average).__name__} | average._asdict() for average in self.averages]
        return {"steps": self.steps, "due": self.due, "averages": averages}

    @classmethod
    def unpack(cls, packed: dict[str, Any] | None) -> BlockAverage:
        """From plain data, or empty."""
        if packed is None:
            return cls()
        averages = [
            KINDS[each["kind"]](**{k: v for k, v in each.items() if k != "kind"}) for each in packed["averages"]
        ]
        return cls(packed["steps"], packed["due"], tuple(averages))

    def seen(self, block: HamiltonianBlock, damping: float) -> BlockAverage:
        """Averages after another batch, which adds to them if that is due."""
        if self.steps < self.due:
            return self._replace(steps=self.steps + 1)
        assert block.parts is not None
        sources: tuple[Any, ...] = block.parts()
        if second_order(block) and all(part.squares is not None for part in sources):
            sources = (block,)
        averages = self.averages or tuple(_start(source) for source in sources)
        averages = tuple(each.update(source, damping) for each, source in zip(averages, sources, strict=True))
        return BlockAverage(self.steps + 1, next_due(self.steps), averages)

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u, both (K, 1, m)."""
        parts = torch.split(slope[:, 0], [average.size for average in self.averages], -1)
        steps = [average.step(part) for average, part in zip(self.averages, parts, strict=True)]
        return (steps[0] if len(steps) == 1 else torch.cat(steps, -1)).unsqueeze(1)
