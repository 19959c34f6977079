"""Figure 1 of the paper: the network is the paper's, the machinery runs, and the claims can come out either way."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import ocsolver as oc
from scripts import _sine, _training
from scripts.figure1 import SUCCESSIVE, check_claims, emsa, main

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("E-MSA, fixed ρ", "E-MSA, adaptive ρ", "SGD", "Adagrad", "Adam")


# ------------------------------------------------------------------------------------------------------ the network


def test_samples_and_starts_are_those_of_the_paper() -> None:
    """1000 + 1000 samples of the sine on [−π, π], and the three starts."""
    case = _sine.make_case(3)
    for samples in (case.train, case.test):
        assert samples.x.shape == (1000,)
        assert float(samples.x.abs().max()) <= math.pi
        assert float(samples.x.min()) < -3.0
        assert float(samples.x.max()) > 3.0
        assert torch.equal(samples.y, torch.sin(samples.x))
    assert not torch.equal(case.train.x, case.test.x)
    good, zero, noise = (case.starts[name] for name in ("good", "zero", "noise"))
    assert good.shape == zero.shape == noise.shape == (20, 1, 30)
    weights, biases = good[..., :25], good[..., 25:]
    assert bool((biases == 0.1).all())
    assert float(weights.abs().max()) <= 0.2
    # A normal distribution truncated at two standard deviations keeps 0.88 of its standard deviation; 500 draws.
    assert float(weights.std()) == pytest.approx(0.088, abs=0.01)
    assert not zero.any()
    assert 0.004 < float(noise.abs().max()) <= 0.005


def test_a_seed_fixes_everything() -> None:
    """The same seed gives the same case, another seed another."""
    one, same, other = _sine.make_case(1, 7), _sine.make_case(1, 7), _sine.make_case(2, 7)
    assert torch.equal(one.train.x, same.train.x)
    assert torch.equal(one.starts["good"], same.starts["good"])
    assert not torch.equal(one.train.x, other.train.x)
    assert not torch.equal(one.starts["noise"], other.starts["noise"])


def test_problem_is_that_of_the_paper() -> None:
    """T = 5, five identical components, 30 parameters shared by all samples, no running cost."""
    case = _sine.make_case(0, 11)
    problem = _sine.control_problem(case.train)
    assert problem.horizon == (0.0, 5.0)
    assert _sine.LAYERS == 20
    assert problem.initial_state.shape == (11, 5)
    assert torch.equal(problem.initial_state, case.train.x[:, None].expand(11, 5))
    assert problem.m == _sine.PARAMETERS == 30
    assert problem.groups == 1
    assert problem.running_cost is None


def test_dynamics_are_a_layer() -> None:
    """tanh(W x + b) with W row by row."""
    weights, bias, x = torch.randn(5, 5).double(), torch.randn(5).double(), torch.randn(7, 5).double()
    u = torch.cat((weights.flatten(), bias))[None]
    expected = torch.tanh(x @ weights.T + bias)
    torch.testing.assert_close(_sine.dynamics(None, x, u), expected)


@pytest.mark.parametrize("start", ["good", "noise"])
def test_both_sides_have_the_same_loss_and_gradient(start: str) -> None:
    """The baselines' loss is the cost that the library minimizes, and its gradient is −w ∂H/∂u."""
    case = _sine.make_case(0, 13)
    seen: list[Any] = []
    solution = oc.solve(
        _sine.control_problem(case.train),
        oc.GradientDescent(1e-3),
        mesh=_sine.LAYERS,
        integrator=oc.Euler(),
        initial_control=case.starts[start],
        max_iterations=1,
        tolerance=None,
        callback=lambda k, iterate: seen.append(iterate.u),
    )
    u = case.starts[start].clone().requires_grad_()
    value = _sine.loss(u, case.train)
    (slope,) = torch.autograd.grad(value, u)
    assert float(solution.history.cost[0, 0]) == pytest.approx(float(value.detach()), rel=1e-12)
    step = 5.0 / 20  # a step of gradient descent on a continuous problem is per unit of time
    torch.testing.assert_close(seen[0], u.detach() - 1e-3 * slope / step)


