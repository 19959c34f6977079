"""Levenberg–Marquardt steps through all layers: their matrix, their system, and when they are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ocsolver as oc
from ocsolver.maximizers import GaussNewton
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.solvers.base import Timed
from ocsolver.solvers.coupled import CoupledMemory
from ocsolver.solvers.levenberg import FEW, LevenbergMemory, levenberg_step
from ocsolver.solvers.penalty import AdaptivePenalty
from ocsolver.transcription import Sweep


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1)


def logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.softplus(-targets * outputs).sum(-1)


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().sum(-1)


def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    """One of torch's losses whose second derivative is not implemented."""
    both = torch.cat((outputs, -outputs), 1)
    return functional.multilabel_margin_loss(both, torch.tensor([0, -1]).expand(len(both), 2), reduction="none")


def residual_network(outputs: int = 1) -> nn.Module:
    """A lift, a chain and a head."""
    block = lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return oc.nn.ResidualNetwork(block, 3, 0.5, lift=nn.Linear(3, 4), head=nn.Linear(4, outputs)).double()


def problem(loss: Any = squares, outputs: int = 1, samples: int = 20, decay: float = 0.0) -> oc.nn.NetworkProblem:
    """A smooth target, or a sign for the logistic loss."""
    torch.manual_seed(0)
    x = torch.randn(samples, 3, dtype=torch.float64)
    y = torch.sin(x.sum(-1, keepdim=True)).sign() if loss is logistic else torch.sin(x[:, :outputs])
    return oc.nn.NetworkProblem(residual_network(outputs), loss, x, y, decay)


def swept(stated: oc.nn.NetworkProblem) -> Sweep:
    transcription = LayeredTranscription(stated)
    return transcription.backward(transcription.forward(transcription.start(None)))


def outputs_of(stated: oc.nn.NetworkProblem, control: Tensor) -> Tensor:
    """Outputs (B,) for a flat control, by a plain run of the layers."""
    families, rows = stated.families, []
    for members, block in zip(families, stated.blocks(None), strict=True):
        part, control = control[: block.numel()], control[block.numel() :]
        rows += zip(members, part.view(len(members), -1), strict=True)
    x, thetas = stated.inputs, dict(rows)
    for n, layer in enumerate(stated.layers):
        x = layer(x, thetas.get(n))
    return x[:, 0]


