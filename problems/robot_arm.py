"""Robot arm that turns in least time (B25); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from problems._arcs import Arcs, Array, integrate
from problems.reference import Exact, Reference

__all__ = ["build"]

LENGTH = 5.0
# Least time, and the first switch of u3: at half time φ̇ = 0 and θ is half way. Solved by shooting.
DURATION, SWING = 9.140911745915004, 2.796043210010238


def build(
    *,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Robot arm that turns in least time.

    Minimize J = T for the states (ρ, ρ̇, θ, θ̇, φ, φ̇) with ρ̈ = u1/L, θ̈ = u2/(I sin²φ), φ̈ = u3/I, where L = 5 and
    I = ((L − ρ)³ + ρ³)/3, from (4.5, 0, 0, 0, ¼π, 0) to (4.5, 0, ⅔π, 0, ¼π, 0), −1 ≤ uᵢ ≤ 1, 0 ≤ ρ ≤ 5, −π ≤ θ ≤ π,
    0 ≤ φ ≤ π. J* = 9.140911746.

    The optimum is symmetric in time and the bounds of the state do not act: u1 = −1, 1, −1 with switches at ¼T and ¾T,
    u2 = 1, −1 with a switch at ½T, u3 = −1, 1, −1 with switches at 2.796043 and T − 2.796043. The five zeros of the
    switching functions and H = 0 are linear equations for p(t0).

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
    .. [1] MadNLP/COPSBenchmark.jl, robot.jl.
    .. [2] maptor/maptor, robot arm after J. T. Betts: 9.14093620, a discretized optimum.
    """
    pi = math.pi
    target = [4.5, 0.0, 2.0 * pi / 3.0, 0.0, 0.25 * pi, 0.0]

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        rho, phi = x[..., 0], x[..., 4]
        inertia = ((LENGTH - rho).pow(3) + rho.pow(3)) / 3.0
        pull = u[..., 0] / LENGTH + torch.zeros_like(rho)
        turn, swing = u[..., 1] / (inertia * torch.sin(phi).square()), u[..., 2] / inertia
        return torch.stack((x[..., 1], pull, x[..., 3], turn, x[..., 5], swing), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(x[..., 0])

    return Reference(
        name="robot-arm",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.tensor([[4.5, 0.0, 0.0, 0.0, 0.25 * pi, 0.0]], dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Box([-1.0] * 3, [1.0] * 3),
            terminal_constraint=oc.Constraint(lambda x: x, target, target),
            path_constraint=oc.Constraint(lambda t, x: x[..., ::2], [0.0, -pi, 0.0], [LENGTH, pi, pi]),
        ),
        cost=DURATION,
        exact=_exact(t0),
        tags=frozenset({"bang-bang", "terminal-constraint", "path-constraint", "free-time"}),
        source="MadNLP/COPSBenchmark.jl, robot.jl; maptor/maptor, robot arm",
        id="B25",
    )


NODES = (0.0, 0.25 * DURATION, SWING, 0.5 * DURATION, DURATION - SWING, 0.75 * DURATION, DURATION)
CONTROLS = np.array([[-1, 1, -1], [1, 1, -1], [1, 1, 1], [1, -1, 1], [1, -1, -1], [-1, -1, -1]], dtype=float)


def _rate(y: Array, u: Array) -> Array:
    """Rates of the state and of a matrix (6, 6) whose rows are costates, together (42,)."""
    rho, drho, _, dtheta, phi, dphi = y[:6]
    p = y[6:].reshape(6, 6)
    inertia = ((LENGTH - rho) ** 3 + rho**3) / 3.0
    slope = rho**2 - (LENGTH - rho) ** 2  # of the inertia
    sin, cos = np.sin(phi), np.cos(phi)
    turn, swing = u[1] / (inertia * sin**2), u[2] / inertia
    force = np.zeros_like(p)  # −∂f/∂xᵀp
    force[:, 0] = (p[:, 3] * turn + p[:, 5] * swing) * slope / inertia
    force[:, 1::2] = -p[:, ::2]
    force[:, 4] = 2.0 * p[:, 3] * turn * cos / sin
    return np.concatenate(([drho, u[0] / LENGTH, dtheta, turn, dphi, swing], force.ravel()))


@cache
def _solved() -> tuple[Arcs, Array]:
    """State and costates that begin as unit vectors, (42), and the costate at the start."""

    def with_control(u: Array) -> Callable[[float, Array], Array]:
        return lambda _, y: _rate(y, u)

    start = np.concatenate(([4.5, 0.0, 0.0, 0.0, 0.25 * np.pi, 0.0], np.eye(6).ravel()))
    arcs = integrate([with_control(u) for u in CONTROLS], NODES, start)
    costates = arcs(NODES[1:-1])[:, 0, 6:].reshape(5, 6, 6).numpy()
    jumping = np.nonzero(np.diff(CONTROLS, axis=0))[1]  # which control jumps at each switch
    zeros = costates[np.arange(5), :, 2 * jumping + 1]  # where its switching function is zero
    return arcs, np.linalg.solve(np.vstack((zeros, _rate(start, CONTROLS[0])[:6])), [0.0] * 5 + [1.0])


def _exact(t0: float) -> Exact:
    """Exact solution from the switches."""
    arcs, start = _solved()
    first, controls = torch.as_tensor(start), torch.as_tensor(CONTROLS)

    def past(t: Any) -> Tensor:
        return torch.as_tensor(t, dtype=torch.float64) - t0

    def control(t: Any) -> Tensor:
        return controls[torch.as_tensor(arcs.arc(past(t)))][..., None, :]

    def state(t: Any) -> Tensor:
        return arcs(past(t))[..., :6]

    def costate(t: Any) -> Tensor:
        values = arcs(past(t))[..., 6:]
        return first @ values.reshape(*values.shape[:-1], 6, 6)

    return Exact(
        control,
        state,
        costate,
        switches=tuple(t0 + node for node in NODES[1:-1]),
        final_time=t0 + DURATION,
        terminal_multiplier=-costate(t0 + DURATION),
        path_multiplier=lambda t: torch.zeros_like(state(t)[..., ::2]),
    )
