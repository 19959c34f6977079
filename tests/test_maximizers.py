"""Contracts of maximizers, on every set and penalty that each of them serves."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import (
    CONTROLS,
    STATES,
    B,
    N,
    linear_quadratic_problem,
    nonlinear_problem,
    random_control,
    seeded,
    transcription,
)
from torch import Tensor

import ocsolver as oc
import ocsolver.maximizers.default
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers import default_maximizer
from ocsolver.maximizers.newton import MODEL_ACCURACY

INFINITY = math.inf
SETS: dict[str, oc.ControlSet] = {
    "free": oc.Unconstrained(2),
    "box": oc.Box([-0.3, -0.4], [0.2, 0.5]),
    "half-box": oc.Box([-INFINITY, -0.1], [0.1, INFINITY]),
    "ball": oc.Ball(0.4, 2),
    "finite": oc.FiniteSet([[0.0, 0.0], [0.3, -0.2], [-0.5, 0.1], [0.9, 0.4]]),
    "free-by-box": oc.Product(oc.Unconstrained(1), oc.Box(-0.2, 0.3)),
    "box-by-ball": oc.Product(oc.Box(-0.2, 0.3), oc.Ball(0.4, 1)),
    "box-by-finite": oc.Product(oc.Box(-0.2, 0.3), oc.FiniteSet([-0.5, 0.1, 0.6])),
    "free-1": oc.Unconstrained(1),
    "box-1": oc.Box(-0.3, 0.4),
    "finite-1": oc.FiniteSet([-0.6, 0.1, 0.5]),
}
SERVED = {
    oc.LBFGS(): ["free", "box", "half-box", "ball", "free-by-box", "box-by-ball", "free-1", "box-1"],
    oc.ProjectedNewton(): ["free", "box", "half-box", "free-by-box", "free-1", "box-1"],
    oc.GaussNewton(): ["free", "box", "half-box", "free-by-box", "free-1", "box-1"],
    oc.Enumeration(): ["box", "ball", "finite", "box-by-ball", "box-by-finite", "box-1", "finite-1"],
}
every_service = pytest.mark.parametrize(
    ("maximizer", "name"),
    [(maximizer, name) for maximizer, names in SERVED.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
every_maximizer = pytest.mark.parametrize("maximizer", SERVED, ids=lambda value: type(value).__name__)
PENALTIES = ["none", "zero", "rho", "state", "epsilon", "all"]
every_penalty = pytest.mark.parametrize("kind", PENALTIES)


def penalty_of(kind: str, G: int) -> Penalty | None:
    """Penalty of a kind, different for each group."""
    weights = torch.linspace(0.5, 1.5, G, dtype=torch.float64)
    zero = torch.zeros_like(weights)
    return {
        "none": None,
        "zero": Penalty.uniform(zero),
        "rho": Penalty.uniform(weights),
        "state": Penalty(weights, zero, zero),
        "epsilon": Penalty(zero, zero, 2.0 * weights),
        "all": Penalty(weights, 2.0 * weights, 0.3 * weights),
    }[kind]


def with_controls(problem: oc.OptimalControlProblem, control_set: oc.ControlSet) -> oc.OptimalControlProblem:
    """The problem with another control set; a single control acts on both inputs."""
    widen = (lambda u: u) if control_set.m == CONTROLS else (lambda u: torch.cat((u, -0.5 * u), -1))
    return oc.OptimalControlProblem(
        lambda t, x, u: problem.dynamics(t, x, widen(u)),
        lambda t, x, u: problem.running_cost(t, x, widen(u)),
        problem.terminal_cost,
        initial_state=problem.initial_state,
        horizon=problem.horizon,
        control_set=control_set,
        shared_control=problem.shared_control,
    )


def block_of(problem: oc.OptimalControlProblem, u: Tensor | None = None, method: Any = None) -> HamiltonianBlock:
    chain = transcription(problem, integrator=method)
    (block,) = chain.backward(chain.forward((random_control(problem, seed=4) if u is None else u,))).blocks
    return block


@functools.cache
def nonlinear_block(shared: bool, name: str) -> HamiltonianBlock:
    return block_of(with_controls(nonlinear_problem(shared), SETS[name]), method=oc.Heun())


@functools.cache
def quadratic_block(shared: bool, name: str, method: oc.Integrator | None = None) -> HamiltonianBlock:
    return block_of(with_controls(linear_quadratic_problem(shared), SETS[name]), method=method or oc.Heun())


def perturbed(block: HamiltonianBlock, row: int, factor: float) -> HamiltonianBlock:
    """The same block with the costates of one trajectory multiplied."""
    sensitivity = block.sensitivity.clone()
    sensitivity[:, :, row, :STATES] *= factor
    return replace(block, sensitivity=sensitivity)


def admissible_trials(block: HamiltonianBlock, count: int = 300) -> Tensor:
    """Random points of U (count, K, G, m), near the current control and far from it."""
    spread = torch.logspace(-2.0, 0.5, count, dtype=block.current.dtype)[:, None, None, None]
    trials = block.current + spread * seeded(count, *block.current.shape, seed=9, dtype=block.current.dtype)
    return block.control_set.project(trials)


# ------------------------------------------------------------------------------------------------------- the contract


@every_service
@pytest.mark.parametrize("kind", ["none", "rho", "epsilon", "all"])
def test_never_worse_inside_and_honest(shared: bool, maximizer: oc.Maximizer, name: str, kind: str) -> None:
    block = nonlinear_block(shared, name)
    penalty = penalty_of(kind, block.groups)
    u, gain, _ = maximizer.maximize(block, penalty)
    assert u.shape == block.current.shape
    assert u.dtype == block.current.dtype
    assert gain.shape == u.shape[:2]
    assert not u.requires_grad
    assert bool((gain >= 0.0).all())
    assert float(block.control_set.residual(u).max()) <= 1e-15
    torch.testing.assert_close(gain, block.value(u, penalty), rtol=1e-12, atol=1e-14)
    kept = gain == 0.0
    assert torch.equal(u[kept], block.current[kept])
    if kind == "none":
        assert float(gain.mean()) > 0.0  # the random control is not a maximizer


@every_service
@pytest.mark.parametrize("kind", ["none", "rho", "epsilon", "all"])
def test_nothing_in_the_set_is_better(shared: bool, maximizer: oc.Maximizer, name: str, kind: str) -> None:
    """H̃ of a linear-quadratic problem is concave in u, so that what is found is the maximum."""
    block = quadratic_block(shared, name)
    penalty = penalty_of(kind, block.groups)
    if isinstance(maximizer, oc.LBFGS):  # ten iterations are a budget, the claim is about the limit
        maximizer = oc.LBFGS(iterations=200, evaluations=1000)
    if isinstance(maximizer, oc.GaussNewton):  # one step; the damping shortens it
        maximizer = oc.GaussNewton(damping=1e-10)
    gain = maximizer.maximize(block, penalty).gain
    trials = admissible_trials(block)
    if name == "box-by-finite":  # no refinement there: the best of the candidates is all that is promised
        trials = block.control_set.candidates(block.current)[:, None, None, :].expand(-1, *block.current.shape)
    best = block.value(trials, penalty).amax(0)
    assert bool((gain >= best - 1e-7 * (1.0 + best.abs())).all())


@every_service
@pytest.mark.parametrize("kind", ["none", "all"])
@pytest.mark.parametrize("factor", [1e6, math.nan])
def test_rows_are_independent(maximizer: oc.Maximizer, name: str, kind: str, factor: float) -> None:
    block, row = nonlinear_block(False, name), 2
    penalty = penalty_of(kind, B)
    before = maximizer.maximize(block, penalty)
    after = maximizer.maximize(perturbed(block, row, factor), penalty)
    rest = [i for i in range(B) if i != row]
    torch.testing.assert_close(after.u[:, rest], before.u[:, rest], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.gain[:, rest], before.gain[:, rest], rtol=1e-9, atol=1e-12)
    if math.isnan(factor):
        assert torch.equal(after.u[:, row], block.current[:, row])
        assert not bool(after.gain[:, row].any())
    elif block.control_set.convex:
        assert bool((after.u[:, row] != before.u[:, row]).any())


@every_service
def test_sites_are_independent(maximizer: oc.Maximizer, name: str) -> None:
    """A shared control whose H is not finite at one interval keeps it there and moves elsewhere."""
    block = nonlinear_block(True, name)
    before = maximizer.maximize(block)
    sensitivity = block.sensitivity.clone()
    sensitivity[3, :, 1] = math.nan
    after = maximizer.maximize(replace(block, sensitivity=sensitivity))
    assert torch.equal(after.u[3], block.current[3])
    rest = [k for k in range(N) if k != 3]
    torch.testing.assert_close(after.u[rest], before.u[rest], rtol=1e-9, atol=1e-9)


@every_service
def test_single_precision(shared: bool, maximizer: oc.Maximizer, name: str) -> None:
    problem = with_controls(nonlinear_problem(shared, dtype=torch.float32), SETS[name])
    block = block_of(problem)
    u, gain, _ = maximizer.maximize(block, Penalty.uniform(torch.ones(block.groups)))
    assert u.dtype == gain.dtype == torch.float32
    assert bool((gain >= 0.0).all())
    assert float(block.control_set.residual(u).max()) <= 1e-6
    assert float(gain.mean()) > 0.0


@every_service
def test_hamiltonian_that_ignores_the_control(maximizer: oc.Maximizer, name: str) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: x, initial_state=seeded(B, STATES), horizon=(0.0, 1.0), control_set=SETS[name]
    )
    block = block_of(problem)
    u, gain, _ = maximizer.maximize(block)
    assert torch.equal(u, block.current)
    assert not bool(gain.any())


# ----------------------------------------------------------------------------------------------------- how good it is


@every_penalty
@pytest.mark.parametrize("name", ["free", "box", "half-box", "free-by-box", "free-1", "box-1"])
def test_newton_solves_the_quadratic_exactly(shared: bool, name: str, kind: str) -> None:
    """The conditions of Karush, Kuhn and Tucker hold to rounding: H̃ of a linear-quadratic problem is a quadratic."""
    block = quadratic_block(shared, name)
    penalty = penalty_of(kind, block.groups)
    u = oc.ProjectedNewton().maximize(block, penalty).u
    slope = block.gradient(u, penalty)[1]
    lower, upper = block.control_set.bounds(u)
    at_lower, at_upper = u <= lower + 1e-14, u >= upper - 1e-14
    size = 1e-9 * (1.0 + float(block.gradient(block.current, penalty)[1].abs().max()))
    assert bool((slope[~at_lower] >= -size).all())
    assert bool((slope[~at_upper] <= size).all())


def test_newton_takes_the_step_to_the_argmax(shared: bool) -> None:
    block = quadratic_block(shared, "free")
    expansion = block.current_expansion
    argmax = block.current - torch.linalg.solve(expansion.hessian, expansion.gradient)
    one = oc.ProjectedNewton(iterations=1).maximize(block)
    torch.testing.assert_close(one.u, argmax, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["free", "box", "ball", "free-by-box", "box-1"])
def test_lbfgs_reaches_a_stationary_point(shared: bool, name: str) -> None:
    block = nonlinear_block(shared, name)
    u = oc.LBFGS(iterations=40, evaluations=200).maximize(block).u
    slope = block.gradient(u)[1]
    move = block.control_set.project(u + slope) - u
    assert float(move.abs().max()) < 1e-5


def test_more_work_is_never_worse(shared: bool) -> None:
    block = nonlinear_block(shared, "box")
    for few, many in [
        (oc.LBFGS(iterations=1), oc.LBFGS(iterations=10)),
        (oc.ProjectedNewton(iterations=1), oc.ProjectedNewton(iterations=10)),
        (oc.Enumeration(refinements=1), oc.Enumeration(refinements=20)),
    ]:
        assert bool((many.maximize(block).gain >= few.maximize(block).gain - 1e-12).all())


def wavy_problem(shared: bool, m: int) -> oc.OptimalControlProblem:
    """H has several local maxima in u; which one is highest differs from trajectory to trajectory.

    The maxima differ by 0.9 and more; candidates 0.9 apart miss a maximum by at most 0.6, and so tell them apart.
    """
    tilt = torch.tensor([-1.0, -0.8, 1.6, 1.8, 2.0], dtype=torch.float64)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.cos(2.5 * u).sum(-1) + 0.5 * tilt * u.sum(-1) + 0.02 * x[..., 0] * u[..., 0]

    return oc.OptimalControlProblem(
        lambda t, x, u: 0.1 * (x.flip(-1) + torch.sin(u.sum(-1, keepdim=True))),
        running_cost,
        initial_state=seeded(B, STATES),
        horizon=(0.5, 1.5),
        control_set=oc.Box([-2.0] * m, [1.5] * m),
        shared_control=shared,
    )


@pytest.mark.parametrize(
    ("maximizer", "accuracy"),
    [(oc.ProjectedNewton(), MODEL_ACCURACY), (oc.Enumeration(), 1e-12)],  # Newton stops where little is left to gain
    ids=["ProjectedNewton", "Enumeration"],
)
@pytest.mark.parametrize("m", [1, 2])
def test_global_maximum_of_a_hamiltonian_with_several_maxima(
    shared: bool, maximizer: oc.Maximizer, accuracy: float, m: int
) -> None:
    block = block_of(wavy_problem(shared, m))
    axis = torch.linspace(-2.0, 1.5, 701 if m == 1 else 61, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * m).reshape(-1, m)
    u, best = block.best_of(grid[:, None, None])
    maximum = maximizer.maximize(block)
    assert bool((maximum.gain >= best - accuracy * torch.maximum(best, best.mean(0))).all())
    assert float((maximum.u - u).abs().max()) < 0.5  # in the basin of the highest maximum; they are 2.5 apart
    assert bool((maximum.gain >= (1.0 - 1e-5) * block.best_candidate[1]).all())


@every_maximizer
@pytest.mark.parametrize("m", [1, 2])
def test_linear_hamiltonian_goes_to_the_corner(shared: bool, maximizer: oc.Maximizer, m: int) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((u.sum(-1) + x[..., 1], u[..., 0] - x[..., 0], 0.5 * x[..., 0]), -1),
        terminal_cost=lambda x: x.square().sum(-1),
        initial_state=seeded(B, STATES),
        horizon=(0.5, 1.5),
        control_set=oc.Box([-2.0] * m, [1.0] * m),
        shared_control=shared,
    )
    block = block_of(problem)
    slope = block.gradient(block.current)[1]
    corner = torch.where(slope > 0, 1.0, -2.0).to(slope)
    torch.testing.assert_close(maximizer.maximize(block).u, corner, rtol=1e-6, atol=1e-6)


def test_enumeration_needs_no_derivative(shared: bool) -> None:
    """A Hamiltonian that jumps in u: the cheapest piece is found."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: -x,
        lambda t, x, u: torch.floor(3.0 * u[..., 0]).abs() + (u[..., 0] - 0.1).abs() + 0.0 * x[..., 0],
        initial_state=seeded(B, STATES),
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 2.0),
        shared_control=shared,
    )
    block = block_of(problem, torch.full((N, problem.groups, 1), 1.9).double())
    torch.testing.assert_close(
        oc.Enumeration().maximize(block).u, torch.full_like(block.current, 0.1), rtol=0, atol=1e-6
    )


