"""Structure of controls and sum-up rounding: switching times of closed forms, singular arcs, chattering, integrals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import mild_problem, solve_quietly
from torch import Tensor

import ocsolver as oc
from ocsolver import arcs as structure
from ocsolver.solvers import collocated
from problems import aly_chan, chattering, consumption, fishing, jackson, linear_pendulum, van_der_pol_bounded

Status = oc.Status
PENDULUM = [5.0 - k * math.pi / math.sqrt(6.0) for k in (3, 2, 1)]  # zeros of sin √6(5 − t)


def with_control(u: Any, *, control_set: oc.ControlSet | None = None, N: int | None = None) -> oc.Solution:
    """A solution with a given control of ẋ = u on [0, 1]."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0) if control_set is None else control_set,
    )
    u = torch.tensor(u, dtype=torch.float64).reshape(-1, 1, 1)
    return oc.solve(problem, mesh=len(u), initial_control=u, max_iterations=0, tolerance=None)


# ----------------------------------------------------------------------------------------------------------- switches


@pytest.mark.parametrize("solver", [oc.EMSA(), oc.MSA(), oc.SQH(), oc.DirectShooting(), oc.Collocation()])
def test_switching_times_of_the_pendulum(solver: oc.Solver) -> None:
    solution = oc.solve(linear_pendulum.build().problem, solver)
    found = oc.find_arcs(solution).switches[0]
    assert [component for _, component in found] == [0, 0, 0]
    assert [time for time, _ in found] == pytest.approx(PENDULUM, abs=0.03)  # intervals have length 0.05
    assert not any(solution.singular)


def test_switch_inside_an_interval_is_placed_by_the_mean() -> None:
    arcs = oc.find_arcs(with_control([1.0, 1.0, 0.5, -1.0, -1.0]))
    assert arcs.switches == [[(pytest.approx(0.4 + 0.2 * 0.75), 0)]]


def test_continuous_controls_have_no_switches() -> None:
    solution = oc.solve(van_der_pol_bounded.build().problem, oc.EMSA())  # enters and leaves its bound without a jump
    assert solution.switches == [[]]
    assert solution.singular == [[]]
    assert oc.solve(mild_problem(False), oc.EMSA()).switches == [[]] * 5


def test_every_component_counts() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u, initial_state=[0.0, 0.0], horizon=(0.0, 1.0), control_set=oc.Box([0.0, -1.0], [1.0, 1.0])
    )
    u = torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]], [[1.0, -1.0]], [[1.0, -1.0]]], dtype=torch.float64)
    solution = oc.solve(problem, mesh=4, initial_control=u, max_iterations=0, tolerance=None)
    assert solution.switches == [[(0.25, 1), (0.5, 0)]]
    assert "switches" in solution.summary()


def test_groups_have_their_own_arcs() -> None:
    reference = consumption.build(initial_state=[[1.0], [2.0]])
    solution = oc.solve(reference.problem, oc.EMSA())
    assert len(solution.switches) == 2
    for events in solution.switches:
        assert [time for time, _ in events] == pytest.approx([0.5], abs=0.016)


# ------------------------------------------------------------------------------------------------------ singular arcs


@pytest.mark.parametrize("solver", [oc.EMSA(), oc.Collocation()])
def test_totally_singular_problem(solver: oc.Solver) -> None:
    solution = oc.solve(aly_chan.build().problem, solver)  # u = −sin t reaches its bound at the end
    ((t0, t1, component),) = oc.find_arcs(solution).singular[0]
    assert (t0, component) == (0.0, 0)
    assert t1 == pytest.approx(0.5 * math.pi, abs=0.1)


@pytest.mark.parametrize(("module", "first", "last"), [(jackson, 0.16, 3.72), (fishing, 3.96, 10.9)])
def test_singular_arc_in_the_middle_is_reported(module: Any, first: float, last: float) -> None:
    solution = oc.solve(module.build().problem, oc.EMSA())
    ((t0, t1, _),) = solution.singular[0]
    assert t0 == pytest.approx(first, abs=0.15)
    assert t1 == pytest.approx(last, abs=0.3)
    assert f"u[0] is singular on [{t0:.5g}, {t1:.5g}]" in solution.message


