"""Gauss–Newton on networks: every structured form against a dense solve of the same approximation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import nonlinear_problem, random_control, transcription
from torch import Tensor, nn
from torch.nn import functional

import ocsolver as oc
from ocsolver.affine import AffineView, ConvolutionView, LinearView
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.gauss_newton import AFFINE_FORMS, curvature_of
from ocsolver.nn.layered import LayeredTranscription

RHO_F, RHO_Q, EPSILON, DAMPING = 2.0, 3.0, 0.1, 0.05


def penalty() -> Penalty:
    return Penalty(*(torch.tensor([value], dtype=torch.float64) for value in (RHO_F, RHO_Q, EPSILON)))


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).flatten(1).square().sum(-1)


def blocks_of(network: nn.Module, inputs: Tensor, weight_decay: float = 0.0) -> tuple[HamiltonianBlock, ...]:
    """Hamiltonian blocks of a network that fits random targets."""
    network = network.double()
    targets = torch.randn_like(network(inputs).detach())
    chain = LayeredTranscription(oc.nn.NetworkProblem(network, squares, inputs, targets, weight_decay))
    return chain.backward(chain.forward(chain.start(None))).blocks


def perceptron(bias: bool = True, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    return oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(4, 4, bias=bias), activation()),
        depth=3,
        step=0.5,
        lift=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )


def images() -> nn.Module:
    """Convolutions with pooling, stride, dilation and an activation that overwrites its input."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.Tanh()),
        nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, bias=False), nn.ReLU(inplace=True)),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def signals() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2), nn.Softplus()), nn.Flatten(), nn.Linear(15, 2))


def sequences() -> nn.Module:
    """A linear map that acts at every position."""
    return nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Flatten(), nn.Linear(15, 2))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "perceptron": (perceptron, (3,)),
    "without bias": (lambda: perceptron(bias=False), (3,)),
    "images": (images, (1, 10, 10)),
    "signals": (signals, (2, 9)),
    "sequences": (sequences, (3, 4)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture
def blocks(name: str) -> tuple[HamiltonianBlock, ...]:
    torch.manual_seed(3)
    make, shape = NETWORKS[name]
    return blocks_of(make(), torch.randn(7, *shape, dtype=torch.float64))


def positions(view: AffineView, m: int) -> Tensor:
    """Index in the control vector of every entry of Θ (r, a)."""
    return view.shape.matrix(torch.arange(m, dtype=torch.float64)).long()


# ----------------------------------------------------------------------------------------- what a view says of a layer


@every_network
def test_gradient_of_the_sweep_is_that_of_the_hamiltonian(blocks: tuple[HamiltonianBlock, ...]) -> None:
    for block in blocks:
        assert block.slope is not None
        torch.testing.assert_close(block.slope, block.gradient(block.current)[1], rtol=1e-10, atol=1e-12)


def test_gradient_of_the_sweep_holds_the_weight_decay() -> None:
    for block in blocks_of(perceptron(), torch.randn(5, 3, dtype=torch.float64), weight_decay=0.3):
        torch.testing.assert_close(block.slope, block.gradient(block.current)[1], rtol=1e-10, atol=1e-12)


@every_network
def test_matrix_and_vector_are_inverse(blocks: tuple[HamiltonianBlock, ...]) -> None:
    for block in blocks:
        view = block.affine
        assert view is not None
        assert view.shape.matrix(block.current).shape[-2:] == (view.rows, view.columns)
        assert torch.equal(view.shape.vector(view.shape.matrix(block.current)), block.current)


@every_network
def test_exact_rows_are_the_dense_gram_matrix(blocks: tuple[HamiltonianBlock, ...]) -> None:
    for block in blocks:
        view, dense = block.affine, block.current_expansion.state_gram[:, 0]
        assert view is not None
        found, index = torch.zeros_like(dense), positions(view, dense.shape[-1])
        for k, grams in enumerate(view.row_gram()):
            for columns, gram in zip(index, grams, strict=True):
                found[k][columns[:, None], columns] = gram
        torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_autocorrelation_is_the_gram_matrix_of_all_positions(padding: int, dilation: int, bias: bool) -> None:
    x, reach = torch.randn(4, 2, 6, 7, dtype=torch.float64), 2 * dilation
    out = functional.conv2d(x, torch.zeros(3, 2, 3, 3).double(), padding=padding, dilation=dilation)

    def gram_by_patches(margin: int) -> Tensor:
        patches = functional.unfold(x, (3, 3), padding=margin, dilation=dilation).transpose(1, 2).flatten(0, 1)
        patches = torch.cat((patches, torch.ones_like(patches[:, :1])), 1) if bias else patches
        return patches.mT @ patches / len(x)

    view = ConvolutionView(
        x, lambda: out, lambda: out, out.shape[1], bias, (3, 3), (1, 1), (padding, padding), (dilation, dilation)
    )
    torch.testing.assert_close(view.gram()[0], gram_by_patches(reach), rtol=1e-12, atol=1e-12)
    margin = torch.linalg.eigvalsh(view.gram()[0] - gram_by_patches(padding))
    assert float(margin.min()) > -1e-10  # a majorizer of the kernel's own positions


def test_layers_of_other_kinds_have_no_view() -> None:
    class Doubled(nn.Module):
        """An affine map whose input is not that of the layer."""

        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.map(2.0 * x))

    strange = [
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),  # two maps
        nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)),  # not elementwise
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),  # other parameters
        Doubled(),
        nn.PReLU(),
    ]
    blocks = blocks_of(nn.Sequential(*strange), torch.randn(5, 4, dtype=torch.float64))
    assert [block.affine for block in blocks] == [None] * len(strange)


