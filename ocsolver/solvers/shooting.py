"""Direct single shooting by SciPy's L-BFGS-B on the discrete cost with the exact gradient: the honest baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ocsolver.arcs import with_arcs
from ocsolver.errors import UnsupportedError, complaint
from ocsolver.maximizers.base import positive_int
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Run, Solver, Step, SweepSolver, Timed, require_free_end
from ocsolver.status import Status
from ocsolver.transcription import Discretization, Sweep, transcribe

__all__ = ["DirectShooting"]

Vector = np.ndarray[Any, np.dtype[np.float64]]


class _Stop(Exception):  # noqa: N818
    """Leaves SciPy's loop when a group has ended."""


@dataclass(frozen=True)
class DirectShooting(Solver):
    """Minimize the discrete cost J directly by L-BFGS-B, with the gradient −w_k ∂H_k/∂u of the backward sweep.

    The variables are scaled by √w_k, so that the geometry is that of L². Groups are solved one after the other, the
    others waiting at their control, which costs a full sweep of all trajectories each time: fine for few groups.

    Parameters
    ----------
    pairs : int, default 20
        Curvature pairs kept by L-BFGS-B.

    References
    ----------
    .. [1] C. Zhu, R. Byrd, P. Lu, J. Nocedal, *Algorithm 778: L-BFGS-B*, ACM Trans. Math. Software 23 (1997).

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.DirectShooting()
    DirectShooting(pairs=20)
    """

    pairs: int = 20

    def __post_init__(self) -> None:
        positive_int(self.pairs, "DirectShooting pairs")

    def run(self, problem: Any, discretization: Discretization, start: Any, limits: Limits) -> Solution:
        require_free_end(problem, self)
        inner = transcribe(problem, discretization)
        control = inner.start(start)
        inner.check(control)
        transcription = Timed(inner)
        first = SweepSolver.first_iterate(transcription, control)
        if len(control) != 1 or first.sweep.blocks[0].control_set.bounds(control[0]) is None:
            todo = "Use oc.EMSA()."
            got = first.sweep.blocks[0].control_set
            raise UnsupportedError(
                complaint("DirectShooting", expected="an Unconstrained set or a Box", got=got, todo=todo)
            )
        run = Run(self, transcription, first, limits)

        def all_groups() -> None:
            for group in range(inner.groups):
                self._descend(run, group)

        solution: Solution = with_arcs(run.guard(all_groups))
        return solution

    def _descend(self, run: Run, group: int) -> None:
        """Solve one group to its end."""
        if run.status[group] is not Status.RUNNING:
            return
        block = run.iterate.sweep.blocks[0]
        scaling = block.weights.sqrt()[:, None]  # (K, 1)
        lower, upper = (side.expand_as(block.current)[:, group] * scaling for side in _sides(block))
        evaluated: dict[bytes, Sweep] = {}
        wall = 1e3 * float(run.reference_cost[group]) + 1.0

        def objective(v: Vector) -> tuple[float, Vector]:
            u = run.iterate.control[0].clone()
            u[:, group] = torch.from_numpy(v.copy()).to(u).reshape(-1, u.shape[-1]) / scaling
            u = block.control_set.project(u)
            trial = run.transcription.forward((u,), run.iterate.sweep.forward)
            if not bool(trial.finite[group]):  # a finite wall: the line search interpolates and cannot take infinity
                return wall, np.zeros_like(v)
            sweep = run.transcription.backward(trial)
            evaluated.clear()
            evaluated[v.tobytes()] = sweep
            slope = sweep.blocks[0].gradient(u)[1][:, group]
            return float(trial.cost[group]), _flat(-scaling * slope)

        def after_iteration(v: Vector) -> None:
            sweep = evaluated.get(np.ascontiguousarray(v).tobytes())
            if sweep is None:
                objective(v)
                sweep = evaluated[v.tobytes()]
            value, _ = run.transcription.residual(sweep, run.iterate.first_gradient)
            step = Step.none(sweep.forward.cost)
            if not run.advance(replace(run.iterate, sweep=sweep, residual=value, step=step)):
                raise _Stop
            if run.status[group] is not Status.RUNNING:
                raise _Stop

        limit = run.iterations + run.limits.max_iterations  # each group has its own share
        before = -1
        while before < run.iterations < limit:  # a line search that fails restarts without pairs, while that helps
            before = run.iterations
            try:
                minimize(  # type: ignore[call-overload]
                    objective,
                    _flat(run.iterate.control[0][:, group] * scaling),
                    jac=True,
                    method="L-BFGS-B",
                    bounds=list(zip(_flat(lower), _flat(upper), strict=True)),
                    callback=after_iteration,
                    options={
                        "maxiter": limit - before,
                        "maxfun": 20 * (limit - before),
                        "maxcor": self.pairs,
                        "ftol": 0.0,
                        "gtol": 0.0,
                    },
                )
            except _Stop:
                return
        if run.limits.tolerance is None:
            run.status[group] = Status.COMPLETED
        else:
            run.status[group] = Status.STALLED if run.iterations < limit else Status.MAX_ITERATIONS


def _sides(block: Any) -> tuple[Tensor, Tensor]:
    sides: tuple[Tensor, Tensor] = block.control_set.bounds(block.current)
    return sides


def _flat(tensor: Tensor) -> Vector:
    return tensor.detach().to(torch.float64).cpu().numpy().reshape(-1).copy()
