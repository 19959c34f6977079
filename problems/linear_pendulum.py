"""Linear pendulum, bang-bang (A37); statement, optimum and nothing about solving it."""

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
    finite: bool = False,
    horizon: float = 5.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Largest excursion of a linear pendulum under a bounded force.

    Minimize J = −x1(t1) subject to ẋ1 = x2, ẋ2 = 6(u − x1), x(t0) = (−4, 2), −2 ≤ u ≤ 2, T = 5. With s = t1 − t and
    ω = √6: p* = (cos ωs, sin(ωs)/ω), u* = 2 sign sin ωs, and J* = −cos(ωT)x1(t0) − sin(ωT)x2(t0)/ω − 2∫₀^{ωT}|sin|.
    The problem is linear, so the method of successive approximations is exact after one sweep. The same control is
    optimal in the finite set {−2, 2}.

    Parameters
    ----------
    finite : bool, default False
        Whether the control is restricted to {−2, 2}.
    horizon : float, default 5.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (2,) or (B, 2), optional
        One or several initial states; default (−4, 2).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] danielrherber/dt-qp-project, linear-pendulum.
    """
    x0 = initial_states(initial_state, [-4.0, 2.0], dtype)  # (B, 2)
    start, t1 = x0.double(), t0 + horizon
    omega = math.sqrt(6.0)
    count = math.ceil(omega * horizon / math.pi) - 1
    switches = tuple(t1 - k * math.pi / omega for k in range(count, 0, -1))
    a = torch.tensor([[0.0, -6.0], [1.0, 0.0]], dtype=dtype)
    b = torch.tensor([0.0, 6.0], dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(x @ a, u, b)

    def terminal_cost(x: Tensor) -> Tensor:
        return -x[..., 0]

    def control(t: Any) -> Tensor:
        force = torch.where(torch.sin(omega * (t1 - columns(t))) >= 0.0, 2.0, -2.0)
        return force + torch.zeros_like(start[:, :1])

    def state(t: Any) -> Tensor:
        now = columns(t)
        angle = omega * (now - t0)
        cos, sin = torch.cos(angle), torch.sin(angle)
        x1 = cos * start[:, :1] + sin * start[:, 1:] / omega
        x2 = -omega * sin * start[:, :1] + cos * start[:, 1:]
        for k, (left, right) in enumerate(zip((t0, *switches), (*switches, t1), strict=True)):
            force = 2.0 * (-1.0) ** (count - k)
            since, until = omega * (now - now.clamp(max=left)), omega * (now - now.clamp(max=right))
            x1 = x1 + force * (torch.cos(until) - torch.cos(since))
            x2 = x2 + force * omega * (torch.sin(since) - torch.sin(until))
        return torch.cat((x1, x2), -1)

    def costate(t: Any) -> Tensor:
        angle = omega * (t1 - columns(t))
        p = torch.cat((torch.cos(angle), torch.sin(angle) / omega), -1)
        return p + torch.zeros_like(start)

    arches, rest = divmod(omega * horizon, math.pi)
    area = 2.0 * arches + 1.0 - math.cos(rest)  # ∫|sin| over [0, ωT]
    angle = omega * horizon
    costs = -(math.cos(angle) * start[:, 0] + math.sin(angle) / omega * start[:, 1] + 2.0 * area)
    return Reference(
        name="linear-pendulum-finite" if finite else "linear-pendulum",
        problem=oc.OptimalControlProblem(
            dynamics,
            None,
            terminal_cost,
            initial_state=x0,
            horizon=(t0, t1),
            control_set=oc.FiniteSet([[-2.0], [2.0]]) if finite else oc.Box(-2.0, 2.0),
        ),
        cost=mean_cost(costs),
        exact=Exact(control, state, costate, switches),
        tags=frozenset({"bang-bang", "closed-form"} | ({"discrete"} if finite else set())),
        source="danielrherber/dt-qp-project, linear-pendulum",
        id="A37",
        group_costs=tuple(costs.tolist()),
    )
