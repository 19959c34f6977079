"""Rows that cannot be integrated: found, masked and returned as NaN, so that they never disturb the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ocsolver.integrators.base import Field


class RowsFailedError(Exception):
    """An attempt failed because of some rows; never leaves the integrators.

    Parameters
    ----------
    rows : Tensor of bool, (*b, B)
        The rows to blame.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows


def integrate_masked(attempt: Callable[[Tensor, Tensor | None], Tensor], z: Tensor) -> Tensor:
    """Repeat an integration, each time without the rows that made it fail.

    It starts anew each time instead of resuming: then a failed row leaves no trace in the steps of the others, nor
    infinities in their gradients. It ends, because every repetition has fewer rows.

    Parameters
    ----------
    attempt : callable
        ``attempt(z, alive) -> (Q, *b, B, d)``, alive a mask ``(*b, B)`` or None for all rows; raises RowsFailedError.
    z : Tensor, (*b, B, d)
        Initial value.

    Returns
    -------
    Tensor, (Q, *b, B, d)
        The result of the attempt that succeeded, with NaN in the rows that did not take part.
    """
    alive = torch.isfinite(z).all(dim=-1)  # (*b, B)
    if not bool(alive.all()):
        z = torch.where(alive[..., None], z, 0.0)
    while bool(alive.any()):
        try:
            values = attempt(z, None if bool(alive.all()) else alive)
        except RowsFailedError as failure:
            remaining = alive & ~failure.rows
            alive = remaining if bool((remaining != alive).any()) else torch.zeros_like(alive)  # never repeat in vain
        else:
            good = alive & torch.isfinite(values.detach()).all(dim=-1)  # (Q, *b, B)
            return values if bool(good.all()) else torch.where(good[..., None], values, torch.nan)
    return torch.full_like(z, torch.nan)[None]


class UnitField:
    """A field on s in [0, 1] instead of [t, t + h], zero on masked rows; it notes when the user's code raised.

    Parameters
    ----------
    field : callable
        ``field(t, z, u) -> dz/dt``.
    t, h : Tensor, broadcasting against ``z[..., 0]``
        Start and length of the intervals.
    u : Tensor, (*b, G, m)
        Constant argument of the field.
    alive : Tensor of bool, (*b, B), or None
        Rows that take part; None for all.

    Attributes
    ----------
    error : BaseException or None
        What the user's code raised. It left `UnitField` as it was; this tells it apart from a solver's own errors.
    """

    def __init__(self, field: Field, t: Tensor, h: Tensor, u: Tensor, alive: Tensor | None) -> None:
        self._field, self._t, self._h, self._u = field, t, h, u
        self._column = h[..., None]
        self._alive = None if alive is None else alive[..., None]
        self.error: BaseException | None = None

    def __call__(self, s: Tensor, z: Tensor) -> Tensor:
        """dz/ds = h * field(t + s h, z, u).

        Parameters
        ----------
        s : Tensor, ()
            Fraction of the interval; clamped to 1, because some solvers look ahead when they choose a first step.
        z : Tensor, (*b, B, d)
            Value there; extra leading axes are welcome.

        Returns
        -------
        Tensor, (*b, B, d)
            The slope.
        """
        try:
            slope = self._field(torch.addcmul(self._t, self._h, s.clamp(max=1.0)), z, self._u)
        except BaseException as error:
            self.error = error
            raise
        slope = self._column * slope
        if slope.shape != z.shape:
            slope = slope.expand(z.shape)
        return slope if self._alive is None else torch.where(self._alive, slope, 0.0)
