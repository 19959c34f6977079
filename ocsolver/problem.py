"""The optimal control problem as frozen mathematics; it knows nothing of meshes, integrators or algorithms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ocsolver._call import positional
from ocsolver._shapes import as_tensor
from ocsolver.constraints import Constraint, FreeInitialState, FreeTime
from ocsolver.errors import InputError, ShapeError, complaint
from ocsolver.sets import Box, ControlSet

__all__ = ["OptimalControlProblem"]

Dynamics = Callable[[Tensor, Tensor, Tensor], Tensor]
TerminalCost = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class OptimalControlProblem:
    """Minimize J(u) = Φ(x(t1)) + ∫ L(t, x, u) dt subject to ẋ = f(t, x, u), x(t0) = x0, u(t) ∈ U.

    Parameters
    ----------
    dynamics : callable
        ``dynamics(t, x, u) -> (*b, n)`` with x (*b, n), u (*b, m) and t broadcasting against ``x[..., 0]``. The last
        batch axis holds the trajectories, complete and in order; the library may add leading axes. Where the control
        is shared, u keeps size 1 on the trajectory axis.
    running_cost : callable, optional
        ``running_cost(t, x, u) -> (*b)``; zero when missing.
    terminal_cost : callable, optional
        ``terminal_cost(x) -> (*b)``; zero when missing.
    initial_state : array_like, shape (n,) or (B, n), or FreeInitialState
        One or B initial states. Its dtype and device rule the run.
    horizon : (float, float) or (float, FreeTime)
        Initial and final time, t0 < t1.
    control_set : ControlSet
        `Unconstrained`, `Box`, `Ball`, `FiniteSet` or `Product`; it also fixes the control dimension m.
    shared_control : bool, default False
        True: one control for all B trajectories (G = 1), J is the mean over them. False: an independent problem
        for each trajectory (G = B), all solved in one batch.
    terminal_constraint : Constraint, optional
        ``c(x) -> (*b, c)`` between bounds at x(t1).
    path_constraint : Constraint, optional
        ``c(t, x, u) -> (*b, c)`` or ``c(t, x)`` between bounds at all times.

    Attributes
    ----------
    free_time : FreeTime or None
        Bounds of a free final time; `horizon` then holds its guess.
    free_initial_state : FreeInitialState or None
        Bounds of free initial states; `initial_state` then holds their guess.

    Raises
    ------
    InputError, ShapeError
        If an argument is unusable; the text says what was expected and what to do.

    References
    ----------
    .. [1] Q. Li, L. Chen, C. Tai, W. E, *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018),
       Eq. (1).

    Examples
    --------
    The scalar linear-quadratic regulator, whose optimal cost is ½ tanh 1 = 0.380797:

    >>> import ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
    ...     initial_state=[1.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Unconstrained(1),
    ... )
    >>> print(f"{float(oc.solve(problem).cost):.4f}")
    0.3808
    """

    dynamics: Dynamics
    running_cost: Dynamics | None
    terminal_cost: TerminalCost | None
    initial_state: Tensor  # (B, n)
    horizon: tuple[float, float]
    control_set: ControlSet
    shared_control: bool
    terminal_constraint: Constraint | None
    path_constraint: Constraint | None
    free_time: FreeTime | None
    free_initial_state: FreeInitialState | None

    def __init__(
        self,
        dynamics: Dynamics,
        running_cost: Dynamics | None = None,
        terminal_cost: TerminalCost | None = None,
        *,
        initial_state: Any,
        horizon: tuple[float, float | FreeTime],
        control_set: ControlSet,
        shared_control: bool = False,
        terminal_constraint: Constraint | None = None,
        path_constraint: Constraint | None = None,
    ) -> None:
        for name, function, call in (
            ("dynamics", dynamics, "f(t, x, u)"),
            ("running_cost", running_cost, "L(t, x, u)"),
            ("terminal_cost", terminal_cost, "Phi(x)"),
        ):
            if not callable(function) and (function is not None or name == "dynamics"):
                raise InputError(
                    complaint(name, expected="a callable", got=repr(function), todo=f"Pass a function {call}.")
                )
        if not isinstance(control_set, ControlSet):
            todo = "Pass oc.Unconstrained(m), oc.Box(…), oc.Ball(radius, m), oc.FiniteSet(points) or oc.Product(…)."
            raise InputError(complaint("control_set", expected="a control set", got=repr(control_set), todo=todo))
        if not isinstance(shared_control, bool):
            todo = "Pass True (one control for all trajectories) or False."
            raise InputError(complaint("shared_control", expected="a bool", got=repr(shared_control), todo=todo))
        _check_constraint("terminal_constraint", terminal_constraint, (1,), "c(x)")
        _check_constraint("path_constraint", path_constraint, (2, 3), "c(t, x) or c(t, x, u)")
        free = initial_state if isinstance(initial_state, FreeInitialState) else None
        x0 = as_tensor(initial_state if free is None else free.guess, what="initial_state")
        x0 = x0.reshape(1, -1) if x0.ndim < 2 else x0
        if x0.ndim != 2 or 0 in x0.shape:
            todo = "Pass one state (n,) or a batch of states (B, n)."
            raise ShapeError(
                complaint("initial_state", expected="(n,) or (B, n)", got=f"shape {tuple(x0.shape)}", todo=todo)
            )
        rows = sorted({int(i) for i in (~torch.isfinite(x0)).nonzero()[:, 0]})
        if rows:
            todo = "Remove or repair these rows."
            raise InputError(
                complaint("initial_state", expected="finite entries", got=f"NaN or infinity in rows {rows}", todo=todo)
            )
        numbers, free_time = _checked_horizon(horizon)
        for name, value in {
            "dynamics": dynamics,
            "running_cost": running_cost,
            "terminal_cost": terminal_cost,
            "initial_state": x0,
            "horizon": numbers,
            "control_set": control_set,
            "shared_control": shared_control,
            "terminal_constraint": terminal_constraint,
            "path_constraint": path_constraint,
            "free_time": free_time,
            "free_initial_state": free,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def n(self) -> int:
        """State dimension."""
        return self.initial_state.shape[1]

    @property
    def m(self) -> int:
        """Control dimension."""
        return self.control_set.m

    @property
    def trajectories(self) -> int:
        """Number of trajectories B."""
        return self.initial_state.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the run."""
        return self.initial_state.dtype

    @property
    def groups(self) -> int:
        """Number of independent controls G: 1 if shared, else B."""
        return 1 if self.shared_control else self.trajectories

    @property
    def restrictions(self) -> tuple[str, ...]:
        """What it has beyond a fixed start, a fixed horizon and a free end, by name."""
        named = ("terminal_constraint", "path_constraint", "free_time", "free_initial_state")
        return tuple(name for name in named if getattr(self, name) is not None)

    def __repr__(self) -> str:
        sharing = "one shared control" if self.shared_control else "one control each"
        extra = "".join(f", {name}" for name in self.restrictions)
        return (
            f"OptimalControlProblem(n={self.n}, m={self.m}, {self.trajectories} trajectories, {sharing}, "
            f"horizon={self.horizon}, control_set={self.control_set!r}{extra})"
        )


