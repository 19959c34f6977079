"""How many threads a run may use; it knows only sizes."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["threads_for"]

LARGE = 500_000  # tensor elements of a linearization from which several threads pay


class threads_for:  # noqa: N801
    """Context in which small problems run on one thread: splitting their tensors over cores costs more than it saves.

    On a machine with other work, threads that wait for each other make small operations ten to fifty times slower.
    """

    def __init__(self, problem: Any, mesh: Any) -> None:
        self._before = torch.get_num_threads()
        self._changes = self._before > 1 and _is_small(problem, mesh)

    def __enter__(self) -> None:
        if self._changes:
            torch.set_num_threads(1)

    def __exit__(self, *reason: object) -> None:
        if self._changes:
            torch.set_num_threads(self._before)


def _is_small(problem: Any, mesh: Any) -> bool:
    """Whether several threads would not pay."""
    state = getattr(problem, "initial_state", None)
    intervals = getattr(mesh, "intervals", mesh if isinstance(mesh, int) else 100)
    if state is None or state.device.type != "cpu":
        return False
    return bool(intervals * state.numel() * (1 + state.shape[1]) < LARGE)