def test_enumeration_of_a_finite_set_is_exact(shared: bool) -> None:
    for kind in PENALTIES:
        block = nonlinear_block(shared, "finite")
        penalty = penalty_of(kind, block.groups)
        values = torch.stack(
            [block.value(point.expand_as(block.current), penalty) for point in block.control_set.points]
        )
        torch.testing.assert_close(
            oc.Enumeration().maximize(block, penalty).gain, values.amax(0), rtol=1e-12, atol=1e-14
        )


# -------------------------------------------------------------------------------------------------------- closed form


def argmax_of_the_regulator(problem: oc.OptimalControlProblem) -> Any:
    """Maximizer of p·f − L over all of ℝᵐ for a linear-quadratic problem; with Euler that is argmax H_k."""

    def argmax(t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        zero = x.new_zeros(*x.shape[:-1], CONTROLS)
        slope, rows = [], []
        for j in range(CONTROLS):
            unit = zero.clone()
            unit[..., j] = 1.0
            H = lambda u: (p * problem.dynamics(t, x, u)).sum(-1) - problem.running_cost(t, x, u)
            slope.append(0.5 * (H(unit) - H(-unit)))
            rows.append([])
            for i in range(CONTROLS):
                other = zero.clone()
                other[..., i] = 1.0
                rows[j].append(H(unit + other) - H(unit) - H(other) + H(zero))
        hessian = torch.stack([torch.stack(row, -1) for row in rows], -2)
        return -torch.linalg.solve(hessian, torch.stack(slope, -1))

    return argmax


@pytest.mark.parametrize("kind", ["none", "zero"])
def test_closed_form_is_exact_for_euler(kind: str) -> None:
    problem = linear_quadratic_problem(False)
    block = block_of(problem, method=oc.Euler())
    u, gain, _ = oc.ClosedForm(argmax_of_the_regulator(problem)).maximize(block, penalty_of(kind, B))
    newton = oc.ProjectedNewton().maximize(block)
    torch.testing.assert_close(u, newton.u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gain, block.value(u), rtol=1e-12, atol=1e-14)
    assert bool((gain >= 0.0).all())


def test_closed_form_is_close_for_a_method_of_higher_order() -> None:
    problem = linear_quadratic_problem(False)
    errors = []
    for count in (20, 40):
        chain = transcription(problem, count)
        sweep = chain.backward(chain.forward((torch.zeros(count, B, CONTROLS).double(),)))
        u = oc.ClosedForm(argmax_of_the_regulator(problem)).maximize(sweep.blocks[0]).u
        errors.append(float((u - oc.ProjectedNewton().maximize(sweep.blocks[0]).u).abs().max()))
    assert errors[1] < 0.6 * errors[0]  # of first order in the step, as its documentation says


@pytest.mark.parametrize("name", ["box", "ball", "finite", "box-by-finite"])
def test_closed_form_stays_inside(name: str) -> None:
    problem = linear_quadratic_problem(False)
    block = quadratic_block(False, name, oc.Euler())
    u, gain, _ = oc.ClosedForm(argmax_of_the_regulator(problem)).maximize(block)
    assert float(block.control_set.residual(u).max()) <= 1e-15
    torch.testing.assert_close(gain, block.value(u), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("factor", [1.5, math.nan])
def test_closed_form_rows_are_independent(factor: float) -> None:
    problem = linear_quadratic_problem(False)
    block, row = block_of(problem, method=oc.Euler()), 2
    maximizer = oc.ClosedForm(argmax_of_the_regulator(problem))
    before, after = maximizer.maximize(block), maximizer.maximize(perturbed(block, row, factor))
    rest = [i for i in range(B) if i != row]
    torch.testing.assert_close(after.u[:, rest], before.u[:, rest])
    torch.testing.assert_close(after.gain[:, rest], before.gain[:, rest])
    if math.isnan(factor):
        assert torch.equal(after.u[:, row], block.current[:, row])
        assert not bool(after.gain[:, row].any())


def test_closed_form_is_given_the_data_of_the_sites() -> None:
    problem, seen = linear_quadratic_problem(False), []

    def argmax(t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        seen.append((t, x, p))
        return x.new_zeros(*x.shape[:-1], CONTROLS)

    chain = transcription(problem)
    sweep = chain.backward(chain.forward((random_control(problem),)))
    oc.ClosedForm(argmax).maximize(sweep.blocks[0])
    ((t, x, p),) = seen
    torch.testing.assert_close(t.expand(N, B), chain.nodes[:-1, None].expand(N, B))
    assert torch.equal(x, sweep.forward.x[:-1])
    assert torch.equal(p, sweep.p[1:])


# ------------------------------------------------------------------------------------------------------------ default


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("free", oc.ProjectedNewton()),
        ("box", oc.ProjectedNewton()),
        ("free-by-box", oc.ProjectedNewton()),
        ("ball", oc.LBFGS()),
        ("box-by-ball", oc.LBFGS()),
        ("finite", oc.Enumeration()),
        ("box-by-finite", oc.Enumeration()),
    ],
)
def test_default_maximizer_serves_the_set(shared: bool, name: str, expected: oc.Maximizer) -> None:
    assert default_maximizer(nonlinear_block(shared, name)) == expected


def test_default_maximizer_of_a_large_block_needs_no_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsolver.maximizers.default, "EXPANSION_LIMIT", 10)
    assert default_maximizer(nonlinear_block(False, "free")) == oc.LBFGS()


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("maximizer", "name", "texts"),
    [
        (oc.LBFGS(), "finite", ["LBFGS: expected a convex control set, got FiniteSet([[", "Use oc.Enumeration()."]),
        (oc.LBFGS(), "box-by-finite", ["LBFGS: expected a convex control set, got Product("]),
        (
            oc.ProjectedNewton(),
            "ball",
            [
                "ProjectedNewton: expected an Unconstrained set, a Box",
                "got Ball(radius=0.4, m=2)",
                "oc.LBFGS() on a Ball",
            ],
        ),
        (oc.GaussNewton(), "ball", ["GaussNewton: expected an Unconstrained set, a Box", "oc.LBFGS() on a Ball"]),
        (oc.GaussNewton(form="rows"), "free", ["expected layers that consist of an affine map", "Use form='auto'."]),
        (oc.ProjectedNewton(), "finite", ["got FiniteSet([[", "oc.Enumeration() on a FiniteSet"]),
        (oc.ProjectedNewton(), "box-by-finite", ["got Product("]),
        (
            oc.Enumeration(),
            "free",
            ["Enumeration: expected a FiniteSet, or a finite Box or Ball with m ≤ 3", "got Unconstrained(m=2)"],
        ),
        (
            oc.Enumeration(),
            "half-box",
            ["got Box([-inf, -0.1], [0.1, inf])", "bound the control by oc.Box(lower, upper)"],
        ),
        (oc.Enumeration(), "free-by-box", ["got Product("]),
    ],
)
def test_unsupported_sets_are_refused(shared: bool, maximizer: oc.Maximizer, name: str, texts: list[str]) -> None:
    with pytest.raises(oc.UnsupportedError) as caught:
        maximizer.maximize(nonlinear_block(shared, name))
    assert all(text in str(caught.value) for text in texts)
    assert isinstance(caught.value, TypeError)


