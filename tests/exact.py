"""Solutions whose trajectories, costates and multipliers are known, as polynomial pieces, without any solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.pieces import Pieces, gauss
from ocsolver.transcription import Discretization

Curve = Callable[[Tensor], Tensor]


def as_solution(
    problem: oc.OptimalControlProblem,
    t: Tensor,
    state: Curve,
    costate: Curve,
    control: Curve,
    cost: Any,
    *,
    path: Curve | None = None,
    stages: int = 3,
    **fields: Any,
) -> oc.Solution:
    """Solution on nodes t (N + 1, G) from curves: times (*b, G) -> values (*b, G, …)."""
    inner = t[:-1, None] + t.diff(dim=0)[:, None] * gauss(stages, t)[0][:, None]  # (N, s, G)
    pieces = Pieces(control(inner), state(inner), costate(inner), None if path is None else path(inner))
    G = t.shape[1]
    one = torch.ones(1, G, dtype=t.dtype)
    cost = torch.as_tensor(cost, dtype=t.dtype).expand(G)
    return oc.Solution(
        t=t,
        x=state(t),
        p=costate(t),
        u=pieces.mean_control(problem),
        cost=cost,
        problem=problem,
        discretization=Discretization(),
        shared_control=problem.shared_control,
        residual=torch.zeros_like(cost),
        status=[oc.Status.CONVERGED] * G,
        notes=[""] * G,
        history=oc.History(cost * one, 0 * one, one, one, one, one, one, one > 0),
        stats=oc.Stats(1),
        solver="by hand",
        pieces=pieces,
        **fields,
    )


def nodes(N: int, groups: int = 1, t0: float = 0.0, t1: float = 1.0) -> Tensor:
    """Nodes (N + 1, G), different for each group."""
    even = torch.linspace(0.0, 1.0, N + 1, dtype=torch.float64)
    return t0 + (t1 - t0) * torch.stack([even ** (1.0 + 0.5 * g) for g in range(groups)], -1)


def regulator(N: int, starts: tuple[float, ...] = (1.0, 2.0), stages: int = 3) -> oc.Solution:
    """Scalar linear-quadratic regulator on [0, 1]: J = ½ x0² tanh 1."""
    x0 = torch.tensor(starts, dtype=torch.float64)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
        initial_state=x0[:, None],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )

    def costate(t: Tensor) -> Tensor:
        return (-x0 * torch.sinh(1.0 - t) / math.cosh(1.0))[..., None]

    def state(t: Tensor) -> Tensor:
        return (x0 * torch.cosh(1.0 - t) / math.cosh(1.0))[..., None]

    return as_solution(
        problem, nodes(N, len(starts)), state, costate, costate, 0.5 * math.tanh(1.0) * x0**2, stages=stages
    )


def rest_to_rest(N: int = 4) -> oc.Solution:
    """Double integrator from (0, 0) to (1, 0) with least ∫½u²: u = 6 − 12 t, J = 6."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: 0.5 * u[..., 0] ** 2,
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        terminal_constraint=oc.Constraint(lambda x: x, [1.0, 0.0], [1.0, 0.0]),
    )
    return as_solution(
        problem,
        nodes(N),
        lambda t: torch.stack((3 * t**2 - 2 * t**3, 6 * t - 6 * t**2), -1),
        lambda t: torch.stack((12.0 + 0 * t, 6.0 - 12.0 * t), -1),
        lambda t: (6.0 - 12.0 * t)[..., None],
        6.0,
        multipliers={"terminal_constraint": torch.tensor([[-12.0, 6.0]], dtype=torch.float64)},
    )


def fastest_ramp(N: int = 3, upper: float = 0.5) -> oc.Solution:
    """ẋ = u from a free start in [0, ½] to 1 with L = 1 + ½u²: the better start is ½, u = √2, t1 = √2/4, J = √2/2.

    With another upper bound the trajectory is the same and not optimal.
    """
    root = math.sqrt(2.0)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 1.0 + 0.5 * u[..., 0] ** 2,
        initial_state=oc.FreeInitialState([0.2], 0.0, upper),
        horizon=(0.0, oc.FreeTime()),
        control_set=oc.Box([-3.0], [3.0]),
        terminal_constraint=oc.Constraint(lambda x: x, 1.0, 1.0),
    )
    return as_solution(
        problem,
        nodes(N, t1=root / 4),
        lambda t: (0.5 + root * t)[..., None],
        lambda t: (root + 0 * t)[..., None],
        lambda t: (root + 0 * t)[..., None],
        root / 2,
        multipliers={"terminal_constraint": torch.tensor([[-root]], dtype=torch.float64)},
    )


