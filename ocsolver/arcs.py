"""What a control consists of: jumps, singular arcs, chattering; it reads solutions and changes none.

A component of the control is bang-bang where its switching function ∂H/∂u_j does not vanish, singular where H does not
depend on it over an interval although it is inside its bounds. Where it jumps at almost every node it chatters: what
the mesh shows there is an approximation of its average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver._shapes import group_mean
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import hamiltonian, running_cost
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import Box, Unconstrained
from ocsolver.solution import Solution

__all__ = ["FURTHER", "TOLERANCE", "Arcs", "Slopes", "find_arcs", "with_arcs"]

AT_BOUND = 1e-3  # distance to a bound, relative to the width, up to which a control is at the bound
JUMP = 0.25  # change from one interval to the next, relative to the width, from which on it is a jump
BRIEF = 1e-3  # length of a singular arc, relative to the horizon, that is none: intervals that enclose a switch
SHORTEST = 3  # intervals of a singular arc, and jumps of a chattering one, at least
CLOSE = 2  # intervals between two jumps of a chattering arc, at most
WINDOW = 6  # intervals over which chattering is averaged, to both sides

TOLERANCE = 1e-3  # default of `find_arcs`
FURTHER = 0.25  # of the width, by which controls are moved to see whether H depends on them there

Array = np.ndarray[Any, np.dtype[Any]]
# by how much controls are moved (m,) -> in the middle of every interval ∂H/∂u, path multipliers included, for the
# control as it is and moved (2, N, G, m), and the size of the running cost (N, G); None where H depends on all controls
Slopes = Callable[[Array], tuple[Array, Array] | None]


@dataclass(frozen=True, eq=False)
class Arcs:
    """Structure of a control.

    Attributes
    ----------
    switches : list of list of (float, int)
        Per group the times at which a component jumps, and the component.
    singular : list of list of (float, float, int)
        Per group the intervals on which a component is inside its bounds and its switching function vanishes.
    chattering : list of list of (float, float, int)
        Per group the intervals on which a component jumps at almost every node.
    averaged : Tensor, shape (N, G, m)
        The control with its chattering replaced by a moving average, which lies in the convex hull of U.
    grows : list of bool, or None
        Per group whether the switches of a solution on a finer mesh are more by half; None if there was none.
    """

    switches: list[list[tuple[float, int]]]
    singular: list[list[tuple[float, float, int]]]
    chattering: list[list[tuple[float, float, int]]]
    averaged: Tensor
    grows: list[bool] | None = None

    @property
    def notes(self) -> list[str]:
        """Per group what a reader should know, or an empty text."""
        return [self._note(g) for g in range(len(self.switches))]

    def _note(self, g: int) -> str:
        parts = []
        for name, arcs in (("chatters", self.chattering[g]), ("is singular", self.singular[g])):
            if arcs:
                t0, t1, j = max(arcs, key=lambda arc: arc[1] - arc[0])
                more = f" and on {len(arcs) - 1} more arcs" if len(arcs) > 1 else ""
                parts.append(f"u[{j}] {name} on [{t0:.5g}, {t1:.5g}]{more}")
        if self.grows is not None and self.grows[g]:
            parts.append(
                "the number of switches grows with the mesh: there may be no minimizer, only an averaged control"
            )
        return "; ".join(parts)


def find_arcs(solution: Solution, finer: Solution | None = None, *, tolerance: float = TOLERANCE) -> Arcs:
    """Find the jumps, singular arcs and chattering of a solution's control.

    Parameters
    ----------
    solution : Solution
        Whoever found it; it must know its problem.
    finer : Solution, optional
        The same problem solved on a finer mesh. If it has half as many switches again, their number grows with N.
    tolerance : float, default 1e-3
        A switching function vanishes if moving the control across its bounds would change H by less than this fraction
        of the mean rate of |L| and |Φ|.

    Returns
    -------
    Arcs
        Per group; on controls without bounds nothing is looked for.

    Raises
    ------
    InputError, UnsupportedError
        If the tolerance is not positive, or the solution does not know its problem.

    Examples
    --------
    Fishing that brings predator and prey to rest, with a singular arc in the middle:

    >>> import ocsolver as oc
    >>> from problems import fishing
    >>> arcs = oc.find_arcs(oc.solve(fishing.build().problem, oc.EMSA()))
    >>> t0, t1, component = arcs.singular[0][0]
    >>> print(f"u[{component}] is singular on [{t0:.1f}, {t1:.1f}]")
    u[0] is singular on [4.0, 10.8]
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
        todo = "Leave it out for the default."
        raise InputError(
            complaint("find_arcs tolerance", expected="a number in (0, 1)", got=repr(tolerance), todo=todo)
        )
    if solution.problem is None:
        todo = "Use oc.load(path, problem=problem)."
        expected = "a solution that knows its problem"
        raise UnsupportedError(complaint("find_arcs", expected=expected, got="problem=None", todo=todo))
    return _find_arcs(solution.problem, solution, finer, tolerance, None)


