"""Social distancing in an SIR epidemic (A31); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    horizon: float = 100.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Social distancing that flattens an epidemic.

    Minimize J = ∫(I² + 0.05u²) dt subject to Ṡ = −0.32(1 − u)SI, İ = 0.32(1 − u)SI − 0.1I, (S, I)(t0) = (0.99, 0.01),
    0 ≤ u ≤ 0.8, T = 100. J* = 1.231624311; the optimal control stays inside its bounds, 9.5e-5 … 0.5225.

    Parameters
    ----------
    horizon : float, default 100.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0.99, 0.01).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] zouyilin2000/pockit, sir_epidemic_control.py, without its capacity constraint I <= 0.08.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        susceptible, infectious = x.unbind(-1)
        new = (0.32 - 0.32 * u[..., 0]) * susceptible * infectious
        return torch.stack((-new, new - 0.1 * infectious), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x[..., 1].square() + 0.05 * u[..., 0].square()

    return Reference(
        name="sir-distancing",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [0.99, 0.01], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box(0.0, 0.8),
        ),
        cost=published(1.231624311, unchanged=initial_state is None and horizon == 100.0),
        exact=None,
        tags=frozenset({"smooth"}),
        source="zouyilin2000/pockit, sir_epidemic_control.py without its capacity constraint",
        id="A31",
    )
