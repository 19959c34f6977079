"""Starts from a solution of the same problem: nothing is set up anew, and the answer is that of a run from scratch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation import starts
from ocsolver.collocation.camp import Camp
from ocsolver.collocation.jumps import around, enclosed_jumps, warp
from ocsolver.collocation.switches import Switch
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Mesh
from ocsolver.problem import changed, differ_by_start
from ocsolver.solvers.collocation import Collocation
from ocsolver.solvers.recalled import Memory, without_narrow
from problems import (
    brachistochrone,
    bryson_denham,
    free_time_regulator,
    minimum_time,
    neural_ode_xor,
    van_der_pol_bounded,
)


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problems that were set up from scratch."""
    seen: list[Any] = []
    real = Collocation._statements

    def statements(self: Collocation, problem: Any, *rest: Any) -> Any:
        seen.append(problem)
        return real(self, problem, *rest)

    monkeypatch.setattr(Collocation, "_statements", statements)
    return seen


@pytest.mark.parametrize(
    "module",
    [brachistochrone, bryson_denham, free_time_regulator, minimum_time, neural_ode_xor, van_der_pol_bounded],
    ids=lambda module: module.__name__.rpartition(".")[-1],
)
def test_the_same_problem_from_another_state_is_not_set_up_again(module: ModuleType, set_up: list[Any]) -> None:
    """With free times, switches, constraints on states, ensembles."""
    problem = module.build().problem
    moved = problem.initial_state + 0.01 * torch.ones_like(problem.initial_state)
    near = changed(problem, initial_state=moved)
    start = oc.solve(problem, oc.Collocation(), tolerance=1e-7)
    warm = oc.solve(near, oc.Collocation(), tolerance=1e-7, initial_control=start)
    assert set_up == [problem]
    cold = oc.solve(near, oc.Collocation(), tolerance=1e-7)
    assert float(warm.cost) == pytest.approx(float(cold.cost), abs=2e-6 * max(1.0, abs(float(cold.cost))))
    torch.testing.assert_close(warm.x[0], moved)
    assert warm.stats.iterations <= cold.stats.iterations
    assert warm.problem is near


def oscillator(state: Any, t0: float, bound: float = 1.0) -> oc.OptimalControlProblem:
    return oc.OptimalControlProblem(
        rates, effort, initial_state=state, horizon=(t0, t0 + 4.0), control_set=oc.Box(-bound, bound)
    )


