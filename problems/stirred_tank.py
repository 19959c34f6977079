"""Kirk's continuous stirred-tank reactor (A18); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Temperature and concentration deviations of the reactor."""
    x1, x2 = x.unbind(-1)
    reaction = (x2 + 0.5) * torch.exp(25.0 * x1 / (x1 + 2.0))
    return torch.stack((reaction - (2.0 + u[..., 0]) * (x1 + 0.25), 0.5 - x2 - reaction), -1)


def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """x1² + x2² + 0.1u²."""
    return x.square().sum(-1) + 0.1 * u[..., 0].square()


def build(
    *,
    horizon: float = 0.78,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Kirk's stirred-tank reactor with a free coolant flow.

    Minimize J = ∫(x1² + x2² + 0.1u²) dt subject to ẋ1 = −(2 + u)(x1 + 0.25) + r, ẋ2 = 0.5 − x2 − r with the reaction
    rate r = (x2 + 0.5)exp(25x1/(x1 + 2)), x(t0) = (0.05, 0), u free, T = 0.78. J* = 0.02660335546 with
    x(t1) = (0.030496, −0.066895).

    Parameters
    ----------
    horizon : float, default 0.78
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0.05, 0).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] D. E. Kirk, Optimal Control Theory (1970), section 6.2, with the weights of the PROPT manual, Stirred
       Tank.
    """
    return Reference(
        name="stirred-tank",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [0.05, 0.0], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
        ),
        cost=published(0.02660335546, unchanged=initial_state is None and horizon == 0.78),
        exact=None,
        tags=frozenset({"smooth"}),
        source="D. E. Kirk, Optimal Control Theory (1970), section 6.2; PROPT manual, Stirred Tank",
        id="A18",
    )