def test_custom_module_with_one_affine_map_has_a_view() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.map(x))

    (block,) = blocks_of(nn.Sequential(Own()), torch.randn(5, 4, dtype=torch.float64))
    assert isinstance(block.affine, LinearView)


# ------------------------------------------------------------------------------------------------------------ the steps


def apply(view: AffineView, form: str, step: Tensor) -> Tensor:
    """The matrix that a form inverts, written out, times dΘ (K, r, a)."""
    curvature = curvature_of(view, form)
    weights = step.clone()
    if view.bias:
        weights[..., -1] = 0.0
    if form == "rows":
        own = curvature.sensitivities.diagonal(dim1=-2, dim2=-1)[..., None] * torch.ones_like(step)
        own = torch.where(torch.arange(view.columns) < view.width, own, 0.0)
        mean = (RHO_F * curvature.rows.diagonal(dim1=-2, dim2=-1) + RHO_Q * own).mean((-2, -1), keepdim=True)
        first = torch.einsum("krab,krb->kra", curvature.rows, step)
        return RHO_F * first + RHO_Q * own * step + (2 * EPSILON + DAMPING * mean) * step
    slopes = curvature.slopes + DAMPING * curvature.slopes.mean(-1, keepdim=True)
    whitened = curvature.sensitivities.diagonal(dim1=-2, dim2=-1) / slopes
    mean = RHO_F * curvature.inputs.diagonal(dim1=-2, dim2=-1).mean(-1) + RHO_Q * whitened.mean(-1)
    shift = (DAMPING * mean + 2 * EPSILON)[:, None, None] * slopes[..., None]
    first = slopes[..., None] * (step @ curvature.inputs)
    return RHO_F * first + RHO_Q * curvature.sensitivities @ weights + shift * step


@every_network
@pytest.mark.parametrize("form", AFFINE_FORMS)
def test_structured_step_solves_its_dense_system(blocks: tuple[HamiltonianBlock, ...], form: str) -> None:
    for block in blocks:
        view = block.affine
        assert view is not None
        m = view.rows * view.columns
        units = torch.eye(m, dtype=torch.float64).reshape(m, 1, view.rows, view.columns)
        columns = [apply(view, form, unit.expand(len(block.current), -1, -1)).flatten(1) for unit in units]
        dense = torch.stack(columns, -1)  # (K, m, m)
        right = view.shape.matrix(block.current_slope[:, 0]).flatten(1)
        expected = torch.linalg.solve(dense, right).reshape(-1, view.rows, view.columns)
        step = view.shape.matrix(oc.GaussNewton(damping=DAMPING, form=form).direction(block, penalty())[:, 0])
        torch.testing.assert_close(step, expected, rtol=1e-8, atol=1e-10)


