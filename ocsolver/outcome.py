"""What a run leaves besides its trajectory: its course, its effort and its verdict; it knows no problem class."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ocsolver.status import Status

__all__ = ["History", "Outcome", "Stats"]


@dataclass(frozen=True, eq=False)
class History:
    """Course of a run, each (iterations + 1, G); entry 0 belongs to the initial control.

    Attributes
    ----------
    cost, residual : Tensor
        J and the maximum-principle residual of the control kept after each iteration.
    hamiltonian_gain, state_error, costate_error : Tensor
        ∫ΔH, ∫‖Δf‖² and ∫‖Δ∇ₓH‖² of the step that was tried (Lemma 1); NaN at entry 0.
    constant : Tensor
        Lemma 1's constant as estimated from that step.
    rho : Tensor
        Penalty of that step.
    accepted : Tensor of bool
        Whether the step was taken; True also after a group has ended.
    """

    cost: Tensor
    residual: Tensor
    hamiltonian_gain: Tensor
    state_error: Tensor
    costate_error: Tensor
    constant: Tensor
    rho: Tensor
    accepted: Tensor

    @property
    def rejections(self) -> Tensor:
        """Number of rejected steps (G,)."""
        return (~self.accepted).sum(0)


@dataclass(frozen=True)
class Stats:
    """What a run cost.

    Attributes
    ----------
    iterations : int
        Iterations of the loop.
    sweeps : dict
        Number of calls by part: forward, backward, maximize, residual.
    seconds : dict
        Wall time by the same parts, and in total.
    """

    iterations: int
    sweeps: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run knows besides its last sweep, and what that says: the part that all solutions share."""

    residual: Tensor  # (G,)
    status: list[Status]  # one per group
    notes: list[str]
    history: History
    stats: Stats
    solver: str

    @property
    def success(self) -> Tensor:
        """Whether each group ended with a status ≥ 0: bool (G,)."""
        return torch.tensor([status >= 0 for status in self.status])

    @property
    def message(self) -> str:
        """What happened and what to try, in one text."""
        groups: dict[tuple[Status, str], list[int]] = {}
        for g, (status, note) in enumerate(zip(self.status, self.notes, strict=True)):
            groups.setdefault((status, note), []).append(g)
        parts = []
        for (status, note), members in groups.items():
            where = "" if len(groups) == 1 else f"groups {_ranges(members)}: "
            parts.append(f"{where}{status.name}: {note + '; ' if note else ''}{status.advice}")
        return "\n".join(parts)


def _ranges(members: list[int]) -> str:
    shown = ", ".join(str(g) for g in members[:10])
    return shown if len(members) <= 10 else f"{shown}, … ({len(members)} in all)"
