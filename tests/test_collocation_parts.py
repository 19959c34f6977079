"""The parts of collocation, each against a formula or a naive re-implementation; they solve no control problem."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONTROLS, STATES, B, nonlinear_problem, solve_quietly
from scipy.interpolate import pade
from scipy.optimize import minimize_scalar
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation import compiled as measures
from ocsolver.collocation import damping, descent, elastic, errors, fine, kkt, warm
from ocsolver.collocation.barrier import Barrier, longest
from ocsolver.collocation.camp import Camp
from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.compiled import CompiledSystem
from ocsolver.collocation.dense import control_basis, limited, state_basis, state_slope, with_ends
from ocsolver.collocation.kinks import Rounded, Watch
from ocsolver.collocation.kkt import Direction, Ends, Linearized, directions
from ocsolver.collocation.points import Stacked, preference
from ocsolver.collocation.stop import Stop
from ocsolver.collocation.system import System as CollocationSystem
from ocsolver.collocation.tableau import Tableau, gauss, radau
from ocsolver.collocation.unknowns import Bounds, Mesh, Model, Point, Residual, Step
from ocsolver.collocation.verdict import Ending, worst_violation
from ocsolver.solvers.collocated import limits_of
from ocsolver.violations import measure_violations

Array = np.ndarray[Any, np.dtype[Any]]

every_stage = pytest.mark.parametrize("s", [1, 2, 3, 4, 5])


# -------------------------------------------------------------------------------------------------------- tableau


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As in a run: zeros, infinities and their quotients are meant."""
    with np.errstate(all="ignore"):
        yield


@every_stage
def test_gauss_meets_its_order_conditions(s: int) -> None:
    tableau = gauss(s)
    b, c, a = tableau.b, tableau.c, np.linalg.inv(tableau.alpha)
    assert tableau.s == s
    assert ((c > 0) & (c < 1)).all()
    for k in range(1, 2 * s + 1):  # B(2s): quadrature
        assert b @ c ** (k - 1) == pytest.approx(1.0 / k, abs=1e-14)
    assert abs(b @ c ** (2 * s) - 1.0 / (2 * s + 1)) > 1e-8  # and no more
    for k in range(1, s + 1):  # C(s) and D(s): stages
        np.testing.assert_allclose(a @ c ** (k - 1), c**k / k, atol=1e-12)
        np.testing.assert_allclose((b * c ** (k - 1)) @ a, b * (1.0 - c**k) / k, atol=1e-12)


@every_stage
def test_derivative_form_takes_the_step_of_the_method(s: int) -> None:
    """On ẋ = z x a step multiplies by the diagonal Padé approximation of exp z."""
    tableau, z = gauss(s), -1.3
    stages = np.linalg.solve(tableau.alpha - z * np.eye(s), tableau.row)
    end = (1.0 - tableau.d.sum()) + tableau.d @ stages
    p, q = pade([1.0 / math.factorial(k) for k in range(2 * s + 1)], s)
    assert end == pytest.approx(p(z) / q(z), rel=1e-10)
    np.testing.assert_allclose(tableau.row, tableau.alpha.sum(1), atol=1e-12)


@every_stage
def test_costates_are_stepped_by_the_same_method_backwards(s: int) -> None:
    """Hager's transformed adjoint of a Gauss method is that method: X_i = x⁺ − h Σ (b_j − a_ij) f_j."""
    tableau = gauss(s)
    b, a = tableau.b, np.linalg.inv(tableau.alpha)
    np.testing.assert_allclose(tableau.adjoint, b * tableau.alpha.T / b[:, None], atol=1e-12)
    np.testing.assert_allclose(np.linalg.inv(tableau.adjoint), b - a, atol=1e-12)
    np.testing.assert_allclose(tableau.d / tableau.b, tableau.adjoint.sum(1), rtol=1e-10)


@every_stage
def test_radau_meets_its_order_conditions(s: int) -> None:
    tableau = radau(s)
    b, c, a = tableau.b, tableau.c, np.linalg.inv(tableau.alpha)
    assert tableau.closed
    assert not gauss(s).closed
    assert c[-1] == 1.0
    assert ((c[:-1] > 0) & (c[:-1] < 1)).all()
    for k in range(1, 2 * s):  # B(2s − 1): quadrature
        assert b @ c ** (k - 1) == pytest.approx(1.0 / k, abs=1e-13)
    assert abs(b @ c ** (2 * s - 1) - 1.0 / (2 * s)) > 1e-8  # and no more
    for k in range(1, s + 1):  # C(s)
        np.testing.assert_allclose(a @ c ** (k - 1), c**k / k, atol=1e-12)
    for k in range(1, s):  # D(s − 1)
        np.testing.assert_allclose((b * c ** (k - 1)) @ a, b * (1.0 - c**k) / k, atol=1e-12)
    np.testing.assert_allclose(tableau.d, np.eye(s)[-1], atol=1e-12)  # the step ends at the last point


@every_stage
def test_radau_damps_what_gauss_reflects(s: int) -> None:
    """On ẋ = z x with z → −∞ Radau's steps go to zero, those of Gauss to ±1."""
    for tableau, limit in ((gauss(s), (-1.0) ** s), (radau(s), 0.0)):
        stages = np.linalg.solve(tableau.alpha + 1e9 * np.eye(s), tableau.row)
        assert (1.0 - tableau.d.sum()) + tableau.d @ stages == pytest.approx(limit, abs=1e-6)


# ---------------------------------------------------------------------------------------------------- polynomials


@pytest.mark.parametrize("method", [gauss, radau])
@every_stage
def test_bases_reproduce_polynomials_up_to_their_degree(method: Callable[[int], Tableau], s: int) -> None:
    tableau, sigma = method(s), np.array([0.0, 0.07, 0.31, 0.5, 0.93, 1.0])
    basis, whole, slopes = (function(tableau, sigma) for function in (control_basis, state_basis, state_slope))
    c = tableau.c
    nodes = np.array([0.0, 1.0])
    for degree in range(s):
        np.testing.assert_allclose(basis @ c**degree, sigma**degree, atol=1e-11)
    for degree in range(whole.shape[1]):
        values = (nodes**degree)[:, None, None], (c**degree)[None, :, None, None]
        points = with_ends(tableau, *values)[0, :, 0, 0]
        np.testing.assert_allclose(whole @ points, sigma**degree, atol=1e-11)
        np.testing.assert_allclose(slopes @ points, degree * sigma ** max(degree - 1, 0), atol=1e-9)
    assert basis.shape == (6, s)
    assert whole.shape == slopes.shape == (6, s + 2 - tableau.closed)


