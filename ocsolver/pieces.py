"""Trajectories as polynomials on each interval; they know neither integrators nor algorithms.

The nodes are t (N + 1, G): each group may have its own. Inside interval k time is told by the fraction σ ∈ [0, 1] of
its length. The values are given at the s Gauss–Legendre points of every interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver._quadrature import legendre
from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import costate_rate, dynamics
from ocsolver.problem import OptimalControlProblem

__all__ = ["Pieces", "Samples", "checked_times", "gauss", "lagrange", "locate", "shifted"]


def gauss(s: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights (s,) of Gauss–Legendre quadrature on [0, 1], with the dtype and device of `like`."""
    return _gauss(s, like.dtype, like.device)


@cache
def _gauss(s: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    points, weights = legendre(s)
    with torch.inference_mode(mode=False):
        return torch.tensor(points, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)


def lagrange(points: Tensor, sigma: Tensor) -> Tensor:
    """Values at σ (*b) of the polynomials that are one at one of the points (s,), zero at the others: (*b, s)."""
    own = torch.eye(points.numel(), dtype=torch.bool, device=points.device)
    below = (points[:, None] - points).masked_fill_(own, 1.0)
    above = (sigma[..., None] - points)[..., None, :].masked_fill(own, 1.0)  # (*b, s, s)
    return (above / below).prod(-1)


def locate(t: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Where times lie in the mesh of each group; those beyond its ends are moved to the end.

    Parameters
    ----------
    t : Tensor, shape (N + 1, G)
        Nodes. Intervals of length zero do no harm.
    times : Tensor, shape (T,)
        Query times.

    Returns
    -------
    k : Tensor of int, shape (T, G)
        Interval; at a node the one to its right.
    sigma : Tensor, shape (T, G)
        Fraction of the interval, in [0, 1].
    """
    nodes = t.T.contiguous()  # (G, N + 1)
    inside = torch.minimum(torch.maximum(times[:, None], t[0]), t[-1])  # (T, G)
    k = (torch.searchsorted(nodes, inside.T.contiguous(), right=True) - 1).clamp(0, t.shape[0] - 2).T
    left, right = t.gather(0, k), t.gather(0, k + 1)
    sigma = torch.where(right > left, (inside - left) / (right - left), 1.0)
    return k, sigma.clamp(0.0, 1.0)


@cache
def _points(s: int, ends: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The s Gauss points, with both ends of the interval if these are wanted."""
    points, _ = _gauss(s, dtype, device)
    with torch.inference_mode(mode=False):
        return torch.cat((points.new_zeros(1), points, points.new_ones(1))) if ends else points


@lru_cache(maxsize=64)
def _basis(s: int, ends: bool, sigma: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values at fractions σ of the polynomials through these points (Q, s), or s + 2."""
    with torch.inference_mode(mode=False):
        return lagrange(_points(s, ends, dtype, device), torch.tensor(sigma, dtype=dtype, device=device))


@cache
def _means(s: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values of the polynomials through s Gauss points at those of a finer rule (q, s), and its weights (q,)."""
    points, weights = _gauss(s + 2, dtype, device)
    return _basis(s, False, tuple(points.tolist()), dtype, device), weights


class Samples(NamedTuple):
    """A trajectory at the same Q fractions of every interval."""

    t: Tensor  # (N, Q, G)
    x: Tensor  # (N, Q, B, n)
    p: Tensor  # (N, Q, B, n)
    u: Tensor  # (N, Q, G, m), projected onto U
    nu: Tensor | None  # (N, Q, G, c), path multipliers


def shifted(times: Tensor, t: Tensor) -> Tensor:
    """Times of another horizon as times of a solution, for warm starts.

    Where the horizons overlap time is one and the same (receding horizon); else it counts from each start. Times before
    or after the solution are moved to its ends.

    Parameters
    ----------
    times : Tensor, shape (T,)
        Increasing, in the new horizon.
    t : Tensor, shape (N + 1, G)
        Nodes of the solution.

    Returns
    -------
    Tensor, shape (T,)
        Times that the solution knows.
    """
    first, last = t[0].min(), t[-1].max()
    apart = bool((times[-1] <= first) | (times[0] >= last))
    own = times - times[0] + first if apart else times
    return own.to(t).clamp(first, last)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Polynomial pieces by their values at the s Gauss points of every interval.

    The control of an interval is the polynomial of degree s − 1 through its values, projected onto U; it may jump at
    the nodes. States and costates are the polynomials of degree s + 1 through their values at both nodes and at the
    Gauss points.

    Path multipliers are the derivatives of the Lagrangian J + ∫ ν·c dt, per unit of time: ν ≥ 0 where c is at its upper
    bound, ν ≤ 0 at its lower one. Hence ṗ = −∂H/∂x + (∂c/∂x)ᵀν, and p(t1) = −∇Φ − (∂c/∂x)ᵀν with the multiplier ν of
    the terminal constraint.

    Attributes
    ----------
    control : Tensor, shape (N, s, G, m)
        Control.
    state, costate : Tensor, shape (N, s, B, n)
        State and costate.
    path_multipliers : Tensor, shape (N, s, G, c), or None
        Multipliers ν of the path constraint (with B rows where the trajectories share a control).

    Examples
    --------
    A control that is linear on each of two intervals, by its values at two Gauss points:

    >>> import torch
    >>> import ocsolver as oc
    >>> values = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()[..., None, None]
    >>> pieces = oc.Pieces(values, torch.zeros_like(values), torch.zeros_like(values))
    >>> middle = torch.full((2, 1), 0.5).double()
    >>> pieces.controls(torch.tensor([[0], [1]]), middle).flatten().tolist()
    [0.5, 0.5]
    """

    control: Tensor
    state: Tensor
    costate: Tensor
    path_multipliers: Tensor | None = None

    @property
    def stages(self) -> int:
        """Number of Gauss points of an interval, s."""
        return self.control.shape[1]

    @classmethod
    def from_steps(cls, problem: OptimalControlProblem, t: Tensor, x: Tensor, p: Tensor, u: Tensor) -> Pieces:
        """Pieces (s = 2) of a control that is constant on intervals, by cubic Hermite interpolation of x and p.

        Parameters
        ----------
        problem : OptimalControlProblem
            Gives the slopes at the nodes.
        t : Tensor, shape (N + 1, G)
            Nodes.
        x, p : Tensor, shape (N + 1, B, n)
            States and costates there.
        u : Tensor, shape (N, G, m)
            Control.

        Returns
        -------
        Pieces
            Fourth-order accurate inside the intervals.
        """
        left, right = t[:-1], t[1:]
        h = (right - left)[:, None, :, None]  # (N, 1, G, 1)
        s = gauss(2, x)[0][:, None, None]

        def hermite(y: Tensor, slope0: Tensor, slope1: Tensor) -> Tensor:
            y0, y1, d0, d1 = (z[:, None] for z in (y[:-1], y[1:], slope0, slope1))
            ends = (1 + 2 * s) * (1 - s) ** 2 * y0 + s**2 * (3 - 2 * s) * y1
            return ends + h * (s * (1 - s) ** 2 * d0 + s**2 * (s - 1) * d1)

        with torch.no_grad():
            state = hermite(x, dynamics(problem, left, x[:-1], u), dynamics(problem, right, x[1:], u))
            slopes = (costate_rate(problem, left, x[:-1], p[:-1], u), costate_rate(problem, right, x[1:], p[1:], u))
            return cls(u[:, None].expand(-1, 2, -1, -1), state, hermite(p, *slopes))

    def controls(self, k: Tensor, sigma: Tensor) -> Tensor:
        """Control polynomial, not yet projected.

        Parameters
        ----------
        k, sigma : Tensor, shape (T, G)
            Intervals, and fractions of their lengths.

        Returns
        -------
        Tensor, shape (T, G, m)
            Control.
        """
        return self._inside(self.control, k, sigma)

    def states(self, x: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
        """State polynomial.

        Parameters
        ----------
        x : Tensor, shape (N + 1, B, n)
            States at the nodes.
        k, sigma : Tensor, shape (T, G)
            Intervals, and fractions of their lengths.

        Returns
        -------
        Tensor, shape (T, B, n)
            States.
        """
        return self._inside(self.state, k, sigma, x)

    def costates(self, p: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
        """Costate polynomial.

        Parameters
        ----------
        p : Tensor, shape (N + 1, B, n)
            Costates at the nodes.
        k, sigma : Tensor, shape (T, G)
            Intervals, and fractions of their lengths.

        Returns
        -------
        Tensor, shape (T, B, n)
            Costates.
        """
        return self._inside(self.costate, k, sigma, p)

    def multipliers(self, k: Tensor, sigma: Tensor) -> Tensor | None:
        """Polynomial of the path multipliers.

        Parameters
        ----------
        k, sigma : Tensor, shape (T, G)
            Intervals, and fractions of their lengths.

        Returns
        -------
        Tensor, shape (T, G, c), or None
            Multipliers; None without them.
        """
        return None if self.path_multipliers is None else self._inside(self.path_multipliers, k, sigma)

    def _inside(self, values: Tensor, k: Tensor, sigma: Tensor, ends: Tensor | None = None) -> Tensor:
        points, values = self._values(values, ends)
        rows = values.shape[2]
        basis = lagrange(points, sigma)[..., None]  # (T, G, s, 1)
        picked = values[k.expand(-1, rows), :, torch.arange(rows, device=k.device)]  # (T, rows, s, d)
        return (basis * picked).sum(-2)

    def _everywhere(self, values: Tensor, sigma: Tensor, ends: Tensor | None = None) -> Tensor:
        """The same at fractions σ (Q,) of all intervals: (N, Q, B, d)."""
        basis = _basis(self.stages, ends is not None, tuple(sigma.tolist()), sigma.dtype, sigma.device)
        _, values = self._values(values, ends)
        return (basis @ values.flatten(2)).reshape(len(values), len(basis), *values.shape[2:])

    def _values(self, values: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
        """Points (s,) and values there (N, s, B, d), with both ends of the intervals if values there are given."""
        points = _points(self.stages, ends is not None, values.dtype, values.device)
        return points, values if ends is None else torch.cat((ends[:-1, None], values, ends[1:, None]), 1)

    def samples(self, problem: OptimalControlProblem, t: Tensor, x: Tensor, p: Tensor, sigma: Tensor) -> Samples:
        """The trajectory at fractions of every interval.

        Parameters
        ----------
        problem : OptimalControlProblem
            Gives the control set.
        t : Tensor, shape (N + 1, G)
            Nodes.
        x, p : Tensor, shape (N + 1, B, n)
            States and costates there.
        sigma : Tensor, shape (Q,)
            Fractions in [0, 1]; at 1 the control is that to the left of the node.

        Returns
        -------
        Samples
            Each (N, Q, …).
        """
        u = problem.control_set.project(self._everywhere(self.control, sigma))
        nu = None if self.path_multipliers is None else self._everywhere(self.path_multipliers, sigma)
        times = t[:-1, None] + t.diff(dim=0)[:, None] * sigma[:, None]
        return Samples(times, self._everywhere(self.state, sigma, x), self._everywhere(self.costate, sigma, p), u, nu)

    def mean_control(self, problem: OptimalControlProblem) -> Tensor:
        """Mean of the projected control over each interval: what a solution shows as `u`.

        Parameters
        ----------
        problem : OptimalControlProblem
            Gives the control set.

        Returns
        -------
        Tensor, shape (N, G, m)
            Means, in U where U is convex.
        """
        N, _, G, m = self.control.shape
        basis, weights = _means(self.stages, self.control.dtype, self.control.device)
        u = problem.control_set.project((basis @ self.control.flatten(2)).reshape(N, -1, G, m))
        return (weights @ u.flatten(2)).reshape(N, G, m)


def checked_times(t: Tensor, times: Tensor) -> Tensor:
    """Query times (T,) inside the longest horizon, refused otherwise; one number counts as T = 1."""
    times = times[None] if times.ndim == 0 else times
    first, last = t[0].min(), t[-1].max()
    slack = 1e-9 * (last - first)
    if times.ndim != 1 or bool(((times < first - slack) | (times > last + slack) | torch.isnan(times)).any()):
        todo = "Pass times inside the horizon."
        expected = f"times (T,) in [{float(first):g}, {float(last):g}]"
        got = f"shape {tuple(times.shape)}, range [{float(times.min()):g}, {float(times.max()):g}]"
        raise InputError(complaint("t", expected=expected, got=got, todo=todo))
    return times
