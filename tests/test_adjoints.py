"""Contracts of adjoints: the costates give the exact gradient of the discrete cost, or converge to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    CONTROLS,
    HORIZON,
    STATES,
    B,
    N,
    central_difference,
    naive_costs,
    naive_hamiltonian,
    nonlinear_problem,
    random_control,
    seeded,
    transcription,
    uneven_mesh,
)
from torch import Tensor

import ocsolver as oc
import ocsolver.adjoints
from ocsolver._shapes import group_mean
from ocsolver.continuous import ContinuousForward, ContinuousTranscription

FIXED = [oc.Euler(), oc.Heun(), oc.RK4()]
DOPRI5 = oc.TorchDiffEq("dopri5", rtol=1e-9, atol=1e-11)
DOP853 = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-12)

# integrator, adjoint, intervals: every kind of pair that is allowed, on a mesh fine enough where the pair is inexact
PAIRS = {
    "Euler-discrete": (oc.Euler(), oc.DiscreteAdjoint(), N),
    "Heun-discrete": (oc.Heun(), oc.DiscreteAdjoint(), N),
    "RK4-discrete": (oc.RK4(), oc.DiscreteAdjoint(), N),
    "RK4-continuous": (oc.RK4(), oc.ContinuousAdjoint(), 30),
    "RK4-continuous-by-DOP853": (oc.RK4(), oc.ContinuousAdjoint(DOP853), 30),
    "dopri5-discrete": (DOPRI5, oc.DiscreteAdjoint(), N),
    "dopri5-continuous": (DOPRI5, oc.ContinuousAdjoint(), N),
    "dopri5-continuous-by-RK4": (DOPRI5, oc.ContinuousAdjoint(oc.RK4()), 30),
    "DOP853-continuous": (DOP853, oc.ContinuousAdjoint(), N),
    "DOP853-continuous-by-RK4": (DOP853, oc.ContinuousAdjoint(oc.RK4()), 30),
    "DOP853-continuous-by-dopri5": (DOP853, oc.ContinuousAdjoint(DOPRI5), N),
}
every_pair = pytest.mark.parametrize(("integrator", "adjoint", "intervals"), PAIRS.values(), ids=PAIRS.keys())
every_fixed = pytest.mark.parametrize("integrator", FIXED, ids=lambda method: type(method).__name__)
with_and_without_running_cost = pytest.mark.parametrize("running", [True, False], ids=["L", "no-L"])


def set_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Force all intervals at once, or one interval after the other."""
    monkeypatch.setattr(ocsolver.adjoints, "BATCH_LIMIT", math.inf if path == "batched" else -1)


def row_costs(forward: ContinuousForward) -> Tensor:
    """Cost of each trajectory (B,)."""
    return forward.running.sum(0) + forward.terminal


def gradient(chain: ContinuousTranscription, u: Tensor) -> Tensor:
    """∂(sum over groups of J)/∂u by the library: −w ∂H/∂u, (N, G, m)."""
    (block,) = chain.backward(chain.forward((u,))).blocks
    return -block.weights[:, None, None] * block.gradient(u)[1]


# ------------------------------------------------------------------------------------ exactness of the discrete adjoint