@pytest.mark.parametrize("method", [gauss, radau])
@pytest.mark.parametrize("s", [2, 3, 4])
def test_controls_that_jump_keep_their_integral_and_their_bounds(method: Callable[[int], Tableau], s: int) -> None:
    tableau, looks = method(s), np.linspace(0.0, 1.0, 401)
    generator = np.random.default_rng(s)
    lower, upper = np.array([-1.0, 0.0, -np.inf]), np.array([1.0, 0.2, 0.5])
    u = np.clip(generator.normal(size=(30, s, 2, 3)), lower, upper)
    result = limited(tableau, u, lower, upper)
    for values, mean in ((u, False), (result, True)):
        curves = np.einsum("qs,nsgm->nqgm", control_basis(tableau, looks), values)[..., :2]
        outside = np.maximum(lower[:2] - curves, curves - upper[:2]).max((1, 2))
        assert (outside.max(0) < 1e-2).all() == mean  # they were outside before
    np.testing.assert_allclose(np.einsum("s,nsgm->ngm", tableau.b, result - u), 0.0, atol=1e-14)
    assert np.array_equal(result[..., 2], u[..., 2])  # one bound: no jump from bound to bound


def test_controls_that_reach_a_bound_smoothly_are_left_alone() -> None:
    """What leaves the bound is cut off, which is nearer to the truth there."""
    mesh = Mesh(np.linspace(0.0, 1.0, 41)[:, None], gauss(3))
    u = np.minimum(2.0 * mesh.points, 1.0)[..., None]
    assert limited(gauss(3), u, np.array([0.0]), np.array([1.0])) is u


def test_swinging_costates_are_noticed() -> None:
    """Node values that alternate around the values between them; errors of one sign, or few of them, are none."""
    N, s = 20, 3
    mesh = Mesh(np.linspace(0.0, 1.0, N + 1)[:, None].repeat(4, 1), gauss(s))
    smooth = np.sin(mesh.points)[..., None]
    nodes = np.sin(mesh.t)[..., None]
    swings = 1e-3 * (-1.0) ** np.arange(N + 1)
    nodes[:, 1, 0] += swings
    nodes[:, 2, 0] += np.abs(swings)
    nodes[:6, 3, 0] += swings[:6]
    empty = np.zeros((N, s, 4, 0))
    none = Barrier.start(-math.inf, math.inf, empty.shape)
    ends = np.zeros((4, 0))
    point = Point(smooth, empty, smooth, nodes, nodes, empty, empty, ends, ends, none, none, none, none)
    assert damping.swinging(mesh, point).tolist() == [False, True, False, False]


# ------------------------------------------------------------------------------------------------------- verdicts


def ending(**changes: float | bool) -> Ending:
    """One group that has converged, but for some changes."""
    parts: dict[str, float | bool] = {
        "solved": True,
        "violation": 0.0,
        "cost": 1.0,
        "size": 1.0,
        "error": 1e-9,
        "residual": 1e-9,
        "between": 0.0,
    }
    return Ending(**{**parts, **changes})  # type: ignore[arg-type]


ALLOWED, HIDDEN = 1e-6, 1e-4  # violations that count as none, and that a barrier may hide


@pytest.mark.parametrize(
    ("changes", "violated", "status", "words"),
    [
        ({"violation": 1e-2}, "c is violated", oc.Status.INFEASIBLE, "c is violated"),
        ({"violation": 1e-5}, "c is violated", oc.Status.STALLED, "the iterations on a mesh ended early, c is"),
        ({"violation": 1e-5}, None, oc.Status.STALLED, "the iterations on a mesh ended early"),
        ({"violation": 1e-5, "solved": False}, None, oc.Status.STALLED, "the iterations on a mesh ended early"),
        ({"residual": 1e-3}, None, oc.Status.STALLED, "J is estimated to be within 1.0e-09 of its minimum"),
        (
            {"residual": 3e-8},
            None,
            oc.Status.STALLED,
            "J is estimated to be within 1.0e-09 of its minimum, and its resid",
        ),
        (
            {"residual": 3e-8, "solved": False},
            None,
            oc.Status.STALLED,
            "J is estimated to be within 1.0e-09 of its minimum",
        ),
        ({"error": math.inf}, None, oc.Status.STALLED, "H has no finite maximum along the solution"),
        ({"cost": math.nan}, None, oc.Status.NONFINITE, "no finite trajectory was found"),
        ({"violation": math.nan}, "c is no number", oc.Status.NONFINITE, "c is no number"),
    ],
)
def test_what_became_of_a_group(
    changes: dict[str, float | bool], violated: str | None, status: oc.Status, words: str
) -> None:
    """A solution of a coarse mesh, whose barrier hides small violations, is no proof that there is none."""
    group = ending(**changes)
    found, note = group.verdict(Stop(100, None, 1e-8, 0.0), 10, False, (ALLOWED, HIDDEN), lambda: violated)
    assert found is status
    assert note.startswith(words)
    assert not group.converged(1e-8, ALLOWED)


def test_what_has_converged() -> None:
    """All that is asked for, if anything is."""
    assert ending().converged(1e-8, ALLOWED)
    assert not ending().converged(None, ALLOWED)


def test_slacks_that_have_not_followed_are_no_violations() -> None:
    """Of an unfinished iterate the constraints count, not how far they are from their slacks."""
    c = np.array([[0.5], [2.0]])[:, :, None, None] * np.ones((2, 1, 1, 1))
    times = np.array([[0.25], [0.75]])
    bounds = {name: np.zeros(0) for name in ("control_lower", "control_upper", "end_lower", "end_upper")}
    bounds |= {"start_lower": np.zeros((1, 1)), "start_upper": np.zeros((1, 1))}
    none = np.zeros((1, 0))
    now = SimpleNamespace(values=SimpleNamespace(c=c), end=SimpleNamespace(c=none), path=c - 9.0, terminal=none)
    for upper, expected in ((3.0, None), (1.0, "path_constraint component 0 is violated by 1 at t = 0.75")):
        limits = Bounds(path_lower=np.zeros(1), path_upper=np.array([upper]), **bounds)
        assert worst_violation(now, limits, 0, times, 1, 0) == expected  # type: ignore[arg-type]
    c[1] = math.nan
    for of_the_set, name in ((0, "path_constraint component 0"), (1, "the control set")):
        found = worst_violation(now, limits, 0, times, 1, of_the_set)  # type: ignore[arg-type]
        assert found == f"{name} is no number at t = 0.75"


def test_barriers_of_nothing_leave_all_room() -> None:
    barrier = Barrier.start(np.zeros(0), np.ones(0), (4, 3, 1, 0))
    value = np.zeros((4, 3, 1, 0))
    assert longest(value, np.array([0.99])).tolist() == [1.0]
    assert barrier.room(value, value, np.array([0.99])).tolist() == [1.0]


# -------------------------------------------------------------------------------------------------- Newton systems


