"""Safeguarded Newton on the augmented Hamiltonian, all sites and groups at once, inside bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver.hamiltonian import Expansion, HamiltonianBlock, Penalty
from ocsolver.maximizers.base import Maximizer, Maximum, keep_best, positive_int, unsupported

__all__ = ["ProjectedNewton"]

SHORTENINGS = 6  # of a step that does not ascend, each to a quarter
SUFFICIENT = 1e-4  # Armijo fraction of the predicted gain
MODEL_ACCURACY = 0.02  # a step whose gain the quadratic model predicted this well was the last one
LONGEST = 1e3  # a step along a free side is at most this long, relative to 1 + |u|


@dataclass(frozen=True)
class ProjectedNewton(Maximizer):
    """Newton steps with bounds for twice differentiable Hamiltonians and small m.

    Exact second derivatives of H, Gauss–Newton ones of both feasibility terms; where H̃ is not concave the eigenvalues
    are reflected [1]_; bounds by an active-set step projected back and a per-row line search [2]_. On compact sets with
    m ≤ 3 the best point of a grid competes with the local search.

    Parameters
    ----------
    iterations : int, default 10
        Largest number of Newton steps per maximization.

    References
    ----------
    .. [1] J. Nocedal, S. Wright, *Numerical Optimization*, 2nd ed., Springer 2006, section 3.4.
    .. [2] D. Bertsekas, *Projected Newton methods for optimization problems with simple constraints*, SIAM J. Control
       Optim. 20 (1982).

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.ProjectedNewton(iterations=3)
    ProjectedNewton(iterations=3)
    """

    iterations: int = 10

    def __post_init__(self) -> None:
        positive_int(self.iterations, "ProjectedNewton iterations")

    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        bounds = block.control_set.bounds(block.current)
        if bounds is None:
            todo = "Use oc.LBFGS() on a Ball, oc.Enumeration() on a FiniteSet."
            raise unsupported(self, "an Unconstrained set, a Box or a product of them", block.control_set, todo)
        gain = torch.zeros_like(block.current[..., 0])
        u, gain = self._ascend(block, penalty, bounds, block.current, gain, block.current_expansion)
        start, elsewhere = _distant_start(block, bounds, gain if penalty is None else None)
        if bool(elsewhere.any()):
            value = block.value(start, penalty)
            elsewhere = elsewhere & (value > gain + block.noise)
            if bool(elsewhere.any()):
                start = torch.where(elsewhere[..., None], start, u)
                far_u, far_gain = self._ascend(block, penalty, bounds, start, value, block.expansion(start))
                u = torch.where(elsewhere[..., None], far_u, u)
                gain = torch.where(elsewhere, far_gain, gain)
        return keep_best(block, u, gain, memory)

    def _ascend(
        self,
        block: HamiltonianBlock,
        penalty: Penalty | None,
        bounds: tuple[Tensor, Tensor],
        u: Tensor,
        gain: Tensor,
        expansion: Expansion,
    ) -> tuple[Tensor, Tensor]:
        """Newton iterations from u with value `gain` (K, G)."""
        lower, upper = bounds
        weights = penalty or Penalty.uniform(torch.zeros_like(gain[0]))
        active = torch.isfinite(gain)
        for iteration in range(self.iterations):
            gradient, curvature = expansion.augmented(weights, u - block.current)
            step, predicted = bounded_step(gradient, curvature, lower - u, upper - u, u)
            active = active & (predicted > block.noise) & torch.isfinite(predicted)
            if iteration > 0:
                active = active & (predicted > MODEL_ACCURACY * gain)
            if not bool(active.any()):
                break
            base = gain
            u, gain, full = self._search(block, penalty, u, gain, step, predicted, active)
            convex = (curvature.diagonal(dim1=-2, dim2=-1).clamp_max(0.0).abs() * step.square()).sum(-1)
            accurate = full & ((gain - base - predicted).abs() + convex <= MODEL_ACCURACY * predicted)
            active = active & ~accurate & (gain > base)
            if not bool(active.any()) or iteration == self.iterations - 1:
                break
            expansion = block.expansion(u)
        return u, gain

    @staticmethod
    def _search(
        block: HamiltonianBlock,
        penalty: Penalty | None,
        u: Tensor,
        gain: Tensor,
        step: Tensor,
        predicted: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shorten the step of each row until H̃ rises enough; also says which rows took the full step."""
        length, pending = 1.0, active
        best_u, best_gain = u, gain
        full = torch.zeros_like(active)
        for _ in range(SHORTENINGS):
            trial = block.control_set.project(u + length * step)
            value = block.value(trial, penalty)
            good = pending & (value >= gain + SUFFICIENT * length * predicted) & torch.isfinite(value)
            best_u = torch.where(good[..., None], trial, best_u)
            best_gain = torch.where(good, value, best_gain)
            if length == 1.0:
                full = good
            pending = pending & ~good
            if not bool(pending.any()):
                break
            length /= 4
        return best_u, best_gain, full


