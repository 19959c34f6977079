"""What `oc.Collocation` promises beside accuracy: batches, free ends, starts, limits, files, refusals and failures."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONTROLS, B, cubic_growth, mild_problem, regulator, solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation import camp, campaign, descent, saddles, starts
from ocsolver.collocation.stop import Stop
from ocsolver.problem import changed
from problems import (
    bryson_denham,
    free_time_regulator,
    minimum_energy,
    minimum_time,
    mixed_constraint,
    neural_ode_xor,
    scalar_lqr,
    van_der_pol,
    van_der_pol_bounded,
)

PRECISE = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)
Status = oc.Status


def effort(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return 0.5 * u.square().sum(-1)


def ramp(
    initial_state: Any = (0.0,), control_set: oc.ControlSet | None = None, horizon: Any = (0.0, 1.0), **options: Any
) -> oc.OptimalControlProblem:
    """ẋ = u at the cost ½∫u²."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        effort,
        initial_state=initial_state,
        horizon=horizon,
        control_set=control_set or oc.Unconstrained(1),
        **options,
    )


def reach(lower: Any, upper: Any = None) -> oc.Constraint:
    """x(t1) between bounds."""
    return oc.Constraint(lambda x: x, lower, lower if upper is None else upper)


def bounded() -> oc.OptimalControlProblem:
    """The Van der Pol oscillator of the references: about 25 iterations."""
    return van_der_pol_bounded.build().problem


# ------------------------------------------------------------------------------------- solutions and their shapes


def test_shapes_of_a_solution() -> None:
    problem = minimum_energy.build(initial_state=[[0.0, 1.0], [1.0, -1.0], [0.5, 0.2]]).problem
    solution = oc.solve(problem, oc.Collocation(stages=4))
    N = solution.u.shape[0]
    assert solution.t.shape == (N + 1, 3)
    assert solution.x.shape == solution.p.shape == (N + 1, 3, 2)
    assert solution.u.shape == (N, 3, 1)
    assert solution.pieces is not None
    assert solution.pieces.control.shape == (N, 4, 3, 1)
    assert (
        solution.multipliers["terminal_constraint"].shape == solution.violations["terminal_constraint"].shape == (3, 2)
    )
    assert solution.history.cost.shape == solution.history.residual.shape == (solution.stats.iterations + 1, 3)
    assert len(solution.status) == len(solution.notes) == len(solution.switches) == 3
    torch.testing.assert_close(solution.history.cost[-1], solution.cost)
    assert solution.solver == "Collocation(stages=4, max_intervals=1000)"


