"""Absolute values of controls in the running cost: the optimum of the problem with controls in their places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation.absolutes import Absolutes
from ocsolver.problem import changed

INF = math.inf


def pendulum(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.stack((x[..., 1], u[..., 0] - x[..., 0]), -1)


def fuel(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return u.abs().sum(-1)


def missed(x: Tensor) -> Tensor:
    return 10.0 * x.square().sum(-1)


def build(running_cost: Any = fuel, **parts: Any) -> oc.OptimalControlProblem:
    """A pendulum to rest at the least fuel."""
    own: dict[str, Any] = {
        "terminal_cost": missed,
        "initial_state": [1.0, -1.0],
        "horizon": (0.0, 3.0),
        "control_set": oc.Box(-1.5, 1.5),
    }
    return oc.OptimalControlProblem(pendulum, running_cost, **(own | parts))


def split(problem: oc.OptimalControlProblem) -> oc.OptimalControlProblem:
    """The same with u = a − b, |u| = a + b."""
    return changed(
        problem,
        dynamics=lambda t, x, u: problem.dynamics(t, x, u[..., :1] - u[..., 1:]),
        running_cost=lambda t, x, u: u.sum(-1),
        control_set=oc.Box([0.0, 0.0], [1.5, 1.5]),
    )


STATES = [[1.0, -1.0], [0.5, 0.5], [-1.0, 0.2]]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"terminal_cost": None, "terminal_constraint": oc.Constraint(lambda x: x), "horizon": (0.0, 4.0)},
        {"initial_state": STATES},
        {"path_constraint": oc.Constraint(lambda t, x: x[..., 1:], -1.2, 0.8)},
        {"horizon": (0.0, oc.FreeTime(guess=3.0, lower=1.0, upper=4.0))},
    ],
    ids=["end", "rest", "batch", "state", "free time"],
)
def test_the_least_fuel_is_that_of_two_nonnegative_controls(parts: dict[str, Any]) -> None:
    problem = build(**parts)
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-6)
    exact = oc.solve(split(problem), oc.Collocation(), tolerance=1e-6)
    torch.testing.assert_close(solution.cost, exact.cost, atol=3e-6, rtol=0)
    assert solution.u.shape[-1] == 1
    assert float(solution.certificate.cost_error.max()) < 1e-6
    if "path_constraint" in parts:
        assert solution.multipliers["path_constraint"].shape[-1] == 1
        assert float(solution.violations["path_constraint"].max()) < 1e-5
    rest = solution.control(torch.tensor([0.05]))[:, 0] if not parts else torch.zeros(1)
    assert float(rest.abs().max()) < 1e-5  # neither bound, nor singular: |u| alone holds it at zero


def test_polynomials_of_both_parts_keep_their_bounds() -> None:
    """Where a part reaches zero inside of an interval; else the cost of their difference is another one."""

    def cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u.abs().sum(-1) + 0.5 * u.square().sum(-1) + x.square().sum(-1)

    solution = oc.solve(build(cost, horizon=(0.0, 4.0)), oc.Collocation(), tolerance=1e-6)
    assert float(solution.certificate.cost_error) < 2e-6
    precise = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)
    assert float(solution.resimulate(precise)) == pytest.approx(float(solution.cost), abs=2e-6)


def test_rest_at_a_kink_of_states_and_controls() -> None:
    """|x| + |u|/10 from 1: full throttle to zero, J = 1/3 + 1/10."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: x[..., 0].abs() + 0.1 * u[..., 0].abs(),
        initial_state=[1.0],
        horizon=(0.0, 3.0),
        control_set=oc.Box(-1.5, 1.5),
    )
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-6)
    assert float(solution.cost) == pytest.approx(13 / 30, abs=1e-6)
    assert not solution.singular[0] or all(end - start > 0.01 for start, end, _ in solution.singular[0])


def test_starts_callbacks_and_memories_know_nothing_of_it() -> None:
    seen: list[Any] = []
    problem = build()
    control = np.zeros((25, 1, 1))
    first = oc.solve(
        problem, oc.Collocation(), tolerance=1e-6, initial_control=control, callback=lambda _, it: seen.append(it.u)
    )
    assert {u.shape[1:] for u in seen} == {(1, 1)}
    near = build(initial_state=[1.01, -1.0])
    again = oc.solve(near, oc.Collocation(), tolerance=1e-6, initial_control=first)
    fresh = oc.solve(near, oc.Collocation(), tolerance=1e-6)
    assert first.memory is not None
    assert float(again.cost) == pytest.approx(float(fresh.cost), abs=2e-6)
    assert again.u.shape[-1] == 1
    sweeps = solve_quietly(problem, oc.EMSA(), mesh=50, max_iterations=20)
    polished = oc.solve(problem, oc.Collocation(), tolerance=1e-6, initial_control=sweeps)
    assert float(polished.cost) == pytest.approx(float(first.cost), abs=2e-6)