def _find_arcs(
    problem: OptimalControlProblem,
    solution: Solution,
    finer: Solution | None,
    tolerance: float,
    slopes: Slopes | None,
    sides: tuple[Array, Array] | None = None,
) -> Arcs:
    G = solution.u.shape[1]
    nothing = Arcs([[] for _ in range(G)], [[] for _ in range(G)], [[] for _ in range(G)], solution.u)
    if finer is None and isinstance(problem.control_set, Unconstrained):
        return nothing
    low, high = _sides(problem, solution.u) if sides is None else sides
    width = high - low
    bounded = np.isfinite(width)
    if not bounded.any() and finer is None:
        return nothing
    singular = nothing.singular
    u = _array(solution.u)  # (N, G, m)
    t = _array(solution.t)  # (N + 1, G)
    span = np.where(bounded, width, 1.0)
    place = np.where(u <= low + AT_BOUND * span, -1, np.where(u >= high - AT_BOUND * span, 1, 0))  # (N, G, m)
    switches = _switches(t, u, place, np.where(bounded, width, np.inf))
    chattering = [_chattering(t[:, g], switches[g], len(u)) for g in range(G)]
    inside = (place == 0) & bounded
    if not isinstance(problem.control_set, Box):
        inside &= ~_on_the_rim(problem, solution.u)
    if _any_runs(inside) and problem.control_set.convex:
        span = np.where(bounded, width, 0.0)
        found = (slopes or partial(_slopes, problem, solution))(FURTHER * span)
        if found is not None:
            vanishing = inside & _vanishing(t, _array(solution.cost), *found, span, tolerance)
            singular = [_runs(t[:, g], vanishing[:, g]) for g in range(G)]
    grows = None
    if finer is not None:
        count = [len(events) for events in find_arcs(finer, tolerance=tolerance).switches]
        grows = [new >= 1.5 * len(old) and new > len(old) + 2 for new, old in zip(count, switches, strict=True)]
    return Arcs(switches, singular, chattering, _averaged(solution, chattering), grows)


def _sides(problem: OptimalControlProblem, like: Tensor) -> tuple[Array, Array]:
    """Sides of each component (m,): of the box or of the points; infinite where there are none."""
    sides = problem.control_set.bounds(like)
    if sides is None or sides[0].ndim > 1:  # sides that differ from interval to interval belong to no user's problem
        points = problem.control_set.candidates(like)
        infinite = like.new_full((problem.m,), torch.inf)
        sides = (-infinite, infinite) if points is None else (points.amin(0), points.amax(0))
    return _array(sides[0]), _array(sides[1])


def _on_the_rim(problem: OptimalControlProblem, u: Tensor) -> Array:
    """Components that an active inequality of the control set holds (N, G, m)."""
    active = problem.control_set.inequalities(u) >= -AT_BOUND  # (N, G, k)
    if not active.any():
        return np.zeros(u.shape, dtype=bool)
    with torch.enable_grad():
        some = torch.ones_like(u[0, 0]).requires_grad_()
        rows = problem.control_set.inequalities(some)
        involved = torch.stack([torch.autograd.grad(row, some, retain_graph=True)[0] != 0 for row in rows])
    return _array((active[..., None] & involved).any(-2)) > 0


def _array(values: Tensor) -> Array:
    array: Array = values.detach().numpy() if values.device.type == "cpu" else values.detach().cpu().numpy()
    return array.astype(float, copy=False)


def _switches(t: Array, u: Array, place: Array, width: Array) -> list[list[tuple[float, int]]]:
    """Jumps of u (N, G, m) per group in the order of time; one inside an interval is placed by the mean there."""
    found: list[list[tuple[float, int]]] = [[] for _ in range(u.shape[1])]
    jumps = np.abs(u[1:] - u[:-1]) > JUMP * width  # (N − 1, G, m), at node k + 1
    through = (place[1:-1] == 0) & (place[:-2] * place[2:] == -1)  # (N − 2, G, m), inside interval k + 1
    jumps[:-1] &= ~through
    jumps[1:] &= ~through
    if not jumps.any() and not through.any():
        return found
    for k, g, j in zip(*np.nonzero(jumps), strict=True):
        found[g].append((float(t[k + 1, g]), int(j)))
    for k, g, j in zip(*np.nonzero(through), strict=True):
        before, here, after = u[k : k + 3, g, j]
        share = (here - after) / (before - after)
        found[g].append((float(t[k + 1, g] + share * (t[k + 2, g] - t[k + 1, g])), int(j)))
    return [sorted(events) for events in found]