@every_network
@pytest.mark.parametrize("form", ["auto", *AFFINE_FORMS, "dense", "cg"])
@pytest.mark.parametrize("rho", [0.0, 1e-6, 1.0, 1e6])
def test_never_below_the_start(blocks: tuple[HamiltonianBlock, ...], form: str, rho: float) -> None:
    weights = Penalty.uniform(torch.tensor([rho], dtype=torch.float64))
    for block in blocks:
        u, gain, _ = oc.GaussNewton(form=form).maximize(block, weights)
        torch.testing.assert_close(gain, block.value(u, weights), rtol=1e-9, atol=1e-13)
        assert bool((gain > 0.0).all())


@pytest.mark.parametrize("shared", [True, False])
def test_conjugate_gradients_solve_the_dense_system(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On dynamics that are nonlinear in the control, for one group and for many."""
    monkeypatch.setattr("ocsolver.maximizers.gauss_newton.CG_ACCURACY", 1e-12)
    problem = nonlinear_problem(shared)
    chain = transcription(problem, integrator=oc.Heun())
    (block,) = chain.backward(chain.forward((random_control(problem, seed=4),))).blocks
    weights = torch.linspace(0.5, 1.5, block.groups, dtype=torch.float64)
    terms = Penalty(weights, 2.0 * weights, torch.zeros_like(weights))
    step = oc.GaussNewton(damping=1e-12, form="cg").direction(block, terms)
    expansion = block.current_expansion
    matrix = weights[:, None, None] * (expansion.state_gram + 2.0 * expansion.costate_gram)
    expected = torch.linalg.solve(matrix, expansion.gradient)
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-8)


def test_dense_step_on_a_network_sees_what_rows_and_columns_see(blocks_of_one_row: HamiltonianBlock) -> None:
    """With one output and the first penalty alone there is nothing to approximate."""
    first = Penalty(*(torch.tensor([value], dtype=torch.float64) for value in (2.0, 0.0, 0.0)))
    block = replace(blocks_of_one_row)
    steps = [oc.GaussNewton(damping=1e-3, form=form).direction(block, first) for form in ("rows", "inputs", "dense")]
    torch.testing.assert_close(steps[0], steps[2], rtol=1e-8, atol=1e-10)
    assert float((steps[1] - steps[0]).norm() / steps[0].norm()) < 1e-3  # K is damped too


@pytest.fixture
def blocks_of_one_row() -> HamiltonianBlock:
    torch.manual_seed(5)
    (block,) = blocks_of(nn.Sequential(nn.Linear(4, 1)), torch.randn(9, 4, dtype=torch.float64))
    return block


def test_rows_whose_data_are_not_finite_stay() -> None:
    blocks = blocks_of(perceptron(), torch.randn(5, 3, dtype=torch.float64))
    for block in blocks:
        bad = block.slope.clone()
        bad[0] = torch.nan
        u, gain, _ = oc.GaussNewton().maximize(replace(block, slope=bad), penalty())
        assert torch.equal(u[0], block.current[0])
        assert not bool(gain[0].any())
        assert bool((gain[1:] > 0).all())


@pytest.mark.parametrize("damping", [1e-3, 1e-1])
def test_a_network_is_trained(damping: float) -> None:
    """Full batch: J never rises, and E-MSA leaves the plateau on which it starts."""
    torch.manual_seed(0)
    x = torch.linspace(-2.0, 2.0, 60, dtype=torch.float64)[:, None]
    network = oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh()), depth=6, step=0.5, lift=nn.Linear(1, 5), head=nn.Linear(5, 1)
    ).double()
    problem = oc.nn.NetworkProblem(network, squares, x, torch.sin(2.0 * x))
    solution = oc.solve(problem, oc.EMSA(oc.GaussNewton(damping)), max_iterations=60, tolerance=None)
    cost = solution.history.cost[:, 0]
    assert bool((cost.diff() <= 1e-12).all())
    assert float(cost[-1]) < 0.01 * float(cost[0])
