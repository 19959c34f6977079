"""Linear hypersensitive problem (B21); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns, initial_states, mean_cost

__all__ = ["build"]


def build(
    *,
    end: float = 1.0,
    horizon: float = 10.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Linear system with boundary layers at both ends.

    Minimize J = ½∫(x² + u²) dt subject to ẋ = −x + u, x(t0) = 1.5, x(t1) = 1, u free, T = 10. With τ = t − t0,
    s = t1 − t and ω = √2: x* = (x0 sinh ωs + x1 sinh ωτ)/sinh ωT, u* = p* = x + ẋ, J* = ½(x1p(t1) − x0p(t0)). Where T
    is long the state rests near zero in between: J* = 1.67309397841 at T = 10 and 1.67309703886 from T = 25 on.

    Parameters
    ----------
    end : float, default 1.0
        Final state x1.
    horizon : float, default 10.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (1,) or (B, 1), optional
        One or several initial states; default 1.5.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] OpenMDAO/dymos, hyper-sensitive problem; linuslangenkamp/GDOPT.
    """
    x0 = initial_states(initial_state, [1.5], dtype)  # (B, 1)
    start, t1 = x0.double(), t0 + horizon
    omega = math.sqrt(2.0)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - x

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() + u.square())[..., 0]

    def layer(time: Tensor) -> tuple[Tensor, Tensor]:
        """sinh ωτ/sinh ωT and cosh ωτ/sinh ωT at the distance τ from the other end, without overflow."""
        decay, bottom = torch.exp(omega * (time - horizon)), -math.expm1(-2.0 * omega * horizon)
        small = torch.exp(-2.0 * omega * time)
        return decay * (1.0 - small) / bottom, decay * (1.0 + small) / bottom

    def state(t: Any) -> Tensor:
        return start * layer(t1 - columns(t))[0] + end * layer(columns(t) - t0)[0]

    def control(t: Any) -> Tensor:
        (sinh, cosh), (sinh_end, cosh_end) = layer(t1 - columns(t)), layer(columns(t) - t0)
        return start * (sinh - omega * cosh) + end * (sinh_end + omega * cosh_end)

    costs = 0.5 * (end * control(t1) - start * control(t0))[:, 0]
    return Reference(
        name="linear-hypersensitive",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=x0,
            horizon=(t0, t1),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x, end, end),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, control, terminal_multiplier=-control(t1)),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "terminal-constraint"}),
        source="OpenMDAO/dymos, hyper-sensitive problem; linuslangenkamp/GDOPT",
        id="B21",
        group_costs=tuple(costs.tolist()),
    )
