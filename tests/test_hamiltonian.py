"""Contracts of the Hamiltonian block: values and derivatives against naive loops over intervals and rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from helpers import (
    CONTROLS,
    STATES,
    B,
    N,
    naive_hamiltonian,
    nonlinear_problem,
    random_control,
    seeded,
    transcription,
)
from torch import Tensor

import ocsolver as oc
import ocsolver.hamiltonian
from ocsolver.hamiltonian import (
    HamiltonianBlock,
    Penalty,
    augmented_field,
    costate_rate,
    hamiltonian,
    terminal_costate,
)

# SciPy's integrators have no interval map to differentiate: there H is averaged over Gauss points instead
METHODS = [oc.Euler(), oc.RK4(), oc.SolveIVP("DOP853", rtol=1e-6)]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
with_and_without_running_cost = pytest.mark.parametrize("running", [True, False], ids=["L", "no-L"])


class Setting(NamedTuple):
    """A block, the data it was made of, and a control that differs from the current one."""

    problem: oc.OptimalControlProblem
    method: oc.Integrator
    nodes: Tensor
    block: HamiltonianBlock
    x: Tensor
    p: Tensor
    u: Tensor

    def rows(self, g: int) -> range:
        """Trajectories of group g."""
        return range(B) if self.problem.shared_control else range(g, g + 1)


def setting(shared: bool, method: oc.Integrator | None = None, **options: object) -> Setting:
    problem = nonlinear_problem(shared, **options)
    method = method or oc.RK4()
    chain = transcription(problem, integrator=method)
    sweep = chain.backward(chain.forward((random_control(problem, seed=1),)))
    other = random_control(problem, seed=2, scale=0.8)
    return Setting(problem, method, chain.nodes, sweep.blocks[0], sweep.forward.x, sweep.p, other)


Site = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def naive_points(case: Setting, k: int) -> list[tuple[float, Tensor, Site]]:
    """Weight, state (B, n) and (x, u) -> H (B,), rate (B, n) of each point of interval k."""
    if not isinstance(case.method, oc.SolveIVP):
        site = lambda x, u: naive_hamiltonian(case.problem, case.method, case.nodes, k, x, case.p[k + 1], u)
        return [(1.0, case.x[k], site)]
    points = []
    for q in range(case.block.points.numel()):
        t, p = case.block.t[k, q, 0], case.block.sensitivity[k, q, :, :STATES]

        def site(x: Tensor, u: Tensor, t: Tensor = t, p: Tensor = p) -> tuple[Tensor, Tensor]:
            rate = case.problem.dynamics(t, x, u)
            cost = 0.0 if case.problem.running_cost is None else case.problem.running_cost(t, x, u)
            return (p * rate).sum(-1) - cost, rate

        points.append((float(case.block.points[q]), case.block.x[k, q], site))
    return points


class NaiveTerms(NamedTuple):
    """H, rate and ∇ₓH of one row of one interval as functions of its control (m,), and the weight of the row."""

    weight: float
    value: Callable[[Tensor], Tensor]
    rate: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def naive_rows(case: Setting, k: int, g: int) -> list[NaiveTerms]:
    terms = []
    for weight, x, site in naive_points(case, k):
        for i in case.rows(g):

            def whole(u: Tensor) -> Tensor:
                """The row's control in its place, whatever the others do."""
                return u.expand(1 if case.problem.shared_control else B, CONTROLS)

            def value(u: Tensor, x: Tensor = x, site: Site = site, i: int = i) -> Tensor:
                return site(x, whole(u))[0][i]

            def rate(u: Tensor, x: Tensor = x, site: Site = site, i: int = i) -> Tensor:
                return site(x, whole(u))[1][i]

            def slope(u: Tensor, x: Tensor = x, site: Site = site, i: int = i) -> Tensor:
                leaf = x.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(site(leaf, whole(u))[0][i], leaf, create_graph=True)
                return gradient[i]

            terms.append(NaiveTerms(weight / len(case.rows(g)), value, rate, slope))
    return terms