def test_the_solution_satisfies_the_equations_of_the_maximum_principle() -> None:
    """State and costate equations by differences of the polynomials, at times that are no collocation points."""
    problem = mild_problem(False)
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-10)
    t0, t1 = problem.horizon
    times = torch.linspace(t0 + 0.01, t1 - 0.01, 37, dtype=torch.float64)
    h = 1e-4
    x, p, u = solution.state(times), solution.costate(times).requires_grad_(), solution.control(times)
    state = x.clone().requires_grad_()
    running, terminal = problem.running_cost, problem.terminal_cost
    assert running is not None
    assert terminal is not None
    control = u.clone().requires_grad_()
    f = problem.dynamics(times[:, None], state, control)
    H = (p * f).sum(-1) - running(times[:, None], state, control)
    slope, gradient = torch.autograd.grad(H.sum(), (state, control))
    rate = (solution.state(times + h) - solution.state(times - h)) / (2 * h)
    back = (solution.costate(times + h) - solution.costate(times - h)) / (2 * h)
    torch.testing.assert_close(rate, f.detach(), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(back, -slope, rtol=0.0, atol=1e-4)
    assert float(gradient.abs().max()) <= 1e-4  # u maximizes H
    end = solution.x[-1].clone().requires_grad_()
    (final,) = torch.autograd.grad(terminal(end).sum(), end)
    torch.testing.assert_close(solution.p[-1], -final, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_every_number_of_stages_converges(stages: int) -> None:
    reference = scalar_lqr.build()
    solution = oc.solve(reference.problem, oc.Collocation(stages=stages))
    assert reference.cost is not None
    assert float(solution.cost) == pytest.approx(reference.cost, abs=1e-8)


@pytest.mark.parametrize(("stages", "meshes"), [(1, (8, 16)), (2, (4, 8)), (3, (2, 4))])
def test_order_of_the_cost_is_twice_the_number_of_stages(stages: int, meshes: tuple[int, int]) -> None:
    """On a given mesh; one iteration of Newton's method solves this linear problem, so no mesh is refined."""
    reference = scalar_lqr.build(horizon=2.0)
    assert reference.cost is not None
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy's weights of a single point
        for N in meshes:
            solver = oc.Collocation(stages=stages, max_intervals=1)
            solution = solve_quietly(reference.problem, solver, mesh=N, tolerance=0.5)
            assert solution.u.shape[0] == N
            errors.append(abs(float(solution.cost) - reference.cost))
    assert errors[0] / errors[1] >= 2 ** (2 * stages - 0.4)


def test_the_certificate_uses_the_costates_of_the_solution() -> None:
    solution = oc.solve(minimum_energy.build().problem, oc.Collocation())
    certificate = solution.certificate
    for name in ("max_gap", "state_defect", "costate_defect", "transversality", "hamiltonian_drift", "cost_error"):
        assert float(getattr(certificate, name)) <= 1e-9, name
    again = oc.certify(solution.problem, solution)
    torch.testing.assert_close(again.mean_gap, certificate.mean_gap)


# ------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_as_good_as_its_single_solutions() -> None:
    starts = [[0.0, 1.0], [1.0, 0.0], [0.5, -0.8]]
    batch = oc.solve(van_der_pol_bounded.build(initial_state=starts).problem, oc.Collocation())
    assert batch.status == [Status.CONVERGED] * 3
    assert batch.t.shape[1] == 3
    times = torch.linspace(0.0, 10.0, 41, dtype=torch.float64)
    for g, start in enumerate(starts):
        single = oc.solve(van_der_pol_bounded.build(initial_state=start).problem, oc.Collocation())
        assert float(batch.cost[g]) == pytest.approx(float(single.cost), abs=1e-7)
        torch.testing.assert_close(batch.state(times)[:, g], single.state(times)[:, 0], rtol=0.0, atol=1e-3)
        assert len(batch.switches[g]) == len(single.switches[0])


def test_groups_have_final_times_of_their_own() -> None:
    base = minimum_time.build().problem
    problem = oc.OptimalControlProblem(
        base.dynamics,
        base.running_cost,
        initial_state=[[-1.0, 0.0], [-4.0, 0.0], [0.25, 0.0]],
        horizon=(base.horizon[0], oc.FreeTime()),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x),
    )
    solution = oc.solve(problem, oc.Collocation())
    torch.testing.assert_close(solution.cost, torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(solution.t[-1], solution.cost, rtol=0.0, atol=1e-6)


def test_callables_that_close_over_data_of_the_trajectories(shared: bool) -> None:
    """All sizes different (B=5, n=3, m=2), starting at t0 = 0.5; against E-MSA on a fine mesh."""
    problem = mild_problem(shared)
    solution = oc.solve(problem, oc.Collocation())
    G = 1 if shared else B
    assert solution.u.shape[1:] == (G, CONTROLS)
    assert solution.x.shape[1:] == (B, 3)
    assert bool((solution.t[0] == 0.5).all())
    sweeps = oc.solve(problem, oc.EMSA(), mesh=200)
    torch.testing.assert_close(solution.cost, sweeps.cost, rtol=0.0, atol=2e-4)
    assert bool((solution.cost <= sweeps.cost + 1e-9).all())
    # costates of trajectories, not divided by their number
    torch.testing.assert_close(solution.p[0], sweeps.p[0], rtol=0.0, atol=5e-3)


def test_one_control_for_an_ensemble() -> None:
    reference = neural_ode_xor.build()
    solution = oc.solve(reference.problem, oc.Collocation())
    assert solution.u.shape[1] == 1
    assert solution.p.shape[1] == reference.problem.trajectories > 1
    assert reference.exact is not None
    assert reference.exact.costate is not None
    torch.testing.assert_close(solution.p, reference.exact.costate(solution.t[:, 0]), rtol=0.0, atol=1e-7)


def test_a_group_without_a_solution_does_not_disturb_the_others() -> None:
    problem = ramp([[0.0], [2.5], [9.0]], oc.Box(-1.0, 1.0), terminal_constraint=reach(3.0))
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE, Status.CONVERGED, Status.INFEASIBLE]
    assert float(solution.cost[1]) == pytest.approx(0.125, abs=1e-8)
    torch.testing.assert_close(
        solution.violations["terminal_constraint"],
        torch.tensor([[2.0], [0.0], [5.0]], dtype=torch.float64),
        rtol=0.0,
        atol=1e-6,
    )


# ------------------------------------------------------------------------------- free ends, ranges and constraints


@pytest.mark.parametrize(("start", "end", "multiplier"), [(0.0, 1.0, -1.0), (1.5, 1.5, 0.0), (3.0, 2.0, 1.0)])
def test_terminal_ranges(start: float, end: float, multiplier: float) -> None:
    """1 ≤ x(1) ≤ 2: the multiplier is negative at the lower, zero between and positive at the upper side."""
    solution = oc.solve(ramp([start], terminal_constraint=reach(1.0, 2.0)), oc.Collocation())
    assert float(solution.x[-1]) == pytest.approx(end, abs=1e-6)
    assert float(solution.multipliers["terminal_constraint"]) == pytest.approx(multiplier, abs=1e-6)
    assert float(solution.p[-1]) == pytest.approx(-multiplier, abs=1e-6)  # p(t1) = −∇Φ − (∂c/∂x)ᵀν


def test_free_initial_states_have_no_costate() -> None:
    """x(0) free in its first component: transversality p(t0) = 0 there, and the start next to the target is best."""
    problem = ramp(oc.FreeInitialState([0.3]), terminal_constraint=reach(2.0))
    solution = oc.solve(problem, oc.Collocation())
    assert float(solution.cost) == pytest.approx(0.0, abs=1e-9)
    assert float(solution.x[0]) == pytest.approx(2.0, abs=1e-5)
    assert float(solution.p[0]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("upper", "expected"), [(5.0, 2.0), (1.5, 1.5)])
def test_static_parameters_are_constant_states_with_a_free_start(upper: float, expected: float) -> None:
    """The rate a of ẋ = −a x that fits e^{−2t}, inside its bounds or at one."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((-x[..., 1] * x[..., 0], torch.zeros_like(x[..., 1])), -1),
        lambda t, x, u: (x[..., 0] - torch.exp(-2.0 * t)) ** 2 + u[..., 0] ** 2,
        initial_state=oc.FreeInitialState([1.0, 0.5], [1.0, 0.0], [1.0, upper]),
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    solution = oc.solve(problem, oc.Collocation())
    assert float(solution.x[0, 0, 1]) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(solution.x[:, 0, 1], solution.x[:1, 0, 1].expand(len(solution.x)), rtol=1e-9, atol=0.0)
    assert (abs(float(solution.p[0, 0, 1])) <= 1e-6) == (upper > 2.0)


@pytest.mark.parametrize(("lower", "upper", "expected"), [(0.0, 5.0, None), (2.5, 5.0, 2.5), (0.1, 0.5, 0.5)])
def test_bounds_of_the_final_time(lower: float, upper: float, expected: float | None) -> None:
    """ẋ = u, J = ∫(1 + ½(x² + u²)) from 0 to x = 1: J(T) = T + ½ coth T, least where sinh² T = ½."""
    base = free_time_regulator.build().problem
    problem = oc.OptimalControlProblem(
        base.dynamics,
        base.running_cost,
        initial_state=base.initial_state,
        horizon=(0.0, oc.FreeTime(lower=lower, upper=upper)),
        control_set=base.control_set,
        terminal_constraint=base.terminal_constraint,
    )
    solution = oc.solve(problem, oc.Collocation())
    T = math.asinh(math.sqrt(0.5)) if expected is None else expected
    assert float(solution.t[-1]) == pytest.approx(T, abs=1e-5)
    assert float(solution.cost) == pytest.approx(T + 0.5 / math.tanh(T), abs=1e-6)


@pytest.mark.parametrize(("lower", "upper", "expected"), [(0.0, 5.0, None), (2.5, 5.0, 2.5), (0.1, 1.2, 1.2)])
def test_final_time_where_only_the_control_costs(lower: float, upper: float, expected: float | None) -> None:
    """ẋ = u, J = ∫(1 + ½u²) from 0 to x = 2: J(T) = T + 2/T, least at T = √2."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 1.0 + 0.5 * u[..., 0] ** 2,
        initial_state=[0.0],
        horizon=(0.0, oc.FreeTime(guess=1.0 if lower <= 1.0 else lower, lower=lower, upper=upper)),
        control_set=oc.Unconstrained(1),
        terminal_constraint=reach(2.0),
    )
    solution = oc.solve(problem, oc.Collocation())
    T = math.sqrt(2.0) if expected is None else expected
    assert float(solution.t[-1]) == pytest.approx(T, abs=1e-5)
    assert float(solution.cost) == pytest.approx(T + 2.0 / T, abs=1e-6)


def test_equality_along_the_path() -> None:
    """u1 + u2 = 1 at the least ½∫|u|²: u = (½, ½) and ν = −½ from ∂(½|u|² + ν c)/∂u = 0."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u[..., :1],
        effort,
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(2),
        path_constraint=oc.Constraint(lambda t, x, u: u.sum(-1, keepdim=True), 1.0, 1.0),
    )
    solution = oc.solve(problem, oc.Collocation())
    assert float(solution.cost) == pytest.approx(0.25, abs=1e-9)
    torch.testing.assert_close(solution.u, torch.full_like(solution.u, 0.5))
    nu = solution.multipliers["path_constraint"]
    torch.testing.assert_close(nu, torch.full_like(nu, -0.5), rtol=0.0, atol=1e-7)
    assert float(solution.violations["path_constraint"].max()) <= 1e-9


def test_multipliers_of_mixed_constraints_have_the_sign_of_their_side() -> None:
    solution = oc.solve(mixed_constraint.build().problem, oc.Collocation())
    nu = solution.multipliers["path_constraint"]
    assert float(nu.min()) >= -1e-6
    assert float(nu.max()) > 0.1


def test_states_keep_their_bounds_between_the_nodes() -> None:
    solution = oc.solve(bryson_denham.build().problem, oc.Collocation())
    times = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    assert float(solution.state(times)[..., 0].max()) <= 1.0 / 9.0 + 1e-7


def speed_limit() -> oc.OptimalControlProblem:
    """A cart from −1 to rest at 0 that must not be faster than 1.3."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.cat((x[..., 1:], u), -1),
        effort,
        initial_state=[-1.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        terminal_constraint=oc.Constraint(lambda x: x),
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:], -math.inf, 1.3),
    )


