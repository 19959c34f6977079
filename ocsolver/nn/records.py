"""What a training run leaves behind: records of plain numbers and the writers of its logs; it knows no network."""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_type_hints

import torch
from torch import Tensor

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.status import Status

__all__ = [
    "EpochRecord",
    "Evaluation",
    "EvaluationRecord",
    "StepLog",
    "StepRecord",
    "TensorBoardLog",
    "TrainingHistory",
]


class _Record:
    """Reading a record by name, so that ``dict(record)`` and ``record["loss"]`` work."""

    def keys(self) -> list[str]:
        """Names of the entries."""
        return _names(type(self))

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


@dataclass(frozen=True)
class StepRecord(_Record):
    """One training step; loss and accuracy are those of its mini-batch before the step.

    Attributes
    ----------
    step, epoch, batch : int
        Counted from 1: in this run, epochs, and batches of the epoch.
    loss, accuracy : float
        Means over the mini-batch, without weight decay; accuracy is NaN unless the task is a classification.
    accepted : bool
        Whether the weights were changed.
    rho, hamiltonian_gain, state_error, costate_error : float
        Penalty, ∫ΔH and the errors ∫‖Δf‖² and ∫‖Δ∇ₓH‖² of the step that was tried; NaN for torch optimizers and for a
        batch whose loss is not finite.
    propagation_seconds, maximization_seconds : float
        Forward and backward sweeps; maximization of H or the optimizer's step.
    """

    step: int
    epoch: int
    batch: int
    loss: float
    accuracy: float
    accepted: bool
    rho: float
    hamiltonian_gain: float
    state_error: float
    costate_error: float
    propagation_seconds: float
    maximization_seconds: float


@dataclass(frozen=True)
class EpochRecord(_Record):
    """One pass over the data.

    Attributes
    ----------
    epoch, steps : int
        Number of the epoch, from 1, and of its steps.
    train_loss, train_accuracy : float
        Means over the epoch's samples, each before the step that used it; batches without a finite loss are left out.
    test_loss, test_accuracy : float
        On the test data at the epoch's end; NaN without test data.
    seconds : float
        Fetching batches and stepping; evaluation, logs, callback and checkpoints are not counted.
    """

    epoch: int
    steps: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class EvaluationRecord(_Record):
    """One evaluation on the test data.

    Attributes
    ----------
    step : int
        Steps done, 0 before training.
    epoch : float
        Epochs done; a fraction within an epoch where the loader has a length, else the finished ones.
    seconds : float
        Training so far, counted as in `EpochRecord`.
    loss, accuracy : float
        Means over the test samples.
    """

    step: int
    epoch: float
    seconds: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation(_Record):
    """Loss and accuracy on a data set, means over its samples.

    Attributes
    ----------
    loss : float
        Mean loss, without weight decay.
    accuracy : float
        Share of correct classes; NaN unless outputs are (B, C) and targets are integers (B,).
    samples : int
        Number of samples.
    """

    loss: float
    accuracy: float
    samples: int


@dataclass
class TrainingHistory:
    """Everything `Trainer.fit` recorded; it grows during the run.

    Attributes
    ----------
    steps, epochs, evaluations : list
        Of StepRecord, EpochRecord and EvaluationRecord, in order.
    status : Status
        COMPLETED, STOPPED (the callback asked for it), INTERRUPTED (Ctrl-C), NONFINITE (an epoch in which no batch had
        a finite loss and a finite trial step), or RUNNING.
    seconds : float
        Training so far, without evaluation, logs, callback and checkpoints.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.nn.TrainingHistory().status.name
    'RUNNING'
    """

    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    status: Status = Status.RUNNING
    seconds: float = 0.0

    def pack(self) -> dict[str, Any]:
        """Plain tensors and numbers for a checkpoint; the status is that of a run that goes on."""
        tables: dict[str, list[Any]] = {"steps": self.steps, "epochs": self.epochs, "evaluations": self.evaluations}
        return {"seconds": self.seconds} | {name: _table(rows) for name, rows in tables.items()}

    @classmethod
    def unpack(cls, plain: dict[str, Any]) -> TrainingHistory:
        """History from what `pack` returned."""
        return cls(
            steps=_rows(StepRecord, plain["steps"]),
            epochs=_rows(EpochRecord, plain["epochs"]),
            evaluations=_rows(EvaluationRecord, plain["evaluations"]),
            seconds=float(plain["seconds"]),
        )


