"""Networks as layered control problems (Algorithm 3): every layer with parameters is a site; it knows no solver."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver._autodiff import gradients
from ocsolver._shapes import check_finite
from ocsolver.errors import InputError, ShapeError, UnsupportedError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, call
from ocsolver.nn.layers import Layer, layers_of, refuse_coupled
from ocsolver.nn.loss import Loss, check_objective, sample_losses
from ocsolver.sets import Unconstrained
from ocsolver.status import Status
from ocsolver.transcription import Control, Discretization, Failure, Sweep, transcribe

__all__ = ["LayeredForward", "LayeredTranscription", "NetworkProblem"]

PROBE = 2  # samples of the structural probe


@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """Training of a network as a layered optimal control problem: layers are time, parameters are the control.

    J(θ) = mean of loss_i + Σ_n ½ λ ‖θ_n‖², costates p_{n,i} = −∂loss_i/∂x_{n,i}. `solve` starts from the weights that
    the network has, and does not change it. Layers act in their present mode (train or eval).

    Parameters
    ----------
    network : ResidualNetwork or torch.nn.Sequential
        One layer per child; layers without parameters are passed through.
    loss : callable
        ``loss(outputs, targets) -> (B,)``, one value per sample.
    inputs : Tensor, shape (B, …)
        Floating-point inputs of the first layer.
    targets : Tensor, shape (B, …)
        Whatever the loss compares with.
    weight_decay : float, default 0.0
        λ ≥ 0 of ½ λ ‖θ‖² per layer, not scaled by δ.

    Raises
    ------
    InputError, ShapeError
        For data, losses or layers of the wrong form.
    UnsupportedError
        For batch normalization in training mode: it couples samples, so no sample has a costate of its own.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Algorithm 3.

    Examples
    --------
    >>> import torch
    >>> import ocsolver as oc
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> x = torch.linspace(-1.0, 1.0, 10).reshape(5, 2)
    >>> loss = lambda outputs, targets: (outputs - targets).square().sum(-1)
    >>> problem = oc.nn.NetworkProblem(network, loss, x, x[:, :1] * x[:, 1:])
    >>> solution = oc.solve(problem, oc.EMSA(), max_iterations=5, tolerance=None)
    >>> bool(solution.history.cost[-1] < solution.history.cost[0])
    True
    >>> trained = problem.network(solution)
    """

    module: nn.Module
    loss: Loss
    inputs: Tensor  # (B, …)
    targets: Tensor  # (B, …)
    weight_decay: float
    layers: tuple[Layer, ...]
    families: tuple[tuple[int, ...], ...]  # indices of the layers of each block

    def __init__(
        self,
        network: Any,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        weight_decay: float = 0.0,
    ) -> None:
        layers = layers_of(network)
        refuse_coupled(layers)
        _check_data(inputs, targets)
        _check_dtype(layers, inputs)
        check_objective(loss, weight_decay)
        module = network if isinstance(network, nn.Module) else nn.Sequential(*network)
        values = (module, loss, inputs, targets, float(weight_decay), layers, ())
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "families", self._probe())

    @classmethod
    def from_modules(
        cls,
        modules: Iterable[nn.Module],
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        weight_decay: float = 0.0,
    ) -> NetworkProblem:
        """Problem whose layers are the given modules, of any shapes, in order; a Sequential counts its children.

        Parameters
        ----------
        modules : iterable of Modules
            The layers.
        loss, inputs, targets, weight_decay
            As for the class.

        Returns
        -------
        NetworkProblem
            A layered control problem.
        """
        return cls(modules if isinstance(modules, nn.Module) else list(modules), loss, inputs, targets, weight_decay)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the run."""
        return self.inputs.dtype

    def on(self, inputs: Tensor, targets: Tensor) -> NetworkProblem:
        """Same network and loss on other data, such as a mini-batch.

        Parameters
        ----------
        inputs, targets : Tensor
            New data of the same kind.

        Returns
        -------
        NetworkProblem
            Shares the layers.
        """
        _check_data(inputs, targets)
        other = copy.copy(self)
        object.__setattr__(other, "inputs", inputs)
        object.__setattr__(other, "targets", targets)
        return other

    def network(self, solution: Any) -> nn.Module:
        """Trained copy of the network.

        Parameters
        ----------
        solution : NetworkSolution
            What `solve` returned, or a tuple of control blocks.

        Returns
        -------
        Module
            Of the class and in the mode of the original.
        """
        result = copy.deepcopy(self.module)
        load(layers_of(result), self.families, self.blocks(solution))
        return result

    def blocks(self, given: Any) -> Control:
        """Control blocks (K, 1, m) from a solution, a tuple of blocks, a network, or None for the present weights."""
        if isinstance(given, nn.Module):
            return _gather(layers_of(given), self.families)
        own = _gather(self.layers, self.families)
        if given is None:
            return own
        blocks = tuple(getattr(given, "u", given))
        shapes, expected = [tuple(block.shape) for block in blocks], [tuple(block.shape) for block in own]
        if shapes != expected:
            todo = "Pass a solution of the same architecture, a network, or None for the present weights."
            raise ShapeError(complaint("control of a network", expected=expected, got=shapes, todo=todo))
        return tuple(block.to(like).detach().clone() for block, like in zip(blocks, own, strict=True))

    def _probe(self) -> tuple[tuple[int, ...], ...]:
        """Run a few samples through every layer and the loss; equal layers on vectors become one family."""
        x = self.inputs[:PROBE]
        families: list[tuple[int, ...]] = []
        alone: list[tuple[int, Layer, Tensor]] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for n, layer in enumerate(self.layers):
                following = call(lambda state, f=layer: f(state, None), layer.name, x)
                if following.shape[:1] != x.shape[:1]:
                    expected, got = f"{len(x)} samples on the first axis", f"shape {tuple(following.shape)}"
                    todo = "Let layers keep the batch axis, e.g. torch.nn.Flatten(1)."
                    raise ShapeError(complaint(f"output of {layer.name}", expected=expected, got=got, todo=todo))
                alone.append((n, layer, x))
                x = following
            sample_losses(self.loss, x, self.targets[:PROBE])
            trainable = [part for part in alone if part[1].m]
            for _, group in groupby(trainable, key=lambda part: _signature(part[1], part[2])):
                members = list(group)
                indices = [n for n, _, _ in members]
                families += [tuple(indices)] if _stackable(members) else [(n,) for n in indices]
        return tuple(families)