class System:
    """A random Newton system with N, s, G, v, m and the number e of terminal constraints all different."""

    def __init__(self, e: int, fixed_start: bool, seed: int = 0, s: int = 3) -> None:
        self.N, self.s, self.G, self.v, self.m, self.e = 6, s, 2, 4, 1, e
        random = np.random.default_rng(seed)
        N, s, G, v, m = self.N, self.s, self.G, self.v, self.m

        def normal(*shape: int) -> Array:
            return random.standard_normal(shape)

        def symmetric(*shape: int) -> Array:
            matrix = normal(*shape)
            return matrix + matrix.swapaxes(-1, -2) + 4.0 * np.eye(shape[-1])

        self.tableau = gauss(s)
        self.h = 0.05 + 0.2 * random.random((N, G))
        self.hessian = symmetric(N, s, G, v + m, v + m)
        self.rates = normal(N, s, G, v, v + m)
        self.right = (normal(N, s, G, v + m), normal(N, s, G, v))
        self.gaps = (normal(N, G, v), normal(N, G, v))
        self.ends = Ends(
            start_x=np.ones((G, v)) if fixed_start else random.random((G, v)),
            start_q=np.zeros((G, v)) if fixed_start else -np.ones((G, v)),
            start_right=normal(G, v),
            hessian=symmetric(G, v, v),
            jacobian=normal(G, e, v),
            slack=random.random((G, e)),
            end_right=normal(G, v),
            constraint_right=normal(G, e),
        )

    def solve(self) -> Direction | None:
        """The Newton step by whatever is active, the part in C or NumPy."""
        inside = Linearized(self.h, self.hessian, self.rates, *self.right, *self.gaps)
        return directions(np.ones(self.G, dtype=bool), self.tableau, inside, self.ends)

    def rows(self, d: Direction) -> Array:
        """Left-hand sides, one interval, point and group after the other, straight from the formulas."""
        tab, out = self.tableau, []
        v, rest = self.v, 1.0 - self.tableau.d.sum()
        for g in range(self.G):
            for k in range(self.N):
                h = self.h[k, g]
                ahead, back = rest * d.nodes[k, g], rest * d.costates[k + 1, g]
                for i in range(self.s):
                    W, rates = self.hessian[k, i, g], self.rates[k, i, g]
                    X, P = d.x[k, i, g], d.p[k, i, g]
                    Z = np.concatenate((X, d.u[k, i, g]))
                    adjoint = sum(tab.adjoint[i, j] * d.p[k, j, g] for j in range(self.s))
                    stage = sum(tab.alpha[i, j] * (d.x[k, j, g] - d.nodes[k, g]) for j in range(self.s))
                    pull = tab.d[i] / tab.b[i] * d.costates[k + 1, g]
                    costate = h * (W @ Z - rates.T @ P)
                    out += [costate[:v] + adjoint - pull, costate[v:], stage - h * rates @ Z]
                    ahead = ahead + tab.d[i] * X
                    back = back + tab.b[i] * tab.alpha[i].sum() * P
                out += [d.nodes[k + 1, g] - ahead, d.costates[k, g] - back]
            ends = self.ends
            out += [ends.start_x[g] * d.nodes[0, g] + ends.start_q[g] * d.costates[0, g]]
            nu = d.multipliers[g]
            out += [d.costates[-1, g] + ends.hessian[g] @ d.nodes[-1, g] + ends.jacobian[g].T @ nu]
            out += [ends.jacobian[g] @ d.nodes[-1, g] - ends.slack[g] * nu]
        return np.concatenate(out)

    def right_side(self) -> Array:
        out = []
        for g in range(self.G):
            for k in range(self.N):
                for i in range(self.s):
                    out += [part[k, i, g] for part in self.right]
                out += [part[k, g] for part in self.gaps]
            out += [self.ends.start_right[g], self.ends.end_right[g], self.ends.constraint_right[g]]
        return np.concatenate(out)

    def unflatten(self, flat: Array) -> Direction:
        N, s, G, v, m = self.N, self.s, self.G, self.v, self.m
        shapes = ((N, s, G, v), (N, s, G, m), (N, s, G, v), (N + 1, G, v), (N + 1, G, v), (G, self.e))
        cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return Direction(*(part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)))