def naive_terms(case: Setting, k: int, g: int, u: Tensor) -> Tensor:
    """Gain of H, state error and costate error of one site at u (m,): (3,)."""
    now, total = case.block.current[k, g], torch.zeros(3, dtype=u.dtype)
    for weight, value, rate, slope in naive_rows(case, k, g):
        errors = [(function(u) - function(now)).square().sum() for function in (rate, slope)]
        total = total + weight * torch.stack([value(u) - value(now), *errors])
    return total


def naive_value(case: Setting, k: int, g: int, u: Tensor, penalty: Penalty) -> Tensor:
    gain, state_error, costate_error = naive_terms(case, k, g, u)
    proximal = (u - case.block.current[k, g]).square().sum()
    rho_f, rho_q, epsilon = (weight[g] for weight in penalty)
    return gain - 0.5 * rho_f * state_error - 0.5 * rho_q * costate_error - epsilon * proximal


def penalties(G: int) -> list[Penalty]:
    """All kinds of penalty, different for each group."""
    weights = torch.linspace(0.5, 1.5, G, dtype=torch.float64)
    zero = torch.zeros_like(weights)
    return [
        Penalty(zero, zero, zero),
        Penalty(weights, zero, zero),
        Penalty(zero, 2.0 * weights, zero),
        Penalty(zero, zero, 0.7 * weights),
        Penalty.uniform(weights),
        Penalty(weights, 2.0 * weights, 0.7 * weights),
    ]


def sites(case: Setting, intervals: tuple[int, ...] = (0, 3, N - 1)) -> itertools.product[tuple[int, int]]:
    return itertools.product(intervals, range(case.block.groups))


# ------------------------------------------------------------------------------------------------------------- values


@every_method
@with_and_without_running_cost
def test_value_is_the_naive_augmented_hamiltonian(shared: bool, method: oc.Integrator, running: bool) -> None:
    case = setting(shared, method, running=running)
    plain = case.block.value(case.u)
    assert plain.shape == (N, case.block.groups)
    for number, penalty in enumerate(penalties(case.block.groups)):
        value = case.block.value(case.u, penalty)
        assert value.shape == plain.shape
        for k, g in sites(case):
            torch.testing.assert_close(value[k, g], naive_value(case, k, g, case.u[k, g], penalty).detach())
        if number == 0:
            torch.testing.assert_close(value, plain)
            assert penalty.zero
        else:
            assert not penalty.zero
            assert bool((value < plain).all())


@every_method
def test_value_is_zero_at_the_current_control(shared: bool, method: oc.Integrator) -> None:
    block = setting(shared, method).block
    for penalty in [None, *penalties(block.groups)]:
        assert float(block.value(block.current, penalty).abs().max()) < 1e-14
    value, _ = block.gradient(block.current)
    assert float(value.abs().max()) < 1e-14


@every_method
def test_terms_are_the_gain_and_the_errors_of_lemma_1(shared: bool, method: oc.Integrator) -> None:
    case = setting(shared, method)
    terms = case.block.terms(case.u)
    for k, g in sites(case):
        expected = naive_terms(case, k, g, case.u[k, g]).detach()
        torch.testing.assert_close(torch.stack([term[k, g] for term in terms]), expected)
    without = case.block.terms(case.u, costate=False)
    torch.testing.assert_close(without.gain, terms.gain)
    torch.testing.assert_close(without.state_error, terms.state_error)
    assert not bool(without.costate_error.any())


@every_method
def test_leading_axes_try_many_controls_at_once(shared: bool, method: oc.Integrator) -> None:
    block = setting(shared, method).block
    trials = seeded(4, 3, *block.current.shape, seed=5)
    for penalty in (None, penalties(block.groups)[-1]):
        together = block.value(trials, penalty)
        assert together.shape == (4, 3, N, block.groups)
        for a, b in itertools.product(range(4), range(3)):
            torch.testing.assert_close(together[a, b], block.value(trials[a, b], penalty))


def test_groups_are_independent() -> None:
    case = setting(False)
    u = case.u.clone()
    u[:, 2] += 1.0
    value, other = case.block.value(case.u), case.block.value(u)
    rest = [0, 1, 3, 4]
    assert torch.equal(value[:, rest], other[:, rest])
    assert bool((value[:, 2] != other[:, 2]).all())


# -------------------------------------------------------------------------------------------------------- derivatives


