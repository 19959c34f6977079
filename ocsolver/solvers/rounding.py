"""From a relaxed control to one with values in a discrete set; it minimizes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.arcs import find_arcs
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits
from ocsolver.solvers.msa import MSA
from ocsolver.transcription import Discretization, transcribe
from ocsolver.violations import measure_violations

__all__ = ["sum_up_rounding"]

FINER = 4  # intervals of the default mesh for each one of the relaxed solution


def sum_up_rounding(
    solution: Solution, problem: OptimalControlProblem, *, mesh: Any = None, integrator: Any = None
) -> Solution:
    """Round a relaxed control to a discrete set so that its integral is kept, and simulate it [1]_.

    In interval k the admissible value nearest to (∫(u − v) dt up to the end of k with v unknown there) / h_k is taken,
    so |∫(u − v) dt| stays of the order of h. Where f and L are affine in u, states and J follow: the cost tends to that
    of the relaxed control as the mesh is refined, usually with more and more switches. Where they are not, relax by
    weights of the points and round these.

    Parameters
    ----------
    solution : Solution
        With controls in the convex hull of the discrete set.
    problem : OptimalControlProblem
        The problem with a discrete control set, such as `FiniteSet`; its horizon must be fixed.
    mesh : int or Mesh, optional
        Default: four intervals for each one of the solution.
    integrator : Integrator, optional
        Default: that of the solution, if it has one.

    Returns
    -------
    Solution
        COMPLETED, with the rounded control, its cost, its switches and their number in `notes`.

    Raises
    ------
    InputError, UnsupportedError
        If the control set is not discrete, or the final time free.

    References
    ----------
    .. [1] S. Sager, H. Bock, M. Diehl, *The integer approximation error in mixed-integer optimal control*, Math.
       Program. 133 (2012).

    Examples
    --------
    >>> import ocsolver as oc
    >>> from problems import fishing
    >>> relaxed = oc.solve(fishing.build().problem, oc.EMSA())
    >>> rounded = oc.sum_up_rounding(relaxed, fishing.build(binary=True).problem, mesh=640)
    >>> print(f"{float(relaxed.cost):.3f}, {float(rounded.cost):.3f} with {len(rounded.switches[0])} switches")
    1.344, 1.345 with 80 switches
    """
    if not problem.control_set.discrete:
        todo = "Pass the problem with oc.FiniteSet(points)."
        got = repr(problem.control_set)
        raise InputError(complaint("sum_up_rounding problem", expected="a discrete control set", got=got, todo=todo))
    if problem.free_time is not None:
        todo = "State it with the final time that the relaxed solution found."
        raise UnsupportedError(complaint("sum_up_rounding", expected="a fixed final time", got="FreeTime", todo=todo))
    plain = OptimalControlProblem(
        problem.dynamics,
        problem.running_cost,
        problem.terminal_cost,
        initial_state=solution.x[0],
        horizon=problem.horizon,
        control_set=problem.control_set,
        shared_control=problem.shared_control,
    )
    mesh = FINER * solution.u.shape[0] if mesh is None else mesh
    integrator = solution.discretization.integrator if integrator is None else integrator
    discretization = Discretization(mesh, integrator)
    transcription = transcribe(plain, discretization)
    rounded = _rounded(plain, transcription.nodes, solution)
    simulated = MSA().run(plain, discretization, rounded, Limits(0, None, None, None, False))
    arcs = find_arcs(simulated)
    counts = [len(events) for events in arcs.switches]
    notes = [f"{count} switches after sum-up rounding" for count in counts]
    t, x, p, u = simulated.t, simulated.x, simulated.p, simulated.u
    violations = {}
    if problem.terminal_constraint is not None or problem.path_constraint is not None:
        violations = measure_violations(problem, t, x, Pieces.from_steps(plain, t, x, p, u))
    return replace(
        simulated,
        problem=plain if problem.free_initial_state is not None else problem,
        notes=notes,
        switches=arcs.switches,
        violations=violations,
        solver=f"sum_up_rounding({solution.solver})",
    )


def _rounded(problem: OptimalControlProblem, nodes: Tensor, solution: Solution) -> Tensor:
    """Admissible control (N, G, m) whose integral follows that of the relaxed one."""
    h, points = nodes.diff(), 8
    inside = nodes[:-1, None] + h[:, None] * (torch.arange(points, dtype=nodes.dtype) + 0.5).to(nodes) / points
    relaxed = solution.control(inside.reshape(-1)).to(nodes)
    relaxed = relaxed.reshape(len(h), points, *relaxed.shape[1:]).mean(1)  # (N, G, m)
    missing, values = torch.zeros_like(relaxed[0]), []
    for length, u in zip(h, relaxed, strict=True):
        value = problem.control_set.project(u + missing / length)
        missing = missing + length * (u - value)
        values.append(value)
    return torch.stack(values)