def _chattering(t: Array, switches: list[tuple[float, int]], N: int) -> list[tuple[float, float, int]]:
    """Intervals in which a component jumps again and again, never more than CLOSE intervals apart."""
    found = []
    for j in {component for _, component in switches}:
        times = [time for time, component in switches if component == j]
        index = np.searchsorted(t, times, side="right") - 1
        first = 0
        for i in range(1, len(times) + 1):
            if i == len(times) or index[i] - index[i - 1] > CLOSE:
                if i - first >= SHORTEST:
                    found.append((float(t[max(index[first] - 1, 0)]), float(t[min(index[i - 1] + 1, N)]), j))
                first = i
    return sorted(found)


def _any_runs(mask: Array) -> bool:
    """Whether SHORTEST intervals or more in a row are True (N, G, m)."""
    together = mask[SHORTEST - 1 :].copy()
    for k in range(SHORTEST - 1):
        together &= mask[k : len(mask) - SHORTEST + 1 + k]
    return bool(together.any())


def _runs(t: Array, mask: Array) -> list[tuple[float, float, int]]:
    """Runs of at least SHORTEST intervals, not all of them narrow, where mask (N, m) holds, in the order of time."""
    found = []
    for j in range(mask.shape[1]):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[:, j].astype(int), [0]))))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first >= SHORTEST and t[last] - t[first] > BRIEF * (t[-1] - t[0]):
                found.append((float(t[first]), float(t[last]), j))
    return sorted(found)


def _vanishing(t: Array, cost: Array, near: Array, rate: Array, span: Array, tolerance: float) -> Array:
    """Where H depends on a component neither here nor across its bounds: bool (N, G, m)."""
    h = t[1:] - t[:-1]
    scale = np.maximum((rate * h).sum(0), np.abs(cost))
    gain = (np.abs(near) * span).max(0) * (t[-1] - t[0])[:, None]  # (N, G, m)
    limit = np.where(np.isfinite(scale), tolerance * scale, -1.0)  # nothing is known of a failed group
    return np.asarray(gain <= limit[:, None])


def _slopes(problem: OptimalControlProblem, solution: Solution, move: Array) -> tuple[Array, Array]:
    """`Slopes` of any solution."""
    pieces = solution.pieces
    if pieces is None:
        pieces = Pieces.from_steps(problem, solution.t, solution.x, solution.p, solution.u)
    middle = solution.x.new_tensor([0.5])
    at = pieces.samples(problem, solution.t, solution.x, solution.p, middle)
    t, x, p, u = (part[:, 0] for part in at[:4])
    path, nu = problem.path_constraint, None if at.nu is None else at.nu[:, 0]
    with torch.enable_grad():
        v = leaf(torch.stack((u, problem.control_set.project(u + torch.as_tensor(move).to(u)))))
        x, p = (z.expand(2, *z.shape) for z in (x, p))
        value = hamiltonian(problem, t, x, p, v)
        if path is not None and nu is not None:
            value = value - (nu * path.path(t, x, v)).sum(-1)
        (near,) = gradients(group_mean(value, v.shape[-2]), (v,))
    with torch.no_grad():
        rate = group_mean(running_cost(problem, t, x[0], u).abs(), u.shape[-2])
    return _array(near), _array(rate)


def _averaged(solution: Solution, chattering: list[list[tuple[float, float, int]]]) -> Tensor:
    """The control with moving averages on its chattering arcs (N, G, m)."""
    if not any(chattering):
        return solution.u
    u = solution.u.clone()
    for g, arcs in enumerate(chattering):
        h = solution.t[:, g].diff()
        for t0, t1, j in arcs:
            middle = solution.t[:-1, g] + 0.5 * h
            (inside,) = ((middle >= t0) & (middle <= t1)).nonzero(as_tuple=True)
            first, last = int(inside[0]), int(inside[-1]) + 1
            for k in range(first, last):
                near = slice(max(k - WINDOW, first), min(k + WINDOW + 1, last))
                u[k, g, j] = (solution.u[near, g, j] * h[near]).sum() / h[near].sum()
    return u


def with_arcs(solution: Any, slopes: Slopes | None = None, sides: tuple[Array, Array] | None = None) -> Any:
    """The solution with its switches and singular arcs, and with notes on what is not plain bang-bang.

    A solver may know the `slopes` of H, and the `sides` of a box of controls (m,).
    """
    if not isinstance(solution, Solution) or solution.problem is None:
        return solution
    arcs = _find_arcs(solution.problem, solution, None, TOLERANCE, slopes, sides)
    notes = []
    for own, note, status, switches in zip(solution.notes, arcs.notes, solution.status, arcs.switches, strict=True):
        parts, extra = [own] if own else [], ""
        if status < 0 and len(switches) >= SHORTEST:
            extra = f"u switches {len(switches)} times: oc.find_arcs(solution, finer) tells if that grows with N"
        notes.append("; ".join(parts + [part for part in (note, extra) if part and part not in own]))
    found = arcs.switches, arcs.singular, notes
    if found == (solution.switches, solution.singular, solution.notes):
        return solution
    return replace(solution, switches=arcs.switches, singular=arcs.singular, notes=notes)
