"""Newton steps of E-MSA: exact second derivatives along the chain, the box, concavity, and groups that do not mix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import N, linear_quadratic_problem, nonlinear_problem, seeded
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers.newton import newton_step
from ocsolver.transcription import Discretization, Sweep, transcribe
from problems import van_der_pol_bounded


def swept(problem: oc.OptimalControlProblem, u: Tensor | None = None, mesh: int = N) -> tuple[Any, Sweep]:
    """Transcription and sweep of a control, by default a random one in the set."""
    transcription = transcribe(problem, Discretization(mesh))
    if u is None:
        u = problem.control_set.project(0.3 * seeded(mesh, problem.groups, problem.m, seed=7))
    return transcription, transcription.backward(transcription.forward((u,)))


def gradient(transcription: Any, u: Tensor) -> Tensor:
    """∂J/∂u (N, G, m)."""
    block = transcription.backward(transcription.forward((u,))).blocks[0]
    return -block.weights[:, None, None] * block.gradient(u)[1]


@pytest.mark.parametrize("build", [linear_quadratic_problem, nonlinear_problem])
def test_the_prediction_is_the_exact_second_order_model(build: Any, shared: bool) -> None:
    transcription, sweep = swept(build(shared))
    u = sweep.blocks[0].current
    rho = torch.full((u.shape[1],), 0.7, dtype=u.dtype)
    proposal = newton_step(sweep, rho, torch.ones_like(rho, dtype=torch.bool))
    assert bool(proposal.usable.all())
    d, h = proposal.step, 1e-4
    slope = (gradient(transcription, u) * d).sum((0, 2))
    curvature = ((gradient(transcription, u + h * d) - gradient(transcription, u - h * d)) / (2 * h) * d).sum((0, 2))
    torch.testing.assert_close(proposal.predicted, -slope - 0.5 * curvature, rtol=1e-5, atol=0.0)


def test_one_step_solves_a_linear_quadratic_problem(shared: bool) -> None:
    transcription, sweep = swept(linear_quadratic_problem(shared))
    u = sweep.blocks[0].current
    tiny = torch.full((u.shape[1],), 1e-12, dtype=u.dtype)
    proposal = newton_step(sweep, tiny, torch.ones_like(tiny, dtype=torch.bool))
    before, after = gradient(transcription, u), gradient(transcription, u + proposal.step)
    # conjugate gradients end at a relative accuracy of 1e-3 in the norm of the preconditioner
    assert float(after.norm()) <= 1e-2 * float(before.norm())
    new = transcription.forward((u + proposal.step,)).cost
    torch.testing.assert_close(sweep.forward.cost - new, proposal.predicted, rtol=1e-9, atol=0.0)


def test_the_step_stays_in_the_box_and_satisfies_its_conditions(shared: bool) -> None:
    problem = linear_quadratic_problem(shared, control_set=oc.Box([-0.02, -0.05], [0.2, 0.1]))
    transcription, sweep = swept(problem)
    block = sweep.blocks[0]
    rho = torch.full((block.groups,), 1e-9, dtype=block.current.dtype)
    proposal = newton_step(sweep, rho, torch.ones_like(rho, dtype=torch.bool))
    u = block.current + proposal.step
    lower, upper = problem.control_set.bounds(u)
    assert bool(((u >= lower - 1e-15) & (u <= upper + 1e-15)).all())
    slope = gradient(transcription, u)  # the model is J
    size = gradient(transcription, block.current).abs().max()
    low, high = u <= lower + 1e-12, u >= upper - 1e-12
    assert bool(low.any() & high.any() & (~low & ~high).any())
    assert float(slope[low].min()) >= -1e-2 * size
    assert float(slope[high].max()) <= 1e-2 * size
    assert float(slope[~low & ~high].abs().max()) <= 1e-2 * size


def test_rho_rises_until_the_model_is_concave() -> None:
    reference = van_der_pol_bounded.build(control_bounds=None)
    _, sweep = swept(reference.problem, torch.full((50, 1, 1), 0.2, dtype=torch.float64), mesh=50)
    rho = torch.full((1,), 1e-6, dtype=torch.float64)
    proposal = newton_step(sweep, rho, torch.ones(1, dtype=torch.bool))
    assert float(proposal.rho) > 1e-3
    assert bool(proposal.usable.all())
    assert float(proposal.predicted) > 0.0


def test_groups_do_not_mix() -> None:
    problem = nonlinear_problem(False)
    _, sweep = swept(problem)
    groups = sweep.blocks[0].groups
    rho = torch.logspace(-3, 1, groups, dtype=torch.float64)
    everyone = torch.ones(groups, dtype=torch.bool)
    together = newton_step(sweep, rho, everyone)
    for g in range(groups):
        alone = newton_step(sweep, rho, torch.arange(groups) == g)
        torch.testing.assert_close(alone.step[:, g], together.step[:, g], rtol=1e-9, atol=1e-12)
        assert alone.usable.tolist() == [k == g for k in range(groups)]
        assert float(alone.step.abs().sum()) == pytest.approx(float(alone.step[:, g].abs().sum()))


def test_a_failed_trajectory_does_not_touch_the_others() -> None:
    _, sweep = swept(nonlinear_problem(False))
    block = sweep.blocks[0]
    groups = block.groups
    rho = torch.ones(groups, dtype=torch.float64)
    good = torch.arange(groups) != 1
    x = torch.where(good[:, None], block.x, torch.nan)
    broken = replace(sweep, blocks=(replace(block, x=x),))
    step, expected = newton_step(broken, rho, good).step, newton_step(sweep, rho, good).step
    torch.testing.assert_close(step[:, good], expected[:, good], rtol=1e-9, atol=1e-12)
    assert bool((step[:, ~good] == 0).all())


def test_second_derivatives_may_vanish() -> None:
    """Of linear dynamics and a cost with kinks torch knows them as a tensor without memory."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - x[..., 0]), -1),
        lambda t, x, u: u.abs().sum(-1),
        lambda x: 10.0 * x.square().sum(-1),
        initial_state=[1.0, -1.0],
        horizon=(0.0, 3.0),
        control_set=oc.Box(-1.5, 1.5),
    )
    start = oc.solve(problem, oc.EMSA(), mesh=30, max_iterations=0, tolerance=None)
    solution = oc.solve(problem, oc.EMSA(), mesh=30, max_iterations=30, tolerance=None)
    least = 1.440861  # with two non-negative controls in the place of u and |u|, to 1e-8
    assert least < float(solution.cost) < 1.25 * least < 0.2 * float(start.cost)
