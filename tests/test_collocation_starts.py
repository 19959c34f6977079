"""Problems on which trivial starts mislead: short guesses of the time, angles, obstacles, kinks of constraints."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import solve_quietly
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation import camp, campaign
from ocsolver.collocation.guess import constraint_scales, straight
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.switches import beyond_the_points, touched
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Mesh
from ocsolver.solvers.collocated import limits_of
from ocsolver.solvers.collocation import merit
from problems import brachistochrone, jackson, luus_reactor, tuberculosis, van_der_pol_bounded

Status = oc.Status


def clock(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.ones_like(u[..., 0])


def test_a_guess_of_the_time_that_is_too_short_is_stretched() -> None:
    """A pendulum with little torque has to swing four times to stand up; the optimum is that of its three switches."""
    gravity, torque = 9.81, 3.0
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], -gravity * torch.sin(x[..., 0]) + u[..., 0]), -1),
        clock,
        initial_state=[0.0, 0.0],
        horizon=(0.0, oc.FreeTime(guess=2.0)),
        control_set=oc.Box(-torque, torque),
        terminal_constraint=oc.Constraint(lambda x: x, [math.pi, 0.0], [math.pi, 0.0]),
    )
    solution = solve_quietly(problem, None)

    def end(times: np.ndarray) -> np.ndarray:
        y = np.zeros(2)
        for k, (a, b) in enumerate(zip((0.0, *times[:-1]), times, strict=True)):
            u = torque * (-1.0) ** k
            y = solve_ivp(
                lambda t, y, u=u: [y[1], -gravity * np.sin(y[0]) + u],
                (a, b),
                y,
                method="DOP853",
                rtol=1e-11,
                atol=1e-12,
            ).y[:, -1]
        return y - [math.pi, 0.0]

    first = [*(time for time, _ in solution.switches[0]), float(solution.cost)]
    exact = minimize(lambda times: times[-1], first, constraints={"type": "eq", "fun": end}, options={"ftol": 1e-13})
    assert solution.success.all()
    assert len(first) == 4
    assert float(solution.cost) == pytest.approx(exact.fun, rel=1e-5)


def test_angles_without_bounds_do_not_differ_by_turns() -> None:
    """Zermelo's boat in a current −x₂ (Bryson and Ho, 1975): tan θ grows linearly with time."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((torch.cos(u[..., 0]) - x[..., 1], torch.sin(u[..., 0])), -1),
        clock,
        initial_state=[3.66, -1.86],
        horizon=(0.0, oc.FreeTime()),
        control_set=oc.Unconstrained(1),
        terminal_constraint=oc.Constraint(lambda x: x),
    )
    solution = solve_quietly(problem, None)
    t = torch.linspace(0.0, float(solution.cost), 101, dtype=torch.float64)
    angle = solution.control(t).flatten()
    assert solution.success.all()
    assert float(angle.diff().abs().max()) < 0.2
    line = torch.tan(angle) - t
    assert float((line - line[-1]).abs().median()) < 1e-3
    assert float((angle / (2 * math.pi)).median().abs()) < 1.0


def test_shortest_way_around_an_obstacle() -> None:
    """Two tangents and an arc: with J = ∫|ẋ|² in unit time the optimum is the square of the length."""
    radius, start, goal = 0.5, (-1.0, 0.1), (1.0, 0.0)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: u.square().sum(-1),
        initial_state=start,
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(2),
        terminal_constraint=oc.Constraint(lambda x: x, goal, goal),
        path_constraint=oc.Constraint(lambda t, x: x.square().sum(-1, keepdim=True), radius**2, math.inf),
    )
    solution = solve_quietly(problem, None)
    ways = [math.hypot(*point) for point in (start, goal)]
    tangents = [math.sqrt(way**2 - radius**2) for way in ways]
    between = math.atan2(goal[1], goal[0]) - math.atan2(start[1], start[0])
    arc = abs(between) - sum(math.acos(radius / way) for way in ways)
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx((sum(tangents) + radius * arc) ** 2, rel=1e-6)
    assert float(solution.violations["path_constraint"].max()) <= 1e-6


