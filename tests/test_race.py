"""The race of training methods: one runs at a time, clocks are honest, thresholds are held, and runs go on."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ocsolver as oc
from scripts import _race_methods, _sine, benchmark_training
from scripts._race import Rules, Watch, passage, race
from scripts._race_curvature import available
from scripts._race_loops import Muon
from scripts._race_methods import METHODS, forward_equivalents
from scripts._race_results import summarize, value_at
from scripts._race_study import Study, level
from scripts._race_tasks import Batches, all_tasks, evaluate

EVERY = Rules("loss", (1e-9,), lambda step: True)


@pytest.fixture(autouse=True)
def threads() -> Any:
    """The scripts set the number of threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the script."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = benchmark_training.main([str(argument) for argument in arguments])
    return code, text.getvalue()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Folder, numbers and output of a quick race."""
    out = tmp_path_factory.mktemp("race")
    code, text = run("--quick", "--out", out)
    assert code == 0
    return out, json.loads((out / "benchmark_training.json").read_text(encoding="utf-8")), text


# ------------------------------------------------------------------------------------------------------ the script


@pytest.mark.slow
def test_quick_race_writes_everything(quick: tuple[Path, dict[str, Any], str]) -> None:
    """Every method has its runs, its step size and its table; there are pictures, versions, and no paths."""
    out, results, text = quick
    assert results["versions"]["ocsolver"] == oc.__version__
    assert str(out) not in json.dumps(results)
    assert results["races"].keys() == results["summary"].keys() == {"sine-good-sin", "mnist", "digits"}
    for task, races in results["races"].items():
        assert [record["seed"] for record in races] == [0, 1]
        assert (out / f"benchmark_training_{task}.png").stat().st_size > 10_000
        assert f"{task}: processor seconds (steps)" in text
        for record in races:
            families = {run["family"] for run in record["runs"]}
            assert {"E-MSA", "SGD", "Adagrad", "Adam", "AdamW"} <= families
            assert ("L-BFGS" in families) == (task == "sine-good-sin")
            assert ("Adam mean" in families) == (task != "sine-good-sin")
            for entry in record["runs"]:
                tuned = results["tuning"][task].get(entry["family"])
                assert tuned is None or entry["value"] == tuned["choice"]
        for entry in results["tuning"][task].values():
            levels = {point["value"]: point["level"] for point in entry["grid"]}
            assert levels[entry["choice"]] == min(value for value in levels.values() if value is not None)


@pytest.mark.slow
def test_runs_are_interleaved(quick: tuple[Path, dict[str, Any], str]) -> None:
    """While two runs are in the race, neither is a step ahead of the other by more than the round allows."""
    _, results, _ = quick
    for races in results["races"].values():
        for record in races:
            runs = record["runs"]
            count = len(runs)
            for place, entry in enumerate(runs):
                curve = entry["curve"]
                for step, turn in zip(curve["step"], curve["turn"], strict=True):
                    assert (step - 1) < turn <= (step - 1) * count + place + 1
            # nobody has left in the first round, which takes all of them one step on
            first = [(k, entry) for k, entry in enumerate(runs) if entry["curve"]["step"][0] == 1]
            assert all(entry["curve"]["turn"][0] == k + 1 for k, entry in first)
            assert sum(entry["steps"] for entry in runs) == record["turns"]


@pytest.mark.slow
def test_clocks_are_monotone_and_honest(quick: tuple[Path, dict[str, Any], str]) -> None:
    """Steps, turns and seconds only grow, and processor time is not more than wall clock."""
    _, results, _ = quick
    for races in results["races"].values():
        for record in races:
            for entry in record["runs"]:
                curve = entry["curve"]
                for name in ("step", "turn", "seconds", "cpu_seconds"):
                    assert all(a < b for a, b in zip(curve[name], curve[name][1:], strict=False)), name
                assert curve["seconds"][-1] <= entry["seconds"]
                assert entry["cpu_seconds"] <= entry["seconds"] + 0.02
                assert entry["forward_equivalents"] > 1.0


@pytest.mark.slow
def test_thresholds_are_held_twice(quick: tuple[Path, dict[str, Any], str]) -> None:
    """The stored times follow from the curves."""
    _, results, _ = quick
    for task in ("mnist", "digits"):
        for record in results["races"][task]:
            assert record["rules"]["hold"] == 2
            for entry in record["runs"]:
                accuracy = entry["curve"]["accuracy"]
                for threshold in record["rules"]["thresholds"]:
                    row = entry["reached"][f"{threshold:g}"]
                    pairs = itertools.pairwise(accuracy)
                    held = [k for k, (a, b) in enumerate(pairs) if min(a, b) >= threshold]
                    assert (row is None) == (not held)
                    assert row is None or row["step"] == entry["curve"]["step"][held[0]]
                if entry["status"] == "REACHED":
                    assert all(entry["reached"].values())


@pytest.mark.slow
def test_ratios_follow_from_the_records(quick: tuple[Path, dict[str, Any], str]) -> None:
    """The summary is nothing but the records."""
    _, results, _ = quick
    summary = results["summary"]["sine-good-sin"]["thresholds"]["1"]
    ours = [
        next(entry for entry in record["runs"] if entry["family"] == "E-MSA")["reached"]["1"]["cpu_seconds"]
        for record in results["races"]["sine-good-sin"]
    ]
    rival = summary["best_first_order"]
    theirs = summary["methods"][rival["competitor"]]["cpu_seconds"]
    assert rival["ratio"]["cpu_seconds"] == pytest.approx(theirs["median"] / (sum(ours) / 2), rel=1e-4)
    assert theirs["median"] == min(
        part["cpu_seconds"]["median"] or math.inf
        for name, part in summary["methods"].items()
        if name not in ("E-MSA", "L-BFGS")
    )


@pytest.mark.slow
def test_a_race_goes_on_where_it_was(quick: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """Finished seeds and tuned step sizes are kept; only what is missing runs."""
    out, results, _ = quick
    partial_results = json.loads(json.dumps(results))
    del partial_results["races"]["digits"][1], partial_results["races"]["mnist"]
    (tmp_path / "benchmark_training.json").write_text(json.dumps(partial_results), encoding="utf-8")
    code, text = run("--quick", "--task", "digits", "--out", tmp_path)
    assert code == 0
    assert "digits, seed 1: " in text
    assert "digits, seed 0: " not in text
    assert "runs with step size" not in text
    again = json.loads((tmp_path / "benchmark_training.json").read_text(encoding="utf-8"))
    assert again["races"]["digits"][0] == results["races"]["digits"][0]
    assert again["races"]["sine-good-sin"] == results["races"]["sine-good-sin"]
    # the same batches, the same start: the same curve
    for one, other in zip(again["races"]["digits"][1]["runs"], results["races"]["digits"][1]["runs"], strict=True):
        assert one["curve"]["loss"] == pytest.approx(other["curve"]["loss"], rel=1e-4)

    code, text = run("--quick", "--reuse", out / "benchmark_training.json", "--out", tmp_path / "other")
    assert code == 0
    assert "turns" not in text
    reused = json.loads((tmp_path / "other" / "benchmark_training.json").read_text(encoding="utf-8"))
    assert reused["races"] == results["races"]
    assert reused["tuning"] == results["tuning"]


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted script says so and writes the seeds that it finished."""
    whole = Study.race

    def once(self: Study, task: Any, seed: int) -> dict[str, Any]:
        if seed == 1:
            raise KeyboardInterrupt
        return whole(self, task, seed)

    monkeypatch.setattr(Study, "race", once)
    arguments = ("--quick", "--task", "sine-good-sin", "--methods", "E-MSA", "Adam", "--out", tmp_path)
    assert run(*arguments)[0] == 130
    stored = json.loads((tmp_path / "benchmark_training.json").read_text(encoding="utf-8"))
    assert [record["seed"] for record in stored["races"]["sine-good-sin"]] == [0]


