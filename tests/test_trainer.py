"""The training loop: what it computes, records and refuses, and that it never destroys a network."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ocsolver as oc
from ocsolver.nn.records import StepRecord, TrainingHistory
from ocsolver.nn.trainer import Trainer

Batches = list[tuple[Tensor, Tensor]]


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error per sample."""
    return (outputs - targets).square().sum(-1)


def network() -> nn.Sequential:
    """Two layers with parameters, the same weights at each call."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def batches(sizes: tuple[int, ...] = (5, 5, 3)) -> Batches:
    """Batches of a smooth function."""
    torch.manual_seed(1)
    x = torch.randn(sum(sizes), 2)
    return list(zip(x.split(sizes), (x[:, :1] * x[:, 1:]).split(sizes), strict=True))


def loaded(sizes: tuple[int, ...]) -> DataLoader[Any]:
    """The same batches from a DataLoader."""
    x, y = (torch.cat(parts) for parts in zip(*batches(sizes), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=sizes[0])


SOLVERS: dict[str, Callable[[nn.Module], Any]] = {
    "EMSA": lambda net: oc.EMSA(),
    "fixed penalty": lambda net: oc.EMSA(rho=10.0),
    "GradientDescent": lambda net: oc.GradientDescent(0.05),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=1e-2),
}


def trainer(solver: str = "EMSA", net: nn.Module | None = None, **options: Any) -> Trainer:
    """Trainer of a small network."""
    net = network() if net is None else net
    return Trainer(net, squares, SOLVERS[solver](net), **options)


def weights(net: nn.Module) -> Tensor:
    """All parameters as a vector."""
    return torch.cat([value.detach().reshape(-1) for value in net.parameters()])


# ---------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_training_lowers_the_loss(solver: str) -> None:
    """In place, on any re-iterable of batches, the same for a list and a DataLoader."""
    sizes = (60, 60, 50)  # smaller batches differ too much for the adaptive penalty
    first, second = trainer(solver), trainer(solver)
    before = first.evaluate(batches(sizes)).loss
    history = first.fit(batches(sizes), 6)
    assert first.evaluate(batches(sizes)).loss < 0.95 * before
    assert history.status is oc.Status.COMPLETED
    assert first.history is history
    second.fit(loaded(sizes), 6)
    assert torch.equal(weights(first.network), weights(second.network))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_gradient_descent_is_sgd(weight_decay: float) -> None:
    """Proposition 2: both kinds of solver, weight decay included, agree up to rounding."""
    nets = [network().double(), network().double()]
    solvers = [oc.GradientDescent(0.05), torch.optim.SGD(nets[1].parameters(), lr=0.05)]
    histories = []
    for net, solver in zip(nets, solvers, strict=True):
        histories.append(Trainer(net, squares, solver, weight_decay=weight_decay).fit(batches(), 3))
    torch.testing.assert_close(weights(nets[0]), weights(nets[1]), rtol=1e-12, atol=1e-13)
    for a, b in zip(histories[0].steps, histories[1].steps, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-12)


def test_records() -> None:
    """Steps count globally and within the epoch; an epoch's mean weighs samples."""
    history = trainer().fit(batches(), 2, test_loader=batches((4, 1)), evaluate_at=(0, 2, 3))
    assert [(r.step, r.epoch, r.batch) for r in history.steps] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 3),
        (4, 2, 1),
        (5, 2, 2),
        (6, 2, 3),
    ]
    first = history.steps[:3]
    mean = sum(n * r.loss for n, r in zip((5, 5, 3), first, strict=True)) / 13
    assert history.epochs[0].train_loss == pytest.approx(mean, rel=1e-12)
    assert [(r.step, r.epoch) for r in history.evaluations] == [
        (0, 0.0),
        (2, pytest.approx(2 / 3)),
        (3, 1.0),
        (6, 2.0),
    ]
    assert history.epochs[0].test_loss == history.evaluations[2].loss
    assert history.evaluations[-1].seconds == pytest.approx(sum(r.seconds for r in history.epochs))
    for record in history.steps:
        assert record.rho > 0
        assert record.propagation_seconds > 0
        assert record.maximization_seconds > 0
        assert math.isnan(record.accuracy)
        assert dict(record)["loss"] == record.loss == record["loss"]
    with pytest.raises(KeyError):
        record["keys"]
    parts = sum(r.propagation_seconds + r.maximization_seconds for r in history.steps)
    assert parts < history.seconds


