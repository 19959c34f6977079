"""The tasks of the race: networks, data and thresholds. It knows no method and no clock."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import ocsolver as oc
from scripts import _images, _sine

__all__ = ["Batches", "Case", "Task", "all_tasks", "evaluate"]

Pair = tuple[Tensor, Tensor]  # inputs (B, …), targets (B, …)
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "sin": torch.sin,
    "cos2": lambda x: torch.cos(2.0 * x),
    "abs": torch.abs,
    "step": lambda x: torch.tanh(3.0 * x),
}
TUNING_SEED = 1000  # start and batches of the tuning runs; no measured run has it


@dataclass(frozen=True)
class Case:
    """One seed of a task: the start, the data and the order of the batches, the same for every method."""

    network: nn.Module  # never trained itself
    loss: Callable[[Tensor, Tensor], Tensor]  # one value per sample
    train: Pair
    test: Pair
    batch: int | None  # None is the full batch
    seed: int

    def build(self) -> nn.Module:
        """Fresh copy of the start."""
        return copy.deepcopy(self.network).train()

    def loader(self) -> Batches:
        """Mini-batches in the order of the seed."""
        assert self.batch is not None
        return Batches(self.train, self.batch, self.seed)


class Batches:
    """Mini-batches of tensors in memory, shuffled anew for each epoch by a generator of their own."""

    def __init__(self, data: Pair, size: int, seed: int) -> None:
        self.data, self.size = data, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.data[0]) // self.size

    def __iter__(self) -> Iterator[Pair]:
        x, y = self.data
        order = torch.randperm(len(x), generator=self.generator)
        for k in range(len(self)):
            chosen = order[k * self.size : (k + 1) * self.size]
            yield x[chosen], y[chosen]


@dataclass(frozen=True)
class Task:
    """What is learned, and when it is learned."""

    name: str
    make: Callable[[int, bool], Case]  # seed and whether the test part is the one for tuning
    measure: str  # "loss" of the full batch, or "accuracy" on the test samples
    thresholds: tuple[float, ...]
    limit: int  # steps of a measured run
    tuning_limit: int
    hold: int = 1
    leave_early: bool = True
    seconds: float = math.inf  # of a run's own clock
    target_step: int | None = None  # the best baseline's accuracy after these steps is one more threshold
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def sparse(self) -> bool:
        """Whether runs are evaluated at some steps only, because evaluation costs something."""
        return self.measure == "accuracy"

    def due(self, step: int) -> bool:
        """Whether a measured run is evaluated after a step."""
        if not self.sparse:
            return True
        every = next((gap for last, gap in ((100, 5), (300, 20), (1000, 50)) if step <= last), 110)
        return step % every == 0

    def due_in_tuning(self, step: int) -> bool:
        """Whether a tuning run is evaluated after a step."""
        return not self.sparse or step % max(1, min(25, self.tuning_limit // 4)) == 0


def evaluate(network: nn.Module, case: Case) -> tuple[float, float]:
    """Mean loss and accuracy on the test samples, in evaluation mode and without gradients."""
    x, y = case.test
    loss = correct = 0.0
    quick: Any = copy.deepcopy(network).eval()
    if x.ndim == 4:  # this order and small parts are three times faster
        quick, x = quick.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for inputs, targets in zip(torch.split(x, 100), torch.split(y, 100), strict=True):
            outputs = quick(inputs)
            loss += float(case.loss(outputs, targets).sum())
            correct += int((outputs.argmax(-1) == targets).sum())
    return loss / len(x), correct / len(x)


# ------------------------------------------------------------------------------------------------------- sine network


class Copies(nn.Module):
    """Five identical components: (B, 1) -> (B, 5)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, _sine.WIDTH)


class Total(nn.Module):
    """Sum of the components: (B, 5) -> (B,)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each sample."""
    return (outputs - targets).square()


def sine_case(start: str, target: str, count: int, seed: int, tuning: bool) -> Case:
    """Network, samples and start of `scripts/_sine.py` as an ordinary network in single precision."""
    drawn = _sine.make_case(seed, count)
    step = _sine.HORIZON / _sine.LAYERS
    width = _sine.WIDTH
    network = oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(width, width), nn.Tanh()), _sine.LAYERS, step, lift=Copies(), head=Total()
    )
    for layer, row in zip(network.layers, drawn.starts[start][:, 0].float(), strict=True):
        nn.utils.vector_to_parameters(row, layer.parameters())  # W row by row, then b, as there
    x = drawn.train.x.float().unsqueeze(-1)
    data = x, TARGETS[target](x[:, 0])
    return Case(network, squared_error, data, data, None, seed)


