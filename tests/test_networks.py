"""Networks as layered control problems and as flows, against plain back-propagation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1)


def tanh_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh())


def images() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    ).double()
    return network, torch.randn(7, 1, 8, 8, dtype=torch.float64), torch.randint(5, (7,))


def vectors() -> tuple[oc.nn.ResidualNetwork, Tensor, Tensor]:
    torch.manual_seed(1)
    network = oc.nn.ResidualNetwork(tanh_layer, depth=4, step=0.5).double()
    return network, torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)


def test_costates_are_those_of_autograd() -> None:
    network, x, y = images()
    solution = oc.solve(oc.nn.NetworkProblem(network, CROSS_ENTROPY, x, y), max_iterations=0, tolerance=None)
    states = [x.clone().requires_grad_()]
    for layer in copy.deepcopy(network):
        state = states[-1].clone() if isinstance(layer, nn.ReLU) else states[-1]
        states.append(layer(state))
    slopes = torch.autograd.grad(CROSS_ENTROPY(states[-1], y).sum(), states)
    assert len(solution.p) == len(slopes) == 6
    for p, slope in zip(solution.p, slopes, strict=True):
        torch.testing.assert_close(p, -slope, rtol=0, atol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_gradient_descent_is_torch_sgd(decay: float) -> None:
    network, x, y = vectors()
    head = nn.Sequential(*(copy.deepcopy(network) for _ in range(1)), nn.Linear(3, 3).double())
    for module in (network, head):
        problem = oc.nn.NetworkProblem(module, squares, x, y, weight_decay=decay)
        solution = oc.solve(problem, oc.GradientDescent(0.1), max_iterations=4, tolerance=None)
        twin = copy.deepcopy(module)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=decay)
        for _ in range(4):
            optimizer.zero_grad()
            squares(twin(x), y).mean().backward()
            optimizer.step()
        for own, other in zip(problem.network(solution).parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "solver",
    [oc.EMSA(oc.LBFGS(), rho=2.0), oc.EMSA(rho=2.0), oc.EMSA(oc.ProjectedNewton(), accelerate=False)],
    ids=repr,
)
def test_a_network_and_its_flow_take_the_same_steps(solver: Any) -> None:
    network, x, y = vectors()
    flow = oc.nn.ResidualFlow(tanh_layer)
    layered = oc.solve(oc.nn.NetworkProblem(network, squares, x, y, 0.02), solver, max_iterations=5, tolerance=None)
    problem = flow.problem(x, y, squares, (0.0, 2.0), weight_decay=0.02 / 0.5)
    settings: dict[str, Any] = {"mesh": 4, "integrator": oc.Euler(), "max_iterations": 5, "tolerance": None}
    continuous = oc.solve(problem, solver, initial_control=flow.control(network), **settings)
    torch.testing.assert_close(layered.u[0], continuous.u, rtol=0, atol=1e-8)
    torch.testing.assert_close(layered.cost, continuous.cost, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.network(continuous)(x), layered.outputs, rtol=0, atol=1e-8)


def test_gradient_descent_on_a_network_and_its_flow() -> None:
    network, x, y = vectors()
    flow, step = oc.nn.ResidualFlow(tanh_layer), 0.5
    problem = oc.nn.NetworkProblem(network, squares, x, y)
    layered = oc.solve(problem, oc.GradientDescent(0.1 / step), max_iterations=3, tolerance=None)
    settings: dict[str, Any] = {"mesh": 4, "integrator": oc.Euler(), "max_iterations": 3, "tolerance": None}
    start = flow.control(network)
    continuous = oc.solve(
        flow.problem(x, y, squares, (0.0, 2.0)), oc.GradientDescent(0.1), initial_control=start, **settings
    )
    torch.testing.assert_close(layered.u[0], continuous.u, rtol=0, atol=1e-8)


def test_emsa_lowers_the_loss_and_leaves_the_network_alone() -> None:
    network, x, y = images()
    before = copy.deepcopy(network.state_dict())
    problem = oc.nn.NetworkProblem(network, CROSS_ENTROPY, x, y, weight_decay=1e-3)
    solution = oc.solve(problem, max_iterations=8, tolerance=None)
    costs = solution.history.cost[:, 0]
    assert bool((costs.diff() <= 0).all())
    assert float(costs[-1]) < 0.5 * float(costs[0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    trained = problem.network(solution)
    torch.testing.assert_close(trained(x), solution.outputs)
    assert float(solution.certificate.cost_error) < 1e-12
    assert float(solution.certificate.costate_defect) < 1e-12
    assert "network" in str(solution)


def test_dropout_keeps_its_mask_and_batch_normalization_is_refused() -> None:
    _, x, y = vectors()
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    solution = oc.solve(oc.nn.NetworkProblem(network, squares, x, y), max_iterations=4, tolerance=None)
    assert bool((solution.history.cost.diff(dim=0) <= 0).all())
    coupled = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(oc.UnsupportedError, match=r"treats every sample alone.*GroupNorm"):
        oc.nn.NetworkProblem(coupled, squares, x, y)
    oc.nn.NetworkProblem(coupled.eval(), squares, x, y)


def test_bad_input_is_named() -> None:
    network, x, y = vectors()
    shared = nn.Linear(3, 3).double()
    problem = oc.nn.NetworkProblem
    with pytest.raises(oc.ShapeError, match=r"one value per sample.*reduction='none'"):
        problem(network, nn.MSELoss(), x, y)
    with pytest.raises(oc.ShapeError, match=r"targets: expected 9 samples, got 4"):
        problem(network, squares, x, y[:4])
    with pytest.raises(oc.ShapeError, match=r"keeps the shape"):
        problem(oc.nn.ResidualNetwork(lambda: nn.Linear(3, 2), 1, 0.5).double(), squares, x, y)
    with pytest.raises(oc.InputError, match=r"shared by layer 0"):
        problem(nn.Sequential(shared, shared), squares, x, y)
    with pytest.raises(oc.ShapeError, match=r"as the inputs"):
        problem(network.float(), squares, x, y)
    with pytest.raises(oc.InputError, match=r"makes a new body"):
        oc.nn.ResidualNetwork(shared, 2, 0.5)  # type: ignore[arg-type]
    with pytest.raises(oc.UnsupportedError, match=r"layers are discrete"):
        oc.solve(problem(network.double(), squares, x, y), mesh=3)
    with pytest.raises(oc.InputError, match=r"depth and step"):
        oc.nn.ResidualFlow(tanh_layer).network()


def test_nan_loss_is_a_status() -> None:
    network, x, y = vectors()
    y[3, 1] = torch.nan
    with pytest.warns(oc.ConvergenceWarning, match="the loss is not finite for sample 3"):
        solution = oc.solve(oc.nn.NetworkProblem(network, squares, x, y))
    assert solution.status[0] is oc.Status.NONFINITE


def test_loss_that_couples_samples_is_refused() -> None:
    """Outputs (B, 1) against targets (B,) broadcast to (B, B): the classic slip of regressions."""
    x = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)
    network = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(oc.ShapeError, match=r"each sample alone.*\n?.*outputs\[:, 0\]"):
        oc.nn.NetworkProblem(network, lambda o, t: (o - t).square().mean(-1), x, x[:, 0])
    oc.nn.NetworkProblem(network, lambda o, t: (o[:, 0] - t).square(), x, x[:, 0])