def test_mixed_constraints_hold_where_they_become_active() -> None:
    """Rayleigh's circuit with −1 ≤ u + x₁/6 ≤ 0 has five junctions between the points of any mesh."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack(
            (x[..., 1], -x[..., 0] + x[..., 1] * (1.4 - 0.14 * x[..., 1] ** 2) + 4 * u[..., 0]), -1
        ),
        lambda t, x, u: u[..., 0] ** 2 + x[..., 0] ** 2,
        initial_state=[-5.0, -5.0],
        horizon=(0.0, 4.5),
        control_set=oc.Unconstrained(1),
        path_constraint=oc.Constraint(lambda t, x, u: u + x[..., :1] / 6, -1.0, 0.0),
    )
    solution = solve_quietly(problem, None)
    assert solution.success.all()
    assert solution.stats.iterations <= 80
    assert float(solution.violations["path_constraint"].max()) <= 1e-7
    # where the control that H alone asks for, u = 2 p₂, passes a side
    free = (2.0 * solution.p[:, 0, 1] + solution.x[:, 0, 0] / 6.0).numpy()
    for side, time in ((0.0, 1.2112686), (-1.0, 1.6930227), (-1.0, 2.7810000), (0.0, 3.0572061), (0.0, 4.2802317)):
        node = int(np.abs(solution.t[:, 0].numpy() - time).argmin())
        assert float(solution.t[node, 0]) == pytest.approx(time, abs=2e-7)
        assert abs(free[node] - side) <= 1e-5


def test_a_bound_that_holds_before_the_first_point_is_found() -> None:
    """Van der Pol from a state where u is at its bound for two thousandths of a second: no Gauss point sees that."""
    problem = van_der_pol_bounded.build(initial_state=[0.14269588, 1.46712339]).problem
    solution = oc.solve(problem, tolerance=1e-7)
    assert solution.success.all()
    assert float(solution.control(torch.zeros(1, dtype=torch.float64))) == pytest.approx(-0.75, abs=1e-5)
    assert float(solution.certificate.cost_error) <= 1e-6
    assert int((solution.t[:, 0] < 0.01).sum()) >= 3, "it is enclosed"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_controls_are_followed_beyond_the_points_of_the_outermost_intervals(sign: float) -> None:
    times, bounds = sign * np.array([0.1, 0.5, 0.9]), (-1.0, 1.0)
    u, free = 1.05 - 0.6 * np.abs(times), np.zeros(3, dtype=int)
    assert beyond_the_points(times, u, free, 0.0, 1.05, bounds) == pytest.approx([sign * 0.05 / 0.6])
    assert beyond_the_points(times, u - 0.1, free, 0.0, 0.95, bounds) == []
    assert beyond_the_points(times, np.array([1.0, 0.8, 0.6]), np.array([1, 0, 0]), 0.0, 1.05, bounds) == []
    assert beyond_the_points(times, u, free, 0.0, 1.05, (-np.inf, np.inf)) == []


def test_a_line_to_the_end_is_a_guess_where_a_simulation_is_none() -> None:
    """The free-flying robot of Sakawa, thrusting upwards when it should go sideways: J = 7.9101 (Betts, 2010)."""

    def field(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        _, _, angle, *speeds = x.unbind(-1)
        left, right = u[..., 0] - u[..., 1], u[..., 2] - u[..., 3]
        force = left + right
        return torch.stack((*speeds, force * torch.cos(angle), force * torch.sin(angle), 0.2 * (left - right)), -1)

    problem = oc.OptimalControlProblem(
        field,
        lambda t, x, u: u.sum(-1),
        initial_state=[-10.0, -10.0, math.pi / 2, 0.0, 0.0, 0.0],
        horizon=(0.0, 12.0),
        control_set=oc.Box([0.0] * 4, [1.0] * 4),
        terminal_constraint=oc.Constraint(lambda x: x),
    )
    solution = solve_quietly(problem, oc.Collocation(), tolerance=1e-6)
    assert bool(solution.success)
    assert float(solution.cost) == pytest.approx(7.9101, abs=1e-4)


@pytest.mark.parametrize("clocked", [False, True])
def test_a_line_leads_to_the_nearest_end_that_is_allowed(clocked: bool) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: (u * u).sum(-1),
        initial_state=[[3.0, 4.0, 2.0], [0.0, 0.5, 2.0]],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(3),
        terminal_constraint=oc.Constraint(
            lambda x: (x[..., :2] ** 2).sum(-1, keepdim=True) + x[..., 2:] - 2.0, 0.0, 1.0
        ),
    )
    stacked = Stacked(problem, begin=0.0, source=problem)
    mesh = Mesh(np.linspace(0.0, 1.0, 5)[:, None].repeat(2, 1), gauss(3))
    x, nodes, _ = straight(stacked, limits_of(stacked), mesh, None, 1.0, clocked=clocked)
    last = nodes[-1]
    value = (last[:, :2] ** 2).sum(-1) + last[:, 2] - 2.0
    assert value == pytest.approx([1.0, 0.25], abs=1e-5)  # the second one is allowed as it is
    assert (last[0, 2] == 2.0) == clocked
    np.testing.assert_allclose(nodes[2], 0.5 * (nodes[0] + last))
    np.testing.assert_allclose(x[2, 1], nodes[0] + mesh.points[2, 1][:, None] * (last - nodes[0]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_states_reach_a_bound_later_than_their_multipliers_say(power: int, sign: float) -> None:
    """Near the time at which a state limit begins to act (or ends) multipliers are large before the limit is met."""
    times = np.linspace(0.0, 1.0, 41)
    meets = 0.63
    slack = 2.0 * np.maximum(meets - times, 0.0) ** power + 1e-9
    status = np.where(times < 0.53, 0, -1)
    if sign < 0:
        times, slack, status = 1.0 - times[::-1], slack[::-1], status[::-1]
        meets = 1.0 - meets
    left = int(np.flatnonzero(np.diff(status))[0])
    time, doubt = touched(times, slack, status, left, (0.0, np.inf))
    assert time == pytest.approx(meets, abs=1e-3)
    assert doubt == pytest.approx((50.0 * 1e-9) ** (1 / power), rel=1e-3)
    said, nothing = touched(times, np.where(status == 0, slack, 1e-9), np.where(status == 0, 1, -1), left, (0.0, 1.0))
    assert times[left] < said < times[left + 1]  # from one bound to the other: nothing is extrapolated
    assert nothing == 0.0


def test_speed_limits_are_followed_without_swinging() -> None:
    """From rest to rest in least time below a speed limit: on the limit Gauss's costates swing, Radau's do not."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: torch.ones_like(x[..., 0]),
        initial_state=[0.0, 0.0],
        horizon=(0.0, oc.FreeTime(3.0, 0.5, 20.0)),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x - torch.tensor([1.0, 0.0])),
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:], -math.inf, 0.5),
    )
    solution = solve_quietly(problem, None)
    assert solution.success.all()
    assert solution.stats.iterations <= 350
    assert solution.t.shape[0] <= 100
    assert float(solution.cost) == pytest.approx(2.5, abs=1e-7)
    times = torch.linspace(0.0, 2.5, 251, dtype=torch.float64)
    exact = torch.where(times < 0.5, 1.0, torch.where(times < 2.0, 0.0, -1.0))
    away = ((times - 0.5).abs() > 1e-3) & ((times - 2.0).abs() > 1e-3)
    inside = times[away].clamp_max(float(solution.t[-1, 0]))
    assert float((solution.control(inside)[:, 0, 0] - exact[away]).abs().max()) <= 1e-3
    # p₂ = 1 − 2t, zero on the limit, then 4 − 2t
    slope = torch.where(times < 0.5, 1.0 - 2.0 * times, torch.where(times < 2.0, 0.0, 4.0 - 2.0 * times))
    assert float((solution.costate(inside)[:, 0, 1] - slope[away]).abs().max()) <= 1e-3


