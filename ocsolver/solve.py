"""The one call: state a problem, get a Solution; it only checks arguments and hands over to a solver."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from ocsolver._threads import threads_for
from ocsolver.errors import ConvergenceWarning, InputError, SolveError, complaint
from ocsolver.solution import Solution
from ocsolver.solvers import Limits, Solver
from ocsolver.solvers.automatic import Automatic
from ocsolver.transcription import Discretization

__all__ = ["solve"]


class _Default:
    """Marks an argument that was not given."""

    def __repr__(self) -> str:
        return "default"


DEFAULT: Any = _Default()


def solve(
    problem: Any,
    solver: Solver | None = None,
    *,
    mesh: Any = None,
    integrator: Any = None,
    adjoint: Any = None,
    initial_control: Any = None,
    max_iterations: int = 1000,
    max_seconds: float | None = None,
    tolerance: float | None = DEFAULT,
    callback: Callable[[int, Any], Any] | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Solution:
    """Solve an optimal control problem by Pontryagin's maximum principle.

    Parameters
    ----------
    problem : OptimalControlProblem or NetworkProblem
        What to minimize.
    solver : Solver, optional
        `Collocation`, `EMSA`, `MSA`, `AugmentedLagrangian`, …. None means `Collocation`, globalized by `EMSA`, where
        the control set is a box, the precision double and the size moderate; and `EMSA` elsewhere, and wherever a mesh,
        an integrator, an adjoint or a fixed number of iterations (``tolerance=None``) is asked for on a problem without
        constraints and free ends.
    mesh : int or Mesh, optional
        Number of uniform intervals N, or nodes on [0, 1]; default 100, or the choice of an adaptive solver.
    integrator : Integrator, optional
        Default `RK4`.
    adjoint : Adjoint, optional
        Default `DiscreteAdjoint` for fixed-step and torchdiffeq integrators, `ContinuousAdjoint` for SciPy's.
    initial_control : optional
        None (0 projected onto U), an array (N, G, m), a constant (m,), a function t -> (m,) evaluated at midpoints,
        or a Solution, also one on another mesh.
    max_iterations : int, default 1000
        Iterations, each one maximization and one forward sweep, or one Newton step. Without a solver, random
        starts, the last resort, may take so many each.
    max_seconds : float, optional
        Wall-clock limit, checked between iterations.
    tolerance : float or None
        Stop when the maximum-principle residual falls below; default 1e-8 in float64, 1e-5 in float32. None runs
        exactly `max_iterations`.
    callback : callable, optional
        ``callback(k, iterate)`` after iteration k, with ``iterate.u, .x, .p, .cost, .residual``; True stops.
    progress : bool, default False
        Show a progress bar.
    strict : bool, default False
        Raise SolveError, carrying the solution, if a group ends with a failing status.

    Returns
    -------
    Solution
        Trajectories, control, costates, status per group, history, certificate.

    Raises
    ------
    InputError, ShapeError, UnsupportedError
        For mistakes in the arguments.
    SolveError
        Only if `strict`.

    Warns
    -----
    ConvergenceWarning
        If a group ends with a failing status.

    Examples
    --------
    >>> import ocsolver as oc
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2),
    ...     initial_state=[1.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Unconstrained(1),
    ... )
    >>> solution = oc.solve(problem, oc.EMSA(), mesh=50)
    >>> solution.status[0].name
    'CONVERGED'
    """
    solver = Automatic() if solver is None else solver
    if not isinstance(solver, Solver):
        todo = "Pass an instance such as oc.EMSA(), or None."
        raise InputError(complaint("solver", expected="a Solver", got=repr(solver), todo=todo))
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 0:
        todo = "Pass the largest number of iterations."
        raise InputError(complaint("max_iterations", expected="an int ≥ 0", got=repr(max_iterations), todo=todo))
    if max_seconds is not None and not (isinstance(max_seconds, (int, float)) and max_seconds >= 0):
        todo = "Pass seconds, or None for no limit."
        raise InputError(complaint("max_seconds", expected="a number ≥ 0", got=repr(max_seconds), todo=todo))
    if callback is not None and not callable(callback):
        todo = "Pass a function callback(k, iterate)."
        raise InputError(complaint("callback", expected="a callable", got=repr(callback), todo=todo))
    limits = Limits(max_iterations, max_seconds, _checked_tolerance(tolerance, problem), callback, progress)
    with threads_for(problem, mesh):
        solution = solver.run(problem, Discretization(mesh, integrator, adjoint), initial_control, limits)
    if any(status < 0 for status in solution.status):
        if strict:
            raise SolveError(solution.message, solution)
        warnings.warn(solution.message, ConvergenceWarning, stacklevel=2)
    return solution


def _checked_tolerance(tolerance: float | None, problem: Any) -> float | None:
    """Resolve the default from the precision of the run."""
    if tolerance is None:
        return None
    if tolerance is DEFAULT:
        return 1e-5 if str(getattr(problem, "dtype", None)) == "torch.float32" else 1e-8
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        todo = "Pass a relative residual such as 1e-6, or None to run exactly max_iterations."
        raise InputError(complaint("tolerance", expected="a positive number or None", got=repr(tolerance), todo=todo))
    return float(tolerance)
