"""Checkpoints of a training run and the random states that make it repeatable; it knows no algorithm.

A checkpoint is data only: tensors, numbers and text, read with ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ocsolver.errors import InputError, complaint
from ocsolver.nn.records import TrainingHistory

__all__ = ["FORMAT", "Checkpoint", "Position", "capture_random", "keep_random", "restore_random"]

FORMAT = 1
MARK = "ocsolver training checkpoint"


@dataclass(frozen=True)
class Position:
    """Where a run stands within its data.

    Attributes
    ----------
    epoch, batch : int
        The epoch in progress, from 1, and its batches done; batch 0 between epochs.
    samples, loss, accuracy, seconds : float
        Sums over the samples of the epoch so far that had a finite loss, and its training seconds.
    finite : int
        Batches of the epoch with a finite loss and a finite trial step.
    failure : str
        What was wrong with the last of the others.
    start, now : dict
        Random states before the epoch's iterator was made, and after the last step.
    """

    epoch: int = 1
    batch: int = 0
    samples: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    finite: int = 0
    failure: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a run after a step.

    Attributes
    ----------
    network : dict
        The network's ``state_dict``.
    kind, settings : str
        Class of the solver or optimizer, and its repr.
    memory : object
        Its memory as plain data.
    history : TrainingHistory
        What was recorded so far.
    position : Position
        Where in the data.
    """

    network: Mapping[str, Any]
    kind: str
    settings: str
    memory: Any
    history: TrainingHistory
    position: Position

    def write(self, path: str | Path) -> None:
        """Write the file in one go: it is the old or the new checkpoint at any time, never a part of one.

        Parameters
        ----------
        path : path-like
            The file; the new content first goes to a file beside it.
        """
        content = {
            "mark": MARK,
            "format": FORMAT,
            "network": dict(self.network),
            "kind": self.kind,
            "settings": self.settings,
            "memory": self.memory,
            "history": self.history.pack(),
            "position": asdict(self.position),
        }
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            with part.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: str | Path, network: nn.Module, kind: str) -> Checkpoint:
        """Read a checkpoint and check that it fits; nothing is changed.

        Parameters
        ----------
        path : path-like
            The file.
        network : Module
            Names and shapes of its parameters and buffers must be those of the file.
        kind : str
            Class of the solver or optimizer.

        Returns
        -------
        Checkpoint
            The stored state.

        Raises
        ------
        InputError
            For a damaged or foreign file, another format, architecture or solver.
        """
        with Path(path).open("rb") as file:  # opened here, since torch leaves a damaged file open
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
                if content["mark"] != MARK:
                    raise KeyError("mark")
            except Exception as error:
                todo = "The file is damaged or not one of ours."
                raise _refusal(path, f"an {MARK}", repr(error)[:120], todo) from error
        if content.get("format") != FORMAT:
            todo = "Read it with the version of ocsolver that wrote it."
            raise _refusal(path, f"format {FORMAT}", f"format {content.get('format')}", todo)
        if content.get("kind") != kind:
            todo = "Resume with the solver that wrote it, or load the weights alone."
            raise _refusal(path, f"a checkpoint of {kind}", f"one of {content.get('kind')}", todo)
        try:
            _check_architecture(path, network.state_dict(), content["network"])
            history, position = TrainingHistory.unpack(content["history"]), Position(**content["position"])
            return cls(content["network"], kind, content["settings"], content["memory"], history, position)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise _refusal(path, f"a complete {MARK}", repr(error)[:120], "The file is damaged.") from error


def _refusal(path: str | Path, expected: str, got: str, todo: str) -> InputError:
    """The error for a checkpoint that cannot be used."""
    return InputError(complaint(f"checkpoint {path}", expected=expected, got=got, todo=todo))


def _check_architecture(path: str | Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise InputError unless names, shapes and dtypes of two state dictionaries agree, naming what differs."""

    def text(value: Any) -> str:
        return (
            f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else "none"
        )

    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = {name: (text(ours.get(name)), text(theirs.get(name))) for name in names}
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if different:
        shown = list(different.items())[:4]
        more = "" if len(different) == len(shown) else f" and {len(different) - len(shown)} more"
        expected = ", ".join(f"{name}: {pair[0]}" for name, pair in shown) + more
        got = ", ".join(f"{name}: {pair[1]}" for name, pair in shown) + more
        raise _refusal(path, expected, got, "Build the network of the run that wrote it.")


def _generators(loader: Any) -> dict[str, torch.Generator]:
    """Generators of a loader by their place: its own, its sampler's and its batch sampler's."""
    places = {
        "loader": loader,
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": getattr(loader, "batch_sampler", None),
    }
    found = {name: getattr(owner, "generator", None) for name, owner in places.items()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


def capture_random(loaders: Iterable[Any] = ()) -> dict[str, Any]:
    """States of all random generators in reach, as plain data.

    Parameters
    ----------
    loaders : iterable
        Loaders whose generators count: torch's default one, numpy's and Python's always do.

    Returns
    -------
    dict
        For `restore_random`.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (users' data sets may use it)
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }
    for k, loader in enumerate(loaders):
        states |= {f"{k} {name}": generator.get_state() for name, generator in _generators(loader).items()}
    return states


def restore_random(states: Mapping[str, Any], loaders: Iterable[Any] = ()) -> None:
    """Put back what `capture_random` returned.

    Parameters
    ----------
    states : dict
        The states.
    loaders : iterable
        The same loaders; generators that the states do not name are left alone.
    """
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    keys, position, has_gauss, gauss = states["numpy"]
    numbers = keys.numpy().astype(np.uint32)
    np.random.set_state(("MT19937", numbers, position, has_gauss, gauss))  # noqa: NPY002
    random.setstate(states["python"])
    for k, loader in enumerate(loaders):
        for name, generator in _generators(loader).items():
            if f"{k} {name}" in states:
                generator.set_state(states[f"{k} {name}"])


@contextlib.contextmanager
def keep_random(loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Let the random generators go on afterwards as if nothing had been drawn inside."""
    chosen = list(loaders)
    states = capture_random(chosen)
    try:
        yield
    finally:
        restore_random(states, chosen)
