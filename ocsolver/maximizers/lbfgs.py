"""Limited-memory BFGS on the augmented Hamiltonian, batched: each site and group is a row with its own history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.base import Maximizer, Maximum, keep_best, positive_int, unsupported

__all__ = ["LBFGS"]

SUFFICIENT = 1e-4  # Armijo constant
GROWTH = 4.0  # of the step of a row along which the Hamiltonian is linear


@dataclass(frozen=True)
class LBFGS(Maximizer):
    """Projected L-BFGS ascent with a per-row backtracking line search.

    All rows advance together; a row that has found its step waits without being changed. On a Box the components held
    by a bound are left out of the direction; on a Ball the trial point is projected.

    Parameters
    ----------
    iterations : int, default 10
        L-BFGS iterations per maximization (the paper uses 10).
    history : int, default 10
        Curvature pairs kept per row.
    evaluations : int, default 30
        Bound on the evaluations of each row per maximization.

    References
    ----------
    .. [1] D. Liu, J. Nocedal, *On the limited memory BFGS method for large scale optimization*, Math. Program. 45
       (1989).

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.LBFGS(iterations=5)
    LBFGS(iterations=5, history=10, evaluations=30)
    """

    iterations: int = 10
    history: int = 10
    evaluations: int = 30

    def __post_init__(self) -> None:
        for name in ("iterations", "history", "evaluations"):
            positive_int(getattr(self, name), f"LBFGS {name}")

    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        if not block.control_set.convex:
            todo = "Use oc.Enumeration()."
            raise unsupported(self, "a convex control set", block.control_set, todo)
        project = block.control_set.project
        u = block.current
        gradient = block.current_slope
        value = torch.zeros_like(gradient[..., 0])
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y (K, G, m) and 1/(s·y) (K, G), zero where skipped
        scale = 1.0 / torch.linalg.vector_norm(gradient, dim=-1).clamp_min(1.0)  # (K, G)
        used = torch.ones_like(value, dtype=torch.int64)  # per row: no row spends the evaluations of another
        running = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
        for _ in range(self.iterations):
            held = _held(block, u, gradient)
            direction = torch.where(held, 0.0, _two_loop(pairs, torch.where(held, 0.0, gradient), scale))
            ascent = (direction * gradient).sum(-1)
            steepest = torch.where(held, 0.0, gradient)
            weak = ~(ascent > 0)
            direction = torch.where(weak[..., None], scale[..., None] * steepest, direction)
            running = running & ((direction * gradient).sum(-1) > block.noise)
            length = torch.ones_like(value)
            pending = running & (used < self.evaluations)
            u_new, value_new, gradient_new = u, value, gradient
            while bool(pending.any()):
                trial = torch.where(pending[..., None], project(u + length[..., None] * direction), u_new)
                f, slope = block.trial(trial, penalty)
                used = used + pending
                rise = (gradient * (trial - u)).sum(-1)
                finite = torch.isfinite(f)
                good = pending & finite & (f >= value + SUFFICIENT * rise) & (f > value)
                if bool(good.any()):
                    g = slope()
                    smooth = torch.isfinite(g).all(-1)
                    finite, good = finite & (smooth | ~good), good & smooth
                    u_new, value_new = torch.where(good[..., None], trial, u_new), torch.where(good, f, value_new)
                    gradient_new = torch.where(good[..., None], g, gradient_new)
                pending = pending & ~good & (rise > 0) & (used < self.evaluations)
                # minimizer of the interpolating parabola, kept within [0.1, 0.5] of the step
                ratio = 0.5 * rise / (rise - (f - value)).clamp_min(torch.finfo(f.dtype).tiny)
                length = length * torch.where(finite, ratio.clamp(0.1, 0.5), 0.1)
            moved = value_new > value
            remembers = torch.stack([inverse for *_, inverse in pairs]).any(0) if pairs else torch.zeros_like(running)
            # on a curved set the projection may spoil a quasi-Newton direction: such a row forgets its pairs, goes on
            # along the projected gradient, which ascends from every point that is not stationary
            forget = running & ~moved & remembers
            running = running & (moved | forget) & (used < self.evaluations)
            if not bool(running.any()):
                u, value = u_new, value_new
                break
            s, y = u_new - u, gradient - gradient_new  # curvature of −H̃
            square = (y * y).sum(-1).clamp_min(torch.finfo(y.dtype).tiny)
            product = (s * y).sum(-1)
            useful = moved & (product > 1e-10 * square)
            inverse = torch.where(useful, 1.0 / torch.where(useful, product, 1.0), 0.0)
            pairs = [*pairs, (torch.where(useful[..., None], s, 0.0), torch.where(useful[..., None], y, 0.0), inverse)]
            pairs = [(s, y, torch.where(forget, 0.0, inverse)) for s, y, inverse in pairs[-self.history :]]
            # without curvature H̃ is linear along the step: take a longer one next time
            scale = torch.where(useful, product / square, torch.where(moved, GROWTH * scale, scale))
            u, value, gradient = u_new, value_new, gradient_new
        return keep_best(block, u, value, memory)


def _held(block: HamiltonianBlock, u: Tensor, gradient: Tensor) -> Tensor:
    """Components at a bound that the gradient pushes outward (K, G, m)."""
    bounds = block.control_set.bounds(u)
    if bounds is None:
        return torch.zeros_like(u, dtype=torch.bool)
    lower, upper = bounds
    return ((u <= lower) & (gradient < 0)) | ((u >= upper) & (gradient > 0))


def _two_loop(pairs: list[tuple[Tensor, Tensor, Tensor]], gradient: Tensor, scale: Tensor) -> Tensor:
    """Inverse Hessian times gradient by the two-loop recursion, row by row: (K, G, m)."""
    q, alphas = gradient, []
    for s, y, inverse in reversed(pairs):
        alpha = inverse * (s * q).sum(-1)
        alphas.append(alpha)
        q = q - alpha[..., None] * y
    q = scale[..., None] * q
    for (s, y, inverse), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = inverse * (y * q).sum(-1)
        q = q + (alpha - beta)[..., None] * s
    return q
