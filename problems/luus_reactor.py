"""Luus's reactor with two minima (A19); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch

import ocsolver as oc
from problems.reference import Reference, initial_states, published
from problems.stirred_tank import dynamics, running_cost

__all__ = ["build"]


def build(
    *,
    horizon: float = 0.78,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """The stirred tank from another state, with bounds and two local minima.

    Dynamics and cost of `problems.stirred_tank`, x(t0) = (0.09, 0.09), 0 ≤ u ≤ 5, T = 0.78. The global minimum is
    0.13309573 with x(t1) = (0.058069, −0.102653); a local one is 0.2444335 with x(t1) = (0.108455, −0.342209).
    Controls constant on 200 cells attain 0.13310641 and 0.24443469. Which minimum a start leads to depends on the
    method; low constant controls, 0 to 1.25, lead to the local one.

    Parameters
    ----------
    horizon : float, default 0.78
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0.09, 0.09).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, multiextremal case 8.
    .. [2] A. Gornov et al. (2012), collection of multiextremal optimal control problems.
    """
    minima = (0.13309573, 0.2444335)
    unchanged = initial_state is None and horizon == 0.78
    return Reference(
        name="luus-reactor",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [0.09, 0.09], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Box(0.0, 5.0),
        ),
        cost=published(minima[0], unchanged=unchanged),
        exact=None,
        tags=frozenset({"smooth", "several-minima"} if unchanged else {"smooth"}),
        source="danielrherber/dt-qp-project, multiextremal case 8",
        id="A19",
        local_costs=minima if unchanged else (),
    )
