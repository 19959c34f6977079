"""Figures 2 to 4: the network is the paper's, runs are kept and continued, and the claims can come out either way."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ocsolver as oc
from scripts import _images, figure2, figure3, figure4
from scripts._images import Job, Size
from scripts._images_claims import check_claims, seconds_to
from scripts._images_study import InterruptionError, Runner, Study, level, place

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("E-MSA", "SGD", "Adagrad", "Adam")


@pytest.fixture(autouse=True)
def threads() -> Any:
    """The scripts set the number of threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------ the network


def test_network_is_that_of_the_paper() -> None:
    """Ten layers: two projections with 3×3 filters, 7 residual layers with δ = 0.5 and 32 channels, a linear one."""
    net = _images.network(Size(), 0)
    assert len(net.lift) + len(net.layers) + len(net.head) - 1 == 10  # the head's flatten has no parameters
    assert net.step == 0.5
    assert len(net.layers) == 7
    sizes = [tuple(value.shape) for value in net.parameters() if value.ndim > 1]
    assert sizes == [(32, 1, 3, 3), (32, 32, 3, 3), *[(32, 32, 3, 3)] * 7, (10, 32 * 7 * 7)]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    study = Study("mnist")
    assert study.size == Size(28, 32, 7, 0.5, 100)
    assert (study.seeds, study.epochs, study.successive_epochs) == (3, 5, 2)


def test_tanh_after_pooling_is_tanh_before_it() -> None:
    """The order that the script uses gives the paper's function."""
    lift = _images.network(Size(image=8, channels=3, depth=1), 1).lift[0]
    assert isinstance(lift, nn.Sequential)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(lift(x), lift[1](torch.tanh(lift[0](x))))


def test_solver_is_that_of_the_paper() -> None:
    """Ten iterations of L-BFGS on the Hamiltonian of each layer, with a fixed ρ."""
    solver = _images.solver_for("E-MSA", 3.0, nn.Linear(1, 1))
    assert solver == oc.EMSA(oc.LBFGS(iterations=10), rho=3.0, accelerate=False)


