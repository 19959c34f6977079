"""Optimal control side by side: `ocsolver` and the direct toolkits, by what their controls really do.

Every toolkit that is installed (`pip install -e .[peers]`) is refined until the cost of its control, simulated anew at
1e-10, is right to 1e-6, or 30 seconds have passed. The mesh that qualifies is then timed alone, from the statement to
the answer, toolkits and problems interleaved; so is a second solve from another initial state by prebuilt solvers. It
writes all numbers as JSON, a Markdown table and a picture. A toolkit that is missing or fails is reported as such;
`--reuse` keeps the others' numbers of a file and measures only `ocsolver`, or times others again on the known meshes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from threadpoolctl import threadpool_limits

from scripts._peers_batch import loop_over_casadi, one_batch
from scripts._peers_ours import Ours
from scripts._peers_problems import STATEMENTS
from scripts._peers_protocol import ACCURACY, TIMES, Peer, refine, steps, summarize, time_all
from scripts._peers_report import draw, table
from scripts._peers_statements import Statement
from scripts._records import environment, write_json

__all__ = ["main"]

MODULES = {
    "casadi": "casadi",
    "rockit-meco": "rockit",
    "yapss": "yapss",
    "gekko": "gekko",
    "dymos": "dymos",
    "maptor": "maptor",
    "pockit-optimal-control": "pockit",
}
QUICK = ("A01", "A15", "B05")
QUICK_MODULES = ("casadi",)
LIMIT = 30.0
BATCH = 1000


def installed(only: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    """Peers of the toolkits that can be imported, and the version or the failure of each toolkit."""
    peers: list[Peer] = []
    versions = {}
    for package, module in MODULES.items():
        if module not in only:
            continue
        try:
            peers += importlib.import_module(f"scripts._peers_{module}").PEERS
            versions[package] = importlib.metadata.version(package)
        except Exception as error:  # a missing or broken toolkit is a result, too
            versions[package] = f"not usable: {type(error).__name__}: {error}".splitlines()[0][:120]
    return peers, versions


def measure(
    peers: Sequence[Peer],
    statements: Sequence[Statement],
    limit: float,
    repeats: int,
    stored: dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Refinement, unless a file already tells the mesh, and times of every peer on every problem."""
    runs: dict[str, dict[str, Any]] = {statement.id: {} for statement in statements}
    for peer in peers:
        next(steps(peer, STATEMENTS[0], 0.0))  # loads what the toolkit loads late: no part of any time
    threadpool_limits(1)  # of all libraries that are loaded now: threads that wait would count as work
    for statement in statements:
        known = stored["problems"].get(statement.id, {}).get("runs", {}) if stored else {}
        for peer in peers:
            if peer.name in known and peer.tool != "ocsolver":
                run = {**known[peer.name], **{key: [] for key in TIMES}}
            else:
                run = refine(peer, statement, limit)
            runs[statement.id][peer.name] = run
            print(f"{statement.id} {peer.name:24s} {describe(run)}", flush=True)
    time_all(peers, statements, runs, repeats, limit)
    return runs


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Stored records as one; of the same toolkit on the same problem, the last one counts."""
    whole: dict[str, Any] = {"peers": {}, "evidence": {}, "batch": {}, "problems": {}}
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("peers", "evidence", "batch"):
            whole[key].update(record[key])
        for id, problem in record["problems"].items():
            whole["problems"].setdefault(id, {"runs": {}})["runs"].update(problem["runs"])
    return whole


def describe(run: dict[str, Any]) -> str:
    """One line on a refinement."""
    if not run["steps"]:
        return "nothing done"
    last = run["steps"][-1]
    verdict = "qualifies" if last["qualified"] else "fails"
    if last.get("resimulated_error") is None:
        return f"{verdict} at mesh {last['mesh']}: {last['message']}"
    return (
        f"{verdict} at mesh {last['mesh']}, {1e3 * last['seconds']:.1f} ms: cost error {last['reported_error']:.1e} "
        f"reported, {last['resimulated_error']:.1e} re-simulated, miss {last['miss']:.1e}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        Exit code: 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for numbers and picture (default: out)")
    parser.add_argument("--quick", action="store_true", help="three problems, CasADi only, one repeat, a small batch")
    parser.add_argument("--repeats", type=int, help="measured runs of each solver (default: 5; quick: 1)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of refinement per problem and peer")
    parser.add_argument("--problems", nargs="*", default=[], help="labels of problems, such as A15 (default: all)")
    parser.add_argument("--peers", nargs="*", default=[], help="modules of toolkits, such as casadi (default: all)")
    parser.add_argument(
        "--reuse",
        type=Path,
        nargs="+",
        help="keep the numbers of these files; --peers are timed again on the meshes that they tell",
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="problems of the batch (default: 1000)")
    parser.add_argument("--without-batch", action="store_true", help="leave out the batch")
    parser.add_argument("--without-ours", action="store_true", help="measure the peers alone")
    options = parser.parse_args(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    repeats = max(1, options.repeats or (1 if options.quick else 5))
    wanted = options.problems or (QUICK if options.quick else [statement.id for statement in STATEMENTS])
    statements = [statement for statement in STATEMENTS if statement.id in wanted]

    stored = merged(options.reuse) if options.reuse else None
    modules = list(QUICK_MODULES) if options.quick else options.peers or ([] if stored else list(MODULES.values()))
    peers, versions = installed(modules)
    for package, version in versions.items():
        print(f"{package}: {version}")
    ours: list[Peer] = [] if options.without_ours else [Ours()]
    measured = [*ours, *peers]
    limit = min(options.limit, 2.0) if options.quick else options.limit
    runs = measure(measured, statements, limit, repeats, stored)
    evidence = {peer.tool: peer.evidence for peer in measured}
    if stored:
        versions = {**stored["peers"], **versions}
        evidence = {**stored["evidence"], **evidence}
        for id, mine in runs.items():
            theirs = stored["problems"].get(id, {}).get("runs", {})
            tools = {peer.tool for peer in measured}
            mine.update({name: run for name, run in theirs.items() if run["tool"] not in tools})
    record = {
        **environment(),
        "peers": versions,
        "quick": options.quick,
        "repeats": repeats,
        "accuracy": ACCURACY,
        "limit_seconds": options.limit,
        "evidence": evidence,
        "problems": {s.id: {"name": s.name, "kind": s.kind, "cost": s.cost, "runs": runs[s.id]} for s in statements},
        "batch": stored["batch"] if stored else {},
        "summary": summarize(statements, runs),
    }
    write(record, options.out)  # what is measured is safe, whatever becomes of the batch
    if not options.without_batch:
        casadi = any(peer.tool == "CasADi" for peer in peers)
        count = 8 if options.quick else options.batch
        record["batch"] = batches(count, ours=bool(ours), casadi=casadi, stored=record["batch"])
        write(record, options.out)
    print(f"\n{table(record)}")
    print(f"written: {options.out / 'benchmark_control.json'}, .md and .png")
    return 0


def write(record: dict[str, Any], out: Path) -> None:
    """Numbers, table and picture."""
    write_json(out / "benchmark_control.json", record)
    (out / "benchmark_control.md").write_text(table(record) + "\n", encoding="utf-8")
    draw(record).savefig(out / "benchmark_control.png", dpi=150)


def batches(count: int, *, ours: bool, casadi: bool, stored: dict[str, Any]) -> dict[str, Any]:
    """Many Van der Pol problems: a loop over prebuilt CasADi solvers, and one batch of ours."""
    batch = stored | {"problems": count}
    if casadi:
        batch["CasADi"] = loop_over_casadi(count)
    if ours:
        batch["ocsolver"] = one_batch(count, batch.get("CasADi", {}).get("optima", [])[:count])
    rates = [batch.get(name, {}).get("per_second") for name in ("ocsolver", "CasADi")]
    if all(rates):
        batch["throughput_ratio"] = rates[0] / rates[1]
    return batch


if __name__ == "__main__":
    sys.exit(main())