def test_prices_stay_low_along_curved_constraints() -> None:
    """Around a circle with least energy: dear violations would cut all steps."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 2], x[..., 3], u[..., 0], u[..., 1]), -1),
        lambda t, x, u: (u**2).sum(-1),
        initial_state=[0.0, 0.0, 0.0, 0.0],
        horizon=(0.0, 4.0),
        control_set=oc.Box([-3.0, -3.0], [3.0, 3.0]),
        terminal_constraint=oc.Constraint(lambda x: x - torch.tensor([4.0, 1.0, 0.0, 0.0])),
        path_constraint=oc.Constraint(
            lambda t, x: ((x[..., 0] - 2.0) ** 2 + (x[..., 1] - 0.4) ** 2)[..., None], 0.49, math.inf
        ),
    )
    solution = solve_quietly(problem, None)
    assert solution.success.all()
    assert solution.stats.iterations <= 120
    assert float(solution.violations["path_constraint"].max()) <= 1e-6


def test_histories_are_those_of_all_campaigns() -> None:
    """Also if the answer is that of the first one: here the end cannot be reached."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[0.0, 0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x[..., :1] - 2.0),
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.INFEASIBLE]
    assert len(solution.history.cost) == solution.stats.iterations + 1 > 20


def test_runs_that_are_cut_short_are_not_called_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camp, "PATIENCE", 1)
    monkeypatch.setattr(camp, "LATER", 1)
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - torch.sin(x[..., 0])), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[0.0, 0.0],
        horizon=(0.0, 3.0),
        control_set=oc.Box(-5.0, 5.0),
        terminal_constraint=oc.Constraint(lambda x: x - torch.tensor([math.pi, 0.0])),
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.status == [Status.STALLED]
    assert "the iterations on a mesh ended early, terminal_constraint component 0 is missed by" in solution.message