def test_first_order_state_constraint() -> None:
    """u falls linearly to 0 at ramps of length r = 3(1 − 1/1.3), 1.3(1 − ⅔ r) = 1 covered: J = ⅔ 1.3²·2/r."""
    v, r = 1.3, 1.5 * (1.0 - 1.0 / 1.3)
    solution = oc.solve(speed_limit(), oc.Collocation())
    assert float(solution.cost) == pytest.approx(4.0 * v**2 / (3.0 * r), abs=1e-6)


def test_violations_between_the_points_are_small_where_a_run_converged() -> None:
    solution = oc.solve(speed_limit(), oc.Collocation())
    assert float(solution.violations["path_constraint"]) <= 1e-7


def test_controls_keep_their_bounds_everywhere() -> None:
    solution = oc.solve(bounded(), oc.Collocation())
    u = solution.control(torch.linspace(0.0, 10.0, 2001, dtype=torch.float64))
    assert float(u.min()) >= -0.75
    assert float(u.max()) <= 1.0


def test_sides_of_all_kinds_in_one_constraint(shared: bool) -> None:
    """An equality, a range that does not act, and one side, for each of two trajectories."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        effort,
        initial_state=[[0.0, 0.0, 0.0]] * 2,
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(3),
        shared_control=shared,
        terminal_constraint=oc.Constraint(lambda x: x, [1.0, -1.0, -math.inf], [1.0, 2.0, -1.0]),
    )
    solution = oc.solve(problem, oc.Collocation())
    torch.testing.assert_close(solution.cost, torch.ones_like(solution.cost), rtol=0.0, atol=1e-8)
    nu = solution.multipliers["terminal_constraint"]
    assert nu.shape == (2, 3)
    expected = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        nu.mean(0), expected, rtol=0.0, atol=1e-6
    )  # means over the group are what the control feels


def test_fixed_controls() -> None:
    """A box of which one side has no width."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u[..., :1] + u[..., 1:],
        effort,
        lambda x: 0.5 * x[..., 0] ** 2,
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box([-5.0, 0.5], [5.0, 0.5]),
    )
    solution = oc.solve(problem, oc.Collocation())
    assert float((solution.control([0.0, 0.3, 1.0])[..., 1] - 0.5).abs().max()) == 0.0
    # u1 = −(1 + u1 + ½) = −¾
    assert float(solution.cost) == pytest.approx(0.5 * (0.75**2 + 0.5**2) + 0.5 * 0.75**2, abs=1e-8)


def test_integral_constraints_as_a_state() -> None:
    """∫u² = 2 by an extra state: the farthest x(1) is √2."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((u[..., 0], u[..., 0] ** 2), -1),
        None,
        lambda x: -x[..., 0],
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        terminal_constraint=oc.Constraint(lambda x: x[..., 1:], 2.0, 2.0),
    )
    solution = oc.solve(problem, oc.Collocation(), initial_control=[0.5])
    assert float(solution.cost) == pytest.approx(-math.sqrt(2.0), abs=1e-6)


# --------------------------------------------------------------------------------------------------- other horizons


def test_horizons_that_do_not_start_at_zero() -> None:
    for build in (scalar_lqr.build, free_time_regulator.build):
        reference = build(t0=0.7)
        solution = oc.solve(reference.problem, oc.Collocation())
        assert reference.cost is not None
        assert float(solution.cost) == pytest.approx(reference.cost, abs=1e-6)
        assert float(solution.t[0]) == 0.7
        assert reference.exact is not None
        assert reference.exact.costate is not None
        expected = reference.exact.costate(solution.t[:, 0])
        torch.testing.assert_close(solution.p, expected, rtol=0.0, atol=1e-5)


def test_time_in_the_dynamics() -> None:
    """ẋ = cos(t) u with the horizon shifted: control u = p cos t, x(t1) − x(t0) = ∫cos² · p."""
    t0, t1 = 1.0, 3.0
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.cos(t)[..., None] * u,
        effort,
        initial_state=[0.0],
        horizon=(t0, t1),
        control_set=oc.Unconstrained(1),
        terminal_constraint=reach(1.0),
    )
    gramian = 0.5 * (t1 - t0) + 0.25 * (math.sin(2 * t1) - math.sin(2 * t0))
    solution = oc.solve(problem, oc.Collocation())
    assert float(solution.cost) == pytest.approx(0.5 / gramian, abs=1e-8)
    torch.testing.assert_close(solution.p, torch.full_like(solution.p, 1.0 / gramian), rtol=0.0, atol=1e-7)


def test_single_precision() -> None:
    for build, cost in ((van_der_pol_bounded.build, 2.8733043), (bryson_denham.build, 4.0)):
        solution = oc.solve(build(dtype=torch.float32).problem, oc.Collocation())
        assert bool(solution.success.all())
        assert {part.dtype for part in (solution.t, solution.x, solution.p, solution.u, solution.cost)} == {
            torch.float32
        }
        assert float(solution.cost) == pytest.approx(cost, rel=1e-4)


# --------------------------------------------------------------------------------------------------- where it starts


def test_a_solution_is_the_best_start_for_its_own_problem() -> None:
    cold = oc.solve(bounded(), oc.Collocation())
    warm = oc.solve(bounded(), oc.Collocation(), initial_control=cold)
    assert warm.stats.iterations < 0.8 * cold.stats.iterations
    assert float(warm.cost) == pytest.approx(float(cold.cost), abs=1e-7)


def test_a_solution_is_a_start_for_another_initial_state() -> None:
    cold = oc.solve(bounded(), oc.Collocation())
    near = van_der_pol_bounded.build(initial_state=[0.05, 0.95]).problem
    warm, fresh = oc.solve(near, oc.Collocation(), initial_control=cold), oc.solve(near, oc.Collocation())
    assert float(warm.cost) == pytest.approx(float(fresh.cost), abs=1e-7)
    assert warm.stats.iterations < fresh.stats.iterations
    torch.testing.assert_close(warm.x[0], near.initial_state)


@pytest.mark.parametrize("mesh", [13, oc.Mesh([0.0, 0.1, 0.3, 0.6, 1.0])], ids=["13", "nodes"])
def test_a_solution_is_a_start_on_another_mesh(mesh: Any) -> None:
    cold = oc.solve(bounded(), oc.Collocation())
    warm = oc.solve(bounded(), oc.Collocation(), mesh=mesh, initial_control=cold)
    assert float(warm.cost) == pytest.approx(float(cold.cost), abs=1e-7)


@pytest.mark.parametrize("haste", [starts.HASTE, 1])
def test_solutions_of_similar_problems_lead_to_the_last_barrier_at_once(
    haste: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, if few iterations do not get there, in the same steps as a guess."""
    monkeypatch.setattr(starts, "HASTE", haste)
    start = oc.solve(bounded(), oc.Collocation(), tolerance=1e-6)
    assert start.stats.sweeps["meshes"] > 2
    near = van_der_pol_bounded.build(initial_state=[0.02, 0.98]).problem
    warm = oc.solve(near, oc.Collocation(), tolerance=1e-6, initial_control=start)
    assert bool(warm.success)
    assert (warm.stats.sweeps["meshes"] <= 2) == (haste > 1)
    exact = oc.solve(near, oc.Collocation(), tolerance=1e-9)
    assert float(warm.cost) == pytest.approx(float(exact.cost), abs=2e-6)


