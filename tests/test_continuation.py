"""Continuation: warm starts along a parameter, halved steps, truthful failures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from helpers import regulator, solve_quietly

import ocsolver as oc
from problems import hypersensitive, scalar_lqr

Status = oc.Status


def lqr(horizon: float) -> oc.OptimalControlProblem:
    return scalar_lqr.build(horizon=horizon).problem


def test_horizons_that_grow_lead_to_the_same_solution() -> None:
    def family(horizon: float) -> oc.OptimalControlProblem:
        return hypersensitive.build(horizon=horizon).problem

    problem = family(10.0)
    solution = oc.solve(problem, oc.Continuation(oc.EMSA(), family, [1.0, 3.0, 10.0]), mesh=200)
    assert solution.status == [Status.CONVERGED]
    assert solution.problem is problem
    assert "the last of 3 problems" in solution.message
    direct = oc.solve(problem, mesh=200)
    torch.testing.assert_close(solution.cost, direct.cost, rtol=1e-7, atol=0.0)


def test_weight_as_parameter_saves_iterations() -> None:
    def family(weight: float) -> oc.OptimalControlProblem:
        return regulator(horizon=3.0, coupling=weight)

    start = oc.solve(family(1.0), oc.EMSA())
    solution = oc.solve(family(1.2), oc.Continuation(oc.EMSA(), family, [1.1, 1.2]), initial_control=start)
    torch.testing.assert_close(solution.cost, oc.solve(family(1.2), oc.EMSA()).cost)


@dataclass(frozen=True)
class Cautious(oc.Solver):
    """Fails where the horizon is more than half as long again as the last one it solved."""

    solved: list[float]

    def run(self, problem: Any, discretization: Any, start: Any, limits: Any) -> oc.Solution:
        solution = oc.EMSA().run(problem, discretization, start, limits)
        horizon = problem.horizon[1]
        if self.solved and horizon > 1.5 * self.solved[-1]:
            return replace(solution, status=[Status.STALLED])
        self.solved.append(horizon)
        return solution


def test_steps_are_halved_where_a_problem_fails() -> None:
    solver = Cautious([])
    solution = oc.solve(lqr(2.0), oc.Continuation(solver, lqr, [1.0, 2.0]))
    assert solution.status == [Status.CONVERGED]
    assert solver.solved == [1.0, 1.5, 2.0]
    assert "the last of 4 problems" in solution.message  # one of them failed
    torch.testing.assert_close(solution.cost, oc.solve(lqr(2.0), oc.EMSA()).cost)
    impatient = solve_quietly(lqr(2.0), oc.Continuation(Cautious([]), lqr, [1.0, 2.0], halvings=0))
    assert "the continuation ended at the value 2.0, after 1.0;" in impatient.message


def test_failure_names_the_value() -> None:
    """Plain maximization diverges beyond π/2, whatever the start."""
    solver = oc.Continuation(oc.MSA(), lqr, [1.0, 3.0], halvings=3)
    solution = solve_quietly(lqr(3.0), solver)
    assert not bool(solution.success)
    assert "the continuation ended at the value 1.625, after 1.5;" in solution.message
    assert solution.problem is not None
    assert solution.problem.horizon == (0.0, 3.0)
    first = solve_quietly(lqr(3.0), oc.Continuation(oc.MSA(), lqr, [2.0, 3.0]))
    assert "the continuation ended at the value 2.0;" in first.message


def test_limits_hold_for_all_problems_together() -> None:
    solver = oc.Continuation(oc.EMSA(), lqr, [1.0, 2.0])
    assert solve_quietly(lqr(2.0), solver, max_seconds=0.0).status == [Status.MAX_SECONDS]
    assert oc.solve(lqr(2.0), solver, callback=lambda k, iterate: True).status == [Status.STOPPED]


def test_constraints_by_an_inner_augmented_lagrangian() -> None:
    def family(end: float) -> oc.OptimalControlProblem:
        base = regulator()
        return oc.OptimalControlProblem(
            base.dynamics,
            base.running_cost,
            initial_state=base.initial_state,
            horizon=base.horizon,
            control_set=base.control_set,
            terminal_constraint=oc.Constraint(lambda x: x, end, end),
        )

    solution = oc.solve(family(0.0), oc.Continuation(oc.AugmentedLagrangian(), family, [0.4, 0.0]), mesh=20)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.x[-1].abs().max()) <= 1e-6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"solver": None}, "Continuation solver: expected a Solver, got None"),
        ({"family": 1.0}, "Continuation family: expected a callable, got 1.0"),
        ({"values": []}, "Continuation values: expected at least one value, got none"),
        ({"halvings": -1}, "Continuation halvings: expected an int ≥ 0, got -1"),
    ],
)
def test_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text):
        oc.Continuation(**{"solver": oc.EMSA(), "family": lqr, "values": [1.0]} | arguments)


def test_family_must_return_problems() -> None:
    solver = oc.Continuation(oc.EMSA(), lambda value: value, [1.0, 2.0])  # type: ignore[arg-type, return-value]
    with pytest.raises(oc.InputError, match="expected an OptimalControlProblem, got float"):
        oc.solve(lqr(2.0), solver)
