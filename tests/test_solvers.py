"""The contract of every solver: truthful statuses, independent groups, limits, callbacks, history, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    HORIZON,
    N,
    check_maximum_principle,
    coupled_oscillators,
    cubic_growth,
    linear_quadratic_problem,
    mild_problem,
    naive_costs,
    nonlinear_problem,
    regulator,
    solve_quietly,
    uneven_mesh,
)
from torch import Tensor

import ocsolver as oc
from problems import chattering, fishing, hull, linear_pendulum, van_der_pol_bounded

SOLVERS = {
    "msa": oc.MSA(),
    "msa-relaxed": oc.MSA(relaxation=0.5),
    "emsa-fixed": oc.EMSA(rho=1.0),
    "emsa": oc.EMSA(),
    "emsa-plain": oc.EMSA(accelerate=False),
    "gradient": oc.GradientDescent(0.3),
    "sqh": oc.SQH(),
    "anderson": oc.Anderson(oc.MSA()),
    "anderson-gradient": oc.Anderson(oc.GradientDescent(0.1), memory=1),
    "shooting": oc.DirectShooting(),
}
SWEEPS = {name: solver for name, solver in SOLVERS.items() if name != "shooting"}
Status = oc.Status


@pytest.fixture(params=list(SOLVERS))
def solver(request: pytest.FixtureRequest) -> oc.Solver:
    """Every solver."""
    return SOLVERS[request.param]


@pytest.fixture(params=list(SWEEPS))
def sweep_solver(request: pytest.FixtureRequest) -> oc.Solver:
    """Every solver that maximizes and sweeps all groups at once."""
    return SWEEPS[request.param]


# ------------------------------------------------------------------------------------------------------ solutions


def test_every_solver_finds_the_maximum_principle(solver: oc.Solver, shared: bool) -> None:
    problem = mild_problem(shared)
    solution = oc.solve(problem, solver, mesh=uneven_mesh(), tolerance=1e-9)
    assert all(status is Status.CONVERGED for status in solution.status)
    assert float(solution.residual.max()) <= 1e-9
    check_maximum_principle(problem, solution, tolerance=1e-7)


def test_every_solver_respects_a_box(solver: oc.Solver, shared: bool) -> None:
    free = oc.solve(mild_problem(shared), mesh=N).u[..., 0]
    low, high = 0.5 * float(free.min()), 0.5 * float(free.max())
    box = oc.Box([low, -math.inf], [high, 0.2])
    problem = mild_problem(shared, box)
    solution = oc.solve(problem, solver, mesh=N)
    assert bool(solution.success.all())
    assert float(box.residual(solution.u).max()) == 0.0
    on_side = torch.minimum((solution.u[..., 0] - low).abs(), (solution.u[..., 0] - high).abs()) <= 1e-4
    assert bool(on_side.any())  # relaxation only approaches a side
    assert not bool(on_side.all())
    check_maximum_principle(problem, solution, tolerance=1e-6)


def test_solvers_agree(shared: bool) -> None:
    costs = [oc.solve(mild_problem(shared), s, mesh=N, tolerance=1e-10).cost for s in SOLVERS.values()]
    for cost in costs[1:]:
        torch.testing.assert_close(cost, costs[0], rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(
    "control_set",
    [
        oc.Ball(0.5, 2),
        oc.Product(oc.Box([-0.5], [0.5]), oc.Unconstrained(1)),
        oc.Product(oc.Ball(0.4, 1), oc.Box([-0.3], [0.2])),
        oc.Box([-0.5, -math.inf], [math.inf, 0.3]),
    ],
    ids=["ball", "product-box-free", "product-ball-box", "half-infinite-box"],
)
@pytest.mark.parametrize(
    "method", [oc.EMSA(), pytest.param(oc.GradientDescent(0.3), marks=pytest.mark.slow)], ids=["emsa", "gradient"]
)
def test_convex_sets(control_set: oc.ControlSet, method: oc.Solver) -> None:
    problem = coupled_oscillators(control_set)
    solution = oc.solve(problem, method, mesh=12, tolerance=1e-7)
    assert bool(solution.success.all())
    check_maximum_principle(problem, solution, tolerance=1e-5)
    assert bool((control_set.residual(solution.u) <= 1e-12).all())


@pytest.mark.slow
def test_mixed_discrete_and_continuous_controls() -> None:
    control_set = oc.Product(oc.Box([-0.5], [0.5]), oc.FiniteSet([-0.5, 0.0, 0.5]))
    problem = coupled_oscillators(control_set)
    solution = solve_quietly(problem, mesh=20)
    assert float(control_set.residual(solution.u).max()) == 0.0
    assert bool((solution.cost < 0.9 * solution.history.cost[0]).all())
    for status, residual in zip(solution.status, solution.residual, strict=True):
        assert (status is Status.CONVERGED) == (float(residual) <= 1e-8)


# ------------------------------------------------------------------------------------------------------ discrete


@pytest.mark.parametrize("method", [oc.EMSA(), oc.MSA()], ids=["emsa", "msa"])
def test_finite_set_reaches_the_bang_bang_optimum(method: oc.Solver) -> None:
    reference = linear_pendulum.build(finite=True)
    solution = oc.solve(reference.problem, method, mesh=400)
    assert reference.cost is not None
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(reference.cost, rel=1e-3)
    check_maximum_principle(reference.problem, solution, trials=4)
    if isinstance(method, oc.MSA):  # linear: the costate does not depend on the control
        assert solution.stats.iterations == 1


def test_binary_fishing_gets_close_to_the_relaxed_optimum_without_claiming_it() -> None:
    reference = fishing.build(binary=True)
    solution = solve_quietly(reference.problem, mesh=200)
    assert reference.cost is not None
    assert float(solution.cost) < 1.03 * reference.cost  # two switches of the best kind cost 1.38276, 2.9 % more
    assert solution.status[0] is Status.STALLED
    assert float(solution.residual) > 1e-4


def test_large_fixed_penalty_stalls_on_a_finite_set() -> None:
    problem = linear_pendulum.build(finite=True).problem
    solution = solve_quietly(problem, oc.EMSA(rho=1e6))
    assert solution.status == [Status.STALLED]
    assert float(solution.residual) > 1.0  # the test at ρ = 0 sees the gap that the penalty hides
    assert not bool(solution.success.any())
    assert "STALLED" in solution.message
    assert "another maximizer" in solution.message


# ----------------------------------------------------------------------------------- integrators, adjoints, types


@pytest.mark.parametrize(
    ("integrator", "tolerance"),
    [
        (oc.Euler(), 1e-12),
        (oc.Heun(), 1e-12),
        (oc.RK4(), 1e-12),
        (oc.TorchDiffEq("dopri5", rtol=1e-7, atol=1e-8), 1e-7),
        (oc.SolveIVP("DOP853", rtol=1e-7, atol=1e-8), 1e-7),
        (oc.SolveIVP("Radau", rtol=1e-6, atol=1e-7), 1e-6),
    ],
    ids=["euler", "heun", "rk4", "dopri5", "dop853", "radau"],
)
def test_every_integrator_reaches_a_residual_at_its_own_level(
    integrator: oc.Integrator, tolerance: float, shared: bool
) -> None:
    problem = regulator([1.0, 2.0], shared=shared)
    solution = oc.solve(problem, mesh=8, integrator=integrator, tolerance=tolerance)
    assert bool(solution.success.all())
    assert float(solution.residual.max()) <= tolerance
    reference = oc.solve(problem, mesh=8, integrator=oc.RK4()).cost
    # The first integrators carry their own errors, of order h and h².
    rtol = {oc.Euler: 0.1, oc.Heun: 5e-3}.get(type(integrator), 1e-4)
    torch.testing.assert_close(solution.cost, reference, rtol=rtol, atol=0.0)


@pytest.mark.parametrize(
    ("integrator", "adjoint"),
    [
        (oc.RK4(), oc.DiscreteAdjoint()),
        (oc.RK4(), oc.ContinuousAdjoint()),
        (oc.RK4(), oc.ContinuousAdjoint(oc.TorchDiffEq("dopri8", rtol=1e-9, atol=1e-10))),
        (oc.TorchDiffEq("dopri5", rtol=1e-8, atol=1e-9), oc.DiscreteAdjoint()),
        (oc.TorchDiffEq("dopri5", rtol=1e-8, atol=1e-9), oc.ContinuousAdjoint()),
        (oc.SolveIVP("RK45", rtol=1e-8, atol=1e-9), oc.ContinuousAdjoint()),
    ],
    ids=["rk4-discrete", "rk4-continuous", "rk4-dopri8", "dopri5-discrete", "dopri5-continuous", "rk45-continuous"],
)
def test_adjoints_lead_to_the_same_optimum(integrator: oc.Integrator, adjoint: oc.Adjoint) -> None:
    problem = regulator([1.0, -0.5], horizon=2.0)
    solution = oc.solve(problem, mesh=20, integrator=integrator, adjoint=adjoint, tolerance=1e-7)
    best = oc.solve(problem, mesh=20)
    assert bool(solution.success.all())
    torch.testing.assert_close(solution.cost, best.cost, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(solution.p, best.p, rtol=0.0, atol=2e-3)


def test_discrete_adjoint_refuses_scipy() -> None:
    with pytest.raises(oc.UnsupportedError, match="DiscreteAdjoint: expected a differentiable integrator"):
        oc.solve(regulator(), integrator=oc.SolveIVP("RK45"), adjoint=oc.DiscreteAdjoint())


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "emsa-plain"])
def test_single_precision_converges_to_its_own_tolerance(name: str, shared: bool) -> None:
    solver = SOLVERS[name]
    single = oc.solve(mild_problem(shared, dtype=torch.float32), solver, mesh=N)
    double = oc.solve(mild_problem(shared), mesh=N)
    assert bool(single.success.all())
    assert float(single.residual.max()) <= 1e-5
    for tensor in (single.x, single.p, single.u, single.cost, single.residual, single.history.cost):
        assert tensor.dtype is torch.float32
    torch.testing.assert_close(single.cost.double(), double.cost, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize("build", [linear_quadratic_problem, nonlinear_problem])
def test_single_precision_by_default(build: Any, shared: bool) -> None:
    single, double = oc.solve(build(shared, dtype=torch.float32), mesh=N), oc.solve(build(shared), mesh=N)
    assert bool(single.success.all())
    torch.testing.assert_close(single.cost.double(), double.cost, rtol=4e-5, atol=0.0)


# ------------------------------------------------------------------------------------------------- group by group


def mixed(couplings: list[float], horizon: float = 1.5) -> oc.OptimalControlProblem:
    """Regulators ẋ = b u: MSA multiplies the error by −(2bT/π)²."""
    return regulator([1.0] * len(couplings), horizon, coupling=couplings)


def test_divergence_freezes_a_group_and_leaves_the_others() -> None:
    both = solve_quietly(mixed([0.5, 3.0, 0.8]), oc.MSA(), mesh=20)
    alone = oc.solve(mixed([0.5, 0.8]), oc.MSA(), mesh=20)
    assert both.status == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    torch.testing.assert_close(both.cost[[0, 2]], alone.cost, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(both.u[:, [0, 2]], alone.u, rtol=1e-9, atol=1e-9)
    series = both.history.cost[:, 1]
    last = int((series != series[-1]).nonzero()[-1]) + 1
    assert last < both.stats.iterations  # it stopped moving while others went on
    assert bool(torch.isfinite(both.u).all() & torch.isfinite(both.x).all() & torch.isfinite(both.cost).all())
    assert float(series[-1]) > 1e4 * float(series[0])


def test_a_blow_up_leaves_the_other_rows(solver: oc.Solver) -> None:
    both = solve_quietly(cubic_growth([0.3, 5.0, 0.4]), solver, mesh=20)
    alone = solve_quietly(cubic_growth([0.3, 0.4]), solver, mesh=20)
    assert both.status[1] is Status.INTEGRATION_FAILED
    assert [both.status[0], both.status[2]] == alone.status
    assert bool(alone.success.all())
    torch.testing.assert_close(both.cost[[0, 2]], alone.cost, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(both.u[:, [0, 2]], alone.u, rtol=1e-9, atol=1e-9)
    assert float(both.cost[1]) == math.inf
    assert both.success.tolist() == [True, False, True]
    assert "groups 1: INTEGRATION_FAILED" in both.message


def test_groups_of_a_batch_are_solved_as_if_alone(sweep_solver: oc.Solver) -> None:
    couplings = [0.3, 0.6, 0.9]
    batch = solve_quietly(mixed(couplings, 2.0), sweep_solver, mesh=20)
    for g, coupling in enumerate(couplings):
        single = solve_quietly(mixed([coupling], 2.0), sweep_solver, mesh=20)
        assert single.status[0] is batch.status[g]
        torch.testing.assert_close(batch.cost[g : g + 1], single.cost, rtol=1e-9, atol=1e-12)
        steps = single.stats.iterations + 1
        torch.testing.assert_close(batch.history.cost[:steps, g], single.history.cost[:, 0], rtol=1e-9, atol=1e-12)


def test_shooting_solves_every_group_of_a_batch_as_if_alone() -> None:
    couplings = [0.3, 0.6, 0.9, 1.2]
    options: dict[str, Any] = {"mesh": 10, "max_iterations": 8, "tolerance": 1e-6}
    batch = oc.solve(mixed(couplings), oc.DirectShooting(), **options)
    for g, coupling in enumerate(couplings):
        single = oc.solve(mixed([coupling]), oc.DirectShooting(), **options)
        assert batch.status[g] is single.status[0]
        torch.testing.assert_close(batch.cost[g : g + 1], single.cost, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------- failing statuses


@pytest.mark.parametrize("method", [oc.MSA(), oc.GradientDescent(10.0)], ids=["msa", "gradient"])
def test_divergence_is_reported(method: oc.Solver) -> None:
    for problem in (regulator(horizon=2.0), hull.build().problem):
        solution = solve_quietly(problem, method, mesh=20)
        assert solution.status == [Status.DIVERGED]
        assert bool(torch.isfinite(solution.cost).all() & torch.isfinite(solution.u).all())
        assert "EMSA" in solution.message


def test_no_solver_calls_the_problem_without_minimizer_solved(solver: oc.Solver) -> None:
    problem = chattering.build().problem
    for start in ([0.0], [0.5]):
        solution = solve_quietly(problem, solver, mesh=10, initial_control=start, max_iterations=40)
        assert not bool(solution.success.any())
        assert float(solution.residual) > 1e-2


def singular_cost(horizon: float) -> oc.OptimalControlProblem:
    """A running cost u²/√x that is NaN once x is negative."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: u[..., 0].square() / x[..., 0].sqrt() + x[..., 0],
        initial_state=[1.0],
        horizon=(0.0, horizon),
        control_set=oc.Unconstrained(1),
    )