def test_a_mesh_that_was_not_solved_is_not_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    """No iteration would follow on the finer mesh: it only looks worse."""
    monkeypatch.setattr(camp, "PATIENCE", 3)
    solution = solve_quietly(bounded(), oc.Collocation(), mesh=13)
    assert not bool(solution.success)
    assert len(solution.t) == 14
    assert bool(torch.isfinite(solution.cost))


def test_a_mesh_that_leads_nowhere_is_followed_by_a_finer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not if a mesh was asked for."""
    solve, patience = camp.Camp.solve, camp.PATIENCE

    def short_of_breath(self: camp.Camp, *args: Any) -> Any:
        monkeypatch.setattr(camp, "PATIENCE", patience if len(self.mesh.h) > 25 else 3)
        return solve(self, *args)

    monkeypatch.setattr(camp.Camp, "solve", short_of_breath)
    for build in (bounded, speed_limit):
        assert not bool(solve_quietly(build(), oc.Collocation(), mesh=25).success)
        solution = solve_quietly(build(), oc.Collocation(), tolerance=1e-6)
        assert bool(solution.success)
        assert len(solution.t) > 100
        assert solution.stats.iterations == len(solution.history.cost) - 1


def around_a_hill(control_set: oc.ControlSet, height: float = 20.0) -> oc.OptimalControlProblem:
    """Across a hill or around it: the way across is symmetric, and no more than a saddle point if the hill is high."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * u.square().sum(-1) + height * torch.exp(-10.0 * x.square().sum(-1)),
        initial_state=torch.tensor([-1.0, 0.0], dtype=torch.float64),
        horizon=(0.0, 1.0),
        control_set=control_set,
        terminal_constraint=oc.Constraint(lambda x: x, [1.0, 0.0], [1.0, 0.0]),
    )


@pytest.mark.parametrize("control_set", [oc.Unconstrained(2), oc.Box([-6.0, -6.0], [6.0, 6.0])])
def test_saddle_points_are_left(control_set: oc.ControlSet, monkeypatch: pytest.MonkeyPatch) -> None:
    around = oc.solve(around_a_hill(control_set), oc.Collocation())
    monkeypatch.setattr(starts, "SADDLES", 0)
    across = oc.solve(around_a_hill(control_set), oc.Collocation())
    assert bool((around.success & across.success).all())  # both meet the maximum principle
    assert float(across.x[..., 1].abs().max()) < 1e-9
    assert float(around.x[..., 1].abs().max()) > 0.5
    assert float(around.cost) < 0.6 * float(across.cost)


def test_a_start_at_a_saddle_point_of_the_terminal_cost_is_left() -> None:
    """At rest ∂H/∂u = 0 and nothing moves, but it pays to go away, to either side."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.1 * u[..., 0] ** 2,
        lambda x: -(x[..., 0] ** 2),
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    for solver in (None, oc.Collocation()):
        assert float(oc.solve(problem, solver).cost) == pytest.approx(-0.9, abs=1e-7)


def test_a_minimum_is_not_taken_for_a_saddle_point(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def watched(*state: Any) -> Any:
        found.append(saddles.beyond_saddle(*state))
        return found[-1]

    monkeypatch.setattr(starts, "beyond_saddle", watched)
    monkeypatch.setattr(starts, "EASY", 0)
    low = around_a_hill(oc.Unconstrained(2), height=1.0)  # across is the shortest way
    assert bool(oc.solve(low, oc.Collocation()).success)
    assert bool(oc.solve(scalar_lqr.build().problem, oc.Collocation()).success)
    assert len(found) == 2
    assert not any(at_saddle.any() for _, at_saddle in found)


def test_other_guesses_wait_for_a_finer_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first guess has the finer mesh before the others have the coarse one."""
    solve = camp.Camp.solve
    failing: set[int] = set()
    meshes: list[int] = []

    def watched(self: camp.Camp, hat: float, wanted: Any, doubts: int | None = None) -> Any:
        meshes.append(len(self.mesh.h))
        result = solve(self, hat, wanted, doubts)
        return result & (len(self.mesh.h) not in failing)

    monkeypatch.setattr(camp.Camp, "solve", watched)
    failing.add(25)
    assert bool(solve_quietly(bounded(), oc.Collocation()).success)
    assert set(meshes[:2]) == {25}  # once more from where it merely meets its constraints
    assert min(meshes[2:]) == 100
    meshes.clear()
    failing.add(100)
    assert not bool(solve_quietly(bounded(), oc.Collocation()).success)
    assert meshes[2] == 100
    assert set(meshes[4:]) == {25}


def test_what_does_not_move_on_a_finer_mesh_starts_again_from_further_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """And has all the time it wants, if that leads nowhere, while μ has not reached its end."""
    tries: list[tuple[int, float, int | None]] = []
    solve = camp.Camp.solve

    def watched(self: camp.Camp, hat: float, wanted: Any, doubts: int | None = None) -> Any:
        tries.append((self.counts["meshes"], float(self.mu[0] / self.system.unit[0]), doubts))
        result = solve(self, hat, wanted, doubts)
        return result if self.counts["meshes"] != 2 or len(tries) > 4 else np.zeros_like(result)

    monkeypatch.setattr(camp.Camp, "solve", watched)
    solution = solve_quietly(bounded(), oc.Collocation())
    assert bool(solution.success)
    assert [(mesh, doubts) for mesh, _, doubts in tries[:5]] == [
        (0, None),
        (1, campaign.DOUBTS),
        (2, campaign.DOUBTS),
        (2, None),
        (2, None),
    ]
    (_, near, _), (_, inside, _), (_, near_again, _) = tries[2:5]
    assert near == pytest.approx(near_again) == pytest.approx(1e-2 * inside)


