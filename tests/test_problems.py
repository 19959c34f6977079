"""The bank of reference problems: every claim is backed by data, and the data satisfy the maximum principle."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import ocsolver as oc
import problems
from problems import (
    anderson_moore,
    brachistochrone,
    bryson_denham,
    chattering,
    citron_reactor,
    consumption,
    decay,
    double_integrator,
    fishing,
    free_time_regulator,
    hager_1,
    hager_hou_rao,
    hull,
    hypersensitive,
    hypersensitive_terminal,
    jaddu_shimemura,
    jaddu_shimemura_constrained,
    linear_hypersensitive,
    linear_pendulum,
    lqr_terminal_cost,
    luus_reactor,
    maximum_range,
    minimum_energy,
    minimum_fuel,
    minimum_time,
    mixed_constraint,
    moon_lander,
    neural_ode_xor,
    neural_ode_xor_margin,
    oscillator_lqr,
    robot_arm,
    scalar_lqr,
    scalar_lqr_terminal,
    sir_capacity,
    time_in_dynamics,
    tuberculosis,
    van_der_pol,
    van_der_pol_bounded,
)
from problems.reference import Reference

TAGS = {
    "smooth",
    "bang-bang",
    "singular",
    "closed-form",
    "several-minima",
    "ensemble",
    "discrete",
    "no-minimizer",
    "maximization",
    "linear-quadratic",
    "large-states",
    "terminal-constraint",
    "path-constraint",
    "free-time",
    "static-parameter",
    "non-smooth",
}
RESTRICTIONS = {
    "terminal-constraint": "terminal_constraint",
    "path-constraint": "path_constraint",
    "free-time": "free_time",
    "static-parameter": "free_initial_state",
}
REFERENCES = problems.all_references()
EXACT = [
    *(reference for reference in REFERENCES if reference.exact is not None),
    scalar_lqr.build(horizon=2.5, t0=0.7, initial_state=[[1.0], [-2.0], [0.3]]),
    hager_1.build(horizon=2.0, t0=-1.0),
    lqr_terminal_cost.build(horizon=2.0, t0=0.5, initial_state=[[1.0], [-2.0]]),
    anderson_moore.build(horizon=3.0, t0=0.5, initial_state=[[1.0], [-2.0], [0.3]]),
    hull.build(horizon=2.0, weight=3.0, t0=1.0, initial_state=[[1.0], [-2.0]]),
    double_integrator.build(horizon=2.0, t0=1.0, initial_state=[[0.0, 1.0], [1.0, -1.0], [0.5, 0.2]]),
    oscillator_lqr.build(t0=1.0, initial_state=[[0.0, 1.0], [1.0, 0.0], [0.5, 0.2]]),
    jaddu_shimemura.build(horizon=0.5, t0=1.0),
    hager_hou_rao.build(horizon=2.0, t0=1.0, initial_state=[[1.0, 2.0], [-0.5, 0.7], [0.3, 1.0]]),
    linear_pendulum.build(horizon=3.0, t0=1.0, initial_state=[[0.0, 1.0], [1.0, 0.0], [0.5, 0.2]]),
    linear_pendulum.build(horizon=1.0),
    consumption.build(horizon=4.0, t0=1.0, initial_state=[[1.0], [2.0], [0.3]]),
    consumption.build(horizon=0.5),
    neural_ode_xor.build(mu=10.0, horizon=2.0, t0=1.0),
    hypersensitive.build(horizon=5.0, t0=1.0, initial_state=[[1.0], [-1.5], [0.3]]),
    minimum_energy.build(horizon=2.0, t0=1.0, initial_state=[[0.0, 1.0], [1.0, -1.0], [0.5, 0.2]]),
    minimum_time.build(distance=2.0, t0=1.0),
    minimum_fuel.build(bound=3.0, horizon=1.5, t0=1.0),
    *(bryson_denham.build(limit=limit, t0=1.0) for limit in (0.1, 1.0 / 6.0, 0.2, 0.25, 0.3)),
    *(decay.build(least=least, horizon=2.0, t0=1.0) for least in ("energy", "fuel", "time")),
    free_time_regulator.build(end=2.0, t0=1.0),
    time_in_dynamics.build(t0=1.0),
    mixed_constraint.build(horizon=2.0, t0=1.0, initial_state=[[-1.0], [-2.0], [-0.3]]),
    brachistochrone.build(target=(3.0, 1.0), gravity=2.0, t0=1.0),
    brachistochrone.build(target=(0.5, 2.0)),
    maximum_range.build(height=0.05, horizon=1.0, t0=1.0),
    moon_lander.build(height=2.0, speed=0.5, t0=1.0),
    hypersensitive_terminal.build(start=0.5, end=2.0, horizon=10.0, t0=1.0),
    linear_hypersensitive.build(end=-1.0, horizon=100.0, t0=1.0, initial_state=[[1.0], [-2.0], [0.3]]),
    robot_arm.build(t0=1.0),
    jaddu_shimemura_constrained.build(t0=1.0),
    sir_capacity.build(t0=1.0),
    scalar_lqr_terminal.build(end=-1.0, horizon=1.0, t0=1.0, initial_state=[[1.0], [-2.0], [0.3]]),
    neural_ode_xor_margin.build(margin=2.0, horizon=2.0, t0=1.0),
]
every_reference = pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference.name)
every_exact = pytest.mark.parametrize(
    "reference", EXACT, ids=[f"{k}-{reference.name}" for k, reference in enumerate(EXACT)]
)


# ---------------------------------------------------------------------------------------------------------- the bank


def test_names_are_unique_and_ids_are_complete() -> None:
    names = [reference.name for reference in REFERENCES]
    assert len(set(names)) == len(names)
    free = [1, 2, 3, 4, 5, 6, 8, 10, 13, 14, 15, 18, 19, 22, 24, 25, 26, 28, 31, 34, 37, 38, 45, 46, 47]
    constrained = [1, 2, 3, 5, 9, 10, 11, 12, 14, 16, 17, 20, 21, 25, 29, 31, 35, 37]
    for collection, letter, numbers in (
        (problems.free_end_references(), "A", free),
        (problems.constrained_references(), "B", constrained),
    ):
        assert {reference.id for reference in collection} == {f"{letter}{number:02d}" for number in numbers}
    assert len(problems.all_references()) == len(problems.free_end_references()) + len(
        problems.constrained_references()
    )


@pytest.mark.parametrize(
    ("collection", "tag", "added", "excluded"),
    [
        (problems.smooth_references, "smooth", set(), set()),
        (
            problems.bang_bang_references,
            "bang-bang",
            {f"citron-reactor-{k}" for k in range(1, 9)},
            {"jackson", "linear-pendulum-finite"},
        ),
        (problems.singular_references, "singular", set(), set()),
        (problems.discrete_references, "discrete", set(), set()),
    ],
)
def test_collections_agree_with_tags(
    collection: Callable[[], tuple[Reference, ...]], tag: str, added: set[str], excluded: set[str]
) -> None:
    tagged = {reference.name for reference in problems.free_end_references() if tag in reference.tags}
    assert {reference.name for reference in collection()} == (tagged | added) - excluded


@every_reference
def test_a_reference_that_claims_a_capability_carries_the_data(reference: Reference) -> None:
    tags, problem, exact = reference.tags, reference.problem, reference.exact
    assert tags <= TAGS
    assert reference.source
    assert reference.cost is not None
    assert math.isfinite(reference.cost)
    assert len(reference.group_costs) == problem.groups
    assert math.isclose(reference.cost, sum(reference.group_costs) / problem.groups)
    assert problem.initial_state.dtype is torch.float64
    assert problem.horizon[0] == 0.0
    assert exact is not None or "closed-form" not in tags
    if exact is not None:
        assert exact.control is not None
        assert exact.state is not None
        assert exact.costate is not None
        assert bool(exact.switches) or "bang-bang" not in tags
        assert all(reference.horizon[0] < switch < reference.horizon[1] for switch in exact.switches)
        assert list(exact.switches) == sorted(exact.switches)
        assert (exact.final_time is not None) == ("free-time" in tags)
        assert (exact.terminal_multiplier is not None) == ("terminal-constraint" in tags)
        assert (exact.path_multiplier is not None) == ("path-constraint" in tags)
    if "several-minima" in tags:
        assert len(reference.local_costs) >= 2
        assert reference.cost == min(reference.local_costs) == reference.local_costs[0]
    else:
        assert not reference.local_costs
    if "no-minimizer" in tags:
        assert exact is None
        assert not tags & {"smooth", "closed-form"}
    if "maximization" in tags:
        assert reference.cost < 0.0
    for restriction, attribute in RESTRICTIONS.items():
        assert (restriction in tags) == (attribute in problem.restrictions), restriction
    assert ("discrete" in tags) == isinstance(problem.control_set, oc.FiniteSet)
    assert ("ensemble" in tags) == (problem.shared_control and problem.trajectories > 1)
    assert ("large-states" in tags) == bool(problem.initial_state.abs().max() > 1e3)


PUBLISHED = [
    (scalar_lqr.build(horizon=1.0), 0.380797077977882),
    (scalar_lqr.build(horizon=2.0), 0.482013790037908),
    (scalar_lqr.build(horizon=5.0), 0.499954602131298),
    (hager_1.build(), 0.761594155955765),
    (lqr_terminal_cost.build(), 0.231913974452),
    (anderson_moore.build(), 24.9977301065649),
    (hull.build(), 0.216346153846154),
    (double_integrator.build(), -1.0 / 24.0),
    (oscillator_lqr.build(), 0.673999045921462),
    (oscillator_lqr.build(initial_state=[1.0, 0.0]), 0.953362262441592),
    (jaddu_shimemura.build(), 0.069360943718209),
    (hager_hou_rao.build(), 2.489923151493991),
    (linear_pendulum.build(), -11.844845205344521),
    (linear_pendulum.build(finite=True), -11.844845205344521),
    (consumption.build(), -1.64872127070013),
    (neural_ode_xor.build(), 2.09402849706378),
    (neural_ode_xor.build(mu=10.0), 4.25128570167084),
    (neural_ode_xor.build(mu=100.0), 4.74898888657291),
    (hypersensitive.build(horizon=2.0), 0.485859),
    (hypersensitive.build(horizon=5.0), 0.506851130),
    (hypersensitive.build(horizon=10.0), 0.506910115),
    (hypersensitive.build(horizon=20.0), 0.506910117594843),
    (minimum_energy.build(), 6.0),
    (minimum_time.build(), 2.0),
    (minimum_fuel.build(), 2.76393202250021),
    (bryson_denham.build(), 4.0),
    (bryson_denham.build(limit=0.1), 40.0 / 9.0),
    (decay.build(), 0.156517642749666),
    (decay.build(least="fuel"), 0.458675145387082),
    (decay.build(least="time"), math.log(2.0)),
    (free_time_regulator.build(), 1.52450435224685),
    (time_in_dynamics.build(), 1.47557589293376),
    (mixed_constraint.build(), -0.632120558828558),
    (brachistochrone.build(), 0.824759143156625),
    (maximum_range.build(), -1.712314875),
    (moon_lander.build(), 1.420313),
    (hypersensitive_terminal.build(), 1.3308069049),
    (hypersensitive_terminal.build(horizon=60.0), 1.33080690494300),
    (hypersensitive_terminal.build(horizon=1e4), 1.33080690494300),
    (linear_hypersensitive.build(), 1.67309397841219),
    (linear_hypersensitive.build(horizon=25.0), 1.67309703885628),
    (robot_arm.build(), 9.1409),
    (jaddu_shimemura_constrained.build(), 0.1698205),
    (sir_capacity.build(), 1.298585),
    (scalar_lqr_terminal.build(), 0.510461418068826),
    (neural_ode_xor_margin.build(), 4.81171310770846),
]


@pytest.mark.parametrize(("reference", "cost"), PUBLISHED)
def test_computed_costs_equal_the_published_digits(reference: Reference, cost: float) -> None:
    printed = len(str(cost).partition(".")[2])
    assert reference.cost == pytest.approx(cost, rel=1e-9, abs=max(1e-9, 0.51 * 10.0**-printed))


def test_published_solutions() -> None:
    constant = hull.build().exact
    assert constant is not None
    assert constant.control is not None
    assert constant.state is not None
    assert constant.control([0.0, 5.0]).flatten().tolist() == pytest.approx([-0.288461538461538] * 2, abs=1e-14)
    assert float(constant.state(5.0)) == pytest.approx(0.0576923076923077, abs=1e-14)
    infinite = hypersensitive.build(horizon=20.0).exact
    assert infinite is not None
    assert infinite.costate is not None
    assert float(infinite.costate(0.0)) == pytest.approx(-0.318321675673542, abs=1e-11)
    assert hypersensitive.value(1.5) == pytest.approx(0.506910117594843, abs=1e-14)
    arcs = consumption.build().exact
    assert arcs is not None
    assert arcs.switches == (0.5,)
    assert minimum_fuel.build().exact.switches == pytest.approx((0.276393, 0.723607), abs=1e-6)  # type: ignore[union-attr]
    assert minimum_time.build().exact.switches == (1.0,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reference", "final_time"),
    [
        (minimum_time.build(), 2.0),
        (free_time_regulator.build(), 0.658478948462408),
        (time_in_dynamics.build(), 1.5**0.25),
        (moon_lander.build(), 1.39681),
        (moon_lander.build(t0=2.0), 3.39681),
        (minimum_energy.build(), 1.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_published_final_times(reference: Reference, final_time: float) -> None:
    assert reference.horizon[1] == pytest.approx(final_time, abs=5e-6)


def test_long_horizons_are_known_by_their_limit() -> None:
    reference = hypersensitive_terminal.build(horizon=101.0)
    assert reference.exact is None
    assert "closed-form" not in reference.tags
    assert 2.0 * (hypersensitive_terminal.value(1.0) + hypersensitive_terminal.value(1.5, -1.0)) == pytest.approx(
        6.72411380988600, abs=1e-13
    )


@pytest.mark.parametrize(
    ("build", "argument", "text"),
    [
        (minimum_time.build, {"distance": 0.0}, "distance: expected a positive number, got 0."),
        (minimum_fuel.build, {"bound": 4.0}, "bound: expected more than 4/T² = 4, got 4."),
        (bryson_denham.build, {"limit": 0.0}, "limit: expected a positive number, got 0."),
        (decay.build, {"least": "money"}, "least: expected 'energy', 'fuel' or 'time', got 'money'."),
        (decay.build, {"least": "fuel", "horizon": 0.5}, "horizon: expected more than ln 2"),
        (free_time_regulator.build, {"end": -1.0}, "end: expected a positive number, got -1."),
        (brachistochrone.build, {"target": (0.0, 1.0)}, "target and gravity: expected positive numbers"),
        (moon_lander.build, {"height": 0.1, "speed": -2.0}, "a landing that can still be soft"),
        (hypersensitive_terminal.build, {"end": 0.0}, "start and end: expected positive numbers"),
        (hypersensitive_terminal.build, {"horizon": 0.1}, "long enough for the state to turn, got 0.1."),
    ],
    ids=lambda value: getattr(value, "__module__", "").partition(".")[2] or None,
)
def test_parameters_without_a_solution_are_refused(
    build: Callable[..., Reference], argument: dict[str, object], text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        build(**argument)


def test_reactor_cases_and_known_minima() -> None:
    assert "bang-bang" in citron_reactor.build(case=10).tags
    case = citron_reactor.build(case=8)
    assert case.cost == -0.358058
    assert case.problem.horizon == (0.0, 4.0)
    assert float(case.problem.control_set.project(torch.tensor([9.0]))) == 8.0
    assert luus_reactor.build().local_costs == (0.13309573, 0.2444335)
    assert van_der_pol_bounded.build(control_bounds=None).cost == 2.873143851
    assert chattering.build(horizon=3.0).cost == -1.5


def test_infimum_is_the_same_for_relaxed_and_binary_fishing() -> None:
    for efforts in (1, 2):
        assert fishing.build(binary=True, efforts=efforts).cost == fishing.build(efforts=efforts).cost


@pytest.mark.parametrize(
    "reference",
    [
        van_der_pol.build(horizon=3.0),
        van_der_pol_bounded.build(control_bounds=(-0.5, 0.5)),
        luus_reactor.build(initial_state=[0.05, 0.0]),
        tuberculosis.build(horizon=4.0),
        citron_reactor.build(initial_state=[[1.0, 0.0], [0.5, 0.0], [0.1, 0.0]]),
        fishing.build(horizon=6.0),
        jaddu_shimemura_constrained.build(initial_state=[0.0, -0.5]),
        sir_capacity.build(capacity=0.07),
    ],
    ids=lambda reference: reference.name,
)
def test_published_costs_vanish_where_the_parameters_change(reference: Reference) -> None:
    assert reference.cost is None
    assert not reference.group_costs
    assert not reference.local_costs


# ----------------------------------------------------------------------------------------------- the exact solutions


def solution(reference: Reference, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact x (T, B, n), p (T, B, n) and u (T, G, m)."""
    exact = reference.exact
    assert exact is not None
    assert exact.state is not None
    assert exact.costate is not None
    assert exact.control is not None
    return exact.state(t), exact.costate(t), exact.control(t)


