"""Van der Pol oscillator with a bounded control (A15); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states

__all__ = ["build"]


def build(
    *,
    control_bounds: tuple[float, float] | None = (-0.75, 1.0),
    horizon: float = 10.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Van der Pol oscillator on a longer horizon with a bounded control.

    Minimize J = ∫(x1² + x2² + u²) dt subject to ẋ1 = (1 − x2²)x1 − x2 + u, ẋ2 = x1, x(t0) = (0, 1),
    −0.75 ≤ u ≤ 1, T = 10. J* = 2.8733043, and 2.873143851 where u is free. (The source numbers the states from 0.)

    Parameters
    ----------
    control_bounds : (float, float) or None, default (-0.75, 1.0)
        Sides of the box; None leaves the control free.
    horizon : float, default 10.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (0, 1).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] casadi/casadi, docs/examples/python/vdp_indirect_single_shooting.py.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return torch.stack(((1.0 - x2.square()) * x1 - x2 + u[..., 0], x1), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return x1.square() + x2.square() + u[..., 0].square()

    known = {(-0.75, 1.0): 2.8733043, None: 2.873143851}
    return Reference(
        name="van-der-pol-bounded",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [0.0, 1.0], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1) if control_bounds is None else oc.Box(*control_bounds),
        ),
        cost=known.get(control_bounds) if initial_state is None and horizon == 10.0 else None,
        exact=None,
        tags=frozenset({"smooth"}),
        source="casadi/casadi, docs/examples/python/vdp_indirect_single_shooting.py",
        id="A15",
    )
