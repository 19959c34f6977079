"""Explicit Runge-Kutta methods with one step per interval: a method is its tableau, and one function takes the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from ocsolver.integrators.base import Field, Integrator


class _Combination(NamedTuple):
    """A weighted sum of slopes, as scale * (k[first] + sum of ratio * k[index]): the fewest tensor operations."""

    scale: float
    first: int
    rest: tuple[tuple[int, float], ...]

    def advance(self, z: Tensor, h: Tensor, k: Sequence[Tensor]) -> Tensor:
        """Z + h * (weighted sum of slopes), h being a column."""
        slope = k[self.first]
        for index, ratio in self.rest:
            slope = torch.add(slope, k[index], alpha=ratio)
        return torch.addcmul(z, h, slope, value=self.scale)


def _combination(weights: Sequence[float]) -> _Combination:
    used = [(index, weight) for index, weight in enumerate(weights) if weight]
    first, scale = used[0]
    return _Combination(scale, first, tuple((index, weight / scale) for index, weight in used[1:]))


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit Runge-Kutta method of s stages.

    Attributes
    ----------
    a : tuple of tuple of float
        Row i, of length i, says from which slopes stage i + 1 starts; s - 1 rows.
    b : tuple of float, (s,)
        Weights of the slopes in the step.
    c : tuple of float, (s,)
        Times of the stages, as fractions of the step.

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       Definition II.1.1.

    Examples
    --------
    >>> Tableau(a=((0.5,),), b=(0.0, 1.0), c=(0.0, 0.5)).c  # the midpoint rule
    (0.0, 0.5)
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    @cached_property
    def stages(self) -> tuple[tuple[float, _Combination], ...]:
        """Time and starting point of each stage but the first."""
        return tuple((c, _combination(row)) for c, row in zip(self.c[1:], self.a, strict=True))

    @cached_property
    def update(self) -> _Combination:
        """The step itself."""
        return _combination(self.b)


class _ExplicitRungeKutta(Integrator):
    """The step that all tableaus share."""

    tableau: ClassVar[Tableau]
    differentiable: ClassVar[bool] = True
    adaptive: ClassVar[bool] = False

    def step(self, field: Field, t: Tensor, h: Tensor, z: Tensor, u: Tensor) -> Tensor:
        column = h[..., None]
        k = [field(t, z, u)]
        for c, start in self.tableau.stages:
            k.append(field(torch.add(t, h, alpha=c), start.advance(z, column, k), u))
        return self.tableau.update.advance(z, column, k)


@final
@dataclass(frozen=True)
class Euler(_ExplicitRungeKutta):
    """The explicit Euler method, of order 1: z + h f(t, z, u).

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       section I.7.

    Examples
    --------
    >>> import torch
    >>> t, h, z, u = torch.zeros(()), torch.tensor(0.5), torch.ones(1, 1), torch.zeros(1, 1)
    >>> Euler().step(lambda t, z, u: -z, t, h, z, u)
    tensor([[0.5000]])
    """

    order: ClassVar[int] = 1
    tableau: ClassVar[Tableau] = Tableau(a=(), b=(1.0,), c=(0.0,))


@final
@dataclass(frozen=True)
class Heun(_ExplicitRungeKutta):
    """Heun's method of order 2, the explicit trapezoidal rule.

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       section II.1.

    Examples
    --------
    >>> import torch
    >>> t, h, z, u = torch.zeros(()), torch.tensor(0.5), torch.ones(1, 1), torch.zeros(1, 1)
    >>> Heun().step(lambda t, z, u: -z, t, h, z, u)
    tensor([[0.6250]])
    """

    order: ClassVar[int] = 2
    tableau: ClassVar[Tableau] = Tableau(a=((1.0,),), b=(0.5, 0.5), c=(0.0, 1.0))


@final
@dataclass(frozen=True)
class RK4(_ExplicitRungeKutta):
    """The classical Runge-Kutta method of order 4.

    References
    ----------
    .. [1] E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer 1993,
       Table II.1.2.

    Examples
    --------
    >>> import torch
    >>> t, h, z, u = torch.zeros(()), torch.tensor(0.5), torch.ones(1, 1), torch.zeros(1, 1)
    >>> RK4().step(lambda t, z, u: -z, t, h, z, u)
    tensor([[0.6068]])
    """

    order: ClassVar[int] = 4
    tableau: ClassVar[Tableau] = Tableau(
        a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 0.5, 0.5, 1.0),
    )