def _distant_start(
    block: HamiltonianBlock, bounds: tuple[Tensor, Tensor], local: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Best candidate of a compact set (K, G, m), and the rows (K, G) whose local search does not explain its gain.

    The gain of a local search (K, G) without penalty is taken from `local`, or else estimated by the quadratic model.
    """
    if block.best_candidate is None:
        return block.current, torch.zeros_like(block.current[..., 0], dtype=torch.bool)
    start, advantage = block.best_candidate
    expansion, (lower, upper) = block.current_expansion, bounds
    if local is None:
        low, high = lower - block.current, upper - block.current
        _, local = bounded_step(expansion.gradient, -expansion.hessian, low, high, start)
        concave = expansion.hessian.diagonal(dim1=-2, dim2=-1).amax(-1) <= 0
        local = torch.where(concave, 1.05 * local, 0.0)
    return start, advantage > local.clamp_min(0.0) * (1 + 1e-6) + block.noise


def bounded_step(gradient: Tensor, curvature: Tensor, low: Tensor, high: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Maximize g·d − ½ dᵀM d over low ≤ d ≤ high, with M made positive definite: step (K, G, m) and its gain (K, G)."""
    far = LONGEST * (1.0 + u.abs().amax(-1, keepdim=True))
    low, high = torch.maximum(low, -far), torch.minimum(high, far)
    matrix = positive_definite(curvature)
    if gradient.shape[-1] == 1:
        step = (gradient / matrix[..., 0]).clamp(low, high)
        return step, (gradient * step - 0.5 * matrix[..., 0] * step.square())[..., 0]
    step = solve_free(matrix, gradient, torch.ones_like(gradient, dtype=torch.bool))
    clipped = step.clamp(low, high)
    if not torch.equal(clipped, step):
        step = _active_set(matrix, gradient, low, high, clipped)
    gain = (gradient * step).sum(-1) - 0.5 * (step * (matrix @ step[..., None])[..., 0]).sum(-1)
    return step, gain


def positive_definite(matrix: Tensor) -> Tensor:
    """Reflect negative eigenvalues and lift tiny ones, only if some matrix is not positive definite."""
    clean = torch.where(torch.isfinite(matrix).all(-1).all(-1)[..., None, None], matrix, 0.0)
    if matrix.shape[-1] == 1:
        size = clean.abs()
        return torch.maximum(size, 1e-14 * size.amax(0) + torch.finfo(matrix.dtype).tiny ** 0.5)
    _, info = torch.linalg.cholesky_ex(clean)
    if not bool((info > 0).any()):
        return clean
    values, vectors = torch.linalg.eigh(clean)
    size = values.abs()
    floor = 1e-10 * size.amax(-1, keepdim=True) + torch.finfo(matrix.dtype).tiny ** 0.5
    lifted: Tensor = (vectors * torch.maximum(size, floor)[..., None, :]) @ vectors.mT
    return lifted


def solve_free(matrix: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """Solve the subsystem of the free components for right-hand sides (*l, K, G, m), the others being zero."""
    right = torch.where(free, right, 0.0)
    if matrix.shape[-1] == 1:
        return right / matrix[..., 0]
    eye = torch.eye(right.shape[-1], dtype=right.dtype, device=right.device)
    both = free[..., :, None] & free[..., None, :]
    reduced = torch.where(both, matrix, torch.where(free[..., None], 0.0, eye))
    columns = right[..., None] if right.ndim == 3 else right.movedim(0, -1)
    solved: Tensor = torch.linalg.solve_ex(reduced, columns)[0]
    return solved[..., 0] if right.ndim == 3 else solved.movedim(-1, 0)


def _active_set(matrix: Tensor, gradient: Tensor, low: Tensor, high: Tensor, step: Tensor) -> Tensor:
    """Few rounds of a primal active-set method for the box-constrained quadratic, started from the clipped step."""
    best, best_gain = step, torch.full_like(step[..., 0], -torch.inf)
    for _ in range(gradient.shape[-1] + 2):
        slope = gradient - (matrix @ step[..., None])[..., 0]
        gain = 0.5 * ((gradient + slope) * step).sum(-1)
        better = gain > best_gain
        best, best_gain = torch.where(better[..., None], step, best), torch.maximum(gain, best_gain)
        free = ~(((step <= low) & (slope <= 0)) | ((step >= high) & (slope >= 0)))
        fixed = torch.where(free, 0.0, step)
        right = gradient - (matrix @ fixed[..., None])[..., 0]
        step = torch.where(free, solve_free(matrix, right, free), step).clamp(low, high)
    return best
