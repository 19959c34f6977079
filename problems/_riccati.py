"""Linear-quadratic problems solved by their Riccati equation in scipy; it knows nothing of torch solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from problems.reference import Exact

__all__ = ["LinearQuadratic"]

Matrix = NDArray[np.float64]
PRECISE: dict[str, Any] = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-14, "dense_output": True}


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """Minimize x(t1)ᵀS x(t1) + ∫ (xᵀQx + uᵀRu) dt subject to ẋ = Ax + Bu, without factors ½.

    Parameters
    ----------
    a, b : ndarray, shapes (n, n) and (n, m)
        Dynamics.
    q, r, s : ndarray, shapes (n, n), (m, m) and (n, n)
        Symmetric weights, R positive definite.
    """

    a: Matrix
    b: Matrix
    q: Matrix
    r: Matrix
    s: Matrix

    def solve(self, initial_state: Tensor, horizon: tuple[float, float]) -> tuple[Tensor, Exact]:
        """Optimal costs and exact solution from −Ṗ = AᵀP + PA + Q − PBR⁻¹BᵀP, P(t1) = S, and u = −R⁻¹BᵀPx.

        Parameters
        ----------
        initial_state : Tensor, shape (B, n)
            Initial states.
        horizon : (float, float)
            Initial and final time.

        Returns
        -------
        costs : Tensor, shape (B,)
            x0ᵀP(t0)x0 of every trajectory.
        exact : Exact
            Control, state and costate −2Px.
        """
        n = self.a.shape[0]
        gain = np.linalg.solve(self.r, self.b.T)
        feedback = self.b @ gain

        def riccati(_: float, y: Matrix) -> Matrix:
            p = y.reshape(n, n)
            rate = self.a.T @ p + p @ self.a + self.q - p @ feedback @ p
            return np.asarray(-rate.ravel())

        backward: Any = solve_ivp(riccati, horizon[::-1], self.s.ravel(), **PRECISE).sol

        def closed_loop(t: float, y: Matrix) -> Matrix:
            rate = (self.a - feedback @ backward(t).reshape(n, n)) @ y.reshape(n, n)
            return np.asarray(rate.ravel())

        forward: Any = solve_ivp(closed_loop, horizon, np.eye(n).ravel(), **PRECISE).sol
        x0 = initial_state.double()

        def weight(t: Any) -> Tensor:
            return _matrices(backward, t, n)

        def state(t: Any) -> Tensor:
            return torch.einsum("...ij,bj->...bi", _matrices(forward, t, n), x0)

        def costate(t: Any) -> Tensor:
            return -2.0 * torch.einsum("...ij,...bj->...bi", weight(t), state(t))

        def control(t: Any) -> Tensor:
            return 0.5 * costate(t) @ torch.as_tensor(gain).T

        start = weight(horizon[0])
        return torch.einsum("bi,ij,bj->b", x0, start, x0), Exact(control, state, costate)


def _matrices(dense: Any, t: Any, n: int) -> Tensor:
    """Values (*T, n, n) of a dense output at times (*T)."""
    times = torch.as_tensor(t, dtype=torch.float64)
    return torch.as_tensor(dense(times.reshape(-1).numpy()).T.copy()).reshape(*times.shape, n, n)