def test_loss_is_that_of_twenty_euler_steps() -> None:
    """The loss is the mean squared error of 20 Euler steps of 0.25 on the sum of the components."""
    case = _sine.make_case(0, 9)
    u = case.starts["good"]
    x = case.train.x[:, None].repeat(1, 5)
    for layer in u:
        x = x + 0.25 * torch.tanh(x @ layer[0, :25].reshape(5, 5).T + layer[0, 25:])
    expected = (x.sum(-1) - torch.sin(case.train.x)).square().mean()
    torch.testing.assert_close(_sine.loss(u, case.train), expected)


# --------------------------------------------------------------------------------------------- Hessian and symmetry


def test_hessian_against_differences_of_the_gradient() -> None:
    """Along a random direction, and symmetric."""
    case = _sine.make_case(0, 8)
    u = case.starts["good"].clone()
    matrix = _sine.hessian(u, case.train)
    assert matrix.shape == (600, 600)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)
    direction = torch.randn(600).double()
    direction /= direction.norm()

    def slope(v: torch.Tensor) -> torch.Tensor:
        v = v.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_sine.loss(v, case.train), v)
        return gradient.flatten()

    step = 1e-5 * direction.reshape(u.shape)
    difference = (slope(u + step) - slope(u - step)) / 2e-5
    # Central differences: the third derivative of a loss near 100 times the step squared.
    torch.testing.assert_close(matrix @ direction, difference, rtol=1e-5, atol=1e-6)


def test_symmetric_controls() -> None:
    """The basis is orthonormal and spans the controls without spread, to which the zero start is confined."""
    basis = _sine.symmetric_basis()
    assert basis.shape == (600, 40)
    torch.testing.assert_close(basis.T @ basis, torch.eye(40).double())
    inside = (basis @ torch.randn(40).double()).reshape(20, 1, 30)
    assert _sine.spread(inside) < 1e-15
    assert _sine.spread(torch.randn(20, 1, 30).double()) > 0.1
    case = _sine.make_case(0, 12)
    u = inside.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_sine.loss(u, case.train), u)
    slope = slope.flatten()
    torch.testing.assert_close(basis @ (basis.T @ slope), slope)


# --------------------------------------------------------------------------------------------------- runs and tuning


def test_baseline_is_torch() -> None:
    """Gradient descent follows u − η ∂J/∂u, and curves start at the starting control."""
    case = _sine.make_case(0, 10)
    run = _training.descend("SGD", 1e-3, "good", case, 2)
    u = case.starts["good"]
    losses = []
    for _ in range(3):
        u = u.clone().requires_grad_()
        value = _sine.loss(u, case.train)
        losses.append(float(value.detach()))
        (slope,) = torch.autograd.grad(value, u)
        u = u.detach() - 1e-3 * slope
    assert run.train == pytest.approx(losses, rel=1e-12)
    assert len(run.test) == 3
    assert run.test[0] == pytest.approx(float(_sine.loss(case.starts["good"], case.test)))


