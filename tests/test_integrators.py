"""Contracts of integrators, on every implementation: order, tolerance, independent rows, gradients, failures."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from ocsolver.errors import InputError
from ocsolver.integrators import RK4, Euler, Heun, Integrator, SolveIVP, TorchDiffEq
from ocsolver.integrators._flat import FlatSystem
from ocsolver.integrators._rows import UnitField

N, B, D, M = 4, 5, 3, 2
T0 = 0.7

FIXED = [Euler(), Heun(), RK4()]
TORCHDIFFEQ = ["dopri5", "dopri8", "bosh3", "adaptive_heun"]
SCIPY = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]
STIFF = ["Radau", "BDF", "LSODA"]


def adaptive(method: str, rtol: float = 1e-6, **options: float) -> Integrator:
    kind = TorchDiffEq if method in TORCHDIFFEQ else SolveIVP
    return kind(method, rtol=rtol, atol=1e-2 * rtol, **options)


ADAPTIVE = [adaptive(method) for method in TORCHDIFFEQ + SCIPY]
EVERY = FIXED + ADAPTIVE
DIFFERENTIABLE = [integrator for integrator in EVERY if integrator.differentiable]


def name(integrator: object) -> str:
    return (
        f"{type(integrator).__name__}-{getattr(integrator, 'method', '')}"
        if dataclasses.is_dataclass(integrator)
        else ""
    )


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Manufactured:
    """z' = phi' - 0.2 (z^3 - phi^3) + sum(u) (flip(z) - flip(phi)): nonlinear, and z = phi(t) solves it."""

    def __init__(self, *shape: int) -> None:
        self.phase = 6.0 * double(*shape, D, seed=1)

    def exact(self, t: Tensor) -> Tensor:
        return 1.5 + torch.sin(2.0 * t[..., None] + self.phase)

    def __call__(self, t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        phi, slope = self.exact(t), 2.0 * torch.cos(2.0 * t[..., None] + self.phase)
        return slope - 0.2 * (z**3 - phi**3) + u.sum(-1, keepdim=True) * (z.flip(-1) - phi.flip(-1))


def arithmetic(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """A field of products and sums alone, which vectorization cannot change in the last bit."""
    return t[..., None] * z * z.flip(-1) - 0.5 * z + u[..., :1] * u[..., 1:]


def blow_up(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """z' = z^3: singular at t - t0 = 1 / (2 z0^2)."""
    return z**3


# --- what every integrator is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Euler, Heun, RK4, TorchDiffEq, SolveIVP])
def test_works_without_arguments_and_is_frozen(kind: type[Integrator]) -> None:
    integrator = kind()
    assert integrator == kind()
    assert hash(integrator) == hash(kind())
    assert isinstance(integrator.order, int)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        integrator.rtol = 1.0
    z = double(B, D)
    result = integrator.step(Manufactured(B), scalar(T0), scalar(0.1), z, double(1, M))
    assert result.shape == z.shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("integrator", EVERY, ids=name)
@pytest.mark.parametrize("G", [1, B])
def test_field_sees_all_rows_in_order(integrator: Integrator, G: int) -> None:
    u, problem = double(N, G, M), Manufactured(N, B)
    seen = []

    def field(t: Tensor, z: Tensor, given: Tensor) -> Tensor:
        seen.append(
            (z.shape[-3:], torch.equal(given, u), torch.broadcast_shapes(t.shape, z.shape[:-1]) == z.shape[:-1])
        )
        return problem(t, z, given)

    t = scalar(T0) + 0.1 * torch.arange(N).double()[:, None]
    result = integrator.step(field, t, torch.full_like(t, 0.1), problem.exact(t), u)
    assert result.shape == (N, B, D)
    assert all(entry == (torch.Size((N, B, D)), True, True) for entry in seen)


