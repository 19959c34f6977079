"""Hypersensitive problem with a fixed end (B20); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference

__all__ = ["build"]

Array = NDArray[np.float64]


def value(a: float, sign: float = 1.0) -> float:
    """Optimal cost from a to rest on an infinite horizon, and with sign −1 from rest to a."""
    square = a * a
    return 0.25 * (square * math.hypot(square, 1.0) + math.asinh(square) - sign * square * square)


def _layer(lowest: float, end: float, direction: float, longest: float) -> Any:
    """Extremal x, p and cost over the time from the turning point x = `lowest`, p = x³, until x = `end`."""

    def rate(_: float, y: Array) -> Array:
        x, p, _cost = y
        return direction * np.array([p - x**3, x + 3.0 * x * x * p, direction * 0.5 * (x * x + p * p)])

    def arrived(_: float, y: Array) -> float:
        return float(y[0] - end)

    arrived.terminal = True  # type: ignore[attr-defined]
    scale = 1e-15 * np.array([lowest, lowest, lowest * lowest])
    start = [lowest, lowest**3, 0.0]
    return solve_ivp(
        rate, (0.0, longest), start, method="DOP853", rtol=1e-13, atol=scale, events=arrived, dense_output=True
    )


def build(
    *,
    start: float = 1.5,
    end: float = 1.0,
    horizon: float = 25.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Nonlinear system with boundary layers at both ends.

    Minimize J = ½∫(x² + u²) dt subject to ẋ = −x³ + u, x(t0) = 1.5, x(t1) = 1, u free, T = 25. The Hamiltonian is
    constant, hence u = p = x³ − r until the state turns at its lowest point and x³ + r after, r² = x⁶ + x² − const.
    As T → ∞ the lowest point tends to zero and J* to V₊(x(t0)) + V₋(x(t1)) = 1.33080690494300, with
    V±(a) = ¼(a²√(a⁴ + 1) + arsinh a² ∓ a⁴); T = 25 is within 1e-10 of it. Up to T = 100 the lowest point is found from
    the time that the two layers take and the exact solution is known; beyond, only the limit.

    Parameters
    ----------
    start, end : float, default 1.5 and 1.0
        Initial and final state, positive.
    horizon : float, default 25.0
        Length T of the time interval, long enough for a turn.
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
    .. [1] PSOPT/psopt and zouyilin2000/pockit, hypersensitive problem; optimum derived from the
       Hamilton-Jacobi-Bellman equation.
    """
    if min(start, end) <= 0.0:
        raise ValueError(f"start and end: expected positive numbers, got {start:g} and {end:g}.")
    t1 = t0 + horizon

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - x.pow(3)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() + u.square())[..., 0]

    known = _extremal(start, end, (t0, t1)) if horizon <= 100.0 else None
    cost, exact = (value(start) + value(end, -1.0), None) if known is None else known
    return Reference(
        name="hypersensitive-terminal",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.tensor([[start]], dtype=dtype),
            horizon=(t0, t1),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x, end, end),
        ),
        cost=cost,
        exact=exact,
        tags=frozenset({"smooth", "terminal-constraint"} | ({"closed-form"} if exact else set())),
        source="PSOPT/psopt and zouyilin2000/pockit, hypersensitive problem",
        id="B20",
    )


@cache
def _extremal(start: float, end: float, horizon: tuple[float, float]) -> tuple[float, Exact]:
    """Optimal cost and exact solution, from the lowest state that makes the layers fill the horizon."""
    t0, t1 = horizon
    length = t1 - t0

    def layers(logarithm: float) -> list[Any]:
        lowest = math.exp(logarithm)
        longest = 4.0 * length + 20.0
        return [_layer(lowest, target, sign, longest) for target, sign in ((start, -1.0), (end, 1.0))]

    def excess(logarithm: float) -> float:
        return float(sum(run.t[-1] for run in layers(logarithm))) - length

    high = math.log(min(start, end)) - 1e-9
    if excess(high) > 0.0:
        raise ValueError(f"horizon: expected one that is long enough for the state to turn, got {length:g}.")
    before, after = layers(float(brentq(excess, high - length, high, xtol=1e-14, rtol=1e-15)))
    turn = t0 + float(before.t[-1])

    def course(t: Any, component: int) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64)  # (*T)
        flat = (times - turn).reshape(-1).numpy()
        falling, rising = before.sol(np.maximum(-flat, 0.0)), after.sol(np.maximum(flat, 0.0))
        return torch.as_tensor(np.where(flat < 0.0, falling[component], rising[component])).reshape(*times.shape, 1, 1)

    def state(t: Any) -> Tensor:
        return course(t, 0)

    def costate(t: Any) -> Tensor:
        return course(t, 1)

    cost = float(before.y[2, -1] + after.y[2, -1])
    return cost, Exact(costate, state, costate, terminal_multiplier=-costate(t1).reshape(1, 1))
