"""The sweeps of a network: every layer with parameters is a site of a chain; it knows no solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver._autodiff import gradients, leaf
from ocsolver._call import call
from ocsolver._shapes import check_finite
from ocsolver.affine import AffineView, Part
from ocsolver.errors import UnsupportedError, complaint
from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.nn.chain import Chain, Trace
from ocsolver.nn.layers import Layer
from ocsolver.nn.loss import sample_losses
from ocsolver.nn.parts import parts_of
from ocsolver.nn.problem import NetworkProblem, load
from ocsolver.nn.response import drawn, rows_of, steepness
from ocsolver.nn.taps import Tap, tapped, view_of
from ocsolver.sets import Unconstrained
from ocsolver.status import Status
from ocsolver.transcription import Control, Discretization, Failure, Response, Sweep, transcribe

__all__ = ["LayeredForward", "LayeredTranscription"]


@dataclass(frozen=True, eq=False)
class LayeredForward:
    """States of all layers for one control; the costates and ∂H/∂u come from the same graph."""

    control: Control
    graph: tuple[Tensor | None, ...]  # states with their graph, one more than layers; None inside a chain
    leaves: Control  # the control as leaves of the graph
    taps: dict[int, Tap]  # of the layers with an affine map outside of chains
    traces: tuple[Trace, ...]  # of the chains
    losses: Tensor  # (B,), with their graph
    decay: Tensor  # (1,), Σ ½ λ ‖θ‖²
    again: Callable[[], LayeredForward] | None = None  # on a mini-batch: the same sweep, for what is rarely asked for

    @cached_property
    def kept(self) -> LayeredForward:
        """This sweep with its graph, which a mini-batch gives up as soon as it has ∂H/∂u, as back-propagation does."""
        return self if self.again is None else self.again()

    @cached_property
    def x(self) -> list[Any]:
        """States (B, …), one more than layers."""
        return self._with_chains([None if state is None else state.detach() for state in self.graph], "states")

    @cached_property
    def _slopes(self) -> dict[int, Tensor]:
        """Derivatives of −Σ loss_i, by id, in one backward pass: by the control and, where the graph is kept, by states
        and outputs of affine maps."""
        variables, keep = list(self.leaves), self.again is None
        if keep:
            variables += [state for state in self.graph if state is not None and state.requires_grad]
            variables += [tap.outputs for tap in self.taps.values()]
        cotangent = torch.full_like(self.losses, -1.0)
        slopes = gradients(self.losses, variables, cotangent, retain_graph=keep and bool(self.taps))
        for trace in self.traces:
            trace.rest()
        return {id(variable): slope for variable, slope in zip(variables, slopes, strict=True)}

    @cached_property
    def p(self) -> list[Any]:
        """Costates p_n = −∂loss_i/∂x_n (B, …); None where the inputs are constants and nothing lies before them."""
        if self.again is not None:
            return self.kept.p
        slopes = self._slopes
        return self._with_chains([slopes.get(id(state)) for state in self.graph], "costates")

    def _with_chains(self, values: list[Any], name: str) -> list[Any]:
        for trace in self.traces:
            first = trace.chain.first + 1
            values[first : first + trace.chain.count] = getattr(trace, name)
        return values

    @cached_property
    def gradient(self) -> Control:
        """Derivative of the mean loss by the control, without weight decay."""
        return tuple(self._slopes[id(leaf)] / -len(self.losses) for leaf in self.leaves)

    @cached_property
    def sensitivities(self) -> dict[int, Tensor]:
        """−∂loss_i/∂z of the layers with an affine map."""
        return {k: self._slopes[id(tap.outputs)] for k, tap in self.taps.items()}

    @property
    def outputs(self) -> Tensor:
        """Output of the network (B, …)."""
        outputs: Tensor = self.x[-1]
        return outputs

    @cached_property
    def cost(self) -> Tensor:
        """J (1,), inf where the simulation failed."""
        cost: Tensor = self.losses.detach().mean() + self.decay
        return torch.where(torch.isfinite(cost), cost, torch.inf)

    @cached_property
    def scale(self) -> Tensor:
        """Mean |loss| plus weight decay (1,)."""
        return self.losses.detach().abs().mean() + self.decay

    @property
    def finite(self) -> Tensor:
        """Whether the loss is finite (1,)."""
        return torch.isfinite(self.cost)


@dataclass(frozen=True, eq=False)
class LayeredTranscription:
    """A network problem as a chain of sites; one mask per random layer for its lifetime."""

    problem: NetworkProblem
    groups: int = 1
    sampled: bool = False  # a mini-batch: nobody asks for the costate of the inputs

    @cached_property
    def seeds(self) -> tuple[int | None, ...]:
        """Seed of each layer's masks, None for layers without."""
        problem, high = self.problem, 2**31 - 1
        inside = {n for chain in problem.chains for n in chain.members}
        random = [n not in inside and layer.random() for n, layer in enumerate(problem.layers)]
        return tuple(int(torch.randint(high, ())) if each else None for each in random)

    def start(self, initial_control: Any) -> Control:
        """Present weights of the network, or those of a solution, a network or a tuple of blocks."""
        control = self.problem.blocks(initial_control)
        for block in control:
            check_finite(block, what="initial weights")
        return control

    def check(self, control: Control) -> None:
        """Raise for inputs that are not finite; layers and loss were probed when the problem was stated."""
        check_finite(self.problem.inputs, what="inputs")

    def load(self, control: Control) -> None:
        """Write a control into the network's own weights."""
        load(self.problem.layers, self.problem.families, control)

    def forward(self, control: Control, near: Any = None) -> LayeredForward:
        """States and losses of a control."""
        if not self.sampled:
            return self._sweep(control, self.problem.maps)
        return replace(self._sweep(control, ()), again=lambda: self._sweep(control, self.problem.maps))

    def _sweep(self, control: Control, maps: Sequence[nn.Module | None]) -> LayeredForward:
        """The sweep with its graph, which taps some affine maps."""
        problem = self.problem
        chains = {chain.first: chain for chain in problem.chains}
        with torch.enable_grad(), tapped(maps, problem.layers[: len(maps)]) as taps:
            leaves = tuple(leaf(block) for block in control)
            thetas: dict[int, Tensor] = {}
            for members, block in zip(problem.families, leaves, strict=True):
                thetas |= {members[0]: block[:, 0]} if members[0] in chains else zip(members, block[:, 0], strict=True)
            state = problem.inputs.detach() if self.sampled else leaf(problem.inputs)
            states: list[Tensor | None] = [state]
            traces: list[Trace] = []
            while len(states) <= len(problem.layers):
                n = len(states) - 1
                if n in chains:
                    state, trace = chains[n].run(state, thetas[n])
                    traces.append(trace)
                    states += [None] * (trace.chain.count - 1)
                else:
                    layer, theta, seed = problem.layers[n], thetas.get(n), self.seeds[n]
                    state = call(lambda x, f=layer, t=theta, s=seed: f(x, t, s), layer.name, state)
                states.append(state)
            losses = sample_losses(problem.loss, state, problem.targets)
        decay = losses.new_zeros(1)
        if problem.weight_decay:
            decay = decay + 0.5 * problem.weight_decay * sum(block.square().sum() for block in control)
        return LayeredForward(control, tuple(states), leaves, taps, tuple(traces), losses, decay)

    def backward(self, forward: LayeredForward) -> Sweep:
        """Costates and blocks of a forward sweep."""
        problem = self.problem
        traces = {trace.chain.first: trace for trace in forward.traces}
        blocks = []
        for members, current, gradient in zip(problem.families, forward.control, forward.gradient, strict=True):
            layers, trace = [problem.layers[n] for n in members], traces.get(members[0])
            following, chain = forward.x[members[0] + 1], None if trace is None else trace.chain
            seeds = tuple(self.seeds[n] for n in members)
            block = LayerBlock(
                rates=Rates(layers, seeds, forward.x[members[0]].shape, problem.weight_decay, chain),
                x=current,  # both are put in place when somebody asks for them
                sensitivity=current,
                state_components=following.numel() // len(following),
                weights=current.new_tensor([layer.weight for layer in layers]),
                points=current.new_ones(1),
                current=current,
                control_set=Unconstrained(current.shape[-1]),
                slope=-(gradient + problem.weight_decay * current) / layers[0].weight,
                view=self._view(forward, members, trace),
                layered=True,
                formula=trace.hamiltonian if trace is not None and not problem.weight_decay else None,
                parts=partial(self._parts, forward, members, trace),
                constant_input=layers[0].step is None and not any(problem.layers[k].m for k in range(members[0])),
            )
            blocks.append(block.later(partial(self._frozen, forward, members, trace)))
        if self.sampled:
            return Sweep(forward, tuple(blocks), None)
        ready = forward.outputs.numel() == len(forward.outputs) and all(block.view is not None for block in blocks)
        response = partial(self._response, forward, tuple(blocks)) if ready else None
        return Sweep(forward, tuple(blocks), forward.p, response=response)

    def _response(
        self, forward: LayeredForward, blocks: Sequence[HamiltonianBlock], count: int, draw: int
    ) -> Response | None:
        """How the losses of some samples respond to all layers together."""
        problem, picked = self.problem, drawn(len(forward.losses), count, draw).to(forward.outputs.device)
        factor = steepness(problem.loss, forward.outputs[picked], problem.targets[picked])
        rows = None if factor is None else rows_of(blocks, picked, factor)
        return None if rows is None else Response(rows, problem.weight_decay)

    def _frozen(self, forward: LayeredForward, members: tuple[int, ...], trace: Trace | None) -> tuple[Tensor, Tensor]:
        """States and sensitivities of a family (K, 1, B, n) and (K, 1, B, d)."""
        if trace is not None:
            x, v = trace.x[:-1].mT.unsqueeze(1), trace.p[1:].mT.unsqueeze(1)
        else:
            x, v = (_stacked([each[n + k] for n in members]) for k, each in enumerate((forward.x, forward.p)))
        if self.problem.weight_decay:
            v = torch.cat((v, torch.full_like(v[..., :1], -1.0)), -1)
        return x, v

    def _view(
        self, forward: LayeredForward, members: tuple[int, ...], trace: Trace | None
    ) -> Callable[[], AffineView] | None:
        """Inputs and sensitivities of a family of affine layers, when somebody asks for them."""
        if trace is not None:
            return lambda: trace.view
        if self.problem.maps[members[0]] is None:
            return None

        def view() -> AffineView:
            kept = forward.kept
            maps, taps = [self.problem.maps[n] for n in members], [kept.taps[n] for n in members]
            following: list[Any] = [kept.graph[n + 1] for n in members]
            weight = self.problem.layers[members[0]].weight
            return view_of(maps, taps, following, lambda: [kept.sensitivities[n] for n in members], weight)

        return view

    def _parts(self, forward: LayeredForward, members: tuple[int, ...], trace: Trace | None) -> tuple[Part, ...]:
        """Affine maps and other parameters of a family."""
        if trace is not None:
            return (Part(trace.view),)
        layers, insides = [self.problem.layers[n] for n in members], [self.problem.insides[n] for n in members]
        theta = forward.control[self.problem.families.index(members)][:, 0]
        return parts_of(layers, insides, [forward.x[n] for n in members], theta, self.seeds[members[0]])

    def merge(self, mask: Tensor, new: LayeredForward, old: LayeredForward) -> LayeredForward:
        """The one group is taken as a whole."""
        return new if bool(mask[0]) else old

    def diagnose(self, forward: LayeredForward, group: int) -> Failure:
        """Name the layer and the sample where the first value is not finite."""
        names = ["inputs", *(f"the output of {layer.name}" for layer in self.problem.layers), "the loss"]
        for name, values in zip(names, [*forward.x, forward.losses.detach()], strict=True):
            bad = ~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None]).all(1)
            if bool(bad.any()):
                return Failure(Status.NONFINITE, f"{name} is not finite for sample {int(bad.nonzero()[0])}")
        return Failure(Status.NONFINITE, "the weight decay is not finite")


