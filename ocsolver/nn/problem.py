"""Training a network, stated as a layered control problem (Algorithm 3); it knows no sweep and no solver."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver._call import call
from ocsolver.errors import InputError, ShapeError, complaint
from ocsolver.nn.chain import Chain, kind_of
from ocsolver.nn.layers import Layer, layers_of, refuse_coupled
from ocsolver.nn.loss import Loss, check_objective, check_uncoupled
from ocsolver.nn.parts import Inside, inside_of
from ocsolver.nn.taps import affine_module
from ocsolver.transcription import Control

__all__ = ["NetworkProblem", "load"]

PROBE = 2  # samples of the structural probe
NOTHING = Inside((), (), 1)


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
    maps: tuple[nn.Module | None, ...]  # affine map of each layer outside of chains that has one and an activation
    chains: tuple[Chain, ...]  # families that are swept by formulas
    insides: tuple[Inside, ...]  # what each layer outside of chains consists of

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
        values = (module, loss, inputs, targets, float(weight_decay), layers, (), (), (), ())
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        for name, found in zip(("families", "maps", "chains", "insides"), self._probe(), strict=True):
            object.__setattr__(self, name, found)

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

    def _probe(self) -> tuple[Any, ...]:
        """Run a few samples through layers and loss: families of equal layers on vectors, affine maps, chains."""
        x = self.inputs[:PROBE]
        states: list[Tensor] = []
        kinds: list[Any] = []
        signatures: list[Any] = []
        families: list[tuple[int, ...]] = []
        chains: list[Chain] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for layer in self.layers:
                kind = kind_of(layer)
                states.append(x)
                kinds.append(kind)
                if kind is not None and kind in kinds[-2:-1]:  # as the last one
                    signatures.append(signatures[-1])
                    continue
                signatures.append(_signature(layer, x))
                following = call(lambda state, f=layer: f(state, None), layer.name, x)
                if following.shape[:1] != x.shape[:1]:
                    expected, got = f"{len(x)} samples on the first axis", f"shape {tuple(following.shape)}"
                    todo = "Let layers keep the batch axis, e.g. torch.nn.Flatten(1)."
                    raise ShapeError(complaint(f"output of {layer.name}", expected=expected, got=got, todo=todo))
                x = following
            check_uncoupled(self.loss, x, self.targets[:PROBE])
            trainable = [(n, layer, states[n]) for n, layer in enumerate(self.layers) if layer.m]
            for _, group in groupby(trainable, key=lambda part: signatures[part[0]]):
                members = list(group)
                indices = [n for n, _, _ in members]
                chain = Chain.of(indices, kinds) if members[0][2].ndim == 2 else None
                chains += [] if chain is None else [chain]
                together = chain is not None or _stackable(members)
                families += [tuple(indices)] if together else [(n,) for n in indices]
            inside = {n for chain in chains for n in chain.members}
            maps = [
                None if n in inside else affine_module(layer, state)
                for n, (layer, state) in enumerate(zip(self.layers, states, strict=True))
            ]
            insides = [
                NOTHING if n in inside or not layer.m else inside_of(layer, state)
                for n, (layer, state) in enumerate(zip(self.layers, states, strict=True))
            ]
        return tuple(families), tuple(maps), tuple(chains), tuple(insides)


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
    shapes = tuple((name, value.requires_grad, tuple(value.shape)) for name, value in layer.module.named_parameters())
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
    with torch.no_grad():
        for members, block in zip(families, control, strict=True):
            parameters = [layers[n].parameters.values() for n in members]
            sizes = [value.numel() for value in parameters[0]]
            for values, part in zip(zip(*parameters, strict=True), torch.split(block[:, 0], sizes, 1), strict=True):
                for value, new in zip(values, part.reshape(-1, *values[0].shape), strict=True):
                    value.copy_(new)
