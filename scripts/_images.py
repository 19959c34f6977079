"""The residual CNN of section 5 of the paper, the images it learns, and one training run that can be resumed.

It knows no study, no figure and no claim.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ocsolver as oc
from scripts import fetch_data
from scripts._records import write_json
from scripts._training import OPTIMIZERS

__all__ = ["ADAPTIVE", "BASELINES", "METHODS", "SUCCESSIVE", "Data", "Job", "Size", "load_data", "network", "train"]

SUCCESSIVE = "E-MSA"
BASELINES = ("SGD", "Adagrad", "Adam")
METHODS = (SUCCESSIVE, *BASELINES)
ADAPTIVE = 0.0  # stands for the library's adaptive penalty among the values of ρ
VALIDATION = 5000  # images kept for tuning: the first ones of the training file
WINDOWS = 55  # of an epoch, over which its training loss is averaged


@dataclass(frozen=True)
class Size:
    """Size of network and mini-batches; the defaults are the paper's."""

    image: int = 28
    channels: int = 32
    depth: int = 7
    step: float = 0.5
    batch: int = 100


class Data(NamedTuple):
    """Images (B, 1, side, side) in [0, 1] with their classes (B,)."""

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset


def load_data(name: str) -> Data:
    """Images of ``"mnist"`` and ``"fashion"`` from the cache folder, or the ``"digits"`` that scikit-learn ships."""
    if name == "digits":
        from sklearn.datasets import load_digits

        images, classes = load_digits(return_X_y=True)
        x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
        y = torch.as_tensor(classes)
        return Data(*(TensorDataset(x[part], y[part]) for part in (slice(1200), slice(1200, 1400), slice(1400, None))))
    stored = fetch_data.load("mnist" if name == "mnist" else "fashion")
    train_x, test_x = (x[:, None].float() / 255.0 for x in (stored.train_x, stored.test_x))
    return Data(
        TensorDataset(train_x[VALIDATION:], stored.train_y[VALIDATION:]),
        TensorDataset(train_x[:VALIDATION], stored.train_y[:VALIDATION]),
        TensorDataset(test_x, stored.test_y),
    )


def network(size: Size, seed: int) -> oc.nn.ResidualNetwork:
    """Two projections, the residual layers x + δ tanh(W ⋆ x + b), and a fully connected layer.

    The tanh follows the pooling: it is monotone, so this is the same function, at a quarter of the cost.
    """
    torch.manual_seed(seed)
    c = size.channels

    def projection(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, c, 3, padding=1), nn.MaxPool2d(2), nn.Tanh())

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.Tanh())

    head = nn.Sequential(nn.Flatten(), nn.Linear(c * (size.image // 4) ** 2, 10))
    return oc.nn.ResidualNetwork(block, size.depth, size.step, lift=[projection(1), projection(c)], head=head)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of each sample: (B, 10), (B,) -> (B,)."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def solver_for(method: str, value: float, net: nn.Module) -> Any:
    """E-MSA as in the paper, with 10 iterations of L-BFGS per layer, or an optimizer with its default options."""
    if method == SUCCESSIVE:
        rho = oc.AdaptivePenalty() if value == ADAPTIVE else value
        return oc.EMSA(oc.LBFGS(iterations=10), rho=rho, accelerate=False)
    return OPTIMIZERS[method](net.parameters(), lr=value)  # type: ignore[call-arg]  # every optimizer takes lr


@dataclass(frozen=True)
class Job:
    """One training run."""

    data: str
    method: str
    value: float  # ρ or the step size
    seed: int
    steps: int
    tuning: bool  # evaluated on the validation images instead of the test images

    @property
    def name(self) -> str:
        """Name of its files."""
        purpose = "tuning" if self.tuning else "final"
        return f"{self.data}-{purpose}-{self.method}-{self.value:g}-seed{self.seed}-{self.steps}"


def train(
    job: Job, size: Size, data: Data, evaluate_at: set[int], folder: Path, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Run a job, or what is left of it, and return its record; `tell` hears the number of every step.

    The folder gets a checkpoint and, at the same steps, the record of the part that is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record_file, checkpoint = folder / f"{job.name}.json", folder / f"{job.name}.pt"
    if record_file.exists():
        record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
        if record["complete"]:
            return record
    net = network(size, job.seed)
    generator = torch.Generator().manual_seed(job.seed)
    loader = DataLoader(data.train, batch_size=size.batch, shuffle=True, drop_last=True, generator=generator)
    tests = DataLoader(data.validation if job.tuning else data.test, batch_size=500)
    trainer = oc.nn.Trainer(net, cross_entropy, solver_for(job.method, job.value, net))
    per_epoch = len(loader)
    epochs = -(-job.steps // per_epoch)
    every = max(1, per_epoch // 11)

    def watch(step: oc.nn.StepRecord) -> bool:
        tell(step.step)
        if step.step % every == 0:
            write_json(record_file, record_of(job, trainer.history, per_epoch, complete=False))
        return step.step >= job.steps

    trainer.fit(
        loader,
        epochs,
        test_loader=tests,
        evaluate_at=evaluate_at,
        callback=watch,
        checkpoint=checkpoint,
        checkpoint_every=every,
        resume=True,
    )
    failed = trainer.history.status is oc.Status.NONFINITE
    complete = failed or any(evaluation.step == job.steps for evaluation in trainer.history.evaluations)
    record = record_of(job, trainer.history, per_epoch, complete=complete)
    write_json(record_file, record)
    if complete:
        checkpoint.unlink(missing_ok=True)
    return record


def record_of(job: Job, history: oc.nn.TrainingHistory, per_epoch: int, *, complete: bool) -> dict[str, Any]:
    """What a picture needs of a run, as plain data."""
    # a run killed between its last checkpoint and its record takes a step too many when it is resumed
    steps = history.steps[: job.steps]
    evaluations = [evaluation for evaluation in history.evaluations if evaluation.step <= job.steps]
    width = max(1, per_epoch // WINDOWS)
    windows = [steps[k : k + width] for k in range(0, len(steps), width)]
    return vars(job) | {
        "complete": complete,
        "status": history.status.name,
        "per_epoch": per_epoch,
        "seconds": history.seconds,
        "propagation_seconds": sum(step.propagation_seconds for step in steps),
        "maximization_seconds": sum(step.maximization_seconds for step in steps),
        "accepted": sum(step.accepted for step in steps),
        "train": {
            "step": [part[-1].step for part in windows],
            "loss": [mean([step.loss for step in part]) for part in windows],
            "accuracy": [mean([step.accuracy for step in part]) for part in windows],
            "rho": [part[-1].rho for part in windows],
        },
        "test": {
            name: [getattr(evaluation, name) for evaluation in evaluations]
            for name in ("step", "seconds", "loss", "accuracy")
        },
    }


def mean(values: list[float]) -> float:
    """Mean of at least one number."""
    return sum(values) / len(values)