def _check_data(inputs: Any, targets: Any) -> None:
    """Raise unless inputs and targets are tensors with the same number of samples."""
    for what, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 0:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            todo = "Samples go along the first axis."
            raise ShapeError(complaint(what, expected="a tensor (B, …) with B ≥ 1", got=got, todo=todo))
    if len(inputs) != len(targets):
        todo = "Pass one target per input."
        raise ShapeError(complaint("targets", expected=f"{len(inputs)} samples", got=len(targets), todo=todo))
    if not inputs.is_floating_point():
        todo = "Convert them, e.g. inputs.float() / 255, and keep embeddings outside of the network."
        raise InputError(complaint("inputs", expected="a floating-point tensor", got=inputs.dtype, todo=todo))


def _check_dtype(layers: Sequence[Layer], inputs: Tensor) -> None:
    """Raise unless all parameters have the dtype and device of the inputs."""
    for layer in layers:
        for name, value in layer.parameters.items():
            if value.dtype != inputs.dtype or value.device != inputs.device:
                expected, got = f"{inputs.dtype} on {inputs.device}, as the inputs", f"{value.dtype} on {value.device}"
                todo = "Convert one of them: network.to(inputs) or inputs.to(parameter)."
                raise ShapeError(complaint(f"{name} of {layer.name}", expected=expected, got=got, todo=todo))


def _signature(layer: Layer, x: Tensor) -> tuple[Any, ...]:
    """What equal layers share."""
    shapes = tuple((name, tuple(value.shape)) for name, value in layer.module.named_parameters())
    return type(layer.module), repr(layer.module), layer.step, shapes, tuple(x.shape)


def _stackable(members: list[tuple[int, Layer, Tensor]]) -> bool:
    """Whether residual layers on vectors really are one function of (x, θ): checked on the probe's samples."""
    first = members[0][1]
    if (
        len(members) == 1
        or members[0][2].ndim != 2
        or first.step is None
        or any(layer.random() for _, layer, _ in members)
    ):
        return False
    x, theta = torch.stack([x for _, _, x in members]), torch.stack([layer.vector() for _, layer, _ in members])
    theta = theta + 0.1 * torch.randn_like(theta)  # equal starts, such as zero, hide what differs
    try:
        stacked = torch.vmap(first.body)(x, theta)
    except Exception:  # whatever a module does that vmap cannot
        return False
    each = torch.stack([layer.body(x, t) for (_, layer, x), t in zip(members, theta, strict=True)])
    return torch.allclose(stacked, each, rtol=1e3 * torch.finfo(x.dtype).eps, atol=1e3 * torch.finfo(x.dtype).eps)