def test_regular_arcs_inside_the_bounds_are_not_singular() -> None:
    """H is strictly concave: ∂H/∂u vanishes along the arc, but moving u changes H."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-5.0, 5.0),
    )
    assert oc.solve(problem, oc.EMSA()).singular == [[]]


# --------------------------------------------------------------------------------------------------------- chattering


def test_chattering_is_located_and_averaged() -> None:
    u = [1.0] * 10 + [1.0, -1.0, 0.9999] * 10 + [-1.0] * 10
    arcs = oc.find_arcs(with_control(u))
    ((t0, t1, component),) = arcs.chattering[0]
    assert (t0, t1, component) == (pytest.approx(0.2), pytest.approx(0.8, abs=0.03), 0)
    middle = arcs.averaged[20:30, 0, 0]
    assert float((middle - 1 / 3).abs().max()) < 0.2  # two thirds up, one third down
    torch.testing.assert_close(arcs.averaged[:10, 0, 0], torch.ones(10, dtype=torch.float64))
    assert arcs.notes[0].startswith("u[0] chatters on [0.2, ")


def test_switches_that_grow_with_the_mesh_are_reported() -> None:
    """A46 has no minimizer: inf J = −½ is approached by faster and faster switching."""
    problem = chattering.build().problem
    coarse, fine = (solve_quietly(problem, mesh=N) for N in (50, 200))
    arcs = oc.find_arcs(coarse, fine)
    assert arcs.grows == [True]
    assert "the number of switches grows with the mesh" in arcs.notes[0]
    assert coarse.status == [Status.STALLED]
    assert "oc.find_arcs(solution, finer) tells if that grows with N" in coarse.message
    pendulum = linear_pendulum.build().problem
    assert oc.find_arcs(oc.solve(pendulum, oc.EMSA()), oc.solve(pendulum, mesh=200)).grows == [False]


def test_failed_groups_have_no_arcs() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u + 1e3 * x**3, initial_state=[1.0], horizon=(0.0, 1.0), control_set=oc.Box(-1.0, 1.0)
    )
    solution = solve_quietly(problem, mesh=10)
    assert not bool(solution.success)
    assert solution.singular == [[]]


def test_refuses() -> None:
    solution = with_control([1.0, -1.0])
    with pytest.raises(oc.InputError, match=r"find_arcs tolerance: expected a number in \(0, 1\), got 2.0"):
        oc.find_arcs(solution, tolerance=2.0)
    with pytest.raises(oc.UnsupportedError, match="find_arcs: expected a solution that knows its problem"):
        oc.find_arcs(replace(solution, problem=None))


# ----------------------------------------------------------------------------------------------------------- rounding


def test_rounding_reaches_the_infimum_of_fishing() -> None:
    relaxed = oc.solve(fishing.build().problem, mesh=400)
    problem = fishing.build(binary=True).problem
    costs, counts = [], []
    for N in (160, 640):
        rounded = oc.sum_up_rounding(relaxed, problem, mesh=N)
        assert set(rounded.u.unique().tolist()) == {0.0, 1.0}
        assert rounded.problem is problem
        assert rounded.status == [Status.COMPLETED]
        costs.append(float(rounded.cost))
        counts.append(len(rounded.switches[0]))
        assert f"{counts[-1]} switches after sum-up rounding" in rounded.message
    assert costs[1] == pytest.approx(1.344083, abs=1e-4)
    assert costs[0] > costs[1]
    assert counts[0] < counts[1]


def test_rounding_keeps_the_integral() -> None:
    """|∫(u − v)| ≤ h/2 for two values: the nearest value is taken each time."""
    s = torch.linspace(0.0, 1.0, 51, dtype=torch.float64)[:-1] + 0.01
    relaxed = with_control((torch.sin(3.0 * s)).tolist())
    points = oc.OptimalControlProblem(
        lambda t, x, u: u, initial_state=[0.0], horizon=(0.0, 1.0), control_set=oc.FiniteSet([-1.0, 1.0])
    )
    rounded = oc.sum_up_rounding(relaxed, points, mesh=100)
    inside = relaxed.control((torch.arange(100, dtype=torch.float64) + 0.5) / 100)
    gap = ((inside - rounded.u) * 0.01).cumsum(0)
    assert float(gap.abs().max()) <= 0.01 + 1e-12


def test_rounding_of_several_components() -> None:
    relaxed = oc.solve(fishing.build(efforts=2).problem, oc.EMSA())
    rounded = oc.sum_up_rounding(relaxed, fishing.build(efforts=2, binary=True).problem)
    assert rounded.u.shape == (400, 1, 2)
    assert float(rounded.cost) == pytest.approx(1.08801, abs=2e-3)


def test_rounding_measures_constraints() -> None:
    def problem(control_set: oc.ControlSet) -> oc.OptimalControlProblem:
        return oc.OptimalControlProblem(
            lambda t, x, u: u,
            lambda t, x, u: (x[..., 0] - 0.5 * t) ** 2,
            initial_state=[0.0],
            horizon=(0.0, 1.0),
            control_set=control_set,
            terminal_constraint=oc.Constraint(lambda x: x, 0.5, 0.5),
        )

    relaxed = solve_quietly(problem(oc.Box(0.0, 1.0)), oc.AugmentedLagrangian(), mesh=25)
    rounded = oc.sum_up_rounding(relaxed, problem(oc.FiniteSet([0.0, 1.0])))
    assert 0.0 <= float(rounded.violations["terminal_constraint"]) <= 0.011


def test_exact_maximization_on_two_points() -> None:
    """A37 with U = {−2, 2}: the optimum of the interval, by exact pointwise maximization."""
    reference = linear_pendulum.build()
    base = reference.problem
    points = oc.OptimalControlProblem(
        base.dynamics,
        terminal_cost=base.terminal_cost,
        initial_state=base.initial_state,
        horizon=base.horizon,
        control_set=oc.FiniteSet([-2.0, 2.0]),
    )
    mesh = oc.Mesh([0.0, *(time / 5.0 for time in PENDULUM), 1.0])
    fine = torch.cat(
        [torch.linspace(a, b, 21).double()[:-1] for a, b in zip(mesh.nodes[:-1], mesh.nodes[1:], strict=True)]
    )
    solution = oc.solve(points, mesh=oc.Mesh(torch.cat((fine, torch.ones(1).double()))))
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(reference.cost, abs=1e-4)  # error of RK4
    assert [time for time, _ in solution.switches[0]] == pytest.approx(PENDULUM, abs=1e-6)


def test_rounding_refuses() -> None:
    solution = with_control([1.0, -1.0])
    assert solution.problem is not None
    with pytest.raises(oc.InputError, match="sum_up_rounding problem: expected a discrete control set, got Box"):
        oc.sum_up_rounding(solution, solution.problem)

    def field(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u

    free = oc.OptimalControlProblem(
        field, initial_state=[0.0], horizon=(0.0, oc.FreeTime()), control_set=oc.FiniteSet([-1.0, 1.0])
    )
    with pytest.raises(oc.UnsupportedError, match="expected a fixed final time, got FreeTime"):
        oc.sum_up_rounding(solution, free)


def pushed(**changes: Any) -> oc.OptimalControlProblem:
    """A push between bounds, beside a mixed constraint."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - 0.2 * x[..., 0] ** 3), -1),
        lambda t, x, u: 1.0 + x.square().sum(-1) + u[..., 0] ** 2 * (1.2 + torch.sin(t)),
        control_set=oc.Box(-2.0, 2.0),
        path_constraint=oc.Constraint(lambda t, x, u: x[..., 1:] + 0.3 * u, -0.6, 10.0),
        **{"initial_state": [1.0, 0.0], "horizon": (0.5, 2.0), **changes},
    )


