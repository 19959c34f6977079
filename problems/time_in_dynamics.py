"""Final time inside of the dynamics (B11); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Integrator whose speed grows with the time that it may take.

    Minimize J = T + ½∫u² dt subject to ẋ = Tu, x(t0) = 0, x(t0 + T) = 1, u free. The final time in the dynamics is a
    static parameter: the states are x, s with ṡ = 0 and a free start, and a clock c with ċ = 1, c(t0) = 0; the dynamics
    are ẋ = su and the end satisfies x = 1 and s = c.

    T* = 1.5^¼, J* = T + 1/(2T³), u* = 1/T², x* = τ/T with τ = t − t0, and p* = (1/T³, −τ/T⁵, 1/T⁴). A method that
    forgets ∂f/∂t1 in the transversality condition ends at T = 0.5^¼ with the cost 1.68179.

    Parameters
    ----------
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
    .. [1] control-toolbox/CTDirect.jl, bolza.jl.
    """
    duration = 1.5**0.25

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        rate = x[..., 1] * u[..., 0]
        return torch.stack((rate, torch.zeros_like(rate), torch.ones_like(rate)), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 1.0 + 0.5 * u[..., 0].square()

    def end(x: Tensor) -> Tensor:
        return torch.stack((x[..., 0] - 1.0, x[..., 1] - x[..., 2]), -1)

    def control(t: Any) -> Tensor:
        return torch.full_like(columns(t), duration**-2)

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        return torch.cat((past / duration, torch.full_like(past, duration), past), -1)

    def costate(t: Any) -> Tensor:
        past = columns(t) - t0
        return torch.cat(
            (torch.full_like(past, duration**-3), -past * duration**-5, torch.full_like(past, duration**-4)), -1
        )

    infinity = torch.inf
    return Reference(
        name="time-in-dynamics",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=oc.FreeInitialState(
                torch.tensor([[0.0, 1.0, 0.0]], dtype=dtype), [0.0, -infinity, 0.0], [0.0, infinity, 0.0]
            ),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(end),
        ),
        cost=duration + 0.5 * duration**-3,
        exact=Exact(
            control,
            state,
            costate,
            final_time=t0 + duration,
            terminal_multiplier=torch.tensor([[-(duration**-3), duration**-4]], dtype=torch.float64),
        ),
        tags=frozenset({"smooth", "closed-form", "terminal-constraint", "free-time", "static-parameter"}),
        source="control-toolbox/CTDirect.jl, bolza.jl",
        id="B11",
    )
