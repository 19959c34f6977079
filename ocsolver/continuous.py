"""Sweeps of a continuous problem on a mesh: the transcription of `OptimalControlProblem`; it knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ocsolver._autodiff import leaf
from ocsolver._call import call
from ocsolver._shapes import as_tensor, check_finite, group_mean, per_row
from ocsolver.adjoints import Adjoint, ContinuousAdjoint, DiscreteAdjoint
from ocsolver.errors import InputError, ShapeError, complaint
from ocsolver.hamiltonian import (
    HamiltonianBlock,
    augmented_field,
    terminal_cost,
    terminal_costate,
    terminal_curvature,
)
from ocsolver.integrators import RK4, Integrator
from ocsolver.intervals import Intervals, Linearization
from ocsolver.mesh import Mesh
from ocsolver.pieces import gauss, shifted
from ocsolver.problem import OptimalControlProblem
from ocsolver.status import Status
from ocsolver.timeparallel import newton_sweep, sweep_by_windows
from ocsolver.transcription import Control, Discretization, Failure, Sweep, transcribe

__all__ = ["ContinuousForward", "ContinuousTranscription"]

DEFAULT_INTERVALS = 100
MOVE, CHANGE = 1e-3, 1e-5  # relative move of a variable that torch has no derivative by, and change that it makes
GAUSS_POINTS = 4  # quadrature nodes of the averaged Hamiltonian, exact to order 8
MANY_INTERVALS = 200  # from which on a sweep that fails as a whole is tried in parts before stepping
COUPLING_LIMIT = 1_000_000  # entries that second derivatives of all interval maps may fill
ELEMENT_COST = 1e-3 / 5.0  # cost of one more tensor element relative to the overhead of one call (measured)


@dataclass(frozen=True, eq=False)
class ContinuousForward:
    """A simulated trajectory."""

    u: Tensor  # (N, G, m)
    x: Tensor  # (N + 1, B, n); NaN after a failing node
    running: Tensor  # (N, B), cost of each interval
    terminal: Tensor  # (B,)
    groups: int
    linearization: Linearization | None = None

    @property
    def control(self) -> Control:
        """The simulated control as a tuple of blocks."""
        return (self.u,)

    @cached_property
    def cost(self) -> Tensor:
        """J (G,), inf where the simulation failed."""
        total = self.running.sum(0) + self.terminal
        # the costs may not look at the components that failed
        total = torch.where(torch.isfinite(self.x[-1]).all(-1), total, torch.inf)
        cost = group_mean(total, self.groups)
        return torch.where(torch.isfinite(cost), cost, torch.inf)

    @cached_property
    def scale(self) -> Tensor:
        """∫|L| dt + |Φ| (G,)."""
        return group_mean(self.running.abs().sum(0) + self.terminal.abs(), self.groups)

    @cached_property
    def finite(self) -> Tensor:
        """Which groups were simulated to the end (G,)."""
        return torch.isfinite(self.cost)


@dataclass(frozen=True, eq=False)
class ContinuousTranscription:
    """A continuous problem on a mesh."""

    problem: OptimalControlProblem
    mesh: Mesh
    integrator: Integrator
    adjoint: Adjoint

    @property
    def groups(self) -> int:
        """Number of control groups G."""
        return self.problem.groups

    @cached_property
    def nodes(self) -> Tensor:
        """Times of the nodes (N + 1,)."""
        t0, t1 = self.problem.horizon
        x0 = self.problem.initial_state
        return (t0 + (t1 - t0) * self.mesh.nodes).to(dtype=x0.dtype, device=x0.device)

    @cached_property
    def intervals(self) -> Intervals:
        """Interval maps."""
        t = self.nodes
        return Intervals(self.problem, self.integrator, t[:-1, None], t.diff()[:, None])

    # ---------------------------------------------------------------- control

    def start(self, initial_control: Any) -> Control:
        """Starting control (N, G, m) from any form that `solve` takes."""
        x0, N, G, m = self.problem.initial_state, self.mesh.intervals, self.groups, self.problem.m
        todo = f"Pass None, (m,) = ({m},), (N, G, m) = {(N, G, m)}, a function t -> (m,) or a Solution."
        midpoints = 0.5 * (self.nodes[1:] + self.nodes[:-1])
        if initial_control is None:
            u = x0.new_zeros(N, G, m)
        elif callable(getattr(initial_control, "control", None)):
            u = self._sample(initial_control, todo)
        elif callable(initial_control):
            values = [call(initial_control, "initial_control", t) for t in midpoints]
            u = torch.stack([as_tensor(value, what="initial_control(t)", like=x0) for value in values])
            if u.shape[1:] not in ((m,), (G, m)):
                got = f"shape {tuple(u.shape[1:])}"
                raise ShapeError(complaint("initial_control(t)", expected=f"shape ({m},)", got=got, todo=todo))
            u = u.reshape(N, -1, m)
        else:
            u = as_tensor(initial_control, what="initial_control", like=x0)
            if u.shape not in ((m,), (N, G, m), (N, 1, m)):
                raise ShapeError(
                    complaint("initial_control", expected=f"({m},) or {(N, G, m)}", got=tuple(u.shape), todo=todo)
                )
        check_finite(u, what="initial_control")
        return (self.problem.control_set.project(u.expand(N, G, m).contiguous()),)

    def _sample(self, solution: Any, todo: str) -> Tensor:
        """Mean of a Solution's control over each interval, by its values inside; its horizon may be another."""
        inner = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
        h = self.nodes.diff()
        times = (self.nodes[:-1, None] + h[:, None] * inner.to(h)).reshape(-1)  # (N 8,)
        u: Tensor = solution.control(shifted(times, solution.t)).to(self.problem.initial_state)
        N, G, m = self.mesh.intervals, self.groups, self.problem.m
        if u.shape[-1] != m or u.shape[1] not in (1, G):
            raise ShapeError(
                complaint(
                    "initial_control (Solution)", expected=f"(G, m) = {(G, m)}", got=tuple(u.shape[1:]), todo=todo
                )
            )
        return u.reshape(N, 8, u.shape[1], m).mean(1)

    def check(self, control: Control, *, derivatives: bool = True) -> None:
        """Call every callable once, as the sweeps will: type, shape, dtype, device, finiteness, and derivatives."""
        problem, (u,) = self.problem, control
        x0, t = problem.initial_state, self.intervals.t
        batch = (2, self.mesh.intervals)  # an extra leading axis, as replicas have
        t, x, u = t.expand(*batch, 1), x0.expand(*batch, *x0.shape).contiguous(), u.expand(2, *u.shape).contiguous()
        with torch.no_grad():
            _check_output("dynamics", call(problem.dynamics, "dynamics", t, x, u), x, x.shape, "(*b, B, n)")
            if problem.running_cost is not None:
                rate = call(problem.running_cost, "running_cost", t, x, u)
                _check_output("running_cost", rate, x, x.shape[:-1], "(*b, B)")
            if problem.terminal_cost is not None:
                cost = call(problem.terminal_cost, "terminal_cost", x)
                _check_output("terminal_cost", cost, x, x.shape[:-1], "(*b, B)")
        if derivatives:
            self.check_derivatives(control)

    def check_derivatives(self, control: Control) -> None:
        """Refuse callables that depend on states or controls without telling torch how."""
        problem, u = self.problem, control[0][:1]
        x, t, sets = problem.initial_state[None], self.nodes[:1, None], problem.control_set
        step = MOVE * (1.0 + u.abs())
        step = torch.where(sets.project(u + step) == u, -step, step)
        ways: dict[str, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]
        ways = {"x": (x, MOVE * (1.0 + x.abs()), lambda x: x), "u": (u, step, sets.project)}
        if not sets.convex:  # controls are compared one by one
            del ways["u"]
        running, terminal, path = problem.running_cost, problem.terminal_cost, problem.path_constraint
        end = problem.terminal_constraint
        _check_hidden("dynamics", lambda x=x, u=u: problem.dynamics(t, x, u), ways)
        if running is not None:
            _check_hidden("running_cost", lambda x=x, u=u: running(t, x, u), ways)
        if path is not None:
            arguments = path.arguments
            _check_hidden("path_constraint", lambda x=x, u=u: path.function(*(t, x, u)[:arguments]), ways)
        for name, function in (("terminal_cost", terminal), ("terminal_constraint", end and end.function)):
            if function is not None:
                _check_hidden(name, lambda x=x, u=u, function=function: function(x), ways)

    # ---------------------------------------------------------------- forward

    @torch.no_grad()
    def forward(self, control: Control, near: Any = None) -> ContinuousForward:
        """Simulate a control; with a trajectory `near`, all intervals at once by Newton's method when that pays."""
        (u,) = control
        if near is not None and self._parallel_pays:
            fast = self._forward_parallel(u, near)
            if fast is not None:
                return fast
        return self._forward_sequential(u)

    def _finish(self, u: Tensor, x: Tensor, running: Tensor, linearization: Linearization | None) -> ContinuousForward:
        return ContinuousForward(u, x, running, terminal_cost(self.problem, x[-1]), self.groups, linearization)

    def _forward_sequential(self, u: Tensor) -> ContinuousForward:
        x, running = [self.problem.initial_state], []
        for k in range(self.mesh.intervals):
            x_next, ell = self.intervals.step(k, x[-1], u[k])
            x.append(x_next)
            running.append(ell)
        states = torch.stack(x)
        bad = (~torch.isfinite(states).all(-1)).cummax(0).values  # a row stays NaN after its failing node
        return self._finish(u, torch.where(bad[..., None], torch.nan, states), torch.stack(running), None)

    @cached_property
    def _parallel_pays(self) -> bool:
        """Whether Newton sweeps over all intervals (3 linearizations) cost less than a loop of N calls."""
        N, (B, n) = self.mesh.intervals, self.problem.initial_state.shape
        if self.integrator.adaptive:
            return False
        return 9 * (1 + ELEMENT_COST * N * B * n * (n + 1)) < N * (1 + ELEMENT_COST * B * n)

    def _forward_parallel(self, u: Tensor, near: ContinuousForward) -> ContinuousForward | None:
        """Solve x_{k+1} = Ψ_k(x_k, u_k) for all k by Newton's method from a nearby trajectory; None if that fails.

        The last linearization is that of the solution itself, so the backward sweep needs no other.
        """
        dead = ~torch.isfinite(near.x).all(-1).all(0)  # (B,): rows that failed before
        changed = per_row((u != near.u).any(-1).any(0), dead.numel())
        if bool(dead.all()) or bool((dead & changed).any()):
            return None  # a row that failed tells nothing about another control
        start = self.problem.initial_state
        windows = self.mesh.intervals >= MANY_INTERVALS and not bool(dead.any())
        if windows:
            found = sweep_by_windows(self.intervals, near.x, start, u)
        else:
            found = newton_sweep(self.intervals, near.x, start, u, dead if bool(dead.any()) else None)
        if found is None:
            return None
        x, linearization, running = found
        x, running = torch.where(dead[:, None], near.x, x), torch.where(dead, near.running, running)
        return self._finish(u, x, running, linearization)

    # --------------------------------------------------------------- backward

    @torch.no_grad()
    def backward(self, forward: ContinuousForward) -> Sweep:
        """Costates by the adjoint, and the Hamiltonian of every interval as a function of its control."""
        x, u = forward.x, forward.u
        end = terminal_costate(self.problem, x[-1])
        if forward.linearization is None and self.adjoint.linearizes(self.intervals, x):
            forward = replace(forward, linearization=self.intervals.linearize(x[:-1], u))
        p = self.adjoint.costates(self.intervals, x, u, end, forward.linearization)
        block = self._block(x, p, u)
        terminal = partial(terminal_curvature, self.problem, x[-1]) if block.coupled else None
        return Sweep(forward, (block,), p, terminal)

    def _block(self, x: Tensor, p: Tensor, u: Tensor) -> HamiltonianBlock:
        if self.integrator.differentiable:
            rates = self.intervals.rates
            inputs, costates, points = x[:-1, None], p[1:, None], x.new_ones(1)
            t = self.intervals.t[..., None]
        else:  # average H along the dense output
            fractions, points = gauss(GAUSS_POINTS, x)
            assert isinstance(self.adjoint, ContinuousAdjoint)
            inputs, costates = (z.movedim(0, 1) for z in self.adjoint.points(self.intervals, x, p, u, fractions))
            t = (self.intervals.t + self.intervals.h * fractions)[..., None]  # (N, Q, 1)
            field = augmented_field(self.problem)
            extra = int(self.problem.running_cost is not None)  # the field reads and drops a component for the cost

            def rates(x: Tensor, u: Tensor) -> Tensor:
                return field(t, torch.nn.functional.pad(x, (0, extra)), u)

        if self.problem.running_cost is not None:
            costates = torch.cat((costates, -torch.ones_like(costates[..., :1])), -1)
        return HamiltonianBlock(
            rates=rates,
            x=inputs,
            sensitivity=costates,
            state_components=self.problem.n,
            weights=self.nodes.diff(),
            points=points,
            current=u,
            control_set=self.problem.control_set,
            t=t,
            coupled=self._couples,
        )

    @cached_property
    def _couples(self) -> bool:
        """Whether second derivatives of all interval maps in (x, u) are affordable."""
        N, (B, n), m = self.mesh.intervals, self.problem.initial_state.shape, self.problem.m
        fits = self.integrator.differentiable and not self.integrator.adaptive
        return fits and (m + n) * N * B * (n + 1) <= COUPLING_LIMIT

    def merge(self, mask: Tensor, new: ContinuousForward, old: ContinuousForward) -> ContinuousForward:
        """Take the groups in `mask` (G,) from `new`, the others from `old`."""
        if bool(mask.all()):
            return new
        rows = per_row(mask, self.problem.trajectories)
        linearization = None
        if new.linearization is not None and old.linearization is not None:
            a, b = new.linearization, old.linearization
            linearization = Linearization(
                torch.where(rows[:, None], a.x_next, b.x_next),
                torch.where(rows, a.running, b.running),
                torch.where(rows[:, None, None], a.jacobian, b.jacobian),
                torch.where(rows[:, None], a.slope, b.slope),
            )
        return ContinuousForward(
            torch.where(mask[:, None], new.u, old.u),
            torch.where(rows[:, None], new.x, old.x),
            torch.where(rows, new.running, old.running),
            torch.where(rows, new.terminal, old.terminal),
            self.groups,
            linearization,
        )

    # ---------------------------------------------------------------- failure

    @torch.no_grad()
    def diagnose(self, forward: ContinuousForward, group: int) -> Failure:
        """Find the first callable that returned a non-finite value on the way, or the interval that failed."""
        rows = range(self.problem.trajectories) if self.groups == 1 else [group]
        for row in rows:
            bad_state = ~torch.isfinite(forward.x[:, row]).all(-1)
            bad_cost = ~torch.isfinite(forward.running[:, row])
            if not bool(bad_state.any() | bad_cost.any() | ~torch.isfinite(forward.terminal[row])):
                continue
            k = min(
                int(bad_state.nonzero()[0]) - 1 if bool(bad_state.any()) else self.mesh.intervals,
                int(bad_cost.nonzero()[0]) if bool(bad_cost.any()) else self.mesh.intervals,
            )
            if k == self.mesh.intervals:
                return Failure(
                    Status.NONFINITE, f"terminal_cost is {float(forward.terminal[row])} for trajectory {row}"
                )
            return self._diagnose_interval(forward, k, row)
        return Failure(Status.INTEGRATION_FAILED, "the cost is not finite")

    def _diagnose_interval(self, forward: ContinuousForward, k: int, row: int) -> Failure:
        found: list[str] = []
        huge = torch.finfo(forward.x.dtype).max ** 0.25  # beyond it a NaN is the overflow of a blow-up
        field = augmented_field(self.problem)
        n = self.problem.n

        def spy(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
            rate = field(t, z, u)
            state, value = z.reshape(-1, *z.shape[-2:])[0, row, :n], rate.reshape(-1, *rate.shape[-2:])[0, row]
            if not found and bool(torch.isfinite(state).all()) and not bool(torch.isfinite(value).all()):
                j = int((~torch.isfinite(value)).nonzero()[0])
                name = f"dynamics component {j}" if j < n else "running_cost"
                if float(state.abs().max()) < huge:
                    found.append(
                        f"{name} is {float(value[j])} at t = {float(t.reshape(-1)[0]):.6g}, x = {state.tolist()}"
                    )
            return rate

        x = forward.x[k]
        z = x if self.problem.running_cost is None else torch.cat((x, x.new_zeros(x.shape[0], 1)), -1)
        end = self.integrator.step(spy, self.intervals.t[k], self.intervals.h[k], z, forward.u[k])[row, :n]
        t0, t1 = float(self.nodes[k]), float(self.nodes[k + 1])
        if found:
            return Failure(Status.NONFINITE, f"{found[0]} (trajectory {row})")
        bad = ~torch.isfinite(end)
        largest = int(torch.where(bad, x[row].abs(), -1.0).argmax())  # adaptive integrators give up the whole row
        component = f"state component {largest}" if bool(bad.any()) else "the running cost"
        return Failure(
            Status.INTEGRATION_FAILED,
            f"{component} of trajectory {row} blows up between t = {t0:.6g} and t = {t1:.6g} "
            f"(last |x| = {float(x[row].abs().max()):.3g})",
        )


def _check_output(name: str, output: Any, x: Tensor, shape: torch.Size, axes: str) -> None:
    """Check what a callable returned for x (2, N, B, n); sizes of 1 on batch axes are expanded by the library."""
    if not isinstance(output, Tensor):
        todo = f"Return a torch tensor of shape {axes}."
        raise ShapeError(complaint(name, expected="a tensor", got=type(output).__name__, todo=todo))
    batch = len(x.shape) - 1  # the first axes of every output are batch axes
    fits = output.ndim == len(shape) and all(
        a == b or (a == 1 and axis < batch) for axis, (a, b) in enumerate(zip(output.shape, shape, strict=True))
    )
    if not fits:
        todo = (
            f"Return {axes} for x (*b, B, n): keep every batch axis (index components by x[..., i], reduce by .sum(-1) "
            "only, never over the batch) and add none."
        )
        got = f"shape {tuple(output.shape)} for x of shape {tuple(x.shape)}"
        raise ShapeError(complaint(name, expected=f"shape {tuple(shape)}", got=got, todo=todo))
    if output.dtype != x.dtype or output.device != x.device:
        todo = "Build constants with the dtype and device of x (e.g. torch.tensor(…).to(x)), or cast initial_state."
        expected, got = f"{x.dtype} on {x.device} (those of initial_state)", f"{output.dtype} on {output.device}"
        raise ShapeError(complaint(name, expected=expected, got=got, todo=todo))
    check_numbers(name, output)


def check_numbers(name: str, output: Tensor) -> None:
    """Refuse what a callable returned (2, N, …) if its values at the initial time and state are not finite."""
    first = output[:, 0]
    if not bool(torch.isfinite(first).all()):
        index = tuple(int(i) for i in (~torch.isfinite(first)).nonzero()[0])[1:]
        todo = "Check the callable at the initial state, or start from another initial_control."
        got = f"{float(first[(0, *index)])} at trajectory/component {index}"
        raise InputError(
            complaint(f"{name} at the initial time and state", expected="finite values", got=got, todo=todo)
        )


def _check_hidden(
    name: str,
    function: Callable[..., Tensor],
    ways: dict[str, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]],
) -> None:
    """Refuse a function whose value changes smoothly with a variable of which its derivative knows nothing.

    Parameters
    ----------
    name : str
        The callable, for the message.
    function : callable
        Of the variables by name, all of which it can do without.
    ways : dict
        Of each variable its value, a small step, and what brings it back to where it may be.
    """
    with torch.enable_grad():
        leaves = {variable: leaf(value) for variable, (value, _, _) in ways.items()}
        output = function(**leaves)
        slopes: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if output.requires_grad:
            slopes = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
    for (variable, (value, step, back)), slope in zip(ways.items(), slopes, strict=True):
        if slope is not None:
            continue
        with torch.no_grad():
            here, near, far = (function(**{variable: back(value + shift * step)}) for shift in (0.0, 1.0, 2.0))
        change, more = (near - here).abs().nan_to_num(), (far - here).abs().nan_to_num()
        smooth = more > 1.5 * change  # functions that jump have no derivatives to lose
        if bool((smooth & (change > CHANGE * (1.0 + here.abs()))).any()):
            todo = "Use torch operations on x and u, without .detach(), .numpy() or float(…): derivatives are needed."
            expected = f"a function whose derivative by {variable} torch knows"
            got = f"values that change with {variable} and have no gradient"
            raise InputError(complaint(name, expected=expected, got=got, todo=todo))


@transcribe.register
def _(problem: OptimalControlProblem, discretization: Discretization) -> ContinuousTranscription:
    mesh, integrator, adjoint = discretization.mesh, discretization.integrator, discretization.adjoint
    if mesh is None:
        mesh = DEFAULT_INTERVALS
    if not isinstance(mesh, Mesh):
        mesh = Mesh.uniform(mesh)
    integrator = RK4() if integrator is None else integrator
    if not isinstance(integrator, Integrator):
        todo = "Pass an instance such as oc.RK4() or oc.TorchDiffEq('dopri5')."
        raise InputError(complaint("integrator", expected="an Integrator", got=repr(integrator), todo=todo))
    if adjoint is None:
        adjoint = DiscreteAdjoint() if integrator.differentiable else ContinuousAdjoint()
    if not isinstance(adjoint, Adjoint):
        todo = "Pass oc.DiscreteAdjoint() or oc.ContinuousAdjoint()."
        raise InputError(complaint("adjoint", expected="an Adjoint", got=repr(adjoint), todo=todo))
    adjoint.check(integrator)
    return ContinuousTranscription(problem, mesh, integrator, adjoint)
