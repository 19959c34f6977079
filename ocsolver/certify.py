"""The certificate of any control, whoever produced it; it only chooses how to look at it."""

from __future__ import annotations

from typing import Any

from ocsolver.certificate import Certificate, certify_sweep
from ocsolver.errors import ShapeError, complaint
from ocsolver.pieces_certificate import certify_pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.transcription import Discretization, transcribe

__all__ = ["certify"]


def certify(
    problem: Any, control: Any, *, mesh: Any = None, integrator: Any = None, adjoint: Any = None
) -> Certificate:
    """Certify any control, whoever produced it.

    Parameters
    ----------
    problem : OptimalControlProblem
        The problem.
    control : Tensor, callable or Solution
        Anything that `solve` takes as initial_control. A function of time is sampled at the midpoints of the mesh, a
        Solution averaged over its intervals. A Solution that has polynomials or multipliers is instead taken as it is,
        with its own mesh, states, costates and multipliers, unless a discretization is named. Of a bare control the
        multipliers of constraints are unknown and count as zero.
    mesh, integrator, adjoint : optional
        The discretization, as in `solve`.

    Returns
    -------
    Certificate
        Numbers per control group.

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
    >>> bool(oc.certify(problem, [0.0]).max_gap > 0.1)
    True
    """
    own = getattr(control, "pieces", None) is not None or bool(getattr(control, "multipliers", None))
    if own and mesh is None and integrator is None and adjoint is None:
        _check_fit(problem, control)
        return certify_pieces(problem, control)
    transcription = transcribe(problem, Discretization(mesh, integrator, adjoint))
    start = transcription.start(control)
    transcription.check(start)
    return certify_sweep(transcription, transcription.backward(transcription.forward(start)))


def _check_fit(problem: OptimalControlProblem, solution: Any) -> None:
    """Raise ShapeError unless the trajectory of a solution has the sizes of the problem."""
    text = "(B, n, G, m) = {}"
    expected = (*problem.initial_state.shape, problem.groups, problem.m)
    got = (*solution.x.shape[1:], *solution.u.shape[1:])
    if got != expected:
        todo = "Pass a Solution of this problem, or name a mesh to have its control sampled."
        raise ShapeError(
            complaint("control (Solution)", expected=text.format(expected), got=text.format(got), todo=todo)
        )
