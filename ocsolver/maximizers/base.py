"""The interface of a Hamiltonian maximizer; it knows only a Hamiltonian block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, Penalty

__all__ = ["Maximizer", "Maximum", "keep_best"]


class Maximum(NamedTuple):
    """Result of a maximization."""

    u: Tensor  # (K, G, m), inside the control set
    gain: Tensor  # (K, G), H̃(u) − H̃(current) ≥ 0
    memory: Any = None  # whatever the maximizer wants back next time


class Maximizer(ABC):
    """Abstract base class of Hamiltonian maximizers."""

    @abstractmethod
    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        """Maximize the augmented Hamiltonian at all sites and groups at once.

        Parameters
        ----------
        block : HamiltonianBlock
            K × G decoupled problems.
        penalty : Penalty, optional
            Weights of the feasibility terms of Eq. (7); None means the plain Hamiltonian.
        memory : object, optional
            What the previous call returned.

        Returns
        -------
        Maximum
            Never worse than the current control; rows whose data are not finite keep it.

        Raises
        ------
        UnsupportedError
            If the control set or the penalty cannot be served.
        """

    def averages(self, block: HamiltonianBlock) -> bool:
        """Whether `sampled_step` serves a block; the default is no.

        Parameters
        ----------
        block : HamiltonianBlock
            A block on a mini-batch.

        Returns
        -------
        bool
            If False for some block, every maximization on a mini-batch sees that batch alone.
        """
        return False

    def sampled_step(self, block: HamiltonianBlock, memory: Any) -> tuple[Tensor, Any]:
        """Step on a mini-batch with curvature averaged over the batches so far; nobody has tested it.

        Parameters
        ----------
        block : HamiltonianBlock
            A block that `averages` accepts.
        memory : object
            What the previous call returned; None on the first batch.

        Returns
        -------
        tuple of Tensor (K, G, m) and object
            The step for ρ = 1, which is ρ times the step for another ρ, and what to pass next time, as plain data.
        """
        raise NotImplementedError


def keep_best(block: HamiltonianBlock, u: Tensor, gain: Tensor, memory: Any = None) -> Maximum:
    """Replace rows that did not gain (or are not finite) by the current control."""
    better = torch.isfinite(gain) & (gain > 0) & torch.isfinite(u).all(-1)
    return Maximum(
        torch.where(better[..., None], u, block.current), torch.where(better, gain, torch.zeros_like(gain)), memory
    )


def unsupported(maximizer: Maximizer, expected: str, got: object, todo: str) -> UnsupportedError:
    """Error for a maximizer that cannot serve a set or a penalty."""
    return UnsupportedError(complaint(type(maximizer).__name__, expected=expected, got=got, todo=todo))


def positive_int(value: Any, what: str) -> None:
    """Raise InputError unless `value` is an int ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(complaint(what, expected="an int ≥ 1", got=repr(value), todo="Pass a positive number."))