# ------------------------------------------------------------------------------------------------------- images


@lru_cache(maxsize=1)
def images(name: str) -> _images.Data:
    """Images, read once."""
    return _images.load_data(name)


def image_case(data: str, size: _images.Size, seed: int, tuning: bool) -> Case:
    """The residual CNN of section 5 of the paper."""

    def tensors(part: TensorDataset) -> Pair:
        x, y = part.tensors
        return x, y

    parts = images(data)
    test = tensors(parts.validation if tuning else parts.test)
    return Case(_images.network(size, seed), _images.cross_entropy, tensors(parts.train), test, size.batch, seed)


# ------------------------------------------------------------------------------------------------------- digits


def digits_case(depth: int, seed: int, tuning: bool) -> Case:
    """Residual network of 64 units per layer on the 8×8 digits of scikit-learn, in a stratified split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.as_tensor(pixels / 16.0, dtype=torch.float32), torch.as_tensor(classes)
    rest, test = train_test_split(range(len(y)), test_size=0.2, stratify=classes, random_state=0)
    train, validation = train_test_split(rest, test_size=0.15, stratify=classes[rest], random_state=0)
    torch.manual_seed(seed)
    network = oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh()), depth, 0.1, head=nn.Linear(64, 10)
    )
    held_out = validation if tuning else test
    return Case(network, _images.cross_entropy, (x[train], y[train]), (x[held_out], y[held_out]), 32, seed)


# ------------------------------------------------------------------------------------------------------- all of them

LOSSES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)
ACCURACIES = {"mnist": (0.95, 0.97, 0.985), "fashion": (0.80, 0.86, 0.89)}
DIGITS_BATCHES = 38  # in an epoch of 1221 samples


def all_tasks(*, quick: bool, epochs: int | None, seconds: float) -> dict[str, Task]:
    """Tasks by name.

    Parameters
    ----------
    quick : bool
        Short versions that show that the machinery works.
    epochs : int, optional
        Passes over the data, where there are mini-batches.
    seconds : float
        Limit of every run's own clock on the full-batch tasks.

    Returns
    -------
    dict of str to Task
        The sine network from both starts with four targets, two sets of images, and the digits.
    """
    tasks = []
    for start in ("good", "noise"):
        for target in TARGETS:
            make = partial(sine_case, start, target, 50 if quick else 1000)
            facts: dict[str, object] = {"start": _sine.STARTS[start], "target": target}
            name = f"sine-{start}-{target}"
            tasks.append(Task(name, make, "loss", LOSSES, 20000, 1000, seconds=seconds, facts=facts))
    for data, thresholds in ACCURACIES.items():
        task = Task(data, partial(image_case, data, _images.Size()), "accuracy", thresholds, 0, 550, hold=2)
        tasks.append(replace(task, limit=550 * (epochs or 5), facts={"data": data, "batch": 100}))
    digits = Task("digits", partial(digits_case, 50), "accuracy", (0.90, 0.95), 0, 5 * DIGITS_BATCHES, hold=2)
    facts = {"data": "digits", "batch": 32, "layers": 50, "width": 64, "step": 0.1}
    limit, target_step = DIGITS_BATCHES * (epochs or 10), DIGITS_BATCHES * 5
    tasks.append(replace(digits, limit=limit, leave_early=False, target_step=target_step, facts=facts))
    return {task.name: shortened(task) if quick else task for task in tasks}


def shortened(task: Task) -> Task:
    """Version of a task for a quick run: seconds instead of hours."""
    if task.measure == "loss":
        return replace(task, thresholds=(1.0, 0.3), limit=40, tuning_limit=10)
    if task.name == "digits":
        return replace(task, make=partial(digits_case, 4), limit=30, tuning_limit=8, target_step=20)
    size = _images.Size(image=8, channels=4, depth=2, batch=100)
    make = partial(image_case, "digits", size)
    return replace(task, make=make, thresholds=(0.15, 0.3), limit=30, tuning_limit=8, facts={"data": "digits"})
