"""Quasi-Newton acceleration of E-MSA: curvature pairs of J on top of the block curvature of H̃.

A maximization sees only the part of the second derivative of J that is local in time, −∂²H̃/∂u². The coupling of
different times through the dynamics is of low effective rank; an outer L-BFGS with the E-MSA block as initial matrix
learns it from the steps taken. All groups at once, each with its own pairs; inner products are weighted by the w_k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.newton import positive_definite, solve_free

__all__ = ["CurvaturePairs"]

HISTORY = 12


@dataclass(frozen=True, eq=False)
class CurvaturePairs:
    """Steps s of the control and changes y of the gradient of J per unit weight, newest last."""

    s: Tensor  # (h, K, G, m)
    y: Tensor  # (h, K, G, m)

    @classmethod
    def empty(cls, block: HamiltonianBlock) -> CurvaturePairs:
        """No pairs yet."""
        none = block.current.new_zeros(0, *block.current.shape)
        return cls(none, none)

    def add(self, old: HamiltonianBlock, new: HamiltonianBlock) -> CurvaturePairs:
        """Append the pair of an accepted step; groups that did not move get a zero pair, which is ignored."""
        s = new.current - old.current
        y = old.current_expansion.gradient - new.current_expansion.gradient
        return replace(self, s=torch.cat((self.s[1 - HISTORY :], s[None])), y=torch.cat((self.y[1 - HISTORY :], y[None])))

    def forget(self, groups: Tensor) -> CurvaturePairs:
        """Drop the pairs of some groups (G,)."""
        keep = ~groups[:, None]
        return replace(self, s=self.s * keep, y=self.y * keep)

    def direction(self, block: HamiltonianBlock, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Quasi-Newton ascent direction (K, G, m) and the groups (G,) in which it is one.

        Components held by a bound stay; the initial matrix is the curvature of H̃ at ρ (J. Nocedal, S. Wright,
        Numerical Optimization, Algorithm 7.4, with H_k⁰ = (−∂²H̃/∂u²)⁻¹).
        """
        weights = block.weights[:, None, None]
        gradient, curvature = block.current_expansion.augmented(Penalty.uniform(rho), torch.zeros_like(block.current))
        free = ~_held(block, gradient)
        matrix = positive_definite(curvature)
        s, y = self.s * free, self.y * free
        product = (weights * s * y).sum((1, 3))  # (h, G)
        size = ((weights * s * s).sum((1, 3)) * (weights * y * y).sum((1, 3))).sqrt()
        useful = product > 1e-8 * size
        inverse = torch.where(useful, 1.0 / torch.where(useful, product, 1.0), 0.0)
        q = torch.where(free, gradient, 0.0)
        alphas: list[Tensor] = []
        for i in reversed(range(s.shape[0])):
            alpha = inverse[i] * (weights * s[i] * q).sum((0, 2))
            alphas.append(alpha)
            q = q - alpha[:, None] * y[i]
        d = solve_free(matrix, q, free)
        for i, alpha in zip(range(s.shape[0]), reversed(alphas), strict=True):
            beta = inverse[i] * (weights * y[i] * d).sum((0, 2))
            d = d + (alpha - beta)[:, None] * s[i]
        ascent = (weights * gradient * d).sum((0, 2)) > 0
        return d, ascent & useful.any(0) & torch.isfinite(d).all(-1).all(0)


def _held(block: HamiltonianBlock, gradient: Tensor) -> Tensor:
    """Components at a bound that the gradient of H pushes outward (K, G, m)."""
    bounds = block.control_set.bounds(block.current)
    assert bounds is not None
    lower, upper = bounds
    u = block.current
    return ((u <= lower) & (gradient <= 0)) | ((u >= upper) & (gradient >= 0))
