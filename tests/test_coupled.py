"""Full-batch E-MSA on layers: a quasi-Newton coupling for two outputs, Levenberg–Marquardt steps for one."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc
from ocsolver.hamiltonian import Penalty
from ocsolver.nn.layered import LayeredTranscription


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """One value per sample."""
    return (outputs - targets).square().sum(-1)


OUTPUTS = pytest.mark.parametrize("outputs", [1, 2])


def task(outputs: int = 2, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """A residual network with lift and head, and smooth functions to learn."""
    torch.manual_seed(0)
    block = lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    net = oc.nn.ResidualNetwork(block, 5, 0.4, lift=nn.Linear(2, 6), head=nn.Linear(6, outputs)).to(dtype)
    x = torch.randn(60, 2, dtype=dtype)
    return net, x, torch.cat((torch.sin(2 * x[:, :1]) * x[:, 1:], torch.cos(x[:, :1])), 1)[:, :outputs]


def solve(
    outputs: int = 2, solver: Any = None, iterations: int = 60, dtype: torch.dtype = torch.float64, **options: Any
) -> Any:
    """Run without a stopping test."""
    net, x, y = task(outputs, dtype)
    options = {"tolerance": None} | options
    return oc.solve(oc.nn.NetworkProblem(net, squares, x, y), solver, max_iterations=iterations, **options)


@OUTPUTS
def test_cost_falls_by_orders_of_magnitude_and_never_rises(outputs: int) -> None:
    solution = solve(outputs, iterations=100)
    costs = solution.history.cost[:, 0]
    assert bool((costs.diff() <= 0).all())
    assert float(costs[-1]) < 1e-3 * float(costs[0])
    assert bool((costs.diff()[~solution.history.accepted[1:, 0]] == 0).all())


@OUTPUTS
def test_steps_are_judged_by_what_was_promised(outputs: int) -> None:
    """Accepted steps keep the ratio of the test to their promise; only rejected plain steps have feasibility errors."""
    history = solve(outputs).history
    drop, promised = -history.cost[:, 0].diff(), history.hamiltonian_gain[1:, 0]
    accepted = history.accepted[1:, 0]
    assert bool((drop[accepted] >= 1e-3 * promised[accepted]).all())
    assert not bool(torch.isfinite(history.state_error[1:, 0])[accepted].any())


@OUTPUTS
@pytest.mark.parametrize(("rho", "damping"), [(1e-2, 1e-1), (1.0, 1e-3), (1e3, 1e-2)])
def test_first_penalty_and_damping_hardly_matter(outputs: int, rho: float, damping: float) -> None:
    def iterations(solver: oc.EMSA) -> int:
        costs = solve(outputs, solver, 60).history.cost[:, 0]
        return int((costs > 0.01 * costs[0]).sum())

    reference = iterations(oc.EMSA())
    assert iterations(oc.EMSA(oc.GaussNewton(damping), rho=oc.AdaptivePenalty(initial=rho))) < 2 * reference + 10


@OUTPUTS
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_convex_problem_converges(outputs: int, decay: float) -> None:
    """Least squares with a linear network and weight decay has one minimum, which the normal equations know."""
    torch.manual_seed(1)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, outputs, dtype=torch.float64)
    problem = oc.nn.NetworkProblem(nn.Sequential(nn.Linear(4, outputs)).double(), squares, x, y, decay)
    solution = oc.solve(problem, max_iterations=200)
    assert solution.status[0] is oc.Status.CONVERGED
    columns = torch.cat((x, torch.ones_like(x[:, :1])), 1)
    normal = 2.0 * columns.mT @ columns / len(x) + decay * torch.eye(5, dtype=torch.float64)
    best = torch.linalg.solve(normal, 2.0 * columns.mT @ y / len(x)).mT
    weights = torch.cat((best[:, :4].flatten(), best[:, 4]))
    torch.testing.assert_close(solution.u[0][0], weights[None], rtol=0, atol=1e-5)


@OUTPUTS
def test_single_precision_ends_truthfully(outputs: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.ConvergenceWarning)
        solution = solve(outputs, iterations=150, dtype=torch.float32, tolerance=1e-30)
    assert solution.status[0] in (oc.Status.STALLED, oc.Status.MAX_ITERATIONS)
    assert math.isfinite(float(solution.cost))


@pytest.mark.parametrize("which", ["convolution", "normalization", "two linear maps"])
def test_other_layers_take_part(which: str) -> None:
    """Blocks without an affine view get a dense or a diagonal matrix."""
    torch.manual_seed(2)
    net = {
        "convolution": nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1)
        ),
        "normalization": nn.Sequential(nn.Linear(8, 10), nn.LayerNorm(10), nn.Tanh(), nn.Linear(10, 1)),
        "two linear maps": nn.Sequential(
            nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12)), nn.Linear(12, 1)
        ),
    }[which].double()
    x = torch.randn(40, 8, dtype=torch.float64)
    problem = oc.nn.NetworkProblem(net, squares, x, torch.sin(x.sum(1, keepdim=True)))
    costs = oc.solve(problem, max_iterations=60, tolerance=None).history.cost[:, 0]
    assert float(costs[-1]) < (0.2 if which == "convolution" else 0.05) * float(costs[0])  # it has few parameters


def test_inverse_is_the_step_of_the_maximizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all samples the linear map, applied to the gradient, gives the Gauss–Newton step for ρ = 1."""
    monkeypatch.setattr("ocsolver.affine.SAMPLES", 10**6)
    net, x, y = task()
    transcription = LayeredTranscription(oc.nn.NetworkProblem(net, squares, x, y))
    sweep = transcription.backward(transcription.forward(transcription.start(None)))
    penalty = Penalty.uniform(torch.ones(1, dtype=torch.float64))
    for block in sweep.blocks:
        maximizer = oc.GaussNewton()
        step = maximizer.inverse(block)(block.current_slope)
        torch.testing.assert_close(step, maximizer.direction(block, penalty), rtol=1e-8, atol=1e-12)


def test_a_start_that_is_not_finite_is_a_status() -> None:
    net, x, y = task()
    with torch.no_grad():
        net.head[0].weight.fill_(1e200)  # type: ignore[union-attr, index, operator]
    with pytest.warns(oc.ConvergenceWarning):
        solution = oc.solve(oc.nn.NetworkProblem(net, squares, x, y), max_iterations=3)
    assert solution.status[0] is oc.Status.NONFINITE
