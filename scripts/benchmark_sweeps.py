"""Cost of one E-MSA iteration: sweeps of all intervals at once against one by one, and growth with N, B, n and m.

Part 1 runs the first iterations of the default solver on the bounded Van der Pol problem twice, turn by turn: with the
time-parallel sweeps of the library and with sweeps that step and differentiate one interval after the other. Everything
else is the same code. Both are checked to give the same trajectory and costates. Part 2 measures a family of random
problems, linear and quadratic but for a tanh, by part of an iteration. Part 3 measures memory in fresh processes. It
prints medians, writes every number as JSON and draws a picture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.continuous import ContinuousForward, ContinuousTranscription
from ocsolver.hamiltonian import terminal_costate, terminal_curvature
from ocsolver.solvers.base import Clock, Iterate, Timed
from ocsolver.transcription import Control, Discretization, Sweep, transcribe
from problems import van_der_pol_bounded
from scripts._records import environment

PARTS = ("maximize", "forward", "backward", "residual", "other")
SEED = 0
BASE = {"N": 100, "B": 1, "n": 4, "m": 2}


class IntervalByInterval:
    """The sweeps of a transcription without anything done for all intervals at once."""

    def __init__(self, inner: ContinuousTranscription) -> None:
        self.inner = inner
        self.groups = inner.groups
        self.start, self.check, self.merge, self.diagnose = inner.start, inner.check, inner.merge, inner.diagnose

    def forward(self, control: Control, near: Any = None) -> ContinuousForward:
        """Step by step, whatever is known of a trajectory nearby."""
        return self.inner.forward(control)

    @torch.no_grad()
    def backward(self, forward: ContinuousForward) -> Sweep:
        """Derivatives of one interval after the other."""
        inner, x, u = self.inner, forward.x, forward.u
        p = inner.adjoint.costates(inner.intervals, x, u, terminal_costate(inner.problem, x[-1]))
        block = inner._block(x, p, u)
        return Sweep(forward, (block,), p, lambda: terminal_curvature(inner.problem, x[-1]))


def iterated(inner: Any, count: int) -> tuple[Iterate, float, dict[str, float]]:
    """The first iterations from zero, after the first sweep: last iterate, seconds and seconds by part of each one."""
    solver, transcription = oc.EMSA(), Timed(inner)
    iterate = solver.init(transcription, transcription.inner.start(None))
    transcription.clock = Clock()
    begin = time.perf_counter()
    for _ in range(count):
        iterate = solver.step(transcription, replace(iterate, active=iterate.active))
    seconds = (time.perf_counter() - begin) / count
    parts = {part: transcription.clock.seconds.get(part, 0.0) / count for part in PARTS[:-1]}
    parts["other"] = seconds - sum(parts.values())
    return iterate, seconds, parts


def disagreement(inner: ContinuousTranscription, iterate: Iterate) -> dict[str, float]:
    """Largest relative difference of states and costates between the two ways to sweep one control."""
    control = iterate.control
    moved = (inner.problem.control_set.project(control[0] + 1e-3),)
    near = inner.forward(moved)
    fast = inner.backward(inner.forward(control, near))
    slow = IntervalByInterval(inner).backward(inner.forward(control))
    pairs = {"state": (fast.forward.x, slow.forward.x), "costate": (fast.p, slow.p)}
    return {name: float((a - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}


def against_intervals(meshes: Sequence[int], count: int, repeats: int) -> list[dict[str, Any]]:
    """Part 1: both kinds of sweeps on every mesh, interleaved after one unmeasured run."""
    problem = van_der_pol_bounded.build().problem
    chains = {N: transcribe(problem, Discretization(N)) for N in meshes}
    seconds: dict[int, dict[str, list[float]]] = {N: {"parallel": [], "intervals": []} for N in meshes}
    parts: dict[int, list[dict[str, float]]] = {N: [] for N in meshes}
    costs: dict[int, dict[str, float]] = {N: {} for N in meshes}
    ends: dict[int, Iterate] = {}
    for repeat in range(repeats + 1):
        for N, chain in chains.items():
            if repeat < 3:  # the slow ones vary little and take long
                iterate, duration, _ = iterated(IntervalByInterval(chain), count)
                costs[N]["intervals"] = float(iterate.cost.mean())
                if repeat > 0:
                    seconds[N]["intervals"].append(duration)
            ends[N], duration, shares = iterated(chain, count)
            costs[N]["parallel"] = float(ends[N].cost.mean())
            if repeat > 0:
                seconds[N]["parallel"].append(duration)
                parts[N].append(shares)
    results = []
    for N in meshes:
        median = {kind: statistics.median(values) for kind, values in seconds[N].items()}
        results.append(
            {
                "N": N,
                "seconds": seconds[N],
                "median_seconds": median,
                "ratio": median["intervals"] / median["parallel"],
                "parts": {part: statistics.median(share[part] for share in parts[N]) for part in PARTS},
                "cost": costs[N],
                "disagreement": disagreement(chains[N], ends[N]),
            }
        )
    return results


def random_problem(B: int, n: int, m: int) -> oc.OptimalControlProblem:
    """Random linear dynamics with a tanh and quadratic costs, each trajectory with its own control."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A, C, Q = normal(n, n) / n**0.5, normal(m, n) / m**0.5, normal(n, n) / n**0.5
    x0 = normal(B, n)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        rate: Tensor = torch.tanh(x @ A) + u @ C
        return rate

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        rate: Tensor = (x @ Q).square().sum(-1) + u.square().sum(-1)
        return rate

    def terminal_cost(x: Tensor) -> Tensor:
        return x.square().sum(-1)

    return oc.OptimalControlProblem(
        dynamics,
        running_cost,
        terminal_cost,
        initial_state=x0,
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(m),
    )


