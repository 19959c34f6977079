"""What can go wrong because of the caller: one exception class per kind of mistake; it knows nothing of numerics."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConvergenceWarning",
    "InputError",
    "OCSolverError",
    "ShapeError",
    "SolveError",
    "UnsupportedError",
    "complaint",
]


class OCSolverError(Exception):
    """Base class of every exception that `ocsolver` raises on purpose."""


class InputError(OCSolverError, ValueError):
    """An argument has an unusable value."""


class ShapeError(OCSolverError, ValueError):
    """A tensor has the wrong shape, dtype or device."""


class UnsupportedError(OCSolverError, TypeError):
    """A combination of plug-ins that cannot work together."""


class SolveError(OCSolverError):
    """Raised by ``solve(..., strict=True)`` when a group fails; carries everything computed so far.

    Parameters
    ----------
    message : str
        What happened and what to try.
    solution : Solution
        The solution with the last finite iterate.
    """

    def __init__(self, message: str, solution: Any) -> None:
        super().__init__(message)
        self.solution = solution


class ConvergenceWarning(UserWarning):
    """Emitted by `solve` when a group ends with a failing status."""


def complaint(what: str, *, expected: object, got: object, todo: str) -> str:
    """Compose an error text that says what, expected, got and what to do."""
    return f"{what}: expected {expected}, got {got}. {todo}"
