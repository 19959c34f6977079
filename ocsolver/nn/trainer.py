"""Mini-batch training with the maximum principle or a torch optimizer; it knows neither a loss nor a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ocsolver.errors import InputError, complaint
from ocsolver.nn.batches import accuracy_of, as_batch, check_loader, mode_of
from ocsolver.nn.loss import Loss, check_objective, sample_losses
from ocsolver.nn.records import Evaluation, StepRecord, TrainingHistory
from ocsolver.nn.run import Options, Run
from ocsolver.nn.stepper import stepper_for
from ocsolver.solvers import EMSA, SweepSolver

__all__ = ["Trainer"]


class Trainer:
    """Train a network in place on mini-batches, by a sweep solver or, for comparison, by a torch optimizer.

    Each mini-batch is a layered control problem; the solver takes one step on it, from weights and memory (ρ) that the
    last one left. By default the network holds an average of the weights that the solver visits; that goes on from
    the last ones. A batch whose loss is not finite, or a trial step that is not finite, is a rejected step: the weights
    stay. A network in evaluation mode is trained in training mode; in a network in training mode, parts that were
    frozen by ``eval()`` stay so.

    Parameters
    ----------
    network : ResidualNetwork or torch.nn.Sequential
        Trained in place; any Module for a torch optimizer. Its first parameter gives dtype and device of the batches.
    loss : callable
        ``loss(outputs, targets) -> (B,)``, one value per sample.
    solver : SweepSolver or torch.optim.Optimizer, optional
        None means ``EMSA()``. An optimizer, over parameters of the network, runs in the same loop as a baseline.
    weight_decay : float, default 0.0
        λ ≥ 0 of ½ λ ‖θ‖² per layer, added to the mean loss for solvers and optimizers alike.

    Attributes
    ----------
    history : TrainingHistory
        Of the last `fit`, complete up to its last step whatever ended it.

    Raises
    ------
    InputError, UnsupportedError
        For a network, loss or solver that cannot be used.

    Examples
    --------
    >>> import torch
    >>> import ocsolver as oc
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> x = torch.linspace(-1.0, 1.0, 16).reshape(8, 2)
    >>> data = torch.utils.data.TensorDataset(x, x[:, :1] * x[:, 1:])
    >>> loss = lambda outputs, targets: (outputs - targets).square().sum(-1)
    >>> trainer = oc.nn.Trainer(network, loss)
    >>> history = trainer.fit(torch.utils.data.DataLoader(data, batch_size=4), epochs=2)
    >>> len(history.steps), len(history.epochs), history.status.name
    (4, 2, 'COMPLETED')
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        solver: SweepSolver | torch.optim.Optimizer | None = None,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(network, nn.Module):
            todo = "Pass an oc.nn.ResidualNetwork or a torch.nn.Sequential."
            raise InputError(complaint("network", expected="a torch Module", got=type(network).__name__, todo=todo))
        check_objective(loss, weight_decay)
        self.network, self.loss = network, loss
        self.history = TrainingHistory()
        self._stepper = stepper_for(network, loss, EMSA() if solver is None else solver, float(weight_decay))

    def fit(
        self,
        loader: Iterable[Any],
        epochs: int = 1,
        *,
        test_loader: Iterable[Any] | None = None,
        evaluate_at: Collection[int] = (),
        callback: Callable[[StepRecord], Any] | None = None,
        progress: bool = False,
        log: str | Path | None = None,
        tensorboard: str | Path | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> TrainingHistory:
        """Train for some epochs, from the network's present weights and the solver's memory.

        Ctrl-C ends the run after the last whole step, writes the checkpoint, and returns the history.

        A run that was killed and is resumed from its checkpoint gives the same bits as one that was not, for data sets
        with an index read in this process (``num_workers=0``) on the same machine, with the same number of threads and
        versions. The states of torch's, numpy's and Python's global generators and of the loader's and its sampler's
        torch generators are part of the checkpoint; the batches of the epoch in progress are fetched once more to get
        back to its place. This cannot be exact for iterable data sets that go on differently when they are iterated
        anew, worker processes, random generators that live elsewhere (a ``numpy.random.Generator`` in a transform), a
        sampler that draws from a global generator while it runs, or what a callback remembers.

        Parameters
        ----------
        loader : iterable
            A DataLoader, a list, or anything that gives (inputs, targets) batches each time it is iterated.
        epochs : int, default 1
            Passes over the data; of a resumed run, including those already done.
        test_loader : iterable, optional
            Evaluated after each epoch, in evaluation mode, without changing the course of random numbers.
        evaluate_at : collection of int
            Steps after which it is evaluated too; 0 is before training.
        callback : callable, optional
            ``callback(record)`` after each step; True stops.
        progress : bool, default False
            Show a progress bar.
        log : path-like, optional
            File ending in ``.csv`` or ``.jsonl`` with a line per step; overwritten, or continued by a resumed run.
        tensorboard : path-like, optional
            Folder for TensorBoard, which must be installed.
        checkpoint : path-like, optional
            File that holds the state of the run: written at the start, after each epoch, and when the callback or
            Ctrl-C ends the run.
        checkpoint_every : int, optional
            Write it after that many steps, too.
        resume : bool, default False
            Go on from the checkpoint if the file exists.

        Returns
        -------
        TrainingHistory
            What happened; `Trainer.history` is the same object.

        Raises
        ------
        InputError, ShapeError
            For loaders that give something else, nothing, or fewer batches than their length says (what was computed
            is kept), and for a checkpoint that does not fit (the network is not touched).
        UnsupportedError
            If TensorBoard is asked for and not installed.

        Warns
        -----
        ConvergenceWarning
            If no batch of an epoch had a finite loss and a finite trial step; training then ends as NONFINITE.
        """
        options = Options(
            epochs, test_loader, evaluate_at, callback, progress, log, tensorboard, checkpoint, checkpoint_every, resume
        )
        check_loader(loader)
        with mode_of(self.network, training=True):
            run = Run(self._stepper, loader, options, self.evaluate)
            self.history = run.history
            run.execute()
        return self.history

    def evaluate(self, loader: Iterable[Any]) -> Evaluation:
        """Loss and accuracy on a data set, in evaluation mode and without gradients.

        Parameters
        ----------
        loader : iterable
            Gives (inputs, targets) batches; samples count equally, whatever batch they are in.

        Returns
        -------
        Evaluation
            Loss, accuracy and number of samples.

        Raises
        ------
        InputError, ShapeError
            For a loader that gives something else, or nothing.
        """
        loss = accuracy = 0.0
        samples = 0
        with mode_of(self.network, training=False), torch.no_grad():
            for item in loader:
                inputs, targets = as_batch(item, self.network)
                outputs = self.network(inputs)
                losses = sample_losses(self.loss, outputs, targets)
                loss += float(losses.sum(dtype=torch.float64))
                accuracy += len(inputs) * accuracy_of(outputs, targets)
                samples += len(inputs)
        if not samples:
            todo = "Pass a loader that can be iterated again and has data."
            raise InputError(complaint("loader", expected="at least one batch", got="none", todo=todo))
        return Evaluation(loss / samples, accuracy / samples, samples)
