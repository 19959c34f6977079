"""Every script runs with --quick, prints what it says and writes numbers that can be read again."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import ocsolver as oc
import problems
from problems import all_references
from scripts import benchmark_control
from scripts._peers_ours import problem_of
from scripts._peers_problems import STATEMENTS
from scripts._peers_resimulate import Control, resimulate

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(name: str, out: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON record of a script."""
    if not (SCRIPTS / f"{name}.py").exists():
        pytest.skip(f"there is no scripts/{name}.py")
    module = importlib.import_module(f"scripts.{name}")
    threads = torch.get_num_threads()
    try:
        code: int = module.main(["--quick", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
        plt.close("all")
    record: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return code, record


def check_record(record: dict[str, Any], out: Path) -> None:
    """Versions and machine are there; host, user and folders are not."""
    assert record["versions"]["ocsolver"] == oc.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]
    text = json.dumps(record)
    assert str(out) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


@pytest.mark.slow
def test_benchmark_of_the_solvers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = run("benchmark_solvers", tmp_path / "new" / "folder")
    printed = capsys.readouterr().out
    assert code == 0
    check_record(record, tmp_path)
    assert record["quick"] is True
    assert len(record["problems"]) == 4
    for result in record["problems"]:
        for name in ("EMSA", "DirectShooting"):
            part = result[name]
            assert part["status"] == ["CONVERGED"]
            assert 0.0 <= part["residual"] <= 1e-8
            assert abs(part["cost_error"]) <= 1e-2
            assert part["iterations"] >= 1
            assert len(part["seconds"]) == record["repeats"]
        assert result["EMSA"]["cost"] == pytest.approx(result["DirectShooting"]["cost"], rel=1e-6)
        ratio = result["EMSA"]["median_seconds"] / result["DirectShooting"]["median_seconds"]
        assert result["ratio"] == pytest.approx(ratio)
        assert result["name"] in printed
    assert record["total_seconds"]["EMSA"] == pytest.approx(
        sum(result["EMSA"]["median_seconds"] for result in record["problems"])
    )
    assert record["batch"]["ratio"] > 0.0
    assert math.isfinite(record["batch"]["ratio"])
    assert "times those on one" in printed


@pytest.mark.slow
def test_benchmark_of_the_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = run("benchmark_sweeps", tmp_path)
    printed = capsys.readouterr().out
    assert code == 0
    check_record(record, tmp_path)
    assert (tmp_path / "benchmark_sweeps.png").stat().st_size > 10_000
    for row in record["intervals"]:
        assert row["disagreement"]["state"] <= 1e-12
        assert row["disagreement"]["costate"] <= 1e-9  # of the linearization, one power less
        assert row["cost"]["parallel"] == pytest.approx(row["cost"]["intervals"], rel=1e-6)
        assert len(row["seconds"]["parallel"]) == record["repeats"]
        assert row["ratio"] > 0.0
    for family in record["growth"].values():
        for row in family:
            assert sum(row["parts"].values()) == pytest.approx(row["median_seconds"], rel=1e-6)
            assert row["newton"] is True
    assert record["memory"][0]["megabytes"] >= 0.0
    for text in ("growth", "ratio", "memory"):
        assert text in printed, text


def test_benchmark_of_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = run("benchmark_networks", tmp_path)
    assert code == 0
    check_record(record, tmp_path)
    (row,) = record["networks"]
    assert 0.0 < row["propagation"] + row["maximization"] < row["milliseconds"]
    assert row["ratio"] == pytest.approx(row["milliseconds"] / row["adam"], rel=1e-3)
    assert "Adam" in capsys.readouterr().out


@pytest.mark.slow
def test_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = importlib.import_module("scripts.gallery")
    figures, pages = tmp_path / "figures" / "gallery", tmp_path / "gallery"
    assert gallery.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "scalar-lqr" in capsys.readouterr().out
    record = json.loads((figures / "gallery.json").read_text(encoding="utf-8"))
    check_record(record, tmp_path)
    solved = {entry["name"]: entry for entry in record["problems"]}
    assert set(solved) == set(gallery.QUICK)
    regulator = solved["scalar-lqr"]
    assert regulator["status"] == ["CONVERGED"]
    assert regulator["certificate"]["max_gap"] <= 1e-7
    assert regulator["error"] == pytest.approx(float(regulator["cost"]) - 0.5 * math.tanh(1.0), rel=1e-4)
    assert 5_000 < (figures / "scalar-lqr.png").stat().st_size < 60_000
    page = (pages / "scalar_lqr.md").read_text(encoding="utf-8")
    for text in ("J\\* = ½ x0² tanh T", "0.380797077978", "max gap", "figures/gallery/scalar-lqr.png", "maptor/maptor"):
        assert text in page, text

    assert gallery.main(["--only", "hull", "--out", str(tmp_path)]) == 0  # the others are kept
    assert {path.stem for path in pages.glob("*.md")} == {
        "hull", "scalar_lqr", "linear_pendulum", "minimum_energy", "index"
    }  # fmt: skip
    before = page
    assert gallery.main(["--pages-only", "--out", str(tmp_path)]) == 0
    assert (pages / "scalar_lqr.md").read_text(encoding="utf-8") == before
    with pytest.raises(SystemExit):
        gallery.main(["--only", "hul", "--out", str(tmp_path)])
    assert "no such problem: hul" in capsys.readouterr().err


def test_gallery_of_the_documentation_is_complete(tmp_path: Path) -> None:
    """Every problem has its page, which says what its docstring and its record say today."""
    docs = SCRIPTS.parent / "docs"
    records = json.loads((docs / "figures" / "gallery" / "gallery.json").read_text(encoding="utf-8"))["problems"]
    references = problems.all_references()
    assert [record["name"] for record in records] == [reference.name for reference in references]
    writer = importlib.import_module("scripts._gallery_pages")
    writer.write_pages(tmp_path / "gallery", references, {record["name"]: record for record in records})
    todo = "run: python scripts/gallery.py --pages-only --out docs"
    for page in {*(tmp_path / "gallery").iterdir(), *(docs / "gallery").iterdir()}:
        shown, written = docs / "gallery" / page.name, tmp_path / "gallery" / page.name
        assert shown.exists(), todo
        assert written.exists(), todo
        assert shown.read_text(encoding="utf-8") == written.read_text(encoding="utf-8"), todo
    for record in records:
        if record["solved"]:
            assert (docs / "figures" / "gallery" / f"{record['name']}.png").stat().st_size < 60_000


def test_benchmark_of_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_control, "MODULES", {"nowhere": "nowhere"})
    monkeypatch.setattr(benchmark_control, "QUICK_MODULES", ("nowhere",))
    code, record = run("benchmark_control", tmp_path)
    printed = capsys.readouterr().out
    assert code == 0
    check_record(record, tmp_path)
    assert record["peers"]["nowhere"].startswith("not usable: ModuleNotFoundError")
    assert list(record["problems"]) == ["A01", "A15", "B05"]
    for problem in record["problems"].values():
        (run_of_ours,) = problem["runs"].values()
        assert run_of_ours["steps"]
    assert record["summary"]["all"] is None
    assert "| A15 Van der Pol, bounded |" in printed
    assert (tmp_path / "benchmark_control.png").stat().st_size > 10_000
    assert (tmp_path / "benchmark_control.md").read_text(encoding="utf-8").startswith("| problem | ocsolver |")


