"""One training step on a batch, by a sweep solver or a torch optimizer; it knows neither loaders nor files."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.nn.batches import accuracy_of
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.nn.layers import layers_of
from ocsolver.nn.loss import Loss, sample_losses
from ocsolver.nn.problem import NetworkProblem, load
from ocsolver.solvers import SweepSolver
from ocsolver.solvers.base import Timed
from ocsolver.transcription import Control

__all__ = ["Outcome", "Snapshot", "Stepper", "stepper_for"]


class Snapshot(NamedTuple):
    """Weights (and buffers) and memory between two steps; never changed afterwards."""

    network: dict[str, Any]  # empty if a control says it all
    memory: Any
    control: Control | None = None


class Outcome(NamedTuple):
    """What became of a step: entries of its record, and why it failed, if it did."""

    numbers: dict[str, Any]
    failure: str = ""


class Stepper(ABC):
    """One training step on a batch, and its state as data."""

    kind: str
    settings: str
    network: nn.Module

    @abstractmethod
    def step(self, inputs: Tensor, targets: Tensor, saved: Snapshot) -> Outcome:
        """Change the weights, or leave them as they are in `saved`."""

    @abstractmethod
    def memory(self) -> Any:
        """What crosses batches besides the weights; never changed afterwards."""

    @abstractmethod
    def pack(self, memory: Any) -> Any:
        """Memory as plain data."""

    @abstractmethod
    def unpack(self, packed: Any) -> None:
        """Take over what `pack` returned; KeyError, TypeError or ValueError, and no change, if it does not fit."""

    @abstractmethod
    def forget_control(self) -> None:
        """The network's weights were changed from outside."""

    @abstractmethod
    def restore(self, saved: Snapshot) -> None:
        """Put back network and memory."""

    def snapshot(self) -> Snapshot:
        """Copies of weights and memory."""
        return Snapshot(_copied(self.network.state_dict()), self.memory())


def stepper_for(network: nn.Module, loss: Loss, solver: Any, weight_decay: float) -> Stepper:
    """The stepper that fits a solver."""
    if isinstance(solver, SweepSolver):
        layers_of(network)
        return _SweepStepper(network, loss, solver, weight_decay)
    if isinstance(solver, torch.optim.Optimizer):
        return _OptimizerStepper(network, loss, solver, weight_decay)
    todo = "Pass oc.EMSA(), oc.MSA(), oc.GradientDescent(…), or an optimizer such as torch.optim.Adam(…)."
    expected = "a sweep solver or a torch optimizer"
    raise UnsupportedError(complaint("solver", expected=expected, got=repr(solver)[:80], todo=todo))


class _SweepStepper(Stepper):
    """Steps of a sweep solver; between steps the network holds the control."""

    def __init__(self, network: nn.Module, loss: Loss, solver: SweepSolver, weight_decay: float) -> None:
        self.kind, self.settings = type(solver).__name__, repr(solver)
        self.network, self.loss, self.solver, self.weight_decay = network, loss, solver, weight_decay
        self.problem: NetworkProblem | None = None
        self.control: Control | None = None
        self.left: Control | None = None  # weights that the last fit left
        self._memory: Any = None

    def step(self, inputs: Tensor, targets: Tensor, saved: Snapshot) -> Outcome:
        if self.problem is None:
            probe = inputs.nan_to_num(0.0, 0.0, 0.0) if inputs.is_floating_point() else inputs
            self.problem = NetworkProblem(self.network, self.loss, probe, targets, self.weight_decay)
        inner: Any = LayeredTranscription(self.problem.on(inputs, targets), sampled=True)
        control = self.control = self._start(inner) if self.control is None else self.control
        timed = Timed(inner, sampled=True)
        old = self.solver.init(timed, control, self._memory)
        retreat = None if bool(old.sweep.forward.finite) else self.solver.retreat(self._memory)
        if retreat is not None:
            back = self.solver.init(timed, *retreat)
            if bool(back.sweep.forward.finite):  # otherwise it is the batch that is bad
                old, (self.control, self._memory) = back, retreat
                self._leave(inner)
        forward = old.sweep.forward
        numbers = _numbers(forward.losses.detach(), forward.outputs, targets)
        if not bool(forward.finite):
            return Outcome(numbers | _seconds(timed), inner.diagnose(forward, 0).message)
        new = self.solver.step(timed, old)
        done = new.step
        numbers |= {"rho": float(done.rho), "hamiltonian_gain": float(done.gain)} | _seconds(timed)
        numbers |= {"state_error": float(done.state_error), "costate_error": float(done.costate_error)}
        failure = inner.diagnose(new.trial, 0).message if bool(done.failed) else ""
        accepted = bool(done.accepted) and all(bool(torch.isfinite(block).all()) for block in new.control)
        if math.isfinite(numbers["hamiltonian_gain"]):  # otherwise the memory would learn nonsense
            self._memory = new.memory
        else:
            accepted, failure = False, failure or "the Hamiltonian is not finite"
        if accepted:
            self.control = new.control
            self._leave(inner)
        return Outcome(numbers | {"accepted": accepted}, failure)

    def _leave(self, inner: LayeredTranscription) -> None:
        """Write what the solver answers with into the network."""
        assert self.control is not None
        self.left = self.solver.answer(self._memory, self.control)
        inner.load(self.left)

    def _start(self, inner: LayeredTranscription) -> Control:
        """Control to go on from; what is remembered belongs to it only if nobody has changed the weights since."""
        control = inner.start(None)
        if self.left is not None and not _same(self.left, control):
            self._memory = self.solver.moved(self._memory, control)
        return self.solver.origin(self._memory, control)

    def memory(self) -> Any:
        return self._memory

    def pack(self, memory: Any) -> Any:
        return self.solver.pack(memory)

    def unpack(self, packed: Any) -> None:
        device = next(self.network.parameters()).device
        self._memory = self.solver.unpack(_copied(packed, device))
        self.forget_control()
        self.left = None

    def forget_control(self) -> None:
        self.problem = self.control = None

    def snapshot(self) -> Snapshot:
        if self.problem is None or self.left is None:
            return super().snapshot()
        return Snapshot({}, self.memory(), self.left)  # what a step leaves is never written to

    def restore(self, saved: Snapshot) -> None:
        if saved.control is None:
            self.network.load_state_dict(saved.network)
        elif self.problem is not None:
            load(self.problem.layers, self.problem.families, saved.control)
        self._memory = saved.memory
        self.left = None if self.problem is None else self.problem.blocks(None)
        self.forget_control()


