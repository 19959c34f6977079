"""Constraints priced by multipliers and a quadratic penalty; it knows how prices follow violations, not who minimizes.

Powell, Hestenes and Rockafellar's augmented Lagrangian of lower ≤ c ≤ upper, with multiplier λ and penalty r, is

    ψ(c) = ½ r dist(c + λ/r)² − λ² / (2r),        λ⁺ = r (c + λ/r − P(c + λ/r)),

dist and P being distance and projection to [lower, upper]: one formula for equalities, inequalities and ranges. λ ≥ 0
at an upper bound, ≤ 0 at a lower one. Terminal constraints add ψ to Φ, path constraints to L; the multiplier of a path
constraint is a function of time, linear between the nodes and the midpoints of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver._call import call
from ocsolver._shapes import group_mean, per_row
from ocsolver.constraints import Constraint
from ocsolver.continuous import check_numbers
from ocsolver.hamiltonian import dynamics, running_cost, terminal_cost
from ocsolver.problem import OptimalControlProblem, changed

__all__ = ["Multipliers", "Report"]


def _check(constraint: Constraint, name: str, x0: Tensor, *arguments: Tensor) -> None:
    """Call a constraint at the initial state and check what it returns: what is priced has to be a number."""
    output = call(constraint.function, name, *arguments)
    constraint.check(name, output, x0)
    check_numbers(name, output[None, None])


def _price(constraint: Constraint, c: Tensor, multiplier: Tensor, r: Tensor) -> Tensor:
    """ψ summed over components: c, multiplier (*b, B, c), r (B, 1) -> (*b, B)."""
    shifted = c + multiplier / r
    outside = shifted - torch.clamp(shifted, *constraint.bounds(c))
    return 0.5 * (r * outside.square() - multiplier.square() / r).sum(-1)


def _updated(constraint: Constraint, c: Tensor, multiplier: Tensor, r: Tensor) -> Tensor:
    shifted = c + multiplier / r
    return r * (shifted - torch.clamp(shifted, *constraint.bounds(c)))


class Report(NamedTuple):
    """What a trajectory does to the constraints."""

    terminal: Tensor | None  # (B, c), violation
    path: Tensor | None  # (2N + 1, B, c), violation at nodes and midpoints, the larger one where u jumps
    defect: Tensor  # (B,), largest change of a multiplier relative to r: violation or slack with a price
    slack: Tensor  # (B,), Σ|λ δc|: what prices on slack may have cost
    updated: Multipliers

    @property
    def worst(self) -> Tensor:
        """Largest violation (B,)."""
        parts = [self.terminal] if self.terminal is not None else []
        parts += [self.path.amax(0)] if self.path is not None else []
        return torch.cat(parts, -1).amax(-1)


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Prices of the constraints of a problem on a fixed horizon.

    Attributes
    ----------
    problem : OptimalControlProblem
        With constraints.
    nodes : Tensor, shape (N + 1,)
        Nodes of the mesh.
    r : Tensor, shape (G,)
        Penalties.
    terminal : Tensor, shape (B, c), or None
        Multipliers of the terminal constraint, per trajectory.
    path : Tensor, shape (2N + 1, B, c), or None
        Multipliers of the path constraint per unit of time, at nodes and midpoints.
    """

    problem: OptimalControlProblem
    nodes: Tensor
    r: Tensor
    terminal: Tensor | None
    path: Tensor | None

    @classmethod
    def start(cls, problem: OptimalControlProblem, nodes: Tensor, u: Tensor) -> Multipliers:
        """Zero multipliers for a control (N, G, m)."""
        x0, N = problem.initial_state, nodes.numel() - 1
        terminal = path = None
        with torch.no_grad():
            if problem.terminal_constraint is not None:
                constraint, name = problem.terminal_constraint, "terminal_constraint"
                _check(constraint, name, x0, x0)
                terminal = torch.zeros_like(constraint.terminal(x0))
            if problem.path_constraint is not None:
                constraint, name = problem.path_constraint, "path_constraint"
                arguments = (nodes[:1], x0, u[0])
                _check(constraint, name, x0, *arguments[: constraint.arguments])
                path = torch.zeros_like(constraint.path(*arguments)).repeat(2 * N + 1, 1, 1)
        return cls(problem, nodes, x0.new_ones(problem.groups), terminal, path)

    @property
    def _rows(self) -> Tensor:
        """Penalty of each trajectory (B, 1)."""
        return per_row(self.r, self.problem.trajectories)[:, None]

    @property
    def _points(self) -> Tensor:
        """Nodes and midpoints (2N + 1,)."""
        middle = 0.5 * (self.nodes[1:] + self.nodes[:-1])
        return torch.cat((self.nodes, middle)).sort().values

    def priced(self) -> OptimalControlProblem:
        """The problem with prices in place of its constraints; a free initial state stays free."""
        problem, r, points = self.problem, self._rows, self._points
        terminal, path = problem.terminal_constraint, problem.path_constraint

        def end(x: Tensor) -> Tensor:
            assert terminal is not None
            assert self.terminal is not None
            return terminal_cost(problem, x) + _price(terminal, terminal.terminal(x), self.terminal, r)

        def rate(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            assert path is not None
            assert self.path is not None
            multiplier = _interpolated(points, self.path, t)
            return running_cost(problem, t, x, u) + _price(path, path.path(t, x, u), multiplier, r)

        return changed(
            problem,
            running_cost=problem.running_cost if path is None else rate,
            terminal_cost=problem.terminal_cost if terminal is None else end,
            horizon=problem.horizon,
            terminal_constraint=None,
            path_constraint=None,
        )

    @torch.no_grad()
    def judge(self, x: Tensor, u: Tensor) -> Report:
        """Violations of a trajectory x (N + 1, B, n), u (N, G, m), and the multipliers after it."""
        problem, r, new = self.problem, self._rows, self
        terminal, path = problem.terminal_constraint, problem.path_constraint
        missed = crossed = None
        defect, slack = torch.zeros_like(r[:, 0]), torch.zeros_like(r[:, 0])
        if terminal is not None:
            assert self.terminal is not None
            c = terminal.terminal(x[-1])
            missed, new = terminal.violation(c), replace(new, terminal=_updated(terminal, c, self.terminal, r))
            change = (new.terminal - self.terminal).abs() / r  # type: ignore[operator]
            defect = torch.maximum(defect, change.amax(-1))
            slack = slack + (new.terminal.abs() * change).sum(-1)  # type: ignore[union-attr]
        if path is not None:
            assert self.path is not None
            t, h = self.nodes[:, None], self.nodes.diff()[:, None, None]
            sides = (dynamics(problem, t[:-1], x[:-1], u), dynamics(problem, t[1:], x[1:], u))
            middle = 0.5 * (x[:-1] + x[1:]) + h / 8 * (sides[0] - sides[1])
            left, right = path.path(t[:-1], x[:-1], u), path.path(t[1:], x[1:], u)
            inside = path.path(0.5 * (t[:-1] + t[1:]), middle, u)
            ends = torch.stack((torch.cat((left, right[-1:])), torch.cat((left[:1], right))))  # (2, N + 1, B, c)
            crossed = _woven(path.violation(ends).amax(0), path.violation(inside))
            nodes, between = self.path[::2], self.path[1::2]
            at_ends = _updated(path, ends, nodes, r)
            low, high = path.bounds(left)
            larger = torch.where(at_ends[0].abs() >= at_ends[1].abs(), at_ends[0], at_ends[1])
            at_nodes = torch.where(low == high, at_ends.mean(0), larger)
            new = replace(new, path=_woven(at_nodes, _updated(path, inside, between, r)))
            change = (new.path - self.path).abs() / r  # type: ignore[operator]
            defect = torch.maximum(defect, change.amax((0, -1)))
            slack = slack + (self._weights[:, None] * (new.path.abs() * change).sum(-1)).sum(0)  # type: ignore[union-attr]
        groups = problem.groups
        defect = defect.amax(0, keepdim=True) if groups == 1 else defect
        return Report(missed, crossed, defect, group_mean(slack, groups), new)

    @property
    def _weights(self) -> Tensor:
        """Simpson's weights of nodes and midpoints (2N + 1,)."""
        h = self.nodes.diff()
        weights = torch.zeros_like(self._points)
        weights[:-1:2] += h / 6
        weights[2::2] += h / 6
        weights[1::2] = 4 * h / 6
        return weights

    def at(self, t: Tensor) -> Tensor | None:
        """Multipliers of the path constraint at times (*b, 1): (*b, B, c)."""
        return None if self.path is None else _interpolated(self._points, self.path, t)

    def means(self) -> dict[str, Tensor]:
        """Multipliers as a Solution shows them: terminal (B, c), path as means over intervals (N, B, c)."""
        shown = {}
        if self.terminal is not None:
            shown["terminal_constraint"] = self.terminal
        if self.path is not None:
            shown["path_constraint"] = (self.path[:-1:2] + 4 * self.path[1::2] + self.path[2::2]) / 6
        return shown


def _woven(nodes: Tensor, between: Tensor) -> Tensor:
    """Values at nodes (N + 1, …) and midpoints (N, …) in the order of time (2N + 1, …)."""
    mixed = nodes.new_empty(nodes.shape[0] + between.shape[0], *nodes.shape[1:])
    mixed[::2], mixed[1::2] = nodes, between
    return mixed


def _interpolated(points: Tensor, values: Tensor, t: Tensor) -> Tensor:
    """Values (P, B, c) at points (P,), linearly interpolated to times t that broadcast against (*b, B): (*b, B, c)."""
    B = values.shape[1]
    times = t.detach().expand(*t.shape[:-1], B).contiguous() if t.ndim else t.detach().expand(B).contiguous()
    k = (torch.searchsorted(points, times, right=True) - 1).clamp(0, points.numel() - 2)
    share = ((times - points[k]) / (points[k + 1] - points[k])).clamp(0.0, 1.0)[..., None]
    row = torch.arange(B, device=values.device)
    return torch.lerp(values[k, row], values[k + 1, row], share)