# --- accuracy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", FIXED, ids=name)
@pytest.mark.parametrize("G", [1, B])
def test_observed_order_is_the_claimed_order(integrator: Integrator, G: int) -> None:
    problem, u, horizon = Manufactured(B), double(G, M), 1.3
    counts, errors = [40, 80, 160, 320], []
    for count in counts:
        h, z = scalar(horizon / count), problem.exact(scalar(T0))
        for k in range(count):
            z = integrator.step(problem, T0 + k * h, h, z, u)
        errors.append(float((z - problem.exact(scalar(T0 + horizon))).abs().max()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(integrator.order, abs=0.15)


@pytest.mark.parametrize("method", TORCHDIFFEQ + SCIPY)
def test_adaptive_method_reaches_its_tolerance(method: str) -> None:
    problem, u, h = Manufactured(B), double(1, M), scalar(1.3)
    exact, errors = problem.exact(scalar(T0) + h), []
    rtols = [1e-3, 1e-5] if method in ("bosh3", "adaptive_heun", "RK23") else [1e-4, 1e-6, 1e-8]
    for rtol in rtols:
        result = adaptive(method, rtol).step(problem, scalar(T0), h, problem.exact(scalar(T0)), u)
        errors.append(float((result - exact).abs().max()))
        # A local error per step: some tens of steps; BDF's estimate is the loosest.
        assert errors[-1] < 50 * rtol * float(exact.max())
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("integrator", FIXED, ids=name)
def test_negative_step_inverts_a_step_to_the_order(integrator: Integrator) -> None:
    problem, u = Manufactured(B), double(1, M)
    z, errors = problem.exact(scalar(T0)), []
    for h in (0.02, 0.01):
        there = integrator.step(problem, scalar(T0), scalar(h), z, u)
        back = integrator.step(problem, scalar(T0 + h), scalar(-h), there, u)
        errors.append(float((back - z).abs().max()))
    assert math.log2(errors[0] / errors[1]) > integrator.order + 0.7


@pytest.mark.parametrize("integrator", ADAPTIVE, ids=name)
def test_negative_step_inverts_a_step_to_the_tolerance(integrator: Integrator) -> None:
    problem, u, z = Manufactured(B), double(1, M), Manufactured(B).exact(scalar(T0))
    there = integrator.step(problem, scalar(T0), scalar(0.2), z, u)
    back = integrator.step(problem, scalar(T0 + 0.2), scalar(-0.2), there, u)
    assert float((back - z).abs().max()) < 1e-4
    assert float((integrator.step(problem, scalar(T0), scalar(0.0), z, u) - z).abs().max()) < 1e-13


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_batch_of_intervals_equals_one_by_one(integrator: Integrator) -> None:
    t = T0 + torch.tensor([0.0, 0.1, 0.35, 0.4], dtype=torch.float64)[:, None]  # (N, 1)
    h = torch.tensor([0.1, 0.25, 0.05, -0.1], dtype=torch.float64)[:, None]
    z, u = double(N, B, D), double(N, 1, M)
    together = integrator.step(arithmetic, t, h, z, u)
    apart = torch.stack([integrator.step(arithmetic, t[k], h[k], z[k], u[k]) for k in range(N)])
    if integrator.adaptive:
        assert float((together - apart).abs().max()) < 2e-5
    else:
        assert torch.equal(together, apart)


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_adding_rows_changes_a_row_by_no_more_than_the_tolerance(integrator: Integrator) -> None:
    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return torch.cos(5.0 * t)[..., None] * z * (2.0 - z.flip(-1)) + u

    z, others, u = double(1, D), 3.0 * double(100, D, seed=2), double(1, 1)
    alone = integrator.step(field, scalar(T0), scalar(0.8), z, u)
    crowd = integrator.step(field, scalar(T0), scalar(0.8), torch.cat([others, z]), u)[-1:]
    assert float((alone - crowd).abs().max()) < (1e-5 * float(alone.max()) if integrator.adaptive else 1e-13)


@pytest.mark.parametrize("method", TORCHDIFFEQ + SCIPY)
def test_one_difficult_row_among_many_is_as_accurate_as_alone(method: str) -> None:
    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return u * torch.stack([z[..., 1], -z[..., 0]], dim=-1)

    speed = torch.zeros(200, 1, dtype=torch.float64)
    speed[17] = 20.0  # the only row that moves: a mean over rows would dilute its error
    z = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(200, 1)
    rtol = 1e-4 if method in ("adaptive_heun", "bosh3", "RK23") else 1e-6
    result = adaptive(method, rtol).step(field, scalar(T0), scalar(1.0), z, speed)
    alone = adaptive(method, rtol).step(field, scalar(T0), scalar(1.0), z[:1], speed[17:18])
    exact = torch.tensor([math.cos(20.0), -math.sin(20.0)], dtype=torch.float64)
    assert float((result[17] - exact).abs().max()) < 3 * float((alone[0] - exact).abs().max()) + rtol
    assert torch.equal(result[18:], z[18:])


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_same_inputs_give_the_same_bits(integrator: Integrator) -> None:
    problem, u = Manufactured(B), double(1, M)
    results = [integrator.step(problem, scalar(T0), scalar(0.4), problem.exact(scalar(T0)), u) for _ in range(2)]
    assert torch.equal(*results)


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_dtype_is_kept(integrator: Integrator) -> None:
    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        assert t.dtype == z.dtype == u.dtype == torch.float32
        return -z + u

    z, u = torch.ones(B, D), torch.zeros(1, 1)
    result = integrator.step(field, torch.tensor(T0), torch.tensor(0.1), z, u)
    assert result.dtype == torch.float32
    assert float((result - math.exp(-0.1)).abs().max()) < (3e-5 if integrator.adaptive else 0.1**integrator.order)


# --- values inside the interval ----------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_dense_values(integrator: Integrator) -> None:
    problem, u, fractions = Manufactured(B), double(1, M), [0.0, 0.3, 0.35, 1.0]
    t, h = scalar(T0), scalar(0.1)
    z = problem.exact(t)
    values = integrator.dense(problem, t, h, z, u, fractions)
    exact = torch.stack([problem.exact(t + c * h) for c in fractions])
    assert values.shape == (4, B, D)
    assert torch.equal(values[0], z)
    assert float((values - exact).abs().max()) < (5e-5 if integrator.adaptive else 2.0 * 0.2 ** (integrator.order + 1))
    step = integrator.step(problem, t, h, z, u)
    assert torch.equal(integrator.dense(problem, t, h, z, u, [1.0])[0], step)
    assert float((values[-1] - step).abs().max()) < (5e-5 if integrator.adaptive else 0.2 ** (integrator.order + 1))
    assert torch.equal(integrator.dense(problem, t, h, z, u, [0.0]), z[None])


@pytest.mark.parametrize("fractions", [[], [0.5, 0.5], [0.5, 0.2], [-0.1, 1.0], [0.5, 1.1], [math.nan]])
@pytest.mark.parametrize("integrator", [RK4(), TorchDiffEq(), SolveIVP()], ids=name)
def test_bad_fractions_are_refused(integrator: Integrator, fractions: list[float]) -> None:
    with pytest.raises(InputError, match=r"fractions: expected increasing numbers in \[0, 1\], got \["):
        integrator.dense(arithmetic, scalar(0.0), scalar(1.0), double(B, D), double(1, M), fractions)


# --- rows that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TORCHDIFFEQ + SCIPY)
@pytest.mark.parametrize("axes", [1, 2])
def test_row_that_blows_up_is_nan_and_leaves_the_others(method: str, axes: int) -> None:
    rtol = {"adaptive_heun": 1e-3, "bosh3": 1e-4, "RK23": 1e-4}.get(method, 1e-6)
    integrator = adaptive(method, rtol)
    z = torch.tensor([[0.3, 0.1], [2.0, 0.2], [0.5, 0.5], [-0.2, -3.0], [0.4, 0.0]], dtype=torch.float64)
    if axes == 2:
        z = torch.stack([z, z.flip(0), 0.1 * z])
    failing = (z.abs() > 1).any(-1)
    result = integrator.step(blow_up, scalar(T0), scalar(1.0), z, torch.zeros(1, 1).double())
    alone = integrator.step(blow_up, scalar(T0), scalar(1.0), z[~failing], torch.zeros(1, 1).double())
    assert torch.isnan(result[failing]).all()
    assert float((result[~failing] - alone).abs().max()) < 10 * rtol
    exact = z[~failing] / (1 - 2 * z[~failing] ** 2).sqrt()
    assert float((result[~failing] - exact).abs().max()) < 50 * rtol


@pytest.mark.parametrize("integrator", [adaptive(method, 1e-4) for method in TORCHDIFFEQ + SCIPY], ids=name)
def test_all_rows_blow_up(integrator: Integrator) -> None:
    z = torch.full((B, 2), 3.0, dtype=torch.float64)
    start = time.perf_counter()
    values = integrator.dense(blow_up, scalar(T0), scalar(1.0), z, torch.zeros(1, 1).double(), [0.5, 1.0])
    assert values.shape == (2, B, 2)
    assert torch.isnan(values).all()
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("integrator", EVERY, ids=name)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_field_that_is_not_finite_on_one_row(integrator: Integrator, bad: float) -> None:
    poison = torch.zeros(B, 1, dtype=torch.float64)
    poison[2] = bad
    z = double(B, D)
    result = integrator.step(lambda t, z, u: poison - z, scalar(T0), scalar(0.3), z, double(1, M))
    clean = integrator.step(lambda t, z, u: -z, scalar(T0), scalar(0.3), z, double(1, M))
    assert not torch.isfinite(result[2]).any()
    good = [0, 1, 3, 4]
    assert float((result[good] - clean[good]).abs().max()) < 1e-5


@pytest.mark.parametrize("integrator", EVERY, ids=name)
def test_row_that_leaves_the_domain_of_the_field(integrator: Integrator) -> None:
    """z' = -1 + sqrt(z) 0: the square root makes NaN of the row that reaches zero."""
    z = torch.tensor([[2.0], [0.3], [1.5]], dtype=torch.float64)
    result = z
    for k in range(10):
        result = integrator.step(
            lambda t, z, u: -1.0 + 0.0 * z.sqrt(), scalar(T0 + 0.1 * k), scalar(0.1), result, torch.zeros(1, 1).double()
        )
    assert torch.isnan(result[1]).all()
    assert float((result - z + 1.0)[[0, 2]].abs().max()) < 1e-5


@pytest.mark.parametrize("integrator", EVERY, ids=name)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_initial_value_that_is_not_finite(integrator: Integrator, bad: float) -> None:
    z = double(B, D)
    z[3, 1] = bad
    result = integrator.step(arithmetic, scalar(T0), scalar(0.1), z, double(1, M))
    assert not torch.isfinite(result[3, 1])
    assert torch.isfinite(result[[0, 1, 2, 4]]).all()


@pytest.mark.parametrize(
    "integrator",
    [
        TorchDiffEq("dopri5", max_steps=60),
        SolveIVP("DOP853", max_evaluations=900),
        SolveIVP("RK45", max_evaluations=900),
    ],
    ids=name,
)
def test_rows_too_stiff_for_the_budget_are_given_up(integrator: Integrator) -> None:
    rates = torch.tensor([[1.0], [1e6], [2.0], [1e6], [0.5]], dtype=torch.float64)
    z = torch.ones(B, 2, dtype=torch.float64)
    result = integrator.step(lambda t, z, u: -u * z, scalar(T0), scalar(1.0), z, rates)
    assert torch.isnan(result[[1, 3]]).all()
    good = [0, 2, 4]
    assert float((result[good] - torch.exp(-rates[good])).abs().max()) < 1e-6


def test_rows_that_only_serve_together_are_given_up_at_once() -> None:
    rates = torch.tensor([[1.0], [1e6], [2.0], [1e5], [0.5]], dtype=torch.float64)
    z, calls = torch.ones(B, 2, dtype=torch.float64), []

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        calls.append(None)
        return -u * z

    together = TorchDiffEq("dopri5", max_steps=60, all_or_none=True)
    assert torch.isnan(together.step(field, scalar(T0), scalar(1.0), z, rates)).all()
    assert len(calls) < 70 * 6  # one attempt: six stages a step
    healthy = together.step(field, scalar(T0), scalar(1.0), z[:1], rates[:1])
    assert float((healthy - torch.exp(-rates[:1])).abs().max()) < 1e-6


@pytest.mark.parametrize("integrator", EVERY, ids=name)
@pytest.mark.parametrize(
    "error",
    [KeyError("mine"), AssertionError("underflow in dt 0.0"), RuntimeError("singular"), UserWarning("lsoda: mine")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("call", [1, 3])
def test_exception_of_the_user_passes_unchanged(integrator: Integrator, error: Exception, call: int) -> None:
    calls = []

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) >= call:
            raise error
        return -z

    def three_steps() -> None:
        for k in range(3):
            integrator.step(field, scalar(T0 + k), scalar(1.0), double(B, D), double(1, M))

    with pytest.raises(type(error)) as caught:
        three_steps()
    assert caught.value is error
    assert len(calls) == call


# --- gradients ---------------------------------------------------------------------------------------------------


def precise(integrator: Integrator) -> Integrator:
    if not isinstance(integrator, TorchDiffEq):
        return integrator
    return dataclasses.replace(integrator, rtol=1e-5 if integrator.order < 5 else 1e-11, atol=1e-11)


@pytest.mark.parametrize("integrator", FIXED, ids=name)
@pytest.mark.parametrize("G", [1, 2])
def test_gradients_of_fixed_methods(integrator: Integrator, G: int) -> None:
    t, h = scalar(T0), scalar(0.2)

    def step(z: Tensor, u: Tensor) -> Tensor:
        return integrator.step(arithmetic, t, h, z, u)

    inputs = (double(2, D).requires_grad_(), double(G, M, seed=3).requires_grad_())
    assert torch.autograd.gradcheck(step, inputs)
    assert torch.autograd.gradgradcheck(step, inputs)


@pytest.mark.parametrize("integrator", [TorchDiffEq(method) for method in TORCHDIFFEQ], ids=name)
@pytest.mark.parametrize("G", [1, B])
def test_gradients_of_adaptive_methods(integrator: Integrator, G: int) -> None:
    """First and second directional derivatives against those of many small steps of RK4."""
    problem, z, u = Manufactured(B), double(B, D), double(G, M, seed=3)
    dz, du = double(B, D, seed=4) - 0.5, double(G, M, seed=5) - 0.5
    tolerance = 1e-3 if integrator.order < 5 else 1e-6

    def derivatives(method: Integrator, pieces: int) -> list[Tensor]:
        a, b = z.clone().requires_grad_(), u.clone().requires_grad_()
        h, value = scalar(0.6 / pieces), a
        for k in range(pieces):
            value = method.step(problem, T0 + k * h, h, value, b)
        first = torch.autograd.grad(value.square().sum(), (a, b), create_graph=True)
        second = torch.autograd.grad((first[0] * dz).sum() + (first[1] * du).sum(), (a, b))
        return [*first, *second]

    for value, reference in zip(derivatives(precise(integrator), 1), derivatives(RK4(), 60), strict=True):
        assert (value - reference).abs().max() < tolerance * reference.abs().max()


@pytest.mark.parametrize("integrator", DIFFERENTIABLE, ids=name)
def test_gradient_against_central_differences(integrator: Integrator) -> None:
    problem, z, u = Manufactured(B), double(B, D).requires_grad_(), double(1, M, seed=3).requires_grad_()
    dz, du, epsilon = double(B, D, seed=4) - 0.5, double(1, M, seed=5) - 0.5, 1e-4
    method = precise(integrator)

    def value(z: Tensor, u: Tensor) -> Tensor:
        return method.step(problem, scalar(T0), scalar(0.3), z, u).square().sum()

    gradient = torch.autograd.grad(value(z, u), (z, u))
    slope = float((gradient[0] * dz).sum() + (gradient[1] * du).sum())
    with torch.no_grad():
        quotient = (value(z + epsilon * dz, u + epsilon * du) - value(z - epsilon * dz, u - epsilon * du)) / 2e-4
    # Where the steps themselves change, differences see the change of the local error: rtol / epsilon.
    rough = integrator.adaptive and integrator.order < 5
    assert float(quotient) == pytest.approx(slope, rel=1e-2 if rough else 1e-5)


@pytest.mark.parametrize("integrator", DIFFERENTIABLE, ids=name)
def test_rows_are_independent_in_gradients(integrator: Integrator) -> None:
    z = double(B, D).requires_grad_()
    result = integrator.step(arithmetic, scalar(T0), scalar(0.4), z, double(1, M))
    (gradient,) = torch.autograd.grad(result[2].sum(), z)
    assert torch.count_nonzero(gradient[[0, 1, 3, 4]]) == 0
    assert torch.count_nonzero(gradient[2]) == D


@pytest.mark.parametrize("method", TORCHDIFFEQ[:-1])
def test_failed_row_leaves_no_trace_in_the_gradients(method: str) -> None:
    z = torch.tensor([[0.3], [2.0], [0.5]], dtype=torch.float64).requires_grad_()
    u = torch.ones(1, 1, dtype=torch.float64).requires_grad_()
    result = adaptive(method, 1e-5).step(lambda t, z, u: u * z**3, scalar(T0), scalar(1.0), z, u)
    gradient = torch.autograd.grad(result[[0, 2]].sum(), (z, u))
    assert gradient[0][1] == 0
    good = z.detach()[[0, 2]]
    assert float((gradient[0][[0, 2]] - (1 - 2 * good**2) ** -1.5).abs().max()) < 1e-3
    assert float(gradient[1]) == pytest.approx(float((good**3 * (1 - 2 * good**2) ** -1.5).sum()), rel=1e-3)


@pytest.mark.parametrize("method", SCIPY)
def test_result_of_scipy_is_detached(method: str) -> None:
    z, u = double(B, D).requires_grad_(), double(1, M).requires_grad_()
    assert not SolveIVP(method).differentiable
    assert not SolveIVP(method).step(arithmetic, scalar(T0), scalar(0.1), z, u).requires_grad


# --- stiff problems ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", STIFF)
@pytest.mark.parametrize("rows", [1, 4])
def test_stiff_linear_problem_uses_the_jacobian(method: str, rows: int) -> None:
    evaluations, jacobians = [], []

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        (jacobians if z.requires_grad else evaluations).append(z.shape)
        return -u * (z - torch.cos(t)[..., None]) - torch.sin(t)[..., None]

    u = 1e4 * torch.ones(rows, 1, dtype=torch.float64)
    result = SolveIVP(method, rtol=1e-6, atol=1e-8).step(
        field, scalar(T0), scalar(2.0), torch.full((rows, D), math.cos(T0)).double() + 0.5, u
    )
    assert float((result - math.cos(T0 + 2.0)).abs().max()) < 1e-5
    assert 0 < len(jacobians) < 60
    assert set(jacobians) == {torch.Size((D, rows, D))}
    assert len(evaluations) < 1500


@pytest.mark.parametrize("method", STIFF)
@pytest.mark.parametrize("rows", [1, 3])
def test_van_der_pol(method: str, rows: int) -> None:
    """Hairer & Wanner II, (IV.1.5'), with mu = 1000: the slow manifold x' = x / (mu (1 - x^2))."""
    evaluations, jacobians = [], []

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        (jacobians if z.requires_grad else evaluations).append(None)
        x, v = z.unbind(-1)
        return torch.stack([v, 1000.0 * (1 - x * x) * v - x], dim=-1)

    z = torch.tensor([2.0, 0.0], dtype=torch.float64) + 0.1 * torch.arange(rows).double()[:, None]
    u = torch.zeros(1, 1).double()
    result = SolveIVP(method, rtol=1e-8, atol=1e-10).step(field, scalar(T0), scalar(500.0), z, u)
    reference = SolveIVP("Radau", rtol=1e-11, atol=1e-13).step(field, scalar(T0), scalar(500.0), z, u)
    assert float((result - reference).abs().max()) < 1e-5
    assert jacobians
    x, v = result.unbind(-1)
    assert float((v * 1000.0 * (1 - x * x) / x - 1).abs().max()) < 1e-4


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("form", ["attached", "detached", "constant", "weights"])
def test_jacobian_in_every_form(rows: int, form: str) -> None:
    matrices = double(rows, D, D)
    weights = matrices.clone().requires_grad_() if form == "weights" else matrices

    def field(t: Tensor, z: Tensor, u: Tensor) -> Tensor:
        z = z.detach() if form in ("detached", "weights") else torch.ones_like(z) if form == "constant" else z
        return torch.einsum("bij,...bj->...bi", weights, z.sin())

    z, h = double(rows, D, seed=6), 0.3
    exact = torch.zeros(rows, D, rows, D, dtype=torch.float64)
    for row in range(rows):
        exact[row, :, row] = h * matrices[row] * z[row].cos() * (form != "constant")
    exact = exact.reshape(rows * D, rows * D).numpy()
    system = FlatSystem(
        UnitField(field, scalar(T0), scalar(h), torch.zeros(1, 1).double(), None), z, 100, explicit=False
    )
    y = z.reshape(-1).numpy()
    np.testing.assert_allclose(system.sparse_jacobian(0.5, y).toarray(), exact, atol=1e-7)
    packed = system.banded_jacobian(0.5, y)
    assert packed.shape == (2 * D - 1, rows * D)
    for i in range(rows * D):
        for j in range(max(0, i - D + 1), min(rows * D, i + D)):
            assert packed[D - 1 + i - j, j] == pytest.approx(exact[i, j], abs=1e-7)
    if rows == 1:
        np.testing.assert_allclose(system.dense_jacobian(0.5, y), exact, atol=1e-7)


# --- the caller's mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "methods"), [(TorchDiffEq, TORCHDIFFEQ), (SolveIVP, SCIPY)])
def test_unknown_method_names_the_valid_ones(kind: type, methods: list[str]) -> None:
    with pytest.raises(InputError, match="method: expected one of") as caught:
        kind("rk45")
    assert all(method in str(caught.value) for method in methods)
    assert "got 'rk45'" in str(caught.value)


@pytest.mark.parametrize("kind", [TorchDiffEq, SolveIVP])
@pytest.mark.parametrize("argument", ["rtol", "atol"])
@pytest.mark.parametrize("value", [0.0, -1e-6, math.inf, math.nan, "1e-6", True])
def test_bad_tolerance_is_refused(kind: type, argument: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{argument}: expected a positive finite number, got "):
        kind(**{argument: value})


@pytest.mark.parametrize("make", [lambda: TorchDiffEq(max_steps=0), lambda: SolveIVP(max_evaluations=0)])
def test_bad_budget_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="max_"):
        make()
