"""A free initial state as a control: the problem with one more interval before t0, along which the state is launched.

On that interval ẋ = v with a control v of its own, so x(t0) = center + duration · v: the problem starts at a fixed
state, and whatever solves problems with a free end finds x(t0) with everything else. It knows no algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ocsolver.hamiltonian import dynamics, running_cost
from ocsolver.mesh import Mesh
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import ControlSet

__all__ = ["Launch"]


@dataclass(frozen=True, eq=False)
class _Sited(ControlSet):
    """The control set of the problem on all intervals but the first, where only the launch is free."""

    inner: ControlSet
    lower: Tensor  # (N + 1, G, m'), sides of everything that has sides
    upper: Tensor  # (N + 1, G, m')

    @property
    def m(self) -> int:  # type: ignore[override]
        return self.lower.shape[-1]

    def project(self, u: Tensor) -> Tensor:
        own = self.inner.m
        inside = torch.cat((self.inner.project(u[..., :own]), u[..., own:]), -1)
        return torch.clamp(inside, self.lower.to(u), self.upper.to(u))

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.inner.bounds(like) is None:
            return None
        return self.lower.to(like), self.upper.to(like)


@dataclass(frozen=True, eq=False)
class Launch:
    """A problem with free initial states, seen from a center.

    Its control is (u, v, flag) (N + 1, G, m'): on interval 0 the flag is 1, v free and u fixed; afterwards the flag and
    v are 0. An interval is told from the next by the flag, because stages of integrators share the node between them.

    Attributes
    ----------
    problem : OptimalControlProblem
        On a fixed horizon.
    center : Tensor, shape (B, n)
        Where the launch starts.
    reach : Tensor, shape (B, n)
        How far a component may move from there, besides its bounds. So the Hamiltonian, linear in v, has a maximum.
    mesh : Mesh
        Of the problem, N intervals.
    """

    problem: OptimalControlProblem
    center: Tensor
    reach: Tensor
    mesh: Mesh

    @property
    def duration(self) -> float:
        """Length of the launch."""
        t0, t1 = self.problem.horizon
        return t1 - t0

    @cached_property
    def free(self) -> Tensor:
        """Indices of the components that are free in some row (f,)."""
        ends = self.problem.free_initial_state
        assert ends is not None
        return (ends.lower < ends.upper).any(0).nonzero()[:, 0]

    @cached_property
    def launched(self) -> OptimalControlProblem:
        """The problem with a fixed start, before t0."""
        problem, own = self.problem, self.problem.m
        t0, t1 = problem.horizon

        def field(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            rate = dynamics(problem, t.clamp_min(t0), x, u[..., :own])
            return torch.where(u[..., -1:] > 0.5, self._spread(u[..., own:-1], x), rate)

        def cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            rate = running_cost(problem, t.clamp_min(t0), x, u[..., :own])
            return torch.where(u[..., -1] > 0.5, 0.0, rate)

        return OptimalControlProblem(
            field,
            None if problem.running_cost is None else cost,
            problem.terminal_cost,
            initial_state=self.center,
            horizon=(t0 - self.duration, t1),
            control_set=self._control_set,
            shared_control=problem.shared_control,
        )

    @property
    def launched_mesh(self) -> Mesh:
        """Mesh with the launch as first interval."""
        nodes = self.mesh.nodes
        return Mesh(torch.cat((nodes[:1], 0.5 + 0.5 * nodes)))

    def control(self, u: Tensor) -> Tensor:
        """Control (N + 1, G, m') that starts at the center, from one of the problem (N, G, m)."""
        u = torch.cat((self._idle(u), u))
        return self._control_set.project(
            torch.cat((u, u.new_zeros(*u.shape[:2], self._control_set.m - u.shape[-1])), -1)
        )

    def _idle(self, u: Tensor) -> Tensor:
        return self.problem.control_set.project(torch.zeros_like(u[:1]))

    def _spread(self, v: Tensor, x: Tensor) -> Tensor:
        """Rates (*b, B, n) from the launch control, (*b, B, f) or (*b, 1, B f) where the control is shared."""
        rows = v.reshape(*v.shape[:-2], x.shape[-2], self.free.numel())
        return torch.zeros_like(x).index_add(-1, self.free, rows.expand(*x.shape[:-1], -1))

    @cached_property
    def _control_set(self) -> _Sited:
        problem, center = self.problem, self.center
        ends = problem.free_initial_state
        assert ends is not None
        N, G, m = self.mesh.intervals, problem.groups, problem.m
        low = torch.maximum(ends.lower, center - self.reach)
        high = torch.minimum(ends.upper, center + self.reach)
        low, high = (((side - center) / self.duration)[:, self.free].reshape(G, -1) for side in (low, high))  # (G, f')
        like = center.new_zeros(N, G, m)
        sides = problem.control_set.bounds(like) or (like[0, 0] - torch.inf, like[0, 0] + torch.inf)

        def side(own: Any, launch: Tensor) -> Tensor:
            own = torch.cat((self._idle(like), own.expand(N, G, m)))
            rest = torch.cat((launch[None], launch.new_zeros(N, *launch.shape)))
            flag = center.new_zeros(N + 1, G, 1)
            flag[0] = 1.0
            return torch.cat((own, rest, flag), -1)

        return _Sited(problem.control_set, side(sides[0], low), side(sides[1], high))
