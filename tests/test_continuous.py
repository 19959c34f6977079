"""Contracts of the sweeps of a continuous problem: forward, backward, merging, starting, probing, diagnosing."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    CONTROLS,
    STATES,
    B,
    N,
    naive_costs,
    nonlinear_problem,
    random_control,
    seeded,
    solve_quietly,
    transcription,
    uneven_mesh,
)
from torch import Tensor

import ocsolver as oc
from ocsolver.continuous import ContinuousForward
from ocsolver.status import Status
from ocsolver.timeparallel import newton_sweep
from ocsolver.transcription import Discretization, transcribe
from problems import van_der_pol_bounded

FIXED = [oc.Euler(), oc.Heun(), oc.RK4()]
ADAPTIVE = [oc.TorchDiffEq("dopri5"), oc.SolveIVP("DOP853")]
type_name = lambda value: type(value).__name__
every_fixed = pytest.mark.parametrize("integrator", FIXED, ids=type_name)
every_integrator = pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, ids=type_name)
with_and_without_running_cost = pytest.mark.parametrize("running", [True, False], ids=["L", "no-L"])
FIELDS = ("u", "x", "running", "terminal", "cost", "scale", "finite")


def statement(dynamics: Any, running_cost: Any = None, terminal_cost: Any = None, **changes: Any) -> Any:
    """A problem of three states and two controls with simple data."""
    arguments = {
        "initial_state": 0.5 * seeded(B, STATES),
        "horizon": (0.5, 1.7),
        "control_set": oc.Unconstrained(CONTROLS),
        **changes,
    }
    return oc.OptimalControlProblem(dynamics, running_cost, terminal_cost, **arguments)


def drift(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return -x + u.sum(-1, keepdim=True)


def assert_same(one: ContinuousForward, other: ContinuousForward, tolerance: float) -> None:
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance, equal_nan=True
        )


# --------------------------------------------------------------------------------------------------- the forward sweep


@every_fixed
@with_and_without_running_cost
@pytest.mark.parametrize("t0", [-1.3, 0.5])
def test_forward_is_the_textbook_loop(shared: bool, integrator: oc.Integrator, running: bool, t0: float) -> None:
    problem = nonlinear_problem(shared, t0=t0, running=running)
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    forward = chain.forward((u,))
    costs = naive_costs(problem, chain.nodes, u, integrator)
    expected = costs.mean(0, keepdim=True) if shared else costs
    torch.testing.assert_close(forward.cost, expected, rtol=1e-13, atol=1e-13)
    assert forward.x.shape == (N + 1, B, STATES)
    assert forward.running.shape == (N, B)
    assert forward.terminal.shape == (B,)
    assert forward.cost.shape == forward.scale.shape == forward.finite.shape == (problem.groups,)
    assert bool(forward.finite.all())
    assert torch.equal(forward.x[0], problem.initial_state)
    assert forward.control[0] is u
    parts = forward.running.abs().sum(0) + forward.terminal.abs()
    torch.testing.assert_close(forward.scale, parts.mean(0, keepdim=True) if shared else parts)


@every_integrator
@pytest.mark.parametrize("t0", [-2.0, 0.0, 3.0])
def test_time_is_absolute(integrator: oc.Integrator, t0: float) -> None:
    """x' = t and L = t: polynomials that the integrators of order 2 and more solve exactly."""
    problem = statement(
        lambda t, x, u: t[..., None].expand_as(x), lambda t, x, u: t + 0.0 * x[..., 0], horizon=(t0, t0 + 2.0)
    )
    chain = transcription(problem, uneven_mesh(50), integrator)
    forward = chain.forward((random_control(problem, 50),))
    gain = 0.5 * (chain.nodes**2 - t0**2)
    tolerance = 0.1 if isinstance(integrator, oc.Euler) else 1e-7
    moved = (forward.x - problem.initial_state)[..., 0]
    torch.testing.assert_close(moved, gain[:, None].expand_as(moved), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(forward.cost, gain[-1].expand(B), rtol=tolerance, atol=tolerance)


def test_problem_without_costs_costs_nothing(shared: bool) -> None:
    problem = nonlinear_problem(shared, running=False, terminal=False)
    chain = transcription(problem)
    sweep = chain.backward(chain.forward((random_control(problem),)))
    assert not bool(sweep.forward.cost.any())
    assert not bool(sweep.p.any())


# ------------------------------------------------------------------------------------------------------- time-parallel


@every_fixed
@with_and_without_running_cost
@pytest.mark.parametrize("distance", [1e-6, 1e-2, 0.3])
def test_parallel_forward_equals_the_sequential_one(
    shared: bool, integrator: oc.Integrator, running: bool, distance: float
) -> None:
    problem = nonlinear_problem(shared, running=running)
    chain, u = transcription(problem, uneven_mesh(23), integrator), random_control(problem, 23)
    near = chain.forward((u + distance * seeded(*u.shape, seed=5),))
    sequential, parallel = chain._forward_sequential(u), chain._forward_parallel(u, near)
    assert parallel is not None
    assert parallel.linearization is not None
    assert_same(parallel, sequential, 1e-13)
    # the linearization is that of the last but one iterate, at most 2e-9 away
    torch.testing.assert_close(chain.backward(parallel).p, chain.backward(sequential).p, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_parallel_forward_from_far_away_is_right_or_gives_up(shared: bool, scale: float) -> None:
    problem = nonlinear_problem(shared)
    chain, u = transcription(problem, uneven_mesh(23)), random_control(problem, 23)
    near = chain.forward((scale * random_control(problem, 23, seed=8),))
    parallel = chain._forward_parallel(u, near)
    if parallel is not None:
        assert_same(parallel, chain._forward_sequential(u), 1e-12)


def test_parallel_forward_in_single_precision(shared: bool) -> None:
    problem = nonlinear_problem(shared, dtype=torch.float32)
    chain, u = transcription(problem, uneven_mesh(23)), random_control(problem, 23)
    parallel = chain._forward_parallel(u, chain.forward((u + 0.01,)))
    assert parallel is not None
    assert parallel.x.dtype == torch.float32
    assert_same(parallel, chain._forward_sequential(u), 2e-6)


def test_forward_near_a_trajectory_is_the_same_trajectory(shared: bool) -> None:
    for integrator, intervals in itertools.product([oc.RK4(), *ADAPTIVE], [N, 150]):
        if integrator.adaptive and intervals > N:
            continue
        problem = nonlinear_problem(shared)
        chain, u = transcription(problem, uneven_mesh(intervals), integrator), random_control(problem, intervals)
        near = chain.forward((u + 0.01,))
        assert_same(chain.forward((u,), near), chain.forward((u,)), 1e-12)


# ------------------------------------------------------------------------------------------------------ rows that fail


def exploding(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """x' = x³ + u/10: rows that start near 0 stay small, one at 30 is gone at once."""
    return x**3 + 0.1 * u.sum(-1, keepdim=True)


def exploding_problem(start: float = 30.0, row: int = 2, **changes: Any) -> oc.OptimalControlProblem:
    x0 = 0.1 * seeded(B, STATES)
    x0[row, 1] = start
    return statement(
        exploding,
        lambda t, x, u: x.square().sum(-1) + u.square().sum(-1),
        lambda x: x.square().sum(-1),
        initial_state=x0,
        **changes,
    )


REST = [0, 1, 3, 4]


@every_integrator
def test_row_that_blows_up_leaves_the_others(integrator: oc.Integrator) -> None:
    tame, wild = exploding_problem(start=0.1), exploding_problem()
    u = random_control(tame)
    chains = [transcription(problem, integrator=integrator) for problem in (tame, wild)]
    one, other = (chain.forward((u,)) for chain in chains)
    assert other.finite.tolist() == [True, True, False, True, True]
    assert float(other.cost[2]) == math.inf
    bad = torch.isnan(other.x[:, 2]).all(-1)
    first = int(bad.nonzero()[0])
    assert first >= 1
    assert bool(bad[first:].all())
    assert bool(torch.isfinite(other.x[:first, 2]).all())
    # adaptive rows share the steps: there a row may change within the tolerance
    tolerance = 1e-5 if integrator.adaptive else 1e-14
    close = {"rtol": tolerance, "atol": tolerance}
    for name in FIELDS:
        a, b = (getattr(forward, name) for forward in (one, other))
        axis = 0 if a.ndim == 1 else 1
        torch.testing.assert_close(
            b.index_select(axis, torch.tensor(REST)), a.index_select(axis, torch.tensor(REST)), **close
        )
    sweeps = [chain.backward(forward) for chain, forward in zip(chains, (one, other), strict=True)]
    torch.testing.assert_close(sweeps[1].p[:, REST], sweeps[0].p[:, REST], **close)
    v = random_control(tame, seed=3)
    values = [sweep.blocks[0].value(v)[:, REST] for sweep in sweeps]
    torch.testing.assert_close(values[1], values[0], **close)


def test_shared_control_fails_as_a_whole() -> None:
    problem = exploding_problem(shared_control=True)
    forward = transcription(problem).forward((random_control(problem),))
    assert forward.cost.tolist() == [math.inf]
    assert forward.finite.tolist() == [False]


@pytest.mark.parametrize("terminal", [False, True])
def test_cost_of_a_blow_up_is_infinite_whatever_the_costs_look_at(shared: bool, terminal: bool) -> None:
    """A cost of the control and of tame components alone does not make the failure a success."""
    x0 = 0.1 * seeded(B, STATES)
    x0[2, 1] = 30.0
    problem = statement(
        exploding,
        lambda t, x, u: u.square().sum(-1).expand(x.shape[:-1]),
        (lambda x: x[..., 0]) if terminal else None,
        initial_state=x0,
        shared_control=shared,
    )
    forward = transcription(problem).forward((random_control(problem),))
    assert bool(torch.isnan(forward.x[-1, 2]).all())
    expected = [False] if shared else [True, True, False, True, True]
    assert forward.finite.tolist() == expected
    assert (forward.cost == math.inf).tolist() == [not good for good in expected]


@pytest.mark.parametrize("all_rows", [False, True])
def test_forward_near_a_trajectory_that_failed(all_rows: bool) -> None:
    """A control that works is simulated in full, although the trajectory nearby had rows that blew up."""
    problem = statement(
        lambda t, x, u: x**3 + u[..., :1],
        lambda t, x, u: x.square().sum(-1),
        initial_state=torch.full((B, STATES), 0.1).double(),
    )
    chain = transcription(problem, 150)
    good = torch.zeros(150, B, CONTROLS).double()
    bad = good.clone()
    bad[:, slice(None) if all_rows else 2] = 50.0
    near = chain.forward((bad,))
    assert near.finite.tolist() == ([False] * B if all_rows else [True, True, False, True, True])
    assert chain._parallel_pays
    assert_same(chain.forward((good,), near), chain.forward((good,)), 1e-12)


def test_one_failed_row_does_not_end_the_fast_sweep() -> None:
    """A frozen row must not cost the others the time-parallel sweep."""
    problem = exploding_problem()
    chain, u = transcription(problem, 150), random_control(problem, 150, scale=0.1)
    near = chain.forward((u,))
    v = u.clone()
    v[:, REST] += 0.01
    fast = chain._forward_parallel(v, near)
    assert fast is not None
    assert_same(fast, chain._forward_sequential(v), 1e-12)


@pytest.mark.parametrize("value", [-0.75, 1.0, 2.0])
def test_long_sweeps_from_far_away_go_by_windows(value: float) -> None:
    """The oscillator forgets nothing: from a far guess Newton's method solves it from the left, part by part."""
    problem = van_der_pol_bounded.build(control_bounds=None).problem
    chain = transcription(problem, 400)
    zero = torch.zeros(400, 1, 1, dtype=torch.float64)
    near = chain.forward((zero,))
    u = zero + value
    assert newton_sweep(chain.intervals, near.x, problem.initial_state, u) is None
    parallel = chain._forward_parallel(u, near)
    assert parallel is not None
    assert parallel.linearization is not None
    assert_same(parallel, chain._forward_sequential(u), 1e-11)
    torch.testing.assert_close(parallel.linearization.jacobian, chain.intervals.linearize(parallel.x[:-1], u).jacobian)


def test_windows_give_up_where_the_trajectory_ends() -> None:
    problem = statement(
        lambda t, x, u: x**3 + u[..., :1],
        lambda t, x, u: x.square().sum(-1),
        initial_state=torch.full((B, STATES), 0.1).double(),
    )
    chain = transcription(problem, 250)
    good = torch.zeros(250, B, CONTROLS).double()
    near = chain.forward((good,))
    assert chain._forward_parallel(good + 50.0, near) is None
    assert not bool(chain.forward((good + 50.0,), near).finite.any())


# --------------------------------------------------------------------------------------------------------------- merge


@every_fixed
@pytest.mark.parametrize("swept", ["neither", "one", "both"])
def test_merge_takes_the_right_groups(integrator: oc.Integrator, swept: str) -> None:
    problem = nonlinear_problem(False)
    chain = transcription(problem, integrator=integrator)
    old, new = (chain.forward((random_control(problem, seed=seed),)) for seed in (1, 2))
    if swept != "neither":
        old = chain.backward(old).forward
    if swept == "both":
        new = chain._forward_parallel(new.u, new)
    mask = torch.tensor([True, False, False, True, False])
    merged = chain.merge(mask, new, old)
    for name in FIELDS:
        a, b, c = (getattr(forward, name) for forward in (merged, new, old))
        axis = 0 if a.ndim == 1 else 1
        for i in range(B):
            assert torch.equal(a.select(axis, i), (b if bool(mask[i]) else c).select(axis, i))
    costates = [chain.backward(forward).p for forward in (merged, new, old)]
    expected = torch.where(mask[:, None], costates[1], costates[2])
    torch.testing.assert_close(costates[0], expected, rtol=1e-10, atol=1e-10)


def test_merge_with_a_shared_control_takes_all_or_nothing() -> None:
    problem = nonlinear_problem(True)
    chain = transcription(problem)
    old, new = (chain.forward((random_control(problem, seed=seed),)) for seed in (1, 2))
    assert_same(chain.merge(torch.tensor([True]), new, old), new, 0.0)
    assert_same(chain.merge(torch.tensor([False]), new, old), old, 0.0)


def test_merge_keeps_failures_out() -> None:
    problem = exploding_problem()
    chain = transcription(problem)
    failed = chain.forward((random_control(problem),))
    fine = transcription(exploding_problem(start=0.1)).forward((random_control(problem, seed=3),))
    merged = chain.merge(torch.tensor([True, True, False, True, True]), failed, fine)
    assert bool(merged.finite.all())
    assert bool(torch.isfinite(chain.backward(merged).p).all())


# ------------------------------------------------------------------------------------------------------------ diagnosis


def failure_of(problem: oc.OptimalControlProblem, u: Tensor, group: int, integrator: Any = None, mesh: Any = 4) -> Any:
    chain = transcription(problem, mesh, integrator)
    forward = chain.forward((u,))
    assert not bool(forward.finite[group])
    return chain.diagnose(forward, group)


@every_fixed
def test_diagnosis_of_a_running_cost(shared: bool, integrator: oc.Integrator) -> None:
    """u²/x as x → 0: trajectory 3 starts at 1 and reaches 0 at t = 1.5."""
    x0 = torch.full((B, 1), 5.0).double()
    x0[3] = 1.0
    problem = statement(
        lambda t, x, u: u,
        lambda t, x, u: u[..., 0] ** 2 / x[..., 0],
        initial_state=x0,
        horizon=(0.5, 2.5),
        control_set=oc.Box(-1.0, 1.0),
        shared_control=shared,
    )
    failure = failure_of(problem, -torch.ones(4, problem.groups, 1).double(), 0 if shared else 3, integrator)
    assert failure.status is Status.NONFINITE
    assert failure.message == "running_cost is inf at t = 1.5, x = [0.0] (trajectory 3)"


@every_integrator
def test_diagnosis_of_a_component_of_the_dynamics(shared: bool, integrator: oc.Integrator) -> None:
    """The logarithm in component 1 is not defined any more where x₀ falls below zero."""
    x0 = torch.full((B, STATES), 8.0).double()
    x0[1, 0] = 0.7

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack((-torch.ones_like(a), torch.log(a), c), -1)

    problem = statement(
        dynamics, terminal_cost=lambda x: x.sum(-1), initial_state=x0, horizon=(0.5, 2.5), shared_control=shared
    )
    failure = failure_of(problem, random_control(problem, 4), 0 if shared else 1, integrator)
    # an adaptive method may meet -inf at zero itself before it sees the NaN below
    assert failure.status is Status.NONFINITE
    assert failure.message.startswith("dynamics component 1 is ")
    assert "at t = " in failure.message
    assert failure.message.endswith("(trajectory 1)")
    t = float(failure.message.split("t = ")[1].split(",")[0])
    assert 1.0 <= t <= 2.0  # x₀ = 0.7 − (t − 0.5) vanishes at 1.2, in the interval from 1 to 1.5


@every_integrator
def test_diagnosis_of_a_blow_up(shared: bool, integrator: oc.Integrator) -> None:
    problem = exploding_problem(shared_control=shared)
    failure = failure_of(problem, random_control(problem, 8), 0 if shared else 2, integrator, mesh=8)
    assert failure.status is Status.INTEGRATION_FAILED
    assert "state component 1 of trajectory 2 blows up between t = " in failure.message
    if integrator.adaptive:  # the others need some steps to overflow
        assert "between t = 0.5 and t = 0.65 (last |x| = 30)" in failure.message


def test_diagnosis_of_a_terminal_cost() -> None:
    x0 = torch.ones(B, STATES).double()
    x0[4] = -1.0
    problem = statement(lambda t, x, u: 0.0 * x, terminal_cost=lambda x: torch.log(x[..., 0]), initial_state=x0)
    failure = failure_of(problem, random_control(problem, 4), 4)
    assert failure.status is Status.NONFINITE
    assert failure.message == "terminal_cost is nan for trajectory 4"


def test_diagnosis_names_the_first_trajectory_of_a_shared_control() -> None:
    x0 = 0.1 * seeded(B, STATES)
    x0[3], x0[1, 2] = 30.0, 40.0
    problem = statement(exploding, initial_state=x0, shared_control=True, terminal_cost=lambda x: x.sum(-1))
    failure = failure_of(problem, random_control(problem, 4), 0)
    assert "state component 2 of trajectory 1 blows up" in failure.message


# ---------------------------------------------------------------------------------------------------- starting control


def test_start_forms(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    chain, G = transcription(problem), problem.groups
    full = random_control(problem)
    constant = torch.tensor([0.3, -0.4], dtype=torch.float64)
    for given, expected in [
        (None, torch.zeros(N, G, CONTROLS).double()),
        ([0.3, -0.4], constant.expand(N, G, CONTROLS)),
        (np.array([0.3, -0.4]), constant.expand(N, G, CONTROLS)),
        (constant, constant.expand(N, G, CONTROLS)),
        (full, full),
        (full.numpy(), full),
        (full.tolist(), full),
        (full[:, :1], full[:, :1].expand(N, G, CONTROLS)),
        (full.float(), full.float().double()),
    ]:
        (u,) = chain.start(given)
        assert u.shape == (N, G, CONTROLS)
        assert u.dtype == torch.float64
        assert torch.equal(u, expected)


def test_start_from_a_function_of_time(shared: bool) -> None:
    problem = nonlinear_problem(shared, t0=-1.0)
    chain = transcription(problem)
    midpoints = 0.5 * (chain.nodes[1:] + chain.nodes[:-1])
    expected = torch.stack((torch.sin(midpoints), midpoints**2), -1)[:, None].expand(N, problem.groups, CONTROLS)
    for function in (
        lambda t: torch.stack((torch.sin(t), t**2)),
        lambda t: [math.sin(t), float(t) ** 2],
        lambda t: np.array([np.sin(float(t)), float(t) ** 2]),
        lambda t: torch.stack((torch.sin(t), t**2)).expand(problem.groups, CONTROLS),
    ):
        torch.testing.assert_close(chain.start(function)[0], expected)


def test_start_projects_onto_the_control_set() -> None:
    box = oc.Box([0.1, -0.2], [0.3, 0.2])
    chain = transcription(nonlinear_problem(False, control_set=box))
    for given in (None, [9.0, -9.0], lambda t: [9.0, -9.0], 9.0 * seeded(N, B, CONTROLS)):
        assert float(box.residual(chain.start(given)[0]).max()) == 0.0
    assert chain.start(None)[0][0, 0].tolist() == [0.1, 0.0]
    finite = transcription(nonlinear_problem(False, control_set=oc.FiniteSet([[1.0, 1.0], [-2.0, -2.0]])))
    assert chain.start(None)[0].shape == (N, B, CONTROLS)
    assert finite.start([-1.0, -1.5])[0][0, 0].tolist() == [-2.0, -2.0]


def test_start_keeps_no_hold_of_the_argument() -> None:
    given = random_control(nonlinear_problem(False))
    (u,) = transcription(nonlinear_problem(False)).start(given)
    before = u.clone()
    given += 1.0
    assert torch.equal(u, before)


def test_start_from_a_solution_on_the_same_and_on_another_mesh(shared: bool) -> None:
    problem = nonlinear_problem(shared)
    solution = oc.solve(problem, mesh=8, max_iterations=1, tolerance=None)
    torch.testing.assert_close(transcription(problem, 8).start(solution)[0], solution.u)
    coarse = transcription(problem, 4).start(solution)[0]
    torch.testing.assert_close(coarse, 0.5 * (solution.u[0::2] + solution.u[1::2]))
    fine = transcription(problem, 24).start(solution)[0]
    torch.testing.assert_close(fine, solution.u.repeat_interleave(3, 0))


def test_shared_solution_starts_separate_controls() -> None:
    solution = oc.solve(nonlinear_problem(True), mesh=8, max_iterations=1, tolerance=None)
    (u,) = transcription(nonlinear_problem(False), 8).start(solution)
    torch.testing.assert_close(u, solution.u.expand(8, B, CONTROLS))
    separate = oc.solve(nonlinear_problem(False), mesh=8, max_iterations=1, tolerance=None)
    with pytest.raises(oc.ShapeError) as caught:
        transcription(nonlinear_problem(True), 8).start(separate)
    assert "initial_control (Solution): expected (G, m) = (1, 2), got (5, 2)." in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error", "texts"),
    [
        (
            [1.0],
            oc.ShapeError,
            ["initial_control: expected (2,) or (7, 5, 2), got (1,).", "(N, G, m) = (7, 5, 2), a function"],
        ),
        (0.0, oc.ShapeError, ["got ()"]),
        (torch.zeros(N, CONTROLS), oc.ShapeError, ["got (7, 2)"]),
        (torch.zeros(B, N, CONTROLS), oc.ShapeError, ["got (5, 7, 2)"]),
        (torch.zeros(N + 1, B, CONTROLS), oc.ShapeError, ["got (8, 5, 2)"]),
        ([math.nan, 0.0], oc.InputError, ["initial_control: expected finite entries, got nan at index (0,)."]),
        ([0.0, math.inf], oc.InputError, ["got inf at index (1,)"]),
        ("zero", oc.InputError, ["initial_control: expected numbers, got 'zero'."]),
        (lambda t: [0.0], oc.ShapeError, ["initial_control(t): expected shape (2,), got shape (1,)."]),
        (lambda t: 0.0, oc.ShapeError, ["initial_control(t): expected shape (2,), got shape ()."]),
        (lambda t: "zero", oc.InputError, ["initial_control(t): expected numbers, got 'zero'."]),
        (lambda t: [0.0, math.nan], oc.InputError, ["initial_control: expected finite entries, got nan"]),
    ],
)
def test_bad_starts_are_refused(given: Any, error: type[Exception], texts: list[str]) -> None:
    with pytest.raises(error) as caught:
        transcription(nonlinear_problem(False)).start(given)
    assert type(caught.value) is error
    assert all(text in str(caught.value) for text in texts)


# ----------------------------------------------------------------------------------------------- probing the callables


def check(problem: oc.OptimalControlProblem) -> None:
    chain = transcription(problem)
    chain.check(chain.start(None))


def test_good_callables_pass(shared: bool) -> None:
    check(nonlinear_problem(shared))
    check(nonlinear_problem(shared, running=False, terminal=False))
    check(nonlinear_problem(shared, dtype=torch.float32))
    check(statement(lambda t, x, u: -x, lambda t, x, u: 0.0 * t.expand(x.shape[:-1]), shared_control=shared))


@pytest.mark.parametrize(
    ("callables", "text"),
    [
        (
            (lambda t, x, u: x[..., 0],),
            "dynamics: expected shape (2, 7, 5, 3), got shape (2, 7, 5) for x of shape (2, 7, 5, 3).",
        ),
        ((lambda t, x, u: x[None],), "dynamics: expected shape (2, 7, 5, 3), got shape (1, 2, 7, 5, 3)"),
        ((lambda t, x, u: x[..., None],), "got shape (2, 7, 5, 3, 1)"),
        ((lambda t, x, u: x[..., :2],), "got shape (2, 7, 5, 2)"),
        ((lambda t, x, u: x[..., :1],), "got shape (2, 7, 5, 1)"),
        ((lambda t, x, u: x.mT,), "got shape (2, 7, 3, 5)"),
        ((lambda t, x, u: x.mean(-2),), "got shape (2, 7, 3)"),
        ((lambda t, x, u: torch.zeros(3).double(),), "got shape (3,)"),
        ((drift, lambda t, x, u: x.square()), "running_cost: expected shape (2, 7, 5), got shape (2, 7, 5, 3)"),
        ((drift, lambda t, x, u: x[..., :1]), "running_cost: expected shape (2, 7, 5), got shape (2, 7, 5, 1)"),
        (
            (drift, lambda t, x, u: x.square().sum(-1).mean(-1)),
            "running_cost: expected shape (2, 7, 5), got shape (2, 7)",
        ),
        ((drift, lambda t, x, u: x.square().sum()), "running_cost: expected shape (2, 7, 5), got shape ()"),
        ((drift, None, lambda x: x.square().mean()), "terminal_cost: expected shape (2, 7, 5), got shape ()"),
        ((drift, None, lambda x: x), "terminal_cost: expected shape (2, 7, 5), got shape (2, 7, 5, 3)"),
        ((drift, None, lambda x: x[..., 0].mean(-1)), "terminal_cost: expected shape (2, 7, 5), got shape (2, 7)"),
    ],
)
def test_wrong_shapes_are_refused(shared: bool, callables: tuple[Any, ...], text: str) -> None:
    with pytest.raises(oc.ShapeError) as caught:
        check(statement(*callables, shared_control=shared))
    message = str(caught.value)
    assert text in message
    assert "keep every batch axis" in message
    assert "never over the batch" in message


@pytest.mark.parametrize("output", [0.0, None, (1.0, 2.0), np.zeros((2, N, B))], ids=type_name)
def test_outputs_that_are_no_tensors_are_refused(output: Any) -> None:
    kind = type(output).__name__
    with pytest.raises(oc.ShapeError) as caught:
        check(statement(lambda t, x, u: output))
    assert f"dynamics: expected a tensor, got {kind}. Return a torch tensor of shape (*b, B, n)." in str(caught.value)
    with pytest.raises(oc.ShapeError, match=f"running_cost: expected a tensor, got {kind}"):
        check(statement(drift, lambda t, x, u: output))
    with pytest.raises(oc.ShapeError, match=f"terminal_cost: expected a tensor, got {kind}"):
        check(statement(drift, None, lambda x: output))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.complex128], ids=str)
def test_outputs_of_another_dtype_are_refused(dtype: torch.dtype) -> None:
    for name, callables in {
        "dynamics": (lambda t, x, u: torch.zeros_like(x, dtype=dtype),),
        "running_cost": (drift, lambda t, x, u: torch.zeros_like(x[..., 0], dtype=dtype)),
        "terminal_cost": (drift, None, lambda x: torch.zeros_like(x[..., 0], dtype=dtype)),
    }.items():
        with pytest.raises(oc.ShapeError) as caught:
            check(statement(*callables))
        message = str(caught.value)
        assert f"{name}: expected torch.float64 on cpu (those of initial_state), got {dtype} on cpu." in message
        assert "cast initial_state" in message


@pytest.mark.parametrize(
    ("callables", "text"),
    [
        (
            (lambda t, x, u: torch.log(x),),
            "dynamics at the initial time and state: expected finite values, got nan at trajectory/component (2, 1).",
        ),
        (
            (drift, lambda t, x, u: 1.0 / (x[..., 1] + 1.0)),
            "running_cost at the initial time and state: expected finite values, got inf at trajectory/component (2,).",
        ),
        (
            (drift, None, lambda x: torch.sqrt(x[..., 1])),
            "terminal_cost at the initial time and state: expected finite values, got nan at trajectory/component (2,)",
        ),
    ],
)
def test_values_that_are_not_finite_at_the_start_are_refused(callables: tuple[Any, ...], text: str) -> None:
    x0 = torch.ones(B, STATES).double()
    x0[2, 1] = -1.0
    with pytest.raises(oc.InputError) as caught:
        check(statement(*callables, initial_state=x0))
    assert text in str(caught.value)
    assert "start from another initial_control" in str(caught.value)


def test_values_that_are_not_finite_later_are_not_the_probes_concern() -> None:
    check(statement(lambda t, x, u: x / (1.7 - t)[..., None], horizon=(0.5, 1.7)))


# -------------------------------------------------------------------------------------- what the callables are promised


@every_integrator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_callables_see_all_trajectories_in_order(shared: bool, integrator: oc.Integrator, dtype: torch.dtype) -> None:
    inner, seen = nonlinear_problem(shared, dtype=dtype), set()

    def spy(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Tensor) -> Tensor:
            seen.add(name)
            x = arguments[-1] if len(arguments) == 1 else arguments[1]
            assert x.shape[-2:] == (B, STATES)
            assert all(argument.dtype == dtype for argument in arguments)
            if len(arguments) == 3:
                t, _, u = arguments
                assert u.shape[-2:] == (inner.groups, CONTROLS)
                assert u.shape[:-2] == x.shape[:-2]
                assert torch.broadcast_shapes(t.shape, x.shape[:-1]) == x.shape[:-1]
            return function(*arguments)

        return call

    problem = oc.OptimalControlProblem(
        spy("dynamics", inner.dynamics),
        spy("running_cost", inner.running_cost),
        spy("terminal_cost", inner.terminal_cost),
        initial_state=inner.initial_state,
        horizon=inner.horizon,
        control_set=inner.control_set,
        shared_control=shared,
    )
    chain = transcription(problem, integrator=integrator)
    control = chain.start(None)
    chain.check(control)
    (block,) = chain.backward(chain.forward(control)).blocks
    block.expansion(control[0] + 0.1)
    block.value(torch.zeros(4, *control[0].shape, dtype=dtype))
    if not integrator.adaptive:
        chain._forward_parallel(control[0], chain.forward((control[0] + 0.01,)))
    assert seen == {"dynamics", "running_cost", "terminal_cost"}


@every_integrator
def test_callables_may_ignore_arguments(shared: bool, integrator: oc.Integrator) -> None:
    """Their derivatives are zero there: x' = 1, L = u², Φ = x₀."""
    problem = statement(
        lambda t, x, u: torch.ones_like(x),
        lambda t, x, u: u.square().sum(-1).expand(x.shape[:-1]),
        lambda x: x[..., 0],
        shared_control=shared,
    )
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    chain.check((u,))
    sweep = chain.backward(chain.forward((u,)))
    expected = torch.tensor([-1.0, 0.0, 0.0]).double().expand(N + 1, B, STATES)
    torch.testing.assert_close(sweep.p, expected)
    torch.testing.assert_close(sweep.blocks[0].gradient(u)[1], -2.0 * u)
    constant = statement(
        lambda t, x, u: u.sum(-1, keepdim=True) + 0.0 * x, terminal_cost=lambda x: 0.0 * x[..., 0].detach()
    )
    chain = transcription(constant, integrator=integrator)
    assert not bool(chain.backward(chain.forward((random_control(constant),))).p.any())


@every_integrator
def test_outputs_of_size_one_are_expanded(shared: bool, integrator: oc.Integrator) -> None:
    """Functions of time and of a shared control need not be repeated for every trajectory."""

    def problem(expand: bool) -> oc.OptimalControlProblem:
        def widen(value: Tensor, shape: torch.Size) -> Tensor:
            return value.expand(shape) if expand else value

        return statement(
            lambda t, x, u: widen(
                torch.sin(t)[..., None] + u.mean(-2, keepdim=True).sum(-1, keepdim=True) + 0.0 * x[..., :1, :], x.shape
            ),
            lambda t, x, u: widen((u**2).sum((-1, -2))[..., None] + t, x.shape[:-1]),
            lambda x: widen(torch.ones_like(x[..., :1, 0]), x.shape[:-1]),
            shared_control=shared,
        )

    sweeps = []
    for expand in (False, True):
        chain = transcription(problem(expand), integrator=integrator)
        control = (random_control(chain.problem),)
        chain.check(control)
        sweeps.append(chain.backward(chain.forward(control)))
    assert_same(sweeps[0].forward, sweeps[1].forward, 1e-12)
    torch.testing.assert_close(sweeps[0].p, sweeps[1].p)
    trial = random_control(problem(True), seed=3)
    torch.testing.assert_close(sweeps[0].blocks[0].value(trial), sweeps[1].blocks[0].value(trial))
    torch.testing.assert_close(sweeps[0].blocks[0].expansion(trial), sweeps[1].blocks[0].expansion(trial))


class MyError(Exception):
    """An error of the user's own."""


@every_integrator
@pytest.mark.parametrize("name", ["dynamics", "running_cost", "terminal_cost"])
@pytest.mark.parametrize("part", ["check", "forward", "backward", "value"])
def test_exception_of_the_user_passes_unchanged(integrator: oc.Integrator, name: str, part: str) -> None:
    if (part, name) == ("value", "terminal_cost"):
        return  # the Hamiltonian does not call it
    inner, error, armed = nonlinear_problem(False), MyError("mine"), []

    def trap(callable_name: str) -> Callable[..., Tensor]:
        def call(*arguments: Tensor) -> Tensor:
            if armed and callable_name == name:
                raise error
            return getattr(inner, callable_name)(*arguments)

        return call

    problem = oc.OptimalControlProblem(
        trap("dynamics"),
        trap("running_cost"),
        trap("terminal_cost"),
        initial_state=inner.initial_state,
        horizon=inner.horizon,
        control_set=inner.control_set,
    )
    chain = transcription(problem, integrator=integrator)
    u = random_control(problem)
    forward = chain.forward((u,))
    sweep = chain.backward(forward)
    work = {
        "check": lambda: chain.check((u,)),
        "forward": lambda: chain.forward((u,)),
        "backward": lambda: chain.backward(forward),
        "value": lambda: sweep.blocks[0].value(u + 0.1),
    }[part]
    armed.append(True)
    with pytest.raises(MyError) as caught:
        work()
    assert caught.value is error
    if sys.version_info >= (3, 11):
        (note,) = error.__notes__
        assert f"raised inside your {name}, called by ocsolver with argument shapes (" in note


def test_exception_inside_an_initial_control_is_the_users_own() -> None:
    error = MyError("mine")

    def control(t: Tensor) -> Tensor:
        raise error

    with pytest.raises(MyError) as caught:
        transcription(nonlinear_problem(False)).start(control)
    assert caught.value is error
    if sys.version_info >= (3, 11):
        assert any("initial_control" in note for note in error.__notes__)


# ------------------------------------------------------------------------------------------------------- transcription


def test_defaults() -> None:
    chain = transcribe(nonlinear_problem(False), Discretization())
    assert chain.mesh.intervals == 100
    assert chain.integrator == oc.RK4()
    assert chain.adjoint == oc.DiscreteAdjoint()
    assert chain.groups == B


@pytest.mark.parametrize("integrator", ["RK4", oc.RK4, oc.DiscreteAdjoint()], ids=["text", "class", "adjoint"])
def test_what_is_no_integrator_is_refused(integrator: Any) -> None:
    with pytest.raises(oc.InputError) as caught:
        transcribe(nonlinear_problem(False), Discretization(integrator=integrator))
    assert f"integrator: expected an Integrator, got {integrator!r}." in str(caught.value)
    assert "oc.RK4()" in str(caught.value)


@pytest.mark.parametrize("problem", [None, "problem", lambda t, x, u: x], ids=["none", "text", "function"])
def test_what_is_no_problem_is_refused(problem: Any) -> None:
    with pytest.raises(oc.UnsupportedError) as caught:
        transcribe(problem, Discretization())
    assert f"problem: expected an optimal control problem, got {type(problem).__name__}." in str(caught.value)


@every_integrator
def test_block_of_a_sweep(shared: bool, integrator: oc.Integrator) -> None:
    problem = nonlinear_problem(shared)
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    (block,) = chain.backward(chain.forward((u,))).blocks
    Q = block.points.numel()
    assert torch.equal(block.weights, chain.nodes.diff())
    assert torch.equal(block.current, u)
    assert block.control_set is problem.control_set
    assert block.x.shape == (N, Q, B, STATES)
    assert block.sensitivity.shape == (N, Q, B, STATES + 1)
    assert bool((block.sensitivity[..., STATES] == -1.0).all())
    assert float(block.points.sum()) == pytest.approx(1.0)
    t = block.t.expand(N, Q, 1)[..., 0]
    assert bool((t >= chain.nodes[:-1, None]).all())
    assert bool((t <= chain.nodes[1:, None]).all())


# ------------------------------------------------------------------------------------------- what torch cannot see


def scalar(**changes: Any) -> oc.OptimalControlProblem:
    """ẋ = u − x, J = ∫ x² + u² dt, but for some changes."""
    parts: dict[str, Any] = {
        "dynamics": lambda t, x, u: u - x,
        "running_cost": lambda t, x, u: (x**2 + u**2).sum(-1),
        "initial_state": [1.0],
        "horizon": (0.0, 1.0),
        "control_set": oc.Box(-1.0, 1.0),
    }
    return oc.OptimalControlProblem(**{**parts, **changes})


BY_HAND = {"dynamics": lambda t, x, u: torch.as_tensor(np.sin(x.detach().numpy())) + u}


@pytest.mark.parametrize(
    ("solver", "changes", "words"),
    [
        (None, BY_HAND, "dynamics: expected a function whose derivative by x"),
        (oc.Collocation(), BY_HAND, "dynamics: expected a function whose derivative by x"),
        (oc.EMSA(), BY_HAND, "dynamics: expected a function whose derivative by x"),
        (
            oc.EMSA(),
            {"dynamics": lambda t, x, u: u.detach() - x},
            "dynamics: expected a function whose derivative by u",
        ),
        (
            oc.EMSA(),
            {"running_cost": lambda t, x, u: (x.detach() ** 2 + u**2).sum(-1)},
            "running_cost: expected a function whose derivative by x",
        ),
        (
            oc.EMSA(),
            {"terminal_cost": lambda x: x.detach()[..., 0] ** 2},
            "terminal_cost: expected a function whose derivative by x",
        ),
    ],
)
def test_functions_without_derivatives_are_refused(
    solver: oc.Solver | None, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(oc.InputError, match=words):
        oc.solve(scalar(**changes), solver)


def test_controls_that_are_compared_one_by_one_need_no_derivatives() -> None:
    problem = scalar(
        dynamics=lambda t, x, u: torch.as_tensor(np.sin(u.detach().numpy())) - x,
        control_set=oc.FiniteSet([[-1.0], [1.0]]),
    )
    assert bool(torch.isfinite(solve_quietly(problem, oc.MSA(), max_iterations=3).cost).all())


def test_constraints_without_derivatives_are_refused() -> None:
    end = oc.Constraint(lambda x: torch.as_tensor(2.0 * x.detach().numpy()))
    with pytest.raises(oc.InputError, match="terminal_constraint: expected a function whose derivative by x"):
        oc.solve(scalar(terminal_constraint=end))
    path = oc.Constraint(lambda t, x, u: torch.as_tensor(np.sin(u.detach().numpy())), -0.5, 0.5)
    with pytest.raises(oc.InputError, match="path_constraint: expected a function whose derivative by u"):
        oc.solve(scalar(path_constraint=path), oc.Collocation())


def test_steps_have_no_derivatives_to_lose() -> None:
    problem = scalar(running_cost=lambda t, x, u: (u**2).sum(-1) + (x[..., 0] > 1.0).to(x.dtype))
    assert bool(torch.isfinite(solve_quietly(problem, oc.EMSA(), max_iterations=3).cost).all())


def test_constraints_that_are_no_numbers_are_named() -> None:
    path = oc.Constraint(lambda t, x: torch.log(x - 2.0), 0.0, 1.0)
    for solver in (None, oc.Collocation()):
        with pytest.raises(
            oc.InputError, match="path_constraint at the initial time and state: expected finite values"
        ):
            oc.solve(scalar(path_constraint=path), solver)
    end = oc.Constraint(lambda x: torch.log(x - 2.0), 0.0, 1.0)
    solution = solve_quietly(scalar(terminal_constraint=end), None)
    assert solution.status == [Status.NONFINITE]
    assert "terminal_constraint component 0 is no number" in solution.message
    with pytest.raises(oc.InputError, match="terminal_constraint at the initial time and state"):
        oc.solve(scalar(terminal_constraint=end), oc.AugmentedLagrangian())


def test_a_cost_without_bottom_is_no_success() -> None:
    """H is linear in a control without bounds."""
    problem = scalar(running_cost=lambda t, x, u: x[..., 0], control_set=oc.Unconstrained(1))
    solution = solve_quietly(problem, oc.EMSA())
    assert solution.status == [Status.DIVERGED]
    assert "J has fallen far below any size it had" in solution.message
    assert "J may have no minimum" in solve_quietly(problem, oc.Collocation()).message