def test_gauss_points_have_the_mesh_where_radau_points_do_not_help() -> None:
    """A rocket with a speed limit goes as high as it can: the thrust is singular before and after the limit."""

    def rates(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        height, speed, mass = x.unbind(-1)
        drag = 310.0 * speed**2 * torch.exp(-500.0 * (height - 1.0))
        return torch.stack((speed, (u[..., 0] - drag) / mass - 1.0 / height**2, -2.0 * u[..., 0]), -1)

    problem = oc.OptimalControlProblem(
        rates,
        terminal_cost=lambda x: -x[..., 0],
        initial_state=[1.0, 0.0, 1.0],
        horizon=(0.0, oc.FreeTime(0.2, 0.05, 1.0)),
        control_set=oc.Box(0.0, 3.5),
        terminal_constraint=oc.Constraint(lambda x: x[..., 2:], 0.6, 0.6),
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:2], -math.inf, 0.1),
    )
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx(-1.0125763, abs=1e-6)
    assert float(solution.violations["path_constraint"].max()) <= 1e-6
    assert solution.history.cost.shape[0] == solution.stats.iterations + 1


def test_starts_that_violate_a_constraint_are_told_at_once() -> None:
    """No other control helps, so none is looked for."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[0.0, 0.7],
        horizon=(0.0, 2.0),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x - torch.tensor([1.0, 0.0])),
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:], -math.inf, 0.5),
    )
    solution, alone = solve_quietly(problem, None), solve_quietly(problem, oc.Collocation())
    assert solution.status == alone.status == [Status.INFEASIBLE]
    assert "path_constraint component 0 is violated by 0.2 at t = 0, by the initial state" in solution.message
    assert solution.stats.iterations == alone.stats.iterations


@pytest.mark.parametrize("module", [brachistochrone, luus_reactor, tuberculosis])
def test_a_solution_on_a_coarse_mesh_is_not_thrown_away(module: ModuleType) -> None:
    """Its equations are solved only as loosely as its barrier allows; other guesses would take much longer."""
    solution = solve_quietly(module.build().problem, oc.Collocation(), tolerance=1e-6)
    assert bool(solution.success)
    assert solution.stats.iterations <= 35


def test_a_guess_is_not_in_a_corner_of_the_controls() -> None:
    """Three modes whose shares u₁, u₂ and 1 − u₁ − u₂ are relaxed; half and half would leave the third one out.

    The problem of Egerstedt, Wardi and Axelsson, *Transition-Time Optimization for Switched-Mode Dynamical Systems*,
    IEEE Transactions on Automatic Control 51 (2006), with a state constraint as in S. Sager, *A Benchmark Library of
    Mixed-Integer Optimal Control Problems*, 2012, with J near 0.99; without the third mode J is 1.1055.
    """

    def modes(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        first, second = u.unbind(-1)
        third = 1.0 - first - second
        rise = -a * first + (a + b) * second + (a - b) * third
        return torch.stack((rise, (a + 2.0 * b) * first + (a - 2.0 * b) * second + (a + b) * third), -1)

    problem = oc.OptimalControlProblem(
        modes,
        lambda t, x, u: x.square().sum(-1),
        initial_state=[0.5, 0.5],
        horizon=(0.0, 1.0),
        control_set=oc.Box([0.0, 0.0], [1.0, 1.0]),
        path_constraint=oc.Constraint(
            lambda t, x, u: torch.stack((x[..., 1], u.sum(-1)), -1), [0.4, -math.inf], [math.inf, 1.0]
        ),
    )
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-6)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) < 0.99
    assert float(1.0 - solution.control(torch.tensor([0.3]))[0].sum()) > 0.99  # the third mode alone


def test_the_mesh_that_meets_the_tolerance_is_the_answer() -> None:
    """Though its controls are less sure than those of a coarser one: the F-8 aircraft, which chatters at its end.

    Model of W. Garrard and J. Jordan, Automatica 13 (1977); the switches lead to a local minimum of the time near 5.73
    that S. Sager, *Numerical Methods for Mixed-Integer Optimal Control Problems*, 2005, knows, too.
    """

    def aircraft(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)  # angle of attack, pitch angle and its rate
        w = u[..., 0]  # tail deflection
        attack = -0.877 * a + c - 0.088 * a * c + 0.47 * a**2 - 0.019 * b**2 - a**2 * c + 3.846 * a**3
        attack = attack - 0.215 * w + 0.28 * a**2 * w + 0.47 * a * w**2 + 0.63 * w**3
        rate = -4.208 * a - 0.396 * c - 0.47 * a**2 - 3.564 * a**3
        rate = rate - 20.967 * w + 6.265 * a**2 * w + 46.0 * a * w**2 + 61.4 * w**3
        return torch.stack((attack, c, rate), -1)

    problem = oc.OptimalControlProblem(
        aircraft,
        clock,
        initial_state=[0.4655, 0.0, 0.0],
        horizon=(0.0, oc.FreeTime(guess=5.0, lower=0.1, upper=20.0)),
        control_set=oc.Box(-0.05236, 0.05236),
        terminal_constraint=oc.Constraint(lambda x: x, [0.0] * 3, [0.0] * 3),
    )
    solution = oc.solve(problem, oc.Collocation(), tolerance=1e-8)
    assert solution.status == [Status.CONVERGED]
    assert float(solution.cost) == pytest.approx(5.7286461, abs=1e-6)


def test_of_campaigns_the_best_one_is_the_answer() -> None:
    """First those that succeeded, then those that are near to a solution, then the one of lower cost."""

    def ended(cost: float, error: float, *, success: bool = False, lost: bool = False) -> Any:
        values = {"successes": success, "lost": lost, "error": error}
        arrays = {name: np.array([value]) for name, value in values.items()}
        return SimpleNamespace(**arrays, camp=SimpleNamespace(cost=np.array([cost])))

    order = [ended(9.0, 0.0, success=True), ended(1.0, 0.1), ended(2.0, 0.1), ended(0.0, 9.0, lost=True)]
    assert sorted(order, key=merit, reverse=True) == order


def test_radau_points_take_over_where_controls_rattle_along_singular_arcs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jackson's reactor, whose singular arc Gauss's points alone do not resolve."""
    problem = jackson.build().problem
    solution = solve_quietly(problem, oc.Collocation())
    assert solution.success.all()
    ((first, last, _),) = solution.singular[0]
    assert 0.1 < first < 0.16 < 3.7 < last < 3.75
    again = solution.resimulate(oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10))
    assert float(again) == pytest.approx(float(solution.cost), abs=1e-8)

    monkeypatch.setattr(campaign, "resting", lambda system, model, sides: np.zeros(1, dtype=bool))
    assert not solve_quietly(problem, oc.Collocation()).success.any(), "without them it would not have converged"


