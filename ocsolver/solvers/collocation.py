"""Collocation: the maximum principle on an adaptive mesh, for constraints, free ends and high accuracy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocsolver._call import call
from ocsolver.collocation.campaign import Campaign, Stop
from ocsolver.collocation.interior import Limits as BoundsOf
from ocsolver.collocation.points import Stacked
from ocsolver.constraints import Constraint
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.freetime import on_unit_time
from ocsolver.integrators import RK4
from ocsolver.maximizers.base import positive_int
from ocsolver.mesh import Mesh
from ocsolver.outcome import History, Stats
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.transcription import Discretization, transcribe
from ocsolver.violations import measure_violations

__all__ = ["Collocation"]

INTERVALS = 25  # of the first mesh


@dataclass(frozen=True)
class Collocation(Solver):
    """Solve the maximum principle, collocated at Gauss points, by an interior-point method on an adaptive mesh.

    Control bounds, path constraints, terminal constraints, a free final time and free initial states are all served; the
    multipliers of the collocation equations are the costates. It starts from a trivial guess, encloses the times at
    which a control jumps or reaches a bound, and divides intervals until the errors of the cost are below the tolerance
    of `solve`. Its control is a polynomial on each interval, so one that jumps only at nodes.

    Parameters
    ----------
    stages : int, default 3
        Gauss points s of an interval; the order is 2s.
    max_intervals : int, default 1000
        Largest number of intervals of a mesh.

    References
    ----------
    .. [1] W. Hager, *Runge–Kutta methods in optimal control and the transformed adjoint system*, Numer. Math. 87 (2000).
    .. [2] A. Wächter, L. Biegler, *On the implementation of an interior-point filter line-search algorithm for
       large-scale nonlinear programming*, Math. Program. 106 (2006).

    Examples
    --------
    The double integrator in minimal time, J* = 2:

    >>> import torch, ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
    ...     lambda t, x, u: torch.ones_like(x[..., 0]),
    ...     initial_state=[-1.0, 0.0],
    ...     horizon=(0.0, oc.FreeTime()),
    ...     control_set=oc.Box(-1.0, 1.0),
    ...     terminal_constraint=oc.Constraint(lambda x: x),
    ... )
    >>> solution = oc.solve(problem, oc.Collocation())
    >>> print(f"{float(solution.cost):.6f}, switch at {solution.switches[0][0][0]:.4f}")
    2.000000, switch at 1.0000
    """

    stages: int = 3
    max_intervals: int = 1000

    def __post_init__(self) -> None:
        positive_int(self.stages, "Collocation stages")
        positive_int(self.max_intervals, "Collocation max_intervals")

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        begin = time.perf_counter()
        _check_supported(problem, discretization)
        mesh = discretization.mesh
        inner = transcribe(problem, Discretization(INTERVALS if mesh is None else mesh, None, None))
        control = inner.start(start)
        inner.check(control)
        _check_constraints(problem, control[0])
        unit = on_unit_time(problem)
        stacked = Stacked(unit)
        t0, t1 = unit.horizon
        nodes = (t0 + (t1 - t0) * inner.mesh.nodes).to(torch.float64).numpy()[:, None].repeat(stacked.groups, 1)
        stop = Stop(limits.max_iterations, limits.max_seconds, limits.tolerance, begin)
        campaign = Campaign(stacked, _limits(stacked), self.stages, self.max_intervals, stop, clocked=problem.free_time is not None)
        guess = None if start is None else control[0].to(torch.float64).cpu().numpy()
        campaign.run(nodes, guess)
        return self._solution(problem, campaign, begin)

    def _solution(self, problem: OptimalControlProblem, campaign: Campaign, begin: float) -> Solution:
        like, point, mesh = problem.initial_state, campaign.point, campaign.mesh
        tensor = lambda values: torch.as_tensor(np.ascontiguousarray(values), dtype=like.dtype, device=like.device)  # noqa: E731
        members, B, n = campaign.stacked.members, problem.trajectories, problem.n
        clocked = problem.free_time is not None
        states = lambda values: tensor(values).reshape(*values.shape[:-2], B, -1)[..., :n]  # noqa: E731
        t = mesh.t
        if clocked:
            duration = point.nodes[0].reshape(len(point.nodes[0]), members, n + 1)[:, 0, n]  # (G,)
            t = problem.horizon[0] + duration * t
        else:
            duration = np.ones(t.shape[1])
        multipliers = {}
        path = problem.path_constraint
        y = None
        if path is not None:
            y = tensor(members * point.y / duration[:, None]).reshape(*point.y.shape[:-2], B if members > 1 else t.shape[1], -1)
        pieces = Pieces(tensor(point.u), states(point.x), members * states(point.p), y)
        x, p = states(point.nodes), members * states(point.costates)
        if y is not None:
            weights = tensor(campaign.mesh.tableau.b)
            multipliers["path_constraint"] = torch.einsum("s,nsgc->ngc", weights, y)
        if problem.terminal_constraint is not None:
            multipliers["terminal_constraint"] = tensor(members * point.nu).reshape(B if members > 1 else t.shape[1], -1)
        times = tensor(t)
        span = times[-1, 0] - times[0, 0]
        relative = ((times[:, 0] - times[0, 0]) / span).to(torch.float64).clamp(0.0, 1.0)
        relative[-1] = 1.0
        switches = [
            [(float(problem.horizon[0] + d * w.time) if clocked else float(w.time), w.component) for w in row]
            for d, row in zip(duration, campaign.switches, strict=True)
        ]
        costs, residuals = (np.array(part) for part in zip(*campaign.history, strict=True))
        unknown = torch.full((len(costs), t.shape[1]), torch.nan, dtype=like.dtype)
        history = History(
            tensor(costs), tensor(residuals), *(unknown.clone() for _ in range(5)), torch.ones_like(unknown, dtype=torch.bool)
        )
        return Solution(
            residual=tensor(campaign.residual),
            status=campaign.status,
            notes=campaign.notes,
            history=history,
            stats=Stats(len(costs) - 1, dict(campaign.counts), {"total": time.perf_counter() - begin}),
            solver=repr(self),
            t=times,
            x=x,
            p=p,
            u=pieces.mean_control(problem),
            cost=tensor(campaign.cost),
            problem=problem,
            discretization=Discretization(Mesh(relative), RK4(), None),
            shared_control=problem.shared_control,
            pieces=pieces,
            multipliers=multipliers,
            violations=measure_violations(problem, times, x, pieces),
            switches=switches,
        )


def _check_supported(problem: Any, discretization: Discretization) -> None:
    todo = "Use oc.EMSA()."
    if not isinstance(problem, OptimalControlProblem):
        got = type(problem).__name__
        raise UnsupportedError(complaint("Collocation", expected="an OptimalControlProblem", got=got, todo=todo))
    if problem.control_set.bounds(problem.initial_state) is None:
        todo = "Relax the set to a Box (and round the result), or use oc.EMSA()."
        raise UnsupportedError(
            complaint("Collocation", expected="an Unconstrained set or a Box", got=problem.control_set, todo=todo)
        )
    for name in ("integrator", "adjoint"):
        if getattr(discretization, name) is not None:
            todo = "Leave it out; the accuracy is that of the tolerance."
            got = repr(getattr(discretization, name))
            raise UnsupportedError(complaint(f"Collocation {name}", expected="None: it is a method of its own", got=got, todo=todo))


def _check_constraints(problem: OptimalControlProblem, u: Tensor) -> None:
    """Call the constraints once and check what they return."""
    x = problem.initial_state.expand(2, 3, *problem.initial_state.shape).contiguous()
    t = x.new_full((2, 3, 1), problem.horizon[0])
    with torch.no_grad():
        if problem.terminal_constraint is not None:
            constraint: Constraint = problem.terminal_constraint
            output = call(constraint.function, "terminal_constraint", x)
            constraint.check("terminal_constraint", output, x)
        if problem.path_constraint is not None:
            constraint = problem.path_constraint
            arguments = (t, x, u[:1].expand(2, 3, *u.shape[1:]))[: constraint.arguments]
            constraint.check("path_constraint", call(constraint.function, "path_constraint", *arguments), x)


def _limits(stacked: Stacked) -> BoundsOf:
    """Bounds of everything, as arrays."""
    problem = stacked.problem
    array = lambda side: side.detach().cpu().to(torch.float64).numpy()  # noqa: E731
    sides = problem.control_set.bounds(problem.initial_state)
    assert sides is not None
    free = problem.free_initial_state
    start = (problem.initial_state, problem.initial_state) if free is None else (free.lower, free.upper)
    x, t = problem.initial_state, problem.initial_state.new_full((1,), problem.horizon[0])
    u = problem.control_set.project(x.new_zeros(problem.groups, problem.m))

    def bounds(constraint: Constraint | None, arguments: tuple[Tensor, ...]) -> tuple[Any, Any]:
        if constraint is None:
            return np.zeros(0), np.zeros(0)
        with torch.no_grad():
            values = constraint.terminal(*arguments) if len(arguments) == 1 else constraint.path(*arguments)
        lower, upper = constraint.bounds(values)
        return np.tile(array(lower), stacked.members), np.tile(array(upper), stacked.members)

    return BoundsOf(
        *(array(side) for side in sides),
        *bounds(problem.path_constraint, (t, x, u)),
        *bounds(problem.terminal_constraint, (x,)),
        *(array(side).reshape(stacked.groups, stacked.v) for side in start),
    )
