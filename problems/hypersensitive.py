"""Hypersensitive problem with a free end (A47); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, initial_states, mean_cost

__all__ = ["build"]

Array = NDArray[np.float64]


def value(a: float) -> float:
    """V(a), the optimal cost on an infinite horizon."""
    square = a * a
    return 0.25 * (square * math.hypot(square, 1.0) + math.asinh(square) - square * square)


def _backward(end: float, start: float, longest: float) -> Any:
    """Extremal x, p and cost to go over the time left, from x = `end` and p = 0 until x = `start`."""

    def rate(_: float, y: Array) -> Array:
        x, p, _cost = y
        return np.array([x**3 - p, -x - 3.0 * x * x * p, 0.5 * (x * x + p * p)])

    def arrived(_: float, y: Array) -> float:
        return float(y[0] - start)

    arrived.terminal = True  # type: ignore[attr-defined]
    scale = np.array([end, end, end * end])
    return solve_ivp(
        rate,
        (0.0, longest),
        [end, 0.0, 0.0],
        method="DOP853",
        rtol=1e-13,
        atol=1e-15 * scale,
        events=arrived,
        dense_output=True,
    )


@cache
def _extremal(start: float, horizon: float) -> tuple[Callable[[Array], Array], float]:
    """Dense extremal (x, p, cost to go) over the time left, and the optimal cost, from x = `start` > 0."""

    def excess(logarithm: float) -> float:
        run = _backward(math.exp(logarithm), start, 2.0 * horizon + 20.0)
        return float(run.t_events[0][0]) - horizon

    high = math.log(start)
    end = math.exp(brentq(excess, high - horizon - 5.0, high - 1e-12, xtol=1e-15, rtol=1e-14))
    run = _backward(end, math.inf, horizon)
    return run.sol, float(run.y[2, -1])


def build(
    *,
    horizon: float = 10.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Hypersensitive problem without its end condition.

    Minimize J = ½∫(x² + u²) dt subject to ẋ = −x³ + u, x(t0) = 1.5, u free. As T → ∞ the value is
    V(a) = ¼(a²√(a⁴ + 1) + arsinh a² − a⁴) with the feedback u = x³ − √(x⁶ + x²); T = 10 is within 3e-9 of it and
    T = 20 within rounding. On a finite horizon p(t1) = 0 and the constant Hamiltonian −½x(t1)² give ẋ = −x³ + u with
    u = p = x³ − √(x⁶ + x² − x(t1)²); the end x(t1) is found by integrating backward from it.

    Parameters
    ----------
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
    .. [1] PSOPT/psopt and zouyilin2000/pockit, hypersensitive problem, end condition dropped; optimum derived from
       the Hamilton-Jacobi-Bellman equation.
    """
    x0 = initial_states(initial_state, [1.5], dtype)  # (B, 1)
    t1 = t0 + horizon
    arcs = [_extremal(abs(float(a)), horizon) for a in x0[:, 0]]
    signs = torch.sign(x0[:, :1]).double()

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - x.pow(3)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * (x.square() + u.square())[..., 0]

    def arc(t: Any, component: int) -> Tensor:
        left = t1 - torch.as_tensor(t, dtype=torch.float64)  # (*T)
        flat = left.reshape(-1).numpy()
        values = np.stack([dense(flat)[component] for dense, _ in arcs], -1)  # (T, B)
        return signs * torch.as_tensor(values).reshape(*left.shape, len(arcs), 1)

    def state(t: Any) -> Tensor:
        return arc(t, 0)

    def costate(t: Any) -> Tensor:
        return arc(t, 1)

    costs = torch.tensor([cost for _, cost in arcs], dtype=torch.float64)
    return Reference(
        name="hypersensitive",
        problem=oc.OptimalControlProblem(
            dynamics, running_cost, initial_state=x0, horizon=(t0, t1), control_set=oc.Unconstrained(1)
        ),
        cost=mean_cost(costs),
        exact=Exact(costate, state, costate),
        tags=frozenset({"smooth", "closed-form"}),
        source="PSOPT/psopt and zouyilin2000/pockit, hypersensitive problem, end condition dropped",
        id="A47",
        group_costs=tuple(costs.tolist()),
    )
