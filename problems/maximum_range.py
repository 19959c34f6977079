"""Maximum range in a given time (B16); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
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


def build(
    *,
    height: float = 0.1,
    horizon: float = 2.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Fly as far as possible with a thrust of half the weight.

    Maximize x(t1) subject to ẋ = v cos θ, ẏ = v sin θ, v̇ = ½ − sin θ from rest at the origin to y(t1) = 0.1, θ free,
    T = 2. The optimum dives first: θ* rises from −½π to arctan py. With D = 1 + ½(py cos θ − sin θ) and the constant
    Hamiltonian h, v = h cos θ/D and θ̇ = D²/h, so that T, x and y are integrals over θ; they give h and py. The
    costates are px = 1, py and pv = h(py cos θ − sin θ)/D. Adding 2π to θ changes nothing.

    Parameters
    ----------
    height : float, default 0.1
        Final height.
    horizon : float, default 2.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem as a minimization of −x(t1), with its cost.

    References
    ----------
    .. [1] A. E. Bryson, Y.-C. Ho, Applied Optimal Control, 2.7.
    .. [2] PSOPT/psopt, bryson_max_range.
    """

    def rates(theta: float | Array, py: float) -> tuple[Any, Any, Any]:
        """dt/h, dx/h² and dy/h² over dθ."""
        cos, sin = np.cos(theta), np.sin(theta)
        D = 1.0 + 0.5 * (py * cos - sin)
        return D**-2, cos**2 * D**-3, cos * sin * D**-3

    points, weights = np.polynomial.legendre.leggauss(80)

    def total(component: int, py: float) -> float:
        half = 0.5 * (math.atan(py) + 0.5 * math.pi)
        return float(half * weights @ rates(half * (1.0 + points) - 0.5 * math.pi, py)[component])

    def excess(py: float) -> float:
        return (horizon / total(0, py)) ** 2 * total(2, py) - height

    py = float(brentq(excess, 0.0, 50.0, xtol=1e-15, rtol=1e-14))
    h = horizon / total(0, py)
    longest = h**2 * total(1, py)

    def flight(_: float, y: Array) -> Array:
        speed, across, up = rates(y[0], py)
        return np.array([1.0 / (h * speed), h * across / speed, h * up / speed])

    start = [-0.5 * math.pi, 0.0, 0.0]
    run: Any = solve_ivp(flight, (0.0, horizon), start, method="DOP853", rtol=1e-13, atol=1e-15, dense_output=True)

    def course(t: Any) -> tuple[Tensor, Tensor, Tensor]:
        """θ, x and y, each (*T, 1, 1)."""
        past = torch.as_tensor(t, dtype=torch.float64) - t0
        values = torch.as_tensor(run.sol(past.reshape(-1).numpy()))
        theta, x, y = values.reshape(3, *past.shape, 1, 1).unbind(0)
        return theta, x, y

    def control(t: Any) -> Tensor:
        return course(t)[0]

    def state(t: Any) -> Tensor:
        theta, x, y = course(t)
        v = h * torch.cos(theta) / (1.0 + 0.5 * (py * torch.cos(theta) - torch.sin(theta)))
        return torch.cat((x, y, v), -1)

    def costate(t: Any) -> Tensor:
        theta = course(t)[0]
        turn = py * torch.cos(theta) - torch.sin(theta)
        pv = h * turn / (1.0 + 0.5 * turn)
        return torch.cat((torch.ones_like(pv), torch.full_like(pv, py), pv), -1)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        v, sin, cos = x[..., 2], torch.sin(u[..., 0]), torch.cos(u[..., 0])
        return torch.stack((v * cos, v * sin, (0.5 - sin).expand_as(v)), -1)

    def terminal_cost(x: Tensor) -> Tensor:
        return -x[..., 0]

    return Reference(
        name="maximum-range",
        problem=oc.OptimalControlProblem(
            dynamics,
            None,
            terminal_cost,
            initial_state=torch.zeros(1, 3, dtype=dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x[..., 1:2], height, height),
        ),
        cost=-longest,
        exact=Exact(control, state, costate, terminal_multiplier=torch.tensor([[-py]], dtype=torch.float64)),
        tags=frozenset({"smooth", "closed-form", "maximization", "terminal-constraint"}),
        source="PSOPT/psopt, bryson_max_range",
        id="B16",
    )
