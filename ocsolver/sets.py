"""Admissible control sets U: projection, distance and candidate points; they know nothing of Hamiltonians."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver._shapes import as_tensor, check_finite
from ocsolver.errors import InputError, ShapeError, complaint

__all__ = ["Ball", "Box", "ControlSet", "FiniteSet", "Product", "Unconstrained"]

GRID_POINTS = {1: 5, 2: 3, 3: 3}  # candidate points per axis of a compact set of dimension m; refined 4-fold if fine
ROOM = 2.0  # sides of the box around a ball, relative to its radius: they are never active
MAX_CANDIDATES = 1000  # a product of sets offers no grid beyond this size


class ControlSet(ABC):
    """Abstract base class of admissible sets U ⊂ ℝᵐ.

    Attributes
    ----------
    m : int
        Dimension of the control.
    convex : bool
        Whether convex combinations stay inside (needed by relaxation and by projected ascent).
    discrete : bool
        Whether all points are isolated, so that the candidates are the whole set.
    """

    m: int
    convex: bool = True
    discrete: bool = False

    @abstractmethod
    def project(self, u: Tensor) -> Tensor:
        """Nearest point of U.

        Parameters
        ----------
        u : Tensor, shape (*b, m)
            Any points.

        Returns
        -------
        Tensor, shape (*b, m)
            The Euclidean projection; idempotent.
        """

    def residual(self, u: Tensor) -> Tensor:
        """Euclidean distance to U.

        Parameters
        ----------
        u : Tensor, shape (*b, m)
            Any points.

        Returns
        -------
        Tensor, shape (*b)
            Zero exactly for points inside.
        """
        distance: Tensor = torch.linalg.vector_norm(u - self.project(u), dim=-1)
        return distance

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Sides of the set, if it is a box.

        Parameters
        ----------
        like : Tensor
            Gives dtype and device.

        Returns
        -------
        (Tensor, Tensor) or None
            Lower and upper sides (m,), ±inf where free; None if U is not a box.
        """
        return None

    def enclosure(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Sides of a box that encloses the set, for sets that a box and smooth inequalities describe.

        Parameters
        ----------
        like : Tensor
            Gives dtype and device.

        Returns
        -------
        (Tensor, Tensor) or None
            Lower and upper sides (m,), ±inf where free. U is the part of the box where `inequalities` are at most
            zero; None if it has no such description.
        """
        return self.bounds(like)

    def inequalities(self, u: Tensor) -> Tensor:
        """Smooth functions that are at most zero in U and, inside of its `enclosure`, nowhere else.

        Parameters
        ----------
        u : Tensor, shape (*b, m)
            Any points.

        Returns
        -------
        Tensor, shape (*b, k)
            k = 0 for a box.
        """
        return u[..., :0]

    def candidates(self, like: Tensor, *, fine: bool = False) -> Tensor | None:
        """Points that cover the set, for global searches.

        Parameters
        ----------
        like : Tensor
            Gives dtype and device.
        fine : bool, default False
            Ask for a finer grid.

        Returns
        -------
        Tensor or None
            Points (C, m), all of them for a finite set; None if U is unbounded or large.
        """
        return None


def _points(m: int, fine: bool) -> int:
    """Grid points per axis."""
    return 4 * (GRID_POINTS[m] - 1) + 1 if fine else GRID_POINTS[m]


def _grid(axes: list[Tensor]) -> Tensor:
    """Cartesian product of coordinate axes: (C, m)."""
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _product_of_boxes(sides: list[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """Sides of a product, None if one of the factors has none."""
    if any(side is None for side in sides):
        return None
    return torch.cat([side[0] for side in sides if side]), torch.cat([side[1] for side in sides if side])


def _dimension(m: Any, what: str) -> int:
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise InputError(
            complaint(f"{what} dimension m", expected="an int ≥ 1", got=repr(m), todo="Pass the control size.")
        )
    return m


@dataclass(frozen=True)
class Unconstrained(ControlSet):
    """The whole space ℝᵐ.

    Parameters
    ----------
    m : int
        Dimension of the control.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> oc.Unconstrained(2).project(torch.tensor([3.0, -4.0]))
    tensor([ 3., -4.])
    """

    m: int

    def __post_init__(self) -> None:
        _dimension(self.m, "Unconstrained")

    def project(self, u: Tensor) -> Tensor:
        return u

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        infinite = like.new_full((self.m,), torch.inf)
        return -infinite, infinite


@dataclass(frozen=True, eq=False, init=False)
class Box(ControlSet):
    """Componentwise bounds, lower ≤ u ≤ upper.

    Parameters
    ----------
    lower, upper : array_like, shape (m,)
        Sides; ±inf leaves a side free. Numbers mean m = 1.

    Raises
    ------
    InputError
        If the bounds cross, contain NaN or have different shapes.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> oc.Box([-1.0, 0.0], [1.0, torch.inf]).project(torch.tensor([3.0, -4.0]))
    tensor([1., 0.])
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Any, upper: Any) -> None:
        low = as_tensor(lower, what="Box lower bound")
        up = as_tensor(upper, what="Box upper bound")
        low, up = (side[None] if side.ndim == 0 else side for side in (low, up))
        todo = "Give lower and upper sides of shape (m,) with lower ≤ upper."
        if low.ndim != 1 or low.shape != up.shape or low.numel() == 0:
            raise ShapeError(
                complaint(
                    "Box bounds",
                    expected="two vectors (m,)",
                    got=f"{tuple(low.shape)} and {tuple(up.shape)}",
                    todo=todo,
                )
            )
        bad = ~(low <= up) | (low == torch.inf) | (up == -torch.inf)
        if bool(bad.any()):
            j = int(bad.nonzero()[0])
            got = f"lower[{j}] = {float(low[j])}, upper[{j}] = {float(up[j])}"
            raise InputError(complaint("Box bounds", expected="lower ≤ upper in every component", got=got, todo=todo))
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", up)

    @property
    def m(self) -> int:  # type: ignore[override]
        """Dimension of the control."""
        return self.lower.numel()

    def project(self, u: Tensor) -> Tensor:
        return torch.clamp(u, self.lower.to(u), self.upper.to(u))

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.lower.to(like), self.upper.to(like)

    def candidates(self, like: Tensor, *, fine: bool = False) -> Tensor | None:
        lower, upper = self.bounds(like)
        if self.m not in GRID_POINTS or not bool(torch.isfinite(upper - lower).all()):
            return None
        unit = torch.linspace(0.0, 1.0, _points(self.m, fine), dtype=like.dtype, device=like.device)
        return _grid([torch.lerp(lower[j], upper[j], unit) for j in range(self.m)])

    def __repr__(self) -> str:
        return f"Box({self.lower.tolist()}, {self.upper.tolist()})"


