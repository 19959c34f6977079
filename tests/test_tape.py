"""Traced expressions against torch: values, Jacobians and Hessians of every operation, and what cannot be traced."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ocsolver as oc
import problems
from ocsolver.collocation.points import Stacked
from ocsolver.freetime import on_unit_time
from ocsolver.tape import Graph, Program, Untraceable, gradient, jacobian, program, trace

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Tensor], Tensor]

CONSTANTS = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
INSIDE = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


def written(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[..., 0] = x[..., 1]
    out[..., 1:] = x[..., :2] * 3.0
    out[..., 2] += x[..., 0] ** 2
    out.mul_(2.0)
    return out


def filled(x: Tensor) -> Tensor:
    out = x.clone()
    out[..., 1].fill_(4.0)
    out[..., 0].zero_()
    return out * x


FUNCTIONS: dict[str, Function] = {
    "arithmetic": lambda x: (x + 2.0) * CONSTANTS - x / (3.0 + x * x) + 1.0 / (x - 5.0) - (-x),
    "alpha": lambda x: torch.add(x, x * x, alpha=2.5) + torch.sub(x, x.flip(-1), alpha=0.5),
    "fused": lambda x: torch.addcmul(x, x, CONSTANTS) + torch.addcdiv(x, x, x * x + 1.0),
    "reversed": lambda x: 2.0 - x + torch.rsub(x, 3.0),
    "powers": lambda x: x**2 + x**3 - x**-1 + (x + 3.0) ** 0.5 + (x + 3.0) ** 1.7 + x**6 + x**0,
    "power of a tensor": lambda x: (x + 3.0) ** (0.5 * x) + 2.0**x,
    "exponential": lambda x: torch.exp(x) + torch.expm1(x) + torch.log(x + 3.0) + torch.log1p(x * x),
    "trigonometric": lambda x: torch.sin(x) + torch.cos(2.0 * x) * torch.tan(0.3 * x) + torch.atan(x),
    "inverse": lambda x: torch.asin(0.2 * x) + torch.acos(0.2 * x) + torch.atan2(x, x.roll(1, -1) + 4.0),
    "hyperbolic": lambda x: torch.sinh(x) + torch.cosh(x) * torch.tanh(x) + torch.sigmoid(x),
    "roots": lambda x: torch.sqrt(x + 3.0) + torch.rsqrt(x + 3.0) + torch.reciprocal(x + 3.0) + x.square(),
    "sums": lambda x: torch.stack((x.sum(-1), x.mean(-1), (x * x).sum((-1,)), x.sum(-1, keepdim=True)[..., 0]), -1),
    "stack": lambda x: torch.stack((x[..., 1], x[..., 0] * x[..., 2], torch.ones_like(x[..., 0])), -1),
    "cat": lambda x: torch.cat((x[..., :1] ** 2, x, torch.full_like(x[..., 1:], 2.0)), -1),
    "views": lambda x: x.unsqueeze(-1).expand(*x.shape, 2).transpose(-1, -2).reshape(*x.shape[:-1], 6) ** 2,
    "indices": lambda x: x[..., [2, 0]] * x[..., torch.tensor([1, 1])] + x.index_select(-1, torch.tensor([0, 2])),
    "unbind": lambda x: torch.stack([a * b for a, b in zip(x.unbind(-1), CONSTANTS.unbind(-1), strict=True)], -1),
    "linear map": lambda x: torch.nn.functional.linear(x, MATRIX, CONSTANTS[:2]),
    "matrices": lambda x: (x @ MATRIX.T) @ MATRIX + torch.einsum("ij,...j->...i", MATRIX.T @ MATRIX, x),
    "product of states": lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)) @ CONSTANTS,
    "network": lambda x: INSIDE(x),
    "where": lambda x: torch.where(x > 0.3, x**2, torch.sin(x)) + torch.where(x <= x.flip(-1), x, 0.0),
    "masks": lambda x: (x < 0.5) * x + (~(x >= 0.2)).to(x.dtype) * x**2 + ((x > -1.0) & (x != 0.3)).double() * x,
    "writing": written,
    "filling": filled,
    "constant": lambda x: torch.full_like(x, 2.5),
    "new tensors": lambda x: x * x.new_tensor([1.0, 2.0, 3.0]) + x.new_zeros(x.shape) + x.new_full((3,), 0.5),
    "expanded": lambda x: (x[..., :1] * x[..., 1:2]).expand(*x.shape[:-1], 3),
}

each = pytest.mark.parametrize("name", FUNCTIONS)
POINTS = np.random.default_rng(0).uniform(-1.5, 1.5, (7, 3))


def traced(function: Function) -> tuple[Graph, list[int], list[int]]:
    """Graph, variables and outputs of a function of three components."""
    graph = Graph()
    variables = [graph.input(i) for i in range(3)]
    start = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    outputs = trace(graph, function, [(start, np.array(variables)[None])])
    return graph, variables, outputs.ravel().tolist()


def derivatives(function: Function, point: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobian, and Hessian of the sum weighted by 1, 2, …, by torch."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], point)
    count = len(function(point[None])[0])
    weights = torch.arange(1.0, count + 1, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: function(x[None])[0] @ weights, point)
    return jacobian, hessian


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs in C and in NumPy."""
    if request.param == "NumPy":
        monkeypatch.setattr(program, "compiled", None)
    elif program.compiled is None:
        pytest.skip("the part in C was not compiled")


