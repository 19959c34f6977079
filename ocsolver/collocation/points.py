"""Values and derivatives of a problem's functions at all collocation points at once; it knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ocsolver._autodiff import gradients, unit_cotangents
from ocsolver._call import call
from ocsolver.collocation.captured import Captured
from ocsolver.collocation.kinks import Rounded, Watch
from ocsolver.collocation.tapes import EndTape, PointTape, end_tape, no_end_tape, point_tape, remembered
from ocsolver.constraints import Constraint
from ocsolver.hamiltonian import dynamics, running_cost
from ocsolver.problem import OptimalControlProblem, with_some_states
from ocsolver.tape.program import simulated

__all__ = ["EndPoint", "Guise", "PointValues", "Stacked", "preference", "weighted"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Tape = TypeVar("Tape", PointTape, EndTape)


PROBES, PROBED = 3, 1e-9  # points at which a tape is compared with its functions, and how well it has to agree


class PointValues(NamedTuple):
    """Functions q = (f, L, c) at points (N, s, G), their Jacobians in z = (x, u), and the Hessian of their sum."""

    f: Array  # (N, s, G, v)
    running: Array  # (N, s, G)
    c: Array  # (N, s, G, e), path constraints
    jacobian: Array | None = None  # (N, s, G, v + 1 + e, v + m)
    hessian: Array | None = None  # (N, s, G, v + m, v + m), of −(P·f − L) + y·c


class EndPoint(NamedTuple):
    """Terminal functions (Φ, c) at x(t1) (G, v)."""

    cost: Array  # (G,)
    c: Array  # (G, e)
    slope: Array  # (G, v), ∇Φ
    jacobian: Array  # (G, e, v)
    hessian: Array  # (G, v, v), of Φ + ν·c


class Guise(NamedTuple):
    """How the controls of a user's problem, between bounds, are hidden in those of another one."""

    mixing: Array  # (m, m + K), user's controls as combinations of the others
    rows: int  # path constraints, the last ones, that belong to the guise

    @property
    def strict(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Controls whose bounds are none of a user's control (m + K,): both parts of those that are differences."""
        negative = self.mixing < 0.0
        return np.append(np.any(negative, 1), np.any(negative, 0)[len(negative) :])


@dataclass(eq=False)
class Stacked:
    """A problem as G independent ones with v states each: v = n, or B·n where all trajectories share one control.

    The cost of a group is the mean over its trajectories; so costates of stacked states are those of the trajectories
    divided by their number, and constraints of all trajectories are stacked, too.
    """

    problem: OptimalControlProblem
    epsilon: float = 0.0  # radius by which kinks are rounded
    begin: float = 0.0  # initial time of the problem, whose time may be a state here
    source: OptimalControlProblem | None = None  # the problem whose functions this one is made of, if it is another
    memory: list[Any] = field(default_factory=list)  # of the rounding, from one iteration to the next
    probes: list[tuple[Callable[[], Tensor], Array]] = field(default_factory=list)  # functions, and what tapes say
    guise: Guise | None = None  # of the controls
    captured: list[Captured | None] = field(default_factory=list)  # what the functions referred to when they were tried

    @property
    def separable(self) -> bool:
        """Whether some groups can be evaluated without the others: the functions of users expect them all."""
        return self.tape is not None and self.end_tape is not None

    def part(self, rows: Array) -> Stacked:
        """Some of the groups, if they are separable."""
        part = Stacked(with_some_states(self.problem, rows), self.epsilon, self.begin, self.source, guise=self.guise)
        part.__dict__.update(tape=self.tape, end_tape=self.end_tape)
        return part

    def again(self) -> Stacked | None:
        """The same for another run with these tapes; None if there are none, or the functions are no longer theirs."""
        if not self.separable or not self._as_recorded():
            return None
        more = {"probes": self.probes, "guise": self.guise, "captured": self.captured}
        other = Stacked(self.problem, 0.0, self.begin, self.source, **more)  # type: ignore[arg-type]
        kept = "tape", "end_tape", "candidates", "kinked", "groups", "members", "v", "boxed"
        other.__dict__.update({name: getattr(self, name) for name in kept})
        return other

    def _as_recorded(self) -> bool:
        """Whether the functions are still those of the tapes: nothing they refer to has changed, or they agree."""
        known = self.captured[0] if self.captured else None
        if known is not None and known.unchanged:
            return True
        try:
            with torch.no_grad():
                same = all(_agree(found, _array(exact())) for exact, found in self.probes)
        except Exception:  # it shows where they are called as they are
            return False
        if same and (not self.captured or known is not None):
            problem = self.source or self.problem
            names = "dynamics", "running_cost", "path_constraint", "terminal_cost", "terminal_constraint"
            self.captured[:] = [Captured.of(_function(getattr(problem, name)) for name in names)]
        return same

    # -------------------------------------------------------------------- tapes

    @cached_property
    def tape(self) -> PointTape | None:
        """Programs of the functions at points, None if they cannot be traced; kinks are not."""
        x = self._start
        if x is None:
            return None
        problem, D = self.problem, self.v + self.problem.m
        t0, t1 = problem.horizon
        random = np.random.default_rng(0)
        z = np.zeros((PROBES, 1, self.groups, D))
        z[..., : self.v] = x
        sides = problem.control_set.bounds(problem.initial_state)
        if sides is not None:
            z[..., self.v :] = np.clip(0.0, *(_array(side) for side in sides))
        z[1:] += 0.1 * random.standard_normal(z[1:].shape) * (1.0 + np.abs(z[1:]))
        t = np.broadcast_to(t0 + (t1 - t0) * random.random((PROBES, 1, 1)), z.shape[:-1])
        times, points = self.tensor(t[..., :1]), self.tensor(z)
        return self._tape(
            ("dynamics", "running_cost", "path_constraint"),
            lambda: point_tape(self._functions, t0, z[0, 0, 0], self.v),
            lambda: self._functions(times, points),
            lambda tape: tape.values.run(*_rows(t[..., None], z)),
        )

    @cached_property
    def end_tape(self) -> EndTape | None:
        """The same of the terminal functions."""
        x = self._start
        if x is None:
            return None
        if self.problem.terminal_cost is None and self.problem.terminal_constraint is None:
            return no_end_tape(self.v)
        probes = x + 0.1 * np.random.default_rng(0).standard_normal(x.shape) * (1.0 + np.abs(x))
        states = self.tensor(probes)
        return self._tape(
            ("terminal_cost", "terminal_constraint"),
            lambda: end_tape(self._end_functions, x[0]),
            lambda: self._end_functions(states),
            lambda tape: tape.values.run(probes),
        )

    def _tape(
        self,
        names: Sequence[str],
        build: Callable[[], Tape],
        exact: Callable[[], Tensor],
        run: Callable[[Tape], tuple[Array, ...]],
    ) -> Tape | None:
        """A tape that is right at some points; what was remembered of the same functions is tried first."""
        functions = [_function(getattr(self.source or self.problem, name)) for name in names]
        extra = (*names, self.v, self.problem.m, self.problem.n, self.begin)
        try:
            with torch.no_grad():
                expected = _array(exact())
            for anew in (False, True):
                tape = remembered(functions, extra, build, anew=anew)
                if tape is None:
                    return None
                found = np.concatenate(run(tape), -1)
                if _agree(found, expected):
                    self.probes.append((exact, found))
                    return tape
        except Exception:  # whatever is wrong with the functions shows where they are called as they are
            pass
        return None

    @cached_property
    def _start(self) -> Array | None:
        """Initial states (G, v); None where the precision or the device is not that of tapes."""
        x = self.problem.initial_state
        if x.dtype != torch.float64 or x.device.type != "cpu":
            return None
        return _array(x).reshape(self.groups, self.v)

    @cached_property
    def kinked(self) -> bool:
        """Whether the functions have kinks, such as |u|."""
        if self.tape is not None:
            return False
        x = self.problem.initial_state.requires_grad_(False)
        z = torch.cat((self.stack(x), x.new_zeros(self.groups, self.problem.m)), -1).requires_grad_()
        with torch.enable_grad(), Watch() as watch:
            self._functions(x.new_full((1,), self.problem.horizon[0]), z)
        return bool(watch.found)

    def rounded(self, *, iterate: bool = False) -> AbstractContextManager[Any]:
        """Context in which kinks are rounded; `iterate` says that these are the points of the next iteration."""
        if not self.kinked or self.epsilon <= 0:
            return nullcontext()
        return Rounded(self.epsilon, self.memory if iterate else None)

    @cached_property
    def groups(self) -> int:
        """Number of independent problems G."""
        return self.problem.groups

    @cached_property
    def members(self) -> int:
        """Trajectories per group."""
        return self.problem.trajectories // self.groups

    @cached_property
    def v(self) -> int:
        """States per group."""
        return self.members * self.problem.n

    def tensor(self, values: Array) -> Tensor:
        """With dtype and device of the run."""
        like = self.problem.initial_state
        own = values if values.flags.writeable else values.copy()
        return torch.from_numpy(own).to(dtype=like.dtype, device=like.device)

    @cached_property
    def candidates(self) -> Array | None:
        """Controls that cover the box of controls (C, m), None if it is unbounded or has many dimensions."""
        grid = self.problem.control_set.candidates(self.problem.initial_state)
        return None if grid is None else grid.to(torch.float64).cpu().numpy()

    @cached_property
    def boxed(self) -> bool:
        """Whether bounds are all that controls have."""
        control_set = (self.source or self.problem).control_set
        return control_set is self.problem.control_set or self.guise is not None

    def project(self, u: Array) -> Array:
        """Controls between their bounds (*b, G, m), projected onto the control set if it is no box."""
        if self.boxed:
            return u
        return _array((self.source or self.problem).control_set.project(self.tensor(u)))

    def controls(self, u: Array) -> Array:
        """Controls (*b, m) as the user has stated them."""
        return u if self.guise is None else u @ self.guise.mixing.T

    def unstack(self, x: Tensor) -> Tensor:
        """States (*b, G, v) as the user sees them: (*b, B, n)."""
        return x if self.members == 1 else x.reshape(*x.shape[:-2], self.groups * self.members, -1)

    def stack(self, values: Tensor) -> Tensor:
        """Values per trajectory (*b, B, d) as values per group (*b, G, members · d)."""
        return values if self.members == 1 else values.reshape(*values.shape[:-2], self.groups, -1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the trajectories of a group: (*b, B) -> (*b, G)."""
        return values if self.members == 1 else values.mean(-1, keepdim=True)

    # ------------------------------------------------------------------ points

    def _functions(self, t: Tensor, z: Tensor) -> Tensor:
        """q = (f, L, c) at z (*b, G, v + m): (*b, G, v + 1 + e)."""
        problem, x, u = self.problem, self.unstack(z[..., : self.v]), z[..., self.v :]
        f, cost = dynamics(problem, t, x, u), running_cost(problem, t, x, u)
        parts = [self.stack(f), self.mean(cost).unsqueeze(-1)]
        if problem.path_constraint is not None:
            parts.append(self.stack(problem.path_constraint.path(t, x, u)))
        return torch.cat(parts, -1)

    def values(self, t: Array, x: Array, u: Array) -> PointValues:
        """Functions alone: t (N, s, G), x (N, s, G, v), u (N, s, G, m)."""
        if self.tape is not None:
            f, running, c = self.tape.values.run(*_rows(t[..., None], x, u))
            return PointValues(f.reshape(x.shape), running.reshape(t.shape), c.reshape(*t.shape, c.shape[-1]))
        with torch.no_grad(), self.rounded():
            q = self._functions(self.tensor(t), torch.cat((self.tensor(x), self.tensor(u)), -1))
        return self._split(q)

    def _split(self, q: Tensor) -> PointValues:
        array = _array(q)
        return PointValues(array[..., : self.v], array[..., self.v], array[..., self.v + 1 :])

    def simulated(self, t: Array, x0: Array, u: Array) -> tuple[Array, Array]:
        """States (N + 1, G, v) at times (N + 1, G) under controls (N, G, m), and rates at the first N (N, G, v)."""
        if self.tape is not None:
            return self.tape.rates.simulate(t, x0, u)
        return simulated(lambda t, x, u: self.values(t[None, None], x[None, None], u[None, None]).f[0, 0], t, x0, u)

    def expand(self, t: Array, x: Array, u: Array, p: Array, y: Array, *, iterate: bool = False) -> PointValues:
        """Functions, Jacobians and Hessian; costates p (N, s, G, v), multipliers y (N, s, G, e).

        Without a tape all rows come from one evaluation: copy r of the points gets the r-th unit vector as its
        cotangent.
        """
        if self.tape is not None:
            f, running, c, first, second = self.tape.derivatives.run(*_rows(t[..., None], x, u, p, y))
            D, shape = x.shape[-1] + u.shape[-1], t.shape
            return PointValues(
                f.reshape(x.shape),
                running.reshape(shape),
                c.reshape(y.shape),
                first.reshape(*shape, -1, D),
                second.reshape(*shape, D, D),
            )
        z = torch.cat((self.tensor(x), self.tensor(u)), -1)
        D, rows = z.shape[-1], self.v + 1 + y.shape[-1]
        copies = max(D, rows)
        with torch.enable_grad():
            leaves = z.expand(copies, *z.shape).contiguous().requires_grad_()
            with self.rounded(iterate=iterate):
                q = self._functions(self.tensor(t), leaves)
            weights = torch.cat((-self.tensor(p), torch.ones_like(q[0, ..., :1]), self.tensor(y)), -1)
            (slope,) = gradients(q, (leaves,), weights.expand_as(q), create_graph=True)
            (jacobian,) = gradients(q, (leaves,), _units(q), retain_graph=True)
            (hessian,) = gradients(slope, (leaves,), _units(slope))
        first, second = _array(jacobian[:rows].movedim(0, -2)), _array(hessian[:D].movedim(0, -2))
        return self._split(q[0].detach())._replace(jacobian=first, hessian=second)

    # --------------------------------------------------------------------- end

    def _end_functions(self, x: Tensor) -> Tensor:
        """(Φ, c) at x (*b, G, v): (*b, G, 1 + e)."""
        problem, state = self.problem, self.unstack(x)
        if problem.terminal_cost is None:
            cost = state.new_zeros(state.shape[:-1])
        else:
            cost = call(problem.terminal_cost, "terminal_cost", state).expand(state.shape[:-1])
        parts = [self.mean(cost).unsqueeze(-1)]
        if problem.terminal_constraint is not None:
            parts.append(self.stack(problem.terminal_constraint.terminal(state)))
        return torch.cat(parts, -1)

    def end_values(self, x: Array) -> tuple[Array, Array]:
        """Φ (G,) and c (G, e) at x (G, v)."""
        if self.end_tape is not None:
            cost, c = self.end_tape.values.run(x)
            return cost[:, 0], c
        with torch.no_grad():
            q = _array(self._end_functions(self.tensor(x)))
        return q[..., 0], q[..., 1:]

    def end(self, x: Array, multipliers: Array) -> EndPoint:
        """Terminal functions with derivatives; multipliers ν (G, e)."""
        if self.end_tape is not None:
            cost, c, rise, first, bend = self.end_tape.derivatives.run(x, multipliers)
            return EndPoint(cost[:, 0], c, rise, first.reshape(*c.shape, self.v), bend.reshape(-1, self.v, self.v))
        z, e = self.tensor(x), multipliers.shape[-1]
        copies = max(self.v, 1 + e)
        with torch.enable_grad():
            leaves = z.expand(copies, *z.shape).contiguous().requires_grad_()
            q = self._end_functions(leaves)
            weights = torch.cat((torch.ones_like(q[0, ..., :1]), self.tensor(multipliers)), -1)
            (slope,) = gradients(q, (leaves,), weights.expand_as(q), create_graph=True)
            (jacobian,) = gradients(q, (leaves,), _units(q), retain_graph=True)
            (hessian,) = gradients(slope, (leaves,), _units(slope))
        values, rows = _array(q[0].detach()), _array(jacobian[: 1 + e].movedim(0, -2))
        return EndPoint(
            values[..., 0], values[..., 1:], rows[..., 0, :], rows[..., 1:, :], _array(hessian[: self.v].movedim(0, -2))
        )


def preference(
    stacked: Stacked, bounds: tuple[Array, Array], t: Array, x: Array, u: Array, p: Array, y: Array
) -> Array:
    """H at the upper minus H at the lower bound of each control, the others as they are; zero without bounds.

    Shapes: bounds (m,), t (N, s, G), x and p (N, s, G, v), u (N, s, G, m), y (N, s, G, e) -> (N, s, G, m).
    """
    result = np.zeros_like(u)
    for j in range(u.shape[-1]):
        if not np.isfinite(bounds[0][j] + bounds[1][j]):
            continue
        values = []
        for bound in bounds:
            other = u.copy()
            other[..., j] = bound[j]
            q = stacked.values(t, x, other)
            values.append((p * q.f).sum(-1) - q.running - (y * q.c).sum(-1))
        result[..., j] = values[1] - values[0]
    return result


def weighted(jacobian: Array, p: Array, y: Array) -> Array:
    """Gradient of −p·f + L + y·c by z = (x, u) from the Jacobian of (f, L, c): (*b, v + m)."""
    weights = np.concatenate((-p, np.ones((*p.shape[:-1], 1)), y), -1)
    return np.asarray(np.einsum("...c,...ci->...i", weights, jacobian))


def _function(part: Any) -> Any:
    """Of a part of a problem."""
    return part.function if isinstance(part, Constraint) else part


def _rows(*parts: Array) -> tuple[Array, ...]:
    """Arrays (*b, d) as (points, d)."""
    count = parts[0].size // parts[0].shape[-1]
    return tuple(part.reshape(count, part.shape[-1]) for part in parts)


def _agree(found: Array, expected: Array) -> bool:
    """Whether a tape is right where both are finite, and not finite where the function is not."""
    if found.size != expected.size:
        return False
    found = found.reshape(expected.shape)
    close = np.abs(found - expected) <= PROBED * (1.0 + np.abs(expected))
    return bool(close.all()) or bool((close | (~np.isfinite(found) & ~np.isfinite(expected))).all())


def _units(output: Tensor) -> Tensor:
    """Unit cotangents of the copies (leading axis) in the last axis; zero for the copies beyond it."""
    return unit_cotangents(output, output.shape[0])


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().to(torch.float64).numpy()
    return array
