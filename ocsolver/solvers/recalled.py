"""What a solution by collocation remembers: the same problem from another initial state starts from its last point.

Nothing is checked or set up anew: the tapes, the scales and the prices of violations serve again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from ocsolver._record import record
from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.errors import VIOLATION
from ocsolver.collocation.jumps import Jump, around, enclosed_jumps, moved_jumps, warp
from ocsolver.collocation.points import Stacked
from ocsolver.collocation.refine import resampled
from ocsolver.collocation.starts import Start, dear_enough
from ocsolver.collocation.switches import Switch
from ocsolver.collocation.system import System
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Bounds, Mesh, Model, Point
from ocsolver.collocation.verdict import beyond
from ocsolver.pieces import shifted
from ocsolver.problem import OptimalControlProblem, differ_by_start

__all__ = ["EVEN", "Memory", "Posed", "first_fractions"]

Array = np.ndarray[Any, np.dtype[Any]]

EVEN = 25  # intervals of a first mesh if nothing is known, or for a batch, whose groups differ
NARROW = 0.2  # of the mean length: intervals that enclosed a switch and are left out of a warm start
SAME = 1e-12  # difference of nodes, relative to the horizon, that is none
SMALLEST, SMALLEST_STATE = 1e-3, 1.0  # size of J below which it counts as 1, and least scale of states


class Posed(NamedTuple):
    """A problem as campaigns take it, and where they start."""

    stacked: Stacked
    limits: Bounds
    nodes: Array  # (N + 1, G)
    of_the_set: int  # path constraints, the last ones, that describe the control set
    control: Array | None = None  # (N, G, m)
    warm: Start | None = None

    def starts_inside(self) -> bool:
        """Whether initial states, which are fixed, meet constraints on states."""
        limits, stacked = self.limits, self.stacked
        if not limits.path_lower.size:
            return True
        x, u = limits.start_lower[None, None], np.clip(0.0, limits.control_lower, limits.control_upper)
        c = stacked.values(self.nodes[:1, None], x, np.broadcast_to(u, (*x.shape[:-1], u.size))).c
        return bool((beyond(c, limits.path_lower, limits.path_upper) <= VIOLATION).all())


@record
class Memory:
    """The last point of a campaign."""

    problem: OptimalControlProblem
    stages: int
    of_the_set: int
    system: System
    point: Point
    mu: Array  # of the barrier (G,)
    size: Array  # of J (G,)
    base: Array  # nodes of the first group without those that enclose switches
    switches: list[Switch]  # which they are
    rested: bool  # whether it has seen singular arcs
    model: Model | None  # at the last point, of a single group with switches that Gauss points enclose

    @classmethod
    def of(cls, problem: OptimalControlProblem, campaign: Campaign) -> Memory | None:
        """What is remembered of a campaign that has converged; None of one that has not."""
        camp = campaign.camp
        if not camp.stacked.separable or not campaign.succeeded:
            return None
        last = camp.system, camp.point, camp.mu, camp.scale()
        switches = campaign.switches[0] if campaign.switches else []
        encloses = switches and camp.stacked.groups == 1 and not camp.mesh.tableau.closed
        model = camp.model if encloses else None
        rest = campaign.base[0], switches, campaign.rested, model
        return cls(problem, campaign.stages, campaign.of_the_set, *last, *rest)

    def posed(self, problem: OptimalControlProblem, stages: int) -> Posed | None:
        """The same problem from another initial state; None if it is another one, or its functions have changed."""
        if stages != self.stages or not differ_by_start(self.problem, problem):
            return None
        stacked = self.system.stacked.again()
        if stacked is None:
            return None
        limits = self._limits(problem)
        if problem.horizon != self.problem.horizon:
            start = self._shifted(problem)
        else:
            start = self._start if self._enclosing is None else self._moved(stacked, limits, self._enclosing)
        assert start.system is not None
        return Posed(stacked, limits, start.system.mesh.t, self.of_the_set, warm=start)

    def _limits(self, problem: OptimalControlProblem) -> Bounds:
        """The bounds, those of stacked initial states (G, v) replaced by the states of the problem."""
        old = self.system.limits
        x = problem.initial_state.detach().numpy()  # tapes are those of the processor, in double precision
        if x.size < old.start_lower.size:  # a duration is one more state
            x = np.concatenate((x, old.start_lower.reshape(len(x), -1)[:, problem.n :]), 1)
        return old.from_states(x.reshape(old.start_lower.shape))

    @cached_property
    def _scaled(self) -> System:
        """The equations with scales and a size of J that are those of the last point."""
        size = np.where(self.size > SMALLEST, self.size, 1.0)
        states = np.maximum(np.abs(self.point.nodes).max(0), np.abs(self.point.x).max((0, 1)))
        return replace(self.system, size=size, scale_x=np.maximum(states, SMALLEST_STATE))

    @cached_property
    def _steady(self) -> Array:
        """Nodes of the first group without those that enclose switches of the control: these may move far."""
        path = np.array([switch.component >= self.system.limits.control_lower.size for switch in self.switches])
        if not self.switches or not path.any():
            return self.base
        t = self.system.mesh.t[:, 0]
        nearest = np.abs(t[:, None] - [switch.time for switch in self.switches]).argmin(1)
        return np.asarray(t[path[nearest] | np.isin(t, self.base)])

    @cached_property
    def _jumps(self) -> list[Jump]:
        """Jumps of the controls of a single group."""
        if self.model is None:
            return []
        system, limits, slope = self.system, self.system.limits, self.model.slope[..., self.system.stacked.v :]
        return enclosed_jumps(
            system.mesh, self.point.u, slope, (limits.control_lower, limits.control_upper), self.switches
        )

    @cached_property
    def _fractions(self) -> Array:
        return first_fractions(self.system.mesh.t, self._steady)

    @cached_property
    def _start(self) -> Start:
        """The last point, on the same horizon."""
        t = self.system.mesh.t
        nodes = t[0] + (t[-1] - t[0]) * self._fractions[:, None]
        return self._start_on(nodes, nodes)

    @cached_property
    def _enclosing(self) -> Start | None:
        """The last point with the nodes that enclose jumps, if there are some; its base are those without."""
        t, jumps = self.system.mesh.t, self._jumps
        if not jumps:
            return None
        ways = warp((t[0, 0], t[-1, 0]), (jump.knots for jump in jumps), around(jump.centered for jump in jumps))
        if ways is None:
            return None
        enclosing = np.concatenate([jump.nodes for jump in jumps])
        fractions = first_fractions(t, np.concatenate((self._steady, enclosing)))
        nodes = np.interp(t[0, 0] + (t[-1, 0] - t[0, 0]) * fractions, *ways)
        others = ~np.isin(fractions, (enclosing - t[0]) / (t[-1] - t[0]))
        return self._start_on(nodes[:, None], nodes[:, None])._replace(base=nodes[others])

    def _moved(self, stacked: Stacked, limits: Bounds, start: Start) -> Start:
        """A start that encloses jumps on a mesh that goes with these; the one without, if they go too far."""
        jumps = self._jumps
        assert start.system is not None
        assert start.base is not None
        assert self.model is not None
        t = start.system.mesh.t[:, 0]
        moved = moved_jumps(self.system.again(stacked, limits), self.point, self.mu, self.model, jumps)
        ways = warp((t[0], t[-1]), around(jump.centered for jump in jumps), around(moved)) if moved else None
        if ways is None:
            return self._start
        system = replace(start.system, mesh=Mesh(np.interp(t, *ways)[:, None], start.system.mesh.tableau))
        return start._replace(system=system, base=np.interp(start.base, *ways), jumps=moved)

    def _shifted(self, problem: OptimalControlProblem) -> Start:
        """The last point on another horizon."""
        t, (t0, t1) = self.system.mesh.t, problem.horizon
        nodes = np.repeat(t0 + (t1 - t0) * self._fractions[:, None], t.shape[1], 1)
        seen = [shifted(torch.from_numpy(own), torch.from_numpy(t)).numpy() for own in nodes.T]
        return self._start_on(nodes, np.stack(seen, 1))

    def _start_on(self, nodes: Array, seen: Array) -> Start:
        """The last point at the Gauss points between nodes (N + 1, G), which it knows as those `seen`."""
        point, old, limits = self.point, self.system.mesh, self.system.limits
        same = seen.shape == old.t.shape and np.abs(seen - old.t).max() <= SAME * np.ptp(old.t)
        parts: tuple[Array, ...] = point.x, point.u, point.p, point.y, point.nodes, point.costates
        if not same or old.tableau.closed:
            parts = resampled(old, point, Mesh(seen, gauss(self.stages)))
        x, u, p, y, at_nodes, costates = parts
        u = np.clip(u, limits.control_lower, limits.control_upper)
        system = dear_enough(self._scaled, Mesh(nodes, gauss(self.stages)), y, point.nu)
        return Start(x, u, p, at_nodes, costates, y, point.nu, system, self.rested)


def first_fractions(t: Array, steady: Array | None = None) -> Array:
    """Fractions of the horizon at which a warm start has its nodes, from those of a solution (N + 1, G).

    They are the same without those that make narrow intervals, except between `steady` nodes, which stay: the others
    enclosed switches of the control. A batch, whose groups have their own meshes, begins evenly.
    """
    if t.shape[1] > 1:
        return np.linspace(0.0, 1.0, EVEN + 1)
    begin, length = t[0, 0], t[-1, 0] - t[0, 0]
    own = () if steady is None else ((steady - begin) / length).tolist()
    return without_narrow((t[:, 0] - begin) / length, own)


def without_narrow(nodes: Array, steady: Collection[float] = ()) -> Array:
    """Nodes on [0, 1] without those that make intervals much narrower than the mean but are no steady ones."""
    shortest, own = NARROW / (len(nodes) - 1), frozenset(steady)
    if np.diff(nodes).min() >= shortest:
        return nodes
    kept = [0.0]
    for t in nodes[1:-1].tolist():
        wide = t - kept[-1] >= shortest or (t in own and kept[-1] in own)
        if wide and (1.0 - t >= shortest or t in own):
            kept.append(t)
    return np.array([*kept, 1.0])