@dataclass(frozen=True)
class Ball(ControlSet):
    """Euclidean ball ‖u‖ ≤ radius about the origin.

    Parameters
    ----------
    radius : float
        Finite and positive.
    m : int
        Dimension of the control.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> oc.Ball(1.0, 2).project(torch.tensor([3.0, -4.0]))
    tensor([ 0.6000, -0.8000])
    """

    radius: float
    m: int

    def __post_init__(self) -> None:
        _dimension(self.m, "Ball")
        if not isinstance(self.radius, (int, float)) or not 0.0 < self.radius < float("inf"):
            raise InputError(
                complaint(
                    "Ball radius", expected="a positive number", got=repr(self.radius), todo="Use Ball(radius, m)."
                )
            )

    def project(self, u: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        inside = u * (self.radius / norm.clamp_min(self.radius))
        # rounding may leave a point a few ulps outside: shrink until idempotent
        return torch.where(norm > self.radius, inside * (1.0 - 2.0 * torch.finfo(u.dtype).eps), u)

    def residual(self, u: Tensor) -> Tensor:
        excess: Tensor = torch.linalg.vector_norm(u, dim=-1) - self.radius
        return excess.clamp_min(0.0)

    def enclosure(self, like: Tensor) -> tuple[Tensor, Tensor]:
        side = like.new_full((self.m,), ROOM * self.radius)
        return -side, side

    def inequalities(self, u: Tensor) -> Tensor:
        return u.square().sum(-1, keepdim=True) / self.radius**2 - 1.0

    def candidates(self, like: Tensor, *, fine: bool = False) -> Tensor | None:
        if self.m not in GRID_POINTS:
            return None
        unit = torch.linspace(-1.0, 1.0, _points(self.m, fine), dtype=like.dtype, device=like.device)
        cube = _grid([unit] * self.m)
        largest = cube.abs().amax(-1, keepdim=True)
        norm = torch.linalg.vector_norm(cube, dim=-1, keepdim=True).clamp_min(torch.finfo(like.dtype).tiny)
        return self.project(self.radius * cube * (largest / norm))  # cube shells onto spheres


@dataclass(frozen=True, eq=False, init=False)
class FiniteSet(ControlSet):
    """Finitely many admissible points.

    Parameters
    ----------
    points : array_like, shape (C, m)
        The points; a vector (C,) means m = 1.

    Raises
    ------
    InputError
        If there is no point, or a point is not finite.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> oc.FiniteSet([[-2.0], [2.0]]).project(torch.tensor([0.3]))
    tensor([2.])
    """

    points: Tensor
    convex = False
    discrete = True

    def __init__(self, points: Any) -> None:
        table = as_tensor(points, what="FiniteSet points")
        table = table[:, None] if table.ndim == 1 else table
        if table.ndim != 2 or table.numel() == 0:
            todo = "Give at least one point: shape (C, m), C ≥ 1."
            raise InputError(
                complaint(
                    "FiniteSet points", expected="shape (C, m), C ≥ 1", got=f"shape {tuple(table.shape)}", todo=todo
                )
            )
        check_finite(table, what="FiniteSet points")
        object.__setattr__(self, "points", table)

    @property
    def m(self) -> int:  # type: ignore[override]
        """Dimension of the control."""
        return self.points.shape[1]

    def project(self, u: Tensor) -> Tensor:
        points = self.points.to(u)  # (C, m)
        distance = torch.linalg.vector_norm(u[..., None, :] - points, dim=-1)  # (*b, C)
        return points[distance.argmin(-1)]

    def candidates(self, like: Tensor, *, fine: bool = False) -> Tensor:
        return self.points.to(like)

    def __repr__(self) -> str:
        return f"FiniteSet({self.points.tolist()})"


@dataclass(frozen=True, init=False)
class Product(ControlSet):
    """Cartesian product U₁ × U₂ × …; the components of the control are split in that order.

    Parameters
    ----------
    *sets : ControlSet
        The factors.

    Examples
    --------
    >>> import torch, ocsolver as oc
    >>> oc.Product(oc.Ball(1.0, 2), oc.Box([0.0], [1.0])).project(torch.tensor([3.0, -4.0, 2.0]))
    tensor([ 0.6000, -0.8000,  1.0000])
    """

    sets: tuple[ControlSet, ...]

    def __init__(self, *sets: ControlSet) -> None:
        todo = "Use Product(Box(…), FiniteSet(…), …)."
        if not sets or not all(isinstance(factor, ControlSet) for factor in sets):
            raise InputError(
                complaint("Product factors", expected="one or more control sets", got=repr(sets), todo=todo)
            )
        object.__setattr__(self, "sets", tuple(sets))

    @property
    def m(self) -> int:  # type: ignore[override]
        """Dimension of the control."""
        return sum(factor.m for factor in self.sets)

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether every factor is convex."""
        return all(factor.convex for factor in self.sets)

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether every factor is discrete."""
        return all(factor.discrete for factor in self.sets)

    def _split(self, u: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = torch.split(u, [factor.m for factor in self.sets], dim=-1)
        return parts

    def project(self, u: Tensor) -> Tensor:
        return torch.cat([factor.project(part) for factor, part in zip(self.sets, self._split(u), strict=True)], -1)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        return _product_of_boxes([factor.bounds(like) for factor in self.sets])

    def enclosure(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        return _product_of_boxes([factor.enclosure(like) for factor in self.sets])

    def inequalities(self, u: Tensor) -> Tensor:
        return torch.cat([f.inequalities(part) for f, part in zip(self.sets, self._split(u), strict=True)], -1)

    def candidates(self, like: Tensor, *, fine: bool = False) -> Tensor | None:
        combined = like.new_empty(1, 0)
        for factor in self.sets:
            points = factor.candidates(like, fine=fine)
            if points is None or combined.shape[0] * points.shape[0] > MAX_CANDIDATES:
                return None
            combined = torch.cat(
                [combined.repeat_interleave(points.shape[0], 0), points.repeat(combined.shape[0], 1)], -1
            )
        return combined