@pytest.mark.parametrize("loss", [squares, logistic])
def test_rows_are_those_of_the_exact_gauss_newton_matrix(loss: Any) -> None:
    """With all samples CᵀC = ⟨(∂z/∂θ)ᵀ ℓ″(z) ∂z/∂θ⟩ by autograd."""
    stated = problem(loss)
    sweep = swept(stated)
    assert sweep.response is not None
    response = sweep.response(1000, 0)
    assert response is not None
    u = torch.cat([block.flatten() for block in sweep.forward.control])
    jacobian = torch.autograd.functional.jacobian(lambda v: outputs_of(stated, v), u)
    z = sweep.forward.outputs.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(z, stated.targets).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    exact = jacobian.mT @ (second * jacobian) / len(z)
    torch.testing.assert_close(response.rows.mT @ response.rows, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_step_solves_the_damped_system(decay: float) -> None:
    """(ρ w G + CᵀC + λ) d = −∇J against a dense solve; the decrease that is recorded is that of the model."""
    stated, rho = problem(decay=decay), 0.7
    solver = GaussNewton()
    transcription = Timed(LayeredTranscription(stated))
    first = oc.EMSA().init(transcription, LayeredTranscription(stated).start(None))
    new = levenberg_step(solver, transcription, first, AdaptivePenalty(initial=rho))
    assert new is not None
    assert bool(new.step.accepted)
    moved = torch.cat([(b - a).flatten() for a, b in zip(first.control, new.control, strict=True)])
    metric = []
    for block in first.sweep.blocks:
        size = block.current.numel()
        unit = torch.eye(size, dtype=torch.float64).view(size, *block.current.shape)
        inverse = solver.inverse(block)(unit).flatten(1)
        weights = block.weights[:, None].expand(block.current.shape[0], block.current.shape[-1]).flatten()
        metric.append(weights[:, None] * torch.linalg.inv(inverse))
    assert first.sweep.response is not None
    response = first.sweep.response(FEW, 0)
    assert response is not None
    model = response.rows.mT @ response.rows + decay * torch.eye(len(moved), dtype=torch.float64)
    slope = torch.cat([(b.weights[:, None, None] * b.current_slope).flatten() for b in first.sweep.blocks])
    exact = torch.linalg.solve(rho * torch.block_diag(*metric) + model, slope)
    torch.testing.assert_close(moved, exact, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(new.step.gain[0], slope @ exact - 0.5 * exact @ model @ exact, rtol=1e-8, atol=0.0)


OTHERS = ["two outputs", "no curvature", "no second derivative", "a layer of another kind", "several positions"]


@pytest.mark.parametrize("which", OTHERS)
def test_other_networks_go_on_without(which: str) -> None:
    stated = problem(absolute) if which == "no curvature" else problem(outputs=2 if which == "two outputs" else 1)
    if which == "no second derivative":
        stated = oc.nn.NetworkProblem(residual_network(), hinge, stated.inputs, stated.targets)
    if which == "several positions":
        net = nn.Sequential(
            nn.Unflatten(1, (3, 1)), nn.Linear(1, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)
        ).double()
        stated = oc.nn.NetworkProblem(net, squares, stated.inputs, stated.targets)
    if which == "a layer of another kind":
        net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()
        stated = oc.nn.NetworkProblem(net, squares, stated.inputs, stated.targets)
    memories: list[Any] = []
    solution = oc.solve(
        stated, max_iterations=5, tolerance=None, callback=lambda k, iterate: memories.append(iterate.memory)
    )
    assert all(isinstance(memory, CoupledMemory) for memory in memories)
    assert float(solution.history.cost[-1]) < float(solution.history.cost[0])


def test_more_rows_are_drawn_when_few_do_not_tell() -> None:
    """A noisy target in eight dimensions, and more weights than rows: a few samples are overfitted."""
    torch.manual_seed(0)
    x = torch.randn(400, 8, dtype=torch.float64)
    y = torch.sin(x.sum(-1, keepdim=True)) + 0.3 * torch.randn(400, 1, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    rows: list[int] = []
    oc.solve(
        oc.nn.NetworkProblem(net, squares, x, y),
        max_iterations=30,
        tolerance=None,
        callback=lambda k, iterate: rows.append(iterate.memory.rows),
    )
    assert rows[0] == FEW
    assert rows[-1] >= 400


def test_at_kinks_quasi_newton_steps_take_over() -> None:
    """The gradient of a ReLU network jumps there, which no row says."""
    torch.manual_seed(0)
    x = torch.randn(60, 2, dtype=torch.float64)
    y = torch.sin(3.0 * x[:, :1]) * x[:, 1:]
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    kinds: list[type] = []
    solution = oc.solve(
        oc.nn.NetworkProblem(net, squares, x, y),
        max_iterations=150,
        tolerance=None,
        callback=lambda k, iterate: kinds.append(type(iterate.memory)),
    )
    assert kinds[0] is LevenbergMemory
    assert kinds[-1] is CoupledMemory
    assert bool((solution.history.cost.diff(dim=0) <= 0).all())


def test_steps_below_the_rounding_of_the_cost_are_judged_by_the_residual() -> None:
    """The bias of a network that starts at zero: J cannot tell the last steps, the gradient can."""
    stated = problem(samples=3 * FEW)
    network = residual_network()
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
    solution = oc.solve(oc.nn.NetworkProblem(network, squares, stated.inputs, stated.targets), tolerance=1e-9)
    assert solution.status[0] is oc.Status.CONVERGED


def noisy(dtype: torch.dtype, decay: float) -> oc.nn.NetworkProblem:
    """More samples than rows, and targets that no weights meet."""
    torch.manual_seed(2)
    x = torch.randn(300, 4, dtype=dtype)
    y = torch.sin(x.sum(-1, keepdim=True)) + 0.3 * torch.randn(300, 1, dtype=dtype)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    return oc.nn.NetworkProblem(net, squares, x, y, decay)


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_runs_go_on_where_nothing_is_left_to_gain(decay: float) -> None:
    """In single precision J cannot tell the last steps; nothing overflows, and J rises by its rounding at most."""
    solution = oc.solve(noisy(torch.float32, decay), max_iterations=300, tolerance=None)
    costs = solution.history.cost[:, 0]
    assert len(costs) == 301
    assert bool(torch.isfinite(costs).all())
    assert float(costs.diff().max()) <= 1e-5 * float(costs[-1])
    assert float(solution.residual) < 1e-2


@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
def test_weight_decay_is_in_the_first_step(decay: float) -> None:
    history = oc.solve(problem(decay=decay), max_iterations=3, tolerance=None).history
    assert bool(history.accepted[1, 0])


@pytest.mark.parametrize("rho", [1e7, 1e12])
def test_a_first_penalty_that_is_far_too_large_is_lowered(rho: float) -> None:
    def best(solver: oc.EMSA) -> float:
        return float(oc.solve(noisy(torch.float32, 0.0), solver, max_iterations=20, tolerance=None).cost)

    assert best(oc.EMSA(rho=oc.AdaptivePenalty(initial=rho))) < 1.3 * best(oc.EMSA())


def test_draws_leave_the_global_generator_alone() -> None:
    stated = problem(samples=3 * FEW)
    sweep = swept(stated)
    assert sweep.response is not None
    state = torch.get_rng_state()
    one, other, again = sweep.response(FEW, 0), sweep.response(FEW, 1), sweep.response(FEW, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert one is not None
    assert other is not None
    assert again is not None
    assert one.rows.shape == (FEW, sum(block.numel() for block in sweep.forward.control))
    assert torch.equal(one.rows, again.rows)
    assert not torch.equal(one.rows, other.rows)
