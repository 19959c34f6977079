"""Maximization by trying points: exact on a finite set, a refined grid on compact sets of small dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.base import Maximizer, Maximum, keep_best, positive_int, unsupported

__all__ = ["Enumeration"]


@dataclass(frozen=True)
class Enumeration(Maximizer):
    """Try all points of a finite set, or a grid with successive refinement on a Box or Ball with m ≤ 3.

    No derivative with respect to u is used, so H may jump in u.

    Parameters
    ----------
    refinements : int, default 24
        Rounds of refinement about the best point; each halves the spacing.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.Enumeration(refinements=10)
    Enumeration(refinements=10)
    """

    refinements: int = 24

    def __post_init__(self) -> None:
        positive_int(self.refinements, "Enumeration refinements")

    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        points = block.control_set.candidates(block.current, fine=True)
        if points is None:
            todo = "Use oc.ProjectedNewton() or oc.LBFGS(), or bound the control by oc.Box(lower, upper)."
            raise unsupported(self, "a FiniteSet, or a finite Box or Ball with m ≤ 3", block.control_set, todo)
        u, gain = block.best_of(points[:, None, None, :], penalty)
        u, gain = self._better(block.current, torch.zeros_like(gain), u, gain)
        if not block.control_set.discrete:
            u, gain = self._refine(block, penalty, points, u, gain)
        return keep_best(block, u, gain, memory)

    @staticmethod
    def _better(u0: Tensor, gain0: Tensor, u1: Tensor, gain1: Tensor) -> tuple[Tensor, Tensor]:
        better = gain1 > gain0
        return torch.where(better[..., None], u1, u0), torch.where(better, gain1, gain0)

    def _refine(
        self, block: HamiltonianBlock, penalty: Penalty | None, points: Tensor, u: Tensor, gain: Tensor
    ) -> tuple[Tensor, Tensor]:
        m = points.shape[-1]
        per_axis = max(3, round(points.shape[0] ** (1.0 / m)))
        spacing = (points.amax(0) - points.amin(0)) / (per_axis - 1)  # (m,)
        axis = torch.tensor([-1.0, 0.0, 1.0]).to(u)
        if m <= 3:
            offsets = torch.cartesian_prod(*[axis] * m).reshape(-1, m)
        else:  # one component at a time
            eye = torch.eye(m, dtype=u.dtype, device=u.device)
            offsets = torch.cat((eye, -eye))
        for _ in range(self.refinements):
            spacing = spacing / 2
            trial = block.control_set.project(u + (offsets * spacing)[:, None, None, :])
            u, gain = self._better(u, gain, *block.best_of(trial, penalty))
        return u, gain
