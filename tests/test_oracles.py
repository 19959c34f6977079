"""What theory says of the problems and the methods: sharp thresholds and identities that need no stored numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    HORIZON,
    B,
    N,
    linear_quadratic_problem,
    naive_costs,
    nonlinear_problem,
    random_control,
    regulator,
    solve_quietly,
    transcription,
    uneven_mesh,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ocsolver as oc
from problems import hull, oscillator_lqr, scalar_lqr, stirred_tank, van_der_pol
from problems._riccati import LinearQuadratic

# ------------------------------------------------------------------------------------- thresholds of the iteration
#
# The slowest error mode of the regulator with horizon T is multiplied by −λ in a sweep, λ = (2T/π)²; for Hull's problem
# λ = cT. MSA converges iff λ < 1, relaxed MSA iff ω < 2/(1 + λ), E-MSA with a fixed ρ iff ρ > (λ − 1)/2.

HULL_MODE = 25.0


def regulator_mode(T: float) -> float:
    """λ of the regulator with horizon T."""
    return (2.0 * T / math.pi) ** 2


THRESHOLDS = [
    pytest.param("regulator", 1.50, oc.MSA(), True, id="regulator-msa-1.50"),
    pytest.param("regulator", 1.65, oc.MSA(), False, id="regulator-msa-1.65"),
    pytest.param("regulator", 2.0, oc.MSA(), False, id="regulator-msa-2"),
    pytest.param("regulator", 5.0, oc.EMSA(rho=4.43), False, id="regulator-rho-4.43"),
    pytest.param("regulator", 5.0, oc.EMSA(rho=4.70), True, id="regulator-rho-4.70"),
    pytest.param("regulator", 5.0, oc.MSA(relaxation=0.196), False, id="regulator-relaxation-0.196"),
    pytest.param("regulator", 5.0, oc.MSA(relaxation=0.171), True, id="regulator-relaxation-0.171"),
    pytest.param("hull", 5.0, oc.MSA(), False, id="hull-msa"),
    pytest.param("hull", 5.0, oc.EMSA(rho=11.9), False, id="hull-rho-11.9", marks=pytest.mark.slow),
    pytest.param("hull", 5.0, oc.EMSA(rho=12.1), True, id="hull-rho-12.1", marks=pytest.mark.slow),
    pytest.param("hull", 5.0, oc.MSA(relaxation=1.02 * 2.0 / 26.0), False, id="hull-relaxation-above"),
    pytest.param(
        "hull", 5.0, oc.MSA(relaxation=0.98 * 2.0 / 26.0), True, id="hull-relaxation-below", marks=pytest.mark.slow
    ),
]


def threshold_problem(name: str, T: float) -> tuple[oc.OptimalControlProblem, int]:
    """Problem and mesh; Hull's optimal control is constant, so a coarse mesh is exact there."""
    return (scalar_lqr.build(horizon=T).problem, 100) if name == "regulator" else (hull.build().problem, 20)


@pytest.mark.parametrize(("name", "T", "solver", "converges"), THRESHOLDS)
def test_iterations_converge_exactly_where_theory_says(name: str, T: float, solver: oc.Solver, converges: bool) -> None:
    problem, mesh = threshold_problem(name, T)
    solution = solve_quietly(problem, solver, mesh=mesh, max_iterations=2000)
    assert solution.status == [oc.Status.CONVERGED if converges else oc.Status.DIVERGED]
    assert bool(torch.isfinite(solution.u).all() & torch.isfinite(solution.x).all())


@pytest.mark.parametrize(("name", "T"), [("regulator", 1.5), ("regulator", 1.65), ("regulator", 5.0), ("hull", 5.0)])
def test_default_solver_converges_on_both_sides_of_every_threshold(name: str, T: float) -> None:
    problem, mesh = threshold_problem(name, T)
    assert oc.solve(problem, mesh=mesh).status == [oc.Status.CONVERGED]


