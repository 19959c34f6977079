"""Random starts: all minima are found, the best is returned, and what the user gave is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import mild_problem, regulator, solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers.multistart import MultiStart, _Starts
from ocsolver.transcription import Discretization
from problems import luus_reactor

Status = oc.Status


def double_well(
    targets: Any = (0.1,), initial_state: Any = (0.3,), control_set: oc.ControlSet | None = None, **options: Any
) -> oc.OptimalControlProblem:
    """Two minima near x(1) = ±1, the deeper one at the sign of −target."""
    tilt = torch.tensor(targets, dtype=torch.float64)
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.01 * u[..., 0] ** 2,
        lambda x: (x[..., 0] ** 2 - 1.0) ** 2 + tilt * x[..., 0],
        initial_state=initial_state,
        horizon=(0.0, 1.0),
        control_set=oc.Box(-3.0, 3.0) if control_set is None else control_set,
        **options,
    )


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 10), marks=pytest.mark.slow)])
def test_global_minimum_of_the_reactor(seeds: range) -> None:
    """Luus's reactor (A19): the better of its two minima for at least nine of ten seeds."""
    problem = luus_reactor.build().problem
    found = [oc.solve(problem, MultiStart(n=8, seed=seed)) for seed in seeds]
    assert sum(abs(float(solution.cost) - 0.13309573) <= 1e-4 for solution in found) >= min(7, len(seeds))
    assert all(solution.status == [Status.CONVERGED] for solution in found)
    costs = [cost for solution in found for cost, _ in solution.minima[0]]
    assert all(min(abs(cost - 0.133), abs(cost - 0.244)) < 1e-3 for cost in costs)


def test_minima_are_counted_and_told(tmp_path: Path) -> None:
    solution = oc.solve(double_well(), MultiStart(n=8), mesh=20)
    (minima,) = solution.minima
    assert len(minima) == 2
    assert minima[0][0] == pytest.approx(float(solution.cost))
    assert minima[0][0] < minima[1][0]
    assert sum(count for _, count in minima) == 8
    assert f"{minima[0][1]} of 8 starts ended here; 2 distinct minima" in solution.message
    assert "minima" in solution.summary()
    solution.save(tmp_path / "solution")
    assert oc.load(tmp_path / "solution", problem=solution.problem).minima == solution.minima


def test_solution_is_that_of_the_problem() -> None:
    problem = double_well()
    solution = oc.solve(problem, MultiStart(n=5), mesh=20)
    assert solution.problem is problem
    assert solution.u.shape == (20, 1, 1)
    assert solution.x.shape == (21, 1, 1)
    assert solution.history.cost.shape[1] == 1
    again = oc.solve(problem, mesh=20, initial_control=solution)
    assert again.stats.iterations == 0
    torch.testing.assert_close(again.cost, solution.cost)


def test_one_start_is_the_given_control() -> None:
    given = oc.solve(double_well(), MultiStart(n=1), mesh=20, initial_control=[2.0])
    plain = oc.solve(double_well(), mesh=20, initial_control=[2.0])
    torch.testing.assert_close(given.u, plain.u)
    assert float(given.x[-1]) > 0  # the worse minimum, because nothing else was tried


def test_groups_choose_their_own_start() -> None:
    """Trajectories with data of their own, tilted to different sides: no batch of replicas, but the best of each."""
    problem = double_well([0.1, -0.1, 0.2], [[0.3], [0.3], [-0.1]])
    solution = oc.solve(problem, MultiStart(n=6), mesh=10)
    assert [math.copysign(1.0, x) for x in solution.x[-1, :, 0].tolist()] == [-1.0, 1.0, -1.0]
    assert len(solution.minima) == 3
    assert bool(solution.success.all())


def test_shared_control_of_several_trajectories() -> None:
    problem = double_well([0.1, 0.2], [[0.3], [0.2]], shared_control=True)
    solution = oc.solve(problem, MultiStart(n=6), mesh=10)
    assert float(solution.x[-1].max()) < 0
    assert solution.u.shape == (10, 1, 1)