def changed(problem: OptimalControlProblem, **parts: Any) -> OptimalControlProblem:
    """The problem with other parts, by the names of its constructor."""
    free = problem.free_time
    own: dict[str, Any] = {
        "dynamics": problem.dynamics,
        "running_cost": problem.running_cost,
        "terminal_cost": problem.terminal_cost,
        "initial_state": problem.free_initial_state or problem.initial_state,
        "horizon": problem.horizon if free is None else (problem.horizon[0], free),
        "control_set": problem.control_set,
        "shared_control": problem.shared_control,
        "terminal_constraint": problem.terminal_constraint,
        "path_constraint": problem.path_constraint,
    }
    return OptimalControlProblem(**(own | parts))


def with_rows(problem: OptimalControlProblem, rows: Dynamics, lower: Tensor, upper: Tensor) -> OptimalControlProblem:
    """The problem with more path constraints, the last ones: rows (t, x, u) -> (*b, B, r) between bounds (r,)."""
    path, x = problem.path_constraint, problem.initial_state
    if path is not None:
        t, u = x.new_full((1,), problem.horizon[0]), problem.control_set.project(x.new_zeros(problem.groups, problem.m))
        with torch.no_grad():
            own = path.bounds(path.path(t, x, u))
        lower, upper = torch.cat((own[0], lower)), torch.cat((own[1], upper))

    def constraint(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return rows(t, x, u) if path is None else torch.cat((path.path(t, x, u), rows(t, x, u)), -1)

    return changed(problem, path_constraint=Constraint(constraint, lower, upper))


def with_some_states(problem: OptimalControlProblem, rows: Any) -> OptimalControlProblem:
    """The problem with some of its initial states."""
    free = problem.free_initial_state
    if free is None:
        return changed(problem, initial_state=problem.initial_state[rows])
    return changed(problem, initial_state=FreeInitialState(free.guess[rows], free.lower[rows], free.upper[rows]))


def differ_by_start(one: OptimalControlProblem, other: OptimalControlProblem) -> bool:
    """Whether two problems are the same but for the values of their initial states, and times that are fixed."""
    if one.free_initial_state is not None or other.free_initial_state is not None:
        return False
    a, b = one.initial_state, other.initial_state
    functions = "dynamics", "running_cost", "terminal_cost"
    times = () if one.free_time is None else ("horizon",)
    parts = (*functions, *times, "free_time", "control_set", "terminal_constraint", "path_constraint")
    same = (a.shape, a.dtype, a.device, one.shared_control) == (b.shape, b.dtype, b.device, other.shared_control)
    return same and all(_alike(getattr(one, name), getattr(other, name)) for name in parts)


def _alike(one: Any, other: Any) -> bool:
    """Whether two parts of problems are the same, or are made of the same."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (Box, Constraint)):
        return all(_alike(getattr(one, entry.name), getattr(other, entry.name)) for entry in fields(one))
    return bool(one == other)


def _check_constraint(name: str, constraint: Any, arguments: tuple[int, ...], call: str) -> None:
    if constraint is None:
        return
    todo = f"Pass oc.Constraint(function, lower, upper) with a function {call}."
    if not isinstance(constraint, Constraint):
        raise InputError(complaint(name, expected="a Constraint", got=repr(constraint), todo=todo))
    taken = positional(constraint.function, arguments[-1])
    if taken not in arguments:
        raise InputError(complaint(name, expected=f"a function {call}", got=f"one of {taken} arguments", todo=todo))


def _checked_horizon(horizon: Any) -> tuple[tuple[float, float], FreeTime | None]:
    """Numbers (t0, t1), t1 being where to start if it is free."""
    todo = "Pass horizon=(t0, t1) with t0 < t1, or (t0, oc.FreeTime(guess=…))."
    try:
        first, last = horizon
        free = last if isinstance(last, FreeTime) else None
        t0 = float(first)
        t1 = float(last) if free is None else free.start(t0)
    except (TypeError, ValueError) as error:
        raise InputError(complaint("horizon", expected="two numbers (t0, t1)", got=repr(horizon), todo=todo)) from error
    if free is not None and free.upper <= t0:
        got = f"t0 = {t0:g}, upper bound {free.upper:g}"
        raise InputError(complaint("horizon", expected="a final time that may exceed t0", got=got, todo=todo))
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 < t1):
        raise InputError(complaint("horizon", expected="finite t0 < t1", got=f"t0 = {t0}, t1 = {t1}", todo=todo))
    return (t0, t1), free
