"""What `solve` does without a solver: where collocation alone is lost, E-MSA finds the basin."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers import automatic
from ocsolver.solvers.base import Limits


def treatment() -> oc.OptimalControlProblem:
    """Drugs against HIV, like D. Kirschner, S. Lenhart, S. Serbin, J. Math. Biol. 35 (1997): cells, infected, virus.

    A virus count of −1 is a pole of the dynamics, and Newton's method on all states at once jumps across it.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        cells, infected, virus = x.unbind(-1)
        infections = 2.4e-5 * u[..., 0] * virus * cells
        growth = 10.0 / (1.0 + virus) + 0.03 * cells * (1.0 - (cells + infected) / 1500.0) - 0.02 * cells
        return torch.stack((growth - infections, infections - 0.5 * infected, 600.0 * infected - 4.4 * virus), -1)

    return oc.OptimalControlProblem(
        dynamics,
        lambda t, x, u: 50.0 * (1.0 - u[..., 0]) ** 2 - x[..., 0],
        initial_state=torch.tensor([800.0, 0.04, 1.5], dtype=torch.float64),
        horizon=(0.0, 20.0),
        control_set=oc.Box([0.0], [1.0]),
    )


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_emsa_finds_the_basin_also_within_a_time(max_seconds: float | None) -> None:
    solution = oc.solve(treatment(), max_seconds=max_seconds)
    assert solution.status == [oc.Status.CONVERGED]
    certificate = solution.certificate
    assert float(certificate.cost_error) < 1e-4  # that of E-MSA on its mesh alone is 0.2
    assert float(certificate.mean_gap) < 1e-6 * abs(float(solution.cost))


