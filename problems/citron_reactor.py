"""Citron's chemical reactor family (A22); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]

# case: (a, b, T, k, largest x2(T))
CASES: dict[int, tuple[float, float, float, float, float]] = {
    1: (0.1, 0.5, 2.0, 1.5, 0.308132),
    2: (0.1, 0.5, 4.0, 1.5, 0.357578),
    3: (0.1, 0.5, 8.0, 1.5, 0.405612),
    4: (0.1, 0.2, 2.0, 1.5, 0.268291),
    5: (0.1, 0.3, 2.0, 1.5, 0.300129),
    6: (0.1, 0.4, 2.0, 1.5, 0.306108),
    7: (0.01, 8.0, 2.0, 1.5, 0.310412),
    8: (0.01, 8.0, 4.0, 1.5, 0.358058),
    9: (0.01, 8.0, 8.0, 1.5, 0.408711),
    10: (0.1, 0.5, 2.0, 0.5, 0.1682617),
}


def build(
    *,
    case: int = 1,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Largest yield of an intermediate product, ten published cases.

    Maximize x2(t1) subject to ẋ1 = −u x1, ẋ2 = u x1 − ρuᵏx2, ρ = 2.5, x(t0) = (1, 0.01), a ≤ u ≤ b. Bounds,
    horizon and exponent k come from the case; keep the control nonnegative. The stored costs are the negatives of the
    largest yields, known to 2e-6.

    Where k > 1 the Hamiltonian is strictly concave in u: the optimal control follows its bounds and leaves them
    smoothly (cases 1 to 3 and 5 to 9; case 4 stays at b). Only case 10, k = 1/2, is bang-bang, with one switch from
    a to b at t0 + 1.127713. In cases 8 and 9 a start at the middle of the bounds falls into a useless stationary
    point of cost near 0, where everything has reacted away.

    Parameters
    ----------
    case : int, default 1
        Published case, 1 to 10.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (1, 0.01).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem as a minimization of −x2(t1), with its cost.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, chemical-reactor.
    .. [2] linuslangenkamp/GDOPT, chemicalReaction.py, is case 1.
    """
    lower, upper, horizon, exponent, largest = CASES[case]

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        rate = u[..., 0]
        gain = rate * x1
        return torch.stack((-gain, gain - 2.5 * rate.pow(exponent) * x2), -1)

    def terminal_cost(x: Tensor) -> Tensor:
        return -x[..., 1]

    return Reference(
        name=f"citron-reactor-{case}",
        problem=oc.OptimalControlProblem(
            dynamics,
            None,
            terminal_cost,
            initial_state=initial_states(initial_state, [1.0, 0.01], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box(lower, upper),
        ),
        cost=published(-largest, unchanged=initial_state is None),
        exact=None,
        tags=frozenset({"maximization", "bang-bang"} if exponent < 1.0 else {"maximization"}),
        source=f"danielrherber/dt-qp-project, chemical-reactor case {case}",
        id="A22",
    )
