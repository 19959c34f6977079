"""Round control sets as boxes and path constraints: the problem for methods that know nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.problem import OptimalControlProblem, changed, with_rows
from ocsolver.sets import Box

__all__ = ["in_a_box"]


def in_a_box(problem: OptimalControlProblem) -> OptimalControlProblem | None:
    """The problem with a box for its control set, whose other inequalities become the last path constraints.

    Parameters
    ----------
    problem : OptimalControlProblem
        With any control set.

    Returns
    -------
    OptimalControlProblem or None
        The problem itself if its set is a box; None if the set is not described by a box and smooth inequalities.

    Examples
    --------
    >>> import ocsolver as oc
    >>> from ocsolver.boxed import in_a_box
    >>> problem = oc.OptimalControlProblem(
    ...     lambda t, x, u: u,
    ...     lambda t, x, u: (u**2).sum(-1),
    ...     initial_state=[0.0, 0.0],
    ...     horizon=(0.0, 1.0),
    ...     control_set=oc.Ball(1.0, 2),
    ... )
    >>> in_a_box(problem).path_constraint
    Constraint(lower=[-inf], upper=[0.0])
    """
    control_set, like = problem.control_set, problem.initial_state
    if control_set.bounds(like) is not None:
        return problem
    sides = control_set.enclosure(like)
    if sides is None:
        return None
    count = control_set.inequalities(like.new_zeros(problem.m)).shape[-1]

    def rows(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return control_set.inequalities(u).expand(*x.shape[:-1], count)

    more = with_rows(problem, rows, like.new_full((count,), -torch.inf), like.new_zeros(count))
    return changed(more, control_set=Box(*sides))
