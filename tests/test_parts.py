"""Averages over mini-batches for layers of any kind: what they consist of, and the steps made of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc
from ocsolver.affine import LinearView, Part
from ocsolver.maximizers import LBFGS, GaussNewton
from ocsolver.maximizers.averages import CAUTION, RANK, BlockAverage, MapAverage, SingleAverage, WideAverage
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.nn.layers import Layer
from ocsolver.nn.parts import inside_of, parts_of

DAMPING = 0.05


class Twice(nn.Module):
    """One map that acts twice, one that acts once, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale * torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def parts(module: nn.Module, x: Tensor, samples: int | None = None) -> tuple[Part, ...]:
    layer = Layer(module.double(), "layer")
    inside = inside_of(layer, x[:2])
    inside = inside if samples is None else inside._replace(samples=samples)
    return parts_of([layer], [inside], [x], layer.vector()[None], None)


def random(*shape: int) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(*shape, dtype=torch.float64)


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).sum(-1)


# ----------------------------------------------------------------------------------------------- what layers consist of


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)), ((30, True), (28, True))),
        (nn.LayerNorm(4), ((4, False), (4, False))),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4, bias=False)), ((4, False), (4, False), (16, True))),
        (Twice(), ((4, False), (16, False), (4, False), (16, True))),
        (nn.PReLU(), ((1, False),)),
    ],
)
def test_maps_that_act_once_are_found(module: nn.Module, sizes: tuple[Any, ...]) -> None:
    x = random(20, 4)
    inside = inside_of(Layer(module.double(), "layer"), x[:2])
    assert inside.sizes == sizes
    found = parts(module, x)
    assert [part.view is not None for part in found] == [mapped for _, mapped in sizes]
    assert all(part.view.shape.size == size for part, (size, _) in zip(found, sizes, strict=True) if part.view)


