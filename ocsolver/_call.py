"""Calls of user code; it knows nothing of what the callables mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["call", "positional"]


def call(function: Callable[..., Any], name: str, *arguments: Tensor) -> Any:
    """Call user code; an exception passes through unchanged, with a note of which callable and where."""
    try:
        return function(*arguments)
    except Exception as error:
        if hasattr(error, "add_note"):  # Python ≥ 3.11
            shapes = ", ".join(str(tuple(argument.shape)) for argument in arguments)
            error.add_note(f"(raised inside your {name}, called by ocsolver with argument shapes {shapes})")
        raise


def positional(function: Callable[..., Any], default: int) -> int:
    """Number of positional arguments that a callable requires, `default` where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return default
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return default
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