@pytest.mark.slow
def test_other_settings_are_refused(
    quick: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Runs with other methods do not mix with those that are there."""
    text = (quick[0] / "benchmark_training.json").read_text(encoding="utf-8")
    (tmp_path / "benchmark_training.json").write_text(text, encoding="utf-8")
    for arguments, message in (
        (["--methods", "E-MSA"], "choose another folder"),
        (["--seeds", "0"], "--seeds must be positive"),
        (["--task", "cifar"], "no task has such a name"),
        (["--methods", "Newton"], "there is no method Newton"),
    ):
        with pytest.raises(SystemExit):
            benchmark_training.main(["--quick", "--out", str(tmp_path), *arguments])
        assert message in capsys.readouterr().err


def test_runs_go_to_the_end_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bool] = []

    def watch(study: Any) -> bool:
        seen.extend(task.leave_early for task in study.tasks)
        return True

    monkeypatch.setattr(benchmark_training, "run", watch)
    for arguments in ([], ["--to-the-end"]):
        benchmark_training.main(["--quick", "--task", "mnist", "--out", str(tmp_path), *arguments])
    assert seen == [True, False]


# ------------------------------------------------------------------------------------------------------ the baton


def busy(seconds: float, steps: int, trace: list[str], watch: Watch) -> None:
    """A run that only spends time, and draws a random number per step."""
    watch.begin()
    for step in range(1, steps + 1):
        trace.append(watch.name)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        value = float(torch.rand(()))
        if watch.tick(step, lambda value=value: (1.0 + value, math.nan)):
            return


def test_only_the_own_clock_ticks() -> None:
    """Runs alternate; a slow one does not cost the others time."""
    trace: list[str] = []
    watches = [Watch("slow", EVERY, 5), Watch("quick", EVERY, 9)]
    turns = race(watches, {"slow": partial(busy, 0.02, 9, trace), "quick": partial(busy, 0.001, 9, trace)})
    assert trace == ["slow", "quick"] * 5 + ["quick"] * 4
    assert turns == 14
    slow, quick = watches
    assert slow.steps == 5
    assert slow.status == quick.status == "COMPLETED"
    assert slow.seconds >= 0.1
    assert 0.009 <= quick.seconds < slow.seconds


def test_turns_can_be_longer_than_a_step() -> None:
    """Quick steps are taken together until the turn is long enough."""
    trace: list[str] = []
    watches = [Watch(name, EVERY, 8, turn_seconds=60.0) for name in "ab"]
    race(watches, {name: partial(busy, 0.001, 9, trace) for name in "ab"})
    assert "".join(trace) == "a" * 8 + "b" * 8


def test_no_run_notices_the_others() -> None:
    """The random numbers of a run are those that it draws alone."""
    alone, beside = Watch("a", EVERY, 6), Watch("a", EVERY, 6)
    race([alone], {"a": partial(busy, 0.0, 9, [])})
    race([beside, Watch("b", EVERY, 4)], {name: partial(busy, 0.0, 9, []) for name in "ab"})
    assert [point[-2] for point in beside.points] == [point[-2] for point in alone.points]
    assert len({point[-2] for point in alone.points}) == 6


def test_an_error_ends_the_race() -> None:
    """It reaches the caller, and nobody waits for ever."""

    def fail(watch: Watch) -> None:
        watch.begin()
        raise RuntimeError("no")

    other = Watch("b", EVERY, 1000)
    with pytest.raises(RuntimeError, match="no"):
        race([Watch("a", EVERY, 9), other], {"a": fail, "b": partial(busy, 0.0, 1000, [])})
    assert other.status == "INTERRUPTED"


def test_ctrl_c_lets_every_run_end_its_step() -> None:
    """Nothing is left running when the race hands over the interrupt."""
    watches = [Watch(name, EVERY, 10_000) for name in "ab"]

    def interrupted(watch: Watch) -> None:
        watch.begin()
        for step in range(1, 10_000):
            if step == 3:
                signal.raise_signal(signal.SIGINT)  # only the main thread hears it
            if watch.tick(step, lambda: (1.0, math.nan)):
                return

    before = threading.active_count()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            race(watches, {"a": interrupted, "b": partial(busy, 0.001, 10_000, [])})
    finally:
        signal.signal(signal.SIGINT, handler)
    assert {watch.status for watch in watches} == {"INTERRUPTED"}
    assert threading.active_count() == before


def test_a_passage_must_be_held() -> None:
    """The first of the values counts; one at the very end was not held."""
    values = [0.5, 0.96, 0.9, 0.96, None, 0.97, 0.98]
    assert passage(values, lambda value: value >= 0.95, 2) == 5
    assert passage(values, lambda value: value >= 0.95, 1) == 1
    assert passage(values, lambda value: value >= 0.98, 2) is None


def test_a_run_that_fails_is_the_worst() -> None:
    """Tuning never chooses a step size that diverges; more thresholds are better, and so is a lower loss."""

    def watch(losses: list[float]) -> Watch:
        result = Watch("a", Rules("loss", (0.5, 0.1), lambda step: True), 5)
        for step, loss in enumerate(losses, 1):
            if result.tick(step, lambda loss=loss: (loss, math.nan)):
                break
        return result

    good, fair, poor = watch([0.4, 0.05]), watch([0.6, 0.4, 0.4, 0.4, 0.4]), watch([3.0, 2.0, 2.0, 2.0, 2.0])
    assert good.status == "REACHED"
    assert level(good) < level(fair) < level(poor) < level(watch([3.0, math.nan])) == math.inf


# ------------------------------------------------------------------------------------------------------ the tasks


def test_tasks_are_those_of_the_paper() -> None:
    """Sizes, batches and thresholds of the full race; the sine network computes what the script of figure 1 does."""
    tasks = all_tasks(quick=False, epochs=None, seconds=30.0)
    assert sum(name.startswith("sine") for name in tasks) == 8
    assert tasks["mnist"].thresholds == (0.95, 0.97, 0.985)
    assert tasks["fashion"].thresholds == (0.80, 0.86, 0.89)
    case = tasks["sine-good-sin"].make(3, False)
    drawn = _sine.make_case(3)
    with torch.no_grad():
        loss = float(case.loss(case.network(case.train[0]), case.train[1]).mean())
    assert loss == pytest.approx(float(_sine.loss(drawn.starts["good"], drawn.train)), rel=1e-5)
    digits = tasks["digits"].make(0, False)
    assert isinstance(digits.network, oc.nn.ResidualNetwork)
    assert len(digits.network.layers) == 50
    assert len(digits.train[0]) // 32 == tasks["digits"].limit // 10
    validation = tasks["digits"].make(0, True).test[0]
    assert len(validation) != len(digits.test[0])


def test_batches_are_those_of_their_seed() -> None:
    """Every sample once per epoch, in an order that nothing else disturbs."""
    data = torch.arange(10.0)[:, None], torch.arange(10)
    one, other = Batches(data, 5, 1), Batches(data, 5, 1)
    first = [y for _, y in one]
    torch.rand(7)
    assert torch.equal(torch.cat(first), torch.cat([y for _, y in other]))
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(first), torch.cat([y for _, y in one]))


# ------------------------------------------------------------------------------------------------------ the methods


def test_plain_loop_is_the_optimizer() -> None:
    """The competitor's weights are those of the textbook loop, and its answer with averages the mean that is meant."""
    case = all_tasks(quick=True, epochs=None, seconds=1.0)["digits"].make(0, False)
    losses: dict[str, list[float]] = {}
    rules = Rules("accuracy", (2.0,), lambda step: True)
    for name in ("SGD", "SGD mean"):
        watch = Watch(name, rules, 5)
        METHODS[name].train(case, 0.1, watch)
        losses[name] = [point[-2] for point in watch.points]
    network, answer = case.build(), case.build()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for k, (x, y) in zip(range(5), case.loader(), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        share = 9.0 / (k + 9.0)
        with torch.no_grad():
            for mean, weight in zip(answer.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, share)
        assert evaluate(network, case)[0] == pytest.approx(losses["SGD"][k], rel=1e-5)
        assert evaluate(answer, case)[0] == pytest.approx(losses["SGD mean"][k], rel=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of PyTorch has no Muon")
def test_muon_takes_filters_as_matrices() -> None:
    """A step on filters is that on the matrix of the same numbers."""
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(4, 2, 3, 3))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    filters.grad = torch.randn(4, 2, 3, 3)
    matrix.grad = filters.grad.flatten(1).clone()
    Muon([filters], 0.1).step()
    torch.optim.Muon([matrix], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(filters.detach().flatten(1), matrix.detach())


def test_quasi_newton_counts_every_evaluation() -> None:
    """The line search's evaluations are steps, and the run ends in the middle of the optimizer's call."""
    case = all_tasks(quick=True, epochs=None, seconds=1.0)["sine-good-sin"].make(0, False)
    watch = Watch("L-BFGS", Rules("loss", (1e-9,), lambda step: True), 25)
    METHODS["L-BFGS"].train(case, math.nan, watch)
    assert watch.status == "COMPLETED"
    assert [point[0] for point in watch.points] == list(range(1, 26))
    assert min(point[-2] for point in watch.points) < 1.0


def test_a_gradient_step_is_about_three_forward_passes() -> None:
    """Back-propagation is two forward passes, less what the first layer saves."""
    case = all_tasks(quick=True, epochs=None, seconds=1.0)["mnist"].make(0, False)
    assert 2.0 < forward_equivalents(METHODS["Adam"], case, 1e-3) <= 3.0
    assert forward_equivalents(METHODS["E-MSA"], case, math.nan) > 3.0


@pytest.mark.parametrize("name", ["K-FAC", "SINGD"])
@pytest.mark.filterwarnings("ignore")
def test_optional_packages_train(name: str) -> None:
    """If they are there, they lower the loss."""
    if not available({"K-FAC": "asdl", "SINGD": "singd"}[name]):
        pytest.skip("not installed")
    case = all_tasks(quick=True, epochs=None, seconds=1.0)["mnist"].make(0, False)
    watch = Watch(name, Rules("accuracy", (2.0,), lambda step: True), 12)
    METHODS[name].train(case, 3e-3, watch)
    assert watch.points[-1][-2] < watch.points[0][-2]


def test_there_is_one_place_for_the_solver() -> None:
    """What is measured as E-MSA is told in the JSON file."""
    assert METHODS["E-MSA"].about == repr(_race_methods.EMSA)


# ------------------------------------------------------------------------------------------------------ the results


def record(seed: int, arrivals: dict[str, list[float]]) -> dict[str, Any]:
    """A race on digits in which each method is at 0.5 and arrives at 0.9 and 0.96 at the given seconds."""
    runs = []
    for name, (first, second) in arrivals.items():
        seconds = [0.5 * first, first, second, second + 1.0]
        curve = {"step": [1, 2, 3, 4], "turn": [1, 2, 3, 4], "seconds": seconds, "cpu_seconds": seconds}
        curve |= {"loss": [1.0] * 4, "accuracy": [0.5, 0.9, 0.96, 0.96]}
        run = {"method": name, "family": name, "first_order": name != "K-FAC", "steps": 4}
        run |= {"seconds": second + 1.0, "cpu_seconds": second + 1.0}
        row = {column: values[1] for column, values in curve.items()}
        runs.append(run | {"curve": curve, "reached": {"0.9": row}, "milliseconds_per_step": 1.0} | FORWARD)
    rules = {"thresholds": [0.9], "hold": 2, "measure": "accuracy", "target_step": 3}
    return {"task": "digits", "seed": seed, "rules": rules, "runs": runs}


FORWARD = {"forward_equivalents": 3.0}


def test_summary_compares_medians() -> None:
    """Best competitor by its median, gradients alone and all; the target is what the best one has by then."""
    races = [
        record(0, {"E-MSA": [2.0, 4.0], "Adam": [4.0, 5.0], "SGD": [5.0, 6.0], "K-FAC": [1.0, 9.0]}),
        record(1, {"E-MSA": [2.0, 4.0], "Adam": [6.0, 7.0], "SGD": [5.0, 6.0], "K-FAC": [1.0, 9.0]}),
        record(2, {"E-MSA": [2.0, 4.0], "Adam": [7.0, 9.0], "SGD": [5.0, 6.0], "K-FAC": [1.0, 9.0]}),
    ]
    summary = summarize(races)
    assert summary["target"] == 0.96
    first = summary["thresholds"]["0.9"]
    assert first["best_first_order"]["competitor"] == "SGD"
    assert first["best_first_order"]["ratio"]["seconds"] == pytest.approx(2.5)
    assert first["best_of_all"]["competitor"] == "K-FAC"
    assert first["best_of_all"]["by_seed"] == [0.5] * 3
    assert first["methods"]["Adam"]["seconds"]["median"] == 6.0
    assert summary["thresholds"]["0.96"]["best_of_all"]["ratio"]["seconds"] == pytest.approx(1.5)
    assert summary["equal_time"]["seconds"] == 5.0
    assert summary["equal_time"]["methods"]["SGD"]["median"] == 0.9
    assert math.isnan(value_at(races[0]["runs"][0], "accuracy", "seconds", 0.5))


def test_the_loss_of_our_runs_is_that_of_the_network() -> None:
    """What E-MSA reports on the full batch is what the trained network computes by itself."""
    case = all_tasks(quick=True, epochs=None, seconds=1.0)["sine-good-sin"].make(0, False)
    watch = Watch("E-MSA", EVERY, 20)
    METHODS["E-MSA"].train(case, math.nan, watch)
    problem = oc.nn.NetworkProblem(case.build(), case.loss, *case.train)
    solution = oc.solve(problem, _race_methods.EMSA, max_iterations=20, tolerance=None)
    with torch.no_grad():
        loss = float(case.loss(problem.network(solution)(case.train[0]), case.train[1]).mean())
    assert watch.points[-1][0] == 20
    assert watch.points[-1][-2] == pytest.approx(loss, rel=1e-3)