@pytest.mark.parametrize("method", [oc.MSA(), oc.GradientDescent(1.0)], ids=["msa", "gradient"])
def test_nan_in_an_iteration_names_function_time_and_iteration(method: oc.Solver) -> None:
    solution = solve_quietly(singular_cost(4.0), method, mesh=40)
    assert solution.status == [Status.NONFINITE]
    assert "running_cost is nan at t = " in solution.message
    assert "trajectory 0" in solution.message
    assert "in iteration 1" in solution.message
    assert "check it at the time" in solution.message
    # The last finite iterate is returned.
    torch.testing.assert_close(solution.cost, torch.tensor([4.0], dtype=torch.float64))
    assert bool(torch.isfinite(solution.x).all() & torch.isfinite(solution.p).all() & torch.isfinite(solution.u).all())


def test_nan_with_the_initial_control_is_a_solution_too(solver: oc.Solver) -> None:
    solution = solve_quietly(singular_cost(1.0), solver, mesh=40, initial_control=[-2.0])
    assert solution.status == [Status.NONFINITE]
    assert "running_cost is nan at t = 0.5" in solution.message
    assert "with the initial control" in solution.message
    assert solution.stats.iterations == 0
    assert float(solution.cost) == math.inf


def test_nan_is_a_rejected_step_for_the_adaptive_penalty() -> None:
    problem = singular_cost(1.5)
    solution = solve_quietly(problem, mesh=20, max_iterations=60)
    assert bool(torch.isfinite(solution.cost).all() & torch.isfinite(solution.x).all())
    assert float(solution.cost) < float(solution.history.cost[0])
    assert solution.status[0] is not Status.NONFINITE


