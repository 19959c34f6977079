"""Certificates: whose control they take, what moves their numbers, and that their bounds are bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import (
    B,
    N,
    coupled_oscillators,
    cubic_growth,
    linear_quadratic_problem,
    nonlinear_problem,
    random_control,
    regulator,
    seeded,
    solve_quietly,
    uneven_mesh,
)

import ocsolver as oc
from problems import (
    Reference,
    consumption,
    fishing,
    hypersensitive,
    leukaemia,
    oscillator_lqr,
    stirred_tank,
    van_der_pol,
    van_der_pol_bounded,
)

PRECISE = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)


def test_every_number_is_there_for_every_group(shared: bool) -> None:
    certificate = oc.solve(nonlinear_problem(shared), mesh=uneven_mesh()).certificate
    names = [entry.name for entry in fields(certificate)]
    assert names == [
        "max_gap",
        "mean_gap",
        "projected_gradient",
        "state_defect",
        "costate_defect",
        "transversality",
        "hamiltonian_drift",
        "cost_error",
    ]
    for name in names:
        assert getattr(certificate, name).shape == (1 if shared else B,), name
    text = str(certificate)
    for name in names:
        assert name.replace("_", " ") in text
    assert "optimal" not in text
    assert "not applicable" in text  # the problem depends on time


def test_numbers_of_a_converged_solution_are_small(shared: bool) -> None:
    solution = oc.solve(nonlinear_problem(shared), mesh=40, tolerance=1e-10)
    c = solution.certificate
    assert float(c.mean_gap.max()) <= 1e-9 * float(solution.cost.abs().max())
    assert bool((c.max_gap >= c.mean_gap).all())
    assert float(c.projected_gradient.max()) <= 1e-4
    assert float(c.transversality.max()) <= 1e-14
    assert 0.0 < float(c.state_defect.max()) <= 1e-6
    assert 0.0 < float(c.costate_defect.max()) <= 1e-5


def test_any_control_can_be_certified(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    constant = [0.1, -0.2]
    reference = oc.certify(problem, constant, mesh=N)
    tensor = torch.tensor(constant, dtype=torch.float64)
    solution = oc.solve(problem, mesh=N, initial_control=constant, max_iterations=0, tolerance=None)
    for control in (tensor, tensor.expand(N, problem.groups, 2), lambda t: constant, lambda t: tensor, solution):
        other = oc.certify(problem, control, mesh=N)
        for entry in fields(reference):
            a, b = getattr(other, entry.name), getattr(reference, entry.name)
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14, equal_nan=True)
    for entry in fields(reference):
        a, b = getattr(solution.certificate, entry.name), getattr(reference, entry.name)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14, equal_nan=True)


def test_certify_checks_its_arguments() -> None:
    with pytest.raises(oc.ShapeError, match="initial_control"):
        oc.certify(regulator(), [0.0, 0.0])
    with pytest.raises(oc.UnsupportedError, match="problem: expected an optimal control problem"):
        oc.certify("problem", [0.0])
    with pytest.raises(oc.InputError, match="integrator: expected an Integrator"):
        oc.certify(regulator(), [0.0], integrator="rk4")


def test_perturbing_the_optimum_raises_the_gap(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    solution = oc.solve(problem, mesh=N, tolerance=1e-10)
    direction = seeded(*solution.u.shape, seed=3)
    gaps = [oc.certify(problem, solution.u + size * direction, mesh=N).mean_gap for size in (0.0, 1e-3, 1e-2, 1e-1)]
    for smaller, larger in pairwise(gaps):
        assert bool((larger > 10.0 * smaller).all())
    # The gap is of second order in the distance from the optimum.
    torch.testing.assert_close(gaps[2] / gaps[1], torch.full_like(gaps[1], 100.0), rtol=0.1, atol=0.0)


def test_gap_bounds_the_cost_of_the_convex_problem(shared: bool) -> None:
    """H(u*) − H(u) to first order is what the control loses: on a linear-quadratic problem the gap is positive."""
    problem = linear_quadratic_problem(shared)
    best = oc.solve(problem, mesh=N, tolerance=1e-11)
    other = oc.certify(problem, random_control(problem), mesh=N)
    assert bool((other.mean_gap > 1e-3).all())
    assert bool((other.projected_gradient > 1e-2).all())
    assert bool((best.certificate.projected_gradient < 1e-3).all())


def test_gap_sees_what_a_local_search_cannot() -> None:
    """H is convex in u: both ends of the box are local maxima, and the certificate compares them."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: 0.1 * x[..., 0] - u[..., 0].square(),
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    wrong, right = (oc.certify(problem, [u], mesh=10) for u in (1.0, -1.0))
    assert float(wrong.projected_gradient) == 0.0
    assert float(wrong.max_gap) == pytest.approx(0.2 * 0.95, rel=0.06)
    assert float(right.max_gap) <= 1e-12


