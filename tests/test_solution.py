"""Solution: verdict, interpolation, resimulation, storage."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    CONTROLS,
    HORIZON,
    STATES,
    B,
    N,
    cubic_growth,
    nonlinear_problem,
    random_control,
    regulator,
    solve_quietly,
    uneven_mesh,
)
from torch import Tensor

import ocsolver as oc

PRECISE = oc.SolveIVP("DOP853", rtol=1e-11, atol=1e-12)
TENSORS = ("t", "x", "p", "u", "cost", "residual")
MIXED = (oc.Status.CONVERGED, oc.Status.INTEGRATION_FAILED, oc.Status.CONVERGED)


@pytest.fixture
def solution(shared: bool) -> oc.Solution:
    """A solved problem on an uneven mesh, all sizes different."""
    return oc.solve(nonlinear_problem(shared), mesh=uneven_mesh())


def at_random_control(mesh: int, shared: bool = False) -> oc.Solution:
    """The trajectory of a smooth control that is not optimal, as a Solution."""
    problem = nonlinear_problem(shared)
    return oc.solve(
        problem, mesh=mesh, initial_control=lambda t: [torch.sin(3.0 * t), 0.4 * t], max_iterations=0, tolerance=None
    )


# ------------------------------------------------------------------------------------------------ shapes, verdict


def test_shapes(solution: oc.Solution, shared: bool) -> None:
    G = 1 if shared else B
    assert solution.t.shape == (N + 1, G)
    assert solution.x.shape == solution.p.shape == (N + 1, B, STATES)
    assert solution.u.shape == (N, G, CONTROLS)
    assert solution.cost.shape == solution.residual.shape == solution.success.shape == (G,)
    assert len(solution.status) == len(solution.notes) == G
    assert all(isinstance(status, oc.Status) for status in solution.status)
    assert solution.success.dtype is torch.bool
    assert isinstance(solution.message, str)
    torch.testing.assert_close(solution.t[:, 0], 0.5 + HORIZON * uneven_mesh().nodes)
    assert solution.shared_control is shared
    value, gap = solution.hamiltonian()
    assert value.shape == (N, B)
    assert gap.shape == (N, G)
    assert bool((gap >= 0).all())


def test_success_and_message_go_group_by_group() -> None:
    mixed = solve_quietly(cubic_growth([0.2, 9.0, 0.3]), mesh=N)
    assert tuple(mixed.status) == MIXED
    assert mixed.success.tolist() == [True, False, True]
    lines = mixed.message.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("groups 0, 2: CONVERGED: ")
    assert lines[1].startswith("groups 1: INTEGRATION_FAILED: state component 0 of trajectory 1 blows up")
    assert oc.Status.INTEGRATION_FAILED.advice in lines[1]
    assert repr(mixed).startswith("Solution(CONVERGED, INTEGRATION_FAILED, cost=[")


def test_message_of_many_groups_stays_short() -> None:
    many = solve_quietly(regulator([1.0] * 40, horizon=3.0), mesh=5, max_iterations=1)
    assert len(many.message) < 300
    some = solve_quietly(cubic_growth([0.1] * 20 + [9.0]), mesh=5)
    assert "(20 in all)" in some.message


def test_summary_prints_numbers_and_never_says_optimal(solution: oc.Solution, shared: bool) -> None:
    text = solution.summary()
    assert str(solution) == text
    for word in ("CONVERGED", "cost J", "residual", "iterations", "rejected", f"{N} intervals", "RK4()", "certificate"):
        assert word in text, word
    assert ("groups)" in text) == (not shared)
    assert "optimal" not in text.lower()
    if shared:
        assert f"{float(solution.cost):.10g}" in text


def test_summary_of_a_failure_is_printable() -> None:
    for failed in (solve_quietly(cubic_growth([9.0]), mesh=N), solve_quietly(cubic_growth([0.1, 9.0]), mesh=N)):
        text = str(failed)
        assert "INTEGRATION_FAILED" in text
        assert "blows up between" in text
        assert "inf" in text
        repr(failed)


# -------------------------------------------------------------------------------------------------- interpolation


def test_interpolation_meets_the_nodes(solution: oc.Solution) -> None:
    t = solution.t[:, 0]
    torch.testing.assert_close(solution.state(t), solution.x, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(solution.costate(t), solution.p, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(solution.control(t[:-1]), solution.u, rtol=0.0, atol=0.0)  # the value to the right
    torch.testing.assert_close(solution.control(t[-1:]), solution.u[-1:], rtol=0.0, atol=0.0)


def test_control_is_constant_on_each_interval(solution: oc.Solution) -> None:
    t, h = solution.t[:-1, 0], solution.t[:, 0].diff()
    for fraction in (0.0, 0.3, 0.999):
        assert torch.equal(solution.control(t + fraction * h), solution.u)


@pytest.mark.parametrize("what", ["state", "costate"])
def test_interpolation_is_of_fourth_order(what: str, shared: bool) -> None:
    errors = []
    for mesh in (5, 10):
        coarse = at_random_control(mesh, shared)
        times = coarse.t[0, 0] + HORIZON * torch.linspace(0.01, 0.99, 67, dtype=torch.float64)
        fine = oc.solve(  # the same control on a mesh 20 times as fine
            nonlinear_problem(shared),
            mesh=20 * mesh,
            initial_control=coarse.u.repeat_interleave(20, 0),
            max_iterations=0,
            tolerance=None,
        )
        errors.append(float((getattr(coarse, what)(times) - getattr(fine, what)(times)).abs().max()))
    assert errors[0] >= 2.0**3.4 * errors[1]
    assert errors[1] <= 1e-3


def test_times_in_any_form_and_order(solution: oc.Solution) -> None:
    times = [1.2, 0.7, 1.7, 0.5, 0.7]
    reference = solution.state(torch.tensor(times, dtype=torch.float64))
    assert reference.shape == (5, B, STATES)
    assert solution.control(times).shape == (5, solution.u.shape[1], CONTROLS)
    for form in (times, tuple(times), np.array(times), torch.tensor(times, dtype=torch.float64)):
        torch.testing.assert_close(solution.state(form), reference)
    torch.testing.assert_close(reference[1], reference[4])
    assert solution.costate(0.9).shape == (1, B, STATES)
    assert solution.control(1).shape == (1, solution.u.shape[1], CONTROLS)
    assert solution.state([]).shape == (0, B, STATES)


@pytest.mark.parametrize("times", [[0.4], [1.8], [0.9, float("nan")], [[0.9]], [float("inf")]])
@pytest.mark.parametrize("what", ["state", "costate", "control"])
def test_times_outside_the_horizon_are_refused(what: str, times: Any) -> None:
    solution = at_random_control(N)
    text = r"t: expected times \(T,\) in \[0\.5, 1\.7\], got .*Pass times inside the horizon"
    with pytest.raises(oc.InputError, match=text):
        getattr(solution, what)(times)


def test_times_must_be_numbers() -> None:
    with pytest.raises(oc.InputError, match="t: expected numbers"):
        at_random_control(N).state("now")


# --------------------------------------------------------------------------------------------------- resimulation


def test_resimulation_with_the_same_integrator_repeats_the_cost(solution: oc.Solution) -> None:
    torch.testing.assert_close(solution.resimulate(oc.RK4()), solution.cost, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize(("integrator", "order"), [(oc.Euler(), 1), (oc.Heun(), 2), (oc.RK4(), 4)])
def test_resimulation_shows_the_order_of_the_integrator(integrator: oc.Integrator, order: int, shared: bool) -> None:
    exact = at_random_control(6, shared).resimulate(PRECISE)
    errors = []
    for parts in (4, 8):
        u = at_random_control(6, shared).u.repeat_interleave(parts, 0)
        fine = oc.solve(nonlinear_problem(shared), mesh=6 * parts, initial_control=u, max_iterations=0, tolerance=None)
        errors.append((fine.resimulate(integrator) - exact).abs().max())
    assert float(errors[0] / errors[1]) >= 2.0 ** (order - 0.4)


def test_resimulation_of_a_blow_up_is_infinite() -> None:
    mixed = solve_quietly(cubic_growth([0.2, 9.0, 0.3]), mesh=N)
    cost = mixed.resimulate(oc.SolveIVP("RK45", rtol=1e-6, atol=1e-8))
    assert torch.isfinite(cost).tolist() == [True, False, True]
    assert float(cost[1]) == float("inf")


# -------------------------------------------------------------------------------------------------------- storage


def assert_bit_equal(a: oc.Solution, b: oc.Solution) -> None:
    """Everything that is stored."""
    for name in TENSORS:
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype is right.dtype
        torch.testing.assert_close(left, right, rtol=0.0, atol=0.0, equal_nan=True)
    for entry in fields(oc.History):
        left, right = getattr(a.history, entry.name), getattr(b.history, entry.name)
        assert left.dtype is right.dtype
        torch.testing.assert_close(left, right, rtol=0.0, atol=0.0, equal_nan=True)
    assert a.status == b.status
    assert a.notes == b.notes
    assert a.stats == b.stats
    assert a.message == b.message
    assert a.solver == b.solver
    assert a.shared_control == b.shared_control
    assert torch.equal(a.discretization.mesh.nodes, b.discretization.mesh.nodes)


def test_save_and_load(solution: oc.Solution, tmp_path: Path) -> None:
    solution.save(tmp_path / "run")
    assert (tmp_path / "run.npz").exists()
    for path in (tmp_path / "run.npz", tmp_path / "run", str(tmp_path / "run.npz")):
        assert_bit_equal(oc.load(path), solution)
    again = oc.load(tmp_path / "run.npz", problem=solution.problem)
    assert_bit_equal(again, solution)
    times = [0.6, 1.3]
    assert torch.equal(again.state(times), solution.state(times))
    assert torch.equal(again.costate(times), solution.costate(times))
    assert torch.equal(again.resimulate(oc.Heun()), solution.resimulate(oc.Heun()))
    assert torch.equal(again.certificate.max_gap, solution.certificate.max_gap)
    assert again.summary() == solution.summary()
    oc.solve(solution.problem, mesh=11, initial_control=again)  # a warm start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_failures_survive_storage(dtype: torch.dtype, tmp_path: Path) -> None:
    precise = oc.solve(regulator([1.0, 2.0], dtype=dtype), mesh=N)
    precise.save(tmp_path / "a.npz")
    assert_bit_equal(oc.load(tmp_path / "a.npz"), precise)
    mixed = solve_quietly(cubic_growth([0.2, 9.0, 0.3]), mesh=N)
    mixed.save(tmp_path / "b.npz")
    again = oc.load(tmp_path / "b.npz")
    assert_bit_equal(again, mixed)
    assert tuple(again.status) == MIXED
    assert bool(torch.isnan(again.x[-1, 1]).all())


def test_without_its_problem_a_solution_keeps_its_data_and_says_what_is_missing(
    solution: oc.Solution, tmp_path: Path
) -> None:
    solution.save(tmp_path / "run.npz")
    bare = oc.load(tmp_path / "run.npz")
    assert bare.problem is None
    assert torch.equal(bare.control([0.6, 1.3]), solution.control([0.6, 1.3]))
    assert "CONVERGED" in bare.summary()
    assert "certificate" not in bare.summary()
    calls: dict[str, Any] = {
        "state": lambda: bare.state([0.7]),
        "costate": lambda: bare.costate([0.7]),
        "hamiltonian": bare.hamiltonian,
        "resimulate": lambda: bare.resimulate(oc.RK4()),
        "certificate": lambda: bare.certificate,
    }
    for call in calls.values():
        with pytest.raises(
            oc.UnsupportedError, match=r"expected a solution that knows its problem.*oc\.load\(path, pr"
        ):
            call()


def test_a_file_contains_no_pickle_and_a_readable_header(solution: oc.Solution, tmp_path: Path) -> None:
    solution.save(tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        header = json.loads(str(archive["header"]))
        assert all(archive[name].dtype != object for name in archive.files)
    assert header["status"] == [status.name for status in solution.status]
    assert header["integrator"] == "RK4()"
    assert header["solver"] == solution.solver


def corrupt(path: Path, how: str) -> None:
    """Damage a saved file."""
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "text":
        path.write_text("not an archive")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with np.load(path) as archive:
            data = {name: archive[name] for name in archive.files}
        if how == "foreign":
            data = {"a": np.zeros(3)}
        elif how == "array missing":
            del data["u"]
        elif how == "status unknown":
            header = json.loads(str(data["header"])) | {"status": ["FINE"]}
            data["header"] = np.array(json.dumps(header))
        elif how == "header incomplete":
            header = json.loads(str(data["header"]))
            del header["notes"]
            data["header"] = np.array(json.dumps(header))
        elif how == "version":
            data["header"] = np.array(json.dumps(json.loads(str(data["header"])) | {"format": 99}))
        with path.open("wb") as file:
            np.savez(file, **data)


@pytest.mark.parametrize(
    "how",
    ["truncated", "text", "empty", "foreign", "array missing", "version", "status unknown", "header incomplete"],
)
def test_corrupted_files_are_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    at_random_control(N).save(path)
    corrupt(path, how)
    with pytest.raises(oc.InputError, match=r"run\.npz: expected a saved Solution, got .*Solution\.save"):
        oc.load(path)


def test_missing_files_raise_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        oc.load(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    "other",
    [
        regulator([1.0] * B),
        nonlinear_problem(
            False, control_set=oc.Unconstrained(CONTROLS), initial_state=torch.ones(B + 1, STATES).double()
        ),
        nonlinear_problem(True),
        nonlinear_problem(False, t0=0.0),
    ],
    ids=["sizes", "trajectories", "shared", "horizon"],
)
def test_a_wrong_problem_is_refused(other: oc.OptimalControlProblem, tmp_path: Path) -> None:
    at_random_control(N).save(tmp_path / "run.npz")
    with pytest.raises(oc.InputError, match=r"problem: expected .*got .*Pass the problem that was solved"):
        oc.load(tmp_path / "run.npz", problem=other)


def test_integrator_of_a_loaded_solution_can_be_named(tmp_path: Path) -> None:
    problem = nonlinear_problem(False)
    heun = oc.solve(problem, mesh=N, integrator=oc.Heun())
    heun.save(tmp_path / "run.npz")
    again = oc.load(tmp_path / "run.npz", problem=problem, integrator=oc.Heun())
    torch.testing.assert_close(again.certificate.mean_gap, heun.certificate.mean_gap)


# --------------------------------------------------------------------------------------------------------- values


def test_a_solution_is_frozen_and_owns_its_control() -> None:
    start = random_control(nonlinear_problem(False))
    solution = oc.solve(nonlinear_problem(False), mesh=N, initial_control=start, max_iterations=0, tolerance=None)
    kept: Tensor = solution.u.clone()
    start.zero_()
    assert torch.equal(solution.u, kept)
    with pytest.raises(AttributeError):
        solution.u = start  # type: ignore[misc]


class Foreign(oc.Integrator):
    """A user's own integrator, whose repr is not a call."""

    order = 1
    differentiable = True
    adaptive = False

    def step(self, field: Any, t: Tensor, h: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """One step of Euler's method."""
        return oc.Euler().step(field, t, h, x, u)


def test_a_foreign_integrator_must_be_named_again(tmp_path: Path) -> None:
    problem = nonlinear_problem(False)
    solution = oc.solve(problem, mesh=N, integrator=Foreign())
    solution.save(tmp_path / "run.npz")
    assert_bit_equal(oc.load(tmp_path / "run.npz"), solution)
    with pytest.raises(oc.InputError, match=r"integrator: expected one of ocsolver's own, got .*Pass integrator="):
        oc.load(tmp_path / "run.npz", problem=problem)
    again = oc.load(tmp_path / "run.npz", problem=problem, integrator=Foreign())
    torch.testing.assert_close(again.certificate.mean_gap, solution.certificate.mean_gap)