def test_nan_of_the_dynamics_names_the_component() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((u[..., 0], x[..., 0].log()), -1),
        lambda t, x, u: u.square().sum(-1) + x[..., 0],
        initial_state=[[2.0, 0.0], [1.0, 0.0]],
        horizon=(0.0, 2.0),
        control_set=oc.Unconstrained(1),
    )
    solution = solve_quietly(problem, oc.GradientDescent(0.1), mesh=20, initial_control=[-0.8])
    assert solution.status[1] is Status.NONFINITE
    assert "dynamics component 1 is " in solution.message
    assert "(trajectory 1)" in solution.message


def test_nan_of_the_terminal_cost_is_named() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: u[..., 0].square(),
        lambda x: x[..., 0].sqrt(),
        initial_state=[1.0],
        horizon=(0.0, 2.0),
        control_set=oc.Unconstrained(1),
    )
    solution = solve_quietly(problem, oc.GradientDescent(5.0), mesh=10)
    assert solution.status == [Status.NONFINITE]
    assert "terminal_cost is nan for trajectory 0" in solution.message


@pytest.mark.parametrize(
    "integrator",
    [oc.RK4(), oc.TorchDiffEq("dopri5", rtol=1e-6, atol=1e-8), oc.SolveIVP("RK45", rtol=1e-6, atol=1e-8)],
    ids=["rk4", "dopri5", "rk45"],
)
def test_blow_up_with_the_initial_control(integrator: oc.Integrator) -> None:
    solution = solve_quietly(cubic_growth([2.0]), mesh=40, integrator=integrator)  # true blow-up at t = 1/8
    assert solution.status == [Status.INTEGRATION_FAILED]
    assert float(solution.cost) == math.inf
    assert solution.stats.iterations == 0
    finite = torch.isfinite(solution.x[:, 0, 0])
    failing = int((~finite).nonzero()[0])
    assert 4 <= failing <= 10  # the node after 1/8 = 5 intervals, a little later for fixed steps
    assert bool(finite[:failing].all())
    assert not bool(finite[failing:].any())
    assert bool(torch.isnan(solution.x[failing:]).all())
    assert "state component 0 of trajectory 0 blows up between t = 0.1" in solution.message
    assert "with the initial control" in solution.message
    assert "finer mesh" in solution.message
    assert "INTEGRATION_FAILED" in solution.summary()


