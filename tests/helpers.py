"""Small problems with all sizes different, and naive re-implementations to compare the library with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.continuous import ContinuousTranscription
from ocsolver.transcription import Discretization, transcribe

N, B, STATES, CONTROLS = 7, 5, 3, 2  # all different, so that a swapped axis cannot pass
HORIZON = 1.2


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ------------------------------------------------------------------------------------------------------- problems


def nonlinear_problem(
    shared: bool,
    t0: float = 0.5,
    control_set: oc.ControlSet | None = None,
    dtype: torch.dtype = torch.float64,
    *,
    running: bool = True,
    terminal: bool = True,
    initial_state: Tensor | None = None,
) -> oc.OptimalControlProblem:
    """Smooth problem (B=5, n=3, m=2) in which every callable depends on all that it may depend on.

    The dynamics depend on time; `rate` and `target` (B,) are data of each trajectory that the callables close over. H
    is bounded above in u without being quadratic.
    """
    rate = torch.linspace(0.6, 1.4, B, dtype=dtype)  # (B,)
    target = torch.linspace(-1.0, 0.8, B, dtype=dtype)  # (B,)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        v, w = u.unbind(-1)
        return torch.stack(
            (
                b + torch.sin(2.0 * t) * v,
                -rate * torch.sin(a) + 0.3 * c * w,
                0.5 * a * torch.cos(t) - rate * c + torch.sin(v) * w,
            ),
            -1,
        )

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        effort = 0.6 * u.square().sum(-1) + 0.1 * torch.cos(u[..., 0] + x[..., 2])
        return (
            0.5 * (1.0 + 0.5 * torch.sin(3.0 * t)) * (x[..., 0] - target).square()
            + effort
            + 0.2 * t * x[..., 1] * u[..., 1]
        )

    def terminal_cost(x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(-1) + 0.1 * (x[..., 1] - target) ** 4

    if initial_state is None:
        initial_state = 0.7 * seeded(B, STATES, seed=1, dtype=dtype)
    return oc.OptimalControlProblem(
        dynamics,
        running_cost if running else None,
        terminal_cost if terminal else None,
        initial_state=initial_state,
        horizon=(t0, t0 + HORIZON),
        control_set=oc.Unconstrained(CONTROLS) if control_set is None else control_set,
        shared_control=shared,
    )


def linear_quadratic_problem(
    shared: bool, t0: float = 0.5, control_set: oc.ControlSet | None = None, dtype: torch.dtype = torch.float64
) -> oc.OptimalControlProblem:
    """Linear dynamics and quadratic costs (B=5, n=3, m=2), with weights and a drift of each trajectory's own."""
    A = 0.6 * seeded(STATES, STATES, seed=2, dtype=dtype)
    C = seeded(STATES, CONTROLS, seed=3, dtype=dtype)
    R = torch.tensor([[1.3, 0.4], [0.4, 0.9]], dtype=dtype)
    drift, weight = seeded(B, STATES, seed=4, dtype=dtype), torch.linspace(0.5, 1.5, B, dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x @ A.T + u @ C.T + 0.2 * torch.cos(t)[..., None] * drift

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return 0.5 * weight * (x.square().sum(-1) + (u @ R * u).sum(-1))

    def terminal_cost(x: Tensor) -> Tensor:
        return 0.5 * weight * x.square().sum(-1)

    return oc.OptimalControlProblem(
        dynamics,
        running_cost,
        terminal_cost,
        initial_state=0.7 * seeded(B, STATES, seed=5, dtype=dtype),
        horizon=(t0, t0 + HORIZON),
        control_set=oc.Unconstrained(CONTROLS) if control_set is None else control_set,
        shared_control=shared,
    )


def uneven_mesh(intervals: int = N) -> oc.Mesh:
    """Mesh whose intervals all have different lengths."""
    nodes = torch.arange(intervals + 1, dtype=torch.float64) / intervals
    return oc.Mesh(nodes + 0.3 * nodes * (nodes - 1.0))


def transcription(
    problem: oc.OptimalControlProblem, mesh: Any = None, integrator: oc.Integrator | None = None, adjoint: Any = None
) -> ContinuousTranscription:
    """Transcription on an uneven mesh of N intervals, unless told otherwise."""
    result = transcribe(problem, Discretization(uneven_mesh() if mesh is None else mesh, integrator, adjoint))
    assert isinstance(result, ContinuousTranscription)
    return result


def random_control(problem: oc.OptimalControlProblem, intervals: int = N, seed: int = 0, scale: float = 0.5) -> Tensor:
    """Admissible random control (N, G, m)."""
    u = scale * seeded(intervals, problem.groups, problem.m, seed=seed, dtype=problem.initial_state.dtype)
    return problem.control_set.project(u)


# ----------------------------------------------------------------------------------------- naive re-implementations


def naive_step(
    problem: oc.OptimalControlProblem, integrator: oc.Integrator, t: Tensor, h: Tensor, x: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """One interval by the textbook formulas: x (B, n), u (G, m), t and h () -> Ψ (B, n) and ℓ (B,)."""

    def f(t: Tensor, x: Tensor) -> Tensor:
        return problem.dynamics(t, x, u).expand(x.shape)

    def L(t: Tensor, x: Tensor) -> Tensor:
        if problem.running_cost is None:
            return x.new_zeros(x.shape[:-1])
        return problem.running_cost(t, x, u).expand(x.shape[:-1])

    k1, l1 = f(t, x), L(t, x)
    if isinstance(integrator, oc.Euler):
        return x + h * k1, h * l1
    if isinstance(integrator, oc.Heun):
        k2, l2 = f(t + h, x + h * k1), L(t + h, x + h * k1)
        return x + h / 2 * (k1 + k2), h / 2 * (l1 + l2)
    assert isinstance(integrator, oc.RK4)
    middle = t + h / 2
    x2 = x + h / 2 * k1
    k2, l2 = f(middle, x2), L(middle, x2)
    x3 = x + h / 2 * k2
    k3, l3 = f(middle, x3), L(middle, x3)
    x4 = x + h * k3
    k4, l4 = f(t + h, x4), L(t + h, x4)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)


def naive_costs(
    problem: oc.OptimalControlProblem,
    nodes: Tensor,
    u: Tensor,
    integrator: oc.Integrator | None = None,
    x0: Tensor | None = None,
) -> Tensor:
    """Cost of each trajectory (B,) of a control (N, G, m), differentiable in u and x0."""
    x = problem.initial_state if x0 is None else x0
    total = x.new_zeros(x.shape[0])
    for k in range(u.shape[0]):
        x, ell = naive_step(problem, integrator or oc.RK4(), nodes[k], nodes[k + 1] - nodes[k], x, u[k])
        total = total + ell
    if problem.terminal_cost is not None:
        total = total + problem.terminal_cost(x).expand(total.shape)
    return total


def naive_hamiltonian(
    problem: oc.OptimalControlProblem,
    integrator: oc.Integrator,
    nodes: Tensor,
    k: int,
    x: Tensor,
    p_next: Tensor,
    u: Tensor,
) -> tuple[Tensor, Tensor]:
    """Site Hamiltonian [p·(Ψ − x) − ℓ]/h and average rate (Ψ − x)/h of interval k: (B,), (B, n)."""
    h = nodes[k + 1] - nodes[k]
    x_next, ell = naive_step(problem, integrator, nodes[k], h, x, u)
    rate = (x_next - x) / h
    return (p_next * rate).sum(-1) - ell / h, rate


def central_difference(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor, step: float = 1e-5) -> Tensor:
    """Derivative of a function of a tensor along a direction, with an error of order step²."""
    return (function(at + step * along) - function(at - step * along)) / (2.0 * step)


# --------------------------------------------------------------------------------------------- optimality conditions


def check_maximum_principle(
    problem: oc.OptimalControlProblem,
    solution: Any,
    tolerance: float = 1e-6,
    integrator: oc.Integrator | None = None,
    trials: int = 50,
) -> None:
    """Assert the discrete maximum principle for a solution found with a fixed-step integrator and its default adjoint.

    Everything is computed anew by the naive formulas: state and costate equation, transversality, admissibility, and
    that no random admissible control raises the group mean of H at any interval. `tolerance` bounds the gain of H,
    relative to the scale of the cost; the equations hold to rounding.
    """
    method = integrator or oc.RK4()
    nodes, x, p, u = solution.t[:, 0], solution.x, solution.p, solution.u
    rounding = 1e4 * torch.finfo(x.dtype).eps
    if problem.terminal_cost is None:
        assert not bool(p[-1].any())
    else:
        end = x[-1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(problem.terminal_cost(end).expand(x.shape[1]).sum(), end)
        torch.testing.assert_close(p[-1], -slope, rtol=rounding, atol=rounding)
    torch.testing.assert_close(x[0], problem.initial_state)
    assert float(problem.control_set.residual(u).max()) <= rounding * (1.0 + float(u.abs().max()))
    scale = float(naive_costs(problem, nodes, u, method).abs().max()) / float(nodes[-1] - nodes[0])
    for k in range(u.shape[0]):
        state = x[k].clone().requires_grad_()
        x_next, ell = naive_step(problem, method, nodes[k], nodes[k + 1] - nodes[k], state, u[k])
        (slope,) = torch.autograd.grad(((p[k + 1] * x_next).sum(-1) - ell).sum(), state)
        torch.testing.assert_close(x_next.detach(), x[k + 1], rtol=rounding, atol=rounding)
        torch.testing.assert_close(slope, p[k], rtol=rounding, atol=rounding * (1.0 + float(p.abs().max())))
        value = _group_hamiltonian(problem, method, nodes, k, x, p, u[k])
        for trial in range(trials):
            spread = 10.0 ** -(trial % 4)  # from far away to close by
            other = problem.control_set.project(u[k] + spread * seeded(*u[k].shape, seed=trial, dtype=u.dtype))
            gain = _group_hamiltonian(problem, method, nodes, k, x, p, other) - value
            assert float(gain.max()) <= tolerance * max(scale, 1e-3)


def _group_hamiltonian(
    problem: oc.OptimalControlProblem, method: oc.Integrator, nodes: Tensor, k: int, x: Tensor, p: Tensor, u: Tensor
) -> Tensor:
    with torch.no_grad():
        value, _ = naive_hamiltonian(problem, method, nodes, k, x[k], p[k + 1], u)
    return value.mean(-1, keepdim=True) if problem.shared_control else value


# --------------------------------------------------------------------------------------------------------- solving


def solve_quietly(problem: oc.OptimalControlProblem, solver: oc.Solver | None = None, **options: Any) -> oc.Solution:
    """`oc.solve` for runs that may fail on purpose: without ConvergenceWarning, which the tests turn into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.ConvergenceWarning)
        return oc.solve(problem, solver, **options)


def regulator(
    initial_state: Any = (1.0,),
    horizon: float = 1.0,
    control_set: oc.ControlSet | None = None,
    *,
    coupling: Any = 1.0,
    dtype: torch.dtype = torch.float64,
    shared: bool = False,
) -> oc.OptimalControlProblem:
    """Scalar regulator ẋ = b u, J = ½∫(x² + u²): one trajectory per initial state, `coupling` b () or (B,)."""
    b = torch.as_tensor(coupling, dtype=dtype)
    return oc.OptimalControlProblem(
        lambda t, x, u: b[..., None] * u,
        lambda t, x, u: 0.5 * (x.square() + u.square())[..., 0],
        initial_state=torch.as_tensor(initial_state, dtype=dtype)[:, None],
        horizon=(0.0, horizon),
        control_set=oc.Unconstrained(1) if control_set is None else control_set,
        shared_control=shared,
    )


def coupled_oscillators(control_set: oc.ControlSet, horizon: float = 2.0) -> oc.OptimalControlProblem:
    """Three oscillators of the plane with one force on each coordinate (B=3, n=2, m=2), for sets of dimension 2."""

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.stack((x[..., 1] + u[..., 1], u[..., 0] - x[..., 0]), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x.square().sum(-1) + 0.1 * u.square().sum(-1)

    return oc.OptimalControlProblem(
        dynamics,
        running_cost,
        initial_state=[[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]],
        horizon=(0.0, horizon),
        control_set=control_set,
    )


def cubic_growth(initial_state: Any) -> oc.OptimalControlProblem:
    """ẋ = x³ + u on [0, 1], which blows up before the end if it starts above 0.7 and is not controlled."""
    return oc.OptimalControlProblem(
        lambda t, x, u: x**3 + u,
        lambda t, x, u: 0.5 * (x.square() + u.square())[..., 0],
        initial_state=torch.as_tensor(initial_state, dtype=torch.float64)[:, None],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


def mild_problem(
    shared: bool, control_set: oc.ControlSet | None = None, dtype: torch.dtype = torch.float64
) -> oc.OptimalControlProblem:
    """`nonlinear_problem` with so dear a control that every method converges, plain MSA included."""
    base = nonlinear_problem(shared, control_set=control_set, dtype=dtype)
    running, terminal = base.running_cost, base.terminal_cost
    assert running is not None
    assert terminal is not None
    return oc.OptimalControlProblem(
        base.dynamics,
        lambda t, x, u: running(t, x, u) + u.square().sum(-1),
        lambda x: 0.2 * terminal(x),
        initial_state=base.initial_state,
        horizon=base.horizon,
        control_set=base.control_set,
        shared_control=shared,
    )