def test_gap_is_infinite_where_the_hamiltonian_has_no_maximum() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: x[..., 0],
        initial_state=[1.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    certificate = oc.certify(problem, [0.0], mesh=5)
    assert float(certificate.max_gap) == float("inf")
    assert float(certificate.projected_gradient) > 0.1


def test_gap_on_a_finite_set_is_that_of_the_best_point() -> None:
    problem = regulator(control_set=oc.FiniteSet([-1.0, -0.5, 0.0]))
    certificate = oc.certify(problem, [0.0], mesh=50)
    # x ≡ 1 and p = t − 1: H(u) − H(0) = pu − u²/2, largest at t = 0.
    assert float(certificate.max_gap) == pytest.approx(0.5, abs=0.02)
    # ∫ max(0, −½p − ⅛, −p − ½): −½p − ⅛ is the best for ¼ < −p < ¾.
    exact = (0.75**2 - 0.25**2) / 4.0 - 0.5 / 8.0 + (1.0 - 0.75**2) / 2.0 - 0.25 / 2.0
    assert float(certificate.mean_gap) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("control_set", [oc.Ball(0.5, 2), oc.Box([-0.5, -0.2], [0.4, 0.6])], ids=["ball", "box"])
def test_certificate_of_a_bounded_solution(control_set: oc.ControlSet) -> None:
    solution = oc.solve(coupled_oscillators(control_set), mesh=12, tolerance=1e-8)
    assert bool((solution.certificate.mean_gap * 2.0 <= 2e-8 * 10.0).all())
    assert bool((solution.certificate.projected_gradient <= 1e-2).all())


# ---------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "build",
    [
        oscillator_lqr.build,
        van_der_pol.build,
        van_der_pol_bounded.build,
        stirred_tank.build,
        leukaemia.build,
        hypersensitive.build,
        consumption.build,
        lambda: fishing.build(),
    ],
)
@pytest.mark.parametrize("mesh", [50, 100])
def test_cost_error_bounds_the_resimulated_difference(build: Callable[[], Reference], mesh: int) -> None:
    solution = solve_quietly(build().problem, mesh=mesh, max_iterations=200)
    difference = (solution.resimulate(PRECISE) - solution.cost).abs()
    bound = solution.certificate.cost_error
    # To first order in the defects, and DOP853 itself is good to about 1e-9 of the cost.
    assert bool((difference <= 1.1 * bound + 1e-9 * (1.0 + solution.cost.abs())).all())


@pytest.mark.parametrize("integrator", [oc.Euler(), oc.Heun(), oc.RK4()], ids=["euler", "heun", "rk4"])
def test_cost_error_shrinks_with_the_order_of_the_integrator(integrator: oc.Integrator, shared: bool) -> None:
    problem, order = nonlinear_problem(shared), {oc.Euler: 1, oc.Heun: 2, oc.RK4: 4}[type(integrator)]
    bounds, differences = [], []
    for mesh in (20, 40):
        solution = oc.solve(problem, mesh=mesh, integrator=integrator)
        bounds.append(solution.certificate.cost_error)
        differences.append((solution.resimulate(PRECISE) - solution.cost).abs())
        assert bool((differences[-1] <= 1.2 * bounds[-1] + 1e-10).all())
    assert bool((bounds[0] / bounds[1] >= 2.0 ** (order - 0.5)).all())