def test_loss_is_that_before_the_step() -> None:
    """The first record holds the loss of the untrained network on the first batch, without weight decay."""
    for solver in SOLVERS:
        untrained = trainer(solver).evaluate(batches()[:1]).loss
        history = trainer(solver, weight_decay=1.0).fit(batches(), callback=lambda record: True)
        assert history.steps[0].loss == pytest.approx(untrained, rel=1e-6)


def test_optimizers_have_no_penalty() -> None:
    """What only a Hamiltonian has is NaN, the seconds are split."""
    record = trainer("Adam").fit(batches()).steps[-1]
    assert all(math.isnan(record[name]) for name in ("rho", "hamiltonian_gain", "state_error", "costate_error"))
    assert record.accepted
    assert record.propagation_seconds > 0
    assert record.maximization_seconds > 0


def test_accuracy_of_classes() -> None:
    """Share of right classes, weighted by samples, in steps, epochs and evaluations."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.eye_(net[0].weight)  # type: ignore[arg-type]
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    y = torch.tensor([0, 1, 1, 1, 1])
    data = [(x[:3], y[:3]), (x[3:], y[3:])]
    loss = nn.CrossEntropyLoss(reduction="none")
    result = Trainer(net, loss).evaluate(data)
    assert (result.accuracy, result.samples) == (pytest.approx(3 / 5), 5)
    history = Trainer(net, loss, oc.GradientDescent(1e-9)).fit(data, test_loader=data)
    assert [r.accuracy for r in history.steps] == [pytest.approx(2 / 3), pytest.approx(1 / 2)]
    assert history.epochs[0].train_accuracy == history.epochs[0].test_accuracy == pytest.approx(3 / 5)


def test_control_is_written_at_each_step() -> None:
    """The callback sees the network that the records speak of."""
    train, seen = trainer(), []

    def look(record: StepRecord) -> None:
        seen.append((weights(train.network), record.accepted))

    start = weights(train.network)
    train.fit(batches(), 2, callback=look)
    for (before, _), (after, accepted) in zip([(start, True), *seen], seen, strict=False):
        assert torch.equal(before, after) is not accepted
    assert torch.equal(seen[-1][0], weights(train.network))


def test_fit_goes_on() -> None:
    """A second fit starts from weights and penalty of the first, and has a history of its own."""
    once, twice = trainer(), trainer()
    whole = once.fit(batches(), 4)
    first, second = twice.fit(batches(), 2), twice.fit(batches(), 2)
    assert torch.equal(weights(once.network), weights(twice.network))
    assert [r.rho for r in whole.steps] == [r.rho for r in first.steps + second.steps]
    assert second.steps[0].step == 1
    with torch.no_grad():
        for value in twice.network.parameters():
            value.zero_()
    third = twice.fit(batches(), 1)
    zero = sum(float(y.square().sum()) for _, y in batches()[:1]) / 5
    assert third.steps[0].loss == pytest.approx(zero, rel=1e-6)


def test_batches_follow_the_network() -> None:
    """Floating-point batches of another precision are converted, integers are not."""
    history = trainer(net=network().double()).fit(batches())
    assert history.steps[0].accepted
    embedded = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(4, 1))
    data = [(torch.tensor([[0, 1], [2, 0]]), torch.zeros(2, 1))]
    history = Trainer(embedded, squares, torch.optim.SGD(embedded.parameters(), lr=0.1)).fit(data)
    assert history.steps[0].accepted


def test_residual_network() -> None:
    """The package's own networks, with a layer frozen by requires_grad."""
    torch.manual_seed(0)
    net = oc.nn.ResidualNetwork(
        block=lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        depth=3,
        step=0.5,
        lift=nn.Linear(2, 4),
        head=nn.Linear(4, 1),
    )
    net.lift[0].requires_grad_(False)
    frozen = weights(net.lift)
    train = Trainer(net, squares)
    data = batches((60, 60, 50))
    before = train.evaluate(data).loss
    train.fit(data, 3)
    assert train.evaluate(data).loss < before
    assert torch.equal(weights(net.lift), frozen)


# ---------------------------------------------------------------------- modes