def test_starts_without_progress_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here nothing counts as progress, so that every finer mesh is left after so many iterations, unless it is done."""
    usual = solve_quietly(bounded(), oc.Collocation())
    monkeypatch.setattr(descent, "NO_PROGRESS", 0.0)
    monkeypatch.setattr(campaign, "DOUBTS", 1)
    hurried = solve_quietly(bounded(), oc.Collocation())
    assert bool(hurried.success)
    assert hurried.stats.iterations > usual.stats.iterations


def test_a_solution_of_sweeps_is_a_start() -> None:
    sweeps = oc.solve(bounded(), oc.EMSA(), mesh=50)
    polished = oc.solve(bounded(), oc.Collocation(), initial_control=sweeps)
    assert float(polished.cost) == pytest.approx(2.8733043, abs=1e-6)
    constrained = oc.solve(minimum_energy.build().problem, oc.AugmentedLagrangian(), mesh=20)
    polished = oc.solve(minimum_energy.build().problem, oc.Collocation(), initial_control=constrained)
    assert float(polished.violations["terminal_constraint"].max()) <= 1e-9


def test_a_solution_of_free_time_is_a_start() -> None:
    cold = oc.solve(minimum_time.build().problem, oc.Collocation())
    warm = oc.solve(minimum_time.build(distance=1.2).problem, oc.Collocation(), initial_control=cold)
    assert float(warm.cost) == pytest.approx(2.0 * math.sqrt(1.2), abs=1e-6)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_solution_with_other_constraints_is_a_start(first: int, then: int) -> None:
    """Its multipliers say nothing of the new ones: 1.5 is the least effort to get there, 6 that to rest there."""

    def run(components: int, start: oc.Solution | None) -> oc.Solution:
        target = torch.tensor([1.0, 0.0])[:components]
        problem = oc.OptimalControlProblem(
            dynamics=lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
            running_cost=lambda t, x, u: 0.5 * u[..., 0] ** 2,
            horizon=(0.0, 1.0),
            initial_state=[0.0, 0.0],
            control_set=oc.Box([-20.0], [20.0]),
            path_constraint=oc.Constraint(lambda t, x, u: x.flip(-1)[..., :components], upper=2.0),
            terminal_constraint=oc.Constraint(lambda x: x[..., :components] - target),
        )
        return oc.solve(problem, oc.Collocation(), initial_control=start)

    warm = run(then, run(first, None))
    assert bool(warm.success.all())
    assert float(warm.cost) == pytest.approx({1: 1.5, 2: 6.0}[then], abs=1e-6)


def test_sweeps_start_from_collocated_solutions() -> None:
    polished = oc.solve(bounded(), oc.Collocation())
    sweeps = oc.solve(bounded(), oc.EMSA(), mesh=100, initial_control=polished)
    assert sweeps.stats.iterations <= 10


@pytest.mark.parametrize(
    "control", [[0.2], torch.full((10, 1, 1), 0.2), lambda t: [0.2]], ids=["constant", "array", "function"]
)
def test_controls_are_starts(control: Any) -> None:
    solution = oc.solve(bounded(), oc.Collocation(), initial_control=control)
    assert float(solution.cost) == pytest.approx(2.8733043, abs=1e-6)


def test_receding_horizon() -> None:
    """Shifted problems, each from the solution before: x follows the uncontrolled plant."""
    problem = van_der_pol_bounded.build(horizon=5.0).problem
    state, start, iterations = problem.initial_state[0], None, []
    for k in range(4):
        step = van_der_pol_bounded.build(horizon=5.0, t0=0.25 * k, initial_state=state).problem
        solution = oc.solve(step, oc.Collocation(), initial_control=start, tolerance=1e-6)
        assert bool(solution.success.all())
        torch.testing.assert_close(solution.x[0, 0], state)
        iterations.append(solution.stats.iterations)
        state, start = solution.state([0.25 * (k + 1)])[0, 0], solution
    assert max(iterations[1:]) <= iterations[0]
    assert float(state.norm()) < 1.0


# ------------------------------------------------------------------------------------------- limits and interruption


def test_callback_stops() -> None:
    seen: list[Any] = []

    def callback(k: int, iterate: Any) -> bool:
        seen.append((k, iterate))
        return k == 3

    solution = oc.solve(bounded(), oc.Collocation(), callback=callback)
    assert solution.status == [Status.STOPPED]
    assert [k for k, _ in seen] == [1, 2, 3]
    assert torch.isfinite(solution.x).all()


def test_callback_sees_iterates() -> None:
    seen: list[Any] = []
    solution = oc.solve(bounded(), oc.Collocation(), callback=lambda k, iterate: seen.append((k, iterate)))
    assert [k for k, _ in seen] == list(range(1, len(seen) + 1))
    for _, iterate in seen:
        N = iterate.u.shape[0]
        assert iterate.x.shape == iterate.p.shape == (N + 1, 1, 2)
        assert iterate.u.shape == (N, 1, 1)
        assert iterate.cost.shape == iterate.residual.shape == (1,)
    assert float(seen[-1][1].cost) == pytest.approx(float(solution.cost), abs=1e-6)


def test_a_callback_sees_all_of_a_batch_as_they_are() -> None:
    """Also those that take longer than the others."""
    states = torch.tensor([[0.0, 1.0]]) * torch.tensor([*[0.1] * 11, 3.0])[:, None]
    seen: list[Any] = []
    problem = van_der_pol_bounded.build(initial_state=states).problem
    batch = oc.solve(problem, oc.Collocation(), callback=lambda _, iterate: seen.append(iterate))
    N = seen[-1].u.shape[0]
    final = [iterate for iterate in seen if iterate.u.shape[0] == N]
    torch.testing.assert_close(final[-1].x, batch.x)
    torch.testing.assert_close(final[-1].cost, batch.cost)
    assert not torch.equal(final[-1].x[:, -1], final[-2].x[:, -1])


def test_keyboard_interrupt_in_a_callback_returns_what_there_is() -> None:
    def callback(k: int, iterate: Any) -> None:
        if k == 4:
            raise KeyboardInterrupt

    solution = solve_quietly(bounded(), oc.Collocation(), callback=callback)
    assert solution.status == [Status.INTERRUPTED]
    assert torch.isfinite(solution.x).all()
    assert solution.stats.iterations >= 3


@pytest.mark.parametrize("warm", [False, True])
def test_keyboard_interrupt_at_any_look_at_the_clock(monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    """There is a whole iterate, or there was none yet."""
    problem, real = bounded(), Stop.late
    start = oc.solve(problem, oc.Collocation(), tolerance=1e-6) if warm else None
    other = changed(problem, initial_state=1.05 * problem.initial_state)
    ended = []
    for n in range(1, 9):
        looks = iter(range(1, 1000))

        def late(self: Stop, looks: Any = looks, n: int = n) -> bool:
            if next(looks) == n:
                raise KeyboardInterrupt
            return real(self)

        with monkeypatch.context() as patch:
            patch.setattr(Stop, "late", late)
            try:
                solution = solve_quietly(other, oc.Collocation(), tolerance=1e-6, initial_control=start)
            except KeyboardInterrupt:
                continue
        ended += solution.status
        assert torch.isfinite(solution.x).all()
        assert len(solution.history.cost) == solution.stats.iterations + 1
    assert Status.INTERRUPTED in ended
    assert set(ended) <= {Status.INTERRUPTED, Status.CONVERGED}


class Failing:
    """Dynamics that raise at one of their calls."""

    def __init__(self, function: Callable[..., Tensor], call: int, error: BaseException) -> None:
        self.function, self.call, self.error, self.count = function, call, error, 0

    def __call__(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        self.count += 1
        if self.count == self.call:
            raise self.error
        bool(torch.isfinite(x).all())  # what looks at values cannot be traced, so it is called again and again
        return self.function(t, x, u)


def failing(call: int, error: BaseException) -> tuple[oc.OptimalControlProblem, Failing]:
    base = bounded()
    dynamics = Failing(base.dynamics, call, error)
    problem = oc.OptimalControlProblem(
        dynamics,
        base.running_cost,
        initial_state=base.initial_state,
        horizon=base.horizon,
        control_set=base.control_set,
    )
    return problem, dynamics


def calls(solver: oc.Solver | None) -> int:
    """How often a run calls its dynamics."""
    problem, dynamics = failing(0, RuntimeError())
    oc.solve(problem, solver)
    return dynamics.count


@pytest.mark.parametrize("solver", [oc.Collocation(), None], ids=["Collocation", "default"])
def test_keyboard_interrupt_on_the_way_returns_what_there_is(solver: oc.Solver | None) -> None:
    call = int(0.95 * calls(solver))
    problem, dynamics = failing(call, KeyboardInterrupt())
    try:
        solution = solve_quietly(problem, solver)
    except KeyboardInterrupt:
        pytest.fail("the interrupt came through")
    assert solution.status == [Status.INTERRUPTED]
    assert dynamics.count <= call + 20  # the certificate's look at the end, but no other solver


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_exceptions_in_user_code_pass_through(share: float) -> None:
    problem, _ = failing(1 + int(share * calls(oc.Collocation())), RuntimeError("mine"))
    with pytest.raises(RuntimeError, match="mine") as caught:
        oc.solve(problem, oc.Collocation())
    assert "dynamics" in "".join(caught.value.__notes__)


def test_exceptions_in_constraints_pass_through() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ZeroDivisionError("in the constraint")

    with pytest.raises(ZeroDivisionError, match="in the constraint") as caught:
        oc.solve(ramp(terminal_constraint=oc.Constraint(broken)), oc.Collocation())
    assert "terminal_constraint" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_iterations_are_limited(count: int) -> None:
    with pytest.warns(oc.ConvergenceWarning, match="MAX_ITERATIONS"):
        solution = oc.solve(bounded(), oc.Collocation(), max_iterations=count)
    assert solution.status == [Status.MAX_ITERATIONS]
    assert solution.stats.iterations == count
    again = oc.solve(bounded(), oc.Collocation(), initial_control=solution)
    assert float(again.cost) == pytest.approx(2.8733043, abs=1e-6)


def test_time_is_limited() -> None:
    solution = solve_quietly(bryson_denham.build().problem, oc.Collocation(), max_seconds=0.0)
    assert solution.status == [Status.MAX_SECONDS]
    assert torch.isfinite(solution.x).all()


def test_strict_runs_raise_with_the_solution() -> None:
    with pytest.raises(oc.SolveError, match="MAX_ITERATIONS") as caught:
        oc.solve(bounded(), oc.Collocation(), max_iterations=2, strict=True)
    assert caught.value.solution.stats.iterations == 2


def test_without_a_tolerance_the_run_is_completed() -> None:
    solution = oc.solve(bounded(), oc.Collocation(), tolerance=None)
    assert solution.status == [Status.COMPLETED]
    assert float(solution.cost) == pytest.approx(2.8733043, abs=1e-6)


def test_smaller_tolerances_give_smaller_errors() -> None:
    reference = scalar_lqr.build(horizon=8.0)
    assert reference.cost is not None
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        solution = oc.solve(reference.problem, oc.Collocation(), tolerance=tolerance)
        assert abs(float(solution.cost) - reference.cost) <= tolerance
        assert bool((solution.residual <= tolerance).all())


def test_largest_mesh_is_kept() -> None:
    solution = solve_quietly(bounded(), oc.Collocation(max_intervals=30), tolerance=1e-12)
    assert solution.u.shape[0] <= 30 + 3 * 4 + 1  # and the nodes that enclose switches


def test_progress_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    oc.solve(minimum_energy.build().problem, oc.Collocation(), progress=True)
    assert "Collocation" in capfd.readouterr().err


def test_nothing_is_printed_without_progress(capfd: pytest.CaptureFixture[str]) -> None:
    oc.solve(minimum_energy.build().problem, oc.Collocation())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# ---------------------------------------------------------------------------------------- what one does with a solution


def test_files_keep_everything(tmp_path: Path) -> None:
    problem = bryson_denham.build().problem
    solution = oc.solve(problem, oc.Collocation())
    solution.save(tmp_path / "solution.npz")
    again = oc.load(tmp_path / "solution.npz", problem)
    times = torch.linspace(0.0, 1.0, 23, dtype=torch.float64)
    for name in ("state", "costate", "control"):
        assert torch.equal(getattr(again, name)(times), getattr(solution, name)(times))
    for name in ("path_constraint", "terminal_constraint"):
        assert torch.equal(again.multipliers[name], solution.multipliers[name])
        assert torch.equal(again.violations[name], solution.violations[name])
    assert again.switches == solution.switches
    assert again.status == solution.status
    torch.testing.assert_close(again.certificate.mean_gap, solution.certificate.mean_gap)
    warm = oc.solve(problem, oc.Collocation(), initial_control=again)
    assert float(warm.cost) == pytest.approx(4.0, abs=1e-6)


def test_resimulation_of_a_batch_confirms_the_costs() -> None:
    problem = van_der_pol.build(initial_state=[[1.0, 0.0], [0.5, 0.5]]).problem
    solution = oc.solve(problem, oc.Collocation())
    torch.testing.assert_close(solution.resimulate(PRECISE), solution.cost, rtol=0.0, atol=1e-7)
    assert bool(
        ((solution.resimulate(PRECISE) - solution.cost).abs() <= 1.01 * solution.certificate.cost_error + 1e-11).all()
    )


@pytest.mark.parametrize("build", [van_der_pol_bounded.build, bryson_denham.build, minimum_time.build])
def test_solutions_are_drawn_and_told(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    solution = oc.solve(build().problem, oc.Collocation())
    figure = solution.plot()
    assert len(figure.axes) >= 4
    plt.close(figure)
    text = str(solution)
    for word in ("CONVERGED", "cost J", "3 Gauss points", "certificate", *solution.violations):
        assert word.replace("_", " ") in text
    if solution.switches[0]:
        assert "switches" in text


def test_runs_are_repeatable_up_to_rounding() -> None:
    first, second = (oc.solve(bounded(), oc.Collocation()) for _ in range(2))
    torch.testing.assert_close(first.t, second.t, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(first.x, second.x, rtol=0.0, atol=1e-9)


def test_scaling_of_the_cost_scales_costates_and_multipliers() -> None:
    base = bryson_denham.build().problem
    running = base.running_cost
    assert running is not None
    factor = 1e3
    scaled = oc.OptimalControlProblem(
        base.dynamics,
        lambda t, x, u: factor * running(t, x, u),
        initial_state=base.initial_state,
        horizon=base.horizon,
        control_set=base.control_set,
        terminal_constraint=base.terminal_constraint,
        path_constraint=base.path_constraint,
    )
    one, other = (oc.solve(problem, oc.Collocation()) for problem in (base, scaled))
    times = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    assert float(other.cost) == pytest.approx(factor * float(one.cost), rel=1e-7)
    torch.testing.assert_close(other.control(times), one.control(times), rtol=0.0, atol=1e-3)
    nu = [solution.multipliers["terminal_constraint"] for solution in (one, other)]
    torch.testing.assert_close(nu[1], factor * nu[0], rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------- the default solver


def test_default_is_collocation_for_boxes_in_double_precision() -> None:
    assert oc.solve(bounded()).solver.startswith("Collocation(")
    assert oc.solve(regulator(control_set=oc.Product(oc.Box(-1.0, 1.0)))).solver.startswith("Collocation(")
    assert oc.solve(ramp(terminal_constraint=reach(1.0))).solver.startswith("Collocation(")


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": 10},
        {"integrator": oc.RK4()},
        {"adjoint": oc.DiscreteAdjoint()},
        {"tolerance": None, "max_iterations": 2},
    ],
)
def test_default_is_sweeps_where_a_discretization_is_named(options: dict[str, Any]) -> None:
    assert oc.solve(regulator(), **options).solver.startswith("EMSA(")


def test_default_is_sweeps_for_other_sets_and_precisions() -> None:
    assert oc.solve(regulator(dtype=torch.float32)).solver.startswith("EMSA(")
    assert solve_quietly(regulator(control_set=oc.FiniteSet([[-1.0], [0.0]]))).solver.startswith("EMSA(")


def test_default_starts_from_solutions_of_any_kind() -> None:
    sweeps = oc.solve(bounded(), mesh=50)
    warm = oc.solve(bounded(), initial_control=sweeps)
    assert float(warm.cost) == pytest.approx(2.8733043, abs=1e-6)


# ------------------------------------------------------------------------------------------------------- bad input


def test_arguments_of_the_solver_are_checked() -> None:
    with pytest.raises(oc.InputError, match="Collocation stages"):
        oc.Collocation(stages=0)
    with pytest.raises(oc.InputError, match="Collocation max_intervals"):
        oc.Collocation(max_intervals=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "control_set", [oc.FiniteSet([[-1.0], [1.0]]), oc.Product(oc.Ball(1.0, 1), oc.FiniteSet([[0.0]]))]
)
def test_sets_that_are_no_boxes_are_refused_with_advice(control_set: oc.ControlSet) -> None:
    with pytest.raises(oc.UnsupportedError, match=r"expected an Unconstrained set, a Box or a Ball.*Relax.*oc\.EMSA"):
        oc.solve(ramp(control_set=control_set), oc.Collocation())


@pytest.mark.parametrize("options", [{"integrator": oc.RK4()}, {"adjoint": oc.ContinuousAdjoint()}])
def test_integrators_and_adjoints_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(oc.UnsupportedError, match=r"expected None: it is a method of its own.*Leave it out"):
        oc.solve(ramp(), oc.Collocation(), **options)


def test_something_else_than_a_problem_is_refused() -> None:
    with pytest.raises(oc.UnsupportedError, match="expected an OptimalControlProblem, got str"):
        oc.solve("minimize", oc.Collocation())


@pytest.mark.parametrize("solver", [oc.Collocation(), None], ids=["Collocation", "default"])
@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            {"terminal_constraint": oc.Constraint(lambda x: x[..., 0])},
            "terminal_constraint: expected shape .*last axis",
        ),
        ({"path_constraint": oc.Constraint(lambda t, x: x[..., 0])}, "path_constraint: expected shape .*last axis"),
        ({"terminal_constraint": reach([0.0, 1.0])}, "terminal_constraint: expected shape .*bounds have 2 components"),
        (
            {"path_constraint": oc.Constraint(lambda t, x, u: u, [0.0, 0.0], [1.0, 1.0])},
            "path_constraint: expected shape",
        ),
        ({"terminal_constraint": oc.Constraint(lambda x: x.sum())}, "terminal_constraint: expected shape"),
        ({"terminal_constraint": oc.Constraint(lambda x: x.numpy())}, "terminal_constraint: expected a tensor"),
        ({"path_constraint": oc.Constraint(lambda t, x: x.float())}, "path_constraint: expected torch.float64"),
    ],
)
def test_constraints_of_the_wrong_shape_are_refused(parts: dict[str, Any], text: str, solver: oc.Solver | None) -> None:
    with pytest.raises((oc.ShapeError, oc.InputError), match=text):
        oc.solve(ramp(**parts), solver)


def test_contradictory_bounds_are_refused() -> None:
    with pytest.raises(oc.InputError, match="lower ≤ upper, got lower = 1, upper = 0"):
        reach(1.0, 0.0)
    with pytest.raises(oc.InputError, match="lower ≤ upper"):
        oc.Constraint(lambda t, x: x, [0.0, 3.0], [1.0, 2.0])


def test_final_times_with_crossing_bounds_are_refused() -> None:
    with pytest.raises(oc.InputError, match=r"FreeTime bounds: expected lower ≤ upper, got lower = 3"):
        oc.FreeTime(lower=3.0, upper=2.0)
    with pytest.raises(oc.InputError, match=r"may exceed t0, got t0 = 2, upper bound 1"):
        ramp(horizon=(2.0, oc.FreeTime(upper=1.0)))


def test_dynamics_that_are_never_finite_are_refused() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: math.nan * u, initial_state=[1.0], horizon=(0.0, 1.0), control_set=oc.Unconstrained(1)
    )
    with pytest.raises(oc.InputError, match="dynamics at the initial time and state: expected finite"):
        oc.solve(problem, oc.Collocation())


# --------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("solver", [oc.Collocation(), None], ids=["Collocation", "default"])
def test_ends_that_cannot_be_reached_are_named(solver: oc.Solver | None) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        effort,
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x.flip(-1), [0.0, 1.0], [0.0, 2.0]),  # speed, position
    )
    with pytest.warns(oc.ConvergenceWarning, match="INFEASIBLE: terminal_constraint component 1 is missed by 0.75"):
        solution = oc.solve(problem, solver)
    assert solution.status == [Status.INFEASIBLE]
    expected = torch.tensor([[0.0, 0.75]], dtype=torch.float64)  # rest to rest, at most ¼ is covered
    torch.testing.assert_close(solution.violations["terminal_constraint"], expected, rtol=0.0, atol=1e-3)


def test_ends_that_cannot_be_reached_in_any_time_are_named() -> None:
    problem = ramp(
        control_set=oc.Box(-1.0, 1.0), horizon=(0.0, oc.FreeTime(lower=0.5, upper=1.5)), terminal_constraint=reach(3.0)
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE]
    assert "terminal_constraint component 0 is missed by 1.5" in solution.message


def test_paths_that_cannot_be_followed_are_named_with_the_time() -> None:
    """x ≥ 2t with |u| ≤ 1: the violation grows to 1 at the end."""
    problem = ramp(
        control_set=oc.Box(-1.0, 1.0), path_constraint=oc.Constraint(lambda t, x: x - 2.0 * t[..., None], 0.0, math.inf)
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE]
    assert "path_constraint component 0 is violated by 0.99" in solution.message
    assert "at t = 0.99" in solution.message
    assert float(solution.violations["path_constraint"]) == pytest.approx(1.0, abs=1e-3)


def bottomless() -> oc.OptimalControlProblem:
    """x(1) may fall without end."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        None,
        lambda x: x[..., 0],
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