def jacobian(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    result: Tensor = torch.autograd.functional.jacobian(function, u)
    return result


def naive_expansion(case: Setting, k: int, g: int) -> dict[str, Tensor]:
    """Every field of the expansion at case.u, by differentiating the rows of one site."""
    u, now, rows = case.u[k, g], case.block.current[k, g], naive_rows(case, k, g)

    def mean(v: Tensor) -> Tensor:
        return torch.stack([row.weight * row.value(v) for row in rows]).sum()

    def half_state_error(v: Tensor) -> Tensor:
        return torch.stack([0.5 * row.weight * (row.rate(v) - row.rate(now)).square().sum() for row in rows]).sum()

    def half_costate_error(v: Tensor) -> Tensor:
        return torch.stack([0.5 * row.weight * (row.slope(v) - row.slope(now)).square().sum() for row in rows]).sum()

    def gram(functions: list[Callable[[Tensor], Tensor]]) -> Tensor:
        jacobians = [jacobian(function, u) for function in functions]
        return torch.stack([row.weight * J.T @ J for row, J in zip(rows, jacobians, strict=True)]).sum(0)

    return {
        "gradient": jacobian(mean, u),
        "hessian": torch.autograd.functional.hessian(mean, u),
        "state_gradient": jacobian(half_state_error, u),
        "costate_gradient": jacobian(half_costate_error, u),
        "state_gram": gram([row.rate for row in rows]),
        "costate_gram": gram([row.slope for row in rows]),
    }


@every_method
@with_and_without_running_cost
def test_expansion_against_double_differentiation(shared: bool, method: oc.Integrator, running: bool) -> None:
    case = setting(shared, method, running=running)
    expansion = case.block.expansion(case.u)
    for k, g in sites(case):
        expected = naive_expansion(case, k, g)
        assert set(expected) == set(expansion._fields)
        torch.testing.assert_close({name: getattr(expansion, name)[k, g] for name in expected}, expected)


@every_method
def test_gradient_and_curvature_of_the_augmented_hamiltonian(shared: bool, method: oc.Integrator) -> None:
    case = setting(shared, method)
    block, here = case.block, case.block.current
    for penalty in penalties(block.groups):
        value, slope = block.gradient(case.u, penalty)
        torch.testing.assert_close(value, block.value(case.u, penalty))
        gradient, _ = block.expansion(case.u).augmented(penalty, case.u - here)
        torch.testing.assert_close(gradient, slope)
        # at the current control the Gauss-Newton Hessian is exact
        at_current, curvature = block.current_expansion.augmented(penalty, torch.zeros_like(here))
        torch.testing.assert_close(at_current, block.gradient(here, penalty)[1])
        for k, g in sites(case, intervals=(2,)):
            exact = torch.autograd.functional.hessian(
                lambda v, k=k, g=g, penalty=penalty: naive_value(case, k, g, v, penalty), here[k, g]
            )
            torch.testing.assert_close(curvature[k, g], -exact)


def test_expansion_of_callables_that_ignore_the_control(shared: bool) -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.ones_like(x),
        lambda t, x, u: x[..., 0] ** 2,
        initial_state=seeded(B, STATES),
        horizon=(0.5, 1.0),
        control_set=oc.Unconstrained(CONTROLS),
        shared_control=shared,
    )
    chain = transcription(problem)
    (block,) = chain.backward(chain.forward((random_control(problem),))).blocks
    for value in block.current_expansion:
        assert not bool(value.any())
    assert not bool(block.gradient(random_control(problem, seed=3))[1].any())


# ------------------------------------------------------------------------------------------------------ rows that fail


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("field", ["x", "sensitivity"])
def test_rows_that_are_not_finite_do_not_disturb_the_others(field: str, bad: float) -> None:
    case = setting(False)
    damaged = getattr(case.block, field).clone()
    damaged[2:5, :, 3] = bad
    block = replace(case.block, **{field: damaged})
    good = torch.ones(N, B, dtype=torch.bool)
    good[2:5, 3] = False
    penalty = penalties(B)[-1]
    for value, expected in [
        (block.value(case.u), case.block.value(case.u)),
        (block.value(case.u, penalty), case.block.value(case.u, penalty)),
        (block.gradient(case.u, penalty)[1], case.block.gradient(case.u, penalty)[1]),
        *zip(block.expansion(case.u), case.block.expansion(case.u), strict=True),
        (block.best_of(seeded(6, 1, 1, CONTROLS))[0], case.block.best_of(seeded(6, 1, 1, CONTROLS))[0]),
    ]:
        torch.testing.assert_close(value[good], expected[good])


