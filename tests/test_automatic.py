"""What `solve` does without a solver: where collocation alone is lost, E-MSA finds the basin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.solvers import automatic


def treatment() -> oc.OptimalControlProblem:
    """Drugs against HIV, like D. Kirschner, S. Lenhart, S. Serbin, J. Math. Biol. 35 (1997): cells, infected, virus.

    A virus count of −1 is a pole of the dynamics, and Newton's method on all states at once jumps across it.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        cells, infected, virus = x.unbind(-1)
        infections = 2.4e-5 * u[..., 0] * virus * cells
        growth = 10.0 / (1.0 + virus) + 0.03 * cells * (1.0 - (cells + infected) / 1500.0) - 0.02 * cells
        return torch.stack((growth - infections, infections - 0.5 * infected, 600.0 * infected - 4.4 * virus), -1)

    return oc.OptimalControlProblem(
        dynamics,
        lambda t, x, u: 50.0 * (1.0 - u[..., 0]) ** 2 - x[..., 0],
        initial_state=torch.tensor([800.0, 0.04, 1.5], dtype=torch.float64),
        horizon=(0.0, 20.0),
        control_set=oc.Box([0.0], [1.0]),
    )


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_emsa_finds_the_basin_also_within_a_time(max_seconds: float | None) -> None:
    solution = oc.solve(treatment(), max_seconds=max_seconds)
    assert solution.status == [oc.Status.CONVERGED]
    certificate = solution.certificate
    assert float(certificate.cost_error) < 1e-4  # that of E-MSA on its mesh alone is 0.2
    assert float(certificate.mean_gap) < 1e-6 * abs(float(solution.cost))


def test_no_other_start_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(automatic.time, "perf_counter", lambda: now[0])
    run = automatic.Collocation.run
    seconds = []

    def slow(self: oc.Collocation, problem: object, discretization: object, start: object, limits: object) -> object:
        seconds.append(limits.max_seconds)  # type: ignore[attr-defined]
        now[0] += 4.0
        return run(self, problem, discretization, start, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(automatic.Collocation, "run", slow)
    monkeypatch.setattr(automatic, "_hopeless", lambda *_: True)
    oc.solve(treatment(), max_seconds=10.0)
    assert seconds == [10.0, 6.0, 2.0]