def test_problems_without_a_minimum_are_no_success() -> None:
    assert not bool(solve_quietly(bottomless(), oc.Collocation()).success.any())


def test_problems_without_a_minimum_are_not_called_nearly_solved() -> None:
    solution = solve_quietly(bottomless(), oc.Collocation())
    assert "of its minimum" not in solution.message
    assert float(solution.residual) > 1e-3


def test_hamiltonians_with_two_peaks() -> None:
    """L = (u² − 1)² + u/10 does not depend on x: u rests at the minimum of L, −1.012."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: (u[..., 0] ** 2 - 1.0) ** 2 + 0.1 * u[..., 0],
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-2.0, 2.0),
    )
    solution = solve_quietly(problem)
    assert float(solution.cost) == pytest.approx(float(oc.solve(problem, oc.EMSA()).cost), abs=1e-6)


@pytest.mark.parametrize("solver", [None, oc.Collocation()])
def test_a_very_short_way_to_rest_is_dear_and_not_infeasible(solver: oc.Collocation | None) -> None:
    # J = 6/T³: multipliers 10 orders larger than what is known of the size of J at first
    solution = oc.solve(minimum_energy_in(1e-3), solver)
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx(6e9, rel=1e-6)


@pytest.mark.parametrize("horizon", [0.1, 1.0, 10.0, 1000.0])
def test_horizons_of_any_length(horizon: float) -> None:
    solution = oc.solve(minimum_energy_in(horizon), oc.Collocation())
    assert float(solution.cost) == pytest.approx(6.0 / horizon**3, rel=1e-6)


def minimum_energy_in(horizon: float) -> oc.OptimalControlProblem:
    """From rest to rest over a way of one."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.cat((x[..., 1:], u), -1),
        effort,
        initial_state=[-1.0, 0.0],
        horizon=(0.0, horizon),
        control_set=oc.Unconstrained(1),
        terminal_constraint=oc.Constraint(lambda x: x),
    )


