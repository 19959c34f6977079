"""Van der Pol oscillator (A14); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    horizon: float = 2.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Van der Pol oscillator with a free control.

    Minimize J = ½∫(x1² + x2² + u²) dt subject to ẋ1 = x2, ẋ2 = (1 − x1²)x2 − x1 + u, x(t0) = (1, 0), u free, T = 2.
    J* = 1.047806908 with x(t1) = (0.059811, −0.986800); the sources quote the coarser 1.048.

    Parameters
    ----------
    horizon : float, default 2.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (1, 0).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] control-toolbox/bocop, vanderpol.
    .. [2] control-toolbox/CTDirect.jl, vanderpol.jl.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return torch.stack((x2, (1.0 - x1.square()) * x2 - x1 + u[..., 0]), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return 0.5 * (x1.square() + x2.square() + u[..., 0].square())

    return Reference(
        name="van-der-pol",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [1.0, 0.0], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
        ),
        cost=published(1.047806908, unchanged=initial_state is None and horizon == 2.0),
        exact=None,
        tags=frozenset({"smooth"}),
        source="control-toolbox/bocop, vanderpol; control-toolbox/CTDirect.jl, vanderpol.jl",
        id="A14",
    )