class Modes(nn.Module):
    """Passes its input on and notes the mode it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(self.training)
        return x


@pytest.mark.parametrize("solver", ["GradientDescent", "Adam"])
@pytest.mark.parametrize("training", [True, False])
def test_modes(solver: str, training: bool) -> None:
    """Training mode while stepping, evaluation mode while evaluating, and each part's own mode afterwards."""
    modes = Modes()
    net = nn.Sequential(*network(), modes)
    net.train(training)
    train = trainer(solver, net)
    train.fit(batches())
    assert modes.seen == {True}
    modes.seen.clear()
    train.evaluate(batches())
    assert modes.seen == {False}
    assert {part.training for part in net.modules()} == {training}
    with pytest.raises(oc.InputError):
        train.fit([torch.zeros(2)])
    assert {part.training for part in net.modules()} == {training}


def test_frozen_parts_stay_frozen() -> None:
    """Batch normalization that was put into evaluation mode keeps its statistics."""
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[1].eval()
    history = Trainer(net, squares).fit(batches(), test_loader=batches())
    assert any(r.accepted for r in history.steps)
    assert int(net[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    assert (net.training, net[1].training) == (True, False)
    net.train()
    with pytest.raises(oc.UnsupportedError, match="couples the samples"):
        Trainer(net, squares).fit(batches())


def test_evaluation_changes_nothing() -> None:
    """Evaluations within a run do not change its course, even if the test data are shuffled."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    results = []
    for test in (None, DataLoader(TensorDataset(torch.randn(6, 2), torch.zeros(6, 1)), shuffle=True)):
        net.load_state_dict(state)
        torch.manual_seed(0)
        Trainer(net, squares).fit(batches(), 2, test_loader=test, evaluate_at=() if test is None else (1, 2))
        results.append(weights(net))
    assert torch.equal(*results)


# ---------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_bad_batch_is_a_rejected_step(solver: str, bad: float) -> None:
    """Weights and memory are as if the batch had not been there; its loss is recorded as it is."""
    clean, poisoned = trainer(solver), trainer(solver)
    clean.fit(batches())
    data = batches()
    data.insert(1, (data[1][0], torch.full_like(data[1][1], bad)))
    history = poisoned.fit(data)
    assert torch.equal(weights(clean.network), weights(poisoned.network))
    assert [r.accepted for r in history.steps] == [True, False, True, True]
    assert not math.isfinite(history.steps[1].loss)
    assert math.isfinite(history.epochs[0].train_loss)


def test_bad_first_batch() -> None:
    """Inputs that are not finite, at once."""
    data = batches()
    data[0][0][0, 0] = math.nan
    for solver in SOLVERS:
        history = trainer(solver).fit(data)
        assert [r.accepted for r in history.steps] == [False, True, True]


@pytest.mark.parametrize("solver", ["EMSA", "Adam"])
def test_gradient_that_is_not_finite(solver: str) -> None:
    """A finite loss with an infinite slope: the weights stay, and no number of the memory is spoiled."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        zero = outputs - outputs.detach()
        return zero.abs().sqrt().sum(-1) if bool((targets > 50).any()) else squares(outputs, targets)

    net = network()
    train = Trainer(net, loss, SOLVERS[solver](net))
    data = batches()
    data.insert(0, (data[0][0], torch.full_like(data[0][1], 99.0)))
    history = train.fit(data)
    assert [r.accepted for r in history.steps] == [False, True, True, True]
    assert bool(torch.isfinite(weights(train.network)).all())


@pytest.mark.parametrize(
    ("solver", "cause"),
    [
        (lambda net: torch.optim.SGD(net.parameters(), lr=1e38), "a weight is not finite after the step"),
        (lambda net: oc.GradientDescent(1e38), "is not finite for sample"),
    ],
)
def test_epoch_without_a_finite_step(solver: Callable[[nn.Module], Any], cause: str) -> None:
    """Training ends with a warning that names the cause; the network is not destroyed, not even its statistics."""
    net = network()
    start = weights(net)
    data = [(1e3 * x, 1e3 * y) for x, y in batches()]
    with pytest.warns(oc.ConvergenceWarning, match=f"epoch 1 had no batch with a finite loss and .*{cause}"):
        history = Trainer(net, squares, solver(net)).fit(data, 5)
    assert history.status is oc.Status.NONFINITE
    assert len(history.epochs) == 1
    assert torch.equal(weights(net), start)


def test_statistics_survive_a_bad_batch() -> None:
    """A NaN batch does not reach the running means of batch normalization."""
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    data = batches()
    data[1][0][0, 0] = math.nan
    Trainer(net, squares, torch.optim.SGD(net.parameters(), lr=0.1)).fit(data)
    assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize("solver", ["EMSA", "Adam"])
def test_keyboard_interrupt(solver: str) -> None:
    """Ctrl-C returns the history of the whole steps, without an exception."""

    def interrupt(record: StepRecord) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    reference = trainer(solver)
    reference.fit(batches(), 2, callback=lambda record: record.step == 4)
    train = trainer(solver)
    history = train.fit(batches(), 3, callback=interrupt)
    assert history.status is oc.Status.INTERRUPTED
    assert len(history.steps) == 4
    assert torch.equal(weights(reference.network), weights(train.network))


def test_callback_stops() -> None:
    """True ends the run after that step."""
    history = trainer().fit(batches(), 3, callback=lambda record: record.step == 2)
    assert history.status is oc.Status.STOPPED
    assert (len(history.steps), len(history.epochs)) == (2, 0)


def test_error_keeps_what_was_computed() -> None:
    """An exception of the user's code passes; history and network are those of the last whole step."""
    train = trainer()

    def fail(record: StepRecord) -> None:
        if record.step == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train.fit(batches(), callback=fail)
    assert len(train.history.steps) == 2


def test_clock_excludes_the_callback() -> None:
    """Seconds are of fetching and stepping only."""
    history = trainer("Adam").fit(batches(), callback=lambda record: time.sleep(0.1))
    assert history.epochs[0].seconds < 0.3


class Short(list[tuple[Tensor, Tensor]]):
    """Says one batch more than it has."""

    def __len__(self) -> int:
        return super().__len__() + 1


def test_loader_that_ends_early(tmp_path: Path) -> None:
    """The epoch is closed, the checkpoint written, and the error says what was missing."""
    train = trainer()
    file = tmp_path / "run.pt"
    with pytest.raises(oc.InputError, match=r"loader: expected 4 batches in epoch 1, as its len\(\) says, got 3\."):
        train.fit(Short(batches()), 2, checkpoint=file)
    assert (len(train.history.steps), len(train.history.epochs)) == (3, 1)
    net = network()
    history = Trainer(net, squares).fit(batches(), 1, checkpoint=file, resume=True)
    assert len(history.epochs) == 1
    assert torch.equal(weights(net), weights(train.network))


def endless() -> Iterator[Any]:
    """A generator, which cannot be iterated twice."""
    yield from batches()


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], oc.InputError, "loader: expected at least one batch in an epoch, got none"),
        (endless(), oc.InputError, "loader: expected an iterable that starts anew each time, got generator"),
        (3, oc.InputError, "loader: expected an iterable that starts anew each time, got int"),
        ([torch.zeros(2)], oc.InputError, r"batch: expected a pair \(inputs, targets\) of tensors, got Tensor"),
        ([{"x": 1}], oc.InputError, r"batch: expected a pair \(inputs, targets\) of tensors, got dict"),
        ([(torch.zeros(2), 1)], oc.InputError, r"got tuple\(Tensor, int\)"),
        ([(torch.zeros(2),) * 3], oc.InputError, r"got tuple\(Tensor, Tensor, Tensor\)"),
        (
            [(torch.zeros(3, 2), torch.zeros(2, 1))],
            oc.ShapeError,
            r"expected as many targets as inputs, at least one, got inputs \(3, 2\), targets \(2, 1\)",
        ),
        ([(torch.zeros(0, 2), torch.zeros(0, 1))], oc.ShapeError, "at least one"),
    ],
)
def test_unusable_loaders(loader: Any, error: type[Exception], message: str) -> None:
    """Errors that say what was expected."""
    for solver in ("EMSA", "Adam"):
        with pytest.raises(error, match=message):
            trainer(solver).fit(loader)


