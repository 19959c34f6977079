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
