"""Groups of a batch by collocation: those that fail are tried alone, and stand in the batch as if they had not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers import attempts, collocation
from ocsolver.solvers.ended import Ended

STATES = torch.tensor([[-1.0, 0.0], [-1.2, 0.3], [0.8, 0.1], [1.5, -0.2], [-0.5, 0.6]], dtype=torch.float64)


def ride(states: Tensor, limit: float = 0.6) -> oc.OptimalControlProblem:
    """To rest at the origin in the shortest time, at a limited speed."""
    return oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: torch.ones_like(x[..., 0]),
        initial_state=states,
        horizon=(0.0, oc.FreeTime(guess=3.0)),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x),
        path_constraint=oc.Constraint(lambda t, x: x[..., 1:], -limit, limit),
    )


def exact(state: Tensor, limit: float = 0.6) -> float:
    """The shortest time: full throttle to the limit, along it, and full brakes."""
    x, v = map(float, state)
    if x + 0.5 * v * abs(v) > 0:
        x, v = -x, -v
    peak = min(math.sqrt(0.5 * v * v - x), limit)
    way = -x - (2 * peak**2 - v * v) / 2
    return 2 * peak - v + way / limit


def test_all_groups_of_a_batch_are_right() -> None:
    solution = oc.solve(ride(STATES), oc.Collocation(), tolerance=1e-6)
    assert solution.success.all()
    for state, cost in zip(STATES, solution.cost, strict=True):
        assert float(cost) == pytest.approx(exact(state), abs=1e-5)


@pytest.fixture
def one_fails(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever group 3 of a batch has reached, it counts as stalled; the campaigns of all."""
    real, campaigns = attempts.best, list[Any]()

    def best(first: Any, *rest: Any, **options: Any) -> Any:
        found = real(first, *rest, **options)
        if len(found.status) > 1:
            found.status[3], found.camp.cost = oc.Status.STALLED, found.camp.cost.copy()
            found.camp.cost[3] = 99.0
        campaigns.append(found)
        return found

    for module in (attempts, collocation):
        monkeypatch.setattr(module, "best", best)
    return campaigns


@pytest.mark.parametrize("limit", [0.6, 50.0], ids=["limit", "free"])
def test_a_group_that_fails_is_tried_alone(one_fails: list[Any], limit: float) -> None:
    """Its trajectory is that of its own campaign, on a mesh with as many intervals as those of the others have."""
    batch = oc.solve(ride(STATES, limit), oc.Collocation(), tolerance=1e-6)
    assert [len(campaign.status) for campaign in one_fails] == [5, 1]
    assert batch.success.all()
    assert batch.stats.sweeps["iterations_alone"] > 0
    alone = oc.solve(ride(STATES[3], limit), oc.Collocation(), tolerance=1e-6)
    assert float(batch.cost[3]) == pytest.approx(float(alone.cost), abs=1e-12)
    assert float(batch.cost[3]) == pytest.approx(exact(STATES[3], limit), abs=1e-5)
    times = torch.linspace(0.0, float(alone.t[-1, 0]) * (1 - 1e-9), 77, dtype=torch.float64)
    for name in ("state", "costate", "control"):
        one, other = getattr(batch, name)(times)[:, 3], getattr(alone, name)(times)[:, 0]
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-7)
    certificate = batch.certificate
    assert float(certificate.cost_error.max()) < 1e-5
    assert batch.violations["terminal_constraint"].shape == (5, 2)


def test_meshes_of_all_groups_have_equally_many_intervals(one_fails: list[Any]) -> None:
    """Dividing intervals changes no polynomial, whichever of the two has more of them."""
    oc.solve(ride(STATES), oc.Collocation(), tolerance=1e-6)
    batch, single = map(Ended.of, one_fails)
    for count in (0, 7):
        finer = batch._divided(len(batch.t) + count)
        assert len(finer.t) == len(batch.t) + count
        assert (np.diff(finer.t, axis=0) > 0).all()
        np.testing.assert_allclose(finer.nodes[[0, -1]], batch.nodes[[0, -1]], atol=1e-12)
        areas = [
            np.einsum("ng,s,nsgm->gm", np.diff(part.t, axis=0), np.array([5, 8, 5]) / 18, part.u)
            for part in (finer, batch)
        ]
        np.testing.assert_allclose(*areas, atol=1e-12)
    merged = batch.with_alone({3: one_fails[1]})
    assert len(merged.t) == max(len(batch.t), len(single.t))
    np.testing.assert_allclose(merged.nodes[-1, 3], single.nodes[-1, 0], atol=1e-12)
    assert merged.cost[3] == single.cost[0]


def test_too_many_failures_are_not_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is wrong with all of them: ends that nobody reaches."""
    campaigns = []
    real = attempts.best

    def best(first: Any, *rest: Any, **options: Any) -> Any:
        campaigns.append(len(first.stacked.problem.initial_state))
        return real(first, *rest, **options)

    for module in (attempts, collocation):
        monkeypatch.setattr(module, "best", best)
    states = torch.cat((STATES, STATES + 0.1))
    problem = oc.OptimalControlProblem(
        lambda t, x, u: torch.stack((x[..., 1], u[..., 0]), -1),
        lambda t, x, u: u[..., 0] ** 2,
        initial_state=states,
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
        terminal_constraint=oc.Constraint(lambda x: x - 100.0),
    )
    with pytest.warns(oc.ConvergenceWarning, match="INFEASIBLE"):
        oc.solve(problem, oc.Collocation(), tolerance=1e-6)
    assert campaigns == [10]