def test_blow_up_during_the_iterations_is_survived() -> None:
    """A trial control that makes the state explode is a rejected step, or the end of a method without rejection."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: x**3 + u,
        lambda t, x, u: 0.01 * u[..., 0].square() - x[..., 0],
        initial_state=[0.1],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    plain = solve_quietly(problem, oc.MSA(), mesh=20)
    assert plain.status[0] in (Status.INTEGRATION_FAILED, Status.DIVERGED)
    careful = solve_quietly(problem, mesh=20, max_iterations=30)
    for solution in (plain, careful):
        assert not bool(solution.success.any())
        assert bool(torch.isfinite(solution.x).all() & torch.isfinite(solution.cost).all())


def test_nothing_that_is_not_finite_is_a_success(solver: oc.Solver) -> None:
    starts = [[0.0], [-2.0]]
    for problem in (singular_cost(2.0), cubic_growth([0.3, 0.9, 3.0]), regulator(horizon=4.0)):
        for start in starts:
            solution = solve_quietly(problem, solver, mesh=15, initial_control=start, max_iterations=30)
            for g, good in enumerate(solution.success.tolist()):
                if good:
                    assert math.isfinite(float(solution.cost[g]))
                    assert bool(torch.isfinite(solution.x[:, g]).all() & torch.isfinite(solution.p[:, g]).all())
                    assert float(solution.residual[g]) <= 1e-8


# ------------------------------------------------------------------------------------------------ limits, callbacks


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_no_tolerance_runs_exactly_the_iterations_asked_for(sweep_solver: oc.Solver, iterations: int) -> None:
    solution = oc.solve(mixed([0.3, 0.5]), sweep_solver, mesh=10, max_iterations=iterations, tolerance=None)
    assert solution.status == [Status.COMPLETED] * 2
    assert bool(solution.success.all())
    assert solution.stats.iterations == iterations
    assert solution.history.cost.shape == (iterations + 1, 2)


def test_no_tolerance_goes_on_after_the_optimum(sweep_solver: oc.Solver) -> None:
    solution = oc.solve(mixed([0.3]), sweep_solver, mesh=10, max_iterations=60, tolerance=None)
    assert solution.status == [Status.COMPLETED]
    assert solution.stats.iterations == 60
    assert float(solution.residual) < 1e-8


def test_shooting_without_tolerance_completes() -> None:
    solution = oc.solve(mixed([0.3, 0.5]), oc.DirectShooting(), mesh=10, max_iterations=4, tolerance=None)
    assert solution.status == [Status.COMPLETED] * 2
    assert bool((solution.cost < solution.history.cost[0]).all())  # both groups had their share


def test_max_iterations(solver: oc.Solver) -> None:
    solution = solve_quietly(mixed([0.9], 2.0), solver, mesh=10, max_iterations=2, tolerance=1e-13)
    assert solution.status == [Status.MAX_ITERATIONS]
    assert solution.stats.iterations == 2
    assert "raise max_iterations" in solution.message


def test_max_seconds(solver: oc.Solver) -> None:
    solution = solve_quietly(mixed([0.9], 2.0), solver, mesh=10, max_seconds=0.0, tolerance=1e-13)
    assert solution.status == [Status.MAX_SECONDS]
    assert solution.stats.iterations <= 1
    assert "raise max_seconds" in solution.message


def test_callback_sees_every_iteration(solver: oc.Solver) -> None:
    seen: list[tuple[int, Any]] = []
    problem = mixed([0.4], 2.0)
    solution = oc.solve(problem, solver, mesh=10, callback=lambda k, iterate: seen.append((k, iterate)))
    assert [k for k, _ in seen] == list(range(1, solution.stats.iterations + 1))
    for k, iterate in seen:
        assert (iterate.u.shape, iterate.x.shape, iterate.p.shape) == ((10, 1, 1), (11, 1, 1), (11, 1, 1))
        torch.testing.assert_close(iterate.cost, solution.history.cost[k], rtol=0.0, atol=0.0)
        torch.testing.assert_close(iterate.residual, solution.history.residual[k], rtol=0.0, atol=0.0)
        torch.testing.assert_close(naive_costs(problem, solution.t[:, 0], iterate.u), iterate.cost)
    last = seen[-1][1]
    for name in ("u", "x", "p"):
        assert torch.equal(getattr(last, name), getattr(solution, name))


def test_callback_stops(solver: oc.Solver) -> None:
    solution = oc.solve(mixed([0.9, 0.8], 2.0), solver, mesh=10, callback=lambda k, iterate: k == 2, tolerance=1e-13)
    assert solution.status == [Status.STOPPED] * 2
    assert bool(solution.success.all())
    assert solution.stats.iterations == 2


def test_keyboard_interrupt_returns_the_best_iterate(solver: oc.Solver) -> None:
    def interrupt(k: int, iterate: Any) -> None:
        if k == 3:
            raise KeyboardInterrupt

    problem = mixed([0.9, 3.0], 2.0)  # MSA diverges from the start: the best iterate is not the last
    solution = solve_quietly(problem, solver, mesh=10, callback=interrupt, tolerance=1e-13)
    assert set(solution.status) <= {Status.INTERRUPTED, Status.DIVERGED}
    assert Status.INTERRUPTED in solution.status
    assert solution.history.cost.shape == (4, 2)
    torch.testing.assert_close(solution.cost, solution.history.cost.amin(0), rtol=1e-12, atol=0.0)
    # Trajectory, costates and control belong together.
    costs = naive_costs(problem, solution.t[:, 0], solution.u)
    torch.testing.assert_close(costs, solution.cost, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(solution.p, oc.solve(
        problem, oc.MSA(), mesh=10, initial_control=solution, max_iterations=0, tolerance=None
    ).p, rtol=1e-8, atol=1e-8)  # fmt: skip
    assert "initial_control" in solution.message
    assert not bool(solution.success.any())


def test_other_errors_of_a_callback_reach_the_user(solver: oc.Solver) -> None:
    def fail(k: int, iterate: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        oc.solve(mixed([0.9]), solver, mesh=10, callback=fail, tolerance=1e-13)


def test_progress_bar(solver: oc.Solver, capsys: pytest.CaptureFixture[str]) -> None:
    oc.solve(mixed([0.5]), solver, mesh=10, progress=True)
    shown = capsys.readouterr().err
    assert type(solver).__name__ in shown
    assert "residual" in shown
    oc.solve(mixed([0.5]), solver, mesh=10)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------ history and start


def test_history_has_one_row_per_iteration(solver: oc.Solver) -> None:
    solution = oc.solve(mixed([0.3, 0.6, 0.7]), solver, mesh=10)
    rows = (solution.stats.iterations + 1, 3)
    history = solution.history
    for name in ("cost", "residual", "hamiltonian_gain", "state_error", "costate_error", "constant", "rho", "accepted"):
        assert getattr(history, name).shape == rows, name
    assert history.accepted.dtype is torch.bool
    assert bool(history.accepted[0].all())
    assert bool(torch.isnan(history.hamiltonian_gain[0]).all())
    zero = oc.solve(mixed([0.3, 0.6, 0.7]), solver, mesh=10, max_iterations=0, tolerance=None)
    torch.testing.assert_close(history.cost[0], zero.cost, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(history.cost[-1], solution.cost, rtol=0.0, atol=0.0)
    assert history.rejections.shape == (3,)
    assert solution.stats.sweeps["forward"] >= solution.stats.iterations
    assert solution.stats.seconds["total"] > 0.0


def test_one_forward_sweep_per_iteration() -> None:
    for method in (oc.MSA(), oc.EMSA(), oc.EMSA(rho=1.0), oc.GradientDescent(0.1)):
        stats = oc.solve(mild_problem(False), method, mesh=N).stats
        assert stats.sweeps["forward"] == stats.iterations + 1
        assert stats.sweeps["backward"] <= stats.iterations + 1


def test_warm_start_on_a_finer_mesh_saves_iterations(solver: oc.Solver) -> None:
    problem = mixed([0.5, 0.7], 2.0)
    coarse = oc.solve(problem, solver, mesh=20, max_iterations=2000)
    cold, warm = (oc.solve(problem, solver, mesh=50, max_iterations=2000, initial_control=u) for u in (None, coarse))
    assert warm.stats.iterations < max(cold.stats.iterations, 4)
    assert bool((warm.history.residual[0] < 0.1 * cold.history.residual[0]).all())
    torch.testing.assert_close(warm.cost, cold.cost, rtol=1e-6, atol=0.0)


def test_warm_start_of_a_bounded_problem() -> None:
    problem = van_der_pol_bounded.build().problem
    coarse = oc.solve(problem, mesh=40)
    cold, warm = oc.solve(problem, mesh=100), oc.solve(problem, mesh=100, initial_control=coarse)
    assert warm.stats.iterations < 0.7 * cold.stats.iterations


def test_starting_at_the_solution_takes_no_iteration(solver: oc.Solver) -> None:
    problem = mild_problem(False)
    best = oc.solve(problem, mesh=N, tolerance=1e-10)
    again = oc.solve(problem, solver, mesh=N, initial_control=best, tolerance=1e-9)
    assert again.stats.iterations == 0
    assert all(status is Status.CONVERGED for status in again.status)
    assert torch.equal(again.u, best.u)


def test_horizon_may_start_anywhere(solver: oc.Solver) -> None:
    def problem(t0: float) -> oc.OptimalControlProblem:
        return oc.OptimalControlProblem(
            lambda t, x, u: torch.sin(t - t0)[..., None] * x + u,
            lambda t, x, u: x[..., 0].square() + (0.8 + 0.2 * (t - t0)) * u[..., 0].square(),
            initial_state=[1.0],
            horizon=(t0, t0 + 1.0),
            control_set=oc.Unconstrained(1),
        )

    here, there = (oc.solve(problem(t0), solver, mesh=16, max_iterations=2000) for t0 in (0.0, -7.5))
    torch.testing.assert_close(here.cost, there.cost, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(here.u, there.u, rtol=0.0, atol=1e-8)
    assert float(there.t[0]) == -7.5


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (oc.MSA(relaxation=0.5), "MSA relaxation: expected a convex control set"),
        (oc.GradientDescent(0.1), "GradientDescent: expected a convex control set"),
        (oc.DirectShooting(), "DirectShooting: expected an Unconstrained set or a Box"),
        (oc.EMSA(oc.ProjectedNewton()), "ProjectedNewton: expected"),
        (oc.MSA(oc.LBFGS()), "LBFGS: expected"),
    ],
)
def test_methods_that_cannot_serve_a_finite_set_say_so(method: oc.Solver, text: str) -> None:
    with pytest.raises(oc.UnsupportedError, match=text) as caught:
        oc.solve(regulator(control_set=oc.FiniteSet([-1.0, 0.0])), method, mesh=5)
    assert isinstance(caught.value, TypeError)
    assert "got FiniteSet" in str(caught.value)
    assert "Use " in str(caught.value)


def test_shooting_refuses_a_ball() -> None:
    with pytest.raises(oc.UnsupportedError, match=r"DirectShooting: expected .* Box, got Ball.*Use oc\.EMSA\(\)"):
        oc.solve(coupled_oscillators(oc.Ball(1.0, 2)), oc.DirectShooting(), mesh=5)


def test_enumeration_refuses_a_free_control() -> None:
    with pytest.raises(oc.UnsupportedError, match=r"Enumeration: expected a FiniteSet, or a finite Box"):
        oc.solve(regulator(), oc.EMSA(oc.Enumeration()), mesh=5)


def test_closed_form_serves_only_plain_sweeps_of_independent_controls() -> None:
    maximizer = oc.ClosedForm(lambda t, x, p: p)
    solution = oc.solve(regulator([1.0, 2.0]), oc.MSA(maximizer), mesh=10, max_iterations=30, tolerance=None)
    best = oc.solve(regulator([1.0, 2.0]), mesh=10).cost
    torch.testing.assert_close(solution.cost, best, rtol=5e-3, atol=0.0)  # of order h beside the discrete optimum
    for method in (oc.EMSA(maximizer), oc.EMSA(maximizer, rho=1.0)):
        with pytest.raises(oc.UnsupportedError, match=r"ClosedForm: expected no penalty \(MSA\)"):
            oc.solve(regulator(), method, mesh=5)
    with pytest.raises(oc.UnsupportedError, match=r"ClosedForm: expected one control per trajectory \(G = B\)"):
        oc.solve(regulator([1.0, 2.0], shared=True), oc.MSA(maximizer), mesh=5)


def test_closed_form_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(oc.ShapeError, match=r"ClosedForm argmax\(t, x, p\): expected shape \(5, 1, 1\), got"):
        oc.solve(regulator(), oc.MSA(oc.ClosedForm(lambda t, x, p: p[..., 0])), mesh=5)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: oc.MSA(relaxation=0.0), r"MSA relaxation: expected a number in \(0, 1\], got 0\.0"),
        (lambda: oc.MSA(relaxation=1.5), r"MSA relaxation: expected a number in \(0, 1\], got 1\.5"),
        (lambda: oc.MSA(relaxation=math.nan), "MSA relaxation"),
        (lambda: oc.MSA(relaxation="0.5"), "MSA relaxation"),
        (lambda: oc.MSA(relaxation=True), "MSA relaxation"),
        (lambda: oc.MSA("lbfgs"), "maximizer: expected a Maximizer, got 'lbfgs'"),
        (lambda: oc.MSA(oc.LBFGS), "maximizer: expected a Maximizer"),
        (lambda: oc.EMSA(oc.RK4()), "maximizer: expected a Maximizer"),
        (lambda: oc.EMSA(rho=-1.0), r"EMSA rho: expected a finite number ≥ 0, got -1\.0"),
        (lambda: oc.EMSA(rho=math.inf), "EMSA rho"),
        (lambda: oc.EMSA(rho=math.nan), "EMSA rho"),
        (lambda: oc.EMSA(rho=True), "EMSA rho"),
        (lambda: oc.EMSA(rho="auto"), "EMSA rho.*AdaptivePenalty"),
        (lambda: oc.EMSA(rho=None), "EMSA rho"),
        (lambda: oc.EMSA(accelerate="yes"), "EMSA accelerate"),
        (lambda: oc.GradientDescent(0.0), r"GradientDescent step_size: expected a positive number, got 0\.0"),
        (lambda: oc.GradientDescent(-1), "GradientDescent step_size"),
        (lambda: oc.GradientDescent(math.inf), "GradientDescent step_size"),
        (lambda: oc.GradientDescent(math.nan), "GradientDescent step_size"),
        (lambda: oc.GradientDescent("fast"), "GradientDescent step_size"),
        (lambda: oc.DirectShooting(0), "DirectShooting pairs: expected an int ≥ 1, got 0"),
        (lambda: oc.DirectShooting(2.5), "DirectShooting pairs"),
    ],
)
def test_bad_choices_are_refused_at_construction(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text) as caught:
        build()
    assert isinstance(caught.value, ValueError)


def test_solvers_are_frozen_values() -> None:
    assert oc.EMSA() == oc.EMSA()
    assert oc.EMSA(rho=2.0) != oc.EMSA()
    with pytest.raises(AttributeError):
        oc.MSA().relaxation = 0.5  # type: ignore[misc]
    assert {oc.MSA(), oc.MSA()} == {oc.MSA()}


def test_solving_changes_neither_problem_nor_solver() -> None:
    problem, solver = nonlinear_problem(False), oc.EMSA()
    start = torch.full((N, 5, 2), 0.1, dtype=torch.float64)
    kept, text = start.clone(), repr((problem, solver))
    first, second = (oc.solve(problem, solver, mesh=N, initial_control=start) for _ in range(2))
    assert torch.equal(start, kept)
    assert repr((problem, solver)) == text
    assert torch.equal(first.u, second.u)  # nothing is remembered
    assert problem.horizon == (0.5, 0.5 + HORIZON)


def test_threads_and_gradients_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    x0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: (x.square() + u.square())[..., 0],
        initial_state=x0,
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    with torch.no_grad():
        quiet = oc.solve(problem, mesh=5)
    loud = oc.solve(problem, mesh=5)
    assert torch.get_num_threads() == threads
    assert torch.equal(quiet.u, loud.u)
    tensors: list[Tensor] = [loud.u, loud.x, loud.p, loud.cost, loud.residual, loud.history.cost]
    assert not any(tensor.requires_grad for tensor in tensors)  # no graph is kept


# --------------------------------------------------------------------------------------- stationary is not maximal


def convex_cost(x0: list[list[float]]) -> oc.OptimalControlProblem:
    """−u² has no least value: u = 0 is stationary from x = 0, and H is least there."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: (x * x - u * u).sum(-1),
        initial_state=x0,
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


@pytest.mark.parametrize("solver", [oc.EMSA(), oc.EMSA(oc.LBFGS()), oc.MSA(), oc.Collocation(), None], ids=repr)
def test_controls_at_which_the_hamiltonian_is_least_have_not_converged(solver: oc.Solver | None) -> None:
    with pytest.warns(oc.ConvergenceWarning, match="H has no (finite )?maximum"):
        solution = oc.solve(convex_cost([[0.0], [0.0]]), solver)
    assert solution.status == [Status.STALLED] * 2


def test_hamiltonians_that_are_flat_in_a_free_control_have_a_maximum() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u[..., :1],
        lambda t, x, u: (x * x + u[..., :1] ** 2).sum(-1) + 0.0 * u[..., 1],
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(2),
    )
    assert oc.solve(problem, oc.EMSA()).success.all()
