"""What `solve` returns for a network: weights, layer states, costates and history; it knows no algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ocsolver.certificate import Certificate
from ocsolver.nn.layered import LayeredForward, LayeredTranscription
from ocsolver.nn.loss import sample_losses
from ocsolver.nn.problem import NetworkProblem
from ocsolver.residual import projected_gradient
from ocsolver.solution import Outcome, assemble
from ocsolver.transcription import Control, Sweep

__all__ = ["NetworkSolution"]


@dataclass(frozen=True, eq=False)
class NetworkSolution(Outcome):
    """Result of `solve` on a NetworkProblem.

    Attributes
    ----------
    u : tuple of Tensor, each (K, 1, m)
        Weights, one block per family of equal layers.
    x, p : list of Tensor, each (B, …)
        States before and after every layer, and costates p_{n,i} = −∂loss_i/∂x_{n,i}.
    outputs : Tensor, shape (B, …)
        Output of the network.
    cost, residual : Tensor, shape (1,)
        J, and the norm of its gradient relative to that of the first iterate.
    status, notes : list
        Outcome of the run.
    history : History
        Course of the run.
    stats : Stats
        What it cost.
    problem : NetworkProblem
        The problem; ``problem.network(solution)`` is the trained network.
    solver : str
        The solver, as it prints itself.
    """

    u: Control
    x: list[Tensor]
    p: list[Tensor]
    cost: Tensor
    problem: NetworkProblem

    @property
    def outputs(self) -> Tensor:
        """Output of the network (B, …)."""
        return self.x[-1]

    @cached_property
    def certificate(self) -> Certificate:
        """Certificate of the weights, recomputed by plain back-propagation through the trained copy.

        The gap is infinite: H is not bounded in the weights of a linear layer. `state_defect` and `costate_defect`
        compare with the ordinary module, `cost_error` with its loss.
        """
        problem = self.problem
        transcription = LayeredTranscription(problem)
        sweep = transcription.backward(transcription.forward(self.u))
        network = problem.network(self)
        with torch.enable_grad():
            inputs = problem.inputs.detach().clone().requires_grad_()
            outputs = network(inputs)
            losses = sample_losses(problem.loss, outputs, problem.targets)
            first, last = torch.autograd.grad(losses.sum(), (inputs, outputs))
        forward: LayeredForward = sweep.forward
        unknown = torch.full_like(self.cost, torch.inf)
        return Certificate(
            max_gap=unknown,
            mean_gap=unknown,
            projected_gradient=torch.stack([projected_gradient(block) for block in sweep.blocks])
            .square()
            .sum(0)
            .sqrt(),
            state_defect=(outputs.detach() - self.outputs).abs().max()[None],
            costate_defect=(self.p[0] + first).abs().max()[None],
            transversality=(self.p[-1] + last).abs().max()[None],
            hamiltonian_drift=torch.full_like(self.cost, torch.nan),
            cost_error=(losses.detach().mean() + forward.decay - self.cost).abs(),
        )

    def summary(self) -> str:
        """Status, cost, residual, effort and certificate as a printable text.

        Returns
        -------
        str
            Several lines.
        """
        rejected, total = int(self.history.rejections.max()), self.stats.seconds.get("total", float("nan"))
        lines = [
            self.message,
            f"cost J               {float(self.cost[0]):.10g}",
            f"residual             {float(self.residual[0]):.3e}",
            f"iterations           {self.stats.iterations} ({rejected} rejected), {total:.3g} s",
            f"network              {len(self.x) - 1} layers, {sum(block.numel() for block in self.u)} parameters",
        ]
        if bool(torch.isfinite(self.cost).all()):
            lines.append(str(self.certificate))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"NetworkSolution({self.status[0].name}, cost={self.cost.tolist()}, {len(self.x) - 1} layers)"


@assemble.register
def _(transcription: LayeredTranscription, sweep: Sweep, outcome: Outcome) -> NetworkSolution:
    forward: LayeredForward = sweep.forward
    return NetworkSolution(
        u=forward.control,
        x=forward.x,
        p=forward.p,
        cost=forward.cost,
        problem=transcription.problem,
        **vars(outcome),
    )