def check(function: Function) -> None:
    graph, variables, outputs = traced(function)
    weighted = graph.total(graph.binary("mul", graph.constant(k + 1), node) for k, node in enumerate(outputs))
    second = jacobian(graph, gradient(graph, weighted, variables), variables)
    half = jacobian(graph, gradient(graph, weighted, variables), variables, lower=True)
    assert [row[: i + 1] for i, row in enumerate(half)] == [row[: i + 1] for i, row in enumerate(second)]
    rows = jacobian(graph, outputs, variables)
    groups = [outputs, [node for row in rows for node in row], [node for row in second for node in row]]
    values, first, hessian = Program(graph, variables, groups).run(POINTS)
    torch.testing.assert_close(torch.from_numpy(values), function(torch.from_numpy(POINTS)), rtol=1e-12, atol=1e-12)
    for k, point in enumerate(POINTS):
        expected = derivatives(function, torch.from_numpy(point))
        np.testing.assert_allclose(first[k].reshape(-1, 3), expected[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(hessian[k].reshape(3, 3), expected[1], rtol=1e-9, atol=1e-9)


@each
def test_operations_have_the_values_and_derivatives_of_torch(name: str) -> None:
    check(FUNCTIONS[name])


LEAVES = st.integers(0, 2).map(lambda i: lambda x: x[..., i]) | st.floats(0.5, 2.0).map(
    lambda c: lambda x: torch.full_like(x[..., 0], c)
)


def _grow(inner: st.SearchStrategy[Function]) -> st.SearchStrategy[Function]:
    one = st.sampled_from([torch.sin, torch.tanh, torch.atan, torch.square, torch.neg, lambda v: torch.exp(-v * v)])
    two = st.sampled_from([torch.add, torch.sub, torch.mul, lambda a, b: a / (2.0 + b * b), lambda a, b: a * a - b])
    return st.tuples(one, inner).map(lambda part: lambda x: part[0](part[1](x))) | st.tuples(two, inner, inner).map(
        lambda part: lambda x: part[0](part[1](x), part[2](x))
    )


@settings(max_examples=60, deadline=None)
@given(st.recursive(LEAVES, _grow, max_leaves=8))
def test_random_expressions_have_the_derivatives_of_torch(function: Function) -> None:
    check(lambda x: torch.stack((function(x), function(x) * x[..., 0]), -1))


def look(x: Tensor) -> Tensor:
    return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    "function",
    [
        look,
        lambda x: x * torch.rand(3, dtype=torch.float64),
        lambda x: torch.relu(x),
        lambda x: x.abs(),
        lambda x: x.clamp(-1.0, 1.0),
        lambda x: x[..., (x[0] > 0).nonzero()[:, 0]],
        lambda x: torch.linalg.norm(x, dim=-1, keepdim=True),
        lambda x: x.float().double(),
        lambda x: x.to(torch.complex128).real,
        lambda x: torch.cumsum(x, -1),
        lambda x: x.long().double(),
        lambda x: x.expand(1000, 1, 3).reshape(-1, 3) ** 2,
    ],
    ids=["branch", "random", "relu", "abs", "clamp", "mask", "norm", "single", "complex", "cumsum", "integer", "large"],
)
def test_what_expressions_cannot_is_refused(function: Function) -> None:
    with pytest.raises(Untraceable):
        traced(function)


def test_tracing_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    with pytest.raises(Untraceable):
        traced(lambda x: x + torch.randn_like(x))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_equal_expressions_are_stored_once() -> None:
    graph, _, outputs = traced(lambda x: torch.stack((x[..., 0] * x[..., 1], x[..., 1] * x[..., 0]), -1))
    assert outputs[0] == outputs[1]
    assert len(graph.needed(outputs)) == 3


def test_programs_refuse_inputs_that_are_missing() -> None:
    graph, variables, outputs = traced(lambda x: x * x)
    with pytest.raises(ValueError, match="depend on 2, which is no input"):
        Program(graph, variables[:2], [outputs])


# --------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize("reference", problems.all_references(), ids=lambda reference: reference.name)
def test_reference_problems_have_the_derivatives_of_autograd(reference: problems.Reference) -> None:
    problem = on_unit_time(reference.problem)
    stacked, plain = Stacked(problem), Stacked(problem)
    plain.__dict__.update(tape=None, end_tape=None)
    random = np.random.default_rng(1)
    G, v, m = stacked.groups, stacked.v, problem.m
    x = 1.0 + 0.2 * random.random((2, 3, G, v))
    u, p = 0.1 + 0.2 * random.random((2, 3, G, m)), random.standard_normal(x.shape)
    t = np.full((2, 3, G), 0.3 * sum(problem.horizon))
    e = 0 if problem.path_constraint is None else plain.values(t, x, u).c.shape[-1]
    y = random.standard_normal((*t.shape, e))
    if plain.kinked:
        assert stacked.tape is None
        return
    assert stacked.tape is not None
    assert stacked.end_tape is not None
    for got, expected in zip(stacked.values(t, x, u)[:3], plain.values(t, x, u)[:3], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)
    for got, expected in zip(stacked.expand(t, x, u, p, y), plain.expand(t, x, u, p, y), strict=True):
        np.testing.assert_allclose(
            got, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(expected).max(initial=0)))
        )
    k = plain.end_values(x[0, 0])[1].shape[-1]
    nu = random.standard_normal((G, k))
    for got, expected in zip(stacked.end(x[0, 0], nu), plain.end(x[0, 0], nu), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
    times = np.linspace(0.0, 0.1, 5)[:, None].repeat(G, 1) + 0.3 * sum(problem.horizon)
    steps = 0.1 + 0.2 * random.random((4, G, m))
    for got, expected in zip(
        stacked.simulated(times, x[0, 0], steps), plain.simulated(times, x[0, 0], steps), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 7, 70])
