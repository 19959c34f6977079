"""How many threads a run may use; it knows only sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["threads_for"]

LARGE = 500_000  # tensor elements of a linearization from which several threads pay


@contextmanager
def threads_for(problem: Any, mesh: Any) -> Iterator[None]:
    """Run small problems on one thread: splitting their tensors over cores costs more than it saves.

    On a machine with other work, threads that wait for each other make small operations ten to fifty times slower.
    """
    state = getattr(problem, "initial_state", None)
    before = torch.get_num_threads()
    intervals = getattr(mesh, "intervals", mesh if isinstance(mesh, int) else 100)
    small = (
        state is not None and state.device.type == "cpu" and intervals * state.numel() * (1 + state.shape[1]) < LARGE
    )
    if not small or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
