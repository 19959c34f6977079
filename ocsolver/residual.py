"""How far a sweep is from the maximum principle: a number that knows nothing of ρ or of the maximizer in use."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.maximizers import LBFGS, Enumeration, ProjectedNewton, second_order
from ocsolver.sets import Unconstrained

__all__ = ["maximum_gap", "no_maximum", "projected_gradient", "residual"]

CONVEX = 1e-6  # curvature of H, relative to the largest, from which on it counts as convex
LOCAL_SEARCH = ProjectedNewton(iterations=3)


def maximum_gap(block: HamiltonianBlock) -> Tensor:
    """Gap max_U H − H(current) ≥ 0 of every site and group (K, G).

    It is inf where H has no finite maximum or none is affordable, and for layers without bounds on their weights: their
    H is not concave, unless weight decay outweighs everything else. The maximum is the best of a local search from the
    current control and, on finite sets and on compact boxes and balls with m ≤ 3, of all points or a grid.
    """
    sets, none = block.control_set, torch.full_like(block.current[..., 0], torch.inf)
    if not sets.convex:
        if sets.candidates(block.current) is None:
            return none
        return Enumeration().maximize(block).gain
    if block.layered and isinstance(sets, Unconstrained):
        return none
    if second_order(block):
        bounded = _bounded(block)
        return torch.where(bounded, LOCAL_SEARCH.maximize(block).gain, none) if bool(bounded.any()) else none
    hint = block.best_candidate
    if hint is not None:
        return torch.maximum(LBFGS().maximize(block).gain, hint[1].clamp_min(0.0))
    return none


def _bounded(block: HamiltonianBlock) -> Tensor:
    """Sites whose Hamiltonian is concave in the components without finite bounds (K, G)."""
    free = _without_bounds(block)
    if not bool(free.any()):
        return torch.ones_like(block.current[..., 0], dtype=torch.bool)
    values = _curvatures(block, free)
    concave: Tensor = values[..., 0] > 1e-12 * values[..., -1].abs()
    return concave


def _without_bounds(block: HamiltonianBlock) -> Tensor:
    """Components of a control in a box that lack a finite bound (m,)."""
    bounds = block.control_set.bounds(block.current)
    assert bounds is not None
    return ~torch.isfinite(bounds[1] - bounds[0])


def _curvatures(block: HamiltonianBlock, free: Tensor) -> Tensor:
    """Eigenvalues of −∂²H/∂u² in the components that are `free` (m,), in ascending order (K, G, m)."""
    curvature = -block.current_expansion.hessian
    finite = torch.isfinite(curvature).all(-1).all(-1)
    curvature = torch.where(finite[..., None, None], curvature, 0.0)
    size = curvature.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)  # in place of components with bounds
    size = torch.where(size > 0, size, 1.0).expand_as(block.current)
    both = free[..., :, None] & free[..., None, :]
    values: Tensor = torch.linalg.eigvalsh(torch.where(both, curvature, torch.diag_embed(size)))
    return values


def no_maximum(blocks: tuple[HamiltonianBlock, ...]) -> Tensor:
    """Groups whose Hamiltonian is strictly convex, somewhere, along components without bounds (G,).

    Where ∂H/∂u = 0, too, the control is stationary, but the Hamiltonian has no maximum. It is not looked for where
    second derivatives are not affordable.
    """
    none = torch.zeros_like(blocks[0].current[0, :, 0], dtype=torch.bool)
    for block in blocks:
        if block.control_set.convex and second_order(block):
            free = _without_bounds(block)
            if bool(free.any()):
                values = _curvatures(block, free)
                none = none | (values[..., 0] < -CONVEX * values.abs().amax(-1)).any(0)
    return none


def projected_gradient(block: HamiltonianBlock) -> Tensor:
    """L² norm over time of P_U(u + ∂H/∂u) − u, per group (G,)."""
    move = block.control_set.project(block.current + block.current_slope) - block.current
    bounds = block.control_set.bounds(block.current)
    if bounds is not None:  # where there are none the slope does not drown in a large control
        move = torch.where(torch.isinf(bounds[0]) & torch.isinf(bounds[1]), block.current_slope, move)
    return (block.weights[:, None] * move.square().sum(-1)).sum(0).sqrt()


def residual(
    blocks: tuple[HamiltonianBlock, ...], scale: Tensor, first_gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Maximum-principle residual (G,) and the projected gradient norm it may have used.

    It is ∫(max_U H − H(u)) dt / (∫|L| dt + |Φ|) where H has a finite maximum, else the projected gradient norm relative
    to `first_gradient` (that of the starting control; None at the start).
    """
    gap = sum((block.weights[:, None] * maximum_gap(block)).sum(0) for block in blocks)
    assert isinstance(gap, Tensor)
    unbounded, norm = ~torch.isfinite(gap), first_gradient
    if norm is None or bool(unbounded.any()):
        norms = [projected_gradient(block) for block in blocks]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum(0).sqrt()
    first = norm if first_gradient is None else first_gradient
    fallback = torch.where(norm > 0, norm / first.clamp_min(torch.finfo(norm.dtype).tiny), norm)
    if bool(unbounded.all()):
        return fallback, norm
    relative = torch.where(gap > 0, gap / scale.clamp_min(torch.finfo(gap.dtype).tiny), gap)
    return torch.where(unbounded, fallback, relative.clamp_max(torch.finfo(gap.dtype).max)), norm