@pytest.mark.parametrize("unit", [1e-3, 1e2, 1e4])
def test_units_of_states_do_not_matter(unit: float) -> None:
    """The brachistochrone from rest in kilometres, centimetres and tenths of millimetres."""
    reference = brachistochrone.build(target=(2.0 * unit, 2.0 * unit), gravity=9.8 * unit)
    solution = solve_quietly(reference.problem, oc.Collocation())
    assert solution.success.all()
    assert float(solution.cost) == pytest.approx(0.824759143156625, abs=1e-8)
    assert solution.stats.iterations <= 150


def test_constraints_are_priced_in_units_of_what_they_depend_on() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[0.0, 1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-50.0, 50.0),
        terminal_constraint=oc.Constraint(lambda x: x - 3.0),
        path_constraint=oc.Constraint(
            lambda t, x, u: torch.cat((1e3 * x[..., :1], u, 0.1 * x[..., 1:]), -1), -1e6, 1e6
        ),
    )
    stacked = Stacked(problem, begin=0.0, source=problem)
    mesh = Mesh(np.linspace(0.0, 1.0, 5)[:, None], gauss(3))
    x, u = np.zeros((4, 3, 1, 2)), np.zeros((4, 3, 1, 1))
    scales = np.array([[2.0, 5.0]]), np.array([100.0])
    paths, ends = constraint_scales(stacked, limits_of(stacked), mesh, x, x[:, 0], u, scales)
    np.testing.assert_allclose(paths, [[2e3, 100.0, 1.0]])
    np.testing.assert_allclose(ends, [[2.0, 5.0]])