@pytest.mark.slow
def test_peers_agree_on_quick_problems(tmp_path: Path) -> None:
    pytest.importorskip("casadi")
    code, record = run("benchmark_control", tmp_path)
    assert code == 0
    for problem in record["problems"].values():
        solved = [r for r in problem["runs"].values() if r["tool"] == "CasADi" and r["mesh"] is not None]
        assert solved
        for result in solved:
            assert abs(result["steps"][-1]["resimulated_error"]) <= record["accuracy"]


def test_statements_of_the_benchmark_are_the_reference_problems() -> None:
    references = {reference.id: reference for reference in all_references()}
    for statement in STATEMENTS:
        reference = references.get(statement.id)
        if reference is None or statement.id == "A01":  # another horizon
            continue
        assert reference.cost == pytest.approx(statement.cost, rel=1e-6)
        mine, theirs = problem_of(statement), reference.problem
        if theirs.free_time is None:
            assert mine.horizon[1] == pytest.approx(theirs.horizon[1])
        torch.testing.assert_close(mine.initial_state, theirs.initial_state)
        x = theirs.initial_state * 1.1 + 0.01
        u = theirs.control_set.project(torch.full((1, theirs.m), 0.3, dtype=x.dtype))
        t = torch.full((1,), 0.4, dtype=x.dtype)
        torch.testing.assert_close(mine.dynamics(t, x, u), theirs.dynamics(t, x, u).expand(x.shape))
        for name, arguments in (("running_cost", (t, x, u)), ("terminal_cost", (x,))):
            ours, known = getattr(mine, name), getattr(theirs, name)
            assert (ours is None) == (known is None), (statement.id, name)
            if ours is not None:
                torch.testing.assert_close(ours(*arguments), known(*arguments).expand(1))


