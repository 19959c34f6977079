"""Absolute values in the running cost as controls of their own: the same problem without these kinks.

Where L grows with |w(t, x, u)|, a control s ≥ w, s ≥ −w that stands for it is as small as it may be, and so equal to it
along every solution: the epigraph form of convex optimization [1]_. What is made of absolute values, such as max(w, 0),
is told by them.

.. [1] S. Boyd, L. Vandenberghe, *Convex Optimization*, Cambridge 2004, Section 6.1.1 (norm approximation by linear
   programs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocsolver._record import record
from ocsolver.collocation.kinks import Rounded
from ocsolver.collocation.points import Guise
from ocsolver.constraints import Constraint
from ocsolver.problem import OptimalControlProblem, changed, with_rows
from ocsolver.sets import Box

__all__ = ["Absolutes"]

PROBES = 5  # points at which the slopes of the cost by the new controls are looked at
FAR = 10.0  # controls without bounds are looked at up to there
ROUNDING = 1e-9  # differences, relative to the largest value, that are none
Cost = Callable[[Tensor, Tensor, Tensor], Tensor]


class _StandIns(Rounded):
    """Notes what absolute values are taken of, and puts others in the places of some.

    Parameters
    ----------
    places : sequence of bool, optional
        Which calls have stand-ins; none if left out.
    values : sequence of Tensor
        The stand-ins.
    """

    def __init__(self, places: Sequence[bool] = (), values: Sequence[Tensor] = ()) -> None:
        super().__init__(0.0)
        self.places, self.values, self.arguments = places, iter(values), list[Tensor]()

    def _abs(self, z: Tensor) -> Tensor:
        k = len(self.arguments)
        self.arguments.append(z)
        stands = k < len(self.places) and self.places[k]
        return next(self.values) if stands else z.abs()


@record
class Absolutes:
    """Where absolute values are taken in the running cost of a problem.

    Each trajectory has its own control, in a box. If w is a multiple of one control, that is the difference a − b of
    two that are not negative, and |w| a multiple of a + b; other absolute values have controls s ≥ |w|. The controls
    that take the place of u are (u with a where it is split, b, s).
    """

    problem: OptimalControlProblem
    cost: Cost
    places: list[bool]  # which calls depend on states or controls
    shapes: list[tuple[int, ...]]  # of those, beyond the points and trajectories
    affine: Tensor  # (C, 1 + m), each w as a function of the controls alone; not finite if it is none
    of_controls: bool  # whether some depend on controls

    @classmethod
    def of(cls, problem: OptimalControlProblem) -> Absolutes | None:
        """Those of a problem; None if there are none, or they cannot be controls."""
        cost, x = problem.running_cost, problem.initial_state
        alone = not problem.shared_control or problem.trajectories == 1
        if cost is None or problem.control_set.bounds(x) is None or not alone:
            return None
        if x.dtype != torch.float64 or x.device.type != "cpu":  # nothing can be recorded, kinks or not
            return None
        try:
            return cls._read(problem, cost)
        except Exception:  # whatever is wrong with it shows where it is called as it is
            return None

    @classmethod
    def _read(cls, problem: OptimalControlProblem, cost: Cost) -> Absolutes | None:
        """The same, of a cost that is called with states and controls nobody has seen yet."""
        x = problem.initial_state[None].repeat(2, 1, 1).requires_grad_()
        u = problem.control_set.project(x.new_zeros(*x.shape[:-1], problem.m)).requires_grad_()
        t = x.new_full((2, 1), problem.horizon[0]).requires_grad_()
        with torch.enable_grad(), _StandIns() as seen:
            cost(t, x, u)
        places = [z.requires_grad for z in seen.arguments]
        kinks = [z for z in seen.arguments if z.requires_grad]
        if not kinks or any(z.shape[:2] != x.shape[:2] for z in kinks):
            return None
        shapes = [tuple(z.shape[2:]) for z in kinks]
        slopes = [torch.autograd.grad(z.sum(), (t, x, u), retain_graph=True, allow_unused=True) for z in kinks]
        alone = [
            _size([shape]) * [all(part is None for part in own[:2])] for own, shape in zip(slopes, shapes, strict=True)
        ]
        unknown = x.new_full((_size(shapes), 1 + problem.m), torch.nan)
        found = cls(problem, cost, places, shapes, unknown, any(own[2] is not None for own in slopes))
        mask = torch.tensor([one for own in alone for one in own])[:, None]
        found = replace(found, affine=torch.where(mask, found._fitted(x.detach()[:1]), torch.nan))
        return found if found._pay(x.detach()[:1]) else None

    # ------------------------------------------------------------------ controls

    @cached_property
    def owners(self) -> list[int]:
        """Which control each w is a multiple of, −1 if of none (C,)."""
        single = (self.affine[:, 1:] != 0.0).sum(-1) == 1
        good = torch.isfinite(self.affine).all(-1) & single & (self.affine[:, 0] == 0.0)
        which = (self.affine[:, 1:] != 0.0).to(torch.int8).argmax(-1)
        return torch.where(good, which, -1).tolist()

    @cached_property
    def split(self) -> list[int]:
        """Controls that are differences."""
        return sorted({j for j in self.owners if j >= 0})

    @cached_property
    def free(self) -> list[int]:
        """Absolute values that are controls s."""
        return [c for c, j in enumerate(self.owners) if j < 0]

    @property
    def count(self) -> int:
        """Number of new controls K."""
        return len(self.split) + len(self.free)

    @property
    def guise(self) -> Guise:
        """How the controls of the problem are hidden in the new ones."""
        m = self.problem.m
        mixing = np.eye(m, m + self.count)
        for i, j in enumerate(self.split):
            mixing[j, m + i] = -1.0
        return Guise(mixing, 2 * len(self.free))

    def _sides(self) -> tuple[Tensor, Tensor]:
        sides = self.problem.control_set.bounds(self.problem.initial_state)
        assert sides is not None
        return sides

    def _box(self) -> Box:
        """Bounds of the new controls."""
        lower, upper = (side.clone() for side in self._sides())
        below, above = lower[self.split], upper[self.split]
        affine = self.affine[self.free]
        middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)
        most = (affine[:, 0] + affine[:, 1:] @ middle).abs() + affine[:, 1:].abs() @ half
        most = torch.where(torch.isfinite(most), most, torch.inf)
        lower[self.split], upper[self.split] = below.clamp_min(0.0), above.clamp_min(0.0)
        new = (-above).clamp_min(0.0), (-below).clamp_min(0.0)
        return Box(torch.cat((lower, new[0], torch.zeros_like(most))), torch.cat((upper, new[1], most)))

    def _fitted(self, x: Tensor) -> Tensor:
        """w as affine functions of the controls (C, 1 + m), from their values at some; nan where they are none."""
        m, (lower, upper) = self.problem.m, self._sides()
        low, high = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
        u = low + (high - low) * _random(3 * m + 4, m).to(x)
        x = x.expand(len(u), -1, -1)
        controls = u[:, None].expand(-1, x.shape[-2], -1)
        with torch.no_grad(), _StandIns() as seen:
            self.cost(x.new_full((len(x), 1), self.problem.horizon[0]), x, controls)
        w = self._side_by_side(seen, x)[:, 0]  # (P, C)
        points = torch.cat((torch.ones_like(u[:, :1]), u), -1)
        fit = torch.linalg.lstsq(points, w).solution
        size = w.abs().amax(0) + 1e-300
        fit = torch.where(fit.abs() <= ROUNDING * size, 0.0, fit)
        good = (points @ fit - w).abs().amax(0) <= ROUNDING * size
        return torch.where(good, fit, torch.nan).T

    def _pay(self, x: Tensor) -> bool:
        """Whether the cost never falls with what stands for an absolute value, and grows with each somewhere."""
        m, (lower, upper), (t0, t1) = self.problem.m, self._sides(), self.problem.horizon
        x = x + (2.0 * _random(PROBES, *x.shape[1:]).to(x) - 1.0) * (1.0 + x.abs())
        low, high = lower.clamp(-FAR, FAR), upper.clamp(-FAR, FAR)
        u = low + (high - low) * _random(*x.shape[:-1], m).to(x)
        s = (1.0 + _random(*x.shape[:-1], len(self.owners)).to(x)).requires_grad_()
        t = t0 + (t1 - t0) * _random(PROBES, 1).to(x)
        with torch.enable_grad():
            with self._stand_ins(x, s):
                cost = self.cost(t, x, u)
            (slope,) = torch.autograd.grad(cost.sum(), s)
        slopes = slope.reshape(-1, slope.shape[-1])
        return bool(torch.isfinite(slopes).all() and (slopes >= 0.0).all() and (slopes.amax(0) > 0.0).all())

    # ----------------------------------------------------------------- functions

    def extended(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """The new controls (*b, B, m + K) for controls (*b, B, m)."""
        with torch.no_grad(), _StandIns() as seen:
            self.cost(t, x, u)
        w, parts = self._side_by_side(seen, x), list(u.unbind(-1))
        parts += [(-u[..., j]).clamp_min(0.0) for j in self.split] + [w[..., c].abs() for c in self.free]
        for j in self.split:
            parts[j] = u[..., j].clamp_min(0.0)
        return torch.stack(parts, -1)

    def _controls(self, v: Tensor) -> Tensor:
        """The controls of the problem (*b, B, m)."""
        m = self.problem.m
        parts = list(v[..., :m].unbind(-1))
        for i, j in enumerate(self.split):
            parts[j] = parts[j] - v[..., m + i]
        return torch.stack(parts, -1)

    def _absolutes(self, v: Tensor) -> Tensor:
        """All |w| (*b, B, C)."""
        m, parts = self.problem.m, []
        for c, j in enumerate(self.owners):
            if j >= 0:
                both = v[..., j] + v[..., m + self.split.index(j)]
                parts.append(float(self.affine[c, 1 + j].abs()) * both)
            else:
                parts.append(v[..., m + len(self.split) + self.free.index(c)])
        return torch.stack(parts, -1)

    def _side_by_side(self, seen: _StandIns, x: Tensor) -> Tensor:
        """w of all absolute values (*b, B, C)."""
        kinks = [z for z, own in zip(seen.arguments, self.places, strict=True) if own]
        return torch.cat([z.reshape(*x.shape[:-1], -1) for z in kinks], -1)

    def _stand_ins(self, x: Tensor, values: Tensor) -> _StandIns:
        """Values (*b, B, C) in the places of the absolute values."""
        parts = torch.split(values, [_size([shape]) for shape in self.shapes], -1)
        shaped = [part.reshape(*x.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return _StandIns(self.places, shaped)

    @property
    def smooth(self) -> OptimalControlProblem:
        """The problem with the new controls; s ≥ |w| are its last path constraints."""
        problem, x, own = self.problem, self.problem.initial_state, self.problem.path_constraint

        def dynamics(t: Tensor, x: Tensor, v: Tensor) -> Tensor:
            return problem.dynamics(t, x, self._controls(v))

        def running_cost(t: Tensor, x: Tensor, v: Tensor) -> Tensor:
            with self._stand_ins(x, self._absolutes(v)):
                return self.cost(t, x, self._controls(v))

        def path(t: Tensor, x: Tensor, v: Tensor) -> Tensor:
            assert own is not None
            return own.path(t, x, self._controls(v))

        def rows(t: Tensor, x: Tensor, v: Tensor) -> Tensor:
            values = self._absolutes(v)
            with self._stand_ins(x, values) as seen:
                self.cost(t, x, self._controls(v))
            s, w = values[..., self.free], self._side_by_side(seen, x)[..., self.free]
            return torch.cat((s - w, s + w), -1)

        parts: dict[str, Any] = {"dynamics": dynamics, "running_cost": running_cost, "control_set": self._box()}
        if own is not None and own.arguments == 3:
            parts["path_constraint"] = Constraint(path, own.lower, own.upper)
        result, count = changed(problem, **parts), 2 * len(self.free)
        return with_rows(result, rows, x.new_zeros(count), x.new_full((count,), torch.inf)) if count else result


def _size(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of components."""
    return sum(torch.Size(shape).numel() for shape in shapes)


def _random(*shape: int) -> Tensor:
    """Numbers in [0, 1), always the same ones."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