def _names(kind: Any) -> list[str]:
    """Field names of a record class."""
    return [f.name for f in fields(kind)]


def _table(records: Iterable[Any]) -> Tensor:
    """Records as rows of float64, which holds flags and counts exactly."""
    rows = [[float(record[name]) for name in record.keys()] for record in records]  # noqa: SIM118 (not a dict)
    return torch.tensor(rows, dtype=torch.float64)


R = TypeVar("R", bound=_Record)


def _rows(kind: type[R], table: Tensor) -> list[R]:
    """Inverse of `_table`."""
    types = get_type_hints(kind)
    casts = [types[name] for name in _names(kind)]
    return [kind(*(cast(value) for cast, value in zip(casts, row, strict=True))) for row in table.tolist()]


class StepLog:
    """A file with one line per step, CSV or JSON Lines after its ending, complete up to the last step at any time.

    The file is written anew from the steps that are already known, so a resumed run neither repeats nor loses a line.
    In JSON, which has no NaN, a number that is not finite is null.

    Parameters
    ----------
    path : path-like
        Ends in ``.csv`` or ``.jsonl``.
    known : iterable of StepRecord
        Steps done before, by the run that a checkpoint resumes.

    Raises
    ------
    InputError
        For another ending.
    """

    def __init__(self, path: str | Path, known: Iterable[StepRecord] = ()) -> None:
        target = check_log_path(path)
        self._json = target.suffix == ".jsonl"
        self._file: TextIO = target.open("w", buffering=1, newline="", encoding="utf-8")
        self._csv = csv.writer(self._file, lineterminator="\n")
        if not self._json:
            self._csv.writerow(_names(StepRecord))
        for record in known:
            self.write(record)

    def write(self, record: StepRecord) -> None:
        """Append one step."""
        entries = asdict(record)
        if self._json:
            plain = {name: value if math.isfinite(value) else None for name, value in entries.items()}
            self._file.write(json.dumps(plain) + "\n")
        else:
            self._csv.writerow(int(value) if isinstance(value, bool) else repr(value) for value in entries.values())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_log_path(path: str | Path) -> Path:
    """Path of a log; InputError unless it ends in .csv or .jsonl."""
    target = Path(path)
    if target.suffix not in (".csv", ".jsonl"):
        todo = "Let the ending choose the format."
        raise InputError(complaint("log", expected="a path ending in .csv or .jsonl", got=repr(str(path)), todo=todo))
    return target


class TensorBoardLog:
    """Scalars for TensorBoard: each step's loss, accuracy, ρ and errors, each evaluation's loss and accuracy.

    Parameters
    ----------
    folder : path-like
        Where the event files go.
    step : int
        Steps done before; later entries of an earlier run in the same folder are hidden.

    Raises
    ------
    UnsupportedError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, step: int = 0) -> None:
        try:
            board = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            todo = "Install it: pip install tensorboard; or use log= with a .csv file."
            expected = "the package tensorboard"
            raise UnsupportedError(complaint("tensorboard", expected=expected, got=str(error), todo=todo)) from error
        self._writer: Any = board.SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: StepRecord) -> None:
        """Add one step; what is not a number is left out."""
        for name in ("loss", "accuracy", "rho", "hamiltonian_gain", "state_error", "costate_error"):
            if not math.isnan(record[name]):
                self._writer.add_scalar(f"train/{name}", record[name], record.step)

    def write_evaluation(self, record: EvaluationRecord) -> None:
        """Add one evaluation."""
        for name in ("loss", "accuracy"):
            if not math.isnan(record[name]):
                self._writer.add_scalar(f"test/{name}", record[name], record.step)

    def close(self) -> None:
        """Write what is left and close the files."""
        self._writer.close()