def test_dependent_constraints() -> None:
    """x(1) = 1 twice: the multipliers are not unique, their effect is."""
    problem = ramp(terminal_constraint=oc.Constraint(lambda x: torch.cat((x, 2.0 * x), -1), [1.0, 2.0], [1.0, 2.0]))
    solution = oc.solve(problem, oc.Collocation())
    assert float(solution.cost) == pytest.approx(0.5, abs=1e-8)
    nu = solution.multipliers["terminal_constraint"][0]
    assert float(nu[0] + 2.0 * nu[1]) == pytest.approx(-1.0, abs=1e-6)


def test_contradictory_constraints_are_named() -> None:
    problem = ramp(terminal_constraint=oc.Constraint(lambda x: torch.cat((x, 2.0 * x), -1), [1.0, 3.0], [1.0, 3.0]))
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE]
    # x is 1, in whose units 2 x counts half
    assert "terminal_constraint component 1 is missed by 1;" in solution.message


def test_starts_outside_a_path_constraint_are_named() -> None:
    problem = ramp(path_constraint=oc.Constraint(lambda t, x: x, 1.0, math.inf))
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE]
    assert "path_constraint component 0 is violated" in solution.message


def test_starts_outside_a_path_constraint_are_no_success() -> None:
    problem = ramp(path_constraint=oc.Constraint(lambda t, x: x, 1.0, math.inf))
    solution = solve_quietly(problem, oc.Collocation())
    assert not bool(solution.success.any())
    assert float(solution.violations["path_constraint"]) == pytest.approx(1.0, abs=1e-6)


