"""Constraints and free ends for solvers that know none: an outer loop of multipliers around any of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.maximizers.base import positive_int
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.emsa import EMSA
from ocsolver.solvers.rounds import Rounds, Rules
from ocsolver.transcription import Discretization

__all__ = ["AugmentedLagrangian"]


@dataclass(frozen=True)
class AugmentedLagrangian(Solver):
    """Constraints by multipliers and a quadratic penalty, around any solver for free ends [1]_.

    Every round solves a problem without constraints, from the solution of the last: terminal constraints are priced in
    Φ, path constraints in L, at the nodes and midpoints of the mesh. Then the multipliers follow the violations, per
    trajectory, and the penalty grows where these did not fall enough, per group. A free initial state becomes the
    control of one more interval before t0, a free final time a state with a free start. So the inner solver finds
    them together with the control.

    `history` counts all rounds; its costs are those of the augmented Lagrangian. Multipliers are derivatives of the
    Lagrangian J + Σ λ·c + ∫ ν·c dt, ≥ 0 at upper bounds, ≤ 0 at lower ones.

    Parameters
    ----------
    solver : Solver, optional
        Solves each round; None means ``EMSA()``.
    feasibility : float, default 1e-6
        Largest violation of a constraint at the nodes and midpoints.
    growth : float, default 4.0
        Factor of the penalty.
    rounds : int, default 40
        Largest number of rounds.

    References
    ----------
    .. [1] D. Bertsekas, *Constrained Optimization and Lagrange Multiplier Methods*, Academic Press 1982.

    Examples
    --------
    A cart brought to rest at the origin with the least effort, J* = 6:

    >>> import torch, ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: torch.cat((x[..., 1:], u), -1),
    ...     lambda t, x, u: 0.5 * u[..., 0] ** 2,
    ...     initial_state=[-1.0, 0.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Unconstrained(1),
    ...     terminal_constraint=oc.Constraint(lambda x: x),
    ... )
    >>> solution = oc.solve(problem, oc.AugmentedLagrangian())
    >>> print(solution.status[0].name, f"{float(solution.cost):.2f}")
    CONVERGED 6.00
    """

    solver: Solver | None = None
    feasibility: float = 1e-6
    growth: float = 4.0
    rounds: int = 40

    def __post_init__(self) -> None:
        if self.solver is not None and not isinstance(self.solver, Solver):
            todo = "Pass an instance such as oc.EMSA(), or None."
            raise InputError(
                complaint("AugmentedLagrangian solver", expected="a Solver", got=repr(self.solver), todo=todo)
            )
        for name, low in (("feasibility", 0.0), ("growth", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < math.inf:
                expected, todo = f"a number above {low:g}", "Leave it out for the default."
                raise InputError(
                    complaint(f"AugmentedLagrangian {name}", expected=expected, got=repr(value), todo=todo)
                )
        positive_int(self.rounds, "AugmentedLagrangian rounds")

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        inner = EMSA() if self.solver is None else self.solver
        if not getattr(problem, "restrictions", ()):
            return inner.run(problem, discretization, start, limits)
        _check(problem)
        rules = Rules(inner, self.feasibility, self.growth, self.rounds, repr(self))
        return Rounds(rules, problem, discretization, start, limits).solve()


def _check(problem: OptimalControlProblem) -> None:
    what, todo = None, "Use oc.Collocation()."
    if problem.free_time is not None and problem.groups < problem.trajectories:
        what = "a free final time with several trajectories that share a control"
    free = problem.free_time is not None or problem.free_initial_state is not None
    if free and not problem.control_set.convex:
        what, todo = "a free start or final time with a discrete control set", "Fix it, or relax the control set."
    if what is not None:
        raise UnsupportedError(complaint("AugmentedLagrangian", expected="a problem without it", got=what, todo=todo))
