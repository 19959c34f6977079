"""The method of successive approximations, and what every sweep solver does with a trial control."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import Terms
from ocsolver.maximizers import Maximizer
from ocsolver.solvers.base import Iterate, Step, SweepSolver, Timed
from ocsolver.transcription import Control

__all__ = ["MSA", "check_maximizer", "estimated_constant", "freeze", "step_terms", "take"]


def check_maximizer(maximizer: Any) -> None:
    """Raise InputError unless `maximizer` is None or a Maximizer."""
    if maximizer is not None and not isinstance(maximizer, Maximizer):
        todo = "Pass an instance such as oc.LBFGS(), or None for the default."
        raise InputError(complaint("maximizer", expected="a Maximizer", got=repr(maximizer), todo=todo))


def step_terms(iterate: Iterate, control: Control) -> Terms:
    """∫ΔH and both feasibility errors ∫‖Δf‖², ∫‖Δ∇ₓH‖² of Lemma 1 for a trial control, each (G,)."""
    total: list[Tensor] = []
    for block, u in zip(iterate.sweep.blocks, control, strict=True):
        terms = block.terms(u)
        parts = torch.stack([(block.weights[:, None] * term).sum(0) for term in terms])
        total.append(parts)
    return Terms(*torch.stack(total).sum(0))


def estimated_constant(old_cost: Tensor, new_cost: Tensor, terms: Terms) -> Tensor:
    """Lemma 1's constant Ĉ = max(0, (J_new − J_old + ∫ΔH) / (E_f + E_q)) seen in one step (G,)."""
    error = terms.state_error + terms.costate_error
    excess = (new_cost - old_cost + terms.gain).clamp_min(0.0)
    return torch.where(error > 0, excess / error.clamp_min(torch.finfo(error.dtype).tiny), torch.zeros_like(error))


def freeze(iterate: Iterate, control: Control) -> Control:
    """Keep the current control in groups that no longer move."""
    return tuple(torch.where(iterate.active[:, None], u, old) for u, old in zip(control, iterate.control, strict=True))


def take(transcription: Timed, iterate: Iterate, control: Control, rho: Tensor) -> Iterate:
    """Move every active group to a trial control that could be simulated; no test of the cost."""
    control = freeze(iterate, control)
    terms = step_terms(iterate, control)
    old = iterate.sweep.forward
    trial = transcription.forward(control, old)
    accepted = iterate.active & trial.finite
    failed = iterate.active & ~trial.finite
    unmoved = torch.stack([(u == v).all(-1).all(0) for u, v in zip(control, iterate.control, strict=True)]).all(0)
    step = Step(*terms, estimated_constant(old.cost, trial.cost, terms), rho, ~failed, failed, iterate.active & unmoved)
    if not bool(accepted.any()):
        return replace(iterate, step=step, trial=trial)
    sweep, value = transcription.settle(transcription.merge(accepted, trial, old), iterate.first_gradient)
    return replace(iterate, sweep=sweep, residual=value, step=step, trial=trial)


@dataclass(frozen=True)
class MSA(SweepSolver):
    """Method of successive approximations: sweep forward, sweep backward, maximize H, repeat (Algorithm 1).

    It converges only for short horizons or weak coupling; use `EMSA` otherwise.

    Parameters
    ----------
    maximizer : Maximizer, optional
        None picks one that fits the control set.
    relaxation : float, default 1.0
        ω in (0, 1]: u ← ω argmax H + (1 − ω) u. Needs a convex control set unless 1.

    References
    ----------
    .. [1] F. Chernousko, A. Lyubushin, *Method of successive approximations for solution of optimal control problems*,
       Optim. Control Appl. Methods 3 (1982).
    .. [2] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Algorithm 1.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.MSA(relaxation=0.5)
    MSA(maximizer=None, relaxation=0.5)
    """

    maximizer: Maximizer | None = None
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        check_maximizer(self.maximizer)
        omega = self.relaxation
        if isinstance(omega, bool) or not isinstance(omega, (int, float)) or not 0.0 < omega <= 1.0:
            todo = "1 is plain MSA; smaller values damp it."
            raise InputError(complaint("MSA relaxation", expected="a number in (0, 1]", got=repr(omega), todo=todo))

    def target(self, transcription: Timed, iterate: Iterate) -> Control:
        control = []
        for block in iterate.sweep.blocks:
            if self.relaxation < 1.0 and not block.control_set.convex:
                todo = "Use relaxation=1 or EMSA."
                raise UnsupportedError(
                    complaint("MSA relaxation", expected="a convex control set", got=block.control_set, todo=todo)
                )
            target = transcription.maximize(self.maximizer, block).u
            control.append(target if self.relaxation == 1.0 else torch.lerp(block.current, target, self.relaxation))
        return tuple(control)

    def step(self, transcription: Timed, iterate: Iterate) -> Iterate:
        return take(transcription, iterate, self.target(transcription, iterate), torch.zeros_like(iterate.cost))