@pytest.fixture(params=["C", "NumPy"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations of the solution of the Newton system."""
    if request.param == "NumPy":
        monkeypatch.setattr(kkt, "compiled", None)
    elif kkt.compiled is None:
        pytest.skip("the part in C was not compiled")


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("e", [0, 2, 5])
@pytest.mark.parametrize("fixed_start", [True, False])
def test_newton_direction_is_the_dense_solution(e: int, fixed_start: bool) -> None:
    system = System(e, fixed_start)
    assert_dense_solution(system)


def assert_dense_solution(system: System) -> None:
    """The direction solves the system as it stands in the formulas."""
    found = system.solve()
    assert found is not None
    right = system.right_side()
    matrix = np.stack([system.rows(system.unflatten(unit)) for unit in np.eye(right.size)], 1)
    dense = system.unflatten(np.linalg.solve(matrix, right))
    for got, expected in zip(found, dense, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-9 * max(1.0, np.abs(right).max()))


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("k", [0, 5])
def test_state_equations_of_an_interval_may_be_singular(k: int) -> None:
    """Growth at a pole of the method: α − h A cannot be inverted there, the whole system can."""
    system = System(2, True)
    poles = np.linalg.eigvals(system.tableau.alpha)
    pole = float(poles[np.abs(poles.imag) < 1e-12].real[0])
    system.rates[k, :, 0, :, :4] = np.diag([pole / system.h[k, 0], 0.0, 0.0, 0.0])
    assert_dense_solution(system)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("curvature", [-5.0, 0.0, 1e-9, 1e9])
def test_hessian_by_the_control_may_have_any_sign_and_size(curvature: float) -> None:
    system = System(2, False)
    system.hessian[1::2, :, :, 4, 4] = curvature
    assert_dense_solution(system)


@pytest.mark.usefixtures("_either_way")
@every_stage
def test_groups_that_are_not_active_or_no_numbers_rest(s: int) -> None:
    system = System(2, True, s=s)
    whole = system.solve()
    assert whole is not None
    for spoiled in (False, True):
        inside = Linearized(system.h, system.hessian, system.rates.copy(), *system.right, *system.gaps)
        if spoiled:
            inside.rates[3, -1, 1, 0, 0] = np.nan
        found = directions(np.array([True, spoiled]), system.tableau, inside, system.ends)
        assert found is not None
        for part, expected in zip(found, whole, strict=True):
            np.testing.assert_array_equal(part[..., 0, :], expected[..., 0, :])
            assert not part[..., 1, :].any()
    assert directions(np.array([False, True]), system.tableau, inside, system.ends) is None


@pytest.mark.usefixtures("_either_way")
def test_newton_direction_of_a_group_does_not_depend_on_the_others() -> None:
    system, other = System(2, True), System(2, True)
    other.hessian[:, :, 1] *= 3.0
    other.right[0][:, :, 1] += 1.0
    first, second = system.solve(), other.solve()
    assert first is not None
    assert second is not None
    assert np.array_equal(first.x[:, :, 0], second.x[:, :, 0])
    assert not np.allclose(first.x[:, :, 1], second.x[:, :, 1])


@pytest.mark.usefixtures("_either_way")
def test_singular_newton_systems_are_reported() -> None:
    system = System(2, True)
    system.hessian[:, :, :, 4:] = 0.0
    system.hessian[..., 4:] = 0.0
    system.rates[..., 4:] = 0.0  # the control has no effect and no cost
    assert system.solve() is None


# --------------------------------------------------------------------------------------------------------- barrier

LOWER, UPPER = np.array([-1.0, -np.inf, 0.5, -np.inf, 2.0]), np.array([3.0, 4.0, np.inf, np.inf, 2.5])
SHAPE = (3, 2, 5)  # points, groups, components


def barrier_at(seed: int = 0) -> tuple[Barrier, Array]:
    """A barrier with multipliers off the central path, and values inside."""
    random = np.random.default_rng(seed)
    barrier = Barrier.start(LOWER, UPPER, SHAPE)
    value = inside(barrier, random.standard_normal(SHAPE))
    centered = barrier.centered(value, np.full((2, 1), 0.1))
    return centered.held(centered.z * (0.5 + random.random((2, *SHAPE)))), value


def inside(barrier: Barrier, value: Array) -> Array:
    """`Barrier.inside`, which computes with infinite sides, too."""
    with np.errstate(invalid="ignore"):
        return barrier.inside(value)


def test_starts_are_moved_strictly_inside() -> None:
    barrier = Barrier.start(LOWER, UPPER, SHAPE)
    for shift in (-1e3, 0.0, 2.2, 1e3):
        value = inside(barrier, np.full(SHAPE, shift))
        assert ((value > LOWER) & (value < UPPER)).all()
    far = inside(barrier, np.full(SHAPE, -7.0))
    assert (far[..., 3] == -7.0).all()  # free components stay


def test_sides_that_are_infinite_have_no_multiplier() -> None:
    barrier, value = barrier_at()
    assert (barrier.low[..., [1, 3]] == 0.0).all()
    assert (barrier.high[..., [2, 3]] == 0.0).all()
    assert (barrier.curvature(value)[..., 3] == 0.0).all()
    assert (barrier.slope(value, np.ones((2, 1)))[..., 3] == 0.0).all()
    assert (barrier.logarithm(value)[..., 3] == 0.0).all()


def test_slope_and_curvature_are_derivatives_of_the_logarithm() -> None:
    barrier, value = barrier_at()
    mu, step = np.array([[0.1], [0.3]]), 1e-6
    rise = -mu * (barrier.logarithm(value + step) - barrier.logarithm(value - step)) / (2 * step)
    np.testing.assert_allclose(barrier.slope(value, mu), rise, rtol=1e-5, atol=1e-8)
    bend = (barrier.slope(value + step, mu) - barrier.slope(value - step, mu)) / (2 * step)
    centered = barrier.centered(value, mu)
    np.testing.assert_allclose(centered.curvature(value), bend, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(centered.complementarity(value, mu), 0.0, atol=1e-14)


def test_steps_of_multipliers_linearize_complementarity() -> None:
    barrier, value = barrier_at()
    mu, move = np.array([[0.02], [0.05]]), 0.01 * np.random.default_rng(1).standard_normal(SHAPE)
    low, high = barrier.step(value, move, mu)
    targets = np.broadcast_to(mu, SHAPE)
    for z, dz, slack, change in (
        (barrier.low, low, value - LOWER, move),
        (barrier.high, high, UPPER - value, -move),
    ):
        finite = np.isfinite(slack)
        linear = ((z + dz)[finite] * slack[finite]) + z[finite] * change[finite]
        np.testing.assert_allclose(linear, targets[finite], rtol=1e-12)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_steps_keep_their_share_of_every_slack_and_multiplier(size: float) -> None:
    barrier, value = barrier_at()
    share, mu = np.array([0.9, 0.99]), np.full((2, 1), 0.1)
    move = size * np.random.default_rng(2).standard_normal(SHAPE)
    alpha = barrier.room(value, move, share)
    assert alpha.shape == (2,)
    assert ((alpha > 0) & (alpha <= 1)).all()
    rest = (1.0 - share[:, None]) * (1 - 1e-12)
    for before, after in zip(barrier.slacks(value), barrier.slacks(value + alpha[:, None] * move), strict=True):
        finite, kept = np.isfinite(before), np.broadcast_to(rest, SHAPE)
        rounding = 1e-14 * (1.0 + np.abs(alpha[:, None] * move))[finite]
        assert (after[finite] >= kept[finite] * before[finite] - rounding).all()
    steps = barrier.step(value, move, mu)
    beta = barrier.dual_room(steps, share)
    for z, dz in zip((barrier.low, barrier.high), steps, strict=True):
        assert (np.where(z > 0, z + beta[:, None] * dz - rest * z, 0.0) >= 0.0).all()


def test_full_steps_are_taken_where_nothing_is_in_the_way() -> None:
    barrier, value = barrier_at()
    move = np.zeros(SHAPE)
    move[..., 3] = 1e6  # the free component
    assert (barrier.room(value, move, np.array([0.9, 0.99])) == 1.0).all()


def test_multipliers_stay_positive_and_near_the_central_path() -> None:
    barrier, value = barrier_at()
    mu = np.full((2, 1), 0.1)
    wild = (np.full(SHAPE, -1e30), np.full(SHAPE, 1e30))
    moved = barrier.moved(wild, np.ones((2, 1)), value, mu)
    below, above = barrier.slacks(value)
    finite = np.isfinite(below)
    low = moved.low[finite] * below[finite] / 0.1
    assert ((low > 0) & (low < 1)).all()
    finite = np.isfinite(above)
    high = moved.high[finite] * above[finite] / 0.1
    assert ((high > 1) & np.isfinite(high)).all()


# --------------------------------------------------------------------------------------------------------- elastic


@pytest.mark.parametrize("mu", [1.0, 1e-3, 1e-6])
def test_elastic_constraint_and_multiplier_determine_each_other(mu: float) -> None:
    rho = np.array(7.0)
    nu = np.linspace(-0.99, 0.99, 31) * rho
    c = elastic.gap(nu, rho, np.array(mu))
    np.testing.assert_allclose(elastic.multiplier(c, rho, np.array(mu)), nu, rtol=1e-9, atol=1e-12)
    assert (np.sign(c) == np.sign(nu)).all()
    step = 1e-5
    rise = (elastic.gap(nu + step, rho, np.array(mu)) - elastic.gap(nu - step, rho, np.array(mu))) / (2 * step)
    np.testing.assert_allclose(elastic.give(c, nu, rho, np.array(mu)), rise, rtol=1e-6)


@pytest.mark.parametrize("mu", [1.0, 1e-2])
def test_price_is_what_the_slacks_cost(mu: float) -> None:
    """The least ρ(a + b) − μ log(ab) over a − b = c, and its derivative is the multiplier."""
    rho = 3.0

    def least(c: float) -> float:
        """Over b = exp z, which is convex in z near its minimum."""
        shift = max(0.0, -c)
        result = minimize_scalar(
            lambda z: (
                rho * (c + 2.0 * (shift + math.exp(z)))
                - mu * (math.log(shift + math.exp(z)) + math.log(c + shift + math.exp(z)))
            ),
            bounds=(-25.0, 3.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return float(result.fun)

    price = lambda c: elastic.price(np.array(c), np.array(rho), np.array(mu))
    assert float(price(0.0)) == pytest.approx(0.0, abs=1e-15)
    for c in (-2.0, -0.3, -1e-3, 1e-3, 0.1, 1.7):
        assert float(price(c)) == pytest.approx(least(c) - least(0.0), abs=1e-6)
        slope = float(price(c + 1e-6) - price(c - 1e-6)) / 2e-6
        assert slope == pytest.approx(float(elastic.multiplier(np.array(c), np.array(rho), np.array(mu))), rel=1e-5)


def test_price_becomes_exact_and_multipliers_stay_below_it() -> None:
    c, rho = np.linspace(-2.0, 2.0, 9), np.array(5.0)
    np.testing.assert_allclose(elastic.price(c, rho, np.array(1e-9)), rho * np.abs(c), atol=1e-7)
    for mu in (1.0, 1e-12):
        assert (np.abs(elastic.multiplier(1e8 * c, rho, np.array(mu))) < rho).all()


# ----------------------------------------------------------------------------------------------------------- kinks

KINKS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float], float]] = {
    # function, what it is, and the largest error as a multiple of ε
    "torch.abs": (torch.abs, abs, 1.0),
    "Tensor.abs": (lambda z: z.abs(), abs, 1.0),
    "abs()": (abs, abs, 1.0),
    "relu": (torch.relu, lambda z: max(z, 0.0), 0.5),
    "functional.relu": (torch.nn.functional.relu, lambda z: max(z, 0.0), 0.5),
    "clamp": (lambda z: z.clamp(-0.4, 0.7), lambda z: min(max(z, -0.4), 0.7), 1.0),
    "clamp(min=)": (lambda z: torch.clamp(z, min=-0.4), lambda z: max(z, -0.4), 0.5),
    "clamp(max=)": (lambda z: torch.clamp(z, max=0.7), lambda z: min(z, 0.7), 0.5),
    "clamp_min": (lambda z: z.clamp_min(-0.4), lambda z: max(z, -0.4), 0.5),
    "clamp_max": (lambda z: z.clamp_max(0.7), lambda z: min(z, 0.7), 0.5),
    "maximum": (lambda z: torch.maximum(z, 1.0 - z), lambda z: max(z, 1.0 - z), 0.5),
    "minimum": (lambda z: torch.minimum(z, z.square()), lambda z: min(z, z * z), 0.5),
    "fmax": (lambda z: torch.fmax(z, -z), lambda z: max(z, -z), 0.5),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_found_and_rounded_by_no_more_than_their_radius(name: str) -> None:
    function, exact, share = KINKS[name]
    z, epsilon = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64), 1e-2
    with Watch() as watch:
        function(z.clone().requires_grad_())
    assert watch.found
    with Rounded(epsilon):
        value = function(z)
    error = (value - torch.tensor([exact(float(v)) for v in z], dtype=torch.float64)).abs()
    assert float(error.max()) <= share * epsilon * (1 + 1e-9)
    assert float(error.max()) > 0.0
    assert torch.equal(function(z), torch.tensor([exact(float(v)) for v in z], dtype=torch.float64))  # outside: as ever


@pytest.mark.parametrize("memory", [None, []])
def test_rounded_value_slope_and_curvature(memory: list[Any] | None) -> None:
    z, epsilon = torch.tensor([-1.0, -0.02, 0.0, 0.05, 2.0], dtype=torch.float64, requires_grad=True), 0.1
    with Rounded(epsilon, memory):
        value = z.abs()
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z)
    r = (z.detach() ** 2 + epsilon**2).sqrt()
    torch.testing.assert_close(value.detach(), r - epsilon, rtol=0.0, atol=1e-15)
    torch.testing.assert_close(slope.detach(), z.detach() / r, rtol=0.0, atol=1e-15)
    torch.testing.assert_close(bend, epsilon**2 / r**3, rtol=1e-9, atol=1e-12)


def test_remembered_slopes_change_the_curvature_alone() -> None:
    memory: list[Any] = []
    for z0 in (0.3, 0.25, -0.2, -0.001):
        z = torch.tensor([z0], dtype=torch.float64, requires_grad=True)
        with Rounded(0.01, memory):
            value = z.abs()
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        r = math.hypot(z0, 0.01)
        assert float(value.detach()) == pytest.approx(r - 0.01, abs=1e-15)
        assert float(slope.detach()) == pytest.approx(z0 / r, abs=1e-14)
        assert 0.0 <= float(bend) <= 2.0 / r
        assert len(memory) == 1


def test_smooth_functions_are_left_alone() -> None:
    z = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64, requires_grad=True)
    with Watch() as watch:
        value = torch.sin(z) * z.square() + torch.sqrt(1.0 + z**2)
    assert not watch.found
    with Rounded(0.1):
        again = torch.sin(z) * z.square() + torch.sqrt(1.0 + z**2)
        index = torch.arange(-2, 3).abs()  # of whole numbers there is nothing to round
    assert torch.equal(value, again)
    assert index.tolist() == [2, 1, 0, 1, 2]


# ------------------------------------------------------------------------------------------ values and derivatives

PATH, END = 4, 2  # components of the constraints: different from B, n, m


def constrained_problem(shared: bool) -> oc.OptimalControlProblem:
    """`nonlinear_problem` (B=5, n=3, m=2) with constraints that depend on everything."""
    base = nonlinear_problem(shared)
    weight = torch.linspace(0.5, 1.5, B, dtype=torch.float64)

    def path(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        v, w = u.unbind(-1)
        return torch.stack((weight * a * v, b**2 + torch.sin(t) * w, torch.exp(0.3 * c) - v * w, a * b * c), -1)

    return oc.OptimalControlProblem(
        base.dynamics,
        base.running_cost,
        base.terminal_cost,
        initial_state=base.initial_state,
        horizon=base.horizon,
        control_set=base.control_set,
        shared_control=shared,
        terminal_constraint=oc.Constraint(lambda x: torch.stack((weight * x.square().sum(-1), x[..., 0] ** 3), -1)),
        path_constraint=oc.Constraint(path, -1.0, 1.0),
    )


def test_derivatives_of_points_are_those_of_autograd(shared: bool) -> None:
    problem = constrained_problem(shared)
    stacked = Stacked(problem)
    N, s, G, v, m = 2, 3, problem.groups, stacked.v, CONTROLS
    members = B // G
    assert v == members * STATES
    random = np.random.default_rng(0)
    t = random.random((N, s, G))
    t[:] = t[..., :1]  # the naive functions below take one time
    x, u, p, y = (random.standard_normal((N, s, G, d)) for d in (v, m, v, members * PATH))
    found = stacked.expand(t, x, u, p, y)
    assert found.jacobian is not None
    assert found.hessian is not None
    running, path = problem.running_cost, problem.path_constraint
    assert running is not None
    assert path is not None
    constraint = path.function

    def functions(time: Tensor, z: Tensor) -> Tensor:
        """q (G, v + 1 + e) of z (G, v + m) at one time, from the user's functions."""
        state, control = z[:, :v].reshape(B, STATES), z[:, v:]
        f = problem.dynamics(time, state, control).reshape(G, -1)
        L = running(time, state, control).reshape(G, -1).mean(-1, keepdim=True)
        return torch.cat((f, L, constraint(time, state, control).reshape(G, -1)), -1)

    for k in range(N):
        for i in range(s):
            time = torch.tensor(t[k, i, :1])
            z = torch.tensor(np.concatenate((x[k, i], u[k, i]), -1))
            weights = torch.tensor(np.concatenate((-p[k, i], np.ones((G, 1)), y[k, i]), -1))
            q = functions(time, z)
            got = np.concatenate((found.f[k, i], found.running[k, i, :, None], found.c[k, i]), -1)
            np.testing.assert_allclose(got, q.numpy(), rtol=1e-12, atol=1e-12)
            jacobian = torch.autograd.functional.jacobian(lambda z, time=time: functions(time, z), z)  # (G, q, G, D)
            hessian = torch.autograd.functional.hessian(
                lambda z, time=time, weights=weights: (weights * functions(time, z)).sum(), z
            )  # (G, D, G, D)
            for g in range(G):
                np.testing.assert_allclose(found.jacobian[k, i, g], jacobian[g, :, g].numpy(), rtol=1e-10, atol=1e-12)
                np.testing.assert_allclose(found.hessian[k, i, g], hessian[g, :, g].numpy(), rtol=1e-9, atol=1e-11)
    plain = stacked.values(t, x, u)
    for name in ("f", "running", "c"):
        np.testing.assert_allclose(getattr(plain, name), getattr(found, name), rtol=1e-13, atol=1e-13)


def test_derivatives_of_points_are_those_of_differences(shared: bool) -> None:
    stacked = Stacked(constrained_problem(shared))
    N, s, G = 2, 3, stacked.groups
    random = np.random.default_rng(1)
    t = random.random((N, s, G))
    sizes = (stacked.v, CONTROLS, stacked.v, stacked.members * PATH)
    x, u, p, y = (random.standard_normal((N, s, G, d)) for d in sizes)
    dx, du = random.standard_normal(x.shape), random.standard_normal(u.shape)
    found, step = stacked.expand(t, x, u, p, y), 1e-5
    up, down = (stacked.expand(t, x + e * dx, u + e * du, p, y) for e in (step, -step))
    assert found.jacobian is not None
    assert found.hessian is not None
    dz = np.concatenate((dx, du), -1)
    join = lambda q: np.concatenate((q.f, q.running[..., None], q.c), -1)
    np.testing.assert_allclose(
        np.einsum("...ij,...j->...i", found.jacobian, dz), (join(up) - join(down)) / (2 * step), rtol=1e-6, atol=1e-7
    )
    weights = np.concatenate((-p, np.ones((*p.shape[:-1], 1)), y), -1)
    slope = lambda q: np.einsum("...c,...ci->...i", weights, q.jacobian)
    np.testing.assert_allclose(
        np.einsum("...ij,...j->...i", found.hessian, dz), (slope(up) - slope(down)) / (2 * step), rtol=1e-6, atol=1e-6
    )


def test_derivatives_of_ends_are_those_of_autograd(shared: bool) -> None:
    problem = constrained_problem(shared)
    stacked = Stacked(problem)
    G, v, members = problem.groups, stacked.v, stacked.members
    random = np.random.default_rng(2)
    x, nu = random.standard_normal((G, v)), random.standard_normal((G, members * END))
    found = stacked.end(x, nu)
    cost, constraint = problem.terminal_cost, problem.terminal_constraint
    assert cost is not None
    assert constraint is not None

    def functions(z: Tensor) -> tuple[Tensor, Tensor]:
        state = z.reshape(B, STATES)
        return cost(state).reshape(G, -1).mean(-1), constraint.function(state).reshape(G, -1)

    z = torch.tensor(x)
    value, c = functions(z)
    np.testing.assert_allclose(found.cost, value.numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.c, c.numpy(), rtol=1e-12)
    slope, jacobian = torch.autograd.functional.jacobian(functions, z)
    hessian = torch.autograd.functional.hessian(
        lambda z: functions(z)[0].sum() + (torch.tensor(nu) * functions(z)[1]).sum(), z
    )
    for g in range(G):
        np.testing.assert_allclose(found.slope[g], slope[g, g].numpy(), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.jacobian[g], jacobian[g, :, g].numpy(), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.hessian[g], hessian[g, :, g].numpy(), rtol=1e-10, atol=1e-12)


def test_preference_is_the_rise_of_the_hamiltonian_between_the_bounds() -> None:
    stacked = Stacked(constrained_problem(True))
    N, s, G = 2, 3, 1
    random = np.random.default_rng(3)
    t = random.random((N, s, G))
    sizes = (stacked.v, CONTROLS, stacked.v, stacked.members * PATH)
    x, u, p, y = (random.standard_normal((N, s, G, d)) for d in sizes)
    lower, upper = np.array([-0.5, -np.inf]), np.array([2.0, 1.0])
    found = preference(stacked, (lower, upper), t, x, u, p, y)

    def hamiltonian(bound: float) -> Array:
        q = stacked.values(t, x, np.concatenate((np.full_like(u[..., :1], bound), u[..., 1:]), -1))
        return np.asarray((p * q.f).sum(-1) - q.running - (y * q.c).sum(-1))

    np.testing.assert_allclose(found[..., 0], hamiltonian(2.0) - hamiltonian(-0.5), rtol=1e-12, atol=1e-12)
    assert (found[..., 1] == 0.0).all()


def test_kinks_of_problems_are_noticed() -> None:
    def problem(running: Callable[..., Tensor]) -> oc.OptimalControlProblem:
        return oc.OptimalControlProblem(
            lambda t, x, u: u, running, initial_state=[1.0], horizon=(0.0, 1.0), control_set=oc.Box(-1.0, 1.0)
        )

    assert Stacked(problem(lambda t, x, u: u[..., 0].abs())).kinked
    assert not Stacked(problem(lambda t, x, u: u[..., 0] ** 2)).kinked
    assert not Stacked(problem(lambda t, x, u: u[..., 0] ** 2 + t.abs())).kinked  # a kink in time is no kink in (x, u)


# ------------------------------------------------------------------------------------------------- the parts in C


def constrained() -> oc.OptimalControlProblem:
    """Everything that a problem may have: bounds of some controls, a free start, constraints on both ends of ranges."""

    def rates(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.stack((x[..., 1], u[..., 0] - torch.sin(x[..., 0]) + 0.1 * u[..., 1] * x[..., 1]), -1)

    return oc.OptimalControlProblem(
        rates,
        lambda t, x, u: (u**2).sum(-1) + (x**2).sum(-1),
        lambda x: x[..., 0] ** 2,
        initial_state=oc.FreeInitialState([[1.0, 0.5], [0.9, -0.5]], [0.8, -math.inf], [1.2, 0.6]),
        horizon=(0.0, 2.0),
        control_set=oc.Box([-0.5, -math.inf], [math.inf, math.inf]),
        terminal_constraint=oc.Constraint(lambda x: torch.cat((x, x[..., :1] * x[..., 1:]), -1), [0.0, -1.0, 0.0], 0.5),
        path_constraint=oc.Constraint(
            lambda t, x, u: torch.stack((x[..., 1] + 0.2 * u[..., 0], x[..., 0] - 0.4 * u[..., 1]), -1),
            [-0.3, 0.0],
            0.7,
        ),
    )


def test_measures_in_c_are_those_of_numpy() -> None:
    """At all iterations of a run with two groups: residuals, model, errors and what a step means."""
    if measures.compiled is None:
        pytest.skip("the part in C was not compiled")
    seen: list[tuple[Any, ...]] = []

    def watch(k: int, camp: Camp) -> bool:
        seen.append((camp.system, camp.point, camp.mu, camp.model))
        return False

    stacked = Stacked(constrained())
    nodes = np.repeat(np.linspace(0.0, 2.0, 6)[:, None], 2, 1)
    stop = Stop(12, None, 1e-6, 0.0)
    Campaign(stacked, limits_of(stacked), 3, 100, stop, False, watch).run(nodes)
    assert len(seen) > 10
    for system, point, mu, model in seen:
        assert isinstance(system, CompiledSystem)
        plain = CollocationSystem(**{entry.name: getattr(system, entry.name) for entry in fields(CollocationSystem)})
        again = [other.remodel(point, mu, model=model) for other in (plain, system)]
        for entry in fields(Model):
            close(*(getattr(part, entry.name) for part in again if entry.name not in ("now", "optimality")))
        for entry in fields(Residual):
            close(*(getattr(part.now, entry.name) for part in again if entry.name not in ("values", "end")))
        again = [replace(part, optimality=None) for part in again]
        close(
            *(np.array(other.optimality(point, mu, part)) for other, part in zip((plain, system), again, strict=True))
        )
        steps = [other.direction(point, mu, again[0], np.array([0.0, 0.1]), mu > 0) for other in (plain, system)]
        for entry in fields(Step):
            close(*(getattr(step, entry.name) for step in steps if entry.name != "d"))
        share, alpha = np.array([0.99, 0.9]), np.array([0.5, 0.0])
        step = steps[0]
        close(*(other.room(point, step, share) for other in (plain, system)))
        moved = [other.moved(point, mu, step, step.moves, share, alpha) for other in (plain, system)]
        for pair in zip(*(part.arrays for part in moved), strict=True):
            close(*(np.where(np.isfinite(array), array, 0.0) for array in pair))
        residual = system.at(moved[0], mu)
        corrected = [other.direction(point, mu, again[0], np.zeros(2), mu > 0, residual) for other in (plain, system)]
        for entry in fields(Step):
            close(*(getattr(step, entry.name) for step in corrected if entry.name != "d"))


def ride() -> oc.OptimalControlProblem:
    """A free time, path and terminal constraints."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - 0.1 * x[..., 1] ** 3), -1),
        lambda t, x, u: 1.0 + 0.1 * u[..., 0] ** 2,
        initial_state=[0.0, 0.0],
        horizon=(0.0, oc.FreeTime(guess=3.0)),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x - torch.tensor([1.0, 0.0], dtype=x.dtype)),
        path_constraint=oc.Constraint(lambda t, x, u: x[..., 1:], -math.inf, 0.7),
    )


@pytest.mark.parametrize("name", ["", "maximum_range", "robot_arm", "stirred_tank"])
def test_iterations_in_c_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same solution and the same history, with steps of shifted Hessians, corrected ones, and short ones."""
    if measures.compiled is None:
        pytest.skip("the part in C was not compiled")
    problem = importlib.import_module(f"problems.{name}").build().problem if name else ride()
    marched, real = [], descent.march

    def counted(*arguments: Any) -> Any:
        found = real(*arguments)
        marched.append(found.steps)
        return found

    monkeypatch.setattr(descent, "march", counted)
    answers = [oc.solve(problem, oc.Collocation(), tolerance=1e-7)]
    assert sum(marched) > 10
    monkeypatch.setattr(descent, "can_march", lambda system: False)
    answers.append(oc.solve(problem, oc.Collocation(), tolerance=1e-7))
    one, other = answers
    assert one.stats.iterations == other.stats.iterations
    for part in ("t", "x", "p", "u"):
        close(getattr(one, part).numpy(), getattr(other, part).numpy())
    for part in ("cost", "residual"):
        close(getattr(one.history, part).numpy(), getattr(other.history, part).numpy())


def test_a_march_that_is_interrupted_keeps_what_it_has_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its iterations count, and its solution is finite."""
    if measures.compiled is None:
        pytest.skip("the part in C was not compiled")
    calls: list[int] = []
    real = Camp.left

    def left(camp: Camp) -> int:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return real(camp)

    monkeypatch.setattr(Camp, "left", left)
    with pytest.warns(oc.ConvergenceWarning, match="INTERRUPTED"):
        solution = oc.solve(ride(), oc.Collocation())
    assert solution.status[0] is oc.Status.INTERRUPTED
    assert torch.isfinite(solution.x).all()
    assert len(calls) == 12


def without_end(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Convex in a control, rising in another, and not convex in the third."""
    return torch.sin(3 * t) * u[..., 0] ** 2 + torch.cos(2 * t) * u[..., 1] + torch.sin(5 * u[..., 2]) * x[..., 0]


@pytest.mark.parametrize("upper", [math.inf, 2.0])
@pytest.mark.parametrize("running_cost", [None, without_end])
def test_estimates_in_c_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch, running_cost: Any, upper: float) -> None:
    """Defects, gaps, distances and violations of trajectories that solve nothing, in two groups."""
    if measures.compiled is None:
        pytest.skip("the part in C was not compiled")

    def mixed(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u[..., 0] ** 2 + u[..., 0] * u[..., 1] + u[..., 1] ** 2 + torch.cos(u[..., 2]) * x[..., 0]

    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1] * u[..., 2], u[..., 0] - x[..., 0] * u[..., 1]), -1),
        running_cost or mixed,
        initial_state=[[1.0, 0.0], [0.5, 0.2]],
        horizon=(0.0, 2.0),
        control_set=oc.Box([-1.0, -math.inf, -upper], [upper, math.inf, 1.0]),
        path_constraint=oc.Constraint(lambda t, x, u: x * u[..., :2], [-math.inf, 0.2], [0.1, 3.0]),
    )
    stacked, random = Stacked(problem), np.random.default_rng(0)
    for tableau in (gauss(3), radau(3)):
        mesh = Mesh(np.linspace([0.0, 0.0], [2.0, 1.5], 8), tableau)
        x, u, p, y = (random.standard_normal((7, 3, 2, d)) for d in (2, 3, 2, 2))
        nodes, costates = random.standard_normal((2, 8, 2, 2))
        limits = limits_of(stacked)
        bounds = limits.control_lower, limits.control_upper
        point = SimpleNamespace(x=x, u=np.clip(3 * u, *bounds), p=p, y=y, nodes=nodes, costates=costates)
        found = []
        for compiled in (measures.compiled, None):
            for module in (errors, fine):
                monkeypatch.setattr(module, "compiled", compiled)
            at = fine.between(stacked, limits, mesh, point, gauss(errors.FINE).c)
            estimated = errors.estimate(stacked, limits, mesh, point)
            found.append((*at, *estimated, errors.improved(stacked, limits, at)))
        assert np.isinf(estimated.gap).any() == (running_cost is not None or upper == math.inf)
        for one, other in zip(*found, strict=True):
            close(*(np.where(np.isfinite(part), part, 1e3) for part in (one, other)))


