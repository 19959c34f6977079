"""Bryson-Denham problem with its bound on the position (B05); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems._double_integrator import double_integrator
from problems.reference import Exact, Reference, columns

__all__ = ["build"]


def build(
    *,
    limit: float = 1.0 / 9.0,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Turn around with least energy in a narrow space.

    Minimize J = ½∫u² dt subject to ẋ1 = x2, ẋ2 = u, x(t0) = (0, 1), x(t1) = (0, −1), x1 ≤ l, u free, T = 1. The
    optimum is symmetric in time and has three forms; with s the distance in time to the nearer end:

    - l ≤ 1/6: the state rests on its bound. u* = −(2/3l)(1 − s/3l) while s < 3l and 0 between; J* = 4/(9l);
    - 1/6 < l < 1/4: it touches the bound at half time. u* = 24l − 8 + 24(1 − 4l)s; J* = 2 + 6(1 − 4l)²;
    - l ≥ 1/4: the bound does not act. u* = −2; J* = 2.

    The constraint is of second order: u* is continuous while p1* jumps where the bound begins and ceases to act. The
    published variant ∫u² with l = 0.1 costs twice as much.

    Parameters
    ----------
    limit : float, default 1/9
        Bound l > 0 on the position.
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
    .. [1] A. E. Bryson, Y.-C. Ho, Applied Optimal Control, 3.11.
    .. [2] OpenMDAO/dymos, Bryson-Denham; PSOPT/psopt, breakwell; control-toolbox/bocop, beam.
    """
    if limit <= 0.0:
        raise ValueError(f"limit: expected a positive number, got {limit:g}.")
    if limit <= 1.0 / 6.0:
        ramp, start, slope, cost = 3.0 * limit, -2.0 / (3.0 * limit), 2.0 / (9.0 * limit**2), 4.0 / (9.0 * limit)
        switches: tuple[float, ...] = (t0 + ramp, t0 + 1.0 - ramp)
    else:
        excess = max(0.0, 1.0 - 4.0 * limit)
        ramp, start, slope, cost = 0.5, -2.0 - 6.0 * excess, 24.0 * excess, 2.0 + 6.0 * excess**2
        switches = (t0 + 0.5,) if excess > 0.0 else ()

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * u[..., 0].square()

    def sides(t: Any) -> tuple[Tensor, Tensor]:
        """Distance in time to the nearer end, at most that of the ramp, and 1 before, 0 on and −1 after the bound."""
        past = columns(t) - t0
        nearer = torch.minimum(past, 1.0 - past)
        return nearer.clamp(max=ramp), torch.sign(0.5 - past) * (nearer < ramp)

    def control(t: Any) -> Tensor:
        return start + slope * sides(t)[0]

    def state(t: Any) -> Tensor:
        s, side = sides(t)
        speed = 1.0 + s * (start + 0.5 * slope * s)
        return torch.cat((s * (1.0 + s * (0.5 * start + slope * s / 6.0)), side * speed), -1)

    def costate(t: Any) -> Tensor:
        return torch.cat((-slope * sides(t)[1], control(t)), -1)

    return Reference(
        name="bryson-denham",
        problem=oc.OptimalControlProblem(
            double_integrator(dtype),
            running_cost,
            initial_state=torch.tensor([[0.0, 1.0]], dtype=dtype),
            horizon=(t0, t0 + 1.0),
            control_set=oc.Unconstrained(1),
            terminal_constraint=oc.Constraint(lambda x: x, [0.0, -1.0], [0.0, -1.0]),
            path_constraint=oc.Constraint(lambda t, x: x[..., :1], -torch.inf, limit),
        ),
        cost=cost,
        exact=Exact(
            control,
            state,
            costate,
            switches=switches,
            terminal_multiplier=-costate(t0 + 1.0),
            path_multiplier=lambda t: torch.zeros_like(columns(t)),
        ),
        tags=frozenset({"smooth", "closed-form", "linear-quadratic", "terminal-constraint", "path-constraint"}),
        source="OpenMDAO/dymos, Bryson-Denham; PSOPT/psopt, breakwell; control-toolbox/bocop, beam",
        id="B05",
    )
