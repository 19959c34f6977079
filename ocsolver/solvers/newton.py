"""Newton steps of E-MSA: maximize H̃ at all times together, the coupling through the dynamics included.

A maximization at fixed x and p sees only the part of the second derivative of J that is local in time. The rest acts
through the states: with A = ∂Ψ/∂x and F = ∂Ψ/∂u of the interval maps, its product with a step d of the control is one
forward sweep δx⁺ = A δx + F d and one backward sweep of the same kind. Both are banded solves, so conjugate gradients,
preconditioned by the curvature of H̃ at each time, are cheap. The penalty ρ of H̃ says how far the model is trusted.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

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
    like = sweep.blocks[0].current
    mask = active.detach().cpu().numpy()
    model = _Model(sweep)
    used, usable = _array(rho).copy(), np.zeros_like(mask)
    step, predicted = np.zeros_like(model.gradient), np.zeros_like(used)
    chosen = np.flatnonzero(mask)
    if len(chosen):
        part = model.take(chosen)
        d, rising, at, gain = part.maximize(used[chosen])
        step[:, chosen], usable[chosen] = d, rising
        used[chosen] = np.where(rising, at, used[chosen])
        predicted[chosen] = gain

    def tensor(values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)

    moved = tensor(step.transpose(2, 1, 0))
    return Proposal(moved, tensor(usable), tensor(used), tensor(predicted))


class _Search(NamedTuple):
    """Result of conjugate gradients."""

    d: Array  # (m, G, K)
    concave: Array  # (G,), bool: no direction met in which the model is not
    needed: Array  # (G,), ρ that makes it concave there


class _Model:
    """The model g·d − ½ d·(S + ρE)d of each group for d (m, G, K), with S = ∂²J/∂u² and ½ d·Ed = ½(E_f + E_q) in H̃.

    Components come first: sums over them then run over long contiguous vectors.
    """

    def __init__(self, sweep: Sweep) -> None:
        block: HamiltonianBlock = sweep.blocks[0]
        coupling, expansion = block.coupling, block.current_expansion
        assert coupling is not None
        assert sweep.terminal is not None
        w = _array(block.weights)
        n = block.x.shape[-1]
        self.shared = block.groups == 1 and block.x.shape[2] > 1
        # (K, B, i, j) -> (i, j, B, K); rows that failed belong to groups that do not move
        state, control, hessian, mixed = (_clean(_array(part)) for part in coupling)
        self.band = Band(np.eye(n, dtype=w.dtype) + w[:, None, None, None] * state[:, :, :n])
        self.f = _components(w[:, None, None, None] * control[:, :, :n])  # (n, m, B, K)
        self.xx = _components(-w[:, None, None, None] * hessian)  # (n, n, B, K)
        self.xu = _components(-w[:, None, None, None] * mixed)  # (n, m, B, K)
        self.end = _clean(_array(sweep.terminal()))  # (B, n, n)
        self.uu = _components(-w[:, None, None, None] * _clean(_array(expansion.hessian)))  # (m, m, G, K)
        gram = expansion.state_gram + expansion.costate_gram
        self.e = _components(w[:, None, None, None] * _clean(_array(gram)))  # (m, m, G, K)
        bounds = block.control_set.bounds(block.current)
        assert bounds is not None
        slope = w[:, None, None] * _clean(_array(expansion.gradient))
        sides = (_array((side - block.current).expand_as(block.current)) for side in bounds)
        self.gradient, self.low, self.high = (
            np.ascontiguousarray(part.transpose(2, 1, 0)) for part in (slope, *sides)
        )  # (m, G, K)

    def take(self, groups: Array) -> _Model:
        """The model of some groups (a mask or indices)."""
        count = self.gradient.shape[1]
        if (len(groups) == count and groups.dtype != bool) or (groups.dtype == bool and groups.all()):
            return self
        part = copy(self)
        part.uu, part.e = self.uu[:, :, groups], self.e[:, :, groups]
        part.gradient, part.low, part.high = (v[:, groups] for v in (self.gradient, self.low, self.high))
        part.f, part.xx, part.xu = (v[:, :, groups] for v in (self.f, self.xx, self.xu))
        part.end, part.band = self.end[groups], self.band.take(groups)
        return part

    # ------------------------------------------------------------- products

    def product(self, d: Array) -> Array:
        """S d (m, G, K): one forward and one backward sweep."""
        n, _, B, K = self.f.shape
        right = np.zeros((B, K + 1, n), dtype=d.dtype)
        right[:, 1:] = _times(self.f, d).transpose(1, 2, 0)
        x = self.band.rows(right, False)
        inner = np.ascontiguousarray(x[:, :-1].transpose(2, 0, 1))  # (n, B, K)
        right = np.empty_like(right)
        right[:, :-1] = (_times(self.xx, inner) + _times(self.xu, d)).transpose(1, 2, 0)
        right[:, -1] = (self.end @ x[:, -1, :, None])[..., 0]
        p = self.band.rows(right, True)
        later = np.ascontiguousarray(p[:, 1:].transpose(2, 0, 1))
        pulled = _transposed(self.f, later) + _transposed(self.xu, inner)  # (m, B, K)
        if self.shared:
            pulled = pulled.mean(1, keepdims=True)
        return pulled + _times(self.uu, d)

    def augmented(self, rho: Array, d: Array) -> Array:
        """(S + ρE) d."""
        image: Array = self.product(d) + rho[:, None] * _times(self.e, d)
        return image

    # ------------------------------------------------------- maximization

    def maximize(self, rho: Array) -> tuple[Array, Array, Array, Array]:
        """Step (m, G, K), whether it is usable, the ρ used and the predicted decrease of J, each (G,)."""
        rho = rho.copy()
        step, left = np.zeros_like(self.gradient), np.arange(len(rho))
        for _ in range(INCREASES):
            d, concave, needed = self.take(left)._box(rho[left])
            step[:, left[concave]] = d[:, concave]
            left, needed = left[~concave], needed[~concave]
            if not len(left):
                break
            rho[left] = np.clip(1.5 * needed, 2.0 * rho[left], 100.0 * rho[left])
        slope = _dot(self.gradient, step)
        predicted = slope - 0.5 * _dot(step, self.product(step))
        usable = np.isfinite(predicted) & (slope > 0)
        usable[left] = False
        step[:, ~usable] = 0.0
        return step, usable, rho, np.where(usable, predicted, 0.0)

    def _box(self, rho: Array) -> tuple[Array, Array, Array]:
        """Primal-dual active set method: step, whether the model is concave, and the ρ needed where not."""
        g, low, high = self.gradient, self.low, self.high
        matrix = _positive_definite(self.uu + rho[:, None] * self.e)
        diagonal = np.moveaxis(np.diagonal(matrix), -1, 0)
        below, above = (low >= 0) & (g <= 0), (high <= 0) & (g >= 0)
        d = np.where(below, low, np.where(above, high, 0.0))
        best, value = np.zeros_like(d), np.zeros_like(rho)
        concave, needed = np.ones(len(rho), dtype=bool), np.zeros_like(rho)
        running = np.arange(len(rho))
        for _ in range(ROUNDS):
            part, r = self.take(running), rho[running]
            lo, hi = part.low, part.high
            at_low, at_high = below[:, running], above[:, running]
            free = ~(at_low | at_high)
            trial = np.where(at_low, lo, np.where(at_high, hi, d[:, running]))
            inverse = _inverse(matrix[:, :, running], free)
            search = part._conjugate_gradients(inverse, part.gradient - part.augmented(r, trial), free, r)
            concave[running], needed[running] = search.concave, search.needed
            trial = trial + search.d
            clipped, image = np.clip(trial, lo, hi), part.augmented(r, trial)
            multiplier = np.where(free, 0.0, part.gradient - image)
            image = image if (clipped == trial).all() else part.augmented(r, clipped)
            gain = _dot(part.gradient, clipped) - 0.5 * _dot(clipped, image)
            better = search.concave & (gain > value[running])
            chosen = running[better]
            best[:, chosen], value[chosen] = clipped[:, better], gain[better]
            shifted = trial + multiplier / diagonal[:, running]
            new_low, new_high = (shifted < lo) | (lo >= hi), (shifted > hi) & (lo < hi)
            changed = ((new_low != at_low) | (new_high != at_high)).any((0, 2)) & search.concave
            d[:, running], below[:, running], above[:, running] = trial, new_low, new_high
            running = running[changed]
            if not len(running):
                break
        return best, concave, needed

    def _conjugate_gradients(self, inverse: Array, right: Array, free: Array, rho: Array) -> _Search:
        """Solve (S + ρE) d = right on the free components; groups that are done are left out of the products."""
        model, left = self, np.arange(len(rho))
        solution, r = np.zeros_like(right), np.where(free, right, 0.0)
        concave, needed = np.ones(len(rho), dtype=bool), np.zeros_like(rho)
        d, z = np.zeros_like(r), _times(inverse, r)
        p, rz = z, _dot(r, z)
        goal = ACCURACY**2 * rz
        running = rz > 0
        for _ in range(min(PRODUCTS, 2 * right[:, 0].size)):
            if 2 * running.sum() <= len(running):
                solution[:, left] = d
                model, left = model.take(np.flatnonzero(running)), left[running]
                inverse, rho, goal, rz = inverse[:, :, running], rho[running], goal[running], rz[running]
                d, r, p, free = d[:, running], r[:, running], p[:, running], free[:, running]
                running = running[running]
                if not len(left):
                    break
            plain, penalty = model.product(p), _times(model.e, p)
            image = np.where(free, plain + rho[:, None] * penalty, 0.0)
            curvature = _dot(p, image)
            bad = running & ~(curvature > 0)
            if bad.any():
                quotient = -_dot(p, plain) / np.maximum(_dot(p, penalty), np.finfo(r.dtype).tiny)
                needed[left[bad]], concave[left[bad]] = quotient[bad], False
                running = running & ~bad
            alpha = np.where(running, rz / np.where(running, curvature, 1.0), 0.0)[:, None]
            d, r = d + alpha * p, r - alpha * image
            z = _times(inverse, r)
            fresh = _dot(r, z)
            running = running & (fresh > goal)
            p, rz = z + np.where(running, fresh / np.where(running, rz, 1.0), 0.0)[:, None] * p, fresh
        solution[:, left] = d
        return _Search(solution, concave, needed)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.numpy(force=True)  # zero tensors have no other way
    return array


def _clean(values: Array) -> Array:
    """Zero where not finite: such rows belong to groups that do not move."""
    return values if np.isfinite(values.sum()) else np.where(np.isfinite(values), values, 0.0)


def _components(matrices: Array) -> Array:
    """(K, B, i, j) -> (i, j, B, K)."""
    return np.ascontiguousarray(matrices.transpose(2, 3, 1, 0))


def _times(matrix: Array, vector: Array) -> Array:
    """Products at every site: (i, j, *s), (j, *s) -> (i, *s)."""
    if matrix.shape[1] == 1:
        product: Array = matrix[:, 0] * vector
        return product
    return np.asarray(np.einsum("ijbk,jbk->ibk", matrix, vector))


def _transposed(matrix: Array, vector: Array) -> Array:
    """Products with the transposes: (i, j, *s), (i, *s) -> (j, *s)."""
    return np.asarray(np.einsum("ijbk,ibk->jbk", matrix, vector))


def _dot(a: Array, b: Array) -> Array:
    """Inner products per group (G,)."""
    return np.asarray(np.einsum("mgk,mgk->g", a, b))


def _inverse(matrix: Array, free: Array) -> Array:
    """Inverses of the free parts of the blocks, zero elsewhere (m, m, G, K)."""
    if len(matrix) == 1:
        return np.where(free, 1.0 / matrix, 0.0)
    both = free[:, None] & free[None]
    eye = np.eye(len(matrix), dtype=matrix.dtype)[..., None, None]
    inverse = np.linalg.inv(np.moveaxis(np.where(both, matrix, eye), (0, 1), (-2, -1)))
    return np.where(both, np.moveaxis(inverse, (-2, -1), (0, 1)), 0.0)


def _positive_definite(matrix: Array) -> Array:
    """Reflect negative eigenvalues and lift tiny ones, relative to the largest of the group."""
    tiny = np.finfo(matrix.dtype).tiny ** 0.5
    if len(matrix) == 1:
        size = np.abs(matrix)
        return np.asarray(np.maximum(size, 1e-10 * size.max(axis=-1, keepdims=True) + tiny))
    values, vectors = np.linalg.eigh(np.moveaxis(matrix, (0, 1), (-2, -1)))  # (G, K, m), (G, K, m, m)
    size = np.abs(values)
    size = np.maximum(size, 1e-10 * size.max(axis=(1, 2), keepdims=True) + tiny)
    lifted = (vectors * size[..., None, :]) @ vectors.swapaxes(-1, -2)
    return np.ascontiguousarray(np.moveaxis(lifted, (-2, -1), (0, 1)))