def test_cost_error_of_an_adaptive_integrator_is_at_its_tolerance() -> None:
    problem = nonlinear_problem(False)
    for tol in (1e-3, 1e-6, 1e-9):
        integrator = oc.TorchDiffEq("dopri5", rtol=tol, atol=tol)
        assert float(oc.certify(problem, [0.1, 0.1], mesh=N, integrator=integrator).cost_error.max()) <= 10.0 * tol


def test_defects_shrink_with_the_local_order() -> None:
    problem = nonlinear_problem(False)
    coarse, fine = (oc.certify(problem, [0.1, 0.1], mesh=mesh) for mesh in (10, 20))
    for name in ("state_defect", "costate_defect"):  # of one interval: one order more
        assert bool((getattr(coarse, name) / getattr(fine, name) >= 2.0**4.4).all())


@pytest.mark.parametrize("build", [nonlinear_problem, linear_quadratic_problem])
def test_transversality_is_zero_with_every_adjoint(build: Any, shared: bool) -> None:
    for adjoint in (oc.DiscreteAdjoint(), oc.ContinuousAdjoint()):
        assert float(oc.certify(build(shared), [0.2, 0.1], mesh=N, adjoint=adjoint).transversality.max()) == 0.0


# ----------------------------------------------------------------------------------------------------------- drift


@pytest.mark.parametrize("build", [oscillator_lqr.build, van_der_pol.build, stirred_tank.build])
def test_hamiltonian_drift_vanishes_on_autonomous_problems(build: Callable[[], Reference]) -> None:
    problem = build().problem
    coarse, fine = (oc.solve(problem, mesh=mesh, tolerance=1e-12).certificate.hamiltonian_drift for mesh in (50, 100))
    assert float(fine) <= float(coarse) / 3.0  # of second order
    wrong = oc.certify(problem, lambda t: [torch.sin(3.0 * t)], mesh=100).hamiltonian_drift
    assert float(wrong) >= 20.0 * float(fine)


@pytest.mark.parametrize("build", [nonlinear_problem, linear_quadratic_problem])
def test_hamiltonian_drift_is_not_defined_where_the_problem_depends_on_time(build: Any, shared: bool) -> None:
    assert bool(torch.isnan(oc.certify(build(shared), [0.2, 0.1], mesh=N).hamiltonian_drift).all())


def test_dependence_on_time_of_the_cost_alone_is_noticed() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        lambda t, x, u: torch.exp(-t) * (x.square() + u.square())[..., 0],
        initial_state=[[1.0], [2.0]],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    assert bool(torch.isnan(oc.certify(problem, [0.3], mesh=N).hamiltonian_drift).all())


# --------------------------------------------------------------------------------------------------------- failures


def test_certificate_of_a_control_that_blows_up_claims_nothing() -> None:
    certificate = oc.certify(cubic_growth([0.2, 9.0]), [0.0], mesh=20)
    assert float(certificate.cost_error[1]) == float("inf")
    assert float(certificate.cost_error[0]) < 1e-3
    assert float(certificate.max_gap[0]) > 0.0
    assert not float(certificate.max_gap[1]) <= 1.0  # infinite or NaN, never small
    assert not float(certificate.state_defect[1]) <= 1.0
    str(certificate)


def test_certificate_is_computed_when_asked_for_and_only_once() -> None:
    calls = []
    base = regulator()
    running = base.running_cost
    assert running is not None

    def counted(t: Any, x: Any, u: Any) -> Any:
        calls.append(1)
        return running(t, x, u)

    problem = oc.OptimalControlProblem(
        base.dynamics, counted, initial_state=base.initial_state, horizon=base.horizon, control_set=base.control_set
    )
    solution = oc.solve(problem, mesh=N)
    before = len(calls)
    first = solution.certificate
    assert len(calls) > before
    after = len(calls)
    assert solution.certificate is first
    assert len(calls) == after