@pytest.mark.parametrize(
    ("name", "T", "solver", "factor"),
    [
        ("regulator", 1.5, oc.MSA(), regulator_mode(1.5)),
        ("regulator", 1.65, oc.MSA(), regulator_mode(1.65)),
        ("regulator", 5.0, oc.EMSA(rho=4.7), (regulator_mode(5.0) - 4.7) / 5.7),
        ("regulator", 5.0, oc.EMSA(rho=9.0), None),  # the slowest mode is now another one
        ("regulator", 5.0, oc.MSA(relaxation=0.171), 0.171 * (1.0 + regulator_mode(5.0)) - 1.0),
        ("hull", 5.0, oc.EMSA(rho=12.1), (HULL_MODE - 12.1) / 13.1),
    ],
)
def test_error_shrinks_by_the_factor_of_theory(name: str, T: float, solver: oc.Solver, factor: float | None) -> None:
    problem, mesh = threshold_problem(name, T)
    solution = solve_quietly(problem, solver, mesh=mesh, max_iterations=80, tolerance=None)
    # The gap of a quadratic Hamiltonian is the square of the error. Each error mode of the discretized problem has its
    # own λ, which differs from that of the continuous one by O(h²).
    history = solution.history
    gap = (history.residual * history.cost).squeeze(-1)  # (81,)
    observed = float(gap[-1] / gap[-6]) ** 0.1
    if factor is None:
        assert observed <= 9.0 / 10.0 + 1e-3  # modes with λ → 0 shrink by ρ/(1 + ρ)
    else:
        assert observed == pytest.approx(factor, rel=3e-3)


# -------------------------------------------------------------------------------------------------- Proposition 2


def descend(problem: oc.OptimalControlProblem, start: Tensor, mesh: Any, integrator: Any, **rest: Any) -> list[Tensor]:
    """Controls of five iterations of GradientDescent."""
    seen: list[Tensor] = []
    oc.solve(
        problem,
        oc.GradientDescent(0.3),
        mesh=mesh,
        integrator=integrator,
        initial_control=start,
        max_iterations=5,
        tolerance=None,
        callback=lambda k, iterate: seen.append(iterate.u.clone()) or False,
        **rest,
    )
    return seen


