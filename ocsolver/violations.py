"""How far a trajectory is from its constraints, at and between the nodes; it knows nothing of how they are enforced."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.pieces import Pieces, gauss
from ocsolver.problem import OptimalControlProblem

__all__ = ["POINTS", "measure_violations"]

POINTS = 10  # of every interval, both ends included, besides the Gauss points


@torch.no_grad()
def measure_violations(problem: OptimalControlProblem, t: Tensor, x: Tensor, pieces: Pieces) -> dict[str, Tensor]:
    """Largest distance to the bounds of each constraint.

    Parameters
    ----------
    problem : OptimalControlProblem
        The problem with its constraints.
    t : Tensor, shape (N + 1, G)
        Nodes.
    x : Tensor, shape (N + 1, B, n)
        States there.
    pieces : Pieces
        Polynomials between them; `Pieces.from_steps` makes them for a control that is constant on intervals.

    Returns
    -------
    dict of str to Tensor, shape (G, c)
        ``"terminal_constraint"`` and ``"path_constraint"``, where the problem has them; for a shared control the
        worst trajectory counts. The path is looked at in the nodes, the Gauss points and eight more points of each
        interval.
    """
    found = {}
    terminal, path = problem.terminal_constraint, problem.path_constraint
    if terminal is not None:
        found["terminal_constraint"] = terminal.violation(terminal.terminal(x[-1]))
    if path is not None:
        even = torch.linspace(0.0, 1.0, POINTS, dtype=x.dtype, device=x.device)
        sigma = torch.cat((even, gauss(pieces.stages, x)[0])).sort().values
        at = pieces.samples(problem, t, x, x, sigma)
        found["path_constraint"] = path.violation(path.path(at.t, at.x, at.u)).amax((0, 1))
    return {name: rows.amax(0, keepdim=True) if problem.groups == 1 else rows for name, rows in found.items()}
