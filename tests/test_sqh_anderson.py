"""The sequential quadratic Hamiltonian method and Anderson acceleration: what theory says, and what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers import mild_problem, regulator, solve_quietly
from torch import Tensor

import ocsolver as oc
from problems import chattering, hull, linear_pendulum, scalar_lqr

Status = oc.Status


# ---------------------------------------------------------------------------------------------------------------- SQH


@pytest.mark.parametrize("horizon", [2.0, 5.0])
def test_sqh_converges_where_plain_maximization_diverges(horizon: float) -> None:
    reference = scalar_lqr.build(horizon=horizon)
    solution = oc.solve(reference.problem, oc.SQH())
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(reference.cost, abs=2e-4)


def test_sqh_never_raises_the_cost() -> None:
    history = oc.solve(mild_problem(False), oc.SQH(), tolerance=1e-6).history
    assert bool((history.cost.diff(dim=0) <= 1e-11).all())
    taken = history.accepted[1:]
    factors = history.rho[2:] / history.rho[1:-1]
    moving = taken[:-1] & (factors != 1.0)  # ε stays where a group has ended
    torch.testing.assert_close(factors[moving], torch.full_like(factors[moving], 0.8))  # ζ after a step that was taken


def test_sqh_is_exact_on_a_finite_set() -> None:
    reference = linear_pendulum.build()
    problem = reference.problem
    discrete = oc.OptimalControlProblem(
        problem.dynamics,
        problem.running_cost,
        problem.terminal_cost,
        initial_state=problem.initial_state,
        horizon=problem.horizon,
        control_set=oc.FiniteSet([-2.0, 2.0]),
    )
    solution = oc.solve(discrete, oc.SQH(), mesh=400)
    assert solution.status == [Status.CONVERGED]
    assert set(solution.u.flatten().tolist()) == {-2.0, 2.0}
    assert float(solution.cost) == pytest.approx(reference.cost, abs=1e-3)


def test_sqh_serves_costs_that_jump() -> None:
    """min ½x(1)² + γ·(time with u ≠ 0) for ẋ = u, |u| ≤ 1, x(0) = 1: switched on for a time s, J = ½(1 − s)² + γs."""
    gamma, N = 0.25, 100
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: gamma * (u[..., 0] != 0).to(x.dtype) + 0.1 * t * (u[..., 0] != 0),
        lambda x: 0.5 * x[..., 0] ** 2,
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    solution = oc.solve(problem, oc.SQH(oc.Enumeration()), mesh=N, initial_control=[-0.5], tolerance=1e-3)
    # on exactly until p = x(1) = 1 − s falls to γ + 0.1 t at t = s
    s = (1.0 - gamma) / 1.1
    assert solution.status == [Status.CONVERGED]
    assert float((solution.u == -1.0).sum()) == pytest.approx(s * N, abs=1.5)
    assert float((solution.u == 0.0).sum()) == pytest.approx((1.0 - s) * N, abs=1.5)


def test_sqh_does_not_claim_convergence_without_a_minimizer() -> None:
    solution = solve_quietly(chattering.build().problem, oc.SQH())
    assert solution.status == [Status.STALLED]
    assert float(solution.residual) > 1e-3


def test_groups_of_sqh_are_independent() -> None:
    problem = mild_problem(False)
    together = oc.solve(problem, oc.SQH(), max_iterations=5, tolerance=None)
    assert len(torch.unique(together.history.rho[5])) == together.history.rho.shape[1]  # each with its own ε


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"epsilon": -1.0}, "SQH epsilon: expected a number in \\(0, inf\\), got -1.0"),
        ({"grow": 0.5}, "SQH grow: expected a number in \\(1, inf\\), got 0.5"),
        ({"shrink": 2.0}, "SQH shrink: expected a number in \\(0, 1\\), got 2.0"),
        ({"decrease": True}, "SQH decrease: .* got True"),
        ({"maximizer": 3}, "maximizer: expected a Maximizer, got 3"),
    ],
)
def test_sqh_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text):
        oc.SQH(**arguments)


# ----------------------------------------------------------------------------------------------------------- Anderson


def test_anderson_makes_diverging_maps_converge() -> None:
    reference = scalar_lqr.build(horizon=5.0)
    assert solve_quietly(reference.problem, oc.MSA()).status == [Status.DIVERGED]
    solution = oc.solve(reference.problem, oc.Anderson(oc.MSA()))
    assert solution.status == [Status.CONVERGED]
    assert solution.stats.iterations <= 20
    assert float(solution.cost) == pytest.approx(oc.solve(reference.problem, oc.EMSA()).cost.item(), abs=1e-8)


@pytest.mark.parametrize("inner", [oc.MSA(), oc.EMSA(rho=1.0), oc.GradientDescent(0.01)])
def test_anderson_is_the_secant_method_where_one_mode_matters(inner: oc.Solver) -> None:
    """On Hull's problem u and G(u) stay constant in time: the map is affine in one number."""
    solution = oc.solve(hull.build().problem, oc.Anderson(inner))
    assert solution.status == [Status.CONVERGED]
    assert solution.stats.iterations <= 12


