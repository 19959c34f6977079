"""The "soft" method of successive approximations: gradient ascent of the Hamiltonian."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.solvers.base import Iterate, SweepSolver, Timed
from ocsolver.solvers.msa import take
from ocsolver.transcription import Control

__all__ = ["GradientDescent"]


@dataclass(frozen=True)
class GradientDescent(SweepSolver):
    """Step along ∂H/∂u instead of maximizing H (Eq. (12)), projected onto the control set.

    By Prop. 2 this is gradient descent on the discrete cost: on a continuous problem with the discrete adjoint the step
    is −step_size · (∂J/∂u_k) / w_k.

    Parameters
    ----------
    step_size : float
        η > 0.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Proposition 2.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.GradientDescent(0.1)
    GradientDescent(step_size=0.1)
    """

    step_size: float

    def __post_init__(self) -> None:
        if not isinstance(self.step_size, (int, float)) or not 0.0 < self.step_size < float("inf"):
            todo = "Pass a learning rate such as 0.1."
            raise InputError(
                complaint(
                    "GradientDescent step_size", expected="a positive number", got=repr(self.step_size), todo=todo
                )
            )

    def target(self, transcription: Timed, iterate: Iterate) -> Control:
        control = []
        for block in iterate.sweep.blocks:
            if not block.control_set.convex:
                todo = "Use oc.EMSA() or oc.MSA() with oc.Enumeration()."
                raise UnsupportedError(
                    complaint("GradientDescent", expected="a convex control set", got=block.control_set, todo=todo)
                )
            slope = block.current_slope
            slope = block.weights[:, None, None] * slope if block.layered else slope
            control.append(block.control_set.project(block.current + self.step_size * slope))
        return tuple(control)

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        return take(transcription, iterate, self.target(transcription, iterate), torch.zeros_like(iterate.cost))
