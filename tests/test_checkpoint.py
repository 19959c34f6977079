"""Checkpoints: a killed and resumed run equals one that was not, to the bit; unusable files change nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ocsolver as oc
from ocsolver.nn.checkpoint import Checkpoint, capture_random, keep_random, restore_random
from ocsolver.nn.records import TrainingHistory
from ocsolver.nn.trainer import Trainer

BATCHES, EPOCHS = 3, 2


class Killed(BaseException):
    """What ends a run like a kill does: nothing in the library catches it for good."""


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error per sample."""
    return (outputs - targets).square().sum(-1)


def network(width: int = 4) -> nn.Sequential:
    """Small network with random masks, the same weights at each call."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Dropout(0.25), nn.Linear(width, 1))


def data() -> TensorDataset:
    """Eleven samples, so that the last batch is smaller."""
    x = torch.linspace(-1.0, 1.0, 22).reshape(11, 2)
    return TensorDataset(x, x[:, :1] * x[:, 1:])


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Data augmented with numbers from all three global generators."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()[index]
        noise = 0.01 * (random.random() + float(np.random.rand()))  # noqa: NPY002 (the global state is the subject)
        return x + noise + 0.01 * torch.rand(2), y


def seed_all(seed: int) -> None:
    """Seed the three global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def own_generator() -> DataLoader[Any]:
    """Shuffled by a generator of its own."""
    return DataLoader(data(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))


def global_generator() -> DataLoader[Any]:
    """Shuffled by torch's default generator, augmented by all."""
    return DataLoader(Noisy(), batch_size=4, shuffle=True)


def replacing() -> DataLoader[Any]:
    """A sampler that draws from its generator during the epoch."""
    generator = torch.Generator().manual_seed(5)
    sampler = torch.utils.data.RandomSampler(data(), replacement=True, num_samples=11, generator=generator)
    return DataLoader(data(), batch_size=4, sampler=sampler)


SOLVERS: dict[str, Callable[[nn.Module], Any]] = {
    "EMSA": lambda net: oc.EMSA(),
    "EMSA with averages": lambda net: oc.EMSA(oc.GaussNewton()),
    "GradientDescent": lambda net: oc.GradientDescent(0.1),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=1e-2),
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9),
}


def train(
    solver: str, loader: DataLoader[Any], seed: int = 0, epochs: int = EPOCHS, **options: Any
) -> tuple[nn.Module, TrainingHistory]:
    """One run from a seed."""
    net = network()
    seed_all(seed)
    return net, Trainer(net, squares, SOLVERS[solver](net)).fit(
        loader, epochs, test_loader=own_generator(), evaluate_at=(0, 2, BATCHES), **options
    )


def essence(history: TrainingHistory) -> list[Any]:
    """Everything recorded but seconds, comparable although NaN is not equal to itself."""
    rows = [*history.steps, *history.epochs, *history.evaluations]
    return [repr({name: row[name] for name in row.keys() if "seconds" not in name}) for row in rows]  # noqa: SIM118


def assert_same(first: tuple[nn.Module, TrainingHistory], second: tuple[nn.Module, TrainingHistory]) -> None:
    """Weights and records are equal to the bit."""
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name
    assert essence(first[1]) == essence(second[1])


def killer(step: int) -> Callable[[Any], None]:
    """Callback that kills the run after a step."""

    def kill(record: Any) -> None:
        if record.step == step:
            raise Killed

    return kill


@pytest.mark.parametrize("make", [own_generator, global_generator, replacing])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_killed_run_resumes_exactly(solver: str, make: Callable[[], DataLoader[Any]], tmp_path: Path) -> None:
    """Killed at any step, resumed in new objects with other seeds: the same bits as without a kill."""
    whole = train(solver, make())
    for step in range(1, BATCHES * EPOCHS + 1):
        file = tmp_path / f"{step}.pt"
        with pytest.raises(Killed):
            train(solver, make(), callback=killer(step), checkpoint=file, checkpoint_every=1)
        assert_same(whole, train(solver, make(), seed=99, checkpoint=file, resume=True))


def test_checkpoints_do_not_change_the_run(tmp_path: Path) -> None:
    """With and without checkpoints, evaluations and logs: the same weights."""
    whole = train("EMSA", global_generator(), checkpoint=tmp_path / "a.pt", checkpoint_every=1, log=tmp_path / "a.csv")
    net = network()
    seed_all(0)
    Trainer(net, squares).fit(global_generator(), EPOCHS)
    for name, value in net.state_dict().items():
        assert torch.equal(value, whole[0].state_dict()[name])