def hamiltonian(reference: Reference, t: Tensor, x: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """H = p·f − L of every trajectory, (*b)."""
    problem = reference.problem
    value = (p * problem.dynamics(t, x, u)).sum(-1)
    return value if problem.running_cost is None else value - problem.running_cost(t, x, u)


def interior_times(reference: Reference) -> Tensor:
    """Times (T, 1) away from the ends and the switches, so that difference stencils of width 4e-3 stay on one arc."""
    t0, t1 = reference.horizon
    t = torch.linspace(t0, t1, 41, dtype=torch.float64)[1:-1]
    assert reference.exact is not None
    for switch in reference.exact.switches:
        t = t[(t - switch).abs() > 4e-3]
    return t


@every_exact
def test_exact_solution_has_the_promised_axes(reference: Reference) -> None:
    problem = reference.problem
    middle = sum(reference.horizon) / 2
    for t, axes in (
        (middle, ()),
        ([middle], (1,)),
        (np.full((2, 3), middle), (2, 3)),
        (interior_times(reference), None),
    ):
        leading = tuple(torch.as_tensor(t).shape) if axes is None else axes
        for values, last in zip(
            solution(reference, t),  # type: ignore[arg-type]
            ((problem.trajectories, problem.n), (problem.trajectories, problem.n), (problem.groups, problem.m)),
            strict=True,
        ):
            assert values.shape == (*leading, *last)
            assert values.dtype is torch.float64
        assert reference.exact is not None
        if reference.exact.path_multiplier is not None:
            assert reference.exact.path_multiplier(t).shape[:-1] == (*leading, problem.trajectories)


@every_exact
def test_exact_solution_satisfies_the_maximum_principle(reference: Reference) -> None:
    problem, times = reference.problem, interior_times(reference)
    t = times[:, None]
    x, p, u = solution(reference, times)

    def slope(component: int) -> Tensor:
        far, near = 2e-3, 1e-3  # fourth-order central difference
        at = {shift: solution(reference, times + shift)[component] for shift in (-far, -near, near, far)}
        return (8.0 * (at[near] - at[-near]) - (at[far] - at[-far])) / (12.0 * near)

    torch.testing.assert_close(slope(0), problem.dynamics(t, x, u).expand_as(x), rtol=1e-6, atol=1e-6)
    moved = x.clone().requires_grad_()
    total = hamiltonian(reference, t, moved, p, u).sum() + 0.0 * moved.sum()  # H may not depend on x
    constraint, exact = problem.path_constraint, reference.exact
    assert exact is not None
    if constraint is not None:
        assert exact.path_multiplier is not None
        multiplier, values = exact.path_multiplier(times), constraint.path(t, moved, u)
        check_multiplier(constraint, values, multiplier)
        total = total - (multiplier * values).sum()
    (gradient,) = torch.autograd.grad(total, moved)
    torch.testing.assert_close(slope(1), -gradient, rtol=1e-6, atol=1e-6)

    torch.testing.assert_close(problem.control_set.project(u), u)
    best = hamiltonian(reference, t, x, p, u)
    for offset in itertools.product((-4.0, -1.0, -0.1, 0.0, 0.1, 1.0, 4.0), repeat=problem.m):
        trial = problem.control_set.project(u + torch.tensor(offset, dtype=torch.float64))
        gain = hamiltonian(reference, t, x, p, trial) - best
        if constraint is not None and constraint.arguments == 3:  # not every control is admissible here
            gain = torch.where(constraint.violation(constraint.path(t, x, trial)).sum(-1) > 1e-12, -torch.inf, gain)
        if problem.shared_control:
            gain = gain.mean(-1)
        assert float(gain.max()) < 1e-9 * max(1.0, float(best.abs().max()))


def check_multiplier(constraint: oc.Constraint, values: Tensor, multiplier: Tensor) -> None:
    """Feasible values (*b, B, c), multipliers with the signs of their sides, and complementarity."""
    values = values.detach()
    lower, upper = constraint.bounds(values)
    assert multiplier.shape == values.shape
    assert float(constraint.violation(values).max()) < 1e-9
    away_from_upper, away_from_lower = upper - values > 1e-9, values - lower > 1e-9
    assert not bool(((multiplier > 1e-12) & away_from_upper).any())
    assert not bool(((multiplier < -1e-12) & away_from_lower).any())


@every_exact
def test_exact_solution_satisfies_the_boundary_conditions(reference: Reference) -> None:
    problem, exact = reference.problem, reference.exact
    assert exact is not None
    t0, t1 = reference.horizon
    first, costate, _ = solution(reference, torch.tensor(t0, dtype=torch.float64))
    free = torch.zeros_like(first, dtype=torch.bool)
    if problem.free_initial_state is not None:
        free = (problem.free_initial_state.lower < first) & (first < problem.free_initial_state.upper)
    torch.testing.assert_close(first[~free], problem.initial_state[~free])
    torch.testing.assert_close(costate[free], torch.zeros_like(costate[free]))

    end, costate, _ = solution(reference, torch.tensor(t1, dtype=torch.float64))
    end = end.requires_grad_()
    total = 0.0 * end.sum()
    if problem.terminal_cost is not None:
        total = total + problem.terminal_cost(end).sum()
    if problem.terminal_constraint is not None:
        assert exact.terminal_multiplier is not None
        values = problem.terminal_constraint.terminal(end)
        check_multiplier(problem.terminal_constraint, values, exact.terminal_multiplier)
        total = total + (exact.terminal_multiplier * values).sum()
    (gradient,) = torch.autograd.grad(total, end)
    torch.testing.assert_close(costate, -gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reference", [reference for reference in EXACT if "free-time" in reference.tags], ids=repr)
def test_hamiltonian_vanishes_where_the_time_is_free(reference: Reference) -> None:
    times = interior_times(reference)  # all these problems are autonomous
    value = hamiltonian(reference, times[:, None], *solution(reference, times))
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-9)


@every_exact
def test_exact_control_simulated_reproduces_the_cost(reference: Reference) -> None:
    problem, exact = reference.problem, reference.exact
    assert exact is not None
    assert exact.control is not None
    control, batch, n = exact.control, problem.trajectories, problem.n
    assert exact.state is not None
    nodes = (reference.horizon[0], *exact.switches, reference.horizon[1])
    y = np.concatenate([exact.state(nodes[0]).numpy().ravel(), np.zeros(batch)])
    for left, right in itertools.pairwise(nodes):

        def rate(t: float, y: np.ndarray, left: float = left, right: float = right) -> np.ndarray:
            margin = 1e-12 * (right - left)  # the value at a switch belongs to one of its sides
            x = torch.as_tensor(y[: batch * n].reshape(batch, n))
            now = torch.tensor([t], dtype=torch.float64)
            u = control(min(max(t, left + margin), right - margin))
            cost = torch.zeros(batch) if problem.running_cost is None else problem.running_cost(now, x, u).expand(batch)
            return np.concatenate([problem.dynamics(now, x, u).expand(batch, n).reshape(-1), cost])

        y = solve_ivp(rate, (left, right), y, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    costs, end = torch.as_tensor(y[batch * n :]), torch.as_tensor(y[: batch * n].reshape(batch, n))
    if problem.terminal_constraint is not None:
        miss = problem.terminal_constraint.violation(problem.terminal_constraint.terminal(end))
        assert float(miss.max()) < 1e-9
    if problem.terminal_cost is not None:
        costs = costs + problem.terminal_cost(end)
    groups = costs.mean(-1, keepdim=True) if problem.shared_control else costs
    assert groups.tolist() == pytest.approx(list(reference.group_costs), rel=1e-8, abs=1e-8)


# ------------------------------------------------------------------------------------------------------ the callables


def probe(reference: Reference, leading: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """t (*leading, 1), x (*leading, B, n) near the initial state and admissible u (*leading, G, m)."""
    problem = reference.problem
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((*leading, problem.trajectories, problem.n), generator=generator, dtype=dtype)
    u = torch.rand((*leading, problem.groups, problem.m), generator=generator, dtype=dtype)
    t = torch.rand((*leading, 1), generator=generator, dtype=dtype)
    return t, problem.initial_state.to(dtype) * (1.0 + 0.1 * noise) + 0.1 * noise, problem.control_set.project(u)


def outputs(reference: Reference, t: Tensor, x: Tensor, u: Tensor) -> list[Tensor]:
    """f, L, Φ and the constraints, those that exist, expanded over the trajectories."""
    problem = reference.problem
    values = [problem.dynamics(t, x, u).expand_as(x)]
    if problem.running_cost is not None:
        values.append(problem.running_cost(t, x, u).expand(x.shape[:-1]))
    if problem.terminal_cost is not None:
        values.append(problem.terminal_cost(x).expand(x.shape[:-1]))
    if problem.terminal_constraint is not None:
        values.append(problem.terminal_constraint.terminal(x))
    if problem.path_constraint is not None:
        values.append(problem.path_constraint.path(t, x, u))
    return values


@every_reference
def test_callables_take_leading_axes(reference: Reference) -> None:
    t, x, u = probe(reference, (5, 7), torch.float64)
    together = outputs(reference, t, x, u)
    for i, j in itertools.product(range(5), range(7)):
        for whole, one in zip(together, outputs(reference, t[i, j], x[i, j], u[i, j]), strict=True):
            torch.testing.assert_close(whole[i, j], one)


BUILDERS = [getattr(problems, name).build for name in dir(problems) if hasattr(getattr(problems, name, None), "build")]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__module__.partition(".")[2])
def test_every_module_builds_in_single_precision_and_from_any_time(build: Callable[..., Reference]) -> None:
    reference = build(dtype=torch.float32, t0=0.5)
    assert reference.problem.initial_state.dtype is torch.float32
    assert reference.problem.horizon[0] == 0.5
    t, x, u = probe(reference, (3,), torch.float32)
    assert all(value.dtype is torch.float32 for value in outputs(reference, t, x, u))


def test_every_module_of_the_package_is_collected() -> None:
    assert len(BUILDERS) == len({reference.id for reference in REFERENCES})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch itself, on the first jvp
@every_reference
def test_callables_are_twice_differentiable_and_allow_forward_mode(reference: Reference) -> None:
    t, x, u = probe(reference, (3,), torch.float64)
    one = (torch.ones_like(x), torch.ones_like(u))

    def total(x: Tensor, u: Tensor) -> Tensor:
        return torch.stack([value.sum() for value in outputs(reference, t, x, u)]).sum()

    forward = torch.func.jvp(total, (x, u), one)[1]
    gradient = torch.func.grad(total, (0, 1))(x, u)
    reverse = sum((part.sum() for part in gradient), torch.tensor(0.0))
    torch.testing.assert_close(forward, reverse.to(forward))

    step = 1e-5
    curvature = torch.func.jvp(torch.func.grad(total, (0, 1)), (x, u), one)[1]  # Hessian times ones
    ahead, behind = (torch.func.grad(total, (0, 1))(x + s * one[0], u + s * one[1]) for s in (step, -step))
    for product, plus, minus in zip(curvature, ahead, behind, strict=True):
        assert bool(torch.isfinite(product).all())
        scale = max(1.0, float(plus.abs().max()))
        torch.testing.assert_close(product, (plus - minus) / (2.0 * step), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "reference", [r for r in REFERENCES if "linear-quadratic" in r.tags], ids=lambda reference: reference.name
)
def test_linear_quadratic_problems_have_no_higher_differences(reference: Reference) -> None:
    t, x, u = probe(reference, (), torch.float64)
    shift, push = torch.ones_like(x), torch.ones_like(u)
    zero = outputs(reference, t, x, u)
    one = outputs(reference, t, x + shift, u + push)
    two = outputs(reference, t, x + 2.0 * shift, u + 2.0 * push)
    three = outputs(reference, t, x + 3.0 * shift, u + 3.0 * push)
    torch.testing.assert_close(two[0] - 2.0 * one[0] + zero[0], torch.zeros_like(x), rtol=0.0, atol=1e-12)
    for a, b, c, d in zip(zero[1:], one[1:], two[1:], three[1:], strict=True):
        torch.testing.assert_close(d - 3.0 * c + 3.0 * b - a, torch.zeros_like(a), rtol=0.0, atol=1e-11)


def test_the_bang_bang_reactor_beats_its_neighbors() -> None:
    reference = citron_reactor.build(case=10)
    problem = reference.problem

    def cost(switch: float) -> float:
        y = problem.initial_state[0].numpy()
        for left, right, level in ((0.0, switch, 0.1), (switch, 2.0, 0.5)):
            u, now = torch.tensor([[level]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

            def rate(t: float, y: np.ndarray, u: Tensor = u, now: Tensor = now) -> np.ndarray:
                return problem.dynamics(now, torch.as_tensor(y)[None], u)[0].numpy()

            y = solve_ivp(rate, (left, right), y, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
        return float(-y[1])

    assert cost(1.127713) == pytest.approx(reference.cost, abs=1e-7)
    assert cost(1.127713) < min(cost(1.12), cost(1.135))
