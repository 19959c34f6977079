"""Contracts of the problem statement: what it holds, and the text of every refusal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONTROLS, STATES, B, nonlinear_problem
from torch import Tensor

import ocsolver as oc


def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return u


def statement(**changes: Any) -> oc.OptimalControlProblem:
    """A good problem but for the changes."""
    arguments = {
        "dynamics": dynamics,
        "initial_state": [1.0, 2.0],
        "horizon": (0.0, 1.0),
        "control_set": oc.Unconstrained(2),
        **changes,
    }
    return oc.OptimalControlProblem(arguments.pop("dynamics"), **arguments)


def test_sizes() -> None:
    for shared in (False, True):
        problem = nonlinear_problem(shared)
        assert (problem.n, problem.m, problem.trajectories) == (STATES, CONTROLS, B)
        assert problem.groups == (1 if shared else B)


def test_one_state_is_a_batch_of_one() -> None:
    problem = statement(initial_state=[1.0, 2.0, 3.0])
    assert problem.initial_state.shape == (1, 3)
    assert problem.groups == problem.trajectories == 1
    assert statement(initial_state=4.0).initial_state.tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("initial_state", "dtype"),
    [
        ([1.0, 2.0], torch.float64),
        ([1, 2], torch.float64),
        (np.array([1.0, 2.0]), torch.float64),
        (np.array([1.0, 2.0], dtype=np.float32), torch.float32),
        (np.array([[1, 2]]), torch.float64),
        (torch.tensor([1.0, 2.0]), torch.float32),
        (torch.tensor([1, 2]), torch.float64),
        (torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.float64),
        ((1.0, 2.0), torch.float64),
    ],
    ids=repr,
)
def test_initial_state_rules_the_dtype(initial_state: Any, dtype: torch.dtype) -> None:
    problem = statement(initial_state=initial_state)
    assert problem.initial_state.dtype == dtype
    assert problem.initial_state.tolist() == [[1.0, 2.0]]


def test_initial_state_is_detached_and_its_own() -> None:
    x0 = torch.ones(3, 2, requires_grad=True)
    problem = statement(initial_state=x0)
    assert not problem.initial_state.requires_grad
    with torch.no_grad():
        x0 += 1.0
    assert problem.initial_state.tolist() == [[1.0, 1.0]] * 3


def test_missing_costs_are_kept_as_missing() -> None:
    problem = statement()
    assert problem.running_cost is None
    assert problem.terminal_cost is None


def test_problem_is_frozen_and_says_what_it_is() -> None:
    problem = nonlinear_problem(True, control_set=oc.Box([-1.0, 0.0], [1.0, math.inf]))
    assert repr(problem) == (
        "OptimalControlProblem(n=3, m=2, 5 trajectories, one shared control, horizon=(0.5, 1.7), "
        "control_set=Box([-1.0, 0.0], [1.0, inf]))"
    )
    assert "one control each" in repr(nonlinear_problem(False))
    for field in dataclasses.fields(problem):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(problem, field.name, None)


@pytest.mark.parametrize("horizon", [(0, 1), [0.0, 1.0], np.array([0.0, 1.0]), torch.tensor([0.0, 1.0])], ids=repr)
def test_horizon_becomes_two_floats(horizon: Any) -> None:
    problem = statement(horizon=horizon)
    assert problem.horizon == (0.0, 1.0)
    assert all(type(end) is float for end in problem.horizon)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"dynamics": None}, oc.InputError, "dynamics: expected a callable, got None. Pass a function f(t, x, u)."),
        ({"dynamics": 1.0}, oc.InputError, "dynamics: expected a callable, got 1.0."),
        ({"running_cost": 0}, oc.InputError, "running_cost: expected a callable, got 0. Pass a function L(t, x, u)."),
        ({"terminal_cost": "x"}, oc.InputError, "terminal_cost: expected a callable, got 'x'. Pass a function Phi(x)."),
        (
            {"control_set": None},
            oc.InputError,
            "control_set: expected a control set, got None. Pass oc.Unconstrained(m)",
        ),
        ({"control_set": (0.0, 1.0)}, oc.InputError, "control_set: expected a control set, got (0.0, 1.0)."),
        (
            {"control_set": oc.Box},
            oc.InputError,
            "control_set: expected a control set, got <class 'ocsolver.sets.Box'>",
        ),
        ({"shared_control": 1}, oc.InputError, "shared_control: expected a bool, got 1."),
        ({"shared_control": None}, oc.InputError, "shared_control: expected a bool, got None."),
        ({"horizon": (1.0, 1.0)}, oc.InputError, "horizon: expected finite t0 < t1, got t0 = 1.0, t1 = 1.0."),
        (
            {"horizon": (1.0, -2.0)},
            oc.InputError,
            "got t0 = 1.0, t1 = -2.0. Pass horizon=(t0, t1) with t0 < t1, or (t0,",
        ),
        ({"horizon": (0.0, math.inf)}, oc.InputError, "horizon: expected finite t0 < t1, got t0 = 0.0, t1 = inf"),
        ({"horizon": (math.nan, 1.0)}, oc.InputError, "horizon: expected finite t0 < t1, got t0 = nan, t1 = 1.0"),
        ({"horizon": 1.0}, oc.InputError, "horizon: expected two numbers (t0, t1), got 1.0."),
        ({"horizon": None}, oc.InputError, "horizon: expected two numbers (t0, t1), got None."),
        ({"horizon": (0.0, 1.0, 2.0)}, oc.InputError, "horizon: expected two numbers (t0, t1), got (0.0, 1.0, 2.0)."),
        ({"horizon": (0.0, "later")}, oc.InputError, "horizon: expected two numbers (t0, t1), got (0.0, 'later')."),
        (
            {"initial_state": torch.zeros(2, 3, 4)},
            oc.ShapeError,
            "initial_state: expected (n,) or (B, n), got shape (2, 3, 4).",
        ),
        ({"initial_state": []}, oc.ShapeError, "initial_state: expected (n,) or (B, n), got shape (1, 0)."),
        (
            {"initial_state": torch.zeros(0, 3)},
            oc.ShapeError,
            "initial_state: expected (n,) or (B, n), got shape (0, 3).",
        ),
        ({"initial_state": None}, oc.InputError, "initial_state: expected numbers, got None."),
        ({"initial_state": "zero"}, oc.InputError, "initial_state: expected numbers, got 'zero'."),
        (
            {"initial_state": [[1.0], [1.0, 2.0]]},
            oc.InputError,
            "initial_state: expected numbers, got [[1.0], [1.0, 2.0]].",
        ),
        ({"initial_state": [True]}, oc.InputError, "initial_state: expected real numbers, got torch.bool."),
        ({"initial_state": [1j]}, oc.InputError, "initial_state: expected real numbers, got torch.complex128."),
        (
            {"initial_state": [math.nan]},
            oc.InputError,
            "initial_state: expected finite entries, got NaN or infinity in rows [0].",
        ),
        (
            {"initial_state": [[1.0, 1.0], [math.nan, 1.0], [1.0, 1.0], [math.nan, math.inf]]},
            oc.InputError,
            "initial_state: expected finite entries, got NaN or infinity in rows [1, 3]. Remove or repair these rows.",
        ),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        statement(**changes)
    assert type(caught.value) is error
    assert text in str(caught.value)


def test_costs_alone_are_keyword_arguments() -> None:
    with pytest.raises(TypeError):
        oc.OptimalControlProblem(dynamics, None, None, [1.0], (0.0, 1.0), oc.Unconstrained(1))
    with pytest.raises(TypeError, match="control_set"):
        oc.OptimalControlProblem(dynamics, initial_state=[1.0], horizon=(0.0, 1.0))


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (oc.InputError, ValueError),
        (oc.ShapeError, ValueError),
        (oc.UnsupportedError, TypeError),
        (oc.SolveError, Exception),
    ],
)
def test_errors_are_builtin_errors_too(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, oc.OCSolverError)
    assert issubclass(error, builtin)
    assert issubclass(oc.OCSolverError, Exception)
    assert issubclass(oc.ConvergenceWarning, UserWarning)


def test_a_mistake_can_be_caught_as_a_builtin_error() -> None:
    with pytest.raises(ValueError, match="horizon"):
        statement(horizon=(1.0, 0.0))
    with pytest.raises(ValueError, match="initial_state"):
        statement(initial_state=torch.zeros(1, 1, 1))


def test_solve_error_carries_the_solution() -> None:
    marker = object()
    error = oc.SolveError("what happened", marker)
    assert str(error) == "what happened"
    assert error.solution is marker