@every_fixed
@with_and_without_running_cost
@pytest.mark.parametrize("path", ["batched", "one-by-one"])
def test_discrete_adjoint_gives_the_gradient_of_the_discrete_cost(
    shared: bool, integrator: oc.Integrator, running: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_path(monkeypatch, path)
    problem = nonlinear_problem(shared, running=running)
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    leaf, x0 = u.clone().requires_grad_(), problem.initial_state.clone().requires_grad_()
    costs = naive_costs(problem, chain.nodes, leaf, integrator, x0)
    (exact,) = torch.autograd.grad(group_mean(costs, problem.groups).sum(), leaf, retain_graph=True)
    (sensitivity,) = torch.autograd.grad(costs.sum(), x0)
    forward = chain.forward((u,))
    torch.testing.assert_close(row_costs(forward), costs.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(forward.cost, group_mean(costs.detach(), problem.groups), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient(chain, u), exact, rtol=1e-10, atol=1e-10 * float(exact.abs().max()))
    p = chain.backward(forward).p
    assert p.shape == (N + 1, B, STATES)
    torch.testing.assert_close(p[0], -sensitivity, rtol=1e-10, atol=1e-10 * float(sensitivity.abs().max()))


@every_fixed
def test_every_costate_is_the_sensitivity_of_the_cost_to_go(integrator: oc.Integrator) -> None:
    problem = nonlinear_problem(False)
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    sweep = chain.backward(chain.forward((u,)))
    for k in range(N + 1):
        x = sweep.forward.x[k].clone().requires_grad_()
        to_go = naive_costs(problem, chain.nodes[k:], u[k:], integrator, x)
        (slope,) = torch.autograd.grad(to_go.sum(), x)
        torch.testing.assert_close(sweep.p[k], -slope, rtol=1e-10, atol=1e-11)


def test_euler_is_the_scheme_of_the_paper(shared: bool) -> None:
    """Algorithm 3: x_{k+1} = x_k + h f, p_k = p_{k+1} + h ∇ₓH(t_k, x_k, p_{k+1}, u_k), and H is taken there."""
    problem = nonlinear_problem(shared)
    chain, u = transcription(problem, integrator=oc.Euler()), random_control(problem)
    sweep = chain.backward(chain.forward((u,)))
    x, p, nodes = sweep.forward.x, sweep.p, chain.nodes
    other = random_control(problem, seed=3)

    def H(k: int, x: Tensor, u: Tensor) -> Tensor:
        return (p[k + 1] * problem.dynamics(nodes[k], x, u)).sum(-1) - problem.running_cost(nodes[k], x, u)

    for k in range(N):
        h = nodes[k + 1] - nodes[k]
        torch.testing.assert_close(x[k + 1], x[k] + h * problem.dynamics(nodes[k], x[k], u[k]))
        leaf = x[k].clone().requires_grad_()
        (slope,) = torch.autograd.grad(H(k, leaf, u[k]).sum(), leaf)
        torch.testing.assert_close(p[k], p[k + 1] + h * slope)
        gain = group_mean(H(k, x[k], other[k]) - H(k, x[k], u[k]), problem.groups)
        torch.testing.assert_close(sweep.blocks[0].value(other)[k], gain)
    end = x[-1].clone().requires_grad_()
    torch.testing.assert_close(p[-1], -torch.autograd.grad(problem.terminal_cost(end).sum(), end)[0])


@every_fixed
def test_costates_are_the_state_slopes_of_the_site_hamiltonian(integrator: oc.Integrator) -> None:
    """p_k = p_{k+1} + w ∂H_k/∂x: H_k counts the change of the state, not the state."""
    problem = nonlinear_problem(False)
    chain, u = transcription(problem, integrator=integrator), random_control(problem)
    sweep = chain.backward(chain.forward((u,)))
    for k in range(N):
        x = sweep.forward.x[k].clone().requires_grad_()
        value, _ = naive_hamiltonian(problem, integrator, chain.nodes, k, x, sweep.p[k + 1], u[k])
        (slope,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(sweep.p[k], sweep.p[k + 1] + sweep.blocks[0].weights[k] * slope)


# --------------------------------------------------------------------------------------------- every allowed pair


@every_pair
def test_gradient_against_central_differences(
    shared: bool, integrator: oc.Integrator, adjoint: oc.Adjoint, intervals: int
) -> None:
    problem = nonlinear_problem(shared)
    chain = transcription(problem, uneven_mesh(intervals), integrator, adjoint)
    # smooth in time, so that the mesh resolves it where the pair is exact only in the limit
    s = chain.mesh.nodes[:-1, None, None]
    u = 0.5 * torch.cos(4.0 * s + seeded(1, problem.groups, CONTROLS))
    du = torch.sin(3.0 * s + seeded(1, problem.groups, CONTROLS, seed=1))
    quotient = central_difference(lambda v: chain.forward((v,)).cost, u, du, step=1e-4)  # (G,)
    slope = (gradient(chain, u) * du).sum((0, 2))
    torch.testing.assert_close(slope, quotient, rtol=1e-5, atol=1e-5 * float(quotient.abs().max()))


@every_pair
def test_initial_costate_is_minus_the_sensitivity_of_the_cost(
    integrator: oc.Integrator, adjoint: oc.Adjoint, intervals: int
) -> None:
    mesh = uneven_mesh(intervals)
    problem = nonlinear_problem(False)
    chain, u = transcription(problem, mesh, integrator, adjoint), random_control(problem, intervals)

    def costs(x0: Tensor) -> Tensor:
        moved = nonlinear_problem(False, initial_state=x0)
        return row_costs(transcription(moved, mesh, integrator, adjoint).forward((u,)))

    directions = torch.eye(STATES, dtype=torch.float64)
    quotients = [central_difference(costs, problem.initial_state, direction, step=1e-4) for direction in directions]
    expected = -torch.stack(quotients, -1)  # (B, n)
    p = chain.backward(chain.forward((u,))).p
    torch.testing.assert_close(p[0], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@every_pair
@pytest.mark.parametrize("path", ["batched", "one-by-one"])
def test_both_paths_give_the_same_costates(
    shared: bool,
    integrator: oc.Integrator,
    adjoint: oc.Adjoint,
    intervals: int,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = nonlinear_problem(shared)
    chain = transcription(problem, uneven_mesh(4), integrator, adjoint)
    forward = chain.forward((random_control(problem, 4),))
    expected = chain.backward(forward).p
    set_path(monkeypatch, path)
    # adaptive integrators choose other steps for other batches, within their tolerance
    tolerance = 1e-8 if integrator.adaptive or getattr(adjoint, "integrator", None) is not None else 1e-12
    torch.testing.assert_close(chain.backward(forward).p, expected, rtol=tolerance, atol=tolerance)


@every_fixed
def test_continuous_adjoint_converges_to_the_discrete_one_at_the_order(shared: bool, integrator: oc.Integrator) -> None:
    problem, counts, errors = nonlinear_problem(shared), [20, 40, 80], []
    for count in counts:
        discrete = transcription(problem, uneven_mesh(count), integrator, oc.DiscreteAdjoint())
        continuous = transcription(problem, uneven_mesh(count), integrator, oc.ContinuousAdjoint())
        s = discrete.mesh.nodes[:-1, None, None]
        u = 0.5 * torch.cos(4.0 * s + seeded(1, problem.groups, CONTROLS))
        p, q = (chain.backward(chain.forward((u,))).p for chain in (discrete, continuous))
        errors.append(float((p - q).abs().max()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope > integrator.order - 0.2


def test_adaptive_pairs_agree_on_the_costates() -> None:
    """Where the trajectory is exact to 1e-10, the adjoint of the steps and the costate equation are the same."""
    problem = nonlinear_problem(False)
    u = random_control(problem)
    pairs = [(DOPRI5, oc.DiscreteAdjoint()), (DOPRI5, oc.ContinuousAdjoint()), (DOP853, oc.ContinuousAdjoint())]
    costates = []
    for integrator, adjoint in pairs:
        chain = transcription(problem, integrator=integrator, adjoint=adjoint)
        costates.append(chain.backward(chain.forward((u,))).p)
    for p in costates[1:]:
        torch.testing.assert_close(p, costates[0], rtol=1e-8, atol=1e-8)


def test_averaged_hamiltonian_of_a_scipy_integrator_is_the_gradient(shared: bool) -> None:
    """Quadrature of H along the dense output against differentiating the cost of many steps of RK4."""
    problem = nonlinear_problem(shared)
    u = random_control(problem, 4)
    chain = transcription(problem, uneven_mesh(4), DOP853)
    pieces = 40
    inner = torch.arange(pieces, dtype=torch.float64) / pieces
    nodes = torch.cat(((chain.nodes[:-1, None] + chain.nodes.diff()[:, None] * inner).reshape(-1), chain.nodes[-1:]))
    leaf = u.clone().requires_grad_()
    costs = naive_costs(problem, nodes, leaf.repeat_interleave(pieces, 0))
    (exact,) = torch.autograd.grad(group_mean(costs, problem.groups).sum(), leaf)
    torch.testing.assert_close(gradient(chain, u), exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


# ------------------------------------------------------------------------------------------------ parts of the costates


@pytest.mark.parametrize("integrator", [oc.RK4(), DOP853], ids=["RK4", "DOP853"])
def test_points_lie_on_the_trajectories(shared: bool, integrator: oc.Integrator) -> None:
    problem, count = nonlinear_problem(shared), 16
    adjoint = oc.ContinuousAdjoint(integrator)
    chain = transcription(problem, uneven_mesh(count), oc.RK4(), adjoint)
    s = chain.mesh.nodes[:-1, None, None]
    u = 0.5 * torch.cos(4.0 * s + seeded(1, problem.groups, CONTROLS))
    sweep = chain.backward(chain.forward((u,)))
    x, p = sweep.forward.x, sweep.p
    torch.testing.assert_close(adjoint.one_interval(chain.intervals, x[1:], p[1:], u), p[:-1], rtol=1e-9, atol=1e-9)
    fractions = torch.tensor([0.2, 0.5, 0.9]).double()
    states, costates = adjoint.points(chain.intervals, x, p, u, fractions)
    assert states.shape == costates.shape == (3, count, B, STATES)
    # the same control on a mesh that has the points as nodes
    nodes = chain.nodes[:-1, None] + chain.nodes.diff()[:, None] * torch.cat((torch.zeros(1).double(), fractions))
    fine = oc.Mesh(
        (torch.cat((nodes.reshape(-1), chain.nodes[-1:])) - chain.nodes[0]) / (chain.nodes[-1] - chain.nodes[0])
    )
    finer = transcription(problem, fine, oc.RK4())
    reference = finer.backward(finer.forward((u.repeat_interleave(4, 0),)))
    for values, expected in ((states, reference.forward.x), (costates, reference.p)):
        inside = expected[:-1].reshape(count, 4, B, STATES)[:, 1:].movedim(1, 0)
        tolerance = (HORIZON / count) ** 4  # the order of the states of both meshes
        torch.testing.assert_close(values, inside, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("adjoint", [oc.DiscreteAdjoint(), oc.ContinuousAdjoint()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("path", ["batched", "one-by-one"])
def test_row_that_failed_leaves_the_others(adjoint: oc.Adjoint, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_path(monkeypatch, path)
    problem = nonlinear_problem(False)
    chain, u = transcription(problem, adjoint=adjoint), random_control(problem)
    clean = chain.forward((u,))
    x = clean.x.clone()
    x[4:, 2] = torch.nan
    broken = ContinuousForward(u, x, clean.running, clean.terminal, clean.groups)
    good = [0, 1, 3, 4]
    torch.testing.assert_close(chain.backward(broken).p[:, good], chain.backward(clean).p[:, good])


@pytest.mark.parametrize("adjoint", [oc.DiscreteAdjoint(), oc.ContinuousAdjoint()], ids=lambda a: type(a).__name__)
def test_dtype_is_that_of_the_run(shared: bool, adjoint: oc.Adjoint) -> None:
    single = nonlinear_problem(shared, dtype=torch.float32)
    u = random_control(single)
    results = []
    for problem in (single, nonlinear_problem(shared)):
        chain = transcription(problem, adjoint=adjoint)
        results.append(chain.backward(chain.forward((u.to(problem.initial_state),))).p)
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(results[0].double(), results[1], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["RK45", "Radau"])
def test_discrete_adjoint_of_a_scipy_integrator_is_refused(method: str) -> None:
    with pytest.raises(oc.UnsupportedError) as caught:
        transcription(nonlinear_problem(False), integrator=oc.SolveIVP(method), adjoint=oc.DiscreteAdjoint())
    message = str(caught.value)
    assert "DiscreteAdjoint: expected a differentiable integrator, got SolveIVP." in message
    assert "oc.ContinuousAdjoint()" in message


def test_default_adjoint_fits_the_integrator() -> None:
    for integrator, adjoint in [
        (oc.Euler(), oc.DiscreteAdjoint()),
        (oc.RK4(), oc.DiscreteAdjoint()),
        (oc.TorchDiffEq(), oc.DiscreteAdjoint()),
        (oc.SolveIVP(), oc.ContinuousAdjoint()),
    ]:
        assert transcription(nonlinear_problem(False), integrator=integrator).adjoint == adjoint


@pytest.mark.parametrize("adjoint", ["discrete", oc.DiscreteAdjoint, oc.RK4()], ids=["text", "class", "integrator"])
def test_what_is_no_adjoint_is_refused(adjoint: Any) -> None:
    with pytest.raises(oc.InputError) as caught:
        transcription(nonlinear_problem(False), adjoint=adjoint)
    assert f"adjoint: expected an Adjoint, got {adjoint!r}." in str(caught.value)


@pytest.mark.parametrize("integrator", ["RK4", oc.RK4, oc.DiscreteAdjoint()], ids=["text", "class", "adjoint"])
def test_continuous_adjoint_refuses_what_is_no_integrator(integrator: Any) -> None:
    with pytest.raises(oc.InputError, match="expected an Integrator"):
        oc.ContinuousAdjoint(integrator)


def test_adjoints_compare_and_print_as_what_they_are() -> None:
    assert oc.DiscreteAdjoint() == oc.DiscreteAdjoint()
    assert oc.ContinuousAdjoint() == oc.ContinuousAdjoint(None) != oc.ContinuousAdjoint(oc.RK4())
    assert repr(oc.ContinuousAdjoint(oc.Euler())) == "ContinuousAdjoint(integrator=Euler())"