@pytest.mark.parametrize("every", [None, 2, 4])
def test_seldom_checkpoints_repeat_steps(every: int | None, tmp_path: Path) -> None:
    """Steps after the last checkpoint are done once more, and logged once."""
    whole = train("EMSA", own_generator(), log=tmp_path / "whole.csv")
    file, log = tmp_path / "run.pt", tmp_path / "run.csv"
    with pytest.raises(Killed):
        train("EMSA", own_generator(), callback=killer(5), checkpoint=file, checkpoint_every=every, log=log)
    resumed = train("EMSA", own_generator(), seed=8, checkpoint=file, resume=True, log=log)
    assert_same(whole, resumed)
    untimed = [
        [line.rsplit(",", 2)[0] for line in path.read_text().splitlines()] for path in (log, tmp_path / "whole.csv")
    ]
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 1 + BATCHES * EPOCHS


def test_killed_process_resumes_exactly(tmp_path: Path) -> None:
    """SIGKILL from outside, between and within writes."""
    script = """
        import sys, time, torch
        sys.path.insert(0, sys.argv[2])
        from test_checkpoint import EPOCHS, own_generator, train
        train("EMSA", own_generator(), epochs=500, checkpoint=sys.argv[1], checkpoint_every=1,
              callback=lambda record: print(record.step, flush=True))
    """
    file = tmp_path / "run.pt"
    command = [sys.executable, "-c", textwrap.dedent(script), str(file), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stdout is not None
        while int(run.stdout.readline() or "99") < 7:
            pass
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=20)
    done = len(Checkpoint.read(file, network(), "EMSA").history.steps)
    assert 6 <= done < 500 * BATCHES
    epochs = done // BATCHES + 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train("EMSA", own_generator(), epochs=epochs)
        assert_same(whole, train("EMSA", own_generator(), seed=4, epochs=epochs, checkpoint=file, resume=True))
    finally:
        torch.set_num_threads(threads)


def test_interrupt_within_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C while weights are half changed: the last whole step is kept, written, and resumed exactly."""
    whole = train("SGD", own_generator())
    file = tmp_path / "run.pt"
    original, calls = torch.optim.SGD.step, []

    def torn(self: torch.optim.SGD, closure: Any = None) -> Any:
        calls.append(1)
        result = original(self, closure)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", torn)
    net, history = train("SGD", own_generator(), checkpoint=file)
    monkeypatch.undo()
    assert history.status is oc.Status.INTERRUPTED
    assert len(history.steps) == 4
    stored = Checkpoint.read(file, net, "SGD")
    assert all(torch.equal(value, stored.network[name]) for name, value in net.state_dict().items())
    resumed = train("SGD", own_generator(), seed=6, checkpoint=file, resume=True)
    assert resumed[1].status is oc.Status.COMPLETED
    assert_same(whole, resumed)


def test_stopped_and_finished_runs_resume(tmp_path: Path) -> None:
    """A run stopped by its callback goes on; a finished one is returned as it is, or goes on to more epochs."""
    whole, file = train("Adam", own_generator()), tmp_path / "run.pt"
    _, history = train("Adam", own_generator(), callback=lambda record: record.step == 3, checkpoint=file)
    assert history.status is oc.Status.STOPPED
    assert history.epochs == []
    assert_same(whole, train("Adam", own_generator(), seed=1, checkpoint=file, resume=True))
    assert_same(whole, train("Adam", own_generator(), seed=2, checkpoint=file, resume=True))
    longer = train("Adam", own_generator(), epochs=EPOCHS + 1)
    assert_same(longer, train("Adam", own_generator(), seed=2, epochs=EPOCHS + 1, checkpoint=file, resume=True))


def test_resume_without_a_file_starts_afresh(tmp_path: Path) -> None:
    """So a job can be started by the same command each time."""
    whole = train("EMSA", own_generator())
    assert_same(whole, train("EMSA", own_generator(), checkpoint=tmp_path / "new.pt", resume=True))


# ---------------------------------------------------------------------- files


def written(path: Path, solver: str = "EMSA") -> Path:
    """Checkpoint of a short run."""
    train(solver, own_generator(), epochs=1, checkpoint=path)
    return path


@pytest.mark.parametrize("where", ["torch.save", "os.replace", "os.fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), Killed()])
def test_interrupted_write_keeps_the_old_file(
    where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The old checkpoint stays valid, nothing is left beside it, and the network keeps its last step."""
    file = written(tmp_path / "run.pt")
    before = file.read_bytes()

    def broken(content: Any, target: Any = None) -> None:
        if where == "torch.save":
            target.write(b"half")
        raise error

    monkeypatch.setattr(where, broken)
    net = network()
    with pytest.raises(type(error)):
        Trainer(net, squares).fit(own_generator(), 2, checkpoint=file, resume=True)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    assert all(bool(torch.isfinite(value).all()) for value in net.parameters())


