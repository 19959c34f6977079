"""E-MSA on references with a free end: cost, status, maximum principle, descent, order and resimulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import check_maximum_principle, solve_quietly
from torch import Tensor

import ocsolver as oc
import problems
from ocsolver.transcription import Discretization, transcribe
from problems import (
    Reference,
    chattering,
    citron_reactor,
    hypersensitive,
    leukaemia,
    lqr_terminal_cost,
    luus_reactor,
    oscillator_lqr,
    scalar_lqr,
    sir_distancing,
    stirred_tank,
    tuberculosis,
    van_der_pol,
    van_der_pol_bounded,
)

PRECISE = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)
REFERENCES = {reference.name: reference for reference in problems.free_end_references()}
SMOOTH = [reference.name for reference in problems.smooth_references()]
BANG_BANG = [reference.name for reference in problems.bang_bang_references()]
SINGULAR = [reference.name for reference in problems.singular_references()]
BINARY = {reference.name for reference in problems.discrete_references()}


@cache
def solved(name: str, mesh: int) -> oc.Solution:
    """Solution from a zero control; solved once for all tests."""
    return solve_quietly(REFERENCES[name].problem, oc.EMSA(), mesh=mesh)


def mesh_of(name: str) -> int:
    """The mesh on which other tests have already solved a problem."""
    return 400 if name in (*BANG_BANG, *SINGULAR) else 100


def error(reference: Reference, solution: oc.Solution) -> float:
    """|J − J*| relative to max(1, |J*|); the nearest of the listed minima counts."""
    minima = reference.local_costs or (reference.cost,)
    cost = float(solution.cost.mean())
    return min(abs(cost - optimum) / max(1.0, abs(optimum)) for optimum in minima if optimum is not None)


def scale(solution: oc.Solution) -> Tensor:
    """∫|L| dt + |Φ| of the returned control (G,): the unit of the residual."""
    d = solution.discretization
    transcription = transcribe(solution.problem, Discretization(d.mesh, d.integrator, d.adjoint))
    unit: Tensor = transcription.forward((solution.u,)).scale
    return unit


def solved_again(solution: oc.Solution) -> oc.Solution:
    """The same control, its trajectory and costates swept anew, interval by interval."""
    d = solution.discretization
    transcription = transcribe(solution.problem, Discretization(d.mesh, d.integrator, d.adjoint))
    sweep = transcription.backward(transcription.forward((solution.u,)))
    return replace(solution, x=sweep.forward.x, p=sweep.p)


# ------------------------------------------------------------------------------------------------ cost and status


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_references_are_solved_from_zero(name: str) -> None:
    solution = solved(name, 100)
    assert solution.status == [oc.Status.CONVERGED] * len(solution.status)
    # A control constant on intervals costs too much by O(h²): 16 times the tolerance of mesh 400.
    assert error(REFERENCES[name], solution) <= 16e-4


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_references_take_few_iterations(name: str) -> None:
    assert solved(name, 100).stats.iterations <= 40


@pytest.mark.parametrize(
    "reference",
    [
        *(scalar_lqr.build(horizon=T) for T in (2.0, 5.0)),
        *(hypersensitive.build(horizon=T) for T in (5.0, 20.0)),
        oscillator_lqr.build(initial_state=[1.0, 0.0]),
    ],
    ids=["scalar-lqr 2", "scalar-lqr 5", "hypersensitive 5", "hypersensitive 20", "oscillator-lqr (1, 0)"],
)
def test_variants_of_smooth_references_take_few_iterations(reference: Reference) -> None:
    solution = oc.solve(reference.problem, oc.EMSA())
    assert bool(solution.success.all())
    assert solution.stats.iterations <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_references_on_a_fine_mesh(name: str) -> None:
    solution = solved(name, 400)
    assert solution.status == [oc.Status.CONVERGED] * len(solution.status)
    assert solution.stats.iterations <= 40
    assert error(REFERENCES[name], solution) <= 1e-4


@pytest.mark.parametrize("name", BANG_BANG)
def test_bang_bang_references(name: str) -> None:
    assert error(REFERENCES[name], solved(name, 400)) <= 1e-3


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_references(name: str) -> None:
    assert error(REFERENCES[name], solved(name, 400)) <= 5e-3


@pytest.mark.parametrize("name", [*BANG_BANG, *SINGULAR])
def test_status_says_the_truth(name: str) -> None:
    solution = solved(name, 400)
    gap = solution.certificate.mean_gap * (solution.t[-1] - solution.t[0]) / scale(solution)
    # The certificate searches more finely than the residual of the iterations, never more coarsely.
    for status, value, residual in zip(solution.status, gap, solution.residual, strict=True):
        assert (status is oc.Status.CONVERGED) == (float(residual) <= 1e-8)
        assert float(value) >= 0.999 * float(residual) - 1e-12
        if status is oc.Status.CONVERGED:
            assert float(value) <= 1e-6


def test_local_minimum_is_left_by_a_better_start() -> None:
    reference = luus_reactor.build()
    low, high = (oc.solve(reference.problem, oc.EMSA(), initial_control=[u]) for u in (0.0, 3.0))
    assert sorted(reference.local_costs) == list(reference.local_costs)
    assert float(low.cost) == pytest.approx(reference.local_costs[1], abs=16e-4)
    assert float(high.cost) == pytest.approx(reference.local_costs[0], abs=16e-4)


def test_problem_without_a_minimizer_is_no_success() -> None:
    reference = chattering.build()
    solution = solved(reference.name, 100)
    assert not bool(solution.success.any())
    assert solution.status[0] < 0
    assert float(solution.residual) > 1e-3
    assert reference.cost is not None
    assert reference.cost < float(solution.cost) < 0.95 * reference.cost  # near the infimum, which is not attained


def test_trap_is_not_called_an_optimum() -> None:
    """Case 9 from mid-range control: everything reacts away. The residual must not hide behind a flat Hamiltonian."""
    reference = citron_reactor.build(case=9)
    for mesh in (100, 400):  # on the coarse one RK4 itself is unstable
        solution = solve_quietly(reference.problem, oc.EMSA(), mesh=mesh, initial_control=[4.0])
        assert bool(solution.success.all()) == (error(reference, solution) <= 1e-3)


def test_large_states_do_not_matter() -> None:
    reference = tuberculosis.build()
    solution = solved(reference.name, 100)
    assert solution.status == [oc.Status.CONVERGED]
    assert error(reference, solution) <= 1e-4


@pytest.mark.parametrize("name", sorted(BINARY))
def test_binary_controls_stay_in_their_set(name: str) -> None:
    reference, solution = REFERENCES[name], solved(name, 100)
    assert float(reference.problem.control_set.residual(solution.u).max()) == 0.0
    assert float(solution.cost) < float(solution.history.cost[0])
    assert bool(solution.success.all()) == (float(solution.residual) <= 1e-8)
    assert reference.cost is not None
    assert float(solution.cost) >= reference.cost - 1e-3  # an infimum: no control is below it


# ------------------------------------------------------------------------------- maximum principle, descent, bounds


@pytest.mark.parametrize("name", SMOOTH)
def test_maximum_principle_holds(name: str) -> None:
    solution = solved(name, 100)
    assert solution.problem is not None
    # The sweeps of an iteration are Newton steps: states are good to rounding, costates one power less.
    again = solved_again(solution)
    torch.testing.assert_close(solution.x, again.x, rtol=1e-11, atol=1e-11 * float(again.x.abs().max()))
    torch.testing.assert_close(solution.p, again.p, rtol=0.0, atol=1e-7 * float(again.p.abs().max()))
    # A residual of 1e-8 lets one interval of 100 gain 1e-6 of the scale of H.
    check_maximum_principle(solution.problem, again, tolerance=1.5e-6, trials=8)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_cost_never_rises_under_the_adaptive_penalty(name: str) -> None:
    solution = solved(name, mesh_of(name))
    rounding = 100.0 * torch.finfo(torch.float64).eps * torch.maximum(scale(solution), solution.history.cost[0].abs())
    assert bool((solution.history.cost.diff(dim=0) <= rounding).all())
    assert bool((solution.cost <= solution.history.cost[0]).all())
    torch.testing.assert_close(solution.cost, solution.history.cost[-1], rtol=0.0, atol=0.0)
    torch.testing.assert_close(solution.residual, solution.history.residual[-1], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_control_is_admissible_exactly(name: str) -> None:
    solution = solved(name, mesh_of(name))
    assert solution.problem is not None
    lower_upper = solution.problem.control_set.bounds(solution.u)
    if lower_upper is not None:
        assert bool(((solution.u >= lower_upper[0]) & (solution.u <= lower_upper[1])).all())
    assert float(solution.problem.control_set.residual(solution.u).max()) <= 1e-12


# ------------------------------------------------------------------------------------------- order and resimulation


@pytest.mark.parametrize(
    "build", [scalar_lqr.build, lqr_terminal_cost.build, oscillator_lqr.build, van_der_pol.build, sir_distancing.build]
)
def test_discretization_error_is_of_second_order(build: Callable[[], Reference]) -> None:
    reference = build()
    assert reference.cost is not None
    errors = [
        abs(float(oc.solve(reference.problem, oc.EMSA(), mesh=N, tolerance=1e-11).cost) - reference.cost)
        for N in (200, 400)
    ]
    assert errors[0] >= 3.5 * errors[1]


@pytest.mark.parametrize("name", SMOOTH)
def test_resimulated_cost_is_within_the_bound_of_the_certificate(name: str) -> None:
    solution = solved(name, 100)
    difference = (solution.resimulate(PRECISE) - solution.cost).abs()
    # The bound is of first order in the defects, and DOP853 itself is good to 1e-9 of the scale.
    bound = 1.05 * solution.certificate.cost_error + 1e-9 * (1.0 + scale(solution))
    assert bool((difference <= bound).all())


@pytest.mark.parametrize(
    "build",
    [van_der_pol_bounded.build, hypersensitive.build, stirred_tank.build, leukaemia.build, sir_distancing.build],
)
def test_resimulated_cost_agrees_to_the_order_of_the_integrator(build: Callable[[], Reference]) -> None:
    problem = build().problem
    solution = oc.solve(problem, oc.EMSA(), mesh=50)
    exact = solution.resimulate(PRECISE)
    errors = []
    for parts in (1, 2):  # the same control on a mesh twice as fine
        transcription = transcribe(problem, Discretization(50 * parts, oc.RK4()))
        cost = transcription.forward((solution.u.repeat_interleave(parts, 0),)).cost
        errors.append(float((cost - exact).abs()))
    assert errors[0] >= 2.0**3.5 * errors[1]
    assert errors[0] <= 1e-2 * float(exact)