def growth(ranges: dict[str, Sequence[int]], count: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Part 2: one size at a time, the others as in BASE."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name, values in ranges.items():
        results[name] = []
        for value in values:
            size = {**BASE, name: value}
            chain = transcribe(random_problem(size["B"], size["n"], size["m"]), Discretization(size["N"]))
            runs = [iterated(chain, count) for _ in range(repeats + 1)][1:]
            parts = {part: statistics.median(run[2][part] for run in runs) for part in PARTS}
            seconds = [run[1] for run in runs]
            newton = chain.backward(chain.forward(chain.start(None))).terminal is not None
            results[name].append(
                {
                    **size,
                    "seconds": seconds,
                    "median_seconds": statistics.median(seconds),
                    "parts": parts,
                    "newton": newton,
                    "parallel": chain._parallel_pays,
                }
            )
    return results


def high_water() -> float:
    """Largest resident set of this process so far (MB)."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there includes the process that started this one
        (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def peak(size: tuple[int, int, int, int]) -> float:
    """Growth of the largest resident set (MB) of this process by one solution, after a small one."""
    N, B, n, m = size
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.ConvergenceWarning)
        oc.solve(random_problem(1, 2, 1), mesh=10)
        before = high_water()
        oc.solve(random_problem(B, n, m), mesh=N, max_iterations=4)
        return high_water() - before


def memory(sizes: Sequence[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
    """Part 3: every size in a process of its own, because the largest resident set never falls."""
    results = []
    for size in sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            megabytes = pool.submit(peak, size).result()
        results.append({**dict(zip(("N", "B", "n", "m"), size, strict=True)), "megabytes": megabytes})
    return results


def draw(record: dict[str, Any], target: Path) -> None:
    """Both kinds of sweeps, and the growth by part, in logarithmic scales."""
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.6), layout="constrained", sharey=True)
    rows = record["intervals"]
    kinds = {"intervals": ("s--", "interval by interval"), "parallel": ("o-", "all intervals at once")}
    meshes = [row["N"] for row in rows]
    for kind, (style, label) in kinds.items():
        axes[0].loglog(meshes, [1e3 * row["median_seconds"][kind] for row in rows], style, label=label)
    axes[0].set(title="bounded Van der Pol", xlabel="N", ylabel="ms per iteration")
    for axis, (name, family) in zip(axes[1:], record["growth"].items(), strict=True):
        values = [row[name] for row in family]
        axis.loglog(values, [1e3 * row["median_seconds"] for row in family], "k-", label="total")
        for part in PARTS:
            axis.loglog(
                values, [1e3 * max(row["parts"][part], 1e-6) for row in family], ".-", label=part, linewidth=0.8
            )
        fixed = ", ".join(f"{key} = {value}" for key, value in BASE.items() if key != name)
        axis.set(title=f"random problems, {fixed}", xlabel=name)
        axis.title.set_fontsize("small")
    for axis in axes[:2]:
        axis.legend(fontsize="x-small")
    figure.savefig(target, dpi=110)
    plt.close(figure)


def print_tables(record: dict[str, Any]) -> None:
    """Every part as a table."""
    print("bounded Van der Pol, ms per iteration\n     N  interval by interval  at once  ratio   state  costate")
    for row in record["intervals"]:
        slow, fast = (1e3 * row["median_seconds"][kind] for kind in ("intervals", "parallel"))
        state, costate = row["disagreement"].values()
        print(f"{row['N']:6d}  {slow:20.1f}  {fast:7.2f}  {row['ratio']:5.1f} {state:.1e}  {costate:.1e}")
    print(f"growth from the coarsest to the finest mesh: {record['growth_of_the_mesh']:.2f}")
    print("\nrandom problems, ms per iteration")
    print(f"                  total  {'  '.join(f'{part:>8s}' for part in PARTS)}")
    for name, family in record["growth"].items():
        for row in family:
            cells = "  ".join(f"{1e3 * row['parts'][part]:8.2f}" for part in PARTS)
            marks = ("" if row["newton"] else " no Newton steps") + ("" if row["parallel"] else " stepped")
            print(f"{name} = {row[name]:5d}  {1e3 * row['median_seconds']:10.2f}  {cells}{marks}")
    for row in record["memory"]:
        print(f"memory, N = {row['N']}, B = {row['B']}, n = {row['n']}, m = {row['m']}: {row['megabytes']:.0f} MB")


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
    parser.add_argument("--quick", action="store_true", help="coarse meshes, small sizes, one repeat")
    parser.add_argument("--repeats", type=int, help="measured runs of each size (default: 5; quick: 1)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    matplotlib.use("agg")
    torch.set_num_threads(1)
    repeats = max(1, options.repeats or (1 if options.quick else 5))
    meshes, count = ([25, 50], 3) if options.quick else ([100, 200, 400, 1000, 2000], 15)
    ranges: dict[str, Sequence[int]] = {"N": (50, 100), "B": (1, 4), "n": (2, 4), "m": (1, 2)}
    sizes = [(50, 2, 2, 1)]
    if not options.quick:
        ranges = {
            "N": (50, 100, 200, 400, 800, 1600, 3200),
            "B": (1, 4, 16, 64, 256, 1024),
            "n": (1, 2, 4, 8, 16, 32),
            "m": (1, 2, 4, 8, 16, 32),
        }
        sizes = [(100, 1, 4, 2), (1000, 1, 4, 2), (4000, 1, 4, 2), (100, 64, 4, 2), (100, 256, 4, 2), (100, 1, 32, 2)]

    rows = against_intervals(meshes, count, repeats)
    finest = next(row for row in rows if row["N"] == (50 if options.quick else 1000))
    record = environment() | {
        "seed": SEED,
        "quick": options.quick,
        "repeats": repeats,
        "iterations": count,
        "intervals": rows,
        "growth_of_the_mesh": finest["median_seconds"]["parallel"] / rows[0]["median_seconds"]["parallel"],
        "growth": growth(ranges, min(count, 4), repeats),
        "memory": memory(sizes),
    }
    print_tables(record)
    target = options.out / "benchmark_sweeps.json"
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw(record, options.out / "benchmark_sweeps.png")
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