@pytest.mark.parametrize("shared", [False, True])
def test_violations_by_tapes_are_those_of_torch(shared: bool) -> None:
    """Of two trajectories that have not got far, also if the worse of both counts, because they share a control."""
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0] - x[..., 0] ** 3), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=[[1.0, 0.4], [-0.5, 0.3]],
        horizon=(0.5, 2.5 if shared else oc.FreeTime(guess=2.0, lower=1.0)),
        control_set=oc.Box(-2.0, 2.0),
        shared_control=shared,
        terminal_constraint=oc.Constraint(
            lambda x: torch.stack((x[..., 0], x[..., 0] + x[..., 1]), -1), 0.0, [0.0, 0.1]
        ),
        path_constraint=oc.Constraint(
            lambda t, x, u: torch.stack((x[..., 1] + 0.1 * u[..., 0], t * x[..., 0]), -1), -0.4, 0.3
        ),
    )
    solution = solve_quietly(problem, oc.Collocation(), max_iterations=2)
    assert solution.pieces is not None
    for name, worst in measure_violations(problem, solution.t, solution.x, solution.pieces).items():
        assert solution.violations[name].shape == worst.shape
        assert float(worst.min()) > 1e-3
        close(solution.violations[name].numpy(), worst.numpy())


@pytest.mark.parametrize("elsewhere", [True, False])
def test_warm_starts_in_c_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """Of anything, for constraints of all kinds: bounds on one side, on two, and equal ones."""
    if measures.compiled is None:
        pytest.skip("the part in C was not compiled")
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1] * u[..., 2], u[..., 0] - x[..., 0] * u[..., 1]), -1),
        lambda t, x, u: (u**2).sum(-1) * (1 + x[..., 0] ** 2) + 0.1 * x[..., 1] * u[..., 0],
        initial_state=oc.FreeInitialState([[1.0, 0.1], [0.5, 0.1]], [0.0, 0.1], [2.0, 0.1]),
        horizon=(0.0, 2.0),
        control_set=oc.Box([-1.0, -math.inf, 0.3], [math.inf, math.inf, 1.0]),
        path_constraint=oc.Constraint(
            lambda t, x, u: torch.cat((x * u[..., :2], x), -1), [-math.inf, 0.2, 0.0, -0.1], [0.1, 3.0, 0.0, math.inf]
        ),
        terminal_constraint=oc.Constraint(
            lambda x: torch.cat((x, x**2), -1), [0.0, -math.inf, 0.0, 0.1], [0.0, 1, 1, 9]
        ),
    )
    stacked, random = Stacked(problem), np.random.default_rng(0)
    limits, mesh = limits_of(stacked), Mesh(np.linspace([0.0, 0.0], [2.0, 1.5], 8), gauss(3))
    prices = 1.0 + random.random((7, 3, 2, 4)), 1.0 + random.random((2, 4))
    sizes = np.array([[1.0, 2.0], [3.0, 0.5]]), np.array([1.0, 2.0, 0.7]), np.array([3.0, 40.0])
    system = CompiledSystem(stacked, limits, mesh, *sizes, *prices)
    x, u, p, y = (3 * random.standard_normal((7, 3, 2, d)) for d in (2, 3, 2, 4))
    nodes, costates = random.standard_normal((2, 8, 2, 2))
    slack, nu = random.standard_normal((2, 2, 4))
    start = (x, np.clip(u, limits.control_lower, limits.control_upper), p, y, nodes, costates)
    points = []
    for compiled in (measures.compiled, None):
        monkeypatch.setattr(warm, "compiled", compiled)
        points.append(warm.warm_point(system, start, (None if elsewhere else slack, nu), np.array([1e-2, 1e-4])))
    assert (points[0].u != start[1]).any()
    for one, other in zip(points[0].bounded, points[1].bounded, strict=True):
        assert (one[0].idle, one[0].partial) == (other[0].idle, other[0].partial)
    for one, other in zip(points[0].arrays, points[1].arrays, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))
        close(*(np.where(np.isfinite(part), part, 0.0) for part in (one, other)))