@pytest.mark.parametrize("inner", [oc.MSA(), oc.DirectShooting(), oc.SQH()])
def test_any_inner_solver(inner: oc.Solver) -> None:
    solution = solve_quietly(regulator(), MultiStart(inner, n=4), mesh=10)
    assert solution.status == [Status.CONVERGED]
    assert solution.minima[0][0][1] == 4


def test_constrained_problem_gets_a_constrained_solver() -> None:
    problem = double_well(path_constraint=oc.Constraint(lambda t, x: x, -0.5, math.inf))
    solution = oc.solve(problem, MultiStart(n=4), mesh=10)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.x.min()) >= -0.5 - 1e-5
    assert set(solution.multipliers) == {"path_constraint"}
    assert solution.violations["path_constraint"].shape == (1, 1)


def test_runs_are_reproducible() -> None:
    first, second = (oc.solve(double_well(), MultiStart(n=4, seed=3), mesh=10) for _ in range(2))
    assert torch.equal(first.u, second.u)


@pytest.mark.parametrize(
    "control_set",
    [
        oc.Box([-1.0, 0.0], [2.0, math.inf]),
        oc.Unconstrained(2),
        oc.Ball(2.0, 2),
        oc.FiniteSet([[0.0, 1.0], [2.0, 3.0], [1.0, 1.0]]),
        oc.Product(oc.Box(0.0, 1.0), oc.FiniteSet([[-1.0], [1.0]])),
    ],
)
def test_starts_are_admissible_and_of_every_kind(control_set: oc.ControlSet) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: 0.0 * x, initial_state=[0.0], horizon=(1.0, 3.0), control_set=control_set
    )
    starts = _Starts(MultiStart(n=13), problem, Discretization(mesh=5), None)
    times = torch.linspace(1.0, 3.0, 41, dtype=torch.float64)
    u = torch.stack([starts.together(t) for t in times])  # (T, n, m)
    assert u.shape == (41, 13, 2)
    assert float(control_set.residual(u).max()) <= 1e-12
    jumps = (u.diff(dim=0) != 0).any(-1).sum(0)  # (n,)
    assert bool((jumps[1::3] == 0).all())  # constant
    assert bool((jumps[3::3] <= 3).all())  # bang-bang
    assert not torch.equal(u[:, 1], u[:, 4])


def test_failure_of_every_start_is_told() -> None:
    def explode(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u + 1e3 * x**3

    problem = oc.OptimalControlProblem(explode, initial_state=[1.0], horizon=(0.0, 1.0), control_set=oc.Box(-1.0, 1.0))
    solution = solve_quietly(problem, MultiStart(n=3), mesh=10)
    assert solution.status == [Status.INTEGRATION_FAILED]
    assert solution.minima == [[]]
    assert "none of 3 starts succeeded" in solution.message


def test_limits() -> None:
    assert solve_quietly(double_well(), MultiStart(n=3), mesh=10, max_seconds=0.0).status == [Status.MAX_SECONDS]
    stopped = oc.solve(mild_problem(False), MultiStart(n=3), mesh=10, callback=lambda k, iterate: True)
    assert set(stopped.status) == {Status.STOPPED}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"solver": "emsa"}, "MultiStart solver: expected a Solver, got 'emsa'"),
        ({"n": 0}, "MultiStart n: expected an int ≥ 1, got 0"),
        ({"seed": 0.5}, "MultiStart seed: expected an int, got 0.5"),
        ({"scale": -1.0}, "MultiStart scale: expected a positive number, got -1.0"),
    ],
)
def test_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(oc.InputError, match=text):
        MultiStart(**arguments)


def test_collocation_from_several_starts() -> None:
    problem = luus_reactor.build().problem
    solution = oc.solve(problem, MultiStart(oc.Collocation(), n=4))
    assert solution.problem is problem
    assert float(solution.cost) == pytest.approx(0.13309573, abs=1e-7)
    assert solution.pieces is not None
    assert solution.control([0.1, 0.2]).shape == (2, 1, 1)
