"""E-MSA against direct shooting on every smooth reference problem, and one Van der Pol problem against a batch of them.

Both solvers run in the same process, turn by turn, on the same mesh, from a zero control, with the defaults and to the
same tolerance of the maximum-principle residual. It prints medians and ratios and writes every number as JSON; it draws
nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import scipy
import torch

import ocsolver as oc
from problems import Reference, smooth_references, van_der_pol_bounded

SOLVERS: dict[str, oc.Solver] = {"EMSA": oc.EMSA(), "DirectShooting": oc.DirectShooting()}
QUICK = ("scalar-lqr", "oscillator-lqr", "van-der-pol", "leukaemia")
BATCH_ITERATIONS = 50


def timed(problem: oc.OptimalControlProblem, solver: oc.Solver, **options: Any) -> tuple[float, oc.Solution]:
    """Wall time and result of one run; failing statuses are data here, not warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.ConvergenceWarning)
        begin = time.perf_counter()
        solution = oc.solve(problem, solver, **options)
        return time.perf_counter() - begin, solution


def cost_error(reference: Reference, solution: oc.Solution) -> float:
    """J − J* relative to max(1, |J*|), for the nearest of several listed minima."""
    minima = reference.local_costs or (reference.cost,)
    cost = float(solution.cost.mean())
    errors = [(cost - optimum) / max(1.0, abs(optimum)) for optimum in minima if optimum is not None]
    return min(errors, key=abs)


def compare(reference: Reference, mesh: int, repeats: int) -> dict[str, Any]:
    """Both solvers on one problem, interleaved after one unmeasured run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in SOLVERS}
    solutions: dict[str, oc.Solution] = {}
    for repeat in range(repeats + 1):
        for name, solver in SOLVERS.items():
            duration, solutions[name] = timed(reference.problem, solver, mesh=mesh)
            if repeat > 0:
                seconds[name].append(duration)
    result: dict[str, Any] = {"id": reference.id, "name": reference.name, "cost_known": reference.cost}
    for name, solution in solutions.items():
        result[name] = {
            "seconds": seconds[name],
            "median_seconds": statistics.median(seconds[name]),
            "status": [status.name for status in solution.status],
            "iterations": solution.stats.iterations,
            "forward_sweeps": solution.stats.sweeps["forward"],
            "residual": float(solution.residual.max()),
            "cost": float(solution.cost.mean()),
            "cost_error": cost_error(reference, solution),
        }
    result["ratio"] = result["EMSA"]["median_seconds"] / result["DirectShooting"]["median_seconds"]
    return result


def batch_ratio(mesh: int, size: int, repeats: int) -> dict[str, Any]:
    """Wall time of 50 iterations on `size` independent Van der Pol problems relative to one, interleaved."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    states = torch.tensor([0.0, 1.0], dtype=torch.float64) + 0.3 * states
    seconds: dict[int, list[float]] = {1: [], size: []}
    for repeat in range(repeats + 1):
        for count in (1, size):
            problem = van_der_pol_bounded.build(initial_state=states[:count]).problem
            duration, _ = timed(problem, SOLVERS["EMSA"], mesh=mesh, max_iterations=BATCH_ITERATIONS, tolerance=None)
            if repeat > 0:
                seconds[count].append(duration)
    one, many = (statistics.median(seconds[count]) for count in (1, size))
    return {
        "problem": "van-der-pol-bounded",
        "mesh": mesh,
        "iterations": BATCH_ITERATIONS,
        "size": size,
        "seconds_one": seconds[1],
        "seconds_batch": seconds[size],
        "ratio": many / one,
    }


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """One line per problem, then the totals."""
    print("                              E-MSA                           direct shooting")
    print("problem                  ms   iter  residual    error         ms   iter  residual    error   time ratio")
    for result in results:
        cells = []
        for name in SOLVERS:
            run = result[name]
            failed = "" if all(status == "CONVERGED" for status in run["status"]) else "*"
            cells.append(
                f"{1e3 * run['median_seconds']:8.1f} {run['iterations']:5d}{failed or ' '} {run['residual']:8.1e} "
                f"{run['cost_error']:9.1e}"
            )
        print(f"{result['id']} {result['name']:20s}{cells[0]}   {cells[1]}   {result['ratio']:9.2f}", flush=True)
    for name in SOLVERS:
        total = sum(result[name]["median_seconds"] for result in results)
        print(f"total of the medians, {name}: {total:.3f} s")


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
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the numbers (default: out)")
    parser.add_argument("--quick", action="store_true", help="few problems, a coarse mesh, one repeat, a small batch")
    parser.add_argument("--repeats", type=int, help="measured runs of each solver (default: 5; quick: 1)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    mesh, size = (50, 16) if options.quick else (400, 256)
    repeats = max(1, options.repeats or (1 if options.quick else 5))
    references = [r for r in smooth_references() if not options.quick or r.name in QUICK]

    results = [compare(reference, mesh, repeats) for reference in references]
    print(f"mesh {mesh}, medians of {repeats} (a star: did not converge)\n")
    print_table(results)
    totals = {name: sum(result[name]["median_seconds"] for result in results) for name in SOLVERS}
    ratios = [result["ratio"] for result in results]
    print(f"time of E-MSA relative to direct shooting: total {totals['EMSA'] / totals['DirectShooting']:.2f}", end="")
    print(f", median over the problems {statistics.median(ratios):.2f}")
    batch = batch_ratio(50 if options.quick else 100, size, min(repeats, 3))
    print(f"{BATCH_ITERATIONS} iterations on {size} Van der Pol problems cost {batch['ratio']:.1f} times those on one")

    versions = {
        "ocsolver": oc.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }
    record = {
        "versions": versions,
        "machine": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "seed": 0,
        "quick": options.quick,
        "mesh": mesh,
        "repeats": repeats,
        "problems": results,
        "total_seconds": totals,
        "total_ratio": totals["EMSA"] / totals["DirectShooting"],
        "median_ratio": statistics.median(ratios),
        "batch": batch,
    }
    target = options.out / "benchmark_solvers.json"
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