def test_no_other_start_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(automatic.time, "perf_counter", lambda: now[0])
    run = automatic.Collocation.run
    seconds = []

    def slow(self: oc.Collocation, problem: object, discretization: object, start: object, limits: object) -> object:
        seconds.append(limits.max_seconds)  # type: ignore[attr-defined]
        now[0] += 4.0
        return run(self, problem, discretization, start, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(automatic.Collocation, "run", slow)
    monkeypatch.setattr(automatic, "_hopeless", lambda *_: True)
    oc.solve(treatment(), max_seconds=10.0)
    assert seconds == [10.0, 6.0, 2.0]


def test_random_starts_are_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once, each with as many iterations as all other attempts together."""
    run = automatic.Collocation.run
    seen: list[tuple[int, int]] = []

    def watched(self: oc.Collocation, problem: Any, discretization: Any, start: Any, limits: Limits) -> oc.Solution:
        seen.append((problem.groups, limits.max_iterations))
        return run(self, problem, discretization, start, limits)

    monkeypatch.setattr(automatic.Collocation, "run", watched)
    monkeypatch.setattr(automatic, "_hopeless", lambda *_: True)
    begin = time.perf_counter()
    solution = oc.solve(treatment(), max_iterations=1000)
    elapsed = time.perf_counter() - begin
    assert 0.8 * elapsed < solution.stats.seconds["total"] <= elapsed  # of all attempts
    assert seen[0] == (1, 700)
    assert all(groups == 1 and most < 1000 for groups, most in seen[1:-1])
    assert seen[-1] == (automatic.STARTS, 1000)
    assert solution.status == [oc.Status.CONVERGED]


def test_all_attempts_keep_the_mesh_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = automatic.Collocation.run
    meshes: list[Any] = []

    def watched(self: oc.Collocation, problem: Any, discretization: Any, start: Any, limits: Limits) -> oc.Solution:
        meshes.append(discretization.mesh)
        return run(self, problem, discretization, start, limits)

    monkeypatch.setattr(automatic.Collocation, "run", watched)
    monkeypatch.setattr(automatic, "_hopeless", lambda *_: True)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-2.0, 2.0),
        terminal_constraint=oc.Constraint(lambda x: x, [1.0], [1.0]),
    )
    assert oc.solve(problem, mesh=7).success.all()
    assert len(meshes) == 5  # the first one, from E-MSA, two shares of the bounds, random ones
    assert set(meshes) == {7}


def test_who_interrupts_wants_no_other_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    run = automatic.Collocation.run

    def lost(self: oc.Collocation, problem: Any, discretization: Any, start: Any, limits: Limits) -> oc.Solution:
        starts.append(start)
        status = oc.Status.STALLED if start is None else oc.Status.INTERRUPTED
        return replace(run(self, problem, discretization, None, limits), status=[status], residual=torch.ones(1))

    monkeypatch.setattr(automatic.Collocation, "run", lost)
    monkeypatch.setattr(automatic, "_better", lambda new, old: False)
    solution = solve_quietly(treatment(), None)
    assert len(starts) == 2
    assert solution.status == [oc.Status.STALLED]


def outcome(status: oc.Status, cost: float, violation: float = 0.0) -> Any:
    violations = {"path_constraint": torch.tensor([violation])}
    certificate = SimpleNamespace(cost_error=torch.zeros(1))
    parts = {"status": [status], "success": torch.tensor([status >= 0]), "cost": torch.tensor([cost])}
    return SimpleNamespace(**parts, violations=violations, certificate=certificate)


def test_of_several_answers_the_best_one_counts() -> None:
    status = oc.Status
    order = [  # from the best to the worst
        outcome(status.CONVERGED, 1.0),
        outcome(status.CONVERGED, 2.0),
        outcome(status.STALLED, 1.0, 1e-6),
        outcome(status.STALLED, 0.5, 1e-3),
        outcome(status.NONFINITE, -9.0),
    ]
    for i, one in enumerate(order):
        assert [automatic._better(one, other) for other in order] == [j > i for j in range(len(order))]
    cut = outcome(status.MAX_SECONDS, 0.0)
    assert [automatic._better(cut, other) for other in order] == [False] * 2 + [True] * 3


@pytest.mark.slow
def test_a_solar_sail_finds_its_way() -> None:
    """From the orbit of the Earth to that of Mars: a Hamiltonian that is not concave, and several local minima.

    The model is that of C. McInnes, *Solar Sailing*, 1999, with a lightness number of 0.17; J is the time in units of
    1 / 2π years. Local minima with J = 7.07, 8.0 and more are what other starts end at.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        r, _, v, w = x.unbind(-1)
        push = 0.17 * torch.cos(u[..., 0]) ** 2 / r**2
        radial, across = push * torch.cos(u[..., 0]), push * torch.sin(u[..., 0])
        return torch.stack((v, w / r, w**2 / r - 1.0 / r**2 + radial, across - v * w / r), -1)

    mars = 1.524
    end = [mars, 0.0, mars**-0.5]
    problem = oc.OptimalControlProblem(
        dynamics,
        lambda t, x, u: torch.ones_like(x[..., 0]),
        initial_state=[1.0, 0.0, 0.0, 1.0],
        horizon=(0.0, oc.FreeTime(guess=6.0, lower=1.0, upper=30.0)),
        control_set=oc.Box([-1.5], [1.5]),
        terminal_constraint=oc.Constraint(lambda x: x[..., [0, 2, 3]], end, end),
    )
    solution = oc.solve(problem)
    assert solution.status == [oc.Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(6.99593, abs=1e-4)
    assert float(solution.certificate.mean_gap) < 1e-6


def test_what_no_control_keeps_from_blowing_up_says_so() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: x**2 + u,
        lambda t, x, u: (x**2 + u**2).sum(-1),
        initial_state=[3.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    solution = solve_quietly(problem, oc.Collocation(), max_iterations=200)
    assert solution.status == [oc.Status.INTEGRATION_FAILED]
    assert "state component 0 of trajectory 0 blows up between t = 0.4 and t = 0.44" in solution.message


def test_of_answers_that_violate_constraints_alike_one_says_that_they_cannot_be_met() -> None:
    def answer(status: oc.Status, violation: float) -> Any:
        return SimpleNamespace(
            status=[status],
            success=torch.tensor([status >= 0]),
            violations={"path_constraint": torch.tensor([[violation]])},
        )

    best, said = answer(oc.Status.MAX_ITERATIONS, 0.040), answer(oc.Status.INFEASIBLE, 0.041)
    assert automatic._infeasible(best, [best, said]) is said
    assert automatic._infeasible(best, [best, answer(oc.Status.INFEASIBLE, 0.2)]) is best
    assert automatic._infeasible(answer(oc.Status.STALLED, 1e-6), [said]) is not said
    done = answer(oc.Status.CONVERGED, 0.04)
    assert automatic._infeasible(done, [said]) is done
