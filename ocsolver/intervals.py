"""The interval maps x_{k+1} = Ψ_k(x_k, u_k) of a problem under an integrator, and recursions along the chain.

It knows how to step, differentiate and chain intervals; it knows nothing of costates' meaning or of algorithms.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import blas
from torch import Tensor

from ocsolver._autodiff import gradients, leaf, replicate, unit_cotangents
from ocsolver.hamiltonian import augmented_field
from ocsolver.integrators import Integrator
from ocsolver.problem import OptimalControlProblem

__all__ = ["Band", "Intervals", "Linearization", "run_backward", "run_forward"]

REPLICATION_LIMIT = 20_000  # state entries from which one pass per output is cheaper than replicas (measured)


class Linearization(NamedTuple):
    """Interval maps and their state derivatives along a trajectory."""

    x_next: Tensor  # (N, B, n)     Ψ_k(x_k, u_k)
    running: Tensor  # (N, B)       ℓ_k
    jacobian: Tensor  # (N, B, n, n)  A_k = ∂Ψ_k/∂x, rows are outputs
    slope: Tensor  # (N, B, n)      ∂ℓ_k/∂x


@dataclass(frozen=True, eq=False)
class Intervals:
    """The N intervals of a mesh: t and h are (N, 1)."""

    problem: OptimalControlProblem
    integrator: Integrator
    t: Tensor
    h: Tensor

    def _map(self, t: Tensor, h: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """State and cost at the end of intervals: (*b, B, n) -> (*b, B, n [+ 1])."""
        if self.problem.running_cost is not None:
            x = torch.cat((x, x.new_zeros(*x.shape[:-1], 1)), -1)
        return self.integrator.step(augmented_field(self.problem), t, h, x, u)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        n = self.problem.n
        return (z, z.new_zeros(z.shape[:-1])) if z.shape[-1] == n else (z[..., :n], z[..., n])

    def step(self, k: int, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Step interval k: x (B, n), u (G, m) -> Ψ_k (B, n), ℓ_k (B,)."""
        return self._split(self._map(self.t[k], self.h[k], x, u))

    def end(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Step all intervals at once: x (N, B, n), u (N, G, m) -> Ψ_k (N, B, n), ℓ_k (N, B)."""
        return self._split(self._map(self.t, self.h, x, u))

    def rates(self, x: Tensor, u: Tensor) -> Tensor:
        """Average rates ((Ψ_k − x)/h, ℓ_k/h) of all intervals at once: x (*l, N, 1, B, n) -> (*l, N, 1, B, n [+ 1])."""
        t, h = self.t.unsqueeze(-2), self.h.unsqueeze(-2)
        z = self._map(t, h, x, u)
        n = self.problem.n
        moved = z - x if z.shape[-1] == n else torch.cat((z[..., :n] - x, z[..., n:]), -1)
        return moved / h.unsqueeze(-1)

    def linearize(self, x: Tensor, u: Tensor) -> Linearization:
        """Maps and state derivatives of all intervals at once: x (N, B, n), u (N, G, m)."""
        n = self.problem.n
        copies = n if self.problem.running_cost is None else n + 1
        with torch.enable_grad():
            if x.numel() < REPLICATION_LIMIT:
                xs = leaf(replicate(x, copies))
                z = self._map(self.t, self.h, xs, replicate(u.detach(), copies))
                (rows,) = gradients(z, (xs,), unit_cotangents(z, copies))  # (copies, N, B, n)
                z = z[0]
            else:  # one pass per output repeats no forward work
                xs = leaf(x)
                z = self._map(self.t, self.h, xs, u.detach())
                outputs = z.unbind(-1)
                rows = torch.stack([gradients(output, (xs,), retain_graph=True)[0] for output in outputs])
        x_next, running = self._split(z.detach())
        slope = rows[n] if copies > n else torch.zeros_like(x)
        return Linearization(x_next, running, rows[:n].movedim(0, -2), slope)

    def pull(self, k: int, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        """Costate before interval k, ∂(p·Ψ_k − ℓ_k)/∂x: x (B, n), u (G, m), p (B, n) -> (B, n)."""
        with torch.enable_grad():
            x = leaf(x)
            x_next, running = self.step(k, x, u.detach())
            (slope,) = gradients((p * x_next).sum(-1) - running, (x,))
        return slope


class Band:
    """The chain x_{k+1} = A_k x_k + d_k as one unit lower triangular banded system, all rows in one BLAS call."""

    def __init__(self, jacobian: np.ndarray) -> None:  # (N, B, n, n)
        N, B, n, _ = jacobian.shape
        self.shape = (N, B, n)
        self.width = 2 * n - 1
        band = np.zeros((2 * n, B, N + 1, n), dtype=jacobian.dtype)
        band[0] = 1.0
        r, c = np.indices((n, n))
        # entry (row (k+1, r), column (k, c)) lies n + r − c below the diagonal
        band[n + r - c, :, :-1, c] = -jacobian.transpose(2, 3, 1, 0)
        self.band = np.asfortranarray(band.reshape(2 * n, B * (N + 1) * n))  # as BLAS wants it: no copy in each call
        self.solver = blas.stbsv if jacobian.dtype == np.float32 else blas.dtbsv

    def solve(self, right: np.ndarray, transposed: bool) -> np.ndarray:
        """Solve for (N + 1, B, n) given the right-hand side (N + 1, B, n)."""
        return self.rows(np.ascontiguousarray(right.transpose(1, 0, 2)), transposed).transpose(1, 0, 2)

    def take(self, rows: np.ndarray) -> Band:
        """The chains of some trajectories (a mask or indices)."""
        N, B, n = self.shape
        band = self.band.reshape(2 * n, B, -1)[:, rows]
        taken = copy(self)
        taken.shape = (N, band.shape[1], n)
        taken.band = np.asfortranarray(band.reshape(2 * n, -1))
        return taken

    def rows(self, right: np.ndarray, transposed: bool) -> np.ndarray:
        """The same with trajectories first: (B, N + 1, n) -> (B, N + 1, n)."""
        x = self.solver(self.width, self.band, right.reshape(-1), lower=1, diag=1, trans=int(transposed))
        return np.asarray(x).reshape(right.shape)


def _recursion(jacobian: Tensor, right: Tensor, *, transposed: bool) -> Tensor:
    """Run a linear recursion along the chain; rows with non-finite data come back as NaN and touch no other row."""
    bad = ~(torch.isfinite(jacobian).all(-1).all(-1).all(0) & torch.isfinite(right).all(-1).all(0))  # (B,)
    if bool(bad.any()):
        jacobian = torch.where(bad[:, None, None], 0.0, jacobian)
        right = torch.where(bad[:, None], 0.0, right)
    x = Band(jacobian.numpy(force=True)).solve(right.numpy(force=True), transposed)
    solution = torch.from_numpy(np.ascontiguousarray(x)).to(right)
    return torch.where(bad[:, None], torch.nan, solution) if bool(bad.any()) else solution


def run_forward(jacobian: Tensor, start: Tensor, source: Tensor) -> Tensor:
    """Solve x_{k+1} = A_k x_k + d_k from x_0: (N, B, n, n), (B, n), (N, B, n) -> (N + 1, B, n)."""
    return _recursion(jacobian, torch.cat((start[None], source)), transposed=False)


def run_backward(jacobian: Tensor, end: Tensor, source: Tensor) -> Tensor:
    """Solve p_k = A_kᵀ p_{k+1} + c_k from p_N: (N, B, n, n), (B, n), (N, B, n) -> (N + 1, B, n)."""
    return _recursion(jacobian, torch.cat((source, end[None])), transposed=True)