def rates(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.stack((x[..., 1], u[..., 0] - torch.sin(x[..., 0]) + 0.1 * torch.sin(t)), -1)


def effort(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return x.square().sum(-1) + 0.1 * u[..., 0] ** 2


def test_a_receding_horizon_is_the_same_problem(set_up: list[Any]) -> None:
    """Though its statement is made anew each time, of the same functions."""
    plan, state = oc.solve(oscillator([1.5, 0.0], 0.0), oc.Collocation(), tolerance=1e-7), torch.tensor([1.5, 0.0])
    for k in range(1, 5):
        state = plan.state(0.5 * k)[0, 0]
        plan = oc.solve(oscillator(state, 0.5 * k), oc.Collocation(), tolerance=1e-7, initial_control=plan)
        fresh = oc.solve(oscillator(state, 0.5 * k), oc.EMSA(), mesh=400, tolerance=1e-7)
        assert float(plan.t[0, 0]) == 0.5 * k
        assert float(plan.cost) == pytest.approx(float(fresh.cost), abs=1e-4)
    assert len(set_up) == 1


def test_other_problems_are_set_up() -> None:
    one = oscillator([1.5, 0.0], 0.0)
    for other, same in (
        (oscillator([1.0, 0.5], 3.0), True),
        (oscillator([1.5, 0.0], 0.0, bound=0.9), False),
        (oscillator([[1.5, 0.0], [1.0, 0.0]], 0.0), False),
        (changed(one, running_cost=lambda t, x, u: effort(t, x, u)), False),
        (changed(one, terminal_constraint=oc.Constraint(lambda x: x[..., :1])), False),
        (changed(one, initial_state=oc.FreeInitialState([1.5, 0.0], [1.0, 0.0], [2.0, 0.0])), False),
        (changed(one, initial_state=one.initial_state.float()), False),
    ):
        assert differ_by_start(one, other) is same
        assert differ_by_start(other, one) is same
    timed = minimum_time.build().problem
    assert differ_by_start(timed, changed(timed, initial_state=[-2.0, 0.0]))
    assert not differ_by_start(timed, changed(timed, horizon=(0.5, timed.free_time)))


def weighed(weight: dict[str, float]) -> oc.OptimalControlProblem:
    """A regulator whose effort has a weight that may change: J* = ½ √w tanh(1 / √w)."""
    return oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * (x[..., 0] ** 2 + weight["u"] * u[..., 0] ** 2),
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )


def test_functions_that_have_changed_are_read_again(set_up: list[Any]) -> None:
    weight = {"u": 1.0}
    problem = weighed(weight)
    first = oc.solve(problem, oc.Collocation())
    assert float(first.cost) == pytest.approx(0.5 * np.tanh(1.0), abs=1e-8)
    weight["u"] = 4.0
    second = oc.solve(problem, oc.Collocation(), initial_control=first)
    assert float(second.cost) == pytest.approx(np.tanh(0.5), abs=1e-8)
    assert len(set_up) == 2


def test_what_does_not_agree_with_the_recording_is_never_trusted(set_up: list[Any]) -> None:
    """However often it is asked, and only until it is again what it was."""
    weight = {"u": 1.0}
    problem = weighed(weight)
    first = oc.solve(problem, oc.Collocation())
    for value, cost in ((4.0, np.tanh(0.5)), (1.0, 0.5 * np.tanh(1.0)), (4.0, np.tanh(0.5))):
        weight["u"], before = value, len(set_up)
        for _ in range(3):
            solution = oc.solve(problem, oc.Collocation(), initial_control=first)
            assert float(solution.cost) == pytest.approx(cost, abs=1e-8)
        assert len(set_up) - before == (3 if value == 4.0 else 0)


def test_batches_are_remembered(set_up: list[Any]) -> None:
    """Every group has the horizon of its own problem, in fewer iterations than from scratch."""
    functions = oscillator([[1.5, 0.0], [1.0, 0.0]], 0.0)
    first = oc.solve(functions, oc.Collocation())
    other = changed(functions, initial_state=torch.tensor([[1.4, 0.05], [1.1, -0.05]]).double())
    again = oc.solve(other, oc.Collocation(), initial_control=first)
    assert len(set_up) == 1
    fresh = oc.solve(other, oc.Collocation())
    assert again.status == fresh.status == [oc.Status.CONVERGED] * 2
    assert again.stats.iterations < fresh.stats.iterations
    torch.testing.assert_close(again.cost, fresh.cost, rtol=1e-7, atol=0.0)
    torch.testing.assert_close(again.x[0], other.initial_state)


def test_only_what_has_converged_is_remembered(tmp_path: Path) -> None:
    problem = oscillator([1.5, 0.0], 0.0)
    solution = oc.solve(problem, oc.Collocation())
    assert isinstance(solution.memory, Memory)
    solution.save(tmp_path / "plan.npz")
    assert oc.load(tmp_path / "plan.npz", problem=problem).memory is None
    assert solve_quietly(problem, oc.Collocation(), max_iterations=2).memory is None
    again = oc.solve(problem, oc.Collocation(stages=4), initial_control=solution)
    assert float(again.cost) == pytest.approx(float(solution.cost), abs=1e-7)


def test_narrow_intervals_are_left_out() -> None:
    nodes = np.array([0.0, 0.001, 0.3, 0.301, 0.6, 0.999, 1.0])
    assert without_narrow(nodes).tolist() == [0.0, 0.3, 0.6, 1.0]


def test_a_start_that_leads_nowhere_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is repeated from scratch, on a mesh of its own, and its history goes on."""
    problem = van_der_pol_bounded.build().problem
    first = oc.solve(problem, oc.Collocation())
    fresh = oc.solve(van_der_pol_bounded.build(initial_state=[0.9, 0.3]).problem, oc.Collocation())
    monkeypatch.setattr(starts, "_start_warm", useless)
    for start in (first, replace(first, memory=None)):
        other = changed(problem, initial_state=torch.tensor([[0.9, 0.3]]).double())
        solution = oc.solve(other, oc.Collocation(), initial_control=start)
        assert solution.status == [oc.Status.CONVERGED]
        assert solution.stats.iterations > fresh.stats.iterations
        torch.testing.assert_close(solution.cost, fresh.cost, rtol=1e-7, atol=0.0)
        np.testing.assert_array_equal(solution.t.shape, fresh.t.shape)


def useless(camp: Camp, mesh: Mesh, warm: starts.Start, barrier: float) -> None:
    """A start in a corner of the set, with costates that know nothing, so far off that no step passes."""
    REAL(camp, mesh, warm._replace(x=1e8 + warm.x, nodes=1e8 + warm.nodes, p=1e30 * warm.p), barrier)


REAL = starts._start_warm


# ---------------------------------------------------------------------------------------------------------- jumps


def fraction_of_switch(x: float, v: float) -> float:
    """When, as a fraction of the minimal time, a double integrator left of the origin begins to brake."""
    top = math.sqrt(0.5 * v**2 - x)  # largest speed
    return (top - v) / (2.0 * top - v)


INTEGRATOR = minimum_time.build().problem


def double_integrator_at(x: float, v: float) -> oc.OptimalControlProblem:
    return changed(INTEGRATOR, initial_state=torch.tensor([[x, v]], dtype=torch.float64))


@pytest.mark.parametrize(("x", "v"), [(-1.0, 0.02), (-1.0, -0.05), (-1.1, 0.0), (-0.9, 0.1)])
def test_jumps_move_as_their_sensitivity_says(x: float, v: float) -> None:
    """One Newton step tells the time of a switch but for the square of the change."""
    memory = oc.solve(double_integrator_at(-1.0, 0.0), oc.Collocation(), tolerance=1e-7).memory
    assert isinstance(memory, Memory)
    posed = memory.posed(double_integrator_at(x, v), 3)
    assert posed is not None
    assert posed.warm is not None
    (switch,) = posed.warm.jumps
    change = (x + 1.0) ** 2 + v**2
    assert switch.time == pytest.approx(fraction_of_switch(x, v), abs=0.25 * change + 1e-5)
    nodes = posed.nodes[:, 0]
    for edge in (switch.time - switch.width, switch.time, switch.time + switch.width):
        assert np.abs(nodes - edge).min() < 1e-9
    assert np.diff(nodes).min() > 0


def test_one_mesh_after_the_other_encloses_the_jump() -> None:
    """A chain of warm starts needs no second mesh, and finds the time of the switch as a run from scratch."""
    solution = oc.solve(double_integrator_at(-1.0, 0.0), oc.Collocation(), tolerance=1e-7)
    for k in range(1, 5):
        x, v = -1.0 + 0.02 * k, 0.01 * k
        solution = oc.solve(double_integrator_at(x, v), oc.Collocation(), tolerance=1e-7, initial_control=solution)
        assert bool(solution.success.all())
        assert solution.stats.sweeps["meshes"] == 1
        ((time, component),) = solution.switches[0]
        top = math.sqrt(0.5 * v**2 - x)
        assert component == 0
        assert time == pytest.approx(top - v, abs=2e-3)
        assert float(solution.cost) == pytest.approx(2.0 * top - v, abs=1e-6)


def test_from_the_other_side_the_jump_is_another_one() -> None:
    """What is said of jumps is true nearby only; elsewhere the answer is right all the same."""
    start = oc.solve(double_integrator_at(-1.0, 0.0), oc.Collocation(), tolerance=1e-7)
    far = oc.solve(double_integrator_at(1.0, 0.0), oc.Collocation(), tolerance=1e-7, initial_control=start)
    assert bool(far.success.all())
    assert float(far.cost) == pytest.approx(2.0, abs=1e-6)


def test_nodes_do_not_follow_jumps_that_meet() -> None:
    """Nor those that come too near to an end, or leave too long an interval behind."""
    first, second = (Switch(time, 0, 0.01, 0.1) for time in (0.4, 0.6))
    jumps = around([first, second])
    ways = warp((0.0, 1.0), jumps, around([first._replace(time=0.45), second]))
    assert ways is not None
    before, after = ways
    assert before == pytest.approx([0.0, 0.39, 0.4, 0.41, 0.59, 0.6, 0.61, 1.0])
    assert after == pytest.approx([0.0, 0.44, 0.45, 0.46, 0.59, 0.6, 0.61, 1.0])
    for times in ((0.55, 0.6), (0.1, 0.6), (0.4, 0.9), (0.61, 0.6), (0.4, float("nan"))):
        moved = [switch._replace(time=time) for switch, time in zip((first, second), times, strict=True)]
        assert warp((0.0, 1.0), jumps, around(moved)) is None


def driven(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.stack((x[..., 1], u[..., 0] - x[..., 0]), -1)


def nothing(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.zeros_like(x[..., 0])


def half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1)


def swing_at(x: float, v: float) -> oc.OptimalControlProblem:
    return oc.OptimalControlProblem(
        driven, nothing, half_square, initial_state=[x, v], horizon=(0.0, 5.0), control_set=oc.Box(-1.0, 1.0)
    )


@pytest.mark.parametrize("move", [0.01, 0.1])
def test_jumps_that_nothing_but_their_costs_ties_to_their_times(move: float) -> None:
    """Free ends: u is −sign p₂, with p₂ a sine whose phase is that of the final state."""
    start = oc.solve(swing_at(6.0, 2.0), oc.Collocation(), tolerance=1e-6)
    far = oc.solve(swing_at(6.0 + move, 2.0 - move), oc.Collocation(), tolerance=1e-6)
    near = oc.solve(swing_at(6.0 + move, 2.0 - move), oc.Collocation(), tolerance=1e-6, initial_control=start)
    memory = start.memory
    assert isinstance(memory, Memory)
    posed = memory.posed(swing_at(6.0 + move, 2.0 - move), 3)
    assert posed is not None
    assert posed.warm is not None
    x1, x2 = far.x[-1, 0].tolist()
    root = 5.0 - math.atan2(-x2, x1) % math.pi  # p = x(T) turned backwards
    for switch, time in zip(posed.warm.jumps, (root - math.pi, root), strict=True):
        assert switch.time == pytest.approx(time, abs=move**2 + 1.1e-3)  # as near as the enclosure is wide
    assert near.stats.sweeps["meshes"] == 1
    assert near.stats.iterations < 10
    assert float(near.cost) == pytest.approx(float(far.cost), abs=2e-6)


def test_jumps_at_the_same_time_are_left_alone() -> None:
    """A mesh that does not tell one from the other knows nothing of where they go."""
    mesh = Mesh(np.array([0.0, 0.3, 0.39, 0.4, 0.41, 0.7, 1.0])[:, None], gauss(3))
    u = np.where(mesh.points < 0.4, -1.0, 1.0)[..., None].repeat(2, -1)
    slope = (mesh.points - 0.4)[..., None].repeat(2, -1)
    bounds = np.full(2, -1.0), np.ones(2)
    one, other = Switch(0.4, 0, 0.01, 0.1), Switch(0.4, 1, 0.01, 0.1)
    (jump,) = enclosed_jumps(mesh, u, slope, bounds, [one])
    assert jump.time == pytest.approx(0.4)
    assert (jump.component, jump.nodes, jump.rise) == (0, (0.39, 0.4, 0.41), 2.0)
    assert jump.pull == pytest.approx(1.0)
    assert jump.centered == pytest.approx((0.4, 0, 0.01, 0.02))
    assert enclosed_jumps(mesh, u, slope, bounds, [one, other]) == []
    assert enclosed_jumps(mesh, u, slope, bounds, [Switch(0.4, 2, 0.01, 0.1)]) == []  # of a path constraint
    assert enclosed_jumps(mesh, u, slope, (-np.full(2, np.inf), np.full(2, np.inf)), [one]) == []


def test_the_edge_of_a_singular_arc_has_no_rate() -> None:
    """And a control between the two values tells the time better than ∂H/∂u does."""
    mesh = Mesh(np.array([0.0, 0.3, 0.39, 0.4, 0.41, 0.7, 1.0])[:, None], gauss(3))
    u, slope = np.where(mesh.points < 0.4, -1.0, 1.0)[..., None], (mesh.points - 0.4)[..., None]
    u[2] = -0.5  # jumps before ∂H/∂u vanishes
    bounds, switch = (np.full(1, -1.0), np.ones(1)), Switch(0.4, 0, 0.01, 0.1)
    (jump,) = enclosed_jumps(mesh, u, slope, bounds, [switch])
    assert jump.time == pytest.approx(0.3975)
    assert jump.centered.time == pytest.approx(0.4)  # near enough to the middle
    u[2] = 1.0
    u[1, 2] = -1.0
    (jump,) = enclosed_jumps(mesh, u, slope + 0.008, bounds, [switch])
    assert jump.time == pytest.approx(0.392)
    assert jump.centered.time == pytest.approx(0.392)
    (edge,) = enclosed_jumps(mesh, u, np.where(slope < 0.0, slope, 0.0), bounds, [switch])
    assert edge.pull == 0.0
