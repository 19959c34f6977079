"""The adaptive penalty: the ratio test, the path of ρ, and what its settings may be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import N, cubic_growth, linear_quadratic_problem, nonlinear_problem, regulator, solve_quietly

import ocsolver as oc
from problems import fishing, linear_pendulum, oscillator_lqr, van_der_pol_bounded

PLAIN = oc.EMSA(accelerate=False)


def history(problem: oc.OptimalControlProblem, solver: oc.Solver, **options: Any) -> oc.History:
    """History of a run that may fail."""
    return solve_quietly(problem, solver, **options).history


@pytest.mark.parametrize("accept", [1e-3, 0.1, 0.24])
def test_a_plain_step_is_taken_exactly_if_the_cost_falls_by_the_fraction(accept: float) -> None:
    solver = oc.EMSA(rho=oc.AdaptivePenalty(initial=1e-3, accept=accept), accelerate=False)
    h = history(regulator(horizon=5.0), solver, mesh=40, max_iterations=25, tolerance=None)
    fall, gain, accepted = -h.cost.diff(dim=0)[:, 0], h.hamiltonian_gain[1:, 0], h.accepted[1:, 0]
    noise = 1e-12
    assert bool((fall[~accepted] == 0).all())  # a rejected step leaves the control as it was
    assert bool((fall[accepted & (gain > noise)] >= accept * gain[accepted & (gain > noise)]).all())
    # What the rejected steps would have cost follows from the constant: J_new − J = Ĉ E − ∫ΔH where Ĉ > 0.
    error = (h.state_error + h.costate_error)[1:, 0]
    would_fall = gain - h.constant[1:, 0] * error
    first = int(accepted.nonzero()[0])
    assert bool((would_fall[:first] < 0.25 * gain[:first]).all())  # calibration asks for a quarter
    later = ~accepted & (torch.arange(len(accepted)) > first) & (gain > noise)
    assert bool((would_fall[later] < accept * gain[later]).all())


def test_rho_follows_the_ratio() -> None:
    rule = oc.AdaptivePenalty(initial=1e-3, grow=4.0, shrink=0.4)
    h = history(regulator(horizon=5.0), oc.EMSA(rho=rule, accelerate=False), mesh=40, max_iterations=25, tolerance=None)
    rho, gain, accepted = h.rho[1:, 0], h.hamiltonian_gain[1:, 0], h.accepted[1:, 0]
    ratio = -h.cost.diff(dim=0)[:, 0] / gain
    assert float(rho[0]) == pytest.approx(1e-3)
    for k in range(len(rho) - 1):
        if float(gain[k]) <= 1e-12:
            continue
        factor = float(rho[k + 1] / rho[k])
        if not bool(accepted[k]):
            assert 3.999 <= factor <= 100.001
        elif float(ratio[k]) < 0.25:
            assert factor == pytest.approx(2.0)
        elif float(ratio[k]) > 0.75:
            assert factor <= 0.4 + 1e-12
        else:
            assert factor == pytest.approx(1.0)


@pytest.mark.parametrize("initial", [1e-6, 1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("accelerate", [True, False])
def test_any_first_rho_leads_to_the_optimum(initial: float, accelerate: bool) -> None:
    solver = oc.EMSA(rho=oc.AdaptivePenalty(initial=initial), accelerate=accelerate)
    solution = oc.solve(regulator(horizon=5.0), solver, mesh=40, max_iterations=3000)
    best = oc.solve(regulator(horizon=5.0), mesh=40)
    torch.testing.assert_close(solution.cost, best.cost, rtol=1e-7, atol=0.0)
    assert bool((solution.history.cost.diff(dim=0) <= 1e-13).all())


@pytest.mark.parametrize("units", [1e-6, 1e6])
def test_units_of_state_and_cost_do_not_matter(units: float) -> None:
    """The first ρ is derived from the problem: no setting has to be adapted to the units."""
    plain = oscillator_lqr.build()
    problem = plain.problem
    running = problem.running_cost
    assert running is not None
    scaled_state = oc.OptimalControlProblem(
        lambda t, x, u: units * problem.dynamics(t, x / units, u),
        lambda t, x, u: running(t, x / units, u),
        initial_state=units * problem.initial_state,
        horizon=problem.horizon,
        control_set=problem.control_set,
    )
    scaled_cost = oc.OptimalControlProblem(
        problem.dynamics,
        lambda t, x, u: units * running(t, x, u),
        initial_state=problem.initial_state,
        horizon=problem.horizon,
        control_set=problem.control_set,
    )
    base = oc.solve(problem)
    for other, factor in ((scaled_state, 1.0), (scaled_cost, units)):
        solution = oc.solve(other)
        assert bool(solution.success.all())
        assert solution.stats.iterations <= 5 * base.stats.iterations
        torch.testing.assert_close(solution.cost / factor, base.cost, rtol=1e-6, atol=0.0)


@pytest.mark.slow
def test_quasi_newton_steps_save_iterations_and_pass_the_same_test() -> None:
    problem = van_der_pol_bounded.build().problem
    fast, plain = (solve_quietly(problem, s, mesh=50, max_iterations=400) for s in (oc.EMSA(), PLAIN))
    assert fast.status == [oc.Status.CONVERGED]
    assert fast.stats.iterations < 0.5 * plain.stats.iterations
    for solution in (fast, plain):
        assert bool((solution.history.cost.diff(dim=0) <= 1e-11).all())


def test_history_of_a_fixed_rho_is_that_rho(shared: bool) -> None:
    h = history(linear_quadratic_problem(shared), oc.EMSA(rho=7.0), mesh=N, max_iterations=5, tolerance=None)
    assert bool((h.rho[1:] == 7.0).all())
    assert bool(h.accepted.all())
    zero, plain = (
        history(nonlinear_problem(shared), s, mesh=N, max_iterations=3, tolerance=None)
        for s in (oc.EMSA(rho=0.0), oc.MSA())
    )
    torch.testing.assert_close(zero.cost, plain.cost, rtol=1e-12, atol=0.0)


def test_each_group_has_its_own_rho() -> None:
    h = history(regulator([1.0, 1.0], 3.0, coupling=[0.3, 3.0]), PLAIN, mesh=20, max_iterations=12, tolerance=None)
    assert float((h.rho[-1, 1] / h.rho[-1, 0]).log().abs()) > 1.0
    assert not torch.equal(h.accepted[:, 0], h.accepted[:, 1])


def test_an_exploding_trial_is_rejected_and_rho_grows() -> None:
    problem = cubic_growth([0.6])
    solver = oc.EMSA(rho=oc.AdaptivePenalty(initial=1e-9), accelerate=False)
    start = [-0.9]
    h = history(problem, solver, mesh=20, initial_control=start)
    assert bool(torch.isfinite(h.cost).all())
    assert bool((h.cost.diff(dim=0) <= 1e-13).all())


def test_a_finite_set_is_searched_between_too_much_and_nothing() -> None:
    """Steps jump with ρ on a finite set: ρ must not cycle around the values that help."""
    h = history(fishing.build(binary=True).problem, oc.EMSA(), mesh=100)
    tried: set[float] = set()  # from the present control
    for rho, accepted in zip(h.rho[1:, 0].tolist(), h.accepted[1:, 0].tolist(), strict=True):
        assert rho not in tried
        tried = set() if accepted else tried | {rho}
    pendulum = history(linear_pendulum.build(finite=True).problem, oc.EMSA(rho=oc.AdaptivePenalty(initial=1e6)))
    assert float(pendulum.residual[-1]) <= 1e-8  # also from a far too large ρ


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"initial": 0.0}, "initial"),
        ({"initial": -1.0}, "initial"),
        ({"initial": math.inf}, "initial"),
        ({"initial": math.nan}, "initial"),
        ({"initial": "1"}, "initial"),
        ({"accept": 0.0}, "accept"),
        ({"accept": 0.25}, "accept"),
        ({"accept": None}, "accept"),
        ({"grow": 1.0}, "grow"),
        ({"grow": math.inf}, "grow"),
        ({"shrink": 1.0}, "shrink"),
        ({"shrink": 0.0}, "shrink"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(oc.InputError, match=f"AdaptivePenalty {name}: expected a number in .*, got .*default"):
        oc.AdaptivePenalty(**settings)