def test_resimulation_tells_the_cost_of_a_control() -> None:
    statement = next(statement for statement in STATEMENTS if statement.id == "B01")
    exact = Control(np.array([0.0, 1.0]), [np.array([0.0, 1.0])], [np.array([[6.0], [-6.0]])])
    truth = resimulate(statement, exact)
    assert truth.cost == pytest.approx(6.0, abs=1e-9)
    assert truth.miss <= 1e-9
    coarse = Control(np.array([0.0, 0.5, 1.0]), [np.array([0.5])] * 2, [np.array([[4.0]]), np.array([[-4.0]])])
    truth = resimulate(statement, coarse)  # reaches the end, too
    assert truth.cost == pytest.approx(8.0, abs=1e-9)
    assert truth.miss <= 1e-9
    late = Control(np.array([0.0, 0.5, 1.0]), [np.array([0.5])] * 2, [np.array([[4.0]]), np.array([[-3.0]])])
    assert resimulate(statement, late).miss == pytest.approx(0.5, abs=1e-9)


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = run("demo", tmp_path)
    printed = capsys.readouterr().out
    assert code == 0
    check_record(record, tmp_path)
    assert (tmp_path / "demo_van_der_pol.png").stat().st_size > 10_000
    assert (tmp_path / "demo_batch.png").stat().st_size > 10_000
    for text in ("CONVERGED", "certificate", "max gap", "J*", "seconds"):
        assert text in printed, text


@pytest.mark.slow
def test_parts_of_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figure 1, the third part, has its own test."""
    module = importlib.import_module("scripts.demo")
    one, many = module.one_problem(tmp_path, 50), module.batch(tmp_path, 4, 20)
    printed = capsys.readouterr().out
    assert one["status"] == "CONVERGED"
    assert one["residual"] <= 1e-8
    assert abs(one["error"]) <= 64 * 1e-4 * 2.9  # second order in h: 64 times the tolerance of mesh 400
    assert abs(one["cost_resimulated"] - one["cost"]) <= 1e-4
    assert many["converged"] == 4
    coarse, fine = many["worst_relative_errors"]
    assert coarse >= 3.0 * fine  # of second order
    assert (tmp_path / "demo_van_der_pol.png").stat().st_size > 10_000
    assert (tmp_path / "demo_batch.png").stat().st_size > 10_000
    assert "certificate" in printed
    plt.close("all")


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("[a-z]*.py") if path.stem != "__init__"))
def test_scripts_explain_themselves(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"scripts.{name}")
    if "argparse" not in vars(module):
        pytest.skip("takes no arguments")
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: " in shown
    if name != "check_docstrings":  # a check, not a run
        assert "--quick" in shown
        assert "--out" in shown