def landing(N: int = 6) -> oc.Solution:
    """ẋ = u, L = ½u² + x, x ≥ 0 from ⅛: x touches down at t = ½ and stays, with multiplier −1 there; J = 1/24."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * u[..., 0] ** 2 + x[..., 0],
        initial_state=[0.125],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        path_constraint=oc.Constraint(lambda t, x: x, 0.0, math.inf),
    )
    return as_solution(
        problem,
        nodes(N),
        lambda t: (0.5 * (0.5 - t).clamp_min(0.0) ** 2)[..., None],
        lambda t: (t - 0.5).clamp_max(0.0)[..., None],
        lambda t: (t - 0.5).clamp_max(0.0)[..., None],
        1.0 / 24.0,
        path=lambda t: -(t > 0.5).to(t)[..., None],
    )


def sliding(N: int = 6) -> oc.Solution:
    """ẋ = u, L = ½(u − 2)², x + u ≤ 1 active throughout: u = e^−t."""
    e = math.e
    A = (2.0 - 0.5 / e) / e
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * (u[..., 0] - 2.0) ** 2,
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box([-1.0], [5.0]),
        path_constraint=oc.Constraint(lambda t, x, u: x + u, -math.inf, 1.0),
    )
    return as_solution(
        problem,
        nodes(N),
        lambda t: (1.0 - torch.exp(-t))[..., None],
        lambda t: (A * torch.exp(t) - 2.0 + 0.5 * torch.exp(-t))[..., None],
        lambda t: torch.exp(-t)[..., None],
        0.5 * (0.5 * (1.0 - e**-2) - 4.0 * (1.0 - 1.0 / e) + 4.0),
        path=lambda t: (A * torch.exp(t) - 0.5 * torch.exp(-t))[..., None],
    )


def pushing(N: int = 6) -> oc.Solution:
    """ẋ = u, L = −u, x + u ≤ 0 from −1: u = −x = e^−t, p = e^(t − 1) − 1, J = e^−1 − 1; H is affine in u."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: -u[..., 0],
        initial_state=[-1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        path_constraint=oc.Constraint(lambda t, x, u: x + u, -math.inf, 0.0),
    )
    return as_solution(
        problem,
        nodes(N),
        lambda t: -torch.exp(-t)[..., None],
        lambda t: (torch.exp(t - 1.0) - 1.0)[..., None],
        lambda t: torch.exp(-t)[..., None],
        1.0 / math.e - 1.0,
        path=lambda t: torch.exp(t - 1.0)[..., None],
    )


def bang_bang(N: int = 4, switch: float = 1.0) -> oc.Solution:
    """Double integrator from (1, 0) to rest in least time: u = −1, then +1 from t = 1; t1 = J = 2."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: torch.ones_like(x[..., 0]),
        initial_state=[1.0, 0.0],
        horizon=(0.0, oc.FreeTime(guess=1.0)),
        control_set=oc.Box([-1.0], [1.0]),
        terminal_constraint=oc.Constraint(lambda x: x),
    )

    def state(t: Tensor) -> Tensor:
        early, s = t < switch, 2.0 - t
        return torch.stack((torch.where(early, 1.0 - 0.5 * t**2, 0.5 * s**2), torch.where(early, -t, -s)), -1)

    return as_solution(
        problem,
        nodes(N, t1=2.0),
        state,
        lambda t: torch.stack((-1.0 + 0 * t, t - 1.0), -1),
        lambda t: torch.where(t < switch, -1.0, 1.0).to(t)[..., None],
        2.0,
        multipliers={"terminal_constraint": torch.tensor([[1.0, -1.0]], dtype=torch.float64)},
        switches=[[(1.0, 0)]],
    )
