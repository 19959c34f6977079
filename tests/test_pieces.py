"""Polynomial pieces: interpolation, meshes of each group's own, the lifted problem, storage, warm starts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import bang_bang, fastest_ramp, landing, nodes, pushing, regulator, rest_to_rest, sliding
from helpers import CONTROLS, HORIZON, STATES, B, N, nonlinear_problem, seeded, uneven_mesh
from torch import Tensor

import ocsolver as oc
from ocsolver.kinks import cut_at_kinks
from ocsolver.lifted import lifted
from ocsolver.pieces import Pieces, gauss, locate, shifted
from ocsolver.transcription import Discretization, transcribe
from ocsolver.violations import measure_violations

PRECISE = oc.SolveIVP("DOP853", rtol=1e-11, atol=1e-12)
C = 4  # components of the path constraint, another size


def random_pieces(shared: bool, s: int = 3) -> tuple[oc.OptimalControlProblem, Tensor, Pieces]:
    """Pieces of random values on a mesh of each group's own, all sizes different."""
    problem = nonlinear_problem(shared, control_set=oc.Box([-0.5] * CONTROLS, [0.6] * CONTROLS))
    G = problem.groups
    pieces = Pieces(
        0.5 * seeded(N, s, G, CONTROLS, seed=1),
        seeded(N, s, B, STATES, seed=2),
        seeded(N, s, B, STATES, seed=3),
        seeded(N, s, G, C, seed=4),
    )
    return problem, nodes(N, G, 0.5, 0.5 + HORIZON), pieces


# -------------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize("s", [1, 2, 3, 4])
def test_pieces_meet_the_nodes_and_the_gauss_points(s: int, shared: bool) -> None:
    problem, t, pieces = random_pieces(shared, s)
    x, p = seeded(N + 1, B, STATES, seed=5), seeded(N + 1, B, STATES, seed=6)
    inside = pieces.samples(problem, t, x, p, gauss(s, t)[0])
    torch.testing.assert_close(inside.x, pieces.state)
    torch.testing.assert_close(inside.p, pieces.costate)
    torch.testing.assert_close(inside.u, problem.control_set.project(pieces.control))
    assert inside.nu is not None
    torch.testing.assert_close(inside.nu, pieces.path_multipliers)
    ends = pieces.samples(problem, t, x, p, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends.x, torch.stack((x[:-1], x[1:]), 1))
    torch.testing.assert_close(ends.p, torch.stack((p[:-1], p[1:]), 1))
    torch.testing.assert_close(ends.t, torch.stack((t[:-1], t[1:]), 1))


@pytest.mark.parametrize("s", [2, 3])
def test_interpolation_has_the_order_of_its_polynomials(s: int) -> None:
    times = torch.linspace(0.0, 1.0, 301, dtype=torch.float64)

    def errors(N: int) -> tuple[float, float]:
        found, x0 = regulator(N, stages=s), torch.tensor([1.0, 2.0], dtype=torch.float64)
        x = x0 * torch.cosh(1.0 - times[:, None]) / math.cosh(1.0)
        u = -x0 * torch.sinh(1.0 - times[:, None]) / math.cosh(1.0)
        return tuple(
            float((a - b[..., None]).abs().max()) for a, b in ((found.control(times), u), (found.state(times), x))
        )  # type: ignore[return-value]

    (control, state), (fine_control, fine_state) = errors(4), errors(8)
    assert control >= 2.0 ** (s - 0.3) * fine_control  # degree s − 1
    assert state >= 2.0 ** (s + 1.7) * fine_state  # degree s + 1


def test_each_group_has_its_own_nodes() -> None:
    solution = regulator(5)
    at_nodes = solution.state(solution.t[:, 1])
    torch.testing.assert_close(at_nodes[:, 1], solution.x[:, 1])
    assert float((at_nodes[:, 0] - solution.x[:, 0]).abs().max()) > 1e-2
    k, sigma = locate(solution.t, solution.t[:, 1])
    assert k[:, 1].tolist() == [0, 1, 2, 3, 4, 4]
    assert sigma[:, 1].tolist() == [0, 0, 0, 0, 0, 1]


