"""Quasi-Newton acceleration of E-MSA: curvature pairs of J on top of the block curvature of H̃.

A maximization sees only the part of the second derivative of J that is local in time, −∂²H̃/∂u². The coupling of
different times through the dynamics is of low effective rank; an outer BFGS model with the E-MSA block as initial
matrix learns it from the steps taken. All groups at once, each with its own pairs, in the variables √w_k u_k, in which
the inner product is that of L².
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.newton import positive_definite, solve_free
from ocsolver.transcription import Sweep

__all__ = ["CurvaturePairs", "Proposal"]

HISTORY = 8  # pairs kept
ACTIVE_SET_ROUNDS = 3


class Proposal(NamedTuple):
    """A step of the control and what its model says."""

    step: Tensor  # (K, G, m)
    usable: Tensor  # (G,), bool: there is a model and the step ascends
    rho: Tensor  # (G,), the ρ that the model took
    predicted: Tensor  # (G,), decrease of J that the step promises


@dataclass(frozen=True, eq=False)
class CurvaturePairs:
    """Steps s of the control and changes y of the gradient of J, scaled by √w, newest last."""

    exact: ClassVar[bool] = False
    s: Tensor  # (h, K, G, m)
    y: Tensor  # (h, K, G, m)

    @classmethod
    def empty(cls, block: HamiltonianBlock) -> CurvaturePairs:
        """No pairs yet."""
        none = block.current.new_zeros(0, *block.current.shape)
        return cls(none, none)

    @property
    def ready(self) -> bool:
        """Whether there are pairs."""
        return len(self.s) > 0

    def add(self, old_sweep: Sweep, new_sweep: Sweep) -> CurvaturePairs:
        """Append the pair of an accepted step; groups that did not move get a zero pair, which is ignored."""
        old, new = old_sweep.blocks[0], new_sweep.blocks[0]
        root = old.weights.sqrt()[:, None, None]
        s = root * (new.current - old.current)
        y = root * (old.current_expansion.gradient - new.current_expansion.gradient)
        return replace(
            self, s=torch.cat((self.s[1 - HISTORY :], s[None])), y=torch.cat((self.y[1 - HISTORY :], y[None]))
        )

    def forget(self, groups: Tensor) -> CurvaturePairs:
        """Drop the pairs of some groups (G,)."""
        keep = ~groups[:, None]
        return replace(self, s=self.s * keep, y=self.y * keep)

    def propose(self, sweep: Sweep, rho: Tensor, active: Tensor) -> Proposal:
        """Step that maximizes the model within the bounds, in the groups that have a model; it promises its slope.

        The model is g·d − ½ d·Bd with B the compact BFGS matrix (Nocedal and Wright, Numerical Optimization, Eq.
        (7.24)) whose initial matrix is the curvature of H̃ at ρ. Components that would leave the box are set on its
        boundary and the others solved for again.
        """
        block = sweep.blocks[0]
        bounds = block.control_set.bounds(block.current)
        assert bounds is not None
        root = block.weights.sqrt()[:, None, None]
        slope, curvature = block.current_expansion.augmented(Penalty.uniform(rho), torch.zeros_like(block.current))
        gradient = root * slope
        low, high = (root * (side - block.current) for side in bounds)
        model = _Model(positive_definite(curvature), self.s, self.y)
        if not bool(model.useful.any()):
            return Proposal(torch.zeros_like(gradient), torch.zeros_like(active), rho, torch.zeros_like(rho))
        fixed = ((low >= 0) & (gradient <= 0)) | ((high <= 0) & (gradient >= 0))
        d = model.solve(gradient, ~fixed)
        for _ in range(ACTIVE_SET_ROUNDS):
            outside = ~fixed & ((d < low) | (d > high))
            d = d.clamp(low, high)
            if not bool(outside.any()):
                break
            fixed = fixed | outside
            d = torch.where(fixed, d, 0.0)
            d = d + model.solve(gradient - model.apply(d), ~fixed)
        d = d.clamp(low, high)
        ascent = (gradient * d).sum((0, 2))
        usable = active & model.useful.any(-1) & (ascent > 0) & torch.isfinite(d).all(-1).all(0)
        return Proposal(torch.where(usable[:, None], d, 0.0) / root, usable, rho, torch.where(usable, ascent, 0.0))


class _Model:
    """The matrix B = M − P N⁻¹ Pᵀ with P = [M S, Y], N = [[SᵀMS, L], [Lᵀ, −D]], for each group.

    Vectors are kept as (G, D) with D = K m, so that all inner products are batched matrix products.
    """

    def __init__(self, matrix: Tensor, s: Tensor, y: Tensor) -> None:
        self.matrix = matrix  # (K, G, m, m)
        rows_s, rows_y = _rows(s), _rows(y)  # (G, h, D)
        product = (rows_s * rows_y).sum(-1)  # (G, h)
        size = (rows_s.square().sum(-1) * rows_y.square().sum(-1)).sqrt()
        self.useful = product > 1e-8 * size
        keep = self.useful[..., None].to(s.dtype)
        rows_s, rows_y = rows_s * keep, rows_y * keep
        self.p = torch.cat((_rows(self._times(s)) * keep, rows_y), 1)  # (G, 2h, D)
        inner = rows_s @ self.p.mT  # (G, h, 2h)
        h = s.shape[0]
        idle = torch.diag_embed((~self.useful).to(s.dtype))  # zero pairs get a harmless unit pivot
        sms, sy = inner[..., :h] + idle, inner[..., h:] + idle
        lower = torch.tril(sy, -1)
        diagonal = torch.diag_embed(sy.diagonal(dim1=-2, dim2=-1))
        self.n = torch.cat((torch.cat((sms, lower), -1), torch.cat((lower.mT, -diagonal), -1)), -2)  # (G, 2h, 2h)

    def _times(self, d: Tensor) -> Tensor:
        """M d for d (*l, K, G, m)."""
        return self.matrix[..., 0] * d if d.shape[-1] == 1 else (self.matrix @ d[..., None])[..., 0]

    def apply(self, d: Tensor) -> Tensor:
        """B d for d (K, G, m)."""
        inner = self.p @ _rows(d[None]).mT  # (G, 2h, 1)
        coefficients = torch.linalg.solve_ex(self.n, inner)[0]
        return self._times(d) - _unrows(self.p.mT @ coefficients, d)

    def solve(self, right: Tensor, free: Tensor) -> Tensor:
        """B_FF⁻¹ right on the free components by the Woodbury identity, zero elsewhere (K, G, m)."""
        base = solve_free(self.matrix, right, free)
        p = self.p * _rows(free[None])
        columns = _rows(solve_free(self.matrix, _stack(p, right), free))  # (G, 2h, D)
        small = self.n - p @ columns.mT
        coefficients = torch.linalg.solve_ex(small, p @ _rows(base[None]).mT)[0]  # (G, 2h, 1)
        return base + _unrows(columns.mT @ coefficients, right)


def _rows(vectors: Tensor) -> Tensor:
    """Stack (h, K, G, m) as rows (G, h, K m)."""
    return vectors.permute(2, 0, 1, 3).reshape(vectors.shape[2], vectors.shape[0], -1)


def _stack(rows: Tensor, like: Tensor) -> Tensor:
    """Inverse of `_rows`: (G, h, K m) -> (h, K, G, m)."""
    K, G, m = like.shape
    return rows.reshape(G, -1, K, m).permute(1, 2, 0, 3)


def _unrows(column: Tensor, like: Tensor) -> Tensor:
    """Column vectors (G, K m, 1) as (K, G, m)."""
    return _stack(column.mT, like)[0]
