"""What an integrator is: it knows a vector field and an interval, and nothing of costs, controls or algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``field(t, z, u) -> dz/dt``: t broadcasts against ``z[..., 0]``, z is ``(*b, B, d)``, u is ``(*b, G, m)``."""


class Integrator(ABC):
    """Integrates dz/dt = field(t, z, u) over one interval, on which u is constant, for many rows at once.

    A *row* is an index over all axes of z but the last; rows do not interact. An integrator may evaluate the field on
    extra leading axes, never on a part of the rows or on the rows in another order. An exception raised by the field
    reaches the caller as it is.

    Leaf classes are final frozen dataclasses. Write a new one by stating `order`, `differentiable`, `adaptive` and
    `step`; `dense` follows.

    Attributes
    ----------
    order : int
        Classical order of consistency; of a variable-order method, the highest that it uses.
    differentiable : bool
        Whether autograd can pass through `step` to z, u and whatever the field closes over.
    adaptive : bool
        Whether the method chooses its own steps within the interval, to meet a tolerance.

    Examples
    --------
    >>> import torch
    >>> from ocsolver.integrators import RK4
    >>> t, h = torch.zeros(()), torch.ones(())
    >>> RK4().step(lambda t, z, u: -z, t, h, torch.ones(3, 2), torch.zeros(1, 1)).shape
    torch.Size([3, 2])
    """

    differentiable: ClassVar[bool]
    adaptive: ClassVar[bool]

    @property
    @abstractmethod
    def order(self) -> int:
        """Classical order of consistency; of a variable-order method, the highest that it uses."""

    @abstractmethod
    def step(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor) -> Tensor:
        """Integrate from t to t + h, over any batch of intervals at once.

        Parameters
        ----------
        field : callable
            ``field(t, z, u) -> dz/dt``.
        t, h : Tensor, broadcasting against ``z[..., 0]``
            Start and length of each interval; h may be negative, or zero.
        z : Tensor, (*b, B, d)
            Value at t.
        u : Tensor, (*b, G, m)
            Constant argument of the field, G in {1, B}; handed through untouched.

        Returns
        -------
        Tensor, (*b, B, d)
            Value at t + h. Rows that cannot be integrated are NaN and do not disturb the other rows. (A fixed-step
            method takes its one step whatever comes of it: where its arithmetic overflows it may give infinity.)
        """

    def dense(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor, fractions: Sequence[float]) -> Tensor:
        """Values inside the interval; here by a chain of steps from one requested point to the next.

        Parameters
        ----------
        field : callable
            As for `step`.
        t, h : Tensor, broadcasting against ``z[..., 0]``
            As for `step`.
        z : Tensor, (*b, B, d)
            As for `step`.
        u : Tensor, (*b, G, m)
            As for `step`.
        fractions : sequence of float, (Q,)
            Increasing, in [0, 1].

        Returns
        -------
        Tensor, (Q, *b, B, d)
            Values at t + c h for each c in `fractions`.

        Raises
        ------
        InputError
            If `fractions` is empty, not increasing or leaves [0, 1].
        """
        values, previous = [], 0.0
        for fraction in checked_fractions(fractions):
            if fraction > previous:
                z = self.step(field, torch.add(t, h, alpha=previous), (fraction - previous) * h, z, u)
            values.append(z)
            previous = fraction
        return torch.stack(values)


def checked_fractions(fractions: Sequence[float]) -> list[float]:
    """The fractions as floats, refused unless they increase within [0, 1].

    Parameters
    ----------
    fractions : sequence of float, (Q,)
        Points of the interval, as fractions of its length.

    Returns
    -------
    list of float
        The same numbers.
    """
    points = [float(fraction) for fraction in fractions]
    increasing = all(left < right for left, right in pairwise(points))
    if not points or not increasing or not (points[0] >= 0.0 and points[-1] <= 1.0):
        todo = "Sort them, and give each as a part of the interval's length."
        raise InputError(complaint("fractions", expected="increasing numbers in [0, 1]", got=points, todo=todo))
    return points


def check_method(method: str, methods: Sequence[str]) -> None:
    """Refuse the name of an unknown method.

    Parameters
    ----------
    method : str
        The name given.
    methods : sequence of str
        The names that exist.
    """
    if method not in methods:
        expected = "one of " + ", ".join(methods)
        raise InputError(complaint("method", expected=expected, got=repr(method), todo="Choose one of these names."))


def check_positive(name: str, value: float) -> None:
    """Refuse anything but a positive finite number.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : float
        The number given.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < float("inf"):
        todo = f"Omit {name} for its default, or give a number above zero."
        raise InputError(complaint(name, expected="a positive finite number", got=repr(value), todo=todo))