def refused(file: Path, net: nn.Module, solver: Any = None) -> str:
    """Text of the refusal; the network and its optimizer stay as they are."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(oc.InputError) as caught:
        Trainer(net, squares, solver).fit(own_generator(), 2, checkpoint=file, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return str(caught.value)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    """Truncated files, other people's files and other formats are refused."""
    file = written(tmp_path / "run.pt")
    content = file.read_bytes()
    for part in (content[:-100], content[: len(content) // 2], b"", b"text"):
        file.write_bytes(part)
        assert "The file is damaged or not one of ours." in refused(file, network())
    torch.save(network().state_dict(), file)
    assert "expected an ocsolver training checkpoint" in refused(file, network())
    torch.save(network(), file)  # a pickled module: nothing in it is executed
    assert "expected an ocsolver training checkpoint" in refused(file, network())
    file.write_bytes(content)
    plain = torch.load(file, weights_only=True)
    torch.save(plain | {"format": 7}, file)
    assert "expected format 1, got format 7" in refused(file, network())
    torch.save({name: value for name, value in plain.items() if name != "position"}, file)
    assert "expected a complete" in refused(file, network())


def test_other_networks_and_solvers(tmp_path: Path) -> None:
    """The message names what differs."""
    file = written(tmp_path / "run.pt")
    assert "0.weight: (5, 2) float32" in refused(file, network(width=5))
    assert "0.weight: (4, 2) float32" in refused(file, network(width=5))
    assert "0.weight: (4, 2) float64" in refused(file, network().double())
    deeper = nn.Sequential(*network(), nn.Linear(1, 1))
    assert "4.weight: (1, 1) float32, 4.bias: (1,) float32, got 4.weight: none, 4.bias: none" in refused(file, deeper)
    assert "expected a checkpoint of MSA, got one of EMSA" in refused(file, network(), oc.MSA())


def test_other_optimizer_groups(tmp_path: Path) -> None:
    """An optimizer over other parameters is refused before the network is touched."""
    file = written(tmp_path / "run.pt", "Adam")
    net = network()
    optimizer = torch.optim.Adam(list(net.parameters())[:2])
    assert "expected the memory of Adam" in refused(file, net, optimizer)
    assert "expected a checkpoint of SGD, got one of Adam" in refused(file, net, torch.optim.SGD(net.parameters()))


def test_shorter_data_on_resume(tmp_path: Path) -> None:
    """A loader that no longer reaches the place where the run stood is refused."""
    file = tmp_path / "run.pt"
    with pytest.raises(Killed):
        train("EMSA", own_generator(), callback=killer(3), checkpoint=file, checkpoint_every=2)
    short = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4, 1)), batch_size=4)
    with pytest.raises(oc.InputError, match=r"loader: expected more than 2 batches, got 1\."):
        Trainer(network(), squares).fit(short, 2, checkpoint=file, resume=True)


def test_checkpoint_is_plain_data(tmp_path: Path) -> None:
    """Read without pickle; history and random states survive."""
    file = tmp_path / "run.pt"
    net, history = train("EMSA", own_generator(), epochs=1, checkpoint=file)
    stored = Checkpoint.read(file, net, "EMSA")
    assert essence(stored.history) == essence(history)
    assert [type(value) for value in astuple(stored.history.steps[0])] == [
        type(value) for value in astuple(history.steps[0])
    ]
    assert (stored.position.epoch, stored.position.batch) == (2, 0)
    assert "AdaptivePenalty" in stored.settings
    assert stored.memory["rho"].shape == (1,)


def test_random_states_come_back() -> None:
    """All generators draw the same numbers again, and `keep_random` hides what was drawn inside."""
    loader = own_generator()

    def draw() -> list[float]:
        return [
            float(torch.rand(())),
            float(np.random.rand()),  # noqa: NPY002
            random.random(),
            float(torch.rand((), generator=loader.generator)),
        ]

    seed_all(7)
    states = capture_random([loader])
    first = draw()
    restore_random(states, [loader])
    assert draw() == first
    restore_random(states, [loader])
    with keep_random([loader]):
        assert draw() == first
    assert draw() == first


def test_snapshots_are_cheap() -> None:
    """The random states of a step cost next to nothing."""
    begin = time.perf_counter()
    for _ in range(100):
        capture_random([own_generator()])
    assert time.perf_counter() - begin < 0.5
