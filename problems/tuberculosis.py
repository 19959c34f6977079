"""Two-strain tuberculosis (A26); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    horizon: float = 5.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Case finding and case holding against two strains of tuberculosis.

    States S, T, L1, L2, I1, I2, around 1e4. Minimize J = ∫(L2 + I2 + 25u1² + 250u2²) dt, with N = 30000, subject to

    - S' = Λ − β1SI1/N − β*SI2/N − μS
    - T' = u1r1L1 − μT + (1 − (1 − u2)(p + q))r2I1 − β2TI1/N − β*TI2/N
    - L1' = β1SI1/N − (μ + k1)L1 − u1r1L1 + (1 − u2)p r2I1 + β2TI1/N − β*L1I2/N
    - L2' = (1 − u2)q r2I1 − (μ + k2)L2 + β*(S + L1 + T)I2/N
    - I1' = k1L1 − (μ + d1)I1 − r2I1
    - I2' = k2L2 − (μ + d2)I2

    β1 = β2 = 13, β* = 0.029, μ = 0.0143, k1 = 0.5, k2 = 1, r1 = 2, r2 = 1, p = 0.4, q = 0.1, Λ = 429, d1 = d2 = 0,
    0.05 ≤ u ≤ 0.95, T = 5. J* = 5152.0731.

    Parameters
    ----------
    horizon : float, default 5.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (6,) or (B, 6), optional
        One or several initial states; default (19000, 250, 9000, 500, 1000, 250).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] J. T. Betts, Practical Methods for Optimal Control and Estimation Using Nonlinear Programming (2010).
    .. [2] maptor/maptor, examples, two-strain tuberculosis.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        susceptible, treated, latent1, latent2, infectious1, infectious2 = x.unbind(-1)
        u1, u2 = u.unbind(-1)
        first = (13.0 / 30000.0) * infectious1  # β1 = β2
        second = (0.029 / 30000.0) * infectious2
        leaving = first + second + 0.0143
        found = 2.0 * u1 * latent1
        missed = (1.0 - u2) * infectious1
        return torch.stack(
            (
                429.0 - susceptible * leaving,
                found - treated * leaving + infectious1 - 0.5 * missed,
                first * (susceptible + treated) - latent1 * (0.5143 + second) - found + 0.4 * missed,
                0.1 * missed - 1.0143 * latent2 + second * (susceptible + latent1 + treated),
                0.5 * latent1 - 1.0143 * infectious1,
                latent2 - 0.0143 * infectious2,
            ),
            -1,
        )

    price = torch.tensor([25.0, 250.0], dtype=dtype)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x[..., 3] + x[..., 5] + (price * u.square()).sum(-1)

    start = [19000.0, 250.0, 9000.0, 500.0, 1000.0, 250.0]
    return Reference(
        name="tuberculosis",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, start, dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box([0.05, 0.05], [0.95, 0.95]),
        ),
        cost=published(5152.0731, unchanged=initial_state is None and horizon == 5.0),
        exact=None,
        tags=frozenset({"large-states"}),
        source="J. T. Betts, Practical Methods for Optimal Control (2010); maptor/maptor, examples",
        id="A26",
    )
