"""Linear-quadratic regulator with a terminal cost (A03); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from problems._riccati import LinearQuadratic
from problems.reference import Reference, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    horizon: float = 1.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Scalar regulator with cheap control and a terminal cost.

    Minimize J = ∫(x² + 0.1u²) dt + ½x(t1)² subject to ẋ = −x + u, x(t0) = 1, u free, T = 1. The optimum comes from
    the Riccati equation.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 1.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] zouyilin2000/pockit, README and examples/linear_quadratic_regulator.py.
    """
    x0 = initial_states(initial_state, [1.0], dtype)  # (B, 1)
    one = np.eye(1)
    costs, exact = LinearQuadratic(-one, one, one, 0.1 * one, 0.5 * one).solve(x0, (t0, t0 + horizon))

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - x

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (x.square() + 0.1 * u.square())[..., 0]

    def terminal_cost(x: Tensor) -> Tensor:
        return 0.5 * x[..., 0].square()

    return Reference(
        name="lqr-terminal-cost",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            terminal_cost,
            initial_state=x0,
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
        ),
        cost=mean_cost(costs),
        exact=exact,
        tags=frozenset({"smooth", "closed-form", "linear-quadratic"}),
        source="zouyilin2000/pockit, examples/linear_quadratic_regulator.py",
        id="A03",
        group_costs=tuple(costs.tolist()),
    )