def test_evaluate_refuses_nothing() -> None:
    """An empty loader has no mean."""
    with pytest.raises(oc.InputError, match="at least one batch"):
        trainer().evaluate([])


def test_reduced_loss() -> None:
    """A loss that is already a mean is refused, by every solver and by evaluate."""
    net = network()
    for solver in (oc.EMSA(), torch.optim.SGD(net.parameters())):
        train = Trainer(net, nn.MSELoss(), solver)
        for call in (train.fit, train.evaluate):
            with pytest.raises(oc.ShapeError, match=r"expected shape \(B,\) = "):
                call(batches())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs: expected an int ≥ 0, got -1"),
        ({"epochs": 1.5}, "epochs: expected an int ≥ 0, got 1.5"),
        ({"checkpoint": "a.pt", "checkpoint_every": 0}, "checkpoint_every: expected an int ≥ 1, got 0"),
        ({"checkpoint_every": 5}, "checkpoint_every: expected a checkpoint to go with it"),
        ({"resume": True}, "resume: expected a checkpoint to go with it"),
        ({"evaluate_at": (1,)}, "evaluate_at: expected a test_loader to go with it"),
        ({"log": "run.txt"}, "log: expected a path ending in .csv or .jsonl, got 'run.txt'"),
        ({"test_loader": endless()}, "test_loader: expected an iterable that starts anew"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    """Refused before any work."""
    train = trainer()
    start = weights(train.network)
    with pytest.raises(oc.InputError) as caught:
        train.fit(batches(), **options)
    assert message in str(caught.value)
    assert torch.equal(weights(train.network), start)


def test_unusable_constructions() -> None:
    """Networks, losses, solvers and optimizers of the wrong kind."""
    net: Any = network()
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (oc.InputError, "network: expected a torch Module, got list", lambda: Trainer([net], squares)),  # type: ignore[arg-type]
        (oc.InputError, "network: expected trainable parameters", lambda: Trainer(nn.Sequential(nn.Tanh()), squares)),
        (oc.InputError, "loss: expected a callable", lambda: Trainer(net, 3)),  # type: ignore[arg-type]
        (oc.InputError, "weight_decay: expected a number ≥ 0", lambda: Trainer(net, squares, weight_decay=-1.0)),
        (oc.UnsupportedError, "a sweep solver or a torch", lambda: Trainer(net, squares, oc.DirectShooting())),  # type: ignore[arg-type]
        (
            oc.UnsupportedError,
            "one gradient per step",
            lambda: Trainer(net, squares, torch.optim.LBFGS(net.parameters())),
        ),
        (
            oc.InputError,
            "optimizer: expected parameters of the network, got 4 that are not among them",
            lambda: Trainer(net, squares, torch.optim.SGD(network().parameters())),
        ),
    ]
    for error, message, build in cases:
        with pytest.raises(error) as caught:
            build()
        assert message in str(caught.value)