@pytest.mark.parametrize("integrator", [oc.Euler(), oc.RK4()], ids=["euler", "rk4"])
@pytest.mark.parametrize("mesh", [oc.Mesh.uniform(N), uneven_mesh()], ids=["uniform", "uneven"])
def test_gradient_descent_is_stochastic_gradient_descent_of_torch(
    shared: bool, integrator: oc.Integrator, mesh: oc.Mesh
) -> None:
    problem = nonlinear_problem(shared)
    start = random_control(problem)
    nodes = 0.5 + HORIZON * mesh.nodes
    # A step along ∂H_k/∂u = −(∂J/∂u_k)/w_k: one parameter per interval, with the learning rate η/h_k.
    parameters = [u.clone().requires_grad_() for u in start]
    groups = [{"params": [u], "lr": 0.3 / float(h)} for u, h in zip(parameters, nodes.diff(), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    iterates = descend(problem, start, mesh, integrator)
    assert len(iterates) == 5
    for iterate in iterates:
        optimizer.zero_grad()
        costs = naive_costs(problem, nodes, torch.stack(parameters), integrator)
        (costs.mean() if shared else costs.sum()).backward()
        optimizer.step()
        torch.testing.assert_close(iterate, torch.stack(parameters).detach(), rtol=1e-10, atol=1e-10)


def test_gradient_descent_projects_onto_the_control_set(shared: bool) -> None:
    problem = nonlinear_problem(shared, control_set=oc.Box([-0.2, -0.1], [0.1, 0.3]))
    start = random_control(problem)
    nodes = 0.5 + HORIZON * oc.Mesh.uniform(N).nodes
    u = start.clone().requires_grad_()
    costs = naive_costs(problem, nodes, u)
    (slope,) = torch.autograd.grad(costs.mean() if shared else costs.sum(), u)
    expected = problem.control_set.project(start - 0.3 * N / HORIZON * slope)
    torch.testing.assert_close(descend(problem, start, N, oc.RK4())[0], expected, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------------------ optimality


@pytest.mark.parametrize("build", [oscillator_lqr.build, van_der_pol.build, stirred_tank.build])
def test_costate_at_the_start_is_minus_the_sensitivity_of_the_optimal_cost(build: Any) -> None:
    x0 = build().problem.initial_state  # (1, n)
    n, step = x0.shape[1], 1e-4
    moved = torch.cat((x0, x0 + step * torch.eye(n, dtype=x0.dtype), x0 - step * torch.eye(n, dtype=x0.dtype)))
    # All in one batch: the optimal cost of the discretized problem as a function of the initial state.
    solution = oc.solve(build(initial_state=moved).problem, mesh=50, tolerance=1e-11)
    assert bool(solution.success.all())
    slope = (solution.cost[1 : n + 1] - solution.cost[n + 1 :]) / (2.0 * step)
    torch.testing.assert_close(-solution.p[0, 0], slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))


@pytest.mark.parametrize("build", [scalar_lqr.build, oscillator_lqr.build, van_der_pol.build, stirred_tank.build])
def test_hamiltonian_is_constant_along_the_optimum_of_an_autonomous_problem(build: Any) -> None:
    drifts = []
    for mesh in (50, 100):
        solution = oc.solve(build().problem, mesh=mesh, tolerance=1e-12)
        problem, t = solution.problem, 0.5 * (solution.t[1:, 0] + solution.t[:-1, 0])
        assert problem is not None
        assert problem.running_cost is not None
        x, p, u = solution.state(t), solution.costate(t), solution.control(t)
        rate = problem.running_cost(t[:, None], x, u)
        value = (p * problem.dynamics(t[:, None], x, u)).sum(-1) - rate
        drifts.append(float(value.max() - value.min()) / float(rate.abs().max()))
    assert drifts[1] <= 1e-2
    assert drifts[1] <= drifts[0] / 3.0  # the control is constant on intervals: second order


def test_hamiltonian_of_a_problem_that_depends_on_time_is_not_constant() -> None:
    solution = oc.solve(linear_quadratic_problem(shared=False), mesh=50)
    value, _ = solution.hamiltonian()
    assert bool(((value.amax(0) - value.amin(0)) > 1e-2).all())


# ------------------------------------------------------------------------------------------------ linear-quadratic


def random_linear_quadratic(seed: int, n: int, m: int, rows: int) -> tuple[LinearQuadratic, Tensor]:
    """A random problem with positive definite weights, and initial states (rows, n)."""
    rng = np.random.default_rng(seed)
    a, b = 0.7 * rng.standard_normal((n, n)), rng.standard_normal((n, m))
    q, r, s = (0.5 * w @ w.T + 0.5 * np.eye(len(w)) for w in (rng.standard_normal((k, k)) for k in (n, m, n)))
    return LinearQuadratic(a, b, q, r, s), torch.as_tensor(rng.standard_normal((rows, n)))


def state_problem(lq: LinearQuadratic, x0: Tensor, scale: float = 1.0) -> oc.OptimalControlProblem:
    """The problem on [0.3, 1.6], its cost multiplied by `scale`."""
    a, b, q, r, s = (torch.as_tensor(w) for w in (lq.a, lq.b, lq.q, lq.r, lq.s))
    return oc.OptimalControlProblem(
        lambda t, x, u: x @ a.T + u @ b.T,
        lambda t, x, u: scale * ((x @ q * x).sum(-1) + (u @ r * u).sum(-1)),
        lambda x: scale * (x @ s * x).sum(-1),
        initial_state=x0,
        horizon=(0.3, 1.6),
        control_set=oc.Unconstrained(b.shape[1]),
    )


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_random_linear_quadratic_problems_agree_with_riccati(seed: int, n: int, m: int) -> None:
    lq, x0 = random_linear_quadratic(seed, n, m, rows=2)
    costs, exact = lq.solve(x0, (0.3, 1.6))
    coarse, fine = (oc.solve(state_problem(lq, x0), mesh=mesh, tolerance=1e-11) for mesh in (40, 80))
    step = coarse.cost - fine.cost
    # The best control that is constant on intervals costs a little more, by an error of second order in h: its
    # extrapolation is of fourth.
    assert bool((fine.cost >= costs - 1e-8 * costs).all())
    extrapolated = fine.cost - step / 3.0
    assert bool(((extrapolated - costs).abs() <= 0.05 * step.abs() + 1e-8 * costs).all())
    assert exact.costate is not None
    torch.testing.assert_close(fine.p, exact.costate(fine.t[:, 0]), rtol=0.0, atol=3e-3 * float(fine.p.abs().max()))


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.floats(-4.0, 4.0))
def test_scaling_the_cost_scales_the_costate_and_leaves_the_control(seed: int, exponent: float) -> None:
    lq, x0 = random_linear_quadratic(seed, 3, 2, rows=2)
    c = 10.0**exponent
    plain, scaled = (oc.solve(state_problem(lq, x0, s), mesh=20, tolerance=1e-12) for s in (1.0, c))
    assert bool(plain.success.all() & scaled.success.all())
    # A relative gap of 1e-12 leaves a relative error of its square root.
    for value, other in ((scaled.cost / c, plain.cost), (scaled.p / c, plain.p), (scaled.u, plain.u)):
        torch.testing.assert_close(value, other, rtol=0.0, atol=2e-5 * float(other.abs().max()))


# ------------------------------------------------------------------------------------------- Lemma 1 and Theorem 2


def test_estimated_constant_is_that_of_lemma_1(shared: bool) -> None:
    history = oc.solve(nonlinear_problem(shared), mesh=N, max_iterations=8, tolerance=None).history
    moved = history.accepted[1:] & (history.state_error[1:] > 0)
    excess = history.cost.diff(dim=0) + history.hamiltonian_gain[1:]
    expected = excess.clamp_min(0.0) / (history.state_error[1:] + history.costate_error[1:])
    assert bool(moved.any())
    torch.testing.assert_close(history.constant[1:][moved], expected[moved], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("build", [nonlinear_problem, linear_quadratic_problem])
def test_a_large_penalty_makes_the_cost_fall_by_a_fraction_of_the_gain(build: Any, shared: bool) -> None:
    problem = build(shared)
    first = solve_quietly(problem, oc.EMSA(rho=5.0), mesh=N, max_iterations=10, tolerance=None)
    rho = 4.0 * float(first.history.constant.nan_to_num().max()) + 1.0  # twice what theory asks for
    history = oc.solve(problem, oc.EMSA(rho=rho), mesh=N, max_iterations=25, tolerance=None).history
    gain, error = history.hamiltonian_gain[1:], history.state_error[1:] + history.costate_error[1:]
    rounding = 1e-13 * float(history.cost.abs().max())
    assert float(history.constant[1:].max()) <= 0.25 * rho
    # The maximizer of H̃ gains at least what its penalty costs, hence J falls by D ∫ΔH with D = 1 − 2C/ρ ≥ ½.
    assert bool((gain >= 0.5 * rho * error - rounding).all())
    assert bool((history.cost.diff(dim=0) <= -0.5 * gain + rounding).all())
    assert float(gain[-1].max()) < 0.1 * float(gain[0].max())


def test_penalty_means_the_same_for_every_batch_and_mesh() -> None:
    """ρ is per sample and per unit of time: copies of a trajectory or finer intervals leave the path of E-MSA alone."""
    costs = {}
    for rows, mesh in ((1, 20), (6, 20), (1, 80)):
        problem = regulator([1.0] * rows, horizon=3.0, shared=True)
        costs[rows, mesh] = solve_quietly(
            problem, oc.EMSA(rho=2.5), mesh=mesh, max_iterations=6, tolerance=None
        ).history.cost
    torch.testing.assert_close(costs[6, 20], costs[1, 20], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(costs[1, 80], costs[1, 20], rtol=2e-2, atol=0.0)


def test_discretized_gradient_vanishes_at_the_optimum(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    solution = oc.solve(problem, mesh=uneven_mesh(), tolerance=1e-13)
    u = solution.u.clone().requires_grad_()
    costs = naive_costs(problem, solution.t[:, 0], u)
    (slope,) = torch.autograd.grad(costs.mean() if shared else costs.sum(), u)
    start = random_control(problem)
    sweep = transcription(problem).backward(transcription(problem).forward((start,)))
    first = (sweep.blocks[0].gradient(start)[1] * sweep.blocks[0].weights[:, None, None]).abs().max()
    assert float(slope.abs().max()) <= 1e-5 * float(first)
    assert slope.shape == (N, 1 if shared else B, 2)
