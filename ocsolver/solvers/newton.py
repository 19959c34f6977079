"""Newton steps of E-MSA: maximize H̃ at all times together, the coupling through the dynamics included.

A maximization at fixed x and p sees only the part of the second derivative of J that is local in time. The rest acts
through the states: with A = ∂Ψ/∂x and F = ∂Ψ/∂u of the interval maps, its product with a step d of the control is one
forward sweep δx⁺ = A δx + F d and one backward sweep of the same kind. Both are banded solves, so conjugate gradients,
preconditioned by the curvature of H̃ at each time, are cheap. The penalty ρ of H̃ says how far the model is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.intervals import Band
from ocsolver.solvers.acceleration import Proposal
from ocsolver.solvers.base import Iterate
from ocsolver.transcription import Sweep

__all__ = ["NewtonSteps", "newton_step"]

ROUNDS = 12  # changes of the active set
PRODUCTS = 60  # conjugate gradient steps per active set
ACCURACY = 1e-3  # relative accuracy of the linear solves
INCREASES = 12  # of ρ, until the model is concave along all directions tried

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class NewtonSteps:
    """Newton steps for the groups that are due for them; a rejected one is repeated with a larger ρ, not shortened."""

    exact: ClassVar[bool] = True
    due: Tensor  # (G,), bool

    @classmethod
    def start(cls, iterate: Iterate) -> NewtonSteps:
        """None due: the first step is a maximization."""
        return cls(torch.zeros_like(iterate.active))

    @property
    def ready(self) -> bool:
        """Whether some group is due."""
        return bool(self.due.any())

    def add(self, old: Sweep, new: Sweep) -> NewtonSteps:
        """Newton steps after an accepted step."""
        moved = (new.blocks[0].current != old.blocks[0].current).any(-1).any(0)
        return replace(self, due=self.due | moved)

    def forget(self, groups: Tensor) -> NewtonSteps:
        """Maximizations in some groups (G,) until one is accepted."""
        return replace(self, due=self.due & ~groups)

    def propose(self, sweep: Sweep, rho: Tensor, active: Tensor) -> Proposal:
        """Steps of the groups that are due."""
        return newton_step(sweep, rho, active & self.due)


def newton_step(sweep: Sweep, rho: Tensor, active: Tensor) -> Proposal:
    """Step that maximizes the quadratic model of −J with the penalty of H̃ within the bounds.

    Where the model is not concave ρ is raised. Bounds are treated by a primal-dual active set method (Hintermüller,
    Ito and Kunisch, SIAM J. Optim. 13 (2002)).
    """
    block = sweep.blocks[0]
    model = _Model(sweep, active.detach().cpu().numpy())
    r = rho.detach().cpu().numpy().astype(model.gradient.dtype)
    step, usable, r, predicted = model.maximize(r)
    like = block.current

    def tensor(values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)

    return Proposal(
        tensor(step.swapaxes(0, 1)).to(like), tensor(usable), tensor(r).to(like), tensor(predicted).to(like)
    )


@dataclass
class _Search:
    """Result of conjugate gradients, per group (G,)."""

    d: Array  # (G, K, m)
    convex: Array  # bool: met a direction in which −J is not concave
    needed: Array  # ρ that makes it concave there


class _Model:
    """The model g·d − ½ d·(S + ρE)d of each group for d (G, K, m), with S = ∂²J/∂u² and ½ d·Ed = ½(E_f + E_q) in H̃."""

    def __init__(self, sweep: Sweep, active: Array) -> None:
        block: HamiltonianBlock = sweep.blocks[0]
        coupling, expansion = block.coupling, block.current_expansion
        assert coupling is not None
        assert sweep.terminal is not None
        weights = _array(block.weights)
        w = weights[:, None, None]
        self.active = active
        self.groups = block.groups
        n = block.x.shape[-1]
        rows = np.broadcast_to(active, (block.x.shape[2],))
        # trajectories first: (B, K, …)
        state, control, hessian, mixed = (_array(part).swapaxes(0, 1) for part in coupling)
        state, control = state[:, :, :n], control[:, :, :n]
        keep = rows[:, None, None, None]
        jacobian = np.where(keep, np.eye(n, dtype=w.dtype) + w * state, 0.0)
        self.band = Band(jacobian.swapaxes(0, 1))
        self.f = np.where(keep, w * control, 0.0)  # (B, K, n, m)
        self.xx = np.where(keep, -w * hessian, 0.0)  # (B, K, n, n)
        self.xu = np.where(keep, -w * mixed, 0.0)  # (B, K, n, m)
        self.end = np.where(rows[:, None, None], _array(sweep.terminal()), 0.0)  # (B, n, n)
        mask = active[:, None, None]
        self.gradient = np.where(mask, (w * _array(expansion.gradient)).swapaxes(0, 1), 0.0)
        blocks = (-expansion.hessian, expansion.state_gram + expansion.costate_gram)
        self.uu, self.e = (
            np.where(mask[..., None], (w[..., None] * _array(part)).swapaxes(0, 1), 0.0) for part in blocks
        )  # (G, K, m, m)
        bounds = block.control_set.bounds(block.current)
        assert bounds is not None
        self.low, self.high = (
            np.where(mask, _array((side - block.current).expand_as(block.current)).swapaxes(0, 1), 0.0)
            for side in bounds
        )
        self.scalar = block.current.shape[-1] == 1

    # ------------------------------------------------------------- products

    def _blocks(self, matrix: Array, d: Array) -> Array:
        scalar = matrix.shape[-1] == 1
        product: Array = matrix[..., 0] * d if scalar else (matrix @ d[..., None])[..., 0]
        return product

    def product(self, d: Array) -> Array:
        """S d (G, K, m): one forward and one backward sweep."""
        source = self._blocks(self.f, d)  # (B, K, n)
        B, K, n = source.shape
        right = np.zeros((B, K + 1, n), dtype=source.dtype)
        right[:, 1:] = source
        x = self.band.rows(right, False)
        right = np.empty_like(right)
        right[:, :-1] = (self.xx @ x[:, :-1, :, None])[..., 0] + self._blocks(self.xu, d)
        right[:, -1] = (self.end @ x[:, -1, :, None])[..., 0]
        p = self.band.rows(right, True)
        pulled = ((self.f * p[:, 1:, :, None]) + (self.xu * x[:, :-1, :, None])).sum(-2)  # (B, K, m)
        if self.groups == 1 and B > 1:
            pulled = pulled.mean(0, keepdims=True)
        result: Array = pulled + self._blocks(self.uu, d)
        return result

    def _all(self, rho: Array, d: Array) -> Array:
        image: Array = self.product(d) + rho[:, None, None] * self._blocks(self.e, d)
        return image

    # ------------------------------------------------------- maximization

    def maximize(self, rho: Array) -> tuple[Array, Array, Array, Array]:
        """Step (G, K, m), whether it is usable, the ρ used and the predicted decrease of J, each (G,)."""
        done = ~self.active
        step, used = np.zeros_like(self.gradient), rho.copy()
        rho = rho.copy()
        for _ in range(INCREASES):
            d, convex, needed = self._box(rho, ~done)
            good = ~done & convex
            step[good], used[good] = d[good], rho[good]
            done = done | convex
            if done.all():
                break
            higher = np.clip(1.5 * needed, 2.0 * rho, 100.0 * rho)
            rho = np.where(done, rho, higher)
        usable = done & self.active
        predicted = _dot(self.gradient, step) - 0.5 * _dot(step, self.product(step))
        usable = usable & np.isfinite(predicted) & (_dot(self.gradient, step) > 0)
        step[~usable] = 0.0
        return step, usable, np.where(usable, used, rho), np.where(usable, predicted, 0.0)

    def _box(self, rho: Array, wanted: Array) -> tuple[Array, Array, Array]:
        """Primal-dual active set method: step, whether the model is concave, and the ρ needed where not."""
        g, low, high = self.gradient, self.low, self.high
        matrix = _positive_definite(self.uu + rho[:, None, None, None] * self.e)
        diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
        below, above = (low >= 0) & (g <= 0), (high <= 0) & (g >= 0)
        d = np.where(below, low, np.where(above, high, 0.0))
        best, value = np.zeros_like(d), np.zeros(len(d), dtype=d.dtype)
        convex, needed = np.ones(len(d), dtype=bool), np.zeros(len(d), dtype=d.dtype)
        running = wanted
        for _ in range(ROUNDS):
            free = ~(below | above)
            trial = np.where(below, low, np.where(above, high, d))
            search = self._conjugate_gradients(matrix, g - self._all(rho, trial), free, rho, running)
            needed = np.where(running & ~search.convex, search.needed, needed)
            convex = convex & (search.convex | ~running)
            running = running & convex
            if not running.any():
                break
            d = np.where(running[:, None, None], trial + search.d, d)
            clipped, image = np.clip(d, low, high), self._all(rho, d)
            multiplier = np.where(free, 0.0, g - image)
            image = image if (clipped == d).all() else self._all(rho, clipped)
            gain = _dot(g, clipped) - 0.5 * _dot(clipped, image)
            better = running & (gain > value)
            best[better], value[better] = clipped[better], gain[better]
            shifted = d + multiplier / diagonal
            new_below, new_above = (shifted < low) | (low >= high), (shifted > high) & (low < high)
            running = running & ((new_below != below) | (new_above != above)).any((1, 2))
            mask = running[:, None, None]
            below, above = np.where(mask, new_below, below), np.where(mask, new_above, above)
            if not running.any():
                break
        return best, convex, needed

    def _conjugate_gradients(self, matrix: Array, right: Array, free: Array, rho: Array, wanted: Array) -> _Search:
        inverse = self._inverse(matrix, free)
        r = np.where(free & wanted[:, None, None], right, 0.0)
        d = np.zeros_like(r)
        z = self._blocks(inverse, r)
        p, rz = z, _dot(r, z)
        goal = ACCURACY**2 * rz
        convex, needed = np.ones(len(r), dtype=bool), np.zeros(len(r), dtype=r.dtype)
        running = wanted & (rz > 0)
        for _ in range(min(PRODUCTS, 2 * r[0].size)):
            if not running.any():
                break
            plain, penalty = self.product(p), self._blocks(self.e, p)
            image = np.where(free, plain + rho[:, None, None] * penalty, 0.0)
            curvature = _dot(p, image)
            bad = running & ~(curvature > 0)
            if bad.any():
                size = _dot(p, penalty)
                quotient = -_dot(p, plain) / np.maximum(size, np.finfo(r.dtype).tiny)
                needed = np.where(bad, quotient, needed)
                convex, running = convex & ~bad, running & ~bad
            alpha = np.where(running, rz / np.where(running, curvature, 1.0), 0.0)
            d = d + alpha[:, None, None] * p
            r = r - alpha[:, None, None] * image
            z = self._blocks(inverse, r)
            fresh = _dot(r, z)
            running = running & (fresh > goal)
            beta = np.where(running, fresh / np.where(running, rz, 1.0), 0.0)
            p, rz = z + beta[:, None, None] * p, fresh
        return _Search(d, convex, needed)

    def _inverse(self, matrix: Array, free: Array) -> Array:
        """Inverse of the free parts of the blocks, zero elsewhere (G, K, m, m)."""
        if self.scalar:
            return np.where(free[..., None], 1.0 / matrix, 0.0)
        both = free[..., :, None] & free[..., None, :]
        inverse = np.linalg.inv(np.where(both, matrix, np.eye(matrix.shape[-1], dtype=matrix.dtype)))
        return np.where(both, inverse, 0.0)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array


def _dot(a: Array, b: Array) -> Array:
    """Inner products per group (G,)."""
    product: Array = np.einsum("gkm,gkm->g", a, b)
    return product


def _positive_definite(matrix: Array) -> Array:
    """Reflect negative eigenvalues and lift tiny ones, relative to the largest of the group."""
    if matrix.shape[-1] == 1:
        size = np.abs(matrix)
        floor = 1e-10 * size.max(axis=(1, 2, 3), keepdims=True) + np.finfo(matrix.dtype).tiny ** 0.5
        lifted: Array = np.maximum(size, floor)
        return lifted
    values, vectors = np.linalg.eigh(matrix)
    size = np.abs(values)
    floor = 1e-10 * size.max(axis=(1, 2), keepdims=True) + np.finfo(matrix.dtype).tiny ** 0.5
    lifted = (vectors * np.maximum(size, floor)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return lifted