# ------------------------------------------------------------------------------------------------------ trying points


@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("chunk", [1, 4_000_000])
def test_best_of(shared: bool, penalized: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsolver.hamiltonian, "CHUNK_ENTRIES", chunk)
    block = setting(shared).block
    penalty = penalties(block.groups)[-1] if penalized else None
    for trials in (seeded(9, 1, 1, CONTROLS, seed=6), seeded(9, *block.current.shape, seed=7)):
        u, value = block.best_of(trials, penalty)
        assert u.shape == block.current.shape
        assert value.shape == (N, block.groups)
        values = torch.stack([block.value(trial.expand_as(block.current), penalty) for trial in trials])
        torch.testing.assert_close(value, values.amax(0))
        for k, g in itertools.product(range(N), range(block.groups)):
            trial = trials[values[:, k, g].argmax()].expand_as(block.current)
            assert torch.equal(u[k, g], trial[k, g])


def test_best_of_passes_over_values_that_are_not_finite() -> None:
    problem = oc.OptimalControlProblem(
        lambda t, x, u: x,
        lambda t, x, u: torch.sqrt(u[..., 0]),  # NaN for u < 0
        initial_state=seeded(B, STATES),
        horizon=(0.0, 1.0),
        control_set=oc.FiniteSet([-1.0, 4.0, 1.0]),
    )
    chain = transcription(problem)
    (block,) = chain.backward(chain.forward((torch.full((N, B, 1), 4.0).double(),))).blocks
    u, value = block.best_of(problem.control_set.points[:, None, None])
    assert torch.equal(u, torch.ones_like(u))
    torch.testing.assert_close(value, torch.ones_like(value))


def test_best_candidate(shared: bool) -> None:
    points = seeded(11, CONTROLS, seed=8)
    block = setting(shared, control_set=oc.FiniteSet(points)).block
    u, value = block.best_candidate
    torch.testing.assert_close(value, block.best_of(points[:, None, None])[1])
    assert float(block.control_set.residual(u).max()) == 0.0
    assert setting(shared).block.best_candidate is None


# --------------------------------------------------------------------------------------------------- sign convention


def test_hamiltonian_is_p_times_f_minus_L() -> None:
    problem = nonlinear_problem(False)
    t, x, p, u = torch.tensor(0.9).double(), seeded(B, STATES), seeded(B, STATES, seed=1), seeded(B, CONTROLS, seed=2)
    value = hamiltonian(problem, t, x, p, u)
    expected = (p * problem.dynamics(t, x, u)).sum(-1) - problem.running_cost(t, x, u)
    torch.testing.assert_close(value, expected)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(hamiltonian(problem, t, leaf, p, u).sum(), leaf)
    torch.testing.assert_close(costate_rate(problem, t, x, p, u), -slope)


def test_terminal_costate_is_minus_the_gradient() -> None:
    problem, x = nonlinear_problem(False), seeded(B, STATES)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(problem.terminal_cost(leaf).sum(), leaf)
    torch.testing.assert_close(terminal_costate(problem, x), -slope)
    assert not bool(terminal_costate(nonlinear_problem(False, terminal=False), x).any())


def test_field_carries_the_running_cost() -> None:
    t, x, u = torch.tensor(0.9).double(), seeded(2, B, STATES), seeded(2, B, CONTROLS, seed=2)
    problem = nonlinear_problem(False)
    z = torch.cat((x, seeded(2, B, 1, seed=3)), -1)
    rate = augmented_field(problem)(t, z, u)
    torch.testing.assert_close(rate[..., :STATES], problem.dynamics(t, x, u))
    torch.testing.assert_close(rate[..., STATES], problem.running_cost(t, x, u))
    alone = nonlinear_problem(False, running=False)
    torch.testing.assert_close(augmented_field(alone)(t, x, u), alone.dynamics(t, x, u))
