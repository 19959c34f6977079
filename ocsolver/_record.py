"""Data that nobody changes: type checkers see to it, so that making them costs no more than that of other data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import dataclass_transform

__all__ = ["record"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def record(cls: type[T]) -> type[T]:
    """A dataclass of arrays, compared by identity, whose fields are final for type checkers.

    Frozen dataclasses set every field through ``object.__setattr__``, which takes as long as a small array operation;
    a warm start makes dozens of them.
    """
    return dataclass(eq=False, repr=False)(cls)
