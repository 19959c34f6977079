"""Round control sets as boxes and path constraints: the problem for methods that know nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.constraints import Constraint
from ocsolver.problem import OptimalControlProblem, changed
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
    control_set, path = problem.control_set, problem.path_constraint
    like = problem.initial_state
    if control_set.bounds(like) is not None:
        return problem
    sides = control_set.enclosure(like)
    if sides is None:
        return None
    t, u = like.new_full((1,), problem.horizon[0]), control_set.project(like.new_zeros(problem.groups, problem.m))
    count = control_set.inequalities(u).shape[-1]
    lower, upper = like.new_full((count,), -torch.inf), like.new_zeros(count)
    if path is not None:
        with torch.no_grad():
            own = path.bounds(path.path(t, like, u))
        lower, upper = torch.cat((own[0], lower)), torch.cat((own[1], upper))

    def constraint(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        rows = control_set.inequalities(u).expand(*x.shape[:-1], count)
        return rows if path is None else torch.cat((path.path(t, x, u), rows), -1)

    return changed(problem, control_set=Box(*sides), path_constraint=Constraint(constraint, lower, upper))
