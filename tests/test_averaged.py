"""E-MSA on mini-batches with averaged curvature: it learns from any first ρ, and takes back what did harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ocsolver as oc
from ocsolver.nn.layered import LayeredTranscription
from ocsolver.nn.stepper import stepper_for
from ocsolver.solvers import averaged
from ocsolver.solvers.averaged import (
    CALIBRATION,
    EARLY,
    LARGEST_GAIN,
    LATER,
    RETREAT,
    AveragedMemory,
    fading_answer,
    largest_gain,
)
from ocsolver.solvers.sampling import SLOWEST, noise_answer


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1)


def network() -> oc.nn.ResidualNetwork:
    torch.manual_seed(1)
    return oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()), depth=4, step=0.5, lift=nn.Linear(2, 8), head=nn.Linear(8, 1)
    ).double()


def batches(count: int, size: int = 50) -> list[tuple[Tensor, Tensor]]:
    """Noisy samples of a wave."""
    generator = torch.Generator().manual_seed(2)
    x = 2.0 * torch.rand(count, size, 2, generator=generator, dtype=torch.float64) - 1.0
    y = torch.sin(3.0 * x[..., :1]) * x[..., 1:] + 0.05 * torch.randn(
        count, size, 1, generator=generator, dtype=torch.float64
    )
    return list(zip(x, y, strict=True))


@pytest.mark.parametrize("initial", [None, 1e-9, 1.0, 1e3])
@pytest.mark.parametrize("damping", [1e-3, 1e-1])
def test_it_learns_from_any_first_rho(initial: float | None, damping: float) -> None:
    net, data = network(), batches(100)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    before = squares(net(x), y).mean().detach()
    solver = oc.EMSA(oc.GaussNewton(damping), rho=oc.AdaptivePenalty(initial=initial))
    history = oc.nn.Trainer(net, squares, solver).fit(data, epochs=1)
    assert all(math.isfinite(step.loss) for step in history.steps)
    assert min(step.rho for step in history.steps) > 0.0
    assert float(squares(net(x), y).mean().detach()) < 0.4 * float(before)  # the start is a plateau


def test_steps_are_those_of_the_averaged_system() -> None:
    """The first step, from one batch: K dΘ (A + damping) ρ = g for every layer."""
    net, (x, y) = network(), batches(1)[0]
    chain = LayeredTranscription(oc.nn.NetworkProblem(net, squares, x, y))
    blocks = chain.backward(chain.forward(chain.start(None))).blocks
    for block in blocks:
        step, _ = oc.GaussNewton(damping=0.05).sampled_step(block, None)
        assert block.parts is not None
        (part,) = block.parts()
        view = part.map
        a, slopes = view.gram(), view.slope_square()
        damping = 0.05 + 0.5 * (view.columns / view.samples) ** 0.5  # one batch knows its averages no better
        mean = a.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        k = (slopes + damping * slopes.mean(-1, keepdim=True))[..., None]
        theta = view.shape.matrix(step[:, 0])
        product = k * (theta @ a + damping * mean * theta)
        torch.testing.assert_close(product, view.shape.matrix(block.current_slope[:, 0]), rtol=1e-8, atol=1e-10)


def test_steps_promise_no_more_than_a_multiple_of_the_cost_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaged, "SETTLED", 0.5)
    monkeypatch.setattr(averaged, "_learn", lambda memory, *_: memory)  # ρ stays tiny
    history = oc.nn.Trainer(network(), squares, oc.EMSA(oc.GaussNewton(), rho=oc.AdaptivePenalty(initial=1e-9))).fit(
        batches(10), epochs=1
    )
    most = largest_gain(torch.arange(10.0, dtype=torch.float64))
    assert float(most[0]) == LARGEST_GAIN
    assert float(most[-1]) == LATER
    promises = torch.tensor([step.hamiltonian_gain / step.loss for step in history.steps], dtype=torch.float64)
    assert bool((promises <= most * (1 + 1e-9)).all())
    assert float(promises.max()) > LARGEST_GAIN


@pytest.mark.parametrize("initial", [1e-9, 1e3])
def test_rho_is_found_by_the_first_steps(initial: float) -> None:
    """It rises at once to what the promise has allowed, if that was too long still, and falls tenfold at most."""
    trainer = oc.nn.Trainer(network(), squares, oc.EMSA(rho=oc.AdaptivePenalty(initial=initial)))
    rhos: list[float] = []

    def after(record: Any) -> bool:
        rhos.append(float(trainer._stepper.memory().rho))
        return False

    history = trainer.fit(batches(EARLY + 1), epochs=1, callback=after)
    taken = [step.rho for step in history.steps]
    if initial < 1.0:
        assert 0.0 < rhos[1] <= taken[0]
        assert rhos[1] > 10.0 * initial
    else:
        assert taken[:3] == [1e3, 1e2, 1e1]
    for old, new, tried in zip(rhos[:-1], rhos[1:], taken[:-1], strict=True):
        assert CALIBRATION * old <= new * (1.0 + 1e-12)
        assert new <= max(SLOWEST * old, tried) * (1.0 + 1e-12)


def test_the_unit_of_the_loss_does_not_matter() -> None:
    """With a thousandfold loss ρ is a thousandfold, and the weights are the same."""
    runs = []
    for unit in (1.0, 1e3):
        net = network()
        history = oc.nn.Trainer(net, lambda y, z, unit=unit: unit * squares(y, z)).fit(batches(30), epochs=1)
        runs.append((net.state_dict(), torch.tensor([step.rho for step in history.steps]) / unit))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-6, atol=1e-8)


def test_the_answer_of_the_penalty_to_noise_grows_and_fades() -> None:
    """At most as on mini-batches without averages; in the long run there is none."""
    steps = torch.tensor([0.0, 30.0, 100.0, 1e4], dtype=torch.float64)
    answer = fading_answer(steps)
    assert bool((answer <= noise_answer(steps)).all())
    assert float(answer[0]) == float(answer[-1]) == 1.0
    assert 1.2 < float(answer[1]) < float(answer[2])


@pytest.mark.parametrize("factor", [20.0, math.inf])
def test_a_step_that_did_harm_is_taken_back(factor: float) -> None:
    """Weights that blow up, to something finite or not, are left for those before the step, with a larger ρ."""
    net, data = network(), batches(4)
    stepper: Any = stepper_for(net, squares, oc.EMSA(oc.GaussNewton()), 0.0)
    snapshot = stepper.snapshot()
    for x, y in data[:3]:
        stepper.step(x, y, snapshot)
    before: AveragedMemory = stepper.memory()
    assert before.previous is not None
    stepper.control = tuple(factor * block for block in stepper.control)
    outcome = stepper.step(*data[3], snapshot)
    after: AveragedMemory = stepper.memory()
    assert outcome.failure == ""
    assert after.previous is not None
    for kept, old in zip(after.previous, before.previous, strict=True):
        assert torch.equal(kept, old)
    assert float(after.rho) == pytest.approx(RETREAT * float(before.taken))
    assert all(bool(torch.isfinite(block).all()) for block in stepper.control)


def test_memory_survives_packing() -> None:
    net, data = network(), batches(3)
    solver = oc.EMSA(oc.GaussNewton())
    stepper: Any = stepper_for(net, squares, solver, 0.0)
    for x, y in data:
        stepper.step(x, y, stepper.snapshot())
    memory = stepper.memory()
    again = solver.unpack(solver.pack(memory))
    assert isinstance(again, AveragedMemory)
    assert float(again.rho) == float(memory.rho)
    assert len(again.averages) == len(memory.averages)
    assert torch.equal(again.averages[0]["averages"][0]["inputs"], memory.averages[0]["averages"][0]["inputs"])


def test_weights_changed_from_outside_start_new_averages() -> None:
    memory = AveragedMemory.unpack(
        {name: torch.ones(1) for name in AveragedMemory._fields} | {"previous": [torch.ones(1)], "averages": [{"a": 1}]}
    )
    moved = memory.moved(torch.zeros(1, dtype=torch.float64))
    assert moved.previous is None
    assert moved.averages == (None,)
    assert moved.rho.dtype == torch.float64


def test_layers_with_two_maps_are_trained_too() -> None:
    """A layer of two maps is averaged map by map."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(2, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))).double()
    history = oc.nn.Trainer(net, squares, oc.EMSA(oc.GaussNewton())).fit(batches(30), epochs=1)
    losses = [step.loss for step in history.steps]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
