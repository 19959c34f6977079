"""Constraints and free ends around solvers for free ends: closed forms, multipliers of theory, statuses, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import regulator, solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers.launch import Launch
from ocsolver.solvers.multipliers import Multipliers

Status = oc.Status
FREE = oc.Unconstrained(1)


def effort(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return 0.5 * u[..., 0] ** 2


def quadratic(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2)


def cart(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.cat((x[..., 1:], u), -1)


def to_rest(initial_state: Any = (-1.0, 0.0), **options: Any) -> oc.OptimalControlProblem:
    """B01: (−1, 0) → (0, 0) with the least effort."""
    options = {"horizon": (0.0, 1.0), "control_set": FREE, "terminal_constraint": oc.Constraint(lambda x: x)} | options
    return oc.OptimalControlProblem(cart, effort, initial_state=initial_state, **options)


def bryson_denham(limit: float) -> oc.OptimalControlProblem:
    """B05."""
    return to_rest(
        (0.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x, [0.0, -1.0], [0.0, -1.0]),
        path_constraint=oc.Constraint(lambda t, x: x[..., :1], -math.inf, limit),
    )


def scalar(dynamics: Any, cost: Any, start: float, end: float, **options: Any) -> oc.OptimalControlProblem:
    options = {"horizon": (0.0, 1.0), "control_set": FREE} | options
    constraint = oc.Constraint(lambda x: x, end, end)
    return oc.OptimalControlProblem(dynamics, cost, initial_state=[start], terminal_constraint=constraint, **options)


def oscillation() -> oc.OptimalControlProblem:
    """B29: a damped cart under a parabola."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - x[..., 1]), -1),
        lambda t, x, u: x.square().sum(-1) + 0.005 * u[..., 0] ** 2,
        initial_state=[0.0, -1.0],
        horizon=(0.0, 1.0),
        control_set=FREE,
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:] - 8 * (t[..., None] - 0.5) ** 2 + 0.5, -math.inf, 0.0),
    )


