"""Statement of constraints and free ends: what is taken, what is refused and in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import CONTROLS, STATES, B, N, seeded
from torch import Tensor

import ocsolver as oc
from ocsolver.freetime import on_unit_time


def statement(**changes: Any) -> oc.OptimalControlProblem:
    """A double integrator, with whatever is to be tested."""
    arguments: dict[str, Any] = {
        "initial_state": [0.0, 0.0],
        "horizon": (1.0, 3.0),
        "control_set": oc.Unconstrained(1),
    } | changes
    return oc.OptimalControlProblem(lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1), **arguments)


# --------------------------------------------------------------------------------------------------- constraints


def test_defaults_make_an_equality() -> None:
    constraint = oc.Constraint(lambda x: x)
    assert float(constraint.lower) == float(constraint.upper) == 0.0
    assert constraint.components is None
    assert oc.Constraint(lambda x: x, [0, 1], [1, 2]).components == 2
    assert oc.Constraint(lambda x: x, 0, [1, 2]).lower.tolist() == [0.0, 0.0]
    assert repr(oc.Constraint(lambda x: x, [0, -math.inf], 1)) == "Constraint(lower=[0.0, -inf], upper=[1.0, 1.0])"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((3.0,), oc.InputError, "Constraint function: expected a callable, got 3.0. Pass c(x) for a terminal"),
        ((len, 1.0, 0.0), oc.InputError, "Constraint bounds: expected lower ≤ upper, got lower = 1, upper = 0. Give"),
        ((len, [0, 2], [1, 1]), oc.InputError, "got lower = 2, upper = 1 at (1,). Give lower ≤ upper"),
        ((len, math.nan, 1.0), oc.InputError, "expected lower ≤ upper, got lower = nan, upper = 1"),
        ((len, math.inf, math.inf), oc.InputError, "got lower = inf, upper = inf"),
        ((len, -math.inf, -math.inf), oc.InputError, "got lower = -inf, upper = -inf"),
        ((len, [0, 0], [1, 1, 1]), oc.ShapeError, "expected numbers or vectors (c,), got shapes (2,) and (3,)"),
        ((len, [[0.0]], 1.0), oc.ShapeError, "expected numbers or vectors (c,), got shapes (1, 1) and ()"),
        ((len, "low", 1.0), oc.InputError, "Constraint lower bound: expected numbers, got 'low'"),
    ],
)
def test_bad_constraints_are_refused(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        oc.Constraint(*arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"terminal_constraint": 0.0}, "terminal_constraint: expected a Constraint, got 0.0. Pass oc.Constraint("),
        ({"path_constraint": lambda t, x: x}, "path_constraint: expected a Constraint, got <function"),
        (
            {"terminal_constraint": oc.Constraint(lambda t, x: x)},
            "terminal_constraint: expected a function c(x), got one of 2 arguments",
        ),
        (
            {"path_constraint": oc.Constraint(lambda x: x)},
            "path_constraint: expected a function c(t, x) or c(t, x, u), got one of 1 arguments",
        ),
    ],
)
def test_constraints_that_do_not_fit_a_problem_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        statement(**changes)
    assert text in str(caught.value)


def test_functions_take_what_they_need() -> None:
    t, x, u = torch.zeros(N, 1).double(), seeded(N, B, STATES), seeded(N, 1, CONTROLS)
    state = oc.Constraint(lambda t, x: x[..., :2], -1.0, 1.0)
    mixed = oc.Constraint(lambda t, x, u: u, 0.0, 1.0)
    scaled = oc.Constraint(lambda x, scale=2.0: scale * x)
    assert (state.arguments, mixed.arguments, scaled.arguments) == (2, 3, 1)
    assert torch.equal(state.path(t, x, u), x[..., :2])
    assert mixed.path(t, x, u).shape == (N, B, CONTROLS)  # expanded over the batch
    assert torch.equal(scaled.terminal(x), 2.0 * x)


def test_violation_is_the_distance_to_the_sides() -> None:
    constraint = oc.Constraint(lambda x: x, [0.0, -math.inf, 1.0], [2.0, 0.5, math.inf])
    values = torch.tensor([[-0.25, 9.0, 0.0], [3.0, -9.0, 9.0], [1.0, 0.5, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.25, 8.5, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(constraint.violation(values), expected)
    assert constraint.violation(values.float()).dtype is torch.float32


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (3.0, "expected a tensor of shape (7, 5, 2), got float"),
        (seeded(N, B), "expected shape (7, 5, 2), got shape (7, 5) for x of shape (7, 5, 3). The bounds have 2"),
        (
            seeded(N, B, 3),
            "got shape (7, 5, 3) for x of shape (7, 5, 3). The bounds have 2 components. Return one value",
        ),
        (seeded(N, 2, 2), "expected shape (7, 5, 2), got shape (7, 2, 2)"),
        (seeded(N, B, 2).float(), "expected torch.float64 on cpu, got torch.float32 on cpu. Build constants"),
    ],
)
def test_output_of_a_constraint_is_checked(output: Any, text: str) -> None:
    constraint = oc.Constraint(lambda t, x: output, [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(oc.ShapeError) as caught:
        constraint.check("path_constraint", output, seeded(N, B, STATES))
    assert str(caught.value).startswith("path_constraint: ")
    assert text in str(caught.value)


def test_a_missing_axis_is_explained() -> None:
    constraint = oc.Constraint(lambda t, x: x[..., 0], 0.0, 1.0)
    x = seeded(N, B, STATES)
    with pytest.raises(oc.ShapeError, match=r"keep a single component by x\[\.\.\., i:i \+ 1\]"):
        constraint.check("path_constraint", x[..., 0], x)
    constraint.check("path_constraint", x[..., :1], x)
    constraint.check("path_constraint", x[:, :1, :1], x)  # a batch axis of size one is expanded


# ----------------------------------------------------------------------------------------------- free final time


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({}, 2.0),
        ({"guess": 5.0}, 5.0),
        ({"lower": 4.0}, 5.5),
        ({"upper": 2.0}, 1.5),
        ({"lower": 4.0, "upper": 6.0}, 5.0),
        ({"guess": 4.0, "lower": 4.0, "upper": 4.0}, 4.0),
    ],
)
def test_a_free_time_starts_inside_its_bounds(settings: dict[str, float], start: float) -> None:
    problem = statement(horizon=(1.0, oc.FreeTime(**settings)))
    assert problem.horizon == (1.0, start)
    assert problem.free_time == oc.FreeTime(**settings)
    assert problem.restrictions == ("free_time",)
    assert "free_time" in repr(problem)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"lower": 2.0, "upper": 1.0},
            "FreeTime bounds: expected lower ≤ upper, got lower = 2, guess = None, upper = 1",
        ),
        ({"lower": math.nan}, "FreeTime bounds: expected lower ≤ upper, got lower = nan"),
        ({"lower": math.inf}, "FreeTime bounds: expected lower ≤ upper, got lower = inf"),
        ({"guess": 3.0, "upper": 2.0}, "FreeTime guess: expected lower ≤ guess ≤ upper, got lower = -inf, guess = 3.0"),
        ({"guess": math.inf}, "FreeTime guess: expected lower ≤ guess ≤ upper, got lower = -inf, guess = inf"),
        ({"guess": "soon"}, "FreeTime: expected numbers, got guess='soon'"),
    ],
)
def test_bad_free_times_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        oc.FreeTime(**settings)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("free", "text"),
    [
        (oc.FreeTime(upper=1.0), "horizon: expected a final time that may exceed t0, got t0 = 1, upper bound 1. Pass"),
        (oc.FreeTime(upper=-5.0), "got t0 = 1, upper bound -5"),
        (oc.FreeTime(guess=0.5), "horizon: expected finite t0 < t1, got t0 = 1.0, t1 = 0.5"),
    ],
)
def test_a_free_time_must_exceed_the_start(free: oc.FreeTime, text: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        statement(horizon=(1.0, free))
    assert text in str(caught.value)


# -------------------------------------------------------------------------------------------- free initial state


def test_a_free_start_gives_its_guess_and_bounds() -> None:
    free = oc.FreeInitialState([[1, 2], [3, 4]], lower=[0, 2], upper=[5, 4])
    problem = statement(initial_state=free)
    assert problem.initial_state.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert problem.free_initial_state is free
    assert free.lower.tolist() == [[0.0, 2.0], [0.0, 2.0]]
    assert free.upper.tolist() == [[5.0, 4.0], [5.0, 4.0]]
    assert repr(free) == "FreeInitialState(n=2, lower=[0.0, 2.0], upper=[5.0, 4.0])"
    rows = oc.FreeInitialState([[1, 2], [3, 4]], lower=[[0, 2], [1, 4]])
    assert repr(rows) == "FreeInitialState(n=2, lower=[[0.0, 2.0], [1.0, 4.0]], upper=[[inf, inf], [inf, inf]])"
    assert oc.FreeInitialState(torch.ones(2)).lower.dtype is torch.float32


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"guess": [[[1.0]]]}, oc.ShapeError, "FreeInitialState guess: expected (n,) or (B, n), got shape (1, 1, 1)"),
        ({"guess": []}, oc.ShapeError, "FreeInitialState guess: expected (n,) or (B, n), got shape (1, 0)"),
        (
            {"guess": [1.0, 2.0], "lower": [0.0, 3.0]},
            oc.InputError,
            "FreeInitialState guess: expected lower ≤ guess ≤ upper, got 2 in component 1 of row 0, bounds [3, inf]",
        ),
        ({"guess": [1.0, math.nan]}, oc.InputError, "got nan in component 1 of row 0"),
        (
            {"guess": [1.0], "lower": 2.0, "upper": 0.0},
            oc.InputError,
            "FreeInitialState bounds: expected lower ≤ upper, got lower = 2, upper = 0",
        ),
        (
            {"guess": [1.0, 2.0], "lower": [0.0, 0.0, 0.0]},
            oc.ShapeError,
            "FreeInitialState bounds: expected (n,) or (B, n), got (3,). Give bounds of shape (2,)",
        ),
        ({"guess": "rest"}, oc.InputError, "FreeInitialState guess: expected numbers, got 'rest'"),
    ],
)
def test_bad_free_starts_are_refused(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        oc.FreeInitialState(**settings)
    assert text in str(caught.value)


# ------------------------------------------------------------------------------------------------ free time as a state


def test_a_fixed_horizon_is_left_alone() -> None:
    problem = statement()
    assert on_unit_time(problem) is problem


def test_unit_time_is_the_same_problem() -> None:
    def path(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return t[..., None] + x[..., :1] + u

    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], t * u[..., 0]), -1),
        lambda t, x, u: t * u[..., 0] ** 2,
        lambda x: x[..., 0],
        initial_state=oc.FreeInitialState([0.3, 0.4], [0.3, 0.0], [0.3, 1.0]),
        horizon=(1.0, oc.FreeTime(guess=3.0, upper=9.0)),
        control_set=oc.Box([-1.0], [1.0]),
        terminal_constraint=oc.Constraint(lambda x: x, [1.0, 0.0], [1.0, 0.0]),
        path_constraint=oc.Constraint(path, -1.0, 1.0),
    )
    unit = on_unit_time(problem)
    assert unit.horizon == (0.0, 1.0)
    assert unit.initial_state.tolist() == [[0.3, 0.4, 2.0]]
    free = unit.free_initial_state
    assert free is not None
    assert free.lower[0, :2].tolist() == [0.3, 0.0]
    assert 0.0 < float(free.lower[0, 2]) < 1e-4
    assert free.upper.tolist() == [[0.3, 1.0, 8.0]]
    assert unit.restrictions == ("terminal_constraint", "path_constraint", "free_initial_state")
    tau, z, u = torch.full((N, 1), 0.25).double(), seeded(N, 1, 3), seeded(N, 1, 1, seed=1)
    t, x, T = 1.0 + z[..., 2] * tau, z[..., :2], z[..., 2:]
    assert unit.running_cost is not None
    assert unit.terminal_cost is not None
    assert unit.path_constraint is not None
    assert unit.terminal_constraint is not None
    zero = torch.zeros_like(T)
    torch.testing.assert_close(unit.dynamics(tau, z, u), torch.cat((T * problem.dynamics(t, x, u), zero), -1))
    torch.testing.assert_close(unit.running_cost(tau, z, u), T[..., 0] * t * u[..., 0] ** 2)
    torch.testing.assert_close(unit.terminal_cost(z), z[..., 0])
    torch.testing.assert_close(unit.path_constraint.path(tau, z, u), path(t, x, u))
    torch.testing.assert_close(unit.terminal_constraint.terminal(z), x)