def test_attention_is_taken_apart() -> None:
    """Weights that torch uses behind the backs of its modules count as single parameters."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    found = parts(layer, random(6, 5, 8))
    assert sum(part.view is not None for part in found) == 2  # the two linear maps behind attention
    assert all(part.map.positions == 5 for part in found if isinstance(part.view, LinearView))


def test_slopes_are_exact_behind_an_activation() -> None:
    module, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), random(9, 4)
    (part,) = parts(module, x)
    slopes = 1.0 - torch.tanh(module[0](x)).square()
    torch.testing.assert_close(part.map.slope_square()[0], slopes.square().mean(0), rtol=1e-12, atol=0.0)
    ones = torch.cat((x, torch.ones(9, 1, dtype=x.dtype)), 1)
    torch.testing.assert_close(part.map.gram()[0], ones.mT @ ones / 9, rtol=1e-12, atol=1e-14)


def test_slopes_of_inner_maps_are_those_of_the_output_in_the_mean() -> None:
    """⟨s_j²⟩ = ⟨Σ_i (∂f_i/∂z_j)²⟩, up to the error of random signs on 20000 samples."""
    module, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)), random(20000, 4)
    first, second = parts(module, x, len(x))
    slopes = 1.0 - torch.tanh(module[0](x)).square()
    exact = (module[2].weight.square().sum(0) * slopes.square()).mean(0)
    torch.testing.assert_close(first.map.slope_square()[0], exact, rtol=0.05, atol=0.0)
    torch.testing.assert_close(second.map.slope_square()[0], torch.ones_like(exact[:5]), rtol=1e-12, atol=0.0)


def test_squares_of_other_parameters_are_the_diagonal_in_the_mean() -> None:
    weight, bias = parts(nn.LayerNorm(400), random(30, 400), 30)
    assert weight.squares is not None
    assert bias.squares is not None
    for part in (weight, bias):  # ⟨x̂²⟩ and 1, each component with a relative error of √(2 / 4)
        assert float(part.squares.mean()) == pytest.approx(1.0, rel=4.0 * math.sqrt(0.5 / 400))


def test_positions_are_summed() -> None:
    """A map that acts on every element of a sequence has A = ⟨Σ x̃x̃ᵀ⟩, like a convolution of one tap."""
    x = random(6, 4, 5)  # channels, places
    convolution = nn.Conv1d(4, 3, 1)
    linear = nn.Linear(4, 3)
    (one,), (other,) = parts(convolution, x), parts(linear, x.mT)
    torch.testing.assert_close(one.map.gram(), other.map.gram(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.map.slope_square(), other.map.slope_square(), rtol=1e-12, atol=0.0)


# ------------------------------------------------------------------------------------------------------------ the steps


def damping_of(columns: int, samples: int) -> float:
    """That of averages of one batch."""
    return DAMPING + CAUTION * math.sqrt(columns / samples)


def test_step_of_a_map_solves_its_dense_system() -> None:
    (part,) = parts(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), random(10, 4))
    slope = random(1, 30)
    average = MapAverage.start(part.map).update(part, DAMPING)
    damping, shape = damping_of(5, 10), part.map.shape
    a, k = part.map.gram()[0], part.map.slope_square()[0]
    a = a + damping * a.diagonal().mean() * torch.eye(5, dtype=a.dtype)
    dense = torch.kron(torch.diag(k + damping * k.mean()), a)
    expected = torch.linalg.solve(dense, shape.matrix(slope).flatten()).reshape(1, 6, 5)
    torch.testing.assert_close(shape.matrix(average.step(slope)), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("samples", [RANK // 4, RANK, 3 * RANK // 2])
def test_step_of_a_wide_map_solves_its_dense_system(samples: int) -> None:
    """A = RRᵀ + what was dropped, spread evenly; that is A itself as long as nothing had to be dropped."""
    columns = 2 * RANK + 1
    (part,) = parts(nn.Linear(columns - 1, 2), random(samples, columns - 1), samples)
    slope = random(1, 2 * columns)
    average, true = WideAverage.start(part.map), torch.zeros((), dtype=torch.float64)
    for _ in range(2):
        average = average.update(part, DAMPING)
        true = 0.9 * true + 0.1 * part.map.root(RANK) @ part.map.root(RANK).mT
    weight, kept = average.weight, average.root.shape[-1]
    eye = torch.eye(columns, dtype=true.dtype)
    outside = eye - average.basis @ average.basis.mT
    a = (average.root @ average.root.mT + average.rest / (columns - kept) * outside) / weight
    torch.testing.assert_close(a.diagonal(dim1=-2, dim2=-1).sum(), true.diagonal(dim1=-2, dim2=-1).sum() / weight)
    if 2 * samples <= RANK:
        torch.testing.assert_close(a, true / weight, rtol=1e-8, atol=1e-10)
    batches = 19.0 * weight / (2.0 - weight)
    damping = DAMPING + CAUTION * math.sqrt(columns / part.map.root(RANK).shape[-1] / batches)
    a = a + damping * a.diagonal(dim1=-2, dim2=-1).mean() * eye
    shape = part.map.shape
    step = shape.matrix(average.step(slope)) * (1.0 + damping)
    torch.testing.assert_close(step @ a, shape.matrix(slope), rtol=1e-8, atol=1e-8)


def test_step_of_single_parameters_is_damped() -> None:
    part = Part(squares=torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    average = SingleAverage(0.0, torch.zeros(()), torch.zeros(())).update(part, DAMPING)
    step = average.step(torch.ones(1, 2, dtype=torch.float64))
    expected = torch.tensor([[1.0 / (0.5 + DAMPING), 1.0 / (1.5 + DAMPING)]], dtype=torch.float64)
    torch.testing.assert_close(step, expected, rtol=1e-12, atol=0.0)


def test_parts_follow_one_another_in_the_step() -> None:
    """Every part of a layer steps as it would alone."""
    module, x = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)), random(50, 4)
    network = nn.Sequential(module.double())
    chain = LayeredTranscription(oc.nn.NetworkProblem(network, squares, x, torch.zeros_like(x)))
    (block,) = chain.backward(chain.forward(chain.start(None))).blocks
    step, _ = GaussNewton(DAMPING).sampled_step(block, None)
    assert block.parts is not None
    begin = 0
    for part in block.parts():
        alone = (
            SingleAverage(0.0, torch.zeros(()), torch.zeros(())) if part.view is None else MapAverage.start(part.map)
        )
        average = alone.update(part, DAMPING)
        own = slice(begin, begin + average.size)
        torch.testing.assert_close(step[:, 0, own], average.step(block.current_slope[:, 0, own]), rtol=1e-12, atol=0.0)
        begin += average.size
    assert begin == block.current.shape[-1]


def test_averages_survive_packing() -> None:
    net = nn.Sequential(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 200)), nn.Tanh(), nn.Linear(200, 1)).double()
    x = random(20, 4)
    chain = LayeredTranscription(oc.nn.NetworkProblem(net, squares, x, x[:, :1]))
    for block in chain.backward(chain.forward(chain.start(None))).blocks:
        average = BlockAverage().seen(block, DAMPING)
        again = BlockAverage.unpack(average.pack())
        assert torch.equal(again.step(block.current_slope), average.step(block.current_slope))
        assert (again.steps, again.due) == (1, 1)


# ------------------------------------------------------------------------------------------------------------- training


def test_ordinary_residual_networks_train_by_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two maps, layer normalization and an own parameter: no maximization of a single batch is needed."""

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("a layer is not served by averages")

    monkeypatch.setattr(LBFGS, "maximize", forbidden)
    monkeypatch.setattr(GaussNewton, "maximize", forbidden)
    torch.manual_seed(6)
    net = oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)),
        depth=3,
        step=0.5,
        lift=nn.Linear(4, 16),
        head=[Gated(), nn.LayerNorm(16), nn.Linear(16, 1)],
    )
    x = torch.randn(60, 50, 4)
    data = [(batch, torch.sin(2.0 * batch[:, :1]) * batch[:, 1:2]) for batch in x]
    losses = [step.loss for step in oc.nn.Trainer(net, squares).fit(data, epochs=2).steps]
    with torch.no_grad():  # of the averaged weights
        after = sum(float(squares(net(x), y).mean()) for x, y in data[:10])
    assert after < 0.2 * sum(losses[:10])


class Gated(nn.Module):
    """A map whose output meets its input, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.scale = nn.Linear(16, 16), nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * torch.sigmoid(self.gate(x))
