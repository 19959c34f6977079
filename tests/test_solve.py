"""`solve` itself: what it refuses, in which words, and what it hands on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import N, coupled_oscillators, cubic_growth, nonlinear_problem, regulator
from torch import Tensor

import ocsolver as oc

# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"solver": oc.EMSA}, r"solver: expected a Solver, got <class .*EMSA.*> *\. Pass an instance such as oc\.EMSA"),
        ({"solver": "emsa"}, "solver: expected a Solver, got 'emsa'"),
        ({"mesh": 0}, r"mesh: expected a positive number of intervals, got 0\. Pass an int N ≥ 1"),
        ({"mesh": -3}, "mesh: expected a positive number of intervals, got -3"),
        ({"mesh": 2.5}, r"mesh: expected a positive number of intervals, got 2\.5"),
        ({"mesh": True}, "mesh: expected a positive number of intervals, got True"),
        ({"mesh": [0.0, 1.0]}, r"mesh: .*got \[0\.0, 1\.0\].*oc\.Mesh"),
        ({"integrator": "rk4"}, r"integrator: expected an Integrator, got 'rk4'\. Pass an instance such as oc\.RK4"),
        ({"integrator": oc.RK4}, "integrator: expected an Integrator, got <class"),
        ({"adjoint": "discrete"}, r"adjoint: expected an Adjoint, got 'discrete'\. Pass oc\.DiscreteAdjoint"),
        ({"max_iterations": -1}, "max_iterations: expected an int ≥ 0, got -1"),
        ({"max_iterations": 2.0}, r"max_iterations: expected an int ≥ 0, got 2\.0"),
        ({"max_iterations": True}, "max_iterations: expected an int ≥ 0, got True"),
        ({"max_iterations": None}, "max_iterations: expected an int ≥ 0, got None"),
        ({"max_seconds": -1.0}, r"max_seconds: expected a number ≥ 0, got -1\.0"),
        ({"max_seconds": "1"}, "max_seconds: expected a number ≥ 0, got '1'"),
        ({"max_seconds": math.nan}, "max_seconds: expected a number ≥ 0, got nan"),
        ({"tolerance": 0.0}, r"tolerance: expected a positive number or None, got 0\.0"),
        ({"tolerance": -1e-6}, "tolerance: expected a positive number or None, got -1e-06"),
        ({"tolerance": math.inf}, "tolerance: expected a positive number or None, got inf"),
        ({"tolerance": math.nan}, "tolerance: expected a positive number or None, got nan"),
        ({"tolerance": "tight"}, "tolerance: expected a positive number or None, got 'tight'"),
        ({"tolerance": True}, "tolerance: expected a positive number or None, got True"),
        ({"callback": 1}, r"callback: expected a callable, got 1\. Pass a function callback\(k, iterate\)"),
        ({"initial_control": "zero"}, "initial_control: expected numbers, got 'zero'"),
        ({"initial_control": [math.nan]}, r"initial_control: expected finite entries, got nan at index"),
        ({"initial_control": lambda t: [math.inf]}, "initial_control: expected finite entries, got inf"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text) as caught:
        oc.solve(regulator(), **options)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, oc.OCSolverError)


def test_the_sign_that_marks_the_default_tolerance_is_not_an_argument() -> None:
    with pytest.raises(oc.InputError, match="tolerance"):
        oc.solve(regulator(), tolerance=-1.0)


def test_something_else_than_a_problem_is_refused() -> None:
    with pytest.raises(
        oc.UnsupportedError, match=r"problem: expected an optimal control problem, got str\. Pass an oc\."
    ):
        oc.solve("minimize")
    with pytest.raises(oc.UnsupportedError, match="got OptimalControlProblemFactory"):
        oc.solve(type("OptimalControlProblemFactory", (), {})())


@pytest.mark.parametrize(
    "control", [[0.0, 0.0], np.zeros((N, 1)), torch.zeros(N + 1, 1, 1), torch.zeros(N, 2, 1), 0.0, lambda t: [0.0, 0.0]]
)
def test_initial_controls_of_the_wrong_shape_are_refused(control: Any) -> None:
    with pytest.raises(oc.ShapeError, match=r"initial_control.*expected .*\(1,\).*got .*Pass None"):
        oc.solve(regulator(), mesh=N, initial_control=control)


def test_a_solution_of_another_problem_is_refused_as_a_start() -> None:
    other = oc.solve(coupled_oscillators(oc.Unconstrained(2), horizon=1.0), mesh=N)
    text = r"initial_control \(Solution\): expected \(G, m\) = \(1, 1\), got \(3, 2\)"
    with pytest.raises(oc.ShapeError, match=text):
        oc.solve(regulator(), mesh=N, initial_control=other)


def test_a_solution_of_another_horizon_starts_a_run() -> None:
    """A receding horizon: time is the same where the horizons overlap, and the last value is kept afterwards."""
    short = oc.solve(regulator(), mesh=N)
    longer = oc.solve(regulator(horizon=2.0), mesh=2 * N, initial_control=short, max_iterations=0, tolerance=None)
    torch.testing.assert_close(longer.u[:N], short.u)
    torch.testing.assert_close(longer.u[N:], short.u[-1:].expand(N, 1, 1))


def test_every_form_of_the_initial_control_is_taken(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    G = problem.groups
    constant = torch.tensor([0.3, -0.2], dtype=torch.float64)
    forms: list[Any] = [
        [0.3, -0.2],
        np.array([0.3, -0.2], dtype=np.float32),
        constant,
        constant.expand(N, G, 2),
        constant.expand(N, 1, 2),
        constant.expand(N, G, 2).numpy(),
        lambda t: constant,
        lambda t: [0.3, -0.2],
        lambda t: constant.expand(G, 2),
    ]
    for form in forms:
        solution = oc.solve(problem, mesh=N, initial_control=form, max_iterations=0, tolerance=None)
        torch.testing.assert_close(solution.u, constant.expand(N, G, 2), rtol=1e-6, atol=1e-7)
    ramp = oc.solve(problem, mesh=N, initial_control=lambda t: [t, 0.0], max_iterations=0, tolerance=None)
    torch.testing.assert_close(ramp.u[:, 0, 0], 0.5 * (ramp.t[1:, 0] + ramp.t[:-1, 0]))


def test_the_initial_control_is_projected() -> None:
    problem = regulator(control_set=oc.Box([-0.5], [0.25]))
    solution = oc.solve(problem, mesh=N, initial_control=[3.0], max_iterations=0, tolerance=None)
    assert bool((solution.u == 0.25).all())
    zero = oc.solve(regulator(control_set=oc.Box([0.1], [0.2])), mesh=N, max_iterations=0, tolerance=None)
    assert bool((zero.u == 0.1).all())


def test_defaults() -> None:
    assert oc.solve(regulator()).solver.startswith("Collocation(")
    solution = oc.solve(regulator(), oc.EMSA())
    assert solution.u.shape == (100, 1, 1)
    assert isinstance(solution.discretization.integrator, oc.RK4)
    assert isinstance(solution.discretization.adjoint, oc.DiscreteAdjoint)
    assert oc.solve(regulator(), mesh=4).solver.startswith("EMSA(")  # a mesh that is asked for belongs to sweeps
    scipy = oc.solve(regulator(), mesh=4, integrator=oc.SolveIVP("RK45", rtol=1e-6, atol=1e-8), tolerance=1e-5)
    assert isinstance(scipy.discretization.adjoint, oc.ContinuousAdjoint)


# ------------------------------------------------------------------------------------------------------ callables


def broken(**parts: Callable[..., Any]) -> oc.OptimalControlProblem:
    """Problem (B=3, n=2, m=1) of which some callables are replaced."""
    good: dict[str, Callable[..., Any]] = {
        "dynamics": lambda t, x, u: torch.stack((x[..., 1], u[..., 0].expand(x.shape[:-1])), -1),
        "running_cost": lambda t, x, u: x.square().sum(-1) + u[..., 0].square(),
        "terminal_cost": lambda x: x[..., 0].square(),
    }
    return oc.OptimalControlProblem(
        **(good | parts),
        initial_state=[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"dynamics": lambda t, x, u: x[..., :1]}, r"dynamics: expected shape .*, 3, 2\), got shape .*, 3, 1\)"),
        ({"dynamics": lambda t, x, u: x.sum()}, r"dynamics: expected shape .*got shape \(\)"),
        ({"dynamics": lambda t, x, u: x[0]}, r"dynamics: expected shape .*keep every batch axis"),
        ({"dynamics": lambda t, x, u: x[None]}, r"dynamics: expected shape .*add none"),
        ({"dynamics": lambda t, x, u: x.numpy()}, "dynamics: expected a tensor, got ndarray"),
        ({"dynamics": lambda t, x, u: [x]}, "dynamics: expected a tensor, got list"),
        ({"dynamics": lambda t, x, u: None}, "dynamics: expected a tensor, got NoneType"),
        ({"dynamics": lambda t, x, u: x.float()}, r"dynamics: expected torch\.float64 on cpu .*got torch\.float32"),
        ({"running_cost": lambda t, x, u: x.square()}, r"running_cost: expected shape .*reduce by \.sum\(-1\)"),
        ({"running_cost": lambda t, x, u: x.square().sum()}, r"running_cost: expected shape .*got shape \(\)"),
        ({"running_cost": lambda t, x, u: 0.0}, "running_cost: expected a tensor, got float"),
        ({"running_cost": lambda t, x, u: u.float().sum(-1)}, r"running_cost: expected torch\.float64"),
        ({"terminal_cost": lambda x: x}, "terminal_cost: expected shape"),
        ({"terminal_cost": lambda x: x.square().sum(-1).mean()}, "terminal_cost: expected shape"),
        ({"terminal_cost": lambda x: 1.0}, "terminal_cost: expected a tensor, got float"),
    ],
)
def test_outputs_of_the_wrong_shape_or_type_are_refused(parts: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.ShapeError, match=text) as caught:
        oc.solve(broken(**parts), mesh=N)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".") or "Build constants" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["dynamics", "running_cost", "terminal_cost"])
def test_values_that_are_not_finite_at_the_start_are_refused(name: str, value: float) -> None:
    def bad(*arguments: Tensor) -> Tensor:
        x = arguments[0] if name == "terminal_cost" else arguments[1]
        full = torch.where(x == 0.5, value, x)
        return full if name == "dynamics" else full.sum(-1)

    with pytest.raises(oc.InputError, match=rf"{name} at the initial time and state: expected finite .*{value}.*1"):
        oc.solve(broken(**{name: bad}), mesh=N)


@pytest.mark.parametrize("name", ["dynamics", "running_cost", "terminal_cost"])
def test_errors_of_user_code_reach_the_user_with_a_note(name: str) -> None:
    def fail(*arguments: Tensor) -> Tensor:
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake") as caught:
        oc.solve(broken(**{name: fail}), mesh=N)
    if hasattr(caught.value, "__notes__"):  # Python ≥ 3.11
        assert name in " ".join(caught.value.__notes__)


def test_callables_are_probed_before_any_work() -> None:
    calls = []

    def slow(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        calls.append(x.shape)
        return x[..., 0]

    with pytest.raises(oc.ShapeError):
        oc.solve(broken(dynamics=slow), mesh=N)
    assert len(calls) == 1


def test_outputs_may_have_size_one_where_nothing_depends_on_the_trajectory() -> None:
    problem = broken(running_cost=lambda t, x, u: u[..., 0].square(), terminal_cost=lambda x: 0.0 * x[..., :1, 0] + 2.0)
    solution = oc.solve(problem, mesh=N)
    torch.testing.assert_close(solution.cost, torch.full((3,), 2.0, dtype=torch.float64))


# -------------------------------------------------------------------------------------------- warnings and strict


def test_failing_status_warns() -> None:
    with pytest.warns(oc.ConvergenceWarning, match="MAX_ITERATIONS: .*raise max_iterations") as caught:
        oc.solve(regulator(horizon=3.0), mesh=N, max_iterations=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # points at the caller
    with pytest.warns(oc.ConvergenceWarning, match="groups 1: INTEGRATION_FAILED"):
        oc.solve(cubic_growth([0.2, 9.0]), mesh=N)


def test_success_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oc.solve(regulator(), mesh=N)
        oc.solve(regulator(), mesh=N, max_iterations=1, tolerance=None)
        oc.solve(regulator(horizon=3.0), mesh=N, callback=lambda k, iterate: True)


def test_strict_raises_with_the_solution() -> None:
    with pytest.raises(oc.SolveError, match="MAX_ITERATIONS") as caught:  # a warning would be another exception
        oc.solve(regulator(horizon=3.0), mesh=N, max_iterations=2, strict=True)
    solution = caught.value.solution
    assert isinstance(solution, oc.Solution)
    assert solution.status == [oc.Status.MAX_ITERATIONS]
    assert bool(torch.isfinite(solution.cost).all())
    assert oc.solve(regulator(), mesh=N, strict=True).success.tolist() == [True]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_default_tolerance_follows_the_precision(dtype: torch.dtype, tolerance: float) -> None:
    solution = oc.solve(regulator(horizon=2.0, dtype=dtype), oc.MSA(relaxation=0.3), mesh=N)
    assert float(solution.history.residual[-1]) <= tolerance < float(solution.history.residual[-2])


def test_statuses_say_what_to_do() -> None:
    for status in oc.Status:
        assert len(status.advice) > 20
        assert (status >= 0) == (status in (oc.Status.CONVERGED, oc.Status.COMPLETED, oc.Status.STOPPED))