def zero_control(t: Tensor, x: Tensor, p: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], CONTROLS)


def test_closed_form_refuses_a_penalty() -> None:
    with pytest.raises(oc.UnsupportedError) as caught:
        oc.ClosedForm(zero_control).maximize(nonlinear_block(False, "free"), penalty_of("rho", B))
    assert "ClosedForm: expected no penalty (MSA), got an augmented Hamiltonian (EMSA)." in str(caught.value)


def test_closed_form_refuses_a_shared_control() -> None:
    with pytest.raises(oc.UnsupportedError) as caught:
        oc.ClosedForm(zero_control).maximize(nonlinear_block(True, "free"))
    assert "ClosedForm: expected one control per trajectory (G = B), got G = 1, B = 5." in str(caught.value)


@pytest.mark.parametrize("shape", [(N, B), (N, B, 3), (B, 2), (N, 1, 2)], ids=repr)
def test_closed_form_refuses_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(oc.ShapeError) as caught:
        oc.ClosedForm(lambda t, x, p: torch.zeros(shape).double()).maximize(nonlinear_block(False, "free"))
    assert f"ClosedForm argmax(t, x, p): expected shape (7, 5, 2), got shape {shape}." in str(caught.value)


def test_closed_form_refuses_what_is_no_tensor() -> None:
    with pytest.raises(oc.ShapeError, match=r"ClosedForm argmax\(t, x, p\): expected a tensor, got float"):
        oc.ClosedForm(lambda t, x, p: 0.0).maximize(nonlinear_block(False, "free"))