class _OptimizerStepper(Stepper):
    """Steps of a torch optimizer with back-propagation."""

    def __init__(self, network: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
        self.kind, self.settings = type(optimizer).__name__, repr(optimizer)
        self.network, self.loss, self.optimizer, self.weight_decay = network, loss, optimizer, weight_decay
        if isinstance(optimizer, torch.optim.LBFGS):
            todo = "Use torch.optim.Adam, or oc.EMSA(oc.LBFGS())."
            expected = "an optimizer that takes one gradient per step"
            raise UnsupportedError(complaint("solver", expected=expected, got="torch.optim.LBFGS", todo=todo))
        own = {id(value) for value in network.parameters()}
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        strange = sum(id(value) not in own for value in self.parameters)
        if strange:
            todo = "Build it as torch.optim.Adam(network.parameters())."
            got = f"{strange} that are not among them"
            raise InputError(complaint("optimizer", expected="parameters of the network", got=got, todo=todo))

    def step(self, inputs: Tensor, targets: Tensor, saved: Snapshot) -> Outcome:
        begin = time.perf_counter()
        self.network.zero_grad()
        outputs = self.network(inputs)
        losses = sample_losses(self.loss, outputs, targets)
        cost = losses.mean()
        if self.weight_decay:
            weights = [value for value in self.network.parameters() if value.requires_grad]
            cost = cost + 0.5 * self.weight_decay * sum(value.square().sum() for value in weights)
        torch.autograd.backward(cost)
        middle = time.perf_counter()
        numbers = _numbers(losses.detach(), outputs.detach(), targets)
        failure = "" if _finite([cost.detach()]) else "the loss is not finite"
        failure = failure or ("" if _finite(self._gradients()) else "a gradient is not finite")
        numbers |= {"propagation_seconds": middle - begin, "maximization_seconds": 0.0}
        if not failure:
            middle = time.perf_counter()
            self.optimizer.step()
            numbers["maximization_seconds"] = time.perf_counter() - middle
            failure = "" if _finite(self.parameters) else "a weight is not finite after the step"
        if failure:
            self.restore(saved)
        return Outcome(numbers | {"accepted": not failure}, failure)

    def _gradients(self) -> list[Tensor]:
        return [value.grad for value in self.parameters if value.grad is not None]

    def memory(self) -> Any:
        return _copied(self.optimizer.state_dict())

    def pack(self, memory: Any) -> Any:
        return memory

    def unpack(self, packed: Any) -> None:
        self.optimizer.load_state_dict(_copied(packed))

    def forget_control(self) -> None:
        pass

    def restore(self, saved: Snapshot) -> None:
        self.network.load_state_dict(saved.network)
        self.unpack(saved.memory)


def _numbers(losses: Tensor, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Entries of a record for a batch before its step; those of the step are not known."""
    names = ("rho", "hamiltonian_gain", "state_error", "costate_error")
    known = {"loss": float(losses.mean()), "accuracy": accuracy_of(outputs, targets), "accepted": False}
    return known | dict.fromkeys(names, math.nan)


def _seconds(timed: Timed) -> dict[str, float]:
    """Seconds of a step by part."""
    seconds = timed.clock.seconds
    propagation = seconds.get("forward", 0.0) + seconds.get("backward", 0.0)
    return {"propagation_seconds": propagation, "maximization_seconds": seconds.get("maximize", 0.0)}


def _same(one: Control, other: Control) -> bool:
    """Whether two controls are equal, dtype and device included."""
    kinds = [[(block.shape, block.dtype, block.device) for block in control] for control in (one, other)]
    return kinds[0] == kinds[1] and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _copied(plain: Any, device: torch.device | None = None) -> Any:
    """Copy of nested data whose tensors are independent, on a device if one is given."""
    if isinstance(plain, Tensor):
        return plain.detach().clone() if device is None else plain.to(device)
    if isinstance(plain, Mapping):
        return {name: _copied(value, device) for name, value in plain.items()}
    return [_copied(value, device) for value in plain] if isinstance(plain, list) else plain