@pytest.mark.parametrize(
    "problem",
    [
        pushed(),
        pushed(horizon=(0.5, oc.FreeTime(guess=1.0)), terminal_constraint=oc.Constraint(lambda x: x[..., :1])),
        pushed(initial_state=[[1.0, 0.0], [0.5, -0.3]]),
        pushed(initial_state=[[1.0, 0.0], [0.5, -0.3]], shared_control=True),
    ],
    ids=["plain", "free time", "batch", "shared control"],
)
def test_collocation_knows_the_slopes_of_h(monkeypatch: pytest.MonkeyPatch, problem: oc.OptimalControlProblem) -> None:
    """They are those that torch finds in the solution."""
    asked: list[Any] = []

    def asking(solution: oc.Solution, slopes: Any, sides: Any) -> oc.Solution:
        asked.append(slopes)
        return solution

    monkeypatch.setattr(collocated, "with_arcs", asking)
    solution = oc.solve(problem, oc.Collocation())
    move = np.array([1.0])
    truth = structure._slopes(problem, solution, move)
    if asked[0](move) is None:  # H is curved so much that nobody needs to know
        change = np.abs(truth[0]).max(0) * move / structure.FURTHER
        assert (change > 10 * structure.TOLERANCE * float(solution.cost.abs().max())).all()
    monkeypatch.setattr(collocated, "_curved", lambda campaign, move: False)
    for mine, exact in zip(asked[0](move), truth, strict=True):
        assert np.abs(exact).max() > 0.1
        np.testing.assert_allclose(mine, exact, rtol=1e-8, atol=1e-10)