def test_exception_inside_a_closed_form_is_the_users_own() -> None:
    error = KeyError("mine")

    def argmax(t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        raise error

    with pytest.raises(KeyError) as caught:
        oc.ClosedForm(argmax).maximize(nonlinear_block(False, "free"))
    assert caught.value is error
    if sys.version_info >= (3, 11):
        assert any("argmax" in note for note in error.__notes__)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: oc.LBFGS(iterations=0), "LBFGS iterations: expected an int ≥ 1, got 0."),
        (lambda: oc.LBFGS(iterations=1.5), "LBFGS iterations: expected an int ≥ 1, got 1.5."),
        (lambda: oc.LBFGS(history=0), "LBFGS history: expected an int ≥ 1, got 0."),
        (lambda: oc.LBFGS(evaluations=True), "LBFGS evaluations: expected an int ≥ 1, got True."),
        (lambda: oc.GaussNewton(damping=0.0), "GaussNewton damping: expected a positive number, got 0.0."),
        (lambda: oc.GaussNewton(form="exact"), "got 'exact'. Leave it out for the default, 'auto'."),
        (lambda: oc.ProjectedNewton(iterations=-1), "ProjectedNewton iterations: expected an int ≥ 1, got -1."),
        (lambda: oc.ProjectedNewton("10"), "ProjectedNewton iterations: expected an int ≥ 1, got '10'."),
        (lambda: oc.Enumeration(refinements=0), "Enumeration refinements: expected an int ≥ 1, got 0."),
        (lambda: oc.Enumeration(None), "Enumeration refinements: expected an int ≥ 1, got None."),
        (
            lambda: oc.ClosedForm(None),
            "ClosedForm argmax: expected a callable, got None. Pass a function argmax(t, x, p)",
        ),
        (lambda: oc.ClosedForm(1.0), "ClosedForm argmax: expected a callable, got 1.0."),
    ],
)
def test_bad_constructor_arguments_are_refused(build: Any, text: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        build()
    assert text in str(caught.value)


@every_maximizer
def test_maximizers_are_frozen_and_compare_by_value(maximizer: oc.Maximizer) -> None:
    assert maximizer == type(maximizer)()
    assert hash(maximizer) == hash(type(maximizer)())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(maximizer, dataclasses.fields(maximizer)[0].name, 5)
