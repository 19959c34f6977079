"""`ocsolver` as one of the tools of the side-by-side benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ocsolver as oc
from scripts._peers_protocol import ACCURACY
from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["Ours", "control_of", "problem_of"]

PLACES = (np.polynomial.legendre.leggauss(6)[0] + 1) / 2  # where the control of an interval is read


def problem_of(statement: Statement, start: Sequence[Any] | Tensor | None = None) -> oc.OptimalControlProblem:
    """The statement as a problem of the library, from another initial state (n,) or (B, n) if one is given."""

    def tensor(value: Any, x: Tensor) -> Tensor:
        return value if isinstance(value, Tensor) else torch.full_like(x[..., 0], value)

    rates, running, terminal, below = statement.dynamics, statement.running, statement.terminal, statement.below

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.stack(rates(torch, t, x.unbind(-1), u.unbind(-1)), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        assert running is not None
        return tensor(running(torch, t, x.unbind(-1), u.unbind(-1)), x)

    def terminal_cost(x: Tensor) -> Tensor:
        assert terminal is not None
        return tensor(terminal(torch, x.unbind(-1)), x)

    def path(t: Tensor, x: Tensor) -> Tensor:
        assert below is not None
        return torch.stack(below(torch, t, x.unbind(-1)), -1)

    fixed = [i for i, value in enumerate(statement.final) if value is not None]
    ends = [value for value in statement.final if value is not None]
    bounded = any(np.isfinite((*statement.lower, *statement.upper)))
    free = statement.horizon
    return oc.OptimalControlProblem(
        dynamics,
        running_cost if running else None,
        terminal_cost if terminal else None,
        initial_state=torch.as_tensor(statement.start if start is None else start, dtype=torch.float64),
        horizon=(0.0, oc.FreeTime(free.guess, free.lower, free.upper) if isinstance(free, FreeEnd) else free),
        control_set=oc.Box(statement.lower, statement.upper) if bounded else oc.Unconstrained(statement.controls),
        terminal_constraint=oc.Constraint(lambda x: x[..., fixed], ends, ends) if fixed else None,
        path_constraint=oc.Constraint(path, -np.inf, 0.0) if below else None,
    )


def problem_from(problem: oc.OptimalControlProblem, start: Sequence[Any]) -> oc.OptimalControlProblem:
    """The same problem, of the same functions, from another initial state (n,)."""
    t0, t1 = problem.horizon
    return oc.OptimalControlProblem(
        problem.dynamics,
        problem.running_cost,
        problem.terminal_cost,
        initial_state=torch.as_tensor(start, dtype=torch.float64),
        horizon=(t0, t1 if problem.free_time is None else problem.free_time),
        control_set=problem.control_set,
        terminal_constraint=problem.terminal_constraint,
        path_constraint=problem.path_constraint,
    )


def control_of(solution: oc.Solution, group: int = 0) -> Control:
    """The control of one group of a solution as polynomials on its intervals."""
    breaks = solution.t[:, min(group, solution.t.shape[1] - 1)].detach().numpy().astype(float)
    lengths = np.diff(breaks)
    times = breaks[:-1, None] + lengths[:, None] * PLACES  # (N, 6)
    values = solution.control(torch.as_tensor(times.ravel()))[:, group].detach().numpy().reshape(*times.shape, -1)
    return Control(breaks, [PLACES] * len(lengths), list(values))


def answer_of(solution: oc.Solution, scale: float) -> Answer:
    """A solution with what its certificate says: it counts only if that is good enough, too."""

    def certified() -> dict[str, Any]:
        certificate, end = solution.certificate, float(solution.t[-1, 0])
        errors = float(certificate.cost_error.max()), float(certificate.mean_gap.max()) * end
        return {"certificate_cost_error": errors[0], "gap": errors[1], "certified": max(errors) <= ACCURACY * scale}

    cost, success = fmean(solution.cost.tolist()), all(status >= 0 for status in solution.status)
    return Answer(cost, lambda: control_of(solution), success, solution.status[0].name, certified)


@dataclass(frozen=True)
class Ours:
    """`oc.Collocation` with its defaults; a refinement is a tighter tolerance, 10 to the power of −mesh."""

    name: str = "ocsolver"
    tool: str = "ocsolver"
    meshes: tuple[int, ...] = (6, 7, 8, 9)
    evidence: str = "certificate: max H − H(u) along the way, defects against an integration at 1e-12, cost error"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the certified answer."""
        solution = self._solve(problem_of(statement), mesh)
        return answer_of(solution, max(1.0, abs(statement.cost)))

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The problem from the other initial state, started from the solution of the first."""
        problem = problem_of(statement)
        first = self._solve(problem, mesh)
        other = problem_from(problem, statement.nearby)
        scale = max(1.0, abs(statement.cost))
        return lambda: answer_of(self._solve(other, mesh, first), scale)

    @staticmethod
    def _solve(problem: oc.OptimalControlProblem, mesh: int, start: oc.Solution | None = None) -> oc.Solution:
        return oc.solve(problem, oc.Collocation(), tolerance=10.0**-mesh, max_seconds=30.0, initial_control=start)