def test_simulations_in_c_and_in_numpy_agree(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pendulum with a rate that depends on time and one that is constant, in groups with times of their own."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack(
            (x[..., 1], u[..., 0] * torch.sin(t) - torch.sin(x[..., 0]), torch.full_like(x[..., 2], 2.0)), -1
        ),
        initial_state=torch.zeros(groups, 3, dtype=torch.float64),
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    random = np.random.default_rng(2)
    t = np.linspace(0.0, 1.0, 9)[:, None] * (1.0 + random.random(groups))
    x0, u = random.standard_normal((groups, 3)), random.standard_normal((8, groups, 1))
    stacked = Stacked(problem)
    x, slopes = stacked.simulated(t, x0, u)
    assert x.shape == (9, groups, 3)
    assert slopes.shape == (8, groups, 3)
    np.testing.assert_allclose(x[:, :, 2], x0[:, 2] + 2.0 * t, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(program, "compiled", None)
    for got, expected in zip((x, slopes), stacked.simulated(t, x0, u), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def regulator(dynamics: Any, **changes: Any) -> oc.OptimalControlProblem:
    options: dict[str, Any] = {
        "initial_state": torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        "horizon": (0.0, 1.0),
        "control_set": oc.Unconstrained(1),
    }
    return oc.OptimalControlProblem(dynamics, lambda t, x, u: (x * x + u * u).sum(-1), **{**options, **changes})


def test_functions_that_need_their_batch_are_not_traced() -> None:
    gain = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    problem = regulator(lambda t, x, u: gain * x + u)
    assert Stacked(problem).tape is None
    solution = oc.solve(problem, oc.Collocation())
    for row, factor in enumerate(gain.ravel().tolist()):
        alone = regulator(lambda t, x, u, factor=factor: factor * x + u, initial_state=[float(row + 1)])
        assert float(solution.cost[row]) == pytest.approx(float(oc.solve(alone, oc.Collocation()).cost), abs=1e-8)


def test_functions_that_branch_on_values_are_not_traced() -> None:
    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u if bool((x < 10.0).all()) else u + x

    assert Stacked(regulator(dynamics)).tape is None
    assert bool(oc.solve(regulator(dynamics), oc.Collocation()).success.all())


def test_functions_that_hide_what_they_do_are_found_out() -> None:
    """Through NumPy the result is a constant for the trace; other points tell."""
    problem = regulator(lambda t, x, u: u + torch.from_numpy(np.sin(x.detach().numpy())))
    assert Stacked(problem).tape is None


def test_tapes_of_the_same_functions_are_remembered_unless_these_change() -> None:
    factor = [1.0]

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u - factor[0] * x

    def cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (u * u).sum(-1)

    def build(start: float) -> Stacked:
        return Stacked(
            oc.OptimalControlProblem(
                dynamics, cost, initial_state=[start], horizon=(0.0, 1.0), control_set=oc.Unconstrained(1)
            )
        )

    first = build(1.0).tape
    assert first is not None
    assert build(2.0).tape is first
    factor[0] = 2.0
    changed = build(2.0).tape
    assert changed is not first
    assert changed is not None
    np.testing.assert_allclose(changed.rates.run(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)))[0], [[-1.0]])


def test_single_precision_is_not_traced() -> None:
    problem = regulator(lambda t, x, u: u - x, initial_state=torch.tensor([1.0]))
    assert Stacked(problem).tape is None


def test_tapes_and_autograd_give_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> oc.OptimalControlProblem:
        return regulator(
            lambda t, x, u: torch.sin(x) * torch.exp(-t)[..., None] + u, control_set=oc.Box(-0.5, math.inf)
        )

    solution = oc.solve(build(), oc.Collocation(), tolerance=1e-9)
    monkeypatch.setattr(Stacked, "tape", None)
    monkeypatch.setattr(Stacked, "end_tape", None)
    again = oc.solve(build(), oc.Collocation(), tolerance=1e-9)
    torch.testing.assert_close(solution.cost, again.cost, rtol=0.0, atol=1e-11)
    assert solution.stats.iterations == again.stats.iterations