# ---------------------------------------------------------------------- logs


def test_logs(tmp_path: Path) -> None:
    """A line per step, on disk as soon as the callback hears of it; what is not finite is null in JSON."""
    lines: list[int] = []
    file = tmp_path / "run.csv"
    history = trainer().fit(
        batches(), 2, log=file, callback=lambda record: lines.append(len(file.read_text().splitlines()))
    )
    assert lines == [2, 3, 4, 5, 6, 7]
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["loss"]) for row in rows] == [r.loss for r in history.steps]
    assert [int(row["accepted"]) for row in rows] == [int(r.accepted) for r in history.steps]
    history = trainer("Adam").fit(batches(), log=tmp_path / "run.jsonl")
    parsed = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in parsed] == [r.loss for r in history.steps]
    assert parsed[0]["rho"] is None
    assert parsed[0]["accepted"] is True


def test_tensorboard_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message has the command that installs it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(oc.UnsupportedError, match="pip install tensorboard"):
        trainer().fit(batches(), tensorboard=tmp_path)


def test_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scalars of steps and evaluations reach the writer; on resume it hides what is repeated."""
    calls: list[tuple[str, int]] = []
    opened: list[int] = []
    closed: list[bool] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            opened.append(purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert math.isfinite(value)
            calls.append((name, step))

        def close(self) -> None:
            closed.append(True)

    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    file = tmp_path / "run.pt"
    trainer().fit(batches(), tensorboard=tmp_path, test_loader=batches(), checkpoint=file)
    assert {("train/loss", 3), ("train/rho", 1), ("test/loss", 3)} <= set(calls)
    assert all("accuracy" not in name for name, _ in calls)
    trainer().fit(batches(), 2, tensorboard=tmp_path, checkpoint=file, resume=True)
    assert (opened, closed) == ([1, 4], [True, True])


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar counts all steps and shows loss and ρ."""
    trainer().fit(batches(), 2, progress=True)
    shown = capsys.readouterr().err
    assert "EMSA: 100%" in shown
    assert "6/6" in shown
    assert "loss=" in shown
    assert "rho=" in shown


def test_history_round_trip() -> None:
    """Packed as plain tensors and back, types included; an empty one too."""
    history = trainer().fit(batches(), test_loader=batches())
    again = TrainingHistory.unpack(history.pack())
    assert repr(again.steps) == repr(history.steps)
    assert repr(again.evaluations) == repr(history.evaluations)
    assert again.seconds == history.seconds
    assert TrainingHistory.unpack(TrainingHistory().pack()).steps == []
