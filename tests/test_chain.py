"""Chains of equal layers: sweeps by formulas are those of automatic differentiation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.transcription import Sweep

ACTIVATIONS: list[type[nn.Module] | None] = [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Identity, None]


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """One value per sample."""
    return (outputs - targets).square().sum(-1)


def network(activation: type[nn.Module] | None = nn.Tanh, bias: bool = True, depth: int = 4) -> oc.nn.ResidualNetwork:
    """Lift, a chain of `depth` layers, head."""
    torch.manual_seed(3)

    def block() -> nn.Module:
        linear = nn.Linear(5, 5, bias)
        return linear if activation is None else nn.Sequential(linear, activation())

    return oc.nn.ResidualNetwork(block, depth, 0.3, lift=nn.Linear(2, 5), head=nn.Linear(5, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    """Seven samples."""
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (2, 3))  # type: ignore[return-value]


def sweeps(net: nn.Module, decay: float = 0.0) -> tuple[Sweep, Sweep]:
    """The same sweep by formulas and by automatic differentiation."""
    problem = oc.nn.NetworkProblem(net, squares, *data(), weight_decay=decay)
    assert len(problem.chains) == 1
    plain = problem.on(*data())
    object.__setattr__(plain, "chains", ())
    results = []
    for each in (problem, plain):
        transcription = LayeredTranscription(each)
        results.append(transcription.backward(transcription.forward(transcription.start(None))))
    return results[0], results[1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sweeps_are_those_of_autograd(activation: type[nn.Module] | None, bias: bool) -> None:
    fast, plain = sweeps(network(activation, bias))
    torch.testing.assert_close(fast.forward.cost, plain.forward.cost, rtol=0, atol=1e-12)
    for name in ("x", "p"):
        for own, other in zip(getattr(fast.forward, name), getattr(plain.forward, name), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    for own, other in zip(fast.blocks, plain.blocks, strict=True):
        torch.testing.assert_close(own.current_slope, other.current_slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_terms_of_the_hamiltonian_are_those_of_autograd(activation: type[nn.Module] | None, decay: float) -> None:
    fast, plain = sweeps(network(activation), decay)
    assert (fast.blocks[1].formula is None) == bool(decay)
    for own, other in zip(fast.blocks, plain.blocks, strict=True):
        other = replace(other, formula=None)
        u = own.current + 0.1 * torch.randn_like(own.current)
        for a, b in zip(own.terms(u), other.terms(u), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(own.noise, other.noise, rtol=1e-6, atol=0)


def test_view_of_a_chain_has_inputs_slopes_and_sensitivities() -> None:
    fast, plain = sweeps(network())
    view = fast.blocks[1].affine
    assert view is not None
    x, p, weight = plain.forward.x, plain.forward.p, 0.3
    for k, layer in enumerate(network().layers):
        torch.testing.assert_close(view.inputs[k], x[1 + k], rtol=0, atol=1e-12)
        slopes = 1.0 - torch.tanh(layer[0](x[1 + k])).square()
        torch.testing.assert_close(view.slopes[k], slopes, rtol=0, atol=1e-12)
        torch.testing.assert_close(view.sensitivities[k], slopes * p[2 + k], rtol=0, atol=1e-12)
    mean = (view.sensitivities.mT @ view.inputs)[0] / 7
    torch.testing.assert_close(
        view.shape.matrix(fast.blocks[1].current_slope[:, 0])[0, :, :-1], mean, rtol=0, atol=1e-12
    )
    assert weight == fast.blocks[1].weights[0]


def test_layers_that_somebody_watches_or_that_differ_form_no_chain() -> None:
    def chains(net: nn.Module) -> int:
        return len(oc.nn.NetworkProblem(net, squares, *data()).chains)

    assert chains(network()) == 1
    assert chains(network(depth=1)) == 0
    assert chains(network(nn.GELU)) == 0
    watched, seen = network(), []
    watched.layers[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert chains(watched) == 0
    seen.clear()
    oc.solve(oc.nn.NetworkProblem(watched, squares, *data()), oc.GradientDescent(0.1), max_iterations=1, tolerance=None)
    assert seen
    frozen = network()
    frozen.layers[1][0].bias.requires_grad_(False)
    assert chains(frozen) == 1  # the two layers behind it
    assert oc.nn.NetworkProblem(frozen, squares, *data()).chains[0].count == 2


def test_a_loss_that_ignores_the_network_has_zero_costates() -> None:
    problem = oc.nn.NetworkProblem(network(), lambda outputs, targets: targets.sum(-1), *data())
    transcription = LayeredTranscription(problem)
    sweep = transcription.backward(transcription.forward(transcription.start(None)))
    assert all(not bool(block.current_slope.any()) for block in sweep.blocks)
    assert all(not bool(p.any()) for p in sweep.forward.p)
