"""One fit: the loop over epochs and batches, and what is written on the way; it knows no solver and no loss."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ocsolver.errors import ConvergenceWarning, InputError, complaint
from ocsolver.nn.batches import as_batch, batches_of, check_loader
from ocsolver.nn.checkpoint import Checkpoint, Position, capture_random, keep_random, restore_random
from ocsolver.nn.records import (
    EpochRecord,
    Evaluation,
    EvaluationRecord,
    StepLog,
    StepRecord,
    TensorBoardLog,
    TrainingHistory,
    check_log_path,
)
from ocsolver.nn.stepper import Outcome, Snapshot, Stepper
from ocsolver.status import Status

__all__ = ["Options", "Run"]

END = object()  # what a loader that has no more batches gives
Evaluate = Callable[[Iterable[Any]], Evaluation]


@dataclass(frozen=True)
class Options:
    """Arguments of a fit, checked."""

    epochs: int
    test_loader: Iterable[Any] | None
    evaluate_at: Collection[int]
    callback: Callable[[StepRecord], Any] | None
    progress: bool
    log: str | Path | None
    tensorboard: str | Path | None
    checkpoint: str | Path | None
    checkpoint_every: int | None
    resume: bool

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("checkpoint_every", 1)):
            value = getattr(self, name)
            missing = value is None and name == "checkpoint_every"
            if not missing and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                todo = "Count passes over the data." if name == "epochs" else "Count steps, or leave it out."
                raise InputError(complaint(name, expected=f"an int ≥ {least}", got=repr(value), todo=todo))
        for name, asked in (("resume", self.resume), ("checkpoint_every", self.checkpoint_every is not None)):
            if asked and self.checkpoint is None:
                todo = "Name the file by checkpoint=."
                raise InputError(complaint(name, expected="a checkpoint to go with it", got="none", todo=todo))
        if len(self.evaluate_at) and self.test_loader is None:
            todo = "Pass the data to evaluate on."
            raise InputError(complaint("evaluate_at", expected="a test_loader to go with it", got="none", todo=todo))
        if self.log is not None:
            check_log_path(self.log)
        if self.test_loader is not None:
            check_loader(self.test_loader, "test_loader")


class Saved(NamedTuple):
    """The run after its last whole step."""

    state: Snapshot
    position: Position
    seconds: float
    lengths: tuple[int, int, int]  # of the history's lists


class Run:
    """One fit: the loop over epochs and batches, and what is written on the way."""

    def __init__(self, stepper: Stepper, loader: Iterable[Any], options: Options, evaluate: Evaluate) -> None:
        self.stepper, self.loader, self.options, self.evaluate = stepper, loader, options, evaluate
        self.generators = [loader] if options.test_loader is None else [loader, options.test_loader]
        self.length = batches_of(loader)
        self.history, self.position = TrainingHistory(), Position()
        stepper.forget_control()
        if options.resume and options.checkpoint is not None and Path(options.checkpoint).exists():
            self._resume(options.checkpoint)
        self.saved = self._save()
        done = len(self.history.steps)
        board = None if options.tensorboard is None else TensorBoardLog(options.tensorboard, done)
        lines = None if options.log is None else StepLog(options.log, self.history.steps)
        self.board, self.logs = board, [log for log in (lines, board) if log is not None]
        total = None if self.length is None else options.epochs * self.length
        self.bar = tqdm(total=total, initial=done, disable=not options.progress, desc=stepper.kind)

    def _resume(self, path: str | Path) -> None:
        network = self.stepper.network
        stored = Checkpoint.read(path, network, self.stepper.kind)
        try:
            self.stepper.unpack(stored.memory)
        except (KeyError, TypeError, ValueError) as error:
            todo = "Resume with the solver that wrote it."
            got = str(error)[:120]
            raise InputError(
                complaint(f"checkpoint {path}", expected=f"the memory of {self.stepper.kind}", got=got, todo=todo)
            ) from error
        network.load_state_dict(stored.network)
        self.history, self.position = stored.history, stored.position
        restore_random(self.position.now, self.generators)

    # ------------------------------------------------------------------ the loop

    def execute(self) -> None:
        """Run to the end; errors and Ctrl-C leave the last whole step."""
        options, history = self.options, self.history
        try:
            if not history.steps:
                self._write_checkpoint()  # a run that is killed early is repeated from the same random states
            while self.position.epoch <= options.epochs and history.status is Status.RUNNING:
                self._epoch()
            if history.status is Status.RUNNING:
                history.status = Status.COMPLETED
        except BaseException as error:
            self._roll_back()
            if not isinstance(error, KeyboardInterrupt):
                raise
            history.status = Status.INTERRUPTED
        finally:
            self.bar.close()
            for log in self.logs:
                log.close()
        if history.status in (Status.STOPPED, Status.INTERRUPTED):
            self._write_checkpoint()

    def _epoch(self) -> None:
        iterator = self._iterator()
        while True:
            self._evaluate_if_due()
            begin = time.perf_counter()
            item = next(iterator, END)
            if item is END:
                break
            inputs, targets = as_batch(item, self.stepper.network)
            outcome = self.stepper.step(inputs, targets, self.saved.state)
            self._record(outcome, len(inputs), time.perf_counter() - begin)
            if self.history.status is not Status.RUNNING:
                self._evaluate_if_due()
                return
        self._close_epoch()

    def _iterator(self) -> Iterator[Any]:
        """Batches of the epoch, from the one where the run stands."""
        done = self.position.batch
        if not done:
            self.position = replace(self.position, start=self._random())
            return iter(self.loader)
        restore_random(self.position.start, self.generators)
        iterator = iter(self.loader)
        for k in range(done):
            if next(iterator, END) is END:
                todo = "Resume with the data of the run that wrote the checkpoint."
                raise InputError(complaint("loader", expected=f"more than {done} batches", got=k, todo=todo))
        restore_random(self.position.now, self.generators)
        return iterator

    def _record(self, outcome: Outcome, samples: int, seconds: float) -> None:
        """Write down a step everywhere, and tell the callback."""
        options, history, position = self.options, self.history, self.position
        step, batch = len(history.steps) + 1, position.batch + 1
        record = StepRecord(step, position.epoch, batch, **outcome.numbers)
        history.steps.append(record)
        history.seconds += seconds
        counted = samples if math.isfinite(record.loss) else 0
        self.position = replace(
            position,
            batch=batch,
            samples=position.samples + counted,
            loss=position.loss + (counted * record.loss if counted else 0.0),
            accuracy=position.accuracy + (counted * record.accuracy if counted else 0.0),
            seconds=position.seconds + seconds,
            finite=position.finite + (not outcome.failure),
            failure=outcome.failure or position.failure,
        )
        self.saved = self._save()
        for log in self.logs:
            log.write(record)
        self.bar.set_postfix(loss=f"{record.loss:.4g}", rho=f"{record.rho:.2g}", refresh=False)
        self.bar.update()
        if options.callback is not None:
            if options.callback(record):
                history.status = Status.STOPPED
            self.saved = self._save()  # it may have drawn random numbers or changed a learning rate
        if options.checkpoint_every is not None and step % options.checkpoint_every == 0:
            self._write_checkpoint()

    def _close_epoch(self) -> None:
        position, history = self.position, self.history
        if not position.batch:
            todo = "Pass a loader that can be iterated again and has data."
            raise InputError(complaint("loader", expected="at least one batch in an epoch", got="none", todo=todo))
        test = EvaluationRecord(0, 0.0, 0.0, math.nan, math.nan)
        if self.options.test_loader is not None:
            test = self._last_evaluation() or self._evaluate(float(position.epoch))
        samples = position.samples or math.nan
        train = (position.loss / samples, position.accuracy / samples)
        history.epochs.append(
            EpochRecord(position.epoch, position.batch, *train, test.loss, test.accuracy, position.seconds)
        )
        self.position = Position(epoch=position.epoch + 1)
        self.saved = self._save()
        self._write_checkpoint()
        if self.length is not None and position.batch < self.length:
            expected, got = f"{self.length} batches in epoch {position.epoch}, as its len() says", position.batch
            todo = "Correct its length; the epoch is recorded, the weights are kept."
            raise InputError(complaint("loader", expected=expected, got=got, todo=todo))
        if not position.finite:
            history.status = Status.NONFINITE
            text = f"epoch {position.epoch} had no batch with a finite loss and a finite step: {position.failure}. "
            advice = "The weights are unchanged: check data and loss, or use EMSA or a smaller step."
            warnings.warn(text + advice, ConvergenceWarning, stacklevel=5)

    # ------------------------------------------------------------------ evaluation

    def _evaluate_if_due(self) -> None:
        step = len(self.history.steps)
        if step in self.options.evaluate_at and self._last_evaluation() is None:
            part = 0.0 if not self.length else min(self.position.batch / self.length, 1.0)
            self._evaluate(self.position.epoch - 1 + part)

    def _last_evaluation(self) -> EvaluationRecord | None:
        """The evaluation after the present step, if there was one."""
        records = self.history.evaluations
        return records[-1] if records and records[-1].step == len(self.history.steps) else None

    def _evaluate(self, epoch: float) -> EvaluationRecord:
        assert self.options.test_loader is not None
        with keep_random(self.generators):
            result = self.evaluate(self.options.test_loader)
        step = len(self.history.steps)
        record = EvaluationRecord(step, epoch, self.history.seconds, result.loss, result.accuracy)
        self.history.evaluations.append(record)
        if self.board is not None:
            self.board.write_evaluation(record)
        return record

    # ------------------------------------------------------------------ state

    def _random(self) -> dict[str, Any]:
        """Random states, where somebody will want them back."""
        return {} if self.options.checkpoint is None else capture_random(self.generators)

    def _save(self) -> Saved:
        """The present state, in a single object: an interrupt finds the old or the new one."""
        self.position = replace(self.position, now=self._random())
        history = self.history
        lengths = (len(history.steps), len(history.epochs), len(history.evaluations))
        return Saved(self.stepper.snapshot(), self.position, history.seconds, lengths)

    def _roll_back(self) -> None:
        """Go back to the last whole step."""
        saved, history = self.saved, self.history
        self.stepper.restore(saved.state)
        self.position, history.seconds = saved.position, saved.seconds
        lists: tuple[list[Any], ...] = (history.steps, history.epochs, history.evaluations)
        for records, length in zip(lists, saved.lengths, strict=True):
            del records[length:]

    def _write_checkpoint(self) -> None:
        if self.options.checkpoint is not None:
            stepper, memory, position = self.stepper, self.saved.state.memory, self.saved.position
            packed, network = stepper.pack(memory), stepper.network.state_dict()  # which holds the last whole step
            content = Checkpoint(network, stepper.kind, stepper.settings, packed, self.history, position)
            content.write(self.options.checkpoint)