@pytest.mark.slow
def test_anderson_needs_fewer_iterations_than_the_map() -> None:
    problem = mild_problem(False)
    plain = oc.solve(problem, oc.GradientDescent(0.03))
    fast = oc.solve(problem, oc.Anderson(oc.GradientDescent(0.03)))
    assert bool(fast.success.all())
    assert fast.stats.iterations < 0.5 * plain.stats.iterations


def test_anderson_never_raises_the_cost() -> None:
    history = solve_quietly(regulator(horizon=5.0), oc.Anderson(oc.MSA())).history
    assert bool((history.cost.diff(dim=0) <= 1e-11).all())
    assert bool((~history.accepted).any())  # the first steps of the map fail


def test_groups_of_anderson_are_independent() -> None:
    def problem(starts: list[list[float]]) -> oc.OptimalControlProblem:
        return oc.OptimalControlProblem(
            lambda t, x, u: u - 0.1 * x**3,
            lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
            initial_state=starts,
            horizon=(0.0, 3.0),
            control_set=oc.Unconstrained(1),
        )

    starts = [[1.0], [-2.0], [0.3]]
    together = oc.solve(problem(starts), oc.Anderson(oc.MSA()), mesh=30)
    for g, start in enumerate(starts):
        alone = oc.solve(problem([start]), oc.Anderson(oc.MSA()), mesh=30)
        torch.testing.assert_close(together.cost[g : g + 1], alone.cost, rtol=1e-7, atol=1e-9)


def test_anderson_refuses() -> None:
    with pytest.raises(oc.InputError, match=r"Anderson solver: expected a sweep solver, got DirectShooting"):
        oc.Anderson(oc.DirectShooting())  # type: ignore[arg-type]
    with pytest.raises(oc.InputError, match=r"Anderson memory: expected an int ≥ 1, got 0"):
        oc.Anderson(oc.MSA(), memory=0)
    with pytest.raises(oc.UnsupportedError, match=r"Anderson: expected a solver that maps controls to controls"):
        oc.solve(regulator(), oc.Anderson(oc.EMSA()))
    discrete = linear_pendulum.build().problem
    points = oc.OptimalControlProblem(
        discrete.dynamics,
        terminal_cost=discrete.terminal_cost,
        initial_state=discrete.initial_state,
        horizon=discrete.horizon,
        control_set=oc.FiniteSet([-2.0, 2.0]),
    )
    with pytest.raises(oc.UnsupportedError, match="on a convex control set"):
        oc.solve(points, oc.Anderson(oc.MSA()))


def test_plain_steps_shrink_until_the_cost_falls() -> None:
    """The first step of the map has length 25 times too large; the fraction is halved until J falls."""
    seen: list[Tensor] = []
    oc.solve(hull.build().problem, oc.Anderson(oc.MSA()), callback=lambda k, it: seen.append(it.memory.fraction))
    fractions = [float(fraction) for fraction in seen]
    assert all(b in (a, 0.5 * a, 2.0 * a) for a, b in itertools.pairwise(fractions))
    assert min(fractions) < 0.2