def test_times_beyond_a_group_s_own_end_are_moved_to_it() -> None:
    one = regulator(4)
    other = replace(one, t=one.t * torch.tensor([1.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(other.state([0.5, 0.7, 1.0])[:, 1], other.x[-1:, 1].expand(3, 1))
    torch.testing.assert_close(other.state([1.0])[:, 0], other.x[-1:, 0])
    with pytest.raises(oc.InputError, match=r"expected times \(T,\) in \[0, 1\]"):
        other.control([1.01])


def test_intervals_of_length_zero_do_no_harm() -> None:
    t = torch.tensor([[0.0], [0.5], [0.5], [1.0], [1.0]], dtype=torch.float64)
    k, sigma = locate(t, torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    assert k[:, 0].tolist() == [0, 2, 3]
    assert sigma[:, 0].tolist() == [0.5, 0.0, 1.0]


def test_control_jumps_at_nodes_and_is_projected() -> None:
    solution = bang_bang(4)
    values = solution.control([1.0 - 1e-9, 1.0, 1.0 + 1e-9])[:, 0, 0]
    torch.testing.assert_close(values, torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    assert solution.pieces is not None
    wild = replace(solution, pieces=replace(solution.pieces, control=3.0 * solution.pieces.control))
    assert float(wild.control(np.linspace(0.0, 2.0, 50)).abs().max()) == 1.0


def test_mean_of_the_control_is_that_of_the_polynomial() -> None:
    solution = rest_to_rest(4)
    middle = 0.5 * (solution.t[1:, 0] + solution.t[:-1, 0])
    torch.testing.assert_close(solution.u[:, 0, 0], 6.0 - 12.0 * middle)


def test_pieces_of_a_constant_control_repeat_the_solution(shared: bool) -> None:
    solution = oc.solve(nonlinear_problem(shared), mesh=uneven_mesh(), max_iterations=1, tolerance=None)
    pieces = solution.curves
    assert pieces.stages == 2
    times = torch.linspace(0.5, 1.7, 40, dtype=torch.float64)
    place = locate(solution.t, times)
    torch.testing.assert_close(pieces.controls(*place), solution.control(times))
    torch.testing.assert_close(pieces.states(solution.x, *place), solution.state(times))
    again = replace(solution, pieces=pieces)
    torch.testing.assert_close(again.resimulate(PRECISE), solution.resimulate(PRECISE), rtol=1e-9, atol=0.0)


# --------------------------------------------------------------------------------------------- the lifted problem


@pytest.mark.parametrize("make", [regulator, rest_to_rest, fastest_ramp, landing, bang_bang])
def test_resimulation_returns_the_exact_cost(make: Any) -> None:
    solution = make(16)
    torch.testing.assert_close(solution.resimulate(PRECISE), solution.cost, rtol=1e-9, atol=0.0)


def test_the_lifted_problem_has_the_costates_of_the_original(shared: bool) -> None:
    """J as a function of the start: its gradient by the lifted problem's adjoint, against central differences."""
    problem, t, pieces = random_pieces(shared)
    step = 1e-5 * seeded(B, STATES, seed=9)

    def run(sign: float) -> tuple[Any, Any]:
        simple, control = lifted(problem, t, problem.initial_state + sign * step, pieces)
        assert control.shape == (N, problem.groups, 3 + 3 * CONTROLS)
        chain = transcribe(simple, Discretization(N))
        return chain, chain.forward((control,))

    chain, forward = run(0.0)
    rows = -(chain.backward(forward).p[0] * step).sum(-1)
    expected = rows.mean(0, keepdim=True) if shared else rows
    torch.testing.assert_close(0.5 * (run(1.0)[1].cost - run(-1.0)[1].cost), expected, rtol=1e-5, atol=1e-12)


def test_single_precision_stays(shared: bool) -> None:
    problem, t, pieces = random_pieces(shared)
    single = nonlinear_problem(shared, dtype=torch.float32)
    small = Pieces(*(values.float() for values in vars(pieces).values()))
    simple, control = lifted(single, t.float(), single.initial_state, small)
    assert control.dtype is torch.float32
    x = single.initial_state.expand(N, *single.initial_state.shape)
    sigma = torch.arange(N, dtype=torch.float32)[:, None]
    assert simple.dynamics(sigma, x, control).dtype is torch.float32


# --------------------------------------------------------------------------------------------------------- kinks


def test_cut_at_kinks_keeps_the_trajectory(shared: bool) -> None:
    problem, t, pieces = random_pieces(shared)
    x, p = seeded(N + 1, B, STATES, seed=5), seeded(N + 1, B, STATES, seed=6)
    t2, x2, p2, finer = cut_at_kinks(problem.control_set, t, x, p, pieces)
    assert len(t2) > len(t)
    assert bool((t2.diff(dim=0) >= 0).all())
    times = torch.linspace(0.5, 1.7, 50, dtype=torch.float64)
    old, new = locate(t, times), locate(t2, times)
    torch.testing.assert_close(finer.controls(*new), pieces.controls(*old))
    torch.testing.assert_close(finer.states(x2, *new), pieces.states(x, *old))
    torch.testing.assert_close(finer.costates(p2, *new), pieces.costates(p, *old))
    torch.testing.assert_close(finer.multipliers(*new), pieces.multipliers(*old))


def test_kinks_are_found() -> None:
    """u = 6 − 12 t within ±3: it leaves the bounds at t = ¼ and comes back at ¾."""
    solution = rest_to_rest(3)
    t, _, _, finer = cut_at_kinks(oc.Box([-3.0], [3.0]), solution.t, solution.x, solution.p, solution.curves)
    torch.testing.assert_close(t[:, 0], torch.tensor([0.0, 0.25, 1 / 3, 2 / 3, 0.75, 1.0], dtype=torch.float64))
    assert finer.control.shape == (5, 3, 1, 1)
    for other in (oc.Unconstrained(1), oc.Box([-7.0], [7.0]), oc.Ball(3.0, 1)):
        assert cut_at_kinks(other, solution.t, solution.x, solution.p, solution.curves)[3] is solution.curves


# ---------------------------------------------------------------------------------------------------- violations


def test_violations_are_measured_between_the_nodes() -> None:
    touching = landing(6)
    assert (
        float(measure_violations(touching.problem, touching.t, touching.x, touching.curves)["path_constraint"]) == 0.0
    )
    coarse = landing(5)  # the touch-down lies inside an interval, where the polynomial undershoots
    found = measure_violations(coarse.problem, coarse.t, coarse.x, coarse.curves)["path_constraint"]
    assert found.shape == (1, 1)
    assert 1e-6 < float(found) < 1e-2


def test_violation_of_the_end() -> None:
    solution = rest_to_rest()
    x = solution.x.clone()
    x[-1] += torch.tensor([0.1, -0.2], dtype=torch.float64)
    found = measure_violations(solution.problem, solution.t, x, solution.curves)
    torch.testing.assert_close(found["terminal_constraint"], torch.tensor([[0.1, 0.2]], dtype=torch.float64))


def test_violations_of_a_constant_control() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: u,
        initial_state=[[0.0], [1.0], [-3.0]],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
        shared_control=True,
        path_constraint=oc.Constraint(lambda t, x, u: torch.cat((x, u + 0.0 * x), -1), [-1.0, -math.inf], [1.0, 1.5]),
    )
    t, u = nodes(2), torch.full((2, 1, 1), 2.0, dtype=torch.float64)
    x = problem.initial_state + 2.0 * t[:, :, None]
    found = measure_violations(problem, t, x, Pieces.from_steps(problem, t, x, x, u))
    torch.testing.assert_close(found["path_constraint"], torch.tensor([[2.0, 0.5]], dtype=torch.float64))


# ------------------------------------------------------------------------------------------- storage and summary


@pytest.mark.parametrize("make", [regulator, rest_to_rest, landing, bang_bang])
def test_save_and_load(make: Any, tmp_path: Path) -> None:
    solution = make(4)
    solution = replace(
        solution,
        violations=measure_violations(solution.problem, solution.t, solution.x, solution.curves),
        singular=[[(0.1, 0.25, 0)]] * len(solution.status),
    )
    solution.save(tmp_path / "run")
    for problem in (None, solution.problem):
        again = oc.load(tmp_path / "run", problem)
        for name, values in vars(solution.pieces).items():
            stored = getattr(again.pieces, name)
            assert (stored is None) == (values is None)
            assert values is None or torch.equal(stored, values)
        for what in ("multipliers", "violations"):
            stored, kept = getattr(again, what), getattr(solution, what)
            assert stored.keys() == kept.keys()
            assert all(torch.equal(stored[name], kept[name]) for name in kept)
        assert again.switches == solution.switches
        assert again.singular == solution.singular
        times = np.linspace(0.0, float(solution.t[-1, 0]), 20)
        assert torch.equal(again.state(times), solution.state(times))
        torch.testing.assert_close(again.control(times), solution.control(times))
    assert again.summary() == solution.summary()


def test_summary_names_what_happened() -> None:
    solution = bang_bang(4)
    solution = replace(
        solution,
        violations=measure_violations(solution.problem, solution.t, solution.x, solution.curves),
        singular=[[(0.1, 0.25, 0)]],
    )
    text = str(solution)
    for line in (
        "mesh                 4 intervals, polynomials through 3 Gauss points",
        "final time           2\n",
        "terminal constraint  violated by at most 0.000e+00",
        "switches             u[0] at 1\n",
        "singular arcs        u[0] on [0.1, 0.25]",
        "certificate",
    ):
        assert line in text, line
    many = replace(solution, switches=[[(0.1 * i, 0) for i in range(30)]])
    assert "… (30 in all)" in str(many)


# ---------------------------------------------------------------------------------------------------- warm starts


def test_a_solution_with_pieces_starts_a_sweep_solver() -> None:
    solution = regulator(6)
    run = oc.solve(solution.problem, mesh=10, initial_control=solution, max_iterations=0, tolerance=None)
    edges = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    mean = (torch.cosh(1.0 - edges[1:]) - torch.cosh(1.0 - edges[:-1])) / (0.1 * math.cosh(1.0))
    torch.testing.assert_close(run.u[:, 0, 0], mean, rtol=1e-3, atol=1e-4)


def test_times_of_another_horizon() -> None:
    t = nodes(4, t0=1.0, t1=3.0)

    def times(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    torch.testing.assert_close(shifted(times(1.5, 2.0, 3.5), t), times(1.5, 2.0, 3.0))  # receding horizon
    torch.testing.assert_close(shifted(times(0.0, 2.0), t), times(1.0, 2.0))
    torch.testing.assert_close(shifted(times(7.0, 8.0, 12.0), t), times(1.0, 2.0, 3.0))  # nothing in common


# ---------------------------------------------------------------------------------------------------- certificate


SMALL = 1e-12


@pytest.mark.parametrize("make", [rest_to_rest, fastest_ramp, landing, bang_bang])
def test_certificate_of_an_exact_solution_vanishes(make: Any) -> None:
    certificate = make(6).certificate
    for name, value in vars(certificate).items():
        assert float(value.max()) <= SMALL, name


@pytest.mark.parametrize("make", [regulator, sliding])
def test_certificate_falls_with_the_order_of_the_control(make: Any) -> None:
    coarse, fine = make(4).certificate, make(8).certificate
    first_order = make is sliding  # a gap linear in the room that the interpolated control leaves
    for name, order in {"max_gap": 2.7 if first_order else 5.5, "state_defect": 5.5, "costate_defect": 3.7}.items():
        assert bool((getattr(coarse, name) >= 2.0**order * getattr(fine, name)).all()), name
    assert float(fine.transversality.max()) <= SMALL


@pytest.mark.parametrize("make", [regulator, sliding])
@pytest.mark.parametrize("N", [2, 4, 8])
def test_cost_error_is_a_tight_bound(make: Any, N: int) -> None:
    solution = make(N)
    measured = (solution.cost - solution.resimulate(oc.SolveIVP("DOP853", rtol=1e-13, atol=1e-14))).abs()
    bound = solution.certificate.cost_error
    assert bool((measured <= bound + 1e-13).all())
    assert bool((bound <= (100.0 * measured).clamp_min(1e-12)).all())


def test_gap_of_an_affine_hamiltonian_under_a_mixed_constraint() -> None:
    """H − ν·c is flat up to rounding in an unbounded control: the corner of the constraint tells the gap."""
    solution = pushing(6)
    assert float(solution.certificate.max_gap) < 1e-4  # first order in the room that the polynomial leaves
    assert solution.pieces is not None
    lazy = replace(solution, pieces=replace(solution.pieces, control=0.9 * solution.pieces.control))
    expected = 0.1 * math.exp(-1.0)  # (p + 1)(u* − u) is the same at all times
    torch.testing.assert_close(lazy.certificate.mean_gap, lazy.cost.new_full((1,), expected), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("integrator", [oc.Heun(), oc.RK4()])
def test_cost_error_of_a_sweep_is_a_tight_bound(integrator: oc.Integrator, shared: bool) -> None:
    solution = oc.solve(nonlinear_problem(shared), mesh=12, integrator=integrator, max_iterations=5, tolerance=None)
    measured = (solution.cost - solution.resimulate(PRECISE)).abs()
    bound = solution.certificate.cost_error
    assert bool((measured <= bound).all())
    assert bool((bound <= 10.0 * measured).all())


def disturbed(solution: oc.Solution, **fields: Any) -> oc.Certificate:
    """Certificate after a change of the solution."""
    return replace(solution, **fields).certificate


def test_certificate_sees_each_fault() -> None:
    solution = fastest_ramp(4)
    assert solution.pieces is not None
    shift = 0.01 * seeded(5, 1, 1)
    assert float(disturbed(solution, x=solution.x + shift).state_defect) > 1e-3
    assert float(disturbed(solution, p=solution.p + shift).costate_defect) > 1e-3
    control = solution.pieces.control + 0.01
    worse = disturbed(solution, pieces=replace(solution.pieces, control=control))
    torch.testing.assert_close(worse.mean_gap, torch.tensor([0.5e-4], dtype=torch.float64))
    assert float(worse.projected_gradient) > 1e-3
    zero = {"terminal_constraint": torch.zeros(1, 1, dtype=torch.float64)}
    torch.testing.assert_close(disturbed(solution, multipliers=zero).transversality, solution.p[-1, 0])
    assert float(disturbed(solution, cost=solution.cost + 1e-3).cost_error) >= 1e-3


def test_transversality_of_free_ends() -> None:
    """A start inside its bounds whose costate does not vanish, and a final time at which H does not."""
    inner = fastest_ramp(4, upper=5.0)
    torch.testing.assert_close(inner.certificate.transversality, inner.p[0, 0])
    late = rest_to_rest(4)  # H = p·f − L = ½u² + … > 0: a later end would be cheaper
    free = oc.OptimalControlProblem(
        late.problem.dynamics,
        late.problem.running_cost,
        initial_state=[0.0, 0.0],
        horizon=(0.0, oc.FreeTime(guess=1.0)),
        control_set=oc.Unconstrained(1),
        terminal_constraint=late.problem.terminal_constraint,
    )
    torch.testing.assert_close(oc.certify(free, late).transversality, torch.tensor([18.0], dtype=torch.float64))


def test_certify_takes_a_solution_as_it_is() -> None:
    solution = regulator(5)
    certificate = oc.certify(solution.problem, solution)
    for name, value in vars(certificate).items():
        assert torch.equal(value, getattr(solution.certificate, name)), name
    sampled = oc.certify(solution.problem, solution, mesh=20)
    assert (
        float(sampled.mean_gap.max()) > 1e3 * float(certificate.mean_gap.max()) or float(sampled.max_gap.max()) < 1e-2
    )
    with pytest.raises(oc.ShapeError, match=r"control \(Solution\): expected \(B, n, G, m\) = \(2, 1, 2, 1\), got"):
        oc.certify(solution.problem, landing())


def test_hamiltonian_and_its_gap() -> None:
    solution = regulator(6)
    value, gap = solution.hamiltonian()
    assert value.shape == gap.shape == (6, 2)
    expected = -0.5 * torch.tensor([1.0, 4.0], dtype=torch.float64) / math.cosh(1.0) ** 2
    torch.testing.assert_close(value, expected.expand(6, 2), rtol=1e-3, atol=0.0)
    assert float(gap.max()) < 1e-8


def test_certificate_of_a_shared_control_with_multipliers(shared: bool) -> None:
    """Shapes with all sizes different, on a path that is not optimal."""
    problem, t, pieces = random_pieces(shared)
    constrained = oc.OptimalControlProblem(
        problem.dynamics,
        problem.running_cost,
        problem.terminal_cost,
        initial_state=problem.initial_state,
        horizon=problem.horizon,
        control_set=problem.control_set,
        shared_control=shared,
        path_constraint=oc.Constraint(lambda t, x, u: torch.cat((x, u[..., :1] + 0.0 * x[..., :1]), -1), -2.0, 2.0),
        terminal_constraint=oc.Constraint(lambda x: x[..., :2], -1.0, 1.0),
    )
    G = problem.groups
    x, p = seeded(N + 1, B, STATES, seed=5), seeded(N + 1, B, STATES, seed=6)
    base = regulator(N, tuple([1.0] * G))
    solution = replace(
        base, t=t, x=x, p=p, u=pieces.mean_control(problem), problem=constrained, pieces=pieces, shared_control=shared,
        multipliers={"terminal_constraint": seeded(G, 2, seed=7)},
        violations=measure_violations(constrained, t, x, pieces),
    )  # fmt: skip
    assert solution.violations["path_constraint"].shape == (G, C)
    for name, value in vars(solution.certificate).items():
        assert value.shape == (G,), name
    assert bool(solution.certificate.hamiltonian_drift.isnan().all())
    value, gap = solution.hamiltonian()
    assert value.shape == (N, B)
    assert gap.shape == (N, G)