def _gather(layers: Sequence[Layer], families: Sequence[Sequence[int]]) -> Control:
    """Control blocks (K, 1, m) from the weights of the layers."""
    return tuple(torch.stack([layers[n].vector() for n in members]).unsqueeze(1) for members in families)


def load(layers: Sequence[Layer], families: Sequence[Sequence[int]], control: Control) -> None:
    """Write control blocks into the weights of the layers."""
    for members, block in zip(families, control, strict=True):
        for n, row in zip(members, block, strict=True):
            layers[n].load(row[0])


@dataclass(frozen=True, eq=False)
class LayeredForward:
    """States of all layers for one control; the costates come from the same graph."""

    control: Control
    graph: tuple[Tensor, ...]  # states with their graph, one more than layers
    losses: Tensor  # (B,), with their graph
    decay: Tensor  # (1,), Σ ½ λ ‖θ‖²

    @cached_property
    def x(self) -> list[Tensor]:
        """States (B, …), one more than layers."""
        return [state.detach() for state in self.graph]

    @cached_property
    def p(self) -> list[Tensor]:
        """Costates p_n = −∂loss_i/∂x_n (B, …)."""
        return [-slope for slope in gradients(self.losses, self.graph)]

    @property
    def outputs(self) -> Tensor:
        """Output of the network (B, …)."""
        return self.x[-1]

    @cached_property
    def cost(self) -> Tensor:
        """J (1,), inf where the simulation failed."""
        cost = self.losses.detach().mean() + self.decay
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

    @cached_property
    def seeds(self) -> tuple[int | None, ...]:
        """Seed of each layer's masks, None for layers without."""
        high = 2**31 - 1
        return tuple(int(torch.randint(high, ())) if layer.random() else None for layer in self.problem.layers)

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
        problem = self.problem
        thetas: dict[int, Tensor] = {}
        for members, block in zip(problem.families, control, strict=True):
            thetas |= {n: row[0] for n, row in zip(members, block, strict=True)}
        with torch.enable_grad():
            states = [problem.inputs.detach().clone().requires_grad_()]
            for n, (layer, seed) in enumerate(zip(problem.layers, self.seeds, strict=True)):
                theta = thetas.get(n)
                states.append(call(lambda x, f=layer, t=theta, s=seed: f(x, t, s), layer.name, states[-1]))
            losses = sample_losses(problem.loss, states[-1], problem.targets)
        decay = losses.new_zeros(1)
        if problem.weight_decay:
            decay = decay + 0.5 * problem.weight_decay * sum(block.square().sum() for block in control)
        return LayeredForward(control, tuple(states), losses, decay)

    def backward(self, forward: LayeredForward) -> Sweep:
        """Costates and blocks of a forward sweep."""
        problem, p = self.problem, forward.p
        blocks = []
        for members, current in zip(problem.families, forward.control, strict=True):
            layers = [problem.layers[n] for n in members]
            x = torch.stack([forward.x[n].flatten(1) for n in members]).unsqueeze(1)
            v = torch.stack([p[n + 1].flatten(1) for n in members]).unsqueeze(1)
            components = v.shape[-1]
            if problem.weight_decay:
                v = torch.cat((v, torch.full_like(v[..., :1], -1.0)), -1)
            blocks.append(
                HamiltonianBlock(
                    rates=Rates(
                        layers, tuple(self.seeds[n] for n in members), forward.x[members[0]].shape, problem.weight_decay
                    ),
                    x=x,
                    sensitivity=v,
                    state_components=components,
                    weights=x.new_tensor([layer.weight for layer in layers]),
                    points=x.new_ones(1),
                    current=current,
                    control_set=Unconstrained(current.shape[-1]),
                    layered=True,
                )
            )
        return Sweep(forward, tuple(blocks), p)

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


@dataclass(frozen=True, eq=False)
class Rates:
    """Rates of equal layers at given states and parameters; a family is evaluated as one stack."""

    layers: list[Layer]
    seeds: tuple[int | None, ...]
    shape: torch.Size  # (B, …) of a state
    weight_decay: float

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        K, lead = len(self.layers), x.shape[:-2]  # (*l, K, 1)
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