@pytest.mark.parametrize(
    ("running_cost", "found"),
    [
        (fuel, True),
        (lambda t, x, u: torch.relu(u[..., 0]) + x[..., 0] ** 2, True),
        (lambda t, x, u: torch.maximum(x[..., 0], u[..., 0]), True),
        (lambda t, x, u: torch.sqrt(1.0 + u[..., 0].abs()), True),
        (lambda t, x, u: u[..., 0] ** 2, False),
        (lambda t, x, u: -u[..., 0].abs(), False),
        (lambda t, x, u: torch.minimum(x[..., 0], u[..., 0]), False),
        (lambda t, x, u: (u[..., 0].abs() - 1.0).abs(), False),
        (lambda t, x, u: x[..., 0] ** 2 + torch.tensor(-2.0, dtype=x.dtype).abs(), False),
        (lambda t, x, u: x[..., 0] * u[..., 0].abs(), False),
    ],
    ids=["abs", "relu", "max", "root", "smooth", "concave", "min", "nested", "constant", "sign"],
)
def test_only_absolute_values_that_cost_have_controls_in_their_places(running_cost: Any, found: bool) -> None:
    assert (Absolutes.of(build(running_cost)) is not None) is found


def test_what_cannot_be_recorded_is_left_as_it_is() -> None:
    def choosy(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        if x.shape[0] != 2:
            raise ValueError("only pairs")
        return u[..., 0].abs()

    assert Absolutes.of(build(initial_state=STATES, shared_control=True)) is None
    assert Absolutes.of(build(initial_state=torch.tensor([1.0, -1.0]))) is None
    assert Absolutes.of(build(choosy)) is None


def test_new_controls_say_the_same() -> None:
    def cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        parts = u[..., 0] - 1.0, 2.0 * u[..., 0], torch.sin(2.0 * u[..., 0]), u[..., 0] - t, u[..., 0] - x[..., 0]
        return sum((part.abs() for part in parts), torch.zeros_like(x[..., 0]))

    found = Absolutes.of(build(cost))
    assert found is not None
    assert found.split == [0]
    assert found.free == [0, 2, 3, 4]
    smooth = found.smooth
    box = smooth.control_set
    assert isinstance(box, oc.Box)
    assert box.lower.tolist() == [0.0] * 6
    torch.testing.assert_close(box.upper, torch.tensor([1.5, 1.5, 2.5, INF, INF, INF]).double())
    t, x, u = torch.tensor([0.5]).double(), torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[-0.5]]).double()
    v = found.extended(t, x, u)
    torch.testing.assert_close(v, torch.tensor([[0.0, 0.5, 1.5, abs(math.sin(-1.0)), 1.0, 1.5]]).double())
    np.testing.assert_allclose(v.numpy() @ found.guise.mixing.T, u)
    assert smooth.running_cost is not None
    assert float(smooth.running_cost(t, x, v)) == pytest.approx(float(cost(t, x, u)))
    torch.testing.assert_close(smooth.dynamics(t, x, v), pendulum(t, x, u))
    assert smooth.path_constraint is not None
    assert float(smooth.path_constraint.path(t, x, v).min()) >= 0.0
    assert found.guise.rows == 8


def test_controls_on_one_side_of_zero_and_without_bounds() -> None:
    found = Absolutes.of(build(control_set=oc.Box([0.5], [2.0])))
    assert found is not None
    box = found.smooth.control_set
    assert isinstance(box, oc.Box)
    assert (box.lower.tolist(), box.upper.tolist()) == ([0.5, 0.0], [2.0, 0.0])
    free = build(lambda t, x, u: u[..., 0].abs() + u[..., 0] ** 2, control_set=oc.Unconstrained(1))
    solution = oc.solve(free, oc.Collocation(), tolerance=1e-6)
    wide = oc.solve(changed(free, control_set=oc.Box(-50.0, 50.0)), oc.Collocation(), tolerance=1e-6)
    assert float(solution.cost) == pytest.approx(float(wide.cost), abs=1e-5)
