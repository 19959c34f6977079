"""The Hamiltonian H = p·f − L, its augmentation, and the block of decoupled maximizations that maximizers see.

This file owns the sign convention: H is *maximized*, p(t1) = −∇Φ, ṗ = −∇ₓH. It knows nothing of sweeps or solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf, replicate
from ocsolver._call import call
from ocsolver._shapes import group_mean
from ocsolver.affine import AffineView, Part
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import ControlSet

CHUNK_ENTRIES = 4_000_000  # entries of the rates evaluated at once when many controls are tried
FINE_ENTRIES = 300_000  # entries of the rates up to which a fine grid of candidates is tried in every iteration

__all__ = [
    "Coupling",
    "Expansion",
    "HamiltonianBlock",
    "Penalty",
    "Terms",
    "augmented_field",
    "hamiltonian",
    "terminal_costate",
    "terminal_curvature",
]


def dynamics(problem: OptimalControlProblem, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Evaluate f(t, x, u), expanded to the shape of x (*b, B, n)."""
    f: Tensor = call(problem.dynamics, "dynamics", t, x, u)
    return f if f.shape == x.shape else f.expand(x.shape)


def running_cost(problem: OptimalControlProblem, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Evaluate L(t, x, u), expanded to (*b, B)."""
    if problem.running_cost is None:
        return x.new_zeros(x.shape[:-1])
    rate: Tensor = call(problem.running_cost, "running_cost", t, x, u)
    return rate if rate.shape == x.shape[:-1] else rate.expand(x.shape[:-1])


def terminal_cost(problem: OptimalControlProblem, x: Tensor) -> Tensor:
    """Evaluate Φ(x), expanded to (*b, B)."""
    if problem.terminal_cost is None:
        return x.new_zeros(x.shape[:-1])
    cost: Tensor = call(problem.terminal_cost, "terminal_cost", x)
    return cost if cost.shape == x.shape[:-1] else cost.expand(x.shape[:-1])


def hamiltonian(problem: OptimalControlProblem, t: Tensor, x: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Evaluate H(t, x, p, u) = p·f − L, the function below Eq. (1) of the paper: (*b, B)."""
    return (p * dynamics(problem, t, x, u)).sum(-1) - running_cost(problem, t, x, u)


def costate_rate(problem: OptimalControlProblem, t: Tensor, x: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Evaluate ṗ = −∇ₓH (Eq. (3)): (*b, B, n)."""
    with torch.enable_grad():
        x = leaf(x)
        (slope,) = gradients(hamiltonian(problem, t, x, p.detach(), u.detach()), (x,))
    return -slope


def terminal_costate(problem: OptimalControlProblem, x: Tensor) -> Tensor:
    """Evaluate p(t1) = −∇Φ(x(t1)) (Eq. (3)): (B, n)."""
    with torch.enable_grad():
        x = leaf(x)
        (slope,) = gradients(terminal_cost(problem, x), (x,))
    return -slope


def terminal_curvature(problem: OptimalControlProblem, x: Tensor) -> Tensor:
    """Evaluate ∂²Φ/∂x² at x(t1) (B, n): (B, n, n)."""
    n = x.shape[-1]
    if problem.terminal_cost is None:
        return x.new_zeros(*x.shape, n)
    with torch.enable_grad():
        x = leaf(replicate(x, n))
        (slope,) = gradients(terminal_cost(problem, x), (x,), create_graph=True)
        (rows,) = gradients(slope.diagonal(dim1=0, dim2=-1), (x,))
    return rows.movedim(0, -1)


def augmented_field(problem: OptimalControlProblem) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Field of the state with the running cost appended as a last component: (*b, B, n + 1).

    An integrator that steps it computes the cost by its own quadrature; without a running cost nothing is appended.
    """
    if problem.running_cost is None:
        return lambda t, x, u: dynamics(problem, t, x, u)

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        x = z[..., :-1]
        return torch.cat((dynamics(problem, t, x, u), running_cost(problem, t, x, u).unsqueeze(-1)), -1)

    return field


class Penalty(NamedTuple):
    """Weights of H̃, each (G,): ρ of the state and the costate term of Eq. (7), and a proximal ε."""

    rho_f: Tensor
    rho_q: Tensor
    epsilon: Tensor

    @classmethod
    def uniform(cls, rho: Tensor) -> Penalty:
        """One ρ for both feasibility terms and no proximal term, as in the paper."""
        return cls(rho, rho, torch.zeros_like(rho))

    @property
    def zero(self) -> bool:
        """Whether the augmented Hamiltonian is the plain one."""
        return not any(bool((weight != 0).any()) for weight in self)


class Terms(NamedTuple):
    """Gain of H and both feasibility errors of Lemma 1 when u replaces the current control, each (*l, K, G)."""

    gain: Tensor
    state_error: Tensor
    costate_error: Tensor


class Expansion(NamedTuple):
    """Second-order information of a block at some control u; columns j run over the m control components."""

    gradient: Tensor  # (K, G, m)        ∂/∂u of the group mean of H
    hessian: Tensor  # (K, G, m, m)      ∂²/∂u² of the group mean of H
    state_gradient: Tensor  # (K, G, m)  ½ ∂/∂u of the state error E_f
    costate_gradient: Tensor  # (K, G, m)  ½ ∂/∂u of the costate error E_q
    state_gram: Tensor  # (K, G, m, m)   mean FᵀF, F = ∂f/∂u: Gauss–Newton half Hessian of E_f
    costate_gram: Tensor  # (K, G, m, m)  mean QᵀQ, Q = ∂²H/∂x∂u: Gauss–Newton half Hessian of E_q

    def augmented(self, penalty: Penalty, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (K, G, m) and negated Gauss–Newton Hessian (K, G, m, m) of H̃ at u = current + displacement."""
        rho_f, rho_q, epsilon = (weight[:, None] for weight in penalty)
        gradient = (
            self.gradient - rho_f * self.state_gradient - rho_q * self.costate_gradient - 2 * epsilon * displacement
        )
        curvature = rho_f[..., None] * self.state_gram + rho_q[..., None] * self.costate_gram - self.hessian
        eye = torch.eye(displacement.shape[-1], dtype=displacement.dtype, device=displacement.device)
        return gradient, curvature + 2 * epsilon[..., None] * eye


class Coupling(NamedTuple):
    """Derivatives of the sites at the current control that say how a change at one site acts on the next ones."""

    state: Tensor  # (K, B, s, n)   ∂f/∂x
    control: Tensor  # (K, B, s, m)  F = ∂f/∂u
    hessian: Tensor  # (K, B, n, n)  ∂²H/∂x²
    mixed: Tensor  # (K, B, n, m)  Q = ∂²H/∂x∂u


@dataclass(frozen=True, eq=False)
class HamiltonianBlock:
    """K decoupled maximizations of equal shape, everything but the control frozen.

    Each site has Q points (1, or the quadrature nodes of an interval) at which ``rates(x, u)`` returns the rates of the
    state, with that of the cost appended when there is one; H = v·rates with the sensitivity v = (p, −1).

    Attributes
    ----------
    rates : callable
        ``rates(x, u) -> (*l, K, Q, B, d)`` for x (*l, K, Q, B, n), u (*l, K, Q, G, m), any leading axes l.
    x : Tensor, shape (K, Q, B, n)
        Frozen inputs of the sites.
    sensitivity : Tensor, shape (K, Q, B, d)
        Costates, and −1 in the component of the running cost if there is one.
    state_components : int
        How many of the d rates belong to the state (the rest is cost).
    weights : Tensor, shape (K,)
        w_k: the length of an interval, δ of a residual layer, 1 of any other layer.
    points : Tensor, shape (Q,)
        Weights of the points, summing to 1.
    current : Tensor, shape (K, G, m)
        Control that produced the sweep.
    control_set : ControlSet
        Admissible values of every row.
    t : Tensor, shape (K, Q, 1), or None
        Times of the points, where sites have times.
    slope : Tensor, shape (K, G, m), or None
        ∂H/∂u at the current control, if the sweep has it as a by-product.
    view : callable or None
        Returns inputs and sensitivities of affine layers, for structured Gauss–Newton; None where there are none.
    layered : bool
        Whether the sites are layers: their rates are exact, not differences of states, and gradient methods step along
        the gradient of w H, which makes them back-propagation (Prop. 2).
    constant_input : bool
        Whether x is data that no control changes. The costate error belongs to a variation of x, so it counts as zero.
    fine : bool
        Whether candidates come from a fine grid whatever it costs (certificates).
    coupled : bool
        Whether the expansion at the current control also yields the second derivatives in x (sites with one point).
    formula : callable or None
        H, rates and ∇ₓH for a control (K, G, m), or for None those at the current one, where the sweep has formulas.
    parts : callable or None
        Returns what averages over mini-batches are made of, from some of the samples: the affine maps inside of layers,
        and their other parameters.
    """

    rates: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    sensitivity: Tensor
    state_components: int
    weights: Tensor
    points: Tensor
    current: Tensor
    control_set: ControlSet
    t: Tensor | None = None
    slope: Tensor | None = None
    view: Callable[[], AffineView] | None = None
    layered: bool = False
    constant_input: bool = False
    fine: bool = False
    coupled: bool = False
    formula: Callable[[Tensor | None], tuple[Tensor, Tensor, Tensor]] | None = None
    parts: Callable[[], tuple[Part, ...]] | None = None

    @property
    def groups(self) -> int:
        """Number of control groups G."""
        return self.current.shape[1]

    def _average(self, values: Tensor) -> Tensor:
        """Mean over points and over the trajectories of a group: (*l, K, Q, B) -> (*l, K, G)."""
        values = values[..., 0, :] if self.points.numel() == 1 else (values * self.points[:, None]).sum(-2)
        return group_mean(values, self.groups)

    def _evaluate(self, u: Tensor, *, costate: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """H (*l, K, Q, B), rates (*l, K, Q, B, d) and ∇ₓH (*l, K, Q, B, n) or None."""
        lead = u.shape[:-3]
        if costate and self.formula is not None and not lead and not u.requires_grad:
            return self.formula(u)
        x = self.x.expand(*lead, *self.x.shape)
        points = u.unsqueeze(-3).expand(*lead, *self.x.shape[:2], *u.shape[-2:])
        if not costate:
            rates = self.rates(x, points)
            return (self.sensitivity * rates).sum(-1), rates, None
        with torch.enable_grad():
            x = leaf(x)
            rates = self.rates(x, points)
            value = (self.sensitivity * rates).sum(-1)
            (slope,) = gradients(value, (x,), create_graph=u.requires_grad)
        return (value, rates, slope) if u.requires_grad else (value.detach(), rates.detach(), slope)

    @property
    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """H, rates and ∇ₓH at the current control: a by-product of the expansion, if that is there."""
        return self._expanded[1] if "_expanded" in self.__dict__ else self._evaluated

    @cached_property
    def _evaluated(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.formula is not None:
            return self.formula(None)
        value, rates, slope = self._evaluate(self.current, costate=True)
        assert slope is not None
        return value, rates, slope

    @cached_property
    def noise(self) -> Tensor:
        """Rounding error of a difference of H (K, G): gains below it mean nothing."""
        _, rates, _ = self._reference
        s = min(self.state_components, self.x.shape[-1])
        size = (self.sensitivity * rates).abs().sum(-1)
        if not self.layered:
            size = size + (self.sensitivity[..., :s] * self.x[..., :s]).abs().sum(-1) / self.weights[:, None, None]
        return 32 * torch.finfo(rates.dtype).eps * self._average(size)

    def terms(self, u: Tensor, *, costate: bool = True) -> Terms:
        """Gain of H and feasibility errors when u (*l, K, G, m) replaces the current control.

        Without `costate` the costate error is not computed and comes back as zero, which saves a derivative.
        """
        value, rates, slope = self._evaluate(u, costate=costate and not self.constant_input)
        value0, rates0, slope0 = self._reference
        s = self.state_components
        gain = self._average(value - value0)
        state = self._average((rates[..., :s] - rates0[..., :s]).square().sum(-1))
        costate_error = torch.zeros_like(gain) if slope is None else self._average((slope - slope0).square().sum(-1))
        return Terms(gain, state, costate_error)

    def value(self, u: Tensor, penalty: Penalty | None = None) -> Tensor:
        """Augmented Hamiltonian H̃(u) − H(current) of Eq. (7), per site and group.

        Parameters
        ----------
        u : Tensor, shape (*l, K, G, m)
            Controls to try.
        penalty : Penalty, optional
            None means the plain Hamiltonian.

        Returns
        -------
        Tensor, shape (*l, K, G)
            Zero at the current control.
        """
        if penalty is None:
            value, _, _ = self._evaluate(u, costate=False)
            return self._average(value - self._reference[0])
        terms = self.terms(u, costate=bool((penalty.rho_q != 0).any()))
        proximal = (u - self.current).square().sum(-1)
        return (
            terms.gain
            - 0.5 * penalty.rho_f * terms.state_error
            - 0.5 * penalty.rho_q * terms.costate_error
            - penalty.epsilon * proximal
        )

    @cached_property
    def affine(self) -> AffineView | None:
        """Inputs and sensitivities of affine layers, or None."""
        return None if self.view is None else self.view()

    @cached_property
    def current_slope(self) -> Tensor:
        """Gradient of H, and of H̃, at the current control (K, G, m)."""
        if self.slope is not None:
            return self.slope
        return self.current_expansion.gradient if "_expanded" in self.__dict__ else self.gradient(self.current)[1]

    def gradient(self, u: Tensor, penalty: Penalty | None = None) -> tuple[Tensor, Tensor]:
        """Value (K, G) of H̃(u) − H(current) and its gradient (K, G, m)."""
        value, slope = self.trial(u, penalty)
        return value, slope()

    def trial(self, u: Tensor, penalty: Penalty | None = None) -> tuple[Tensor, Callable[[], Tensor]]:
        """Value (K, G) of H̃(u) − H(current), and a function that returns its gradient (K, G, m).

        A line search that rejects the trial never pays for the gradient, which costs more than the value.
        """
        with torch.enable_grad():
            u = leaf(u)
            value = self.value(u, penalty)
        return value.detach(), lambda: gradients(value, (u,))[0]

    def expansion(self, u: Tensor) -> Expansion:
        """Second-order expansion at u (K, G, m)."""
        return self._expand(u)[0]

    @property
    def current_expansion(self) -> Expansion:
        """Expansion at the current control; kept, because a rejected step maximizes again from the same point."""
        return self._expanded[0]

    @property
    def coupling(self) -> Coupling | None:
        """Derivatives that couple the sites, a by-product of the expansion where the block is `coupled`."""
        return self._expanded[2]

    @cached_property
    def _expanded(self) -> tuple[Expansion, tuple[Tensor, Tensor, Tensor], Coupling | None]:
        return self._expand(None)

    def _expand(self, u: Tensor | None) -> tuple[Expansion, tuple[Tensor, Tensor, Tensor], Coupling | None]:
        """Expansion at u (None: at the current control), with H, rates and ∇ₓH there, by one double backward pass.

        On m replicas with the sensitivity v as a third input, the derivative of ∂H/∂u_j with respect to (u, x, v) is at
        once the row of ∂²H/∂u², the column of Q = ∂²H/∂x∂u and the column of F = ∂f/∂u. On n more replicas, that of
        ∂H/∂x_i is the row of ∂²H/∂x² and the column of ∂f/∂x.
        """
        m, n, s = self.current.shape[-1], self.x.shape[-1], self.state_components
        copies = m + n if self.coupled and u is None else m
        with torch.enable_grad():
            us = leaf(replicate(self.current if u is None else u, copies))
            x = leaf(replicate(self.x, copies))
            v = leaf(replicate(self.sensitivity, copies))
            rates = self.rates(x, us.unsqueeze(-3).expand(copies, *self.x.shape[:2], *us.shape[-2:]))
            value = (v * rates).sum(-1)
            slope, costate_slope = gradients(self._average(value), (us, x), create_graph=True)
            own = slope[:m].diagonal(dim1=0, dim2=-1)  # (K, G, m): replica j, component j
            rows = own.sum()
            if copies > m:
                rows = rows + costate_slope[m:].diagonal(dim1=0, dim2=-1).sum()
            hessian, mixed, jacobian = gradients(rows, (us, x, v))
        # x- and v-derivatives of the averaged H carry the factors of the average: divide them out
        share = self.points[:, None, None] / (self.x.shape[2] if self.groups == 1 else 1)
        f, q = jacobian[..., :s] / share, mixed / share  # (m [+ n], K, Q, B, s), (m [+ n], K, Q, B, n)
        coupling = None
        if copies > m:
            parts = (f[m:], f[:m], q[m:], q[:m])
            coupling = Coupling(*(part[:, :, 0].movedim(0, -1) for part in parts))
            hessian, f, q = hessian[:m], f[:m], q[:m]
        q = torch.zeros_like(q) if self.constant_input else q
        here = (value[0].detach(), rates[0].detach(), costate_slope[0].detach() / share)
        if u is None:
            df, dq = torch.zeros_like(f[0]), torch.zeros_like(q[0])
        else:
            _, rates0, slope0 = self._reference
            df, dq = here[1][..., :s] - rates0[..., :s], here[2] - slope0
        expansion = Expansion(
            gradient=own.detach(),
            hessian=hessian.permute(1, 2, 0, 3),
            state_gradient=self._columns(f, df),
            costate_gradient=self._columns(q, dq),
            state_gram=self._gram(f),
            costate_gram=self._gram(q),
        )
        return expansion, here, coupling

    def best_of(self, trials: Tensor, penalty: Penalty | None = None) -> tuple[Tensor, Tensor]:
        """Best of C trial controls per site and group: (C, K | 1, G | 1, m) -> u (K, G, m), its value (K, G)."""
        trials = trials.expand(trials.shape[0], *self.current.shape)
        chunk = max(1, CHUNK_ENTRIES // max(1, self.sensitivity.numel()))
        parts: tuple[Tensor, ...] = torch.split(trials, chunk)
        value = torch.cat([self.value(part, penalty) for part in parts])
        value = torch.where(torch.isfinite(value), value, -torch.inf)
        best = value.argmax(0)  # (K, G)
        index = best[None, ..., None].expand(1, *self.current.shape)
        return trials.gather(0, index)[0], value.gather(0, best[None])[0]

    @cached_property
    def best_candidate(self) -> tuple[Tensor, Tensor] | None:
        """Best point of the control set's candidates for the plain Hamiltonian, or None if the set offers none."""
        points = self.control_set.candidates(self.current, fine=True)
        if points is None or not (self.fine or len(points) * self.sensitivity.numel() <= FINE_ENTRIES):
            points = self.control_set.candidates(self.current)
        return None if points is None else self.best_of(points[:, None, None, :])

    def _columns(self, jacobian: Tensor, vector: Tensor) -> Tensor:
        """Averaged Jᵀv: (m, K, Q, B, d), (K, Q, B, d) -> (K, G, m)."""
        return self._average((jacobian * vector).sum(-1)).movedim(0, -1)

    def _gram(self, jacobian: Tensor) -> Tensor:
        """Averaged JᵀJ: (m, K, Q, B, d) -> (K, G, m, m)."""
        if self.groups == 1:
            weighted = jacobian * (self.points[:, None, None] / jacobian.shape[3])
            return torch.einsum("ikqbd,jkqbd->kij", weighted, jacobian).unsqueeze(1)
        return torch.einsum("ikqbd,jkqbd->kbij", jacobian * self.points[:, None, None], jacobian)