class LayerBlock(HamiltonianBlock):
    """A block whose states and costates are put together only when asked for; gradients do without them."""

    def later(self, frozen: Callable[[], tuple[Tensor, Tensor]]) -> LayerBlock:
        """The block itself, with a function that returns states and sensitivities."""
        values = self.__dict__
        del values["x"], values["sensitivity"]
        values["frozen"] = frozen
        return self

    def __getattr__(self, name: str) -> Any:
        if name not in ("x", "sensitivity"):
            raise AttributeError(name)
        values = self.__dict__
        values["x"], values["sensitivity"] = values["frozen"]()
        return values[name]


def _stacked(values: list[Tensor]) -> Tensor:
    """Values (B, …) of K layers as (K, 1, B, n), without a copy of a single one."""
    return (
        torch.stack([value.flatten(1) for value in values])[:, None]
        if len(values) > 1
        else values[0].flatten(1)[None, None]
    )


@dataclass(frozen=True, eq=False)
class Rates:
    """Rates of equal layers at given states and parameters; a family is evaluated as one stack."""

    layers: list[Layer]
    seeds: tuple[int | None, ...]
    shape: torch.Size  # (B, …) of a state
    weight_decay: float
    chain: Chain | None = None

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        K, lead = len(self.layers), x.shape[:-2]  # (*l, K, 1)
        if self.chain is not None:
            rates = self.chain.rates(x[..., 0, :, :], u[..., 0, 0, :]).unsqueeze(-3)
        else:
            states, thetas = x.reshape(-1, *self.shape), u.reshape(-1, u.shape[-1])
            rates = self.layers[0].bodies(states, thetas, stacked=K > 1, seed=self.seeds[0])
            rates = rates.reshape(*lead, self.shape[0], -1)
        if not self.weight_decay:
            return rates
        decay = 0.5 * self.weight_decay / self.layers[0].weight * u.square().sum(-1, keepdim=True)  # (*l, K, 1, 1, 1)
        return torch.cat((rates, decay.expand(*rates.shape[:-1], 1)), -1)


@transcribe.register
def _(problem: NetworkProblem, discretization: Discretization) -> LayeredTranscription:
    for name in ("mesh", "integrator", "adjoint"):
        value = getattr(discretization, name)
        if value is not None:
            todo = "Leave it out, or state the network as an oc.nn.ResidualFlow, whose discretization is free."
            got = f"{name}={value!r}"
            raise UnsupportedError(
                complaint(f"{name} of a network", expected="None: layers are discrete", got=got, todo=todo)
            )
    return LayeredTranscription(problem)