def test_a_seed_fixes_the_start() -> None:
    """All methods start from the weights that the seed draws."""
    size = Size(image=8, channels=3, depth=1)
    one, same, other = (_images.network(size, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.1.weight"], other["head.1.weight"])


# ------------------------------------------------------------------------------------------------------ the machinery


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Folder, numbers and output of a quick Figure 2."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("figures")
    text = io.StringIO()
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(text):
        assert figure2.main(["--quick", "--out", str(out)]) == 0
    torch.set_num_threads(threads)
    return out, json.loads((out / "figure2.json").read_text(encoding="utf-8")), text.getvalue()


@pytest.mark.slow
def test_quick_run_writes_everything(quick: tuple[Path, dict[str, Any], str]) -> None:
    """Pictures, numbers of every run, versions, claims; no path and no user."""
    out, results, text = quick
    assert (out / "figure2.png").stat().st_size > 20_000
    assert (out / "figure2.pdf").stat().st_size > 5_000
    assert results["data"] == "digits"
    assert results["versions"]["ocsolver"] == oc.__version__
    assert results["tuning"].keys() == set(METHODS)
    for method, tuning in results["tuning"].items():
        levels = {entry["value"]: entry["level"] for entry in tuning["grid"]}
        assert levels[tuning["choice"]] == min(levels.values())
        runs = [run for run in results["runs"] if run["method"] == method]
        assert {run["seed"] for run in runs} == {0, 1}
        for run in runs:
            assert run["complete"]
            assert run["value"] == tuning["choice"]
            assert run["train"]["step"][-1] == run["test"]["step"][-1] == run["steps"]
            assert run["seconds"] > 0.0
    assert results["claims"]
    for claim in results["claims"]:
        assert claim["statement"] in text
    assert str(out) not in json.dumps(results)


@pytest.mark.slow
def test_the_other_figures_use_the_runs(quick: tuple[Path, dict[str, Any], str]) -> None:
    """Figures 3 and 4 train nothing that is there."""
    out, results, _ = quick
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    for number, module in ((3, figure3), (4, figure4)):
        assert module.main(["--quick", "--out", str(out)]) == 0
        other = json.loads((out / f"figure{number}.json").read_text(encoding="utf-8"))
        assert other["runs"] == results["runs"]
        assert (out / f"figure{number}.png").stat().st_size > 20_000
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == before


@pytest.mark.slow
def test_numbers_can_be_reused(quick: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """``--reuse`` brings finished runs back from the JSON file alone."""
    out, results, _ = quick
    code = figure2.main(["--quick", "--draw", "--reuse", str(out / "figure2.json"), "--out", str(tmp_path)])
    assert code == 0
    again = json.loads((tmp_path / "figure2.json").read_text(encoding="utf-8"))
    assert again["runs"] == results["runs"]
    assert again["tuning"] == results["tuning"]


@pytest.mark.slow
def test_the_race_is_drawn_in_units_of_adam(quick: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """Another day, another machine: seconds of E-MSA are in proportion to a step of Adam here and there."""
    out, results, _ = quick
    curve = {"step": [5, 10], "seconds": [1.0, 2.0], "loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
    runs = [
        {"family": "E-MSA", "milliseconds_per_step": 200.0, "curve": curve},
        {"family": "Adam", "milliseconds_per_step": 100.0, "curve": curve},
    ]
    race = tmp_path / "race.json"
    race.write_text(json.dumps({"races": {"digits": [{"runs": runs}]}}), encoding="utf-8")
    figure = ["--quick", "--draw", "--reuse", str(out / "figure2.json"), "--out", str(tmp_path)]
    assert figure3.main([*figure, "--race", str(race)]) == 0
    drawn = json.loads((tmp_path / "figure3.json").read_text(encoding="utf-8"))["race"]
    adam = [1e3 * run["seconds"] / run["steps"] for run in results["runs"] if run["method"] == "Adam"]
    scale = sum(adam) / len(adam) / 100.0  # two seeds
    assert drawn[0]["seconds"] == pytest.approx([scale, 2.0 * scale], rel=1e-4)
    assert drawn[0]["loss"] == [2.0, 1.0]


@pytest.mark.slow
def test_partial_results_draw(
    quick: tuple[Path, dict[str, Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With some runs missing, and with none at all, there is a picture of what is there."""
    _, results, _ = quick
    some = [*results["records"], *[run for run in results["runs"] if run["method"] == "Adam" and run["seed"] == 0]]
    place(some, tmp_path / "runs")
    assert figure2.main(["--quick", "--draw", "--out", str(tmp_path)]) == 0
    partial = json.loads((tmp_path / "figure2.json").read_text(encoding="utf-8"))
    assert [run["method"] for run in partial["runs"]] == ["Adam"]
    assert figure4.main(["--quick", "--draw", "--out", str(tmp_path / "empty")]) == 0
    assert (tmp_path / "empty" / "figure4.png").exists()
    assert "claims" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the script with what is done; the same command continues to the same numbers."""
    data, study = _images.load_data("digits"), Study.short()
    job = Job("digits", "Adam", 0.01, 0, 20, False)
    whole = Runner(study, data, tmp_path / "whole").run(job)
    calls = []

    def once(bar: Any, step: int) -> None:
        calls.append(step)
        if len(calls) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr("scripts._images_study.set_bar", once)
    folder = tmp_path / "cut"
    with pytest.raises(InterruptionError):
        Runner(study, data, folder).run(job)
    half = json.loads((folder / f"{job.name}.json").read_text(encoding="utf-8"))
    assert not half["complete"]
    assert half["train"]["step"][-1] < 20
    again = Runner(study, data, folder).run(job)
    assert again["complete"]
    for part in ("train", "test"):
        assert again[part]["loss"] == whole[part]["loss"]
    assert calls[9] == half["train"]["step"][-1] + 1
    assert not list(folder.glob("*.pt"))


@pytest.mark.parametrize("argument", ["--seeds", "--epochs", "--successive-epochs"])
def test_sizes_must_be_positive(argument: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A size of zero is refused before anything runs."""
    with pytest.raises(SystemExit):
        figure2.main(["--quick", argument, "0", "--out", str(tmp_path / "none")])
    assert "must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_level_of_a_failed_run() -> None:
    """A loss that is missing makes the grid's value the worst."""
    assert level({"status": "STOPPED", "test": {"loss": [1.0, None]}}) == math.inf
    assert level({"status": "NONFINITE", "test": {"loss": [1.0]}}) == math.inf
    assert level({"status": "STOPPED", "test": {"loss": [1.0, 4.0]}}) == pytest.approx(2.0)


# ------------------------------------------------------------------------------------------------------ the claims


def results_of(losses: dict[str, float], accuracies: dict[str, float]) -> dict[str, Any]:
    """Results in which every curve is constant."""
    steps = [25, 50, 100, 200, 1100]

    def run(method: str) -> dict[str, Any]:
        count = len(steps)
        test = {"step": steps, "seconds": [0.1 * k for k in steps]}
        test |= {"loss": [losses[method]] * count, "accuracy": [accuracies[method]] * count}
        train = {"step": steps, "loss": [1.0] * count, "accuracy": [0.5] * count}
        job = {"method": method, "seed": 0, "value": 1.0, "steps": 1100, "per_epoch": 550, "complete": True}
        return job | {"seconds": 110.0, "train": train, "test": test}

    return {"figure": 3, "data": "mnist", "tuning": {}, "runs": [run(method) for method in METHODS]}


def test_claims_can_come_out_either_way() -> None:
    """The verdicts follow the numbers."""
    accuracies = dict.fromkeys(METHODS, 0.99)
    better = results_of({"E-MSA": 0.1, "SGD": 0.2, "Adagrad": 0.2, "Adam": 0.2}, accuracies)
    worse = results_of({"E-MSA": 0.3, "SGD": 0.2, "Adagrad": 0.2, "Adam": 0.2}, accuracies)
    for results, verdict in ((better, True), (worse, False)):
        claims = [claim for claim in check_claims(results) if "ahead" in claim.statement]
        assert len(claims) == 6
        assert {claim.agrees for claim in claims} == {verdict}


def test_claims_of_unfinished_runs() -> None:
    """Counts that some run has not reached are left out."""
    results = results_of(dict.fromkeys(METHODS, 0.1), dict.fromkeys(METHODS, 0.99))
    results["runs"][0]["test"] = copy.deepcopy(results["runs"][0]["test"])
    for part in results["runs"][0]["test"].values():
        del part[2:]
    results["runs"][0]["complete"] = False
    claims = [claim for claim in check_claims(results) if "ahead" in claim.statement]
    assert len(claims) == 3
    assert all("50" in claim.evidence and "100:" not in claim.evidence for claim in claims)


def test_a_level_that_is_never_reached_counts() -> None:
    """E-MSA is not slower than a method that never gets there."""
    accuracies = dict.fromkeys(METHODS, 0.5) | {"E-MSA": 0.99}
    claims = check_claims(results_of(dict.fromkeys(METHODS, 0.1), accuracies))
    seconds = [claim for claim in claims if "seconds" in claim.statement]
    assert [claim.agrees for claim in seconds] == [False] * 3
    assert all("never" in claim.evidence for claim in seconds)


def test_accuracies_are_checked() -> None:
    """An accuracy below the mark is reported."""
    losses = dict.fromkeys(METHODS, 0.1)
    for accuracy, verdict in ((0.99, True), (0.9, False)):
        claims = check_claims(results_of(losses, dict.fromkeys(METHODS, accuracy)))
        reached = [claim for claim in claims if "within" in claim.statement]
        assert [claim.agrees for claim in reached] == [verdict, verdict]


def test_seconds_count_when_a_level_is_held_twice() -> None:
    """A single evaluation above the level is luck."""
    run = {"test": {"accuracy": [0.5, 0.96, 0.9, 0.96, 0.97], "seconds": [1.0, 2.0, 3.0, 4.0, 5.0]}}
    assert seconds_to(run, 0.95) == 4.0
    assert seconds_to(run, 0.99) == math.inf


def test_slower_needs_more_seconds() -> None:
    """Figure 3's claim compares the clock."""
    results = results_of(dict.fromkeys(METHODS, 0.1), dict.fromkeys(METHODS, 0.99))
    slow = copy.deepcopy(results)
    for run in slow["runs"]:
        if run["method"] == "E-MSA":
            run["test"]["seconds"] = [10 * value for value in run["test"]["seconds"]]
    for given, verdict in ((results, False), (slow, True)):
        claims = [claim for claim in check_claims(given) if "seconds" in claim.statement]
        assert [claim.agrees for claim in claims] == [verdict] * 3


@pytest.mark.parametrize("number", [2, 3, 4])
def test_stored_claims_follow_from_the_stored_numbers(number: int) -> None:
    """The files in docs/figures were not edited by hand."""
    path = ROOT / "docs" / "figures" / f"figure{number}.json"
    if not path.exists():
        pytest.skip("this figure was not stored yet")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["claims"] == [vars(claim) for claim in check_claims(results)]
    assert path.with_suffix(".png").exists()
