"""A problem without a minimizer (A46); statement, optimum and nothing about solving it."""

from __future__ import annotations

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference

__all__ = ["build"]


def build(
    *,
    horizon: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Chattering: the infimum is not attained.

    Minimize J = ½∫(x² − u²) dt subject to ẋ = u, x(t0) = 0, −1 ≤ u ≤ 1, T = 1. The infimum −T/2 is approached by
    controls that switch ever faster between −1 and 1, and is not attained: `cost` is this infimum. A solver must
    report a failure to converge, never an optimum.

    Parameters
    ----------
    horizon : float, default 1.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] alfioborzi/SQHmethod, SQHchattering.m.
    """
    t1 = t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() - u.square())[..., 0]

    return Reference(
        name="chattering",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.zeros(1, dtype=dtype),
            horizon=(t0, t1),
            control_set=oc.Box(-1.0, 1.0),
        ),
        cost=-0.5 * horizon,
        exact=None,
        tags=frozenset({"no-minimizer"}),
        source="alfioborzi/SQHmethod, SQHchattering.m",
        id="A46",
    )
