"""Contracts of control sets, on every implementation: projection, distance, candidates, refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ocsolver as oc

INFINITY = math.inf
SETS: dict[str, oc.ControlSet] = {
    "free": oc.Unconstrained(4),
    "box": oc.Box([-1.0, 0.5, -3.0], [2.0, 0.5, -1.0]),
    "half-infinite": oc.Box([-INFINITY, 0.0, -INFINITY, -1.0], [1.0, INFINITY, INFINITY, 1.0]),
    "ball": oc.Ball(1.7, 3),
    "segment": oc.Ball(0.3, 1),
    "finite": oc.FiniteSet([[0.0, 1.0], [2.0, -1.0], [2.0, 2.0], [-0.7, 0.3]]),
    "switch": oc.FiniteSet([-2.0, 2.0]),
    "product": oc.Product(oc.Ball(1.0, 2), oc.Box([0.0], [1.0]), oc.FiniteSet([[1.0], [3.0]])),
    "convex-product": oc.Product(oc.Ball(2.0, 2), oc.Unconstrained(1), oc.Box([-INFINITY, 0.0], [0.0, 1.0])),
    "nested-product": oc.Product(oc.Product(oc.Box([0.0], [1.0]), oc.Ball(1.0, 2)), oc.FiniteSet([[0.0], [5.0]])),
}
every_set = pytest.mark.parametrize("control_set", SETS.values(), ids=SETS.keys())
fine_and_coarse = pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
# numbers whose square underflows are left out: their distance to zero is zero
coordinates = st.floats(min_value=-1e6, max_value=1e6).map(lambda value: value if abs(value) > 1e-100 else 0.0)


def points(control_set: oc.ControlSet) -> st.SearchStrategy[Tensor]:
    """Points (m,) in float64, of every size."""
    row = st.lists(coordinates, min_size=control_set.m, max_size=control_set.m)
    return row.map(lambda values: torch.tensor(values, dtype=torch.float64))


def inside(control_set: oc.ControlSet, u: Tensor) -> Tensor:
    """Membership by the definition of each set (*b), with no rounding allowed but in the norm of a ball."""
    if isinstance(control_set, oc.Unconstrained):
        return torch.ones(u.shape[:-1], dtype=torch.bool)
    if isinstance(control_set, oc.Box):
        return ((u >= control_set.lower.to(u)) & (u <= control_set.upper.to(u))).all(-1)
    if isinstance(control_set, oc.Ball):
        return u.double().square().sum(-1).sqrt() <= control_set.radius * (1.0 + 2.0 * torch.finfo(u.dtype).eps)
    if isinstance(control_set, oc.FiniteSet):
        return (u[..., None, :] == control_set.points.to(u)).all(-1).any(-1)
    assert isinstance(control_set, oc.Product)
    parts = torch.split(u, [factor.m for factor in control_set.sets], -1)
    return torch.stack([inside(factor, part) for factor, part in zip(control_set.sets, parts, strict=True)]).all(0)


# -------------------------------------------------------------------------------------------------------- projection


@every_set
@given(data=st.data())
def test_projection_is_idempotent_and_inside(control_set: oc.ControlSet, data: st.DataObject) -> None:
    u = data.draw(points(control_set))
    for v in (u, u.float()):
        once = control_set.project(v)
        assert once.shape == v.shape
        assert once.dtype == v.dtype
        assert torch.equal(control_set.project(once), once)
        assert bool(inside(control_set, once))
        assert float(control_set.residual(once)) == 0.0


@every_set
@given(data=st.data())
def test_projection_is_the_nearest_point(control_set: oc.ControlSet, data: st.DataObject) -> None:
    u = data.draw(points(control_set))
    distance = float(torch.linalg.vector_norm(u - control_set.project(u)))
    # any points of U: projections of random points near and far, and those of points about u itself
    spread = torch.logspace(-3.0, 3.0, 200, dtype=torch.float64)[:, None]
    others = control_set.project(
        torch.cat([spread * seeded(200, control_set.m), u + spread * seeded(200, control_set.m)])
    )
    nearest = float(torch.linalg.vector_norm(u - others, dim=-1).min())
    assert distance <= nearest + 1e-14 * (1.0 + float(u.abs().max()))


@every_set
@given(data=st.data())
def test_residual_is_the_distance_and_zero_iff_inside(control_set: oc.ControlSet, data: st.DataObject) -> None:
    u = data.draw(points(control_set))
    residual = float(control_set.residual(u))
    distance = float(torch.linalg.vector_norm(u - control_set.project(u)))
    assert residual == pytest.approx(distance, rel=1e-12, abs=1e-14 * (1.0 + float(u.abs().max())))
    if residual == 0.0:
        assert bool(inside(control_set, u))
    elif residual > 1e-12 * (1.0 + float(u.abs().max())):
        assert not bool(inside(control_set, u))


@every_set
@every_dtype
def test_batch_of_points_is_projected_one_by_one(control_set: oc.ControlSet, dtype: torch.dtype) -> None:
    u = 3.0 * seeded(7, 5, control_set.m, dtype=dtype)
    together = control_set.project(u)
    assert together.dtype == dtype
    assert control_set.residual(u).shape == (7, 5)
    for k in range(7):
        for i in range(5):
            torch.testing.assert_close(together[k, i], control_set.project(u[k, i]))


@every_set
def test_projection_of_a_point_inside_is_the_point_itself(control_set: oc.ControlSet) -> None:
    u = control_set.project(seeded(50, control_set.m))
    assert torch.equal(control_set.project(u), u)


def test_projection_by_hand() -> None:
    u = torch.tensor([3.0, -4.0, 0.2])
    assert torch.equal(oc.Unconstrained(3).project(u), u)
    assert oc.Box([-1.0, -INFINITY, 0.5], [1.0, INFINITY, 2.0]).project(u).tolist() == [1.0, -4.0, 0.5]
    torch.testing.assert_close(oc.Ball(2.0, 2).project(u[:2]), torch.tensor([1.2, -1.6]))
    assert oc.FiniteSet([[0.0, 0.0], [4.0, -4.0]]).project(u[:2]).tolist() == [4.0, -4.0]
    mixed = oc.Product(oc.Ball(5.0, 1), oc.FiniteSet([-7.0, 7.0]), oc.Box(1.0, 2.0))
    assert mixed.project(u).tolist() == [3.0, -7.0, 1.0]


def test_product_acts_on_its_components() -> None:
    factors = (oc.Ball(1.0, 2), oc.Box([0.0], [1.0]), oc.FiniteSet([[1.0, 1.0], [3.0, 0.0]]), oc.Unconstrained(1))
    product = oc.Product(*factors)
    assert product.m == 6
    assert not product.convex
    u = 3.0 * seeded(20, 6)
    parts = torch.split(u, [2, 1, 2, 1], -1)
    expected = torch.cat([factor.project(part) for factor, part in zip(factors, parts, strict=True)], -1)
    assert torch.equal(product.project(u), expected)
    distances = torch.stack([factor.residual(part) for factor, part in zip(factors, parts, strict=True)])
    torch.testing.assert_close(product.residual(u), distances.square().sum(0).sqrt())


# ----------------------------------------------------------------------------------------- what maximizers ask a set


@every_set
@every_dtype
@fine_and_coarse
def test_candidates_lie_in_the_set(control_set: oc.ControlSet, dtype: torch.dtype, fine: bool) -> None:
    like = torch.zeros((), dtype=dtype)
    candidates = control_set.candidates(like, fine=fine)
    if candidates is None:
        return
    assert candidates.ndim == 2
    assert candidates.shape[1] == control_set.m
    assert candidates.dtype == dtype
    assert bool(inside(control_set, candidates).all())
    assert torch.equal(control_set.project(candidates), candidates)


@pytest.mark.parametrize(
    ("control_set", "count"),
    [
        (oc.FiniteSet([[0.0, 1.0], [2.0, -1.0], [2.0, 2.0]]), 3),
        (oc.Product(oc.FiniteSet([0.0, 1.0]), oc.FiniteSet([1.0, 2.0, 3.0]), oc.FiniteSet([5.0])), 6),
    ],
)
@fine_and_coarse
def test_candidates_of_a_finite_set_are_all_its_points(control_set: oc.ControlSet, count: int, fine: bool) -> None:
    candidates = control_set.candidates(torch.zeros(()), fine=fine)
    assert candidates is not None
    assert len({tuple(point) for point in candidates.tolist()}) == count == len(candidates)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("kind", ["box", "ball"])
@fine_and_coarse
def test_candidates_cover_a_compact_set(kind: str, m: int, fine: bool) -> None:
    """No point of U is farther from a candidate than the spacing of the grid."""
    control_set = oc.Box([-2.0] * m, [2.0] * m) if kind == "box" else oc.Ball(2.0, m)
    candidates = control_set.candidates(torch.zeros((), dtype=torch.float64), fine=fine)
    assert candidates is not None
    per_axis = round(len(candidates) ** (1.0 / m))
    spacing = 4.0 / (per_axis - 1)
    u = control_set.project(2.0 * seeded(500, m))
    distance = torch.cdist(u, candidates).amin(-1)
    assert float(distance.max()) <= spacing * math.sqrt(m)


@pytest.mark.parametrize("kind", ["box", "ball"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_fine_candidates_refine_the_coarse_ones(kind: str, m: int) -> None:
    control_set = oc.Box([-2.0] * m, [2.0] * m) if kind == "box" else oc.Ball(2.0, m)
    like = torch.zeros((), dtype=torch.float64)
    coarse, fine = (control_set.candidates(like, fine=fine) for fine in (False, True))
    assert len(fine) > len(coarse)
    assert float(torch.cdist(coarse, fine).amin(-1).max()) < 1e-12


@pytest.mark.parametrize(
    "control_set",
    [
        oc.Unconstrained(1),
        oc.Box([-INFINITY], [1.0]),
        oc.Box([0.0, -1.0], [INFINITY, 1.0]),
        oc.Box([0.0] * 4, [1.0] * 4),
        oc.Ball(1.0, 4),
        oc.Product(oc.FiniteSet([0.0, 1.0]), oc.Unconstrained(1)),
        oc.Product(*[oc.Box(0.0, 1.0)] * 5),
    ],
    ids=repr,
)
def test_no_candidates_for_unbounded_or_large_sets(control_set: oc.ControlSet) -> None:
    assert control_set.candidates(torch.zeros(())) is None


def test_bounds() -> None:
    like = torch.zeros((), dtype=torch.float32)
    box, free = oc.Box([-1.0, -INFINITY], [INFINITY, 2.0]), oc.Unconstrained(1)
    lower, upper = oc.Product(free, box).bounds(like)
    assert lower.tolist() == [-INFINITY, -1.0, -INFINITY]
    assert upper.tolist() == [INFINITY, INFINITY, 2.0]
    assert lower.dtype == upper.dtype == torch.float32
    for no_box in (oc.Ball(1.0, 2), oc.FiniteSet([0.0]), oc.Product(free, oc.Ball(1.0, 2))):
        assert no_box.bounds(like) is None


@pytest.mark.parametrize(
    ("control_set", "convex"),
    [
        (oc.Unconstrained(2), True),
        (oc.Box(0.0, 1.0), True),
        (oc.Ball(1.0, 2), True),
        (oc.FiniteSet([0.0, 1.0]), False),
        (oc.Product(oc.Ball(1.0, 2), oc.Box(0.0, 1.0)), True),
        (oc.Product(oc.Ball(1.0, 2), oc.FiniteSet([0.0])), False),
    ],
    ids=repr,
)
def test_convexity(control_set: oc.ControlSet, convex: bool) -> None:
    assert control_set.convex is convex


# ------------------------------------------------------------------------------------------------------ construction


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor, tuple], ids=["list", "array", "tensor", "tuple"])
@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0]], ids=["int", "float"])
@every_dtype
def test_lists_arrays_and_tensors_are_taken(convert: Any, values: list[float], dtype: torch.dtype) -> None:
    u = torch.tensor([[-3.0, 0.4], [0.3, 9.0]], dtype=dtype)
    box = oc.Box(convert(values), convert([2, 3]))
    assert box.m == 2
    assert torch.equal(box.project(u), torch.tensor([[0.0, 1.0], [0.3, 3.0]], dtype=dtype))
    assert box.project(u).dtype == dtype
    finite = oc.FiniteSet(convert([values, [2, 3]]))
    assert finite.m == 2
    assert torch.equal(finite.project(u), torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=dtype))
    assert finite.project(u).dtype == dtype


def test_numbers_mean_one_component() -> None:
    assert oc.Box(-1, 2.5).m == 1
    assert oc.Box(np.float64(-1.0), torch.tensor(2.5)).project(torch.tensor([[9.0], [-9.0]])).tolist() == [
        [2.5],
        [-1.0],
    ]
    assert oc.FiniteSet([3.0, 4.0, 5.0]).m == 1


def test_sides_may_coincide_or_be_infinite() -> None:
    assert oc.Box([1.0], [1.0]).project(torch.tensor([7.0])).tolist() == [1.0]
    free = oc.Box([-INFINITY], [INFINITY])
    assert free.project(torch.tensor([7.0])).tolist() == [7.0]


def test_a_later_change_of_the_arguments_changes_nothing() -> None:
    lower, table = torch.zeros(2, requires_grad=True), np.array([[0.0], [1.0]])
    box, finite = oc.Box(lower, [1.0, 1.0]), oc.FiniteSet(table)
    assert not box.lower.requires_grad
    with torch.no_grad():
        lower += 0.5
    table += 5.0
    assert box.project(torch.tensor([-1.0, -1.0])).tolist() == [0.0, 0.0]
    assert finite.project(torch.tensor([0.9])).tolist() == [1.0]


@every_set
def test_sets_are_frozen_and_say_what_they_are(control_set: oc.ControlSet) -> None:
    assert repr(control_set).startswith(type(control_set).__name__ + "(")
    name = dataclasses.fields(control_set)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(control_set, name, None)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (
            lambda: oc.Box([0.0, 2.0], [1.0, 1.5]),
            oc.InputError,
            "lower ≤ upper in every component, got lower[1] = 2.0, upper[1] = 1.5",
        ),
        (lambda: oc.Box([0.0, math.nan], [1.0, 1.0]), oc.InputError, "got lower[1] = nan, upper[1] = 1.0"),
        (lambda: oc.Box([0.0], [math.nan]), oc.InputError, "got lower[0] = 0.0, upper[0] = nan"),
        (lambda: oc.Box([INFINITY], [INFINITY]), oc.InputError, "lower ≤ upper in every component, got lower[0] = inf"),
        (lambda: oc.Box([-INFINITY], [-INFINITY]), oc.InputError, "got lower[0] = -inf, upper[0] = -inf"),
        (lambda: oc.Box([0.0], [1.0, 2.0]), oc.ShapeError, "Box bounds: expected two vectors (m,), got (1,) and (2,)"),
        (lambda: oc.Box([[0.0]], [[1.0]]), oc.ShapeError, "got (1, 1) and (1, 1)"),
        (lambda: oc.Box([], []), oc.ShapeError, "got (0,) and (0,)"),
        (lambda: oc.Box("low", "high"), oc.InputError, "Box lower bound: expected numbers, got 'low'"),
        (lambda: oc.Box([0.0], None), oc.InputError, "Box upper bound: expected numbers, got None"),
        (lambda: oc.Box([False], [True]), oc.InputError, "Box lower bound: expected real numbers, got torch.bool"),
        (lambda: oc.Box([0j], [1.0]), oc.InputError, "Box lower bound: expected real numbers, got torch.complex128"),
        (
            lambda: oc.Box([[0.0], [0.0, 1.0]], [1.0]),
            oc.InputError,
            "Box lower bound: expected numbers, got [[0.0], [0.0, 1.0]]",
        ),
        (lambda: oc.Ball(0.0, 2), oc.InputError, "Ball radius: expected a positive number, got 0.0"),
        (lambda: oc.Ball(-1.0, 2), oc.InputError, "Ball radius: expected a positive number, got -1.0"),
        (lambda: oc.Ball(math.nan, 2), oc.InputError, "got nan"),
        (lambda: oc.Ball(INFINITY, 2), oc.InputError, "got inf"),
        (lambda: oc.Ball("1", 2), oc.InputError, "Ball radius: expected a positive number, got '1'"),
        (lambda: oc.Ball(1.0, 0), oc.InputError, "Ball dimension m: expected an int ≥ 1, got 0"),
        (lambda: oc.Ball(1.0, 2.0), oc.InputError, "Ball dimension m: expected an int ≥ 1, got 2.0"),
        (lambda: oc.Unconstrained(0), oc.InputError, "Unconstrained dimension m: expected an int ≥ 1, got 0"),
        (lambda: oc.Unconstrained(True), oc.InputError, "Unconstrained dimension m: expected an int ≥ 1, got True"),
        (lambda: oc.Unconstrained("2"), oc.InputError, "Unconstrained dimension m: expected an int ≥ 1, got '2'"),
        (lambda: oc.FiniteSet([]), oc.InputError, "FiniteSet points: expected shape (C, m), C ≥ 1, got shape (0, 1)"),
        (lambda: oc.FiniteSet(torch.zeros(0, 3)), oc.InputError, "got shape (0, 3)"),
        (lambda: oc.FiniteSet(1.0), oc.InputError, "FiniteSet points: expected shape (C, m), C ≥ 1, got shape ()"),
        (lambda: oc.FiniteSet(torch.zeros(2, 3, 4)), oc.InputError, "got shape (2, 3, 4)"),
        (
            lambda: oc.FiniteSet([[0.0, 1.0], [math.nan, 1.0]]),
            oc.InputError,
            "FiniteSet points: expected finite entries, got nan at index (1, 0)",
        ),
        (lambda: oc.FiniteSet([0.0, INFINITY]), oc.InputError, "got inf at index (1, 0)"),
        (lambda: oc.FiniteSet({"a": 1}), oc.InputError, "FiniteSet points: expected numbers, got {'a': 1}"),
        (lambda: oc.Product(), oc.InputError, "Product factors: expected one or more control sets, got ()"),
        (
            lambda: oc.Product([oc.Ball(1.0, 2)]),
            oc.InputError,
            "Product factors: expected one or more control sets, got ([Ball(",
        ),
        (lambda: oc.Product(oc.Ball(1.0, 2), (0.0, 1.0)), oc.InputError, "(0.0, 1.0))"),
    ],
)
def test_bad_sets_are_refused_at_construction(build: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        build()
    message = str(caught.value)
    assert text in message
    assert message.endswith(".")  # it ends with what to do
    assert isinstance(caught.value, (oc.OCSolverError, ValueError))
