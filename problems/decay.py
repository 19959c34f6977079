"""First-order lag brought to zero, for energy, fuel or time (B09); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    least: Literal["energy", "fuel", "time"] = "energy",
    horizon: float = 1.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """First-order lag brought to zero with least energy, least fuel or in least time.

    Subject to ẋ = −x + u, x(t0) = −1, x(t1) = 0, minimize; with τ = t − t0:

    - energy: J = ½∫u² dt, u free, T = 1. u* = p* = 2e^τ/(e^{2T} − 1), J* = 1/(e^{2T} − 1);
    - fuel: J = ∫|u| dt, −1 ≤ u ≤ 1, T = 1. u* = 0 until τ = ln(e^T − 1) =: s and 1 after; p* = e^{τ − s}, J* = T − s;
    - time: J = T, −1 ≤ u ≤ 1. u* = 1, p* = ½e^τ, J* = T* = ln 2.

    Parameters
    ----------
    least : {'energy', 'fuel', 'time'}, default 'energy'
        What is minimized.
    horizon : float, default 1.0
        Length T of the time interval, where it is fixed; more than ln 2 for least fuel.
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
    .. [1] control-toolbox/CTProblems.jl, exponential; control-toolbox/CTDirect.jl, simple_integrator.
    """
    if least not in ("energy", "fuel", "time"):
        raise ValueError(f"least: expected 'energy', 'fuel' or 'time', got {least!r}.")
    switch = math.log(math.expm1(horizon))
    if least == "fuel" and switch <= 0.0:
        raise ValueError(f"horizon: expected more than ln 2, the least time, got {horizon:g}.")
    growth = math.expm1(2.0 * horizon)
    duration, coasting, first, cost = {  # and the costate at the start
        "energy": (horizon, 0.0, 2.0 / growth, 1.0 / growth),
        "fuel": (horizon, switch, math.exp(-switch), horizon - switch),
        "time": (math.log(2.0), 0.0, 0.5, math.log(2.0)),
    }[least]
    tags = {
        "energy": {"smooth", "linear-quadratic"},
        "fuel": {"bang-bang", "non-smooth"},
        "time": {"smooth", "free-time"},
    }[least]

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - x

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        if least == "energy":
            return 0.5 * u[..., 0].square()
        return u[..., 0].abs() if least == "fuel" else torch.ones_like(x[..., 0])

    def costate(t: Any) -> Tensor:
        return first * torch.exp(columns(t) - t0)

    def control(t: Any) -> Tensor:
        return costate(t) if least == "energy" else (columns(t) - t0 >= coasting).double()

    def state(t: Any) -> Tensor:
        past = columns(t) - t0
        if least == "energy":
            return first * torch.sinh(past) - torch.exp(-past)
        return -torch.expm1(-(past - coasting).clamp_min(0.0)) - torch.exp(-past)

    return Reference(
        name=f"decay-{least}",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.tensor([[-1.0]], dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0) if least == "time" else t0 + horizon),
            control_set=oc.Unconstrained(1) if least == "energy" else oc.Box(-1.0, 1.0),
            terminal_constraint=oc.Constraint(lambda x: x),
        ),
        cost=cost,
        exact=Exact(
            control,
            state,
            costate,
            switches=(t0 + coasting,) if least == "fuel" else (),
            final_time=t0 + duration if least == "time" else None,
            terminal_multiplier=-costate(t0 + duration),
        ),
        tags=frozenset({"closed-form", "terminal-constraint"} | tags),
        source="control-toolbox/CTProblems.jl, exponential; control-toolbox/CTDirect.jl, simple_integrator",
        id="B09",
    )
