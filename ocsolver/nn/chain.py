"""Sweeps of a run of equal residual layers x + δ φ(Wx + b) by formulas, without a graph; it knows no loss.

Forward x_{k+1} = x_k + δ f_k with f_k = φ(z_k) and z_k = W_k x_k + b_k; backward p_k = p_{k+1} + δ W_kᵀ(s_k ∘ p_{k+1})
with s = φ′(z), and ∂H_k/∂[W_k b_k] = (s_k ∘ p_{k+1}) [x_k; 1]ᵀ. Everything is stored for all layers at once, with the
samples along the last axis, so that what a maximizer needs afterwards is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver.affine import LinearView, Shape
from ocsolver.nn.layers import Layer

__all__ = ["Chain", "Trace", "kind_of"]

Slope = Callable[[Tensor], Tensor]
Kind = tuple[float, int, bool, type[nn.Module]]  # step, width, bias and activation of a residual layer


def _unit(f: Tensor) -> Tensor:
    return torch.ones_like(f)


# activations by formula: φ in place on z, and φ′ as a function of the value f = φ(z)
ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Slope]] = {
    nn.Identity: (lambda z: z, _unit),
    nn.Tanh: (torch.tanh_, lambda f: 1.0 - f.square()),
    nn.Sigmoid: (torch.sigmoid_, lambda f: f * (1.0 - f)),
    nn.ReLU: (torch.relu_, lambda f: (f > 0).to(f.dtype)),
}


@dataclass(frozen=True, eq=False)
class Chain:
    """K consecutive equal residual layers with an affine map of vectors and a known activation.

    Attributes
    ----------
    first : int
        Index of the first layer in the network.
    count : int
        K.
    step : float
        δ.
    width : int
        n.
    bias : bool
        Whether the layers have a bias.
    activation : type
        Class of the activation, a key of the table above.
    """

    first: int
    count: int
    step: float
    width: int
    bias: bool
    activation: type[nn.Module]

    @classmethod
    def of(cls, members: Sequence[int], kinds: Sequence[Kind | None]) -> Chain | None:
        """The chain that a family of equal layers forms, or None; kinds are those of all layers, by `kind_of`."""
        kind = kinds[members[0]]
        consecutive = list(members) == list(range(members[0], members[0] + len(members)))
        if len(members) < 2 or not consecutive or kind is None or any(kinds[n] is None for n in members):
            return None
        return cls(members[0], len(members), *kind)

    @property
    def members(self) -> range:
        """Indices of its layers in the network."""
        return range(self.first, self.first + self.count)

    def run(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Trace]:
        """Last state (B, n), in the graph of x (B, n) and θ (K, m), and the trace that the sweeps fill."""
        trace = Trace(self)
        last: Tensor = _Run.apply(x, theta, trace)  # type: ignore[no-untyped-call]
        return last, trace

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """W (*l, n, n) and b (*l, n, 1) from control vectors (*l, m); b is zero without a bias."""
        weights, bias = Shape(self.width, self.width, self.bias).split(theta)
        return weights, theta.new_zeros(()).expand(*weights.shape[:-1], 1) if bias is None else bias

    def rates(self, x: Tensor, theta: Tensor) -> Tensor:
        """f for all layers: (*l, K, B, n), (*l, K, m) -> (*l, K, B, n), differentiable in both."""
        weights, bias = self.split(theta)
        z = x @ weights.mT + bias.mT
        return z if self.activation is nn.Identity else self.activation()(z)


def kind_of(layer: Layer) -> Kind | None:
    """Step, width, bias and activation of a residual layer that a chain can hold, without user code, or None."""
    module = layer.module
    parts = list(module) if type(module).forward is nn.Sequential.forward else [module]  # type: ignore[call-overload]
    if layer.step is None or not 1 <= len(parts) <= 2 or type(parts[0]) is not nn.Linear:
        return None
    linear, activation = parts[0], type(parts[1]) if len(parts) == 2 else nn.Identity
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in (module, *parts))
    parameters = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    square = linear.in_features == linear.out_features
    if activation not in ACTIVATIONS or hooked or not square or not all(value.requires_grad for value in parameters):
        return None
    return layer.step, linear.in_features, linear.bias is not None, activation


@dataclass(eq=False)
class Trace:
    """What the sweeps through a chain left, samples last; the backward part is there once the graph was swept.

    Autograd has to sweep −Σ loss_i, whose derivatives are the costates.

    Attributes
    ----------
    chain : Chain
        The layers.
    x, f : Tensor, shapes (K + 1, n, B) and (K, n, B)
        States and rates.
    p : Tensor, shape (K + 1, n, B)
        Costates −∂loss_i/∂x.
    slopes : Tensor, shape (K, n, B)
        s = φ′(z).
    y : Tensor, shape (K, n, B)
        s ∘ p_{k+1} = ∂H/∂z.
    """

    chain: Chain
    x: Tensor = field(init=False)
    f: Tensor = field(init=False)
    p: Tensor = field(init=False)
    slopes: Tensor = field(init=False)
    y: Tensor = field(init=False)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        """Fill x and f; returns the last state (n, B)."""
        chain = self.chain
        act, _ = ACTIVATIONS[chain.activation]
        weights, bias = chain.split(theta)
        self.x = x.new_empty(chain.count + 1, chain.width, len(x))
        self.f = x.new_empty(chain.count, chain.width, len(x))
        self.x[0] = x.mT
        states = self.x.unbind()
        for b, w, f, here, there in zip(
            bias.unbind(), weights.unbind(), self.f.unbind(), states[:-1], states[1:], strict=True
        ):
            act(torch.addmm(b, w, here, out=f))
            torch.add(here, f, alpha=chain.step, out=there)
        return self.x[-1]

    def backward(self, last: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the rest from p_K (B, n); returns p_0 (n, B) and Σ_i w ∂H_i/∂θ (K, m)."""
        chain = self.chain
        weights, _ = chain.split(theta)
        self.slopes = ACTIVATIONS[chain.activation][1](self.f)
        self.p, self.y = torch.empty_like(self.x), torch.empty_like(self.f)
        self.p[-1] = last.mT
        p = self.p.unbind()
        parts = zip(weights.mT.unbind(), self.slopes.unbind(), self.y.unbind(), p[:-1], p[1:], strict=True)
        for w, s, y, here, there in reversed(list(parts)):
            torch.mul(s, there, out=y)
            torch.addmm(there, w, y, alpha=chain.step, out=here)
        slope = torch.bmm(self.y, self.x[:-1].mT).flatten(1)
        if chain.bias:
            slope = torch.cat((slope, self.y.sum(-1)), 1)
        return self.p[0], chain.step * slope

    def rest(self) -> None:
        """Fill the backward part with zeros, if no derivative came from the loss."""
        if not hasattr(self, "p"):
            self.p, self.y, self.slopes = torch.zeros_like(self.x), torch.zeros_like(self.f), torch.zeros_like(self.f)

    @property
    def states(self) -> list[Tensor]:
        """States x_1 … x_K of the layers (B, n)."""
        return list(self.x.mT[1:].unbind())

    @property
    def costates(self) -> list[Tensor]:
        """Costates p_1 … p_K (B, n)."""
        return list(self.p[1:].mT.unbind())

    def hamiltonian(self, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """H (K, 1, B), rates and ∇ₓH (K, 1, B, n) for a control (K, 1, m); None stands for the present one."""
        p = self.p[1:]
        if u is None:
            f, slope = self.f, (self.p[:-1] - p) / self.chain.step
        else:
            act, derivative = ACTIVATIONS[self.chain.activation]
            weights, bias = self.chain.split(u[:, 0])
            f = act(torch.baddbmm(bias, weights, self.x[:-1]))
            slope = torch.bmm(weights.mT, derivative(f).mul_(p))
        return (p * f).sum(1)[:, None], f.mT[:, None], slope.mT[:, None]

    @property
    def view(self) -> LinearView:
        """Inputs and sensitivities of the affine maps."""
        return LinearView(self.x[:-1].mT, lambda: self.slopes.mT, lambda: self.y.mT, self.chain.width, self.chain.bias)


class _Run(torch.autograd.Function):
    """The chain as one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, trace: Trace) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.trace = trace
        return trace.forward(x, theta).mT.contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, last: Tensor) -> tuple[Tensor, Tensor, None]:
        (theta,) = ctx.saved_tensors
        first, slope = ctx.trace.backward(last, theta)
        return first.mT, slope, None
