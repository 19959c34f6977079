"""Constraints and free ends of a problem as frozen mathematics; they know nothing of how they are enforced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ocsolver._call import call, positional
from ocsolver._shapes import as_tensor
from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["Constraint", "FreeInitialState", "FreeTime"]


def _sides(what: str, lower: Any, upper: Any, axes: int = 1) -> tuple[Tensor, Tensor]:
    """Bounds of one shape, lower ≤ upper."""
    low, up = as_tensor(lower, what=f"{what} lower bound"), as_tensor(upper, what=f"{what} upper bound")
    todo = "Give lower ≤ upper, each a number or a vector with one entry per component; ±inf leaves a side free."
    if low.ndim > axes or up.ndim > axes or (low.ndim and up.ndim and low.shape != up.shape):
        got = f"shapes {tuple(low.shape)} and {tuple(up.shape)}"
        raise ShapeError(complaint(f"{what} bounds", expected="numbers or vectors (c,)", got=got, todo=todo))
    shape = max(low.shape, up.shape, key=len)
    low, up = (side.to(torch.float64).expand(shape) for side in (low, up))
    bad = ~(low <= up) | (low == torch.inf) | (up == -torch.inf)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        got = f"lower = {float(low[index]):g}, upper = {float(up[index]):g}" + (f" at {index}" if index else "")
        raise InputError(complaint(f"{what} bounds", expected="lower ≤ upper", got=got, todo=todo))
    return low.clone(), up.clone()


@dataclass(frozen=True, eq=False, init=False)
class Constraint:
    """Vector-valued constraint lower ≤ c(…) ≤ upper; equal bounds make an equality.

    Parameters
    ----------
    function : callable
        ``function(x) -> (*b, c)`` on the terminal state, or ``function(t, x, u) -> (*b, c)`` or ``function(t, x)``
        along the path. The last axis holds the components of the constraint, also if there is only one.
    lower, upper : array_like, shape () or (c,), default 0.0
        Sides; ±inf leaves a side free. The defaults make the equality c = 0.

    Raises
    ------
    InputError, ShapeError
        If the function is not callable, or the bounds cross, contain NaN or differ in shape.

    Examples
    --------
    A terminal state that is fixed, and a speed limit:

    >>> import ocsolver as oc
    >>> oc.Constraint(lambda x: x)
    Constraint(lower=0.0, upper=0.0)
    >>> oc.Constraint(lambda t, x: x[..., 1:2], -1.0, 1.0)
    Constraint(lower=-1.0, upper=1.0)
    """

    function: Callable[..., Tensor]
    lower: Tensor
    upper: Tensor

    def __init__(self, function: Callable[..., Tensor], lower: Any = 0.0, upper: Any = 0.0) -> None:
        if not callable(function):
            todo = "Pass c(x) for a terminal constraint, c(t, x) or c(t, x, u) for a path constraint."
            raise InputError(complaint("Constraint function", expected="a callable", got=repr(function), todo=todo))
        low, up = _sides("Constraint", lower, upper)
        for name, value in {"function": function, "lower": low, "upper": up}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def arguments(self) -> int:
        """How many arguments the function takes, of (t, x, u)."""
        return positional(self.function, 3)

    @property
    def components(self) -> int | None:
        """Number of components c, if the bounds tell it."""
        return self.lower.numel() if self.lower.ndim else None

    def terminal(self, x: Tensor) -> Tensor:
        """Values at the end, expanded over the batch.

        Parameters
        ----------
        x : Tensor, shape (*b, B, n)
            Final states.

        Returns
        -------
        Tensor, shape (*b, B, c)
            c(x).
        """
        return _expanded(call(self.function, "terminal_constraint", x), x)

    def path(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Values on the way, expanded over the batch.

        Parameters
        ----------
        t : Tensor, broadcasting against ``x[..., 0]``
            Times.
        x : Tensor, shape (*b, B, n)
            States.
        u : Tensor, shape (*b, G, m)
            Controls.

        Returns
        -------
        Tensor, shape (*b, B, c)
            c(t, x, u), or c(t, x) if the function takes no control.
        """
        return _expanded(call(self.function, "path_constraint", *(t, x, u)[: self.arguments]), x)

    def bounds(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sides with the dtype and device of some values.

        Parameters
        ----------
        values : Tensor, shape (*b, c)
            Values of the constraint.

        Returns
        -------
        (Tensor, Tensor)
            Lower and upper sides (c,).
        """
        c = values.shape[-1]
        return self.lower.to(values).expand(c), self.upper.to(values).expand(c)

    def violation(self, values: Tensor) -> Tensor:
        """Distance to the sides.

        Parameters
        ----------
        values : Tensor, shape (*b, c)
            Values of the constraint.

        Returns
        -------
        Tensor, shape (*b, c)
            Zero for components inside.
        """
        lower, upper = self.bounds(values)
        return torch.maximum(lower - values, values - upper).clamp_min(0.0)

    def check(self, name: str, output: Any, x: Tensor) -> None:
        """Check what the function returned.

        Parameters
        ----------
        name : str
            The constraint, for the message.
        output : object
            What came back.
        x : Tensor, shape (*b, B, n)
            The states it was called with.

        Raises
        ------
        ShapeError
            If it is not a tensor (*b, B, c) of the right size, dtype and device.
        """
        todo = (
            "Return one value per component in the last axis, (*b, B, c) for x (*b, B, n): keep a single component by "
            "x[..., i:i + 1], stack several by torch.stack((…), -1), and keep every batch axis."
        )
        expected = f"shape {(*tuple(x.shape[:-1]), self.components or 'c')}"
        if not isinstance(output, Tensor):
            raise ShapeError(complaint(name, expected=f"a tensor of {expected}", got=type(output).__name__, todo=todo))
        got = f"shape {tuple(output.shape)} for x of shape {tuple(x.shape)}"
        batch = output.ndim == x.ndim and all(a in (1, b) for a, b in zip(output.shape[:-1], x.shape[:-1], strict=True))
        if not batch or output.shape[-1] == 0 or self.components not in (None, output.shape[-1]):
            if self.components not in (None, output.shape[-1] if output.ndim else None):
                todo = f"The bounds have {self.components} components. {todo}"
            raise ShapeError(complaint(name, expected=expected, got=got, todo=todo))
        if output.dtype != x.dtype or output.device != x.device:
            todo = "Build constants with the dtype and device of x, or cast initial_state."
            raise ShapeError(
                complaint(
                    name, expected=f"{x.dtype} on {x.device}", got=f"{output.dtype} on {output.device}", todo=todo
                )
            )

    def __repr__(self) -> str:
        return f"Constraint(lower={self.lower.tolist()}, upper={self.upper.tolist()})"


def _expanded(values: Tensor, x: Tensor) -> Tensor:
    shape = (*x.shape[:-1], values.shape[-1])
    return values if values.shape == shape else values.expand(shape)


@dataclass(frozen=True, init=False)
class FreeTime:
    """A final time that is to be optimized.

    Parameters
    ----------
    guess : float, optional
        Where to start; by default inside the bounds.
    lower, upper : float, optional
        Bounds on t1; the defaults leave it free above the initial time.

    Raises
    ------
    InputError
        If the bounds cross, or the guess lies outside.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.FreeTime(guess=2.0, lower=0.5, upper=10.0)
    FreeTime(guess=2.0, lower=0.5, upper=10.0)
    """

    guess: float | None
    lower: float
    upper: float

    def __init__(self, guess: float | None = None, lower: float = -math.inf, upper: float = math.inf) -> None:
        todo = "Use FreeTime(guess=, lower=, upper=) with lower ≤ guess ≤ upper."
        try:
            values = (None if guess is None else float(guess), float(lower), float(upper))
        except (TypeError, ValueError) as error:
            got = f"guess={guess!r}, lower={lower!r}, upper={upper!r}"
            raise InputError(complaint("FreeTime", expected="numbers", got=got, todo=todo)) from error
        start, low, up = values
        got = f"lower = {low:g}, guess = {start}, upper = {up:g}"
        if not low <= up or low == math.inf or up == -math.inf:
            raise InputError(complaint("FreeTime bounds", expected="lower ≤ upper", got=got, todo=todo))
        if start is not None and not (low <= start <= up and math.isfinite(start)):
            raise InputError(complaint("FreeTime guess", expected="lower ≤ guess ≤ upper", got=got, todo=todo))
        for name, value in zip(("guess", "lower", "upper"), values, strict=True):
            object.__setattr__(self, name, value)

    def start(self, t0: float) -> float:
        """A finite final time above t0 and inside the bounds: the guess, if one was given.

        Parameters
        ----------
        t0 : float
            Initial time.

        Returns
        -------
        float
            Where to start.
        """
        if self.guess is not None:
            return self.guess
        low = max(self.lower, t0)
        if math.isfinite(self.upper):
            return 0.5 * (low + self.upper) if low > t0 else t0 + 0.5 * (self.upper - t0)
        return low + 1.0 if low == t0 else t0 + 1.5 * (low - t0)


@dataclass(frozen=True, eq=False, init=False)
class FreeInitialState:
    """An initial state whose components are to be optimized between bounds; equal bounds fix a component.

    Parameters
    ----------
    guess : array_like, shape (n,) or (B, n)
        Where to start. Its dtype and device rule the run.
    lower, upper : array_like, shape (), (n,) or (B, n), optional
        Bounds; the defaults leave every component free.

    Raises
    ------
    InputError, ShapeError
        If the bounds cross, have the wrong shape, or the guess is unusable or outside.

    Examples
    --------
    A parameter is a constant state with a free start:

    >>> import ocsolver as oc
    >>> oc.FreeInitialState([1.0, 0.5], lower=[1.0, 0.0], upper=[1.0, 2.0])
    FreeInitialState(n=2, lower=[1.0, 0.0], upper=[1.0, 2.0])
    """

    guess: Tensor  # (B, n)
    lower: Tensor  # (B, n)
    upper: Tensor  # (B, n)

    def __init__(self, guess: Any, lower: Any = -math.inf, upper: Any = math.inf) -> None:
        start = as_tensor(guess, what="FreeInitialState guess")
        start = start.reshape(1, -1) if start.ndim < 2 else start
        if start.ndim != 2 or 0 in start.shape:
            todo = "Pass one state (n,) or a batch of states (B, n)."
            got = f"shape {tuple(start.shape)}"
            raise ShapeError(complaint("FreeInitialState guess", expected="(n,) or (B, n)", got=got, todo=todo))
        low, up = _sides("FreeInitialState", lower, upper, axes=2)
        for side in (low, up):
            if side.ndim and side.shape not in (start.shape[1:], start.shape):
                todo = f"Give bounds of shape ({start.shape[1]},), or {tuple(start.shape)} for bounds of each row."
                shape = tuple(side.shape)
                raise ShapeError(complaint("FreeInitialState bounds", expected="(n,) or (B, n)", got=shape, todo=todo))
        low, up = (side.to(start).expand(start.shape).clone() for side in (low, up))
        outside = ((start < low) | (start > up) | ~torch.isfinite(start)).nonzero()
        if len(outside):
            row, j = (int(i) for i in outside[0])
            sides = f"[{float(low[row, j]):g}, {float(up[row, j]):g}]"
            got = f"{float(start[row, j]):g} in component {j} of row {row}, bounds {sides}"
            todo = "Move the guess between the bounds."
            raise InputError(complaint("FreeInitialState guess", expected="lower ≤ guess ≤ upper", got=got, todo=todo))
        for name, value in {"guess": start, "lower": low, "upper": up}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        rows = len(torch.unique(torch.cat((self.lower, self.upper), 1), dim=0))
        low, up = (side[0].tolist() if rows == 1 else side.tolist() for side in (self.lower, self.upper))
        return f"FreeInitialState(n={self.guess.shape[1]}, lower={low}, upper={up})"
