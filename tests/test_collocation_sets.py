"""Collocation with round control sets: balls, and their products with boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.boxed import in_a_box


def plane(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """A point in the plane that is accelerated by u."""
    return torch.cat((x[..., 2:], u.expand_as(x[..., 2:])), -1)


def one(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.ones_like(x[..., 0])


def energy(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return 0.05 * u.square().sum(-1) + x.square().sum(-1)


def to_rest(end: list[float]) -> oc.Constraint:
    return oc.Constraint(lambda x: x - x.new_tensor(end))


def fastest(end: list[float]) -> oc.OptimalControlProblem:
    return oc.OptimalControlProblem(
        plane,
        one,
        initial_state=[0.0, 0.0, 0.0, 0.0],
        horizon=(0.0, oc.FreeTime()),
        control_set=oc.Ball(1.0, 2),
        terminal_constraint=to_rest(end),
    )


def test_steepest_ascent_on_a_disc_is_exact() -> None:
    # ẋ = u, J = −3 x₁ − 4 x₂ at the end: u = r (3, 4)/5 all the way and J = −5 r
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        terminal_cost=lambda x: -3.0 * x[..., 0] - 4.0 * x[..., 1],
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Ball(2.0, 2),
    )
    solution = oc.solve(problem)
    assert solution.success.all()
    assert "Collocation" in solution.solver
    assert float(solution.cost) == pytest.approx(-10.0, abs=1e-8)
    torch.testing.assert_close(solution.u, solution.u.new_tensor([1.2, 1.6]).expand_as(solution.u), atol=1e-6, rtol=0)


def test_fastest_way_to_rest_accelerates_and_brakes_along_the_line() -> None:
    solution = oc.solve(fastest([0.6, 0.8, 0.0, 0.0]))
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("start", [[1.0, 0.5, -0.2, 0.0], [0.1, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
def test_a_regulator_with_bounded_thrust_is_certified(start: list[float]) -> None:
    problem = oc.OptimalControlProblem(
        plane, energy, initial_state=start, horizon=(0.0, 4.0), control_set=oc.Ball(1.0, 2)
    )
    solution = oc.solve(problem)
    assert solution.success.all()
    assert solution.stats.iterations <= 100
    assert float(solution.certificate.mean_gap.max()) <= 1e-7
    assert float(torch.linalg.vector_norm(solution.control(torch.linspace(0, 4, 401)), dim=-1).max()) <= 1.0 + 1e-12


def test_a_turning_thrust_costs_what_two_bounds_alone_would_not_allow() -> None:
    ball = oc.solve(fastest([1.0, 0.5, 0.2, 0.0]))
    assert ball.success.all()
    assert float(ball.certificate.mean_gap.max()) <= 1e-6
    assert not any(ball.singular[0]), "a component that vanishes while the other is at the rim is not singular"
    side = oc.Box([-1.0, -1.0], [1.0, 1.0])
    inner = oc.Box([-math.sqrt(0.5)] * 2, [math.sqrt(0.5)] * 2)
    larger, smaller = (
        oc.solve(
            oc.OptimalControlProblem(
                plane,
                one,
                initial_state=[0.0, 0.0, 0.0, 0.0],
                horizon=(0.0, oc.FreeTime()),
                control_set=box,
                terminal_constraint=to_rest([1.0, 0.5, 0.2, 0.0]),
            )
        )
        for box in (side, inner)
    )
    assert float(larger.cost) < float(ball.cost) < float(smaller.cost)


def test_a_ball_of_one_dimension_is_a_box() -> None:
    ball, box = (
        oc.solve(
            oc.OptimalControlProblem(
                lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
                lambda t, x, u: x.square().sum(-1) + 0.1 * u[..., 0].square(),
                initial_state=[1.0, 0.0],
                horizon=(0.0, 3.0),
                control_set=control_set,
            )
        )
        for control_set in (oc.Ball(0.7, 1), oc.Box(-0.7, 0.7))
    )
    assert ball.success.all()
    assert float(ball.cost) == pytest.approx(float(box.cost), abs=1e-7)


def test_a_warm_start_knows_the_multipliers_of_the_rim() -> None:
    problem = fastest([1.0, 0.5, 0.2, 0.0])
    cold = oc.solve(problem)
    warm = oc.solve(problem, initial_control=cold)
    assert warm.success.all()
    assert warm.stats.iterations < 0.6 * cold.stats.iterations
    assert float(warm.cost) == pytest.approx(float(cold.cost), abs=1e-7)


def test_products_of_balls_and_boxes_with_a_path_constraint() -> None:
    def twice(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.stack((u[..., 0], u[..., 1] * u[..., 2]), -1)

    problem = oc.OptimalControlProblem(
        twice,
        terminal_cost=lambda x: -x.sum(-1),
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Product(oc.Ball(1.0, 2), oc.Box([0.5], [1.0])),
        path_constraint=oc.Constraint(lambda t, x: x[..., :1], -torch.inf, 0.6),
    )
    solution = oc.solve(problem)
    # x₁ stops at 0.6, so u₁ = 0.6 on average, and u₂ = √(1 − u₁²) is concave in it: constant controls are best
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx(-1.4, abs=1e-6)
    assert float(solution.violations["path_constraint"].max()) <= 1e-7, "it is first met at the very end"
    assert solution.multipliers["path_constraint"].shape[-1] == 1
    assert solution.violations["path_constraint"].shape[-1] == 1


def test_every_trajectory_of_a_batch_has_its_own_ball() -> None:
    starts = [[1.0, 0.5, -0.2, 0.0], [0.1, 0.0, 0.0, 0.0]]
    together = oc.solve(
        oc.OptimalControlProblem(plane, energy, initial_state=starts, horizon=(0.0, 4.0), control_set=oc.Ball(1.0, 2))
    )
    alone = [
        oc.solve(
            oc.OptimalControlProblem(plane, energy, initial_state=x, horizon=(0.0, 4.0), control_set=oc.Ball(1.0, 2))
        )
        for x in starts
    ]
    assert together.success.all()
    torch.testing.assert_close(together.cost, torch.cat([s.cost for s in alone]), atol=1e-7, rtol=0)


def test_what_cannot_be_reached_from_a_ball_is_said_to_miss_the_end() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: u.square().sum(-1),
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Ball(1.0, 2),
        terminal_constraint=to_rest([2.0, 0.0]),
    )
    with pytest.warns(oc.ConvergenceWarning, match="terminal_constraint component 0 is missed|the control set is"):
        solution = oc.solve(problem)
    assert solution.status == [oc.Status.INFEASIBLE]


def test_the_box_around_a_set_keeps_the_path_constraints_of_the_problem() -> None:
    problem = oc.OptimalControlProblem(
        plane,
        energy,
        initial_state=[1.0, 0.0, 0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Ball(0.5, 2),
        path_constraint=oc.Constraint(lambda t, x: x[..., 2:], -1.0, 2.0),
    )
    boxed = in_a_box(problem)
    assert boxed is not None
    t, x, u = torch.zeros(1, dtype=torch.float64), problem.initial_state, problem.initial_state.new_tensor([[0.3, 0.4]])
    assert boxed.path_constraint is not None
    torch.testing.assert_close(boxed.path_constraint.path(t, x, u), x.new_tensor([[0.0, 0.0, 0.0]]))
    assert boxed.path_constraint.lower.tolist() == [-1.0, -1.0, -math.inf]
    assert boxed.path_constraint.upper.tolist() == [2.0, 2.0, 0.0]
    assert in_a_box(boxed) is boxed


def test_finite_sets_have_no_box_around() -> None:
    points = oc.FiniteSet([[-1.0], [1.0]])
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u, energy, initial_state=[1.0], horizon=(0.0, 1.0), control_set=oc.Product(points, points)
    )
    assert in_a_box(problem) is None


@pytest.mark.parametrize("control_set", [oc.Ball(1.5, 3), oc.Product(oc.Ball(1.5, 3), oc.Box([-1.0], [2.0]))])
def test_enclosure_and_inequalities_describe_the_set(control_set: oc.ControlSet) -> None:
    points = 2.0 * torch.randn(2000, control_set.m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sides = control_set.enclosure(points)
    assert sides is not None
    inside = ((points >= sides[0]) & (points <= sides[1])).all(-1) & (control_set.inequalities(points) <= 0).all(-1)
    torch.testing.assert_close(inside, control_set.residual(points) == 0)