def late_nan() -> oc.OptimalControlProblem:
    """Dynamics that are finite at the start alone."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u + torch.where(t > 0.5, math.nan, 0.0)[..., None],
        lambda t, x, u: u[..., 0] ** 2 + x[..., 0] ** 2,
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


def test_dynamics_that_are_not_finite_later_are_no_success() -> None:
    assert not bool(solve_quietly(late_nan(), oc.Collocation()).success.any())


def test_dynamics_that_are_not_finite_later_are_named() -> None:
    solution = solve_quietly(late_nan(), oc.Collocation())
    assert solution.status == [Status.NONFINITE]
    assert "dynamics" in solution.message


@pytest.mark.parametrize("solver", [oc.Collocation(), None], ids=["Collocation", "default"])
def test_trajectories_that_blow_up_without_a_control_are_solved(solver: oc.Solver | None) -> None:
    solution = oc.solve(cubic_growth([2.0]), solver)
    assert float(solution.resimulate(PRECISE)) == pytest.approx(float(solution.cost), abs=1e-6)


def test_trajectories_that_cannot_but_blow_up_are_no_success() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: x**2 + u,
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[2.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-0.1, 0.1),
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert not bool(solution.success.any())


def test_warnings_of_the_arithmetic_stay_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oc.solve(bounded(), oc.Collocation())
        oc.solve(cubic_growth([2.0]), oc.Collocation())


def test_kinks_and_several_bounded_controls_leave_a_gap_below_the_tolerance() -> None:
    """A flat quadrotor in least time, with drag v|v|: both controls are at bounds nearly all the time."""

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        _, _, angle, v, w, spin = x.unbind(-1)
        thrust, turn = u.unbind(-1)
        right = -thrust * torch.sin(angle) - 0.1 * v * v.abs()
        up = thrust * torch.cos(angle) - 9.81 - 0.1 * w * w.abs()
        return torch.stack((v, w, spin, right, up, turn), -1)

    problem = oc.OptimalControlProblem(
        dynamics,
        lambda t, x, u: torch.ones_like(x[..., 0]),
        initial_state=[0.0] * 6,
        horizon=(0.0, oc.FreeTime(2.0, 0.5, 10.0)),
        control_set=oc.Box([1.0, -10.0], [20.0, 10.0]),
        terminal_constraint=oc.Constraint(lambda x: x - x.new_tensor([4.0, 1.0, 0.0, 0.0, 0.0, 0.0])),
    )
    solution = oc.solve(problem, oc.Collocation())
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(1.74963825, abs=1e-7)


def test_derivatives_that_are_not_finite_are_named() -> None:
    """The norm of a control has none at zero, where the first guess is."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.cat((x[..., 2:], u), -1),
        lambda t, x, u: u.square().sum(-1).sqrt(),
        initial_state=[1.0, -1.0, 0.2, 0.0],
        horizon=(0.0, 5.0),
        control_set=oc.Box([-1.0, -1.0], [1.0, 1.0]),
        terminal_constraint=oc.Constraint(lambda x: x),
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status[0] is Status.NONFINITE
    assert re.search(r"derivatives .* not finite at t = .*, u = \[0, 0\], .* norm at zero", solution.notes[0])


def test_constraint_that_acts_for_a_moment() -> None:
    """Between resting on the bound and touching it, slacks are small where multipliers of bounds vanish."""
    base = bryson_denham.build().problem
    problem = oc.OptimalControlProblem(
        base.dynamics,
        base.running_cost,
        initial_state=[0.0, 1.1853237810879993],
        horizon=(0.0, 0.6057556629180908),
        control_set=base.control_set,
        terminal_constraint=base.terminal_constraint,
        path_constraint=base.path_constraint,
    )
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-6)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.certificate.cost_error) <= 1e-5
    assert solution.stats.iterations < 100