@pytest.mark.parametrize("most", [1, 400])
def test_controls_are_compared_all_at_once_or_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The gap of an interval is that of the best control of the grid, however they are evaluated."""
    problem = nonlinear_problem(True, control_set=oc.Box([-1.0, -0.5], [1.0, 0.5]))
    stacked = Stacked(problem)
    assert stacked.candidates is not None
    campaign = Campaign(stacked, limits_of(stacked), 3, 100, Stop(2, None, 1e-6, 0.0), False)
    campaign.run(np.repeat(np.linspace(*problem.horizon, 4)[:, None], stacked.groups, 1))
    camp = campaign.camp
    parts = stacked, camp.limits, camp.mesh, camp.point
    at = fine.between(*parts, gauss(errors.FINE).c)
    q = stacked.expand(at.t, at.x, at.u, at.p, at.y)
    gains = [errors.gain(stacked, at, q, np.array(np.broadcast_to(u, at.u.shape))) for u in stacked.candidates]
    weights = camp.mesh.h[:, None] * gauss(errors.FINE).b[:, None]
    own = errors.improved(stacked, camp.limits, at)
    best = np.maximum(0.0, np.max([*gains, errors.gain(stacked, at, q, own)], axis=0))
    monkeypatch.setattr(errors, "AT_ONCE", most)
    np.testing.assert_allclose(errors.estimate(*parts).gap, (weights * best).sum(1), atol=1e-12)


def close(*pair: Array) -> None:
    """Both the same up to rounding."""
    if pair:
        scale = max(1.0, float(np.abs(pair[0]).max(initial=0.0)))
        np.testing.assert_allclose(pair[0], pair[1], rtol=1e-8, atol=1e-10 * scale)
