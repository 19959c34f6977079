"""All rows of a field as one flat NumPy system, with its Jacobian in the forms that SciPy's solvers take."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix
from torch import Tensor

from ocsolver.integrators._rows import RowsFailedError, UnitField

Array = np.ndarray[Any, Any]
_REJECTED = 1e100  # for a slope that is not finite: implicit solvers reject it, while NaN passes some of their tests


_LAST = 8  # evaluations that certainly lie at the point of failure
_STAGNATION = 500  # evaluations without progress in s; only LSODA goes on for so long


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.double().cpu().numpy()
    return array


class BudgetExhaustedError(Exception):
    """More evaluations than allowed, or no progress; never leaves the integrators."""


class FlatSystem:
    """dy/ds = slope(s, y) for y of length n = R d, with R rows of d components.

    Parameters
    ----------
    field : UnitField
        The field on s in [0, 1].
    z : Tensor, (*b, B, d)
        A value, for shape, dtype and device.
    budget : int
        Evaluations allowed.
    explicit : bool
        Whether the solver is an explicit Runge-Kutta method; those understand NaN.

    Attributes
    ----------
    rows, size : int
        R and d.
    rounding : float
        The least sensible relative tolerance: SciPy's own floor, or ten units of rounding of z's dtype.
    """

    def __init__(self, field: UnitField, z: Tensor, budget: int, explicit: bool) -> None:
        self._field, self._like, self._budget, self._explicit = field, z, budget, explicit
        self.size = z.shape[-1]
        self.rows = z.numel() // self.size
        self.rounding = max(100 * float(np.finfo(float).eps), 10 * torch.finfo(z.dtype).eps)
        self._anchor, self._idle = 0.0, 0  # where s last made progress, and evaluations since
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=32)  # value and slope, each (*b, B, d)

    @property
    def error(self) -> BaseException | None:
        """What the user's code raised, if it did."""
        return self._field.error

    def _tensor(self, array: object) -> Tensor:
        return torch.tensor(array, dtype=self._like.dtype, device=self._like.device)

    def slope(self, s: float, y: Array) -> Array:
        """Right-hand side, (n,); RowsFailedError where the field is not finite at the initial value."""
        self._count(s)
        z = self._tensor(y).reshape(self._like.shape)
        slope = self._field(self._tensor(s), z)
        if not self._recent:  # every solver begins with the slope at the initial value
            finite = torch.isfinite(slope).all(dim=-1)
            if not bool(finite.all()):
                raise RowsFailedError(~finite)
        self._recent.append((z, slope))
        flat = _array(slope.reshape(-1))
        return flat if self._explicit else np.nan_to_num(flat, nan=_REJECTED, posinf=_REJECTED, neginf=-_REJECTED)

    def _count(self, s: float) -> None:
        if abs(s - self._anchor) > 16 * float(np.finfo(float).eps) * s + 1e-18:
            self._anchor, self._idle = s, 0
        self._idle += 1
        self._budget -= 1
        if self._budget < 0 or self._idle > _STAGNATION:
            raise BudgetExhaustedError

    def blocks(self, s: float, y: Array) -> Array:
        """d slope_i / d z_j of each row, (R, d, d) with axes (row, i, j): one vjp on d copies of z gives them all."""
        z, time = self._tensor(y).reshape(self._like.shape), self._tensor(s)
        copies = z.expand(self.size, *z.shape).clone()  # (d, *b, B, d)
        identity = torch.eye(self.size).to(z).reshape(self.size, *(1,) * (z.ndim - 1), self.size)
        with torch.enable_grad():
            slopes = self._field(time, copies.requires_grad_())
            gradient: Tensor | None = None
            if slopes.requires_grad:
                (gradient,) = torch.autograd.grad(slopes, copies, identity.expand_as(slopes), allow_unused=True)
        if gradient is not None:  # copy i holds the gradient of slope_i
            blocks = gradient.reshape(self.size, self.rows, self.size).transpose(0, 1)
            return _array(blocks.nan_to_num(0.0, 0.0, 0.0))
        # The field is constant in z or detached from it: difference quotients serve both; copy j is shifted along z_j.
        shifts = torch.finfo(z.dtype).eps ** 0.5 * z.abs().clamp(min=1.0)
        moved = z + identity * shifts
        quotients = (self._field(time, moved) - slopes).detach() / (moved - z).sum(dim=-1, keepdim=True)
        return _array(quotients.reshape(self.size, self.rows, self.size).permute(1, 2, 0).nan_to_num(0.0, 0.0, 0.0))

    def dense_jacobian(self, s: float, y: Array) -> Array:
        """The Jacobian of a system of one row, (d, d)."""
        block: Array = self.blocks(s, y)[0]
        return block

    def sparse_jacobian(self, s: float, y: Array) -> csc_matrix:
        """The Jacobian as a block-diagonal sparse matrix, (n, n)."""
        n, d = self.rows * self.size, self.size
        values = self.blocks(s, y).transpose(0, 2, 1)  # by (row, j, i): column after column
        indices = np.repeat(np.arange(n).reshape(self.rows, 1, d), d, axis=1)
        return csc_matrix((values.reshape(-1), indices.reshape(-1), np.arange(n + 1) * d), shape=(n, n))

    def banded_jacobian(self, s: float, y: Array) -> Array:
        """The Jacobian in LSODA's packed form, (2 d - 1, n): entry (i, j) at row d - 1 + i - j of column j."""
        i, j = np.indices((self.size, self.size)).reshape(2, -1)
        packed = np.zeros((2 * self.size - 1, self.rows, self.size))
        packed[self.size - 1 + i - j, :, j] = self.blocks(s, y)[:, i, j].T
        return packed.reshape(2 * self.size - 1, -1)

    def suspects(self) -> Tensor:
        """Rows (*b, B) to blame for a failure: those not finite, else those whose slope varies fastest with z.

        A step size is dictated by the local Lipschitz constant, at a singularity, on a stiff row and at a jump alike;
        successive evaluations near the point of failure estimate it.
        """
        slopes = torch.stack([slope for _, slope in self._recent])  # (K, *b, B, d)
        broken = ~torch.isfinite(slopes[-_LAST:]).all(dim=-1).all(dim=0)
        if bool(broken.any()):
            return broken
        values = torch.stack([value for value, _ in self._recent])
        noise = torch.finfo(values.dtype).eps * (1.0 + torch.linalg.vector_norm(values[1:], dim=-1))
        moved = torch.linalg.vector_norm(values.diff(dim=0), dim=-1) + noise
        constants = (torch.linalg.vector_norm(slopes.diff(dim=0), dim=-1) / moved).nan_to_num(nan=0.0)
        fastest = constants.amax(dim=0) if len(constants) else torch.zeros_like(broken, dtype=values.dtype)
        return fastest >= 0.5 * fastest.amax()