def test_diverging_baseline_has_infinite_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its curve keeps its length."""
    monkeypatch.setattr(_sine, "loss", lambda u, samples: (u * math.nan).sum())
    run = _training.descend("SGD", 0.1, "good", _sine.make_case(0, 4), 5)
    assert run.status == "NONFINITE"
    assert run.train == run.test == [math.inf] * 6


def test_successive_run_improves() -> None:
    """The adaptive penalty never lets the training loss rise."""
    run = _training.successive(emsa(None), "good", _sine.make_case(0, 20), 3)
    assert len(run.train) == len(run.test) == 4
    assert run.train == sorted(run.train, reverse=True)
    assert run.train[-1] < run.train[0]
    assert run.control.shape == (20, 1, 30)


@pytest.mark.parametrize("best", [1e-4, 0.1, 30.0])
def test_a_choice_at_the_edge_extends_the_grid(best: float) -> None:
    """Downwards or upwards, until the best value is inside."""

    def train(value: float) -> list[_training.Run]:
        level = abs(math.log10(value / best))
        return [_training.Run(seed, train=[9.0, level], test=[9.0, level]) for seed in range(3)]

    tuning = _training.tune(range(-4, 1, 2), train)
    assert not tuning.at_edge
    assert abs(math.log10(tuning.choice / best)) <= 0.5
    assert min(tuning.runs) < tuning.choice < max(tuning.runs)


def test_a_grid_is_not_extended_for_ever() -> None:
    """A choice that stays at the edge is reported as such."""
    tuning = _training.tune(range(0, 3, 2), lambda value: [_training.Run(0, train=[1.0, 1.0 / value])])
    assert tuning.at_edge
    assert len(tuning.runs) == 2 + _training.EXTENSIONS


# ------------------------------------------------------------------------------------------------------------ claims


def synthetic(ours: list[float], theirs: list[float], spread: float = 0.0, smallest: float = -1.0) -> dict[str, Any]:
    """Results in which all E-MSA curves are alike, and all baselines."""

    def method(curve: list[float]) -> dict[str, Any]:
        runs = [{"seed": seed, "train": curve, "test": curve, "spread": spread} for seed in range(3)]
        at = {str(k): value for k, value in enumerate(curve)}
        return {"runs": runs, "grid": [{"value": 0.1, "at": at}], "choice": 0.1}

    panel = {name: method(ours if name in SUCCESSIVE else theirs) for name in METHODS}

    def point(slope: float) -> dict[str, Any]:
        down = {"distance": 1.0, "loss": 0.2 if smallest < 0 else 0.3}
        signs = {"negative": int(smallest < 0), "zero": 0, "positive": 599}
        spectrum = {"smallest": smallest, "largest": 2.0, "lowest_direction": down}
        return {"name": "a point", "loss": 0.25, "gradient_norm": slope, **signs, **spectrum}

    panels = {start: copy.deepcopy(panel) for start in _sine.STARTS}
    return {
        "iterations": len(ours) - 1,
        "panels": panels,
        "patience": {"iterations": len(ours) - 1, "methods": copy.deepcopy(panel)},
        "hessian": {"start": point(100.0), "stalled": point(1e-3)},
    }


FALLING = [78.0 * 0.5**k for k in range(21)]
STUCK = [78.0] + [0.25 + 1.0 / k for k in range(1, 21)]


def verdicts(results: dict[str, Any], words: str) -> set[bool]:
    """Verdicts of the claims that contain some words."""
    found = {claim.agrees for claim in check_claims(results) if words in claim.statement}
    assert found, words
    return found


def test_claims_agree_with_numbers_as_in_the_paper() -> None:
    """E-MSA fast, gradient methods stuck near a saddle."""
    results = synthetic([0.1 * value for value in FALLING], STUCK)
    for words in (
        "is ahead of",
        "E-MSA, fixed ρ escapes",
        "E-MSA, adaptive ρ escapes",
        "is stuck to the end",
        "stay equal",
    ):
        assert verdicts(results, words) == {True}
    # The start itself has a large gradient; only the stalled point is close to a saddle.
    assert [claim.agrees for claim in check_claims(results) if "saddle" in claim.statement] == [False, True]


def test_claims_disagree_with_numbers_the_other_way_round() -> None:
    """Gradient methods fast, E-MSA stuck, rows apart, no negative eigenvalue."""
    results = synthetic(STUCK, [0.1 * value for value in FALLING], spread=0.3, smallest=0.1)
    for claim in check_claims(results):
        assert not claim.agrees, claim.statement
        assert claim.evidence


def test_one_late_crossing_is_enough_to_disagree() -> None:
    """Ahead means at every count."""
    ahead = [0.1 * value for value in FALLING]
    results = synthetic(ahead, FALLING)
    assert verdicts(results, "is ahead of tuned") == {True}
    results = synthetic([*ahead[:-1], 1e6], FALLING)
    assert verdicts(results, "is ahead of tuned") == {False}


def test_missing_losses_are_infinite() -> None:
    """A diverged run, stored as null, neither escapes nor is ahead."""
    results = synthetic(FALLING, STUCK)
    for run in results["panels"]["noise"]["Adam"]["runs"]:
        run["train"] = [78.0] + [None] * 20
    assert verdicts(results, "tuned Adam is stuck to the end from zero with noise") == {True}


# -------------------------------------------------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Output of the short run."""
    folder = tmp_path_factory.mktemp("figure1") / "new"
    assert main(["--quick", "--iterations", "4", "--out", str(folder)]) == 0
    return folder, json.loads((folder / "figure1.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_files(quick: tuple[Path, dict[str, Any]]) -> None:
    """A picture in two formats."""
    folder, _ = quick
    assert (folder / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figure1.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in folder.iterdir()) == ["figure1.json", "figure1.pdf", "figure1.png"]


@pytest.mark.slow
def test_structure(quick: tuple[Path, dict[str, Any]]) -> None:
    """Everything that one needs to know about the run, and nothing about whose machine it was."""
    _, results = quick
    assert results["study"]["quick"] is True
    assert results["iterations"] == 4
    assert results["seeds"] == [0, 1]
    assert results["dtype"] == "torch.float64"
    assert results["network"] == {"width": 5, "layers": 20, "horizon": 5.0}
    assert set(results["versions"]) == {"python", "torch", "numpy", "ocsolver"}
    assert set(results["machine"]) == {"platform", "cpus", "threads"}
    assert results["seconds"] > 0
    assert set(results["panels"]) == set(_sine.STARTS) == {"good", "zero", "noise"}
    assert results["patience"]["iterations"] == 8
    assert set(results["patience"]["methods"]) == {"SGD", "Adagrad", "Adam"}


@pytest.mark.slow
def test_curves(quick: tuple[Path, dict[str, Any]]) -> None:
    """Of every method and seed, finite, and one longer than the number of iterations."""
    _, results = quick
    for start, panel in results["panels"].items():
        assert tuple(panel) == METHODS
        for record in panel.values():
            assert [run["seed"] for run in record["runs"]] == [0, 1]
            assert record["seconds_per_iteration"] > 0
            for run in record["runs"]:
                for curve in (run["train"], run["test"]):
                    assert len(curve) == 5
                    assert all(math.isfinite(value) for value in curve)
        for seed in (0, 1):  # all methods start at the same point with the same data
            for which in ("train", "test"):
                first = [record["runs"][seed][which][0] for record in panel.values()]
                assert first == pytest.approx([first[0]] * len(METHODS), rel=1e-5), start


@pytest.mark.slow
def test_grids(quick: tuple[Path, dict[str, Any]]) -> None:
    """The choice has the lowest end loss of its grid, and lies inside unless marked."""
    _, results = quick
    for panel in results["panels"].values():
        assert panel["E-MSA, adaptive ρ"]["grid"] == []
        for method in set(METHODS) - {"E-MSA, adaptive ρ"}:
            record = panel[method]
            ends = {entry["value"]: entry["end"] for entry in record["grid"]}
            assert ends[record["choice"]] == min(ends.values())
            assert record["choice_at_edge"] == (record["choice"] in (min(ends), max(ends)))
            assert all(set(entry["at"]) == {"4"} for entry in record["grid"])


@pytest.mark.slow
def test_spectra(quick: tuple[Path, dict[str, Any]]) -> None:
    """600 eigenvalues each, with their counts."""
    _, results = quick
    assert set(results["hessian"]) == {"start", "stalled", "saturated"}
    for point in results["hessian"].values():
        values = point["eigenvalues"]
        assert len(values) == point["negative"] + point["zero"] + point["positive"] == 600
        assert values == sorted(values)
        assert point["smallest"] == values[0]
        assert point["largest"] == values[-1]
        assert point["smallest"] <= point["smallest_symmetric"]
        assert point["asymmetry"] < 1e-9 * point["largest"]


@pytest.mark.slow
def test_stored_claims_follow_from_the_stored_numbers(quick: tuple[Path, dict[str, Any]]) -> None:
    """Whatever they say of so short a run."""
    _, results = quick
    claims = check_claims(results)
    assert [claim.agrees for claim in claims] == [claim["agrees"] for claim in results["claims"]]
    assert [claim.statement for claim in claims] == [claim["statement"] for claim in results["claims"]]


def test_documented_run_has_the_claims_of_this_script() -> None:
    """The verdicts in the documentation are those that the stored numbers give today."""
    results = json.loads((ROOT / "docs" / "figures" / "figure1.json").read_text(encoding="utf-8"))
    assert not results["study"]["quick"]
    claims = check_claims(results)
    assert [(claim.statement, claim.agrees) for claim in claims] == [
        (claim["statement"], claim["agrees"]) for claim in results["claims"]
    ]
    assert f"{len(claims)} statements" in (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["--seeds", "--iterations"])
def test_nonsense_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code of argparse."""
    with pytest.raises(SystemExit) as caught:
        main([option, "0"])
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err
