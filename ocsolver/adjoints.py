"""How costates are computed from a forward sweep: exactly for the discrete cost, or from the costate equation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ocsolver._autodiff import replicate
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import costate_rate, dynamics
from ocsolver.integrators import Integrator
from ocsolver.intervals import Intervals, Linearization, run_backward

__all__ = ["Adjoint", "ContinuousAdjoint", "DiscreteAdjoint"]

BATCH_LIMIT = 5000  # B n² above which differentiating interval by interval beats all Jacobians at once (measured)


class Adjoint(ABC):
    """Abstract base class of the ways to sweep costates backward."""

    @abstractmethod
    def costates(
        self, intervals: Intervals, x: Tensor, u: Tensor, end: Tensor, linearization: Linearization | None = None
    ) -> Tensor:
        """Sweep backward.

        Parameters
        ----------
        intervals : Intervals
            Interval maps of the problem.
        x : Tensor, shape (N + 1, B, n)
            States of the forward sweep.
        u : Tensor, shape (N, G, m)
            Control of the forward sweep.
        end : Tensor, shape (B, n)
            Costate −∇Φ at the final time.
        linearization : Linearization, optional
            State derivatives of the interval maps at x, if the forward sweep has them already.

        Returns
        -------
        Tensor, shape (N + 1, B, n)
            Costates at the nodes, per sample.
        """

    def check(self, integrator: Integrator) -> None:
        """Refuse integrators that the method cannot serve.

        Parameters
        ----------
        integrator : Integrator
            Integrator of the state.

        Raises
        ------
        UnsupportedError
            If costates cannot be computed for it.
        """
        del integrator  # any will do

    def linearizes(self, intervals: Intervals, x: Tensor) -> bool:
        """Whether `costates` wants the state derivatives of all interval maps at once.

        Parameters
        ----------
        intervals : Intervals
            Interval maps of the problem.
        x : Tensor, shape (N + 1, B, n)
            States of the forward sweep.

        Returns
        -------
        bool
            True where one batched linearization is cheaper than a loop over the intervals.
        """
        return False


def _small(x: Tensor) -> bool:
    return x.shape[1] * x.shape[2] ** 2 <= BATCH_LIMIT


@dataclass(frozen=True)
class DiscreteAdjoint(Adjoint):
    """Costates of the discretized problem, p_k = ∂(p_{k+1}·Ψ_k − ℓ_k)/∂x: the exact gradient of the discrete cost.

    For Euler this is the paper's Algorithm 3: forward Euler for the state, backward Euler for the costate.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Algorithm 3.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.DiscreteAdjoint()
    DiscreteAdjoint()
    """

    def check(self, integrator: Integrator) -> None:
        if not integrator.differentiable:
            todo = "Use oc.ContinuousAdjoint(), or a fixed-step or TorchDiffEq integrator."
            got = type(integrator).__name__
            raise UnsupportedError(
                complaint("DiscreteAdjoint", expected="a differentiable integrator", got=got, todo=todo)
            )

    def linearizes(self, intervals: Intervals, x: Tensor) -> bool:
        return _small(x) and not intervals.integrator.adaptive

    def costates(
        self, intervals: Intervals, x: Tensor, u: Tensor, end: Tensor, linearization: Linearization | None = None
    ) -> Tensor:
        if linearization is not None:
            return run_backward(linearization.jacobian, end, -linearization.slope)
        p = [end]
        for k in reversed(range(u.shape[0])):
            p.append(intervals.pull(k, x[k], u[k], p[-1]))
        return torch.stack(p[::-1])


@dataclass(frozen=True)
class ContinuousAdjoint(Adjoint):
    """Costate equation ṗ = −∇ₓH integrated backward, the state re-seeded at each node (Eq. (3) of the paper).

    Parameters
    ----------
    integrator : Integrator, optional
        Integrator of the costate equation; None means that of the state.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.ContinuousAdjoint(oc.RK4())
    ContinuousAdjoint(integrator=RK4())
    """

    integrator: Integrator | None = None

    def __post_init__(self) -> None:
        if self.integrator is not None and not isinstance(self.integrator, Integrator):
            todo = "Pass an instance such as oc.RK4(), or None for the integrator of the state."
            what, got = "ContinuousAdjoint integrator", repr(self.integrator)
            raise InputError(complaint(what, expected="an Integrator", got=got, todo=todo))

    def _backward_step(
        self, intervals: Intervals, x: Tensor, p: Tensor, u: Tensor, fractions: Tensor | None = None
    ) -> Tensor:
        """Integrate (x, p) from the end of intervals to their start, or to points at `fractions` before the end."""
        n = x.shape[-1]
        problem = intervals.problem

        def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
            x, p = z[..., :n], z[..., n:]
            return torch.cat((dynamics(problem, t, x, u), costate_rate(problem, t, x, p, u)), -1)

        integrator = self.integrator or intervals.integrator
        end = intervals.t + intervals.h
        z = torch.cat((x, p), -1)
        if fractions is not None:
            return integrator.dense(field, end, -intervals.h, z, u, fractions.tolist())
        return integrator.step(field, end, -intervals.h, z, u)[..., n:]

    def costates(
        self, intervals: Intervals, x: Tensor, u: Tensor, end: Tensor, linearization: Linearization | None = None
    ) -> Tensor:
        integrator = self.integrator or intervals.integrator
        n = x.shape[-1]
        if _small(x) and integrator.differentiable:
            # the costate equation is linear: its transition maps follow from n unit seeds and the zero seed at once
            seeds = torch.cat((torch.eye(n, dtype=x.dtype, device=x.device), x.new_zeros(1, n)))
            seeds = seeds[:, None, None, :].expand(n + 1, *x[1:].shape)
            p = self._backward_step(intervals, replicate(x[1:], n + 1), seeds, replicate(u, n + 1))
            return run_backward((p[:n] - p[n]).movedim(0, -2), end, p[n])
        swept = [end]
        for k in reversed(range(u.shape[0])):
            one = replace(intervals, t=intervals.t[k], h=intervals.h[k])
            swept.append(self._backward_step(one, x[k + 1], swept[-1], u[k]))
        return torch.stack(swept[::-1])

    def one_interval(self, intervals: Intervals, x: Tensor, p: Tensor, u: Tensor) -> Tensor:
        """Costates one interval before given nodes, all intervals at once.

        Parameters
        ----------
        intervals : Intervals
            Interval maps of the problem.
        x, p : Tensor, shape (N, B, n)
            States and costates at the ends of the intervals.
        u : Tensor, shape (N, G, m)
            Control.

        Returns
        -------
        Tensor, shape (N, B, n)
            Costates at the starts of the intervals.
        """
        return self._backward_step(intervals, x, p, u)

    def points(self, intervals: Intervals, x: Tensor, p: Tensor, u: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
        """States and costates inside every interval, by the same integration.

        Parameters
        ----------
        intervals : Intervals
            Interval maps of the problem.
        x, p : Tensor, shape (N + 1, B, n)
            States and costates at the nodes.
        u : Tensor, shape (N, G, m)
            Control.
        fractions : Tensor, shape (Q,)
            Increasing positions in (0, 1).

        Returns
        -------
        x, p : Tensor, shape (Q, N, B, n)
            States and costates there.
        """
        z = self._backward_step(intervals, x[1:], p[1:], u, 1.0 - fractions.flip(0)).flip(0)
        return z[..., : x.shape[-1]], z[..., x.shape[-1] :]
