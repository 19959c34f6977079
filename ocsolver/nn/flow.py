"""The continuous view of a residual network: ẋ = block(x; u(t)) as an OptimalControlProblem; it knows no solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ocsolver.errors import InputError, ShapeError, complaint
from ocsolver.nn.layers import Layer
from ocsolver.nn.loss import Loss
from ocsolver.nn.network import ResidualNetwork, check_block
from ocsolver.nn.problem import NetworkProblem, load
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import Unconstrained

__all__ = ["ResidualFlow"]


@dataclass(frozen=True, eq=False)
class ResidualFlow:
    """Neural ordinary differential equation ẋ = block(x; u(t)) whose control is the block's weights.

    Parameters
    ----------
    block : callable
        ``block() -> Module`` makes one body, as for ResidualNetwork; samples of any shape, kept by the body.

    References
    ----------
    .. [1] Q. Li et al., *Maximum Principle Based Algorithms for Deep Learning*, JMLR 18 (2018), Section 2.

    Examples
    --------
    >>> import torch
    >>> import ocsolver as oc
    >>> flow = oc.nn.ResidualFlow(lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()))
    >>> x = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)
    >>> loss = lambda outputs, targets: (outputs - targets).square().sum(-1)
    >>> problem = flow.problem(x, -x, loss, horizon=(0.0, 2.0))
    >>> start = flow.control(flow.network(depth=4, step=0.5))
    >>> solution = oc.solve(
    ...     problem, mesh=4, integrator=oc.Euler(), initial_control=start, max_iterations=3, tolerance=None
    ... )
    >>> network = flow.network(solution)  # four residual layers
    >>> fine = solution.resimulate(oc.RK4())
    """

    block: Callable[[], nn.Module]

    def __post_init__(self) -> None:
        check_block(self.block)

    def problem(
        self,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        horizon: tuple[float, float],
        weight_decay: float = 0.0,
    ) -> OptimalControlProblem:
        """Control problem of training the flow on samples that share one control.

        Parameters
        ----------
        inputs : Tensor, shape (B, …)
            Initial states.
        targets : Tensor, shape (B, …)
            Whatever the loss compares with.
        loss : callable
            ``loss(outputs, targets) -> (B,)``.
        horizon : tuple of float
            (t0, t1); `depth` Euler steps of δ = (t1 − t0) / depth are a residual network.
        weight_decay : float, default 0.0
            λ of the running cost ½ λ ‖u‖²; the λ of a NetworkProblem divided by its δ gives the same J.

        Returns
        -------
        OptimalControlProblem
            With ``shared_control=True`` and states flattened to (B, n).
        """
        body = self.block().to(inputs)
        # states every complaint about data, block and loss before any work
        NetworkProblem(ResidualNetwork(lambda: body, 1, 1.0), loss, inputs, targets, weight_decay)
        layer, shape, B = Layer(body, "block"), tuple(inputs.shape[1:]), len(inputs)

        def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            lead = x.shape[:-2]
            states, thetas = x.reshape(-1, B, *shape), u.expand(*lead, 1, layer.m).reshape(-1, layer.m)
            rates = layer.bodies(states, thetas, stacked=len(shape) == 1 and len(states) > 1)
            return rates.reshape(x.shape)

        def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            return 0.5 * weight_decay * u.square().sum(-1)

        def terminal_cost(x: Tensor) -> Tensor:
            outputs = x.reshape(-1, B, *shape)
            return torch.stack([loss(each, targets) for each in outputs]).reshape(x.shape[:-1])

        return OptimalControlProblem(
            dynamics,
            running_cost if weight_decay else None,
            terminal_cost,
            initial_state=inputs.reshape(B, prod(shape)),
            horizon=horizon,
            control_set=Unconstrained(layer.m),
            shared_control=True,
        )

    def network(self, solution: Any = None, *, depth: int | None = None, step: float | None = None) -> ResidualNetwork:
        """Residual network of Euler steps: with the control of a solution, or freshly initialized.

        Parameters
        ----------
        solution : Solution, optional
            Its mesh, which must be uniform, gives depth and step, unless a `depth` asks for a control resampled at the
            midpoints of so many layers.
        depth, step : int and float, optional
            Size of a fresh network, if no solution is given.

        Returns
        -------
        ResidualNetwork
            Without lift and head.
        """
        if solution is None:
            if depth is None or step is None:
                todo = "Pass a solution, or depth= and step=."
                raise InputError(complaint("network", expected="depth and step", got=f"{depth}, {step}", todo=todo))
            return ResidualNetwork(self.block, depth, step)
        h = solution.t[:, 0].diff()
        if depth is None and not torch.allclose(h, h[:1], rtol=1e-5):
            todo = "Solve on a uniform mesh, or pass depth= to sample the control at the midpoints of so many layers."
            got = f"steps from {float(h.min()):g} to {float(h.max()):g}"
            raise InputError(complaint("mesh of the solution", expected="equal intervals", got=got, todo=todo))
        count = depth or len(h)
        delta = float(h.sum()) / count
        midpoints = solution.t[0, 0] + delta * (torch.arange(count).to(h) + 0.5)
        control = solution.u if depth is None else solution.control(midpoints)
        network = ResidualNetwork(self.block, count, delta).to(control)
        load([Layer(body, "block") for body in network.layers], [range(count)], (control,))
        return network

    def control(self, network: ResidualNetwork) -> Tensor:
        """Control (N, 1, m) of a network's residual layers, for ``solve(..., initial_control=)``.

        Parameters
        ----------
        network : ResidualNetwork
            With layers made by the same block.

        Returns
        -------
        Tensor, shape (N, 1, m)
            One row per layer.
        """
        layers = [Layer(body, f"layers[{k}]") for k, body in enumerate(network.layers)]
        expected = [tuple(value.shape) for value in self.block().parameters()]
        for layer in layers:
            got = [tuple(value.shape) for value in layer.module.parameters()]
            if got != expected:
                todo = "Pass a network whose residual layers come from the same block."
                raise ShapeError(complaint(layer.name, expected=f"parameters {expected}", got=got, todo=todo))
        return torch.stack([layer.vector() for layer in layers]).unsqueeze(1)
