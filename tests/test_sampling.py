"""ρ on mini-batches: it follows what steps do to samples that they have not seen."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc
from ocsolver.hamiltonian import Penalty
from ocsolver.maximizers.default import default_maximizer
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.solvers.sampling import DECAY, FASTEST, LENGTH, SampledMemory, learn, note_step

NONE = torch.zeros(1, dtype=torch.float64)  # no gain is below rounding


def one(value: float) -> Tensor:
    """A number for the single group."""
    return torch.tensor([value], dtype=torch.float64)


def taken(memory: SampledMemory, gain: float, drop: float) -> SampledMemory:
    """Memory after an accepted step with that gain and fall of its own batch's cost."""
    return note_step(memory, torch.tensor([True]), one(gain), one(drop), (torch.zeros(1, 1, 1),))


@pytest.mark.parametrize("first", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("signal", [1.0, 0.7])
def test_rho_follows_the_fresh_gain(first: float, signal: float) -> None:
    """Own gain g s, own fall g s − c s², fresh fall signal·g s − c s²: s = 1/ρ becomes 1.4 times signal·g / 2c."""
    g, c = 3.0, 5.0
    memory = SampledMemory.start(one(first))
    for _ in range(120):
        s = 1.0 / float(memory.rho)
        memory = learn(taken(memory, g * s, g * s - c * s * s), one(signal * g * s - c * s * s), NONE)
    assert float(memory.rho) == pytest.approx(2.0 * c / (LENGTH * signal * g), rel=1e-9)


@pytest.mark.parametrize("fresh", [0.0, -1.0])
def test_rho_grows_without_fresh_gain(fresh: float) -> None:
    """Steps that only fit the noise become smaller, no faster than the root of their number, and never stop."""
    g, c = 3.0, 5.0
    memory = SampledMemory.start(one(2.0 * c / (LENGTH * g)))
    for k in range(400):
        s = 1.0 / float(memory.rho)
        memory = learn(taken(memory, g * s, g * s - c * s * s), one(fresh), NONE)
        assert float(memory.rho) <= 2.0 * c / (LENGTH * g) * math.sqrt(1.0 + k / DECAY) * (1 + 1e-9)
    assert float(memory.rho) > 2.0 * c / (LENGTH * g) * 2.5


def test_gains_below_rounding_teach_nothing() -> None:
    """What cannot be seen is not averaged, and ρ falls until something can be."""
    memory = learn(taken(SampledMemory.start(one(1e9)), 1e-17, -1e-16), one(1e-16), one(1e-14))
    assert float(memory.steps) == 0.0
    assert float(memory.rho) == pytest.approx(FASTEST * 1e9)


def test_rho_falls_slowly() -> None:
    """One lucky batch does not undo the caution."""
    memory = learn(taken(SampledMemory.start(one(1.0)), 1.0, 0.999), one(1.0), NONE)
    assert float(memory.rho) == pytest.approx(FASTEST)


@pytest.mark.parametrize("fresh", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_teaches_nothing(fresh: float) -> None:
    """Averages and ρ stay as they are."""
    memory = taken(learn(taken(SampledMemory.start(one(1.0)), 1.0, 0.5), one(0.1), NONE), 1.0, 0.5)
    again = learn(memory, one(fresh), NONE)
    for name in ("rho", "slope", "curvature", "steps"):
        assert torch.equal(getattr(again, name), getattr(memory, name)), name


@pytest.mark.parametrize("accepted", [True, False])
def test_memory_is_plain_data(accepted: bool) -> None:
    """A file without code holds it, with and without a last step."""
    start = SampledMemory.start(one(2.0))
    memory = note_step(start, torch.tensor([accepted]), one(1.0), one(0.5), (torch.ones(2, 1, 3), torch.zeros(1)))
    file = io.BytesIO()
    torch.save(memory.pack(), file)
    file.seek(0)
    again = SampledMemory.unpack(torch.load(file, weights_only=True))
    assert (again.previous is not None) is accepted
    for a, b in zip(again.previous or (), memory.previous or (), strict=True):
        assert torch.equal(a, b)
    for name in ("rho", "promised", "slope", "curvature", "steps", "gain", "drop"):
        assert torch.equal(getattr(again, name), getattr(memory, name)), name


# ------------------------------------------------------------------------------------------------------ training


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error per sample."""
    return (outputs - targets).square().sum(-1)


def network(seed: int = 0) -> nn.Sequential:
    """A small network in double precision."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def batches(count: int, size: int, noise: float, seed: int = 1) -> list[Any]:
    """Samples of a smooth function, with noise on the targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * size, 3, generator=generator, dtype=torch.float64)
    y = torch.tanh(x[:, :1]) + noise * torch.randn(count * size, 1, generator=generator, dtype=torch.float64)
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_penalty_answers_noise(seed: int) -> None:
    """Targets as noisy as they are large, batches of 8: ρ grows within bounds, and the noise averages out."""
    test = batches(1, 2000, 0.0, seed=100)
    trainer = oc.nn.Trainer(network(seed), losses)
    history = trainer.fit(batches(400, 8, 1.0, seed=seed), test_loader=test)
    rho = [step.rho for step in history.steps]
    assert rho[0] > 2 * min(rho[:100])
    assert max(rho[50:]) < 1e3
    assert sum(step.accepted for step in history.steps) > 0.95 * len(history.steps)
    assert history.epochs[-1].test_loss < 0.35  # a fit of single batches would have an error near the noise, 1


def test_training_goes_on_after_a_perfect_fit() -> None:
    """Where nothing was left to gain, ρ does not run away: new data are learned at once."""
    trainer = oc.nn.Trainer(nn.Sequential(nn.Linear(3, 1)).double(), losses)
    x = torch.randn(400, 3, dtype=torch.float64)
    for sign in (1.0, -1.0):
        y = sign * x.sum(-1, keepdim=True)
        trainer.fit(list(zip(x.split(20), y.split(20), strict=True)), epochs=10)
        assert trainer.evaluate([(x, y)]).loss < 1e-4  # of averaged weights; the second time it starts at 12
        assert trainer.history.steps[-1].rho < 1e6


@pytest.mark.parametrize("change", ["freeze", "double", "scale"])
def test_weights_may_change_between_fits(change: str) -> None:
    """What is remembered of the last step belongs to the weights that it left."""
    data = batches(4, 16, 0.0)
    data = [(x.float(), y.float()) for x, y in data]
    net = network().float()
    trainer = oc.nn.Trainer(net, losses)
    first = trainer.fit(data)
    if change == "freeze":
        net[0].requires_grad_(False)
    elif change == "double":
        net.double()
        data = [(x.double(), y.double()) for x, y in data]
    else:
        with torch.no_grad():
            net[0].weight.mul_(3.0)
    history = trainer.fit(data)
    assert history.status is oc.Status.COMPLETED
    assert history.steps[0].rho == pytest.approx(first.steps[-1].rho, rel=1.0)
    assert trainer.evaluate(data).loss < history.steps[0].loss


def test_small_batches_do_not_raise_the_loss() -> None:
    """The ratio test on the step's own batch does not see its noise; this one does."""
    data = batches(40, 5, 0.3)
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    trainer = oc.nn.Trainer(network(), losses)
    before = trainer.evaluate(whole).loss
    trainer.fit(data, epochs=6)
    assert trainer.evaluate(whole).loss < 0.7 * before


@pytest.mark.parametrize("rho", [1e-3, 1e3, 1e6])
def test_first_penalty_is_forgotten(rho: float) -> None:
    """From a far too small or large first ρ training still comes to the same loss, within a factor."""
    data, test = batches(60, 32, 0.0), batches(1, 500, 0.0, seed=2)
    results = []
    for initial in (None, rho):
        trainer = oc.nn.Trainer(network(), losses, oc.EMSA(rho=oc.AdaptivePenalty(initial=initial)))
        trainer.fit(data, epochs=3)
        results.append(trainer.evaluate(test).loss)
    assert results[1] < 10 * results[0] + 1e-3


# ------------------------------------------------------------------------------------------------------ blocks


def test_first_layer_has_no_costate_error() -> None:
    """Its input is data, so a change of ∇ₓH there moves nothing; a later layer has that error."""
    (x, y), *_ = batches(1, 16, 0.0)
    transcription = LayeredTranscription(oc.nn.NetworkProblem(network(), losses, x, y))
    first, last = transcription.backward(transcription.forward(transcription.start(None))).blocks
    for block, has in ((first, False), (last, True)):
        u = block.current + 0.1
        terms = block.terms(u)
        assert (float(terms.costate_error) > 0) is has
        assert float(terms.state_error) > 0
        penalty = Penalty.uniform(one(2.0))
        expected = terms.gain - terms.state_error - terms.costate_error
        torch.testing.assert_close(block.value(u, penalty), expected)
        assert bool(block.expansion(u).costate_gram.any()) is has


def test_large_blocks_are_maximized_without_dense_hessians() -> None:
    """Newton forms and factors m × m matrices: not with hundreds of weights per layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 200))
    loss = lambda outputs, targets: outputs.square().sum(-1)
    transcription = LayeredTranscription(oc.nn.NetworkProblem(net, loss, torch.randn(2, 3), torch.zeros(2)))
    small, large = transcription.backward(transcription.forward(transcription.start(None))).blocks
    assert isinstance(default_maximizer(small), oc.ProjectedNewton)
    assert isinstance(default_maximizer(large), oc.LBFGS)


@pytest.mark.slow
def test_digits_are_learned_without_tuning() -> None:
    """The network of the documentation, defaults everywhere: 97 % of the test part or more, median of 11 splits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, classes = load_digits(return_X_y=True)
    accuracies = []
    for seed in range(11):
        split = train_test_split(images / 16, classes, test_size=0.2, stratify=classes, random_state=seed)
        x, x_test = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
        y, y_test = (torch.tensor(part) for part in split[2:])
        torch.manual_seed(seed)
        data = torch.utils.data.TensorDataset(x, y)
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
        net = oc.nn.ResidualNetwork(
            lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh()), depth=4, step=0.5, head=nn.Linear(64, 10)
        )
        trainer = oc.nn.Trainer(net, nn.CrossEntropyLoss(reduction="none"))
        trainer.fit(loader, epochs=20)
        accuracies.append(trainer.evaluate([(x_test, y_test)]).accuracy)
    assert sorted(accuracies)[5] >= 0.97