def exclusive_or() -> oc.OptimalControlProblem:
    """B37: four trajectories with one control, each on its side of a margin."""
    s, y = torch.tensor([[-2.0, 0.0, 0.0, 2.0], [-1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    features = torch.stack((torch.ones_like(s), torch.tanh(2 * (s + 1)), torch.tanh(2 * (s - 1))), -1)
    return oc.OptimalControlProblem(
        lambda t, x, u: (features * u).sum(-1, keepdim=True) - 0.4 * x,
        lambda t, x, u: u.square().sum(-1),
        initial_state=torch.zeros(4, 1, dtype=torch.float64),
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(3),
        shared_control=True,
        terminal_constraint=oc.Constraint(lambda x: y[:, None] * x, 1.0, math.inf),
    )


CASES = {
    "B01": (to_rest(), 6.0, 1e-3),
    "B02": (
        oc.OptimalControlProblem(
            cart,
            lambda t, x, u: torch.ones_like(x[..., 0]),
            initial_state=[-1.0, 0.0],
            horizon=(0.0, oc.FreeTime()),
            control_set=oc.Box(-1.0, 1.0),
            terminal_constraint=oc.Constraint(lambda x: x),
        ),
        2.0,
        1e-5,
    ),
    "B05": (bryson_denham(1 / 9), 4.0, 2e-3),
    "B09a": (scalar(lambda t, x, u: u - x, effort, -1.0, 0.0), 0.156517642749666, 1e-5),
    "B10": (
        scalar(lambda t, x, u: u, lambda t, x, u: 1 + quadratic(t, x, u), 0.0, 1.0, horizon=(0.0, oc.FreeTime())),
        1.52450435224685,
        1e-5,
    ),
    "B12": (
        oc.OptimalControlProblem(
            lambda t, x, u: u,
            lambda t, x, u: -u[..., 0],
            initial_state=[-1.0],
            horizon=(0.0, 1.0),
            control_set=oc.Box(0.0, math.inf),
            path_constraint=oc.Constraint(lambda t, x, u: x + u, -math.inf, 0.0),
        ),
        math.exp(-1.0) - 1.0,
        3e-3,
    ),
    "B29": (oscillation(), 0.1698205, 1e-3),
    "B35": (scalar(lambda t, x, u: u, quadratic, 1.0, 0.5, horizon=(0.0, 2.0)), 0.510461418068826, 1e-4),
    "B37": (exclusive_or(), 4.81171310770846, 1e-4),
}


LONG = "B02", "B05", "B29"  # state constraints, and the double integrator in minimal time


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in LONG else case for case in CASES]
)
def test_references(case: str) -> None:
    problem, cost, accuracy = CASES[case]
    solution = oc.solve(problem, oc.AugmentedLagrangian())
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(cost, rel=accuracy)  # the error of controls constant on 100 intervals
    assert set(solution.violations) == {name for name in problem.restrictions if "constraint" in name}
    assert all(float(worst.max()) <= 5e-6 for worst in solution.violations.values())  # between the points too
    assert solution.problem is problem
    assert solution.residual.shape == (1,)
    assert float(solution.resimulate(oc.RK4())) == pytest.approx(float(solution.cost), rel=1e-6)


def test_error_of_the_mesh_is_of_second_order() -> None:
    errors = [float(oc.solve(to_rest(), oc.AugmentedLagrangian(), mesh=N).cost) - 6.0 for N in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.slow
def test_multipliers_are_sensitivities_of_the_cost() -> None:
    """J*(a) for x(2) = a: the derivative of the Lagrangian J + λ (x − a) in a is −λ."""

    def solved(a: float) -> oc.Solution:
        problem = scalar(lambda t, x, u: u, quadratic, 1.0, a, horizon=(0.0, 2.0))
        return oc.solve(problem, oc.AugmentedLagrangian(feasibility=1e-9))

    slope = (float(solved(0.501).cost) - float(solved(0.499).cost)) / 0.002
    solution = solved(0.5)
    multiplier = solution.multipliers["terminal_constraint"]
    assert multiplier.shape == (1, 1)
    assert float(multiplier) == pytest.approx(-slope, rel=1e-4)
    assert float(solution.p[-1]) == pytest.approx(-float(multiplier), rel=1e-4)  # p(t1) = −∇Φ − λ


@pytest.mark.slow
def test_path_multipliers_have_their_sign_and_are_complementary() -> None:
    solution = oc.solve(oscillation(), oc.AugmentedLagrangian())
    nu, middle = solution.multipliers["path_constraint"], solution.t[:-1] + 0.5 * solution.t.diff(dim=0)
    assert nu.shape == (100, 1, 1)
    assert float(nu.min()) >= 0.0
    away = (middle[:, 0] < 0.2) | (middle[:, 0] > 0.8)
    assert float(nu[away].max()) <= 1e-3 * float(nu.max())


def test_inequalities_that_do_not_bind_change_nothing() -> None:
    problem = regulator()
    bounded = oc.OptimalControlProblem(
        problem.dynamics,
        problem.running_cost,
        initial_state=problem.initial_state,
        horizon=problem.horizon,
        control_set=problem.control_set,
        terminal_constraint=oc.Constraint(lambda x: x, -5.0, 5.0),
    )
    constrained, free = oc.solve(bounded, oc.AugmentedLagrangian()), oc.solve(problem, oc.EMSA())
    torch.testing.assert_close(constrained.u, free.u, rtol=0.0, atol=1e-4)
    assert float(constrained.multipliers["terminal_constraint"].abs().max()) == 0.0


def test_problem_without_constraints_goes_to_the_inner_solver() -> None:
    solution = oc.solve(regulator(), oc.AugmentedLagrangian(oc.MSA()))
    assert solution.solver == repr(oc.MSA())


@pytest.mark.parametrize(
    "inner", [oc.SQH(), oc.DirectShooting(), oc.EMSA(accelerate=False), oc.Anderson(oc.EMSA(rho=1.0))]
)
def test_other_inner_solvers(inner: oc.Solver) -> None:
    problem = scalar(lambda t, x, u: u - x, effort, -1.0, 0.0)
    solution = oc.solve(problem, oc.AugmentedLagrangian(inner, feasibility=1e-4), mesh=20, tolerance=1e-6)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(0.1565, rel=2e-3)


def test_groups_have_their_own_multipliers_and_statuses() -> None:
    """J* = 6 d² for a distance d; nobody can travel beyond |u| ≤ 8, i.e. distance 2 in unit time."""
    starts = [[-1.0, 0.0], [-0.5, 0.0], [-5.0, 0.0]]
    problem = to_rest(starts, control_set=oc.Box(-8.0, 8.0))
    solution = solve_quietly(problem, oc.AugmentedLagrangian(), mesh=30)
    assert solution.status == [Status.CONVERGED, Status.CONVERGED, Status.INFEASIBLE]
    torch.testing.assert_close(solution.cost[:2], torch.tensor([6.0, 1.5]).to(solution.cost), rtol=1e-2, atol=0.0)
    assert solution.multipliers["terminal_constraint"].shape == (3, 2)
    assert "terminal_constraint, component 0 of trajectory 2, is violated by" in solution.message
    alone = oc.solve(to_rest([starts[1]], control_set=oc.Box(-8.0, 8.0)), oc.AugmentedLagrangian(), mesh=30)
    torch.testing.assert_close(alone.cost, solution.cost[1:2], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ free starts


def test_free_initial_state_is_found() -> None:
    """min ½∫u² + ½(x(0) − 2)² + … : x' = u, ½∫(x² + u²) with x(0) in [0.5, 2]: the smallest start wins."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        quadratic,
        initial_state=oc.FreeInitialState([1.0], [0.5], [2.0]),
        horizon=(0.0, 1.0),
        control_set=FREE,
    )
    solution = oc.solve(problem, oc.AugmentedLagrangian())
    assert solution.status == [Status.CONVERGED]
    assert float(solution.x[0]) == pytest.approx(0.5, abs=1e-9)
    assert float(solution.cost) == pytest.approx(0.25 * 0.5 * math.tanh(1.0), rel=1e-4)
    assert solution.x.shape == (101, 1, 1)
    assert solution.u.shape == (100, 1, 1)


def test_free_components_satisfy_transversality() -> None:
    """A cart that reaches rest at 0 from x(0) = −1 with any speed: u = −3t, J* = 3/2, and p_v(0) = 0."""
    free = oc.FreeInitialState([-1.0, 0.0], [-1.0, -math.inf], [-1.0, math.inf])
    solution = oc.solve(to_rest(free), oc.AugmentedLagrangian())
    assert solution.status == [Status.CONVERGED]
    assert float(solution.x[0, 0, 0]) == -1.0
    assert float(solution.p[0, 0, 1]) == pytest.approx(0.0, abs=1e-5)
    assert float(solution.x[0, 0, 1]) == pytest.approx(1.5, rel=1e-3)  # u = −3t
    assert float(solution.cost) == pytest.approx(1.5, rel=1e-3)


def test_shared_control_launches_every_trajectory() -> None:
    """Two trajectories, one control: both start where nothing has to be done."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u.expand(x.shape),
        lambda t, x, u: 1.0 + (x[..., 0] - torch.tensor([1.0, 3.0]).to(x)) ** 2 + u[..., 0] ** 2,
        initial_state=oc.FreeInitialState([[0.0], [0.0]]),
        horizon=(0.0, 1.0),
        control_set=FREE,
        shared_control=True,
    )
    solution = oc.solve(problem, oc.AugmentedLagrangian(), mesh=10)
    assert bool(solution.success.all())
    torch.testing.assert_close(solution.x[0, :, 0], torch.tensor([1.0, 3.0]).to(solution.x), rtol=1e-5, atol=1e-5)
    assert float(solution.cost) == pytest.approx(1.0, abs=1e-8)


def test_launch_leaves_the_problem_alone() -> None:
    """With the center as start the launched problem costs what the problem costs."""
    free = oc.FreeInitialState([-1.0, 0.3], [-1.0, -1.0], [-1.0, 1.0])
    problem = oc.OptimalControlProblem(
        cart, effort, initial_state=free, horizon=(0.5, 1.5), control_set=oc.Box(1.0, 2.0)
    )
    launch = Launch(problem, free.guess, torch.ones_like(free.guess), oc.Mesh.uniform(5))
    u = torch.full((5, 1, 1), 1.5, dtype=torch.float64)
    launched = oc.solve(
        launch.launched, mesh=launch.launched_mesh, initial_control=launch.control(u), max_iterations=0, tolerance=None
    )
    assert launched.x.shape == (7, 1, 2)
    torch.testing.assert_close(launched.x[1], free.guess)
    assert float(launched.cost) == pytest.approx(0.5 * 1.5**2)


def test_free_time_gives_a_solution_in_its_own_time() -> None:
    problem, _, _ = CASES["B10"]
    solution = oc.solve(problem, oc.AugmentedLagrangian())
    assert float(solution.t[0]) == 0.0
    assert float(solution.t[-1]) == pytest.approx(0.658478948462408, abs=1e-4)
    again = oc.solve(problem, oc.AugmentedLagrangian(), initial_control=solution)
    assert again.stats.iterations < solution.stats.iterations
    assert float(again.t[-1]) == pytest.approx(float(solution.t[-1]), abs=1e-5)


# --------------------------------------------------------------------------------------------- failure and refusals


def test_infeasible_path_constraint_names_itself_and_its_time() -> None:
    """x' = u, |u| ≤ 1 from 0, but x ≥ 2t is asked for: worst at t = 1."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        effort,
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
        path_constraint=oc.Constraint(lambda t, x: x - 2.0 * t[..., None], 0.0, math.inf),
    )
    solution = solve_quietly(problem, oc.AugmentedLagrangian(), mesh=20)
    assert solution.status == [Status.INFEASIBLE]
    assert not bool(solution.success)
    assert "path_constraint, component 0 of trajectory 0, is violated by 1 at t = 1" in solution.message
    with pytest.raises(oc.SolveError, match="is violated by 1 at t = 1"):
        oc.solve(problem, oc.AugmentedLagrangian(), mesh=20, strict=True)


def test_limits_hold_for_all_rounds_together() -> None:
    solution = solve_quietly(to_rest(), oc.AugmentedLagrangian(), max_iterations=7)
    assert solution.status == [Status.MAX_ITERATIONS]
    assert solution.stats.iterations <= 7
    assert "is violated by" in solution.message
    assert solution.history.cost.shape[1] == 1
    assert solve_quietly(to_rest(), oc.AugmentedLagrangian(), max_seconds=0.0).status == [Status.MAX_SECONDS]
    assert oc.solve(to_rest(), oc.AugmentedLagrangian(), callback=lambda k, iterate: True).status == [Status.STOPPED]
    counted = oc.solve(to_rest(), oc.AugmentedLagrangian(), max_iterations=40, tolerance=None)
    assert counted.status == [Status.COMPLETED]
    assert counted.stats.iterations == 40


def test_constraint_of_the_wrong_shape() -> None:
    problem = to_rest(terminal_constraint=oc.Constraint(lambda x: x[..., 0]))
    with pytest.raises(oc.ShapeError, match="terminal_constraint: expected shape"):
        oc.solve(problem, oc.AugmentedLagrangian())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"solver": 3}, "AugmentedLagrangian solver: expected a Solver, got 3"),
        ({"feasibility": 0.0}, "AugmentedLagrangian feasibility: expected a number above 0, got 0.0"),
        ({"growth": 1.0}, "AugmentedLagrangian growth: expected a number above 1, got 1.0"),
        ({"rounds": 0}, "AugmentedLagrangian rounds: expected an int ≥ 1, got 0"),
    ],
)
def test_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text):
        oc.AugmentedLagrangian(**arguments)


def test_refuses_what_it_cannot_state() -> None:
    discrete = to_rest(
        oc.FreeInitialState([-1.0, 0.0], [-1.0, -1.0], [-1.0, 1.0]), control_set=oc.FiniteSet([-1.0, 1.0])
    )
    with pytest.raises(oc.UnsupportedError, match="a free start or final time with a discrete control set"):
        oc.solve(discrete, oc.AugmentedLagrangian())
    shared = to_rest([[-1.0, 0.0], [1.0, 0.0]], shared_control=True, horizon=(0.0, oc.FreeTime()))
    with pytest.raises(oc.UnsupportedError, match="several trajectories that share a control"):
        oc.solve(shared, oc.AugmentedLagrangian())


def test_price_is_the_augmented_lagrangian() -> None:
    """ψ and its derivative by hand for an equality, an active and an inactive inequality, a range."""
    constraint = oc.Constraint(lambda x: x, [0.0, -math.inf, -math.inf, -1.0], [0.0, 0.5, 0.5, 1.0])
    problem = oc.OptimalControlProblem(
        lambda t, x, u: 0.0 * x, initial_state=torch.zeros(1, 4).double(), horizon=(0.0, 1.0), control_set=FREE,
        terminal_constraint=constraint,
    )  # fmt: skip
    multiplier = torch.tensor([[0.3, 0.2, 0.2, -0.4]], dtype=torch.float64)
    nodes, r = torch.linspace(0.0, 1.0, 3, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    prices = Multipliers(problem, nodes, r, multiplier, None)
    x = torch.tensor([[0.1, 0.6, -3.0, -0.9]], dtype=torch.float64, requires_grad=True)
    cost = prices.priced().terminal_cost
    assert cost is not None
    value = cost(x)
    expected = (0.3 * 0.1 + 0.1**2) + (0.2 * 0.1 + 0.1**2) + (-(0.2**2) / 4) + (-0.4 * 0.1 + 0.1**2)
    assert float(value.detach()) == pytest.approx(expected)
    (slope,) = torch.autograd.grad(value.sum(), x)
    path = x.detach().expand(3, 1, 4)
    updated = prices.judge(path, torch.zeros(2, 1, 1, dtype=torch.float64)).updated.terminal
    torch.testing.assert_close(slope, updated)  # the new multiplier is the slope of the price
