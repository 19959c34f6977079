"""How each method of the race trains: E-MSA by the library, the others by plain loops that do nothing but train.

It knows neither tasks nor results, nor who takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import ocsolver as oc
from scripts._race import Watch
from scripts._race_tasks import Case, evaluate

__all__ = ["Muon", "averaged", "curvature", "muon", "optimizer", "plain", "quasi_newton", "successive"]

DECAY = 8.0  # of the averages: they are those of the last eighth of the steps, about

Step = Callable[[Tensor, Tensor], None]  # one training step on a batch
Make = Callable[[nn.Module, float], Sequence[Any]]  # optimizers that share the parameters of a network

# ------------------------------------------------------------------------------------------------------- E-MSA


def successive(solver: Any, case: Case, value: float, watch: Watch) -> None:
    """E-MSA as a user runs it: `oc.solve` for the full batch, `oc.nn.Trainer` for mini-batches."""
    network = case.build()
    watch.begin()
    if case.batch is None:
        problem = oc.nn.NetworkProblem(network, case.loss, *case.train)

        def after_iteration(k: int, iterate: Any) -> bool:
            return watch.tick(k, lambda: (float(iterate.cost), math.nan))

        oc.solve(problem, solver, max_iterations=watch.limit, tolerance=None, callback=after_iteration)
        return

    def after_step(record: oc.nn.StepRecord) -> bool:
        return watch.tick(record.step, lambda: evaluate(network, case))

    loader = case.loader()
    trainer = oc.nn.Trainer(network, case.loss, solver)
    trainer.fit(loader, 1 + watch.limit // len(loader), callback=after_step)


# ------------------------------------------------------------------------------------------------------- plain loops


def plain(make: Make, case: Case, value: float, watch: Watch) -> None:
    """Forward, backward, and a step of the optimizers that `make` returns, and no more."""
    network = case.build()
    watch.begin()
    optimizers = make(network, value)

    def descend(cost: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(cost)
        for optimizer in optimizers:
            optimizer.step()

    if case.batch is None:
        follow_loss(network, descend, case, watch)
    else:
        follow_batches(network, lambda x, y: descend(case.loss(network(x), y).mean()), case, watch)


def averaged(make: Make, case: Case, value: float, watch: Watch) -> None:
    """The same on mini-batches, evaluated at the average of the weights that E-MSA, too, answers with."""
    network, answer = case.build(), case.build()
    watch.begin()
    optimizers = make(network, value)
    weights, means = [[w.detach() for w in net.parameters()] for net in (network, answer)]
    steps = 0

    def train(x: Tensor, y: Tensor) -> None:
        nonlocal steps
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(case.loss(network(x), y).mean())
        for optimizer in optimizers:
            optimizer.step()
        share = 1.0 if steps == 0 else (DECAY + 1.0) / (steps + DECAY + 1.0)
        torch._foreach_lerp_(means, weights, share)
        steps += 1

    follow_batches(answer, train, case, watch)


def known_loss(cost: Tensor) -> tuple[float, float]:
    """Loss that a step has computed anyway, and no accuracy."""
    return float(cost.detach()), math.nan


def follow_loss(network: nn.Module, descend: Callable[[Tensor], None], case: Case, watch: Watch) -> None:
    """Full batch: the loss after k steps is known when the next step has gone forward, and costs nothing more."""
    x, y = case.train
    step = 0
    while True:
        cost = case.loss(network(x), y).mean()
        if step and watch.tick(step, partial(known_loss, cost)):
            return
        descend(cost)
        step += 1


def follow_batches(network: nn.Module, train: Step, case: Case, watch: Watch) -> None:
    """Mini-batches, epoch after epoch; `network` is the one that is evaluated."""
    loader = case.loader()
    step = 0
    while True:
        for x, y in loader:
            train(x, y)
            step += 1
            if watch.tick(step, lambda: evaluate(network, case)):
                return


def optimizer(kind: Callable[..., Any], **options: Any) -> Make:
    """One optimizer over all parameters."""
    return lambda network, value: [kind(network.parameters(), lr=value, **options)]


class Muon:
    """`torch.optim.Muon` for weights of hidden layers, with filters (out, in, 3, 3) seen as matrices (out, 9 in)."""

    def __init__(self, weights: Sequence[Tensor], lr: float) -> None:
        self.weights = list(weights)
        self.matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in self.weights]  # share the memory
        kind: Any = torch.optim.Muon  # type: ignore[attr-defined,unused-ignore]  # since torch 2.9
        self.inner = kind(self.matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def step(self) -> None:
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        self.inner.step()


def muon(network: nn.Module, value: float) -> list[Any]:
    """Muon for the weights between the first and the last layer and Adam for the rest, as its authors advise."""
    weights = [weight for layer in (*network.lift, *network.layers) for weight in layer.parameters()]  # type: ignore[misc]
    hidden = [weight for weight in weights if weight.ndim > 1]
    hidden_ids = {id(weight) for weight in hidden}
    rest = [weight for weight in network.parameters() if id(weight) not in hidden_ids]
    return [Muon(hidden, value), torch.optim.Adam(rest, lr=value)]


class Over(Exception):  # noqa: N818
    """Leaves an optimizer that is in the middle of its step."""


def quasi_newton(case: Case, value: float, watch: Watch) -> None:
    """`torch.optim.LBFGS` on the full batch; every evaluation of its line search counts as a step."""
    network = case.build()
    x, y = case.train
    watch.begin()
    method: Any = torch.optim.LBFGS(
        network.parameters(),
        max_iter=watch.limit,
        max_eval=2 * watch.limit,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=100,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> float:
        nonlocal evaluations
        method.zero_grad()
        cost = case.loss(network(x), y).mean()
        if evaluations and watch.tick(evaluations, partial(known_loss, cost)):
            raise Over
        torch.autograd.backward(cost)
        evaluations += 1
        return float(cost.detach())

    try:
        while True:
            before = evaluations
            method.step(closure)
            if evaluations <= before + 1:  # it has nowhere to go
                return
    except Over:
        pass


def curvature(make: Callable[[nn.Module, float, int], Step], case: Case, value: float, watch: Watch) -> None:
    """Mini-batch training by a package with its own forward and backward sweeps."""
    network = case.build()
    watch.begin()
    assert case.batch is not None
    follow_batches(network, make(network, value, case.batch), case, watch)
