"""Figure 1 of the paper: E-MSA against gradient methods on the sine network, from a good and from a poor start.

It tunes every method by the training loss, runs several seeds, and writes a picture and all its numbers; `check_claims`
compares them with what the paper says.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import ocsolver as oc
from scripts import _sine
from scripts._claims import Claim, print_claims
from scripts._figure1_claims import BASELINES, SUCCESSIVE, check_claims, counts, median_curve
from scripts._figure1_picture import TITLES, draw
from scripts._records import environment, storable, write_json
from scripts._sine import Case
from scripts._training import Run, Tuning, descend, successive, tune

__all__ = ["Claim", "check_claims", "main"]


@dataclass(frozen=True)
class Study:
    """How much is computed."""

    seeds: int = 5
    iterations: int = 100
    samples: int = 1000
    few_seeds: int = 2  # for what is expensive: the choice of E-MSA's ρ, and the longer runs
    longer: int = 4  # times the iterations, for the baselines of one panel
    rho: range = range(0, 4)  # grids are powers of √10 and grow if the best value lies at their edge
    step_sizes: tuple[tuple[str, range], ...] = (
        ("SGD", range(-6, 0)),
        ("Adagrad", range(-4, 2)),
        ("Adam", range(-5, 1)),
    )
    stall: int = 4000  # gradient steps before the Hessian is taken
    quick: bool = False

    @classmethod
    def short(cls, seeds: int = 2, iterations: int = 6) -> Study:
        """Seconds instead of minutes: the machinery, not the result."""
        steps = (("SGD", range(-6, -1, 2)), ("Adagrad", range(-4, 1, 2)), ("Adam", range(-5, 0, 2)))
        return cls(seeds, iterations, 60, 1, 2, range(-2, 3, 2), steps, 100, True)


def emsa(rho: float | None) -> oc.EMSA:
    """The paper's maximization, with a fixed ρ or with the library's adaptive one.

    Without the library's quasi-Newton steps, which are not in the paper.
    """
    maximizer = oc.LBFGS(iterations=10)
    return oc.EMSA(maximizer, accelerate=False) if rho is None else oc.EMSA(maximizer, rho=rho)


class Experiment:
    """All runs of a study, with progress and printed grids."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.cases = [_sine.make_case(seed, study.samples) for seed in range(study.seeds)]
        self.bar = tqdm(desc="training runs", unit="run", total=self._expected(), disable=None)

    def _expected(self) -> int:
        """Number of runs if no grid is extended."""
        study = self.study
        tuned = min(study.few_seeds, study.seeds)
        fixed = tuned * len(study.rho) + study.seeds - tuned
        steps = sum(len(grid) for _, grid in study.step_sizes)
        return len(_sine.STARTS) * (fixed + study.seeds * (1 + steps)) + tuned * steps

    def _all(self, run: Callable[[Case], Run], cases: Sequence[Case]) -> list[Run]:
        runs = []
        for case in cases:
            runs.append(run(case))
            self.bar.update()
        return runs

    def panel(self, start: str) -> dict[str, Any]:
        """Tune and run every method from one start."""
        study, cases = self.study, self.cases
        tqdm.write(f"\n{TITLES[start]}: {_sine.STARTS[start]}")

        def fixed(rho: float) -> Callable[[Case], Run]:
            return lambda case: successive(emsa(rho), start, case, study.iterations)

        tuning = tune(study.rho, lambda rho: self._all(fixed(rho), cases[: study.few_seeds]))
        runs = tuning.runs[tuning.choice] + self._all(fixed(tuning.choice), cases[study.few_seeds :])
        panel = {SUCCESSIVE[0]: self.record(SUCCESSIVE[0], "rho", tuning, runs, study.iterations)}
        runs = self._all(lambda case: successive(emsa(None), start, case, study.iterations), cases)
        panel[SUCCESSIVE[1]] = self.record(SUCCESSIVE[1], None, None, runs, study.iterations)
        return panel | self.baselines(start, cases, study.iterations)

    def baselines(self, start: str, cases: Sequence[Case], iterations: int) -> dict[str, Any]:
        """Tune and run the gradient methods."""
        records = {}
        for name, grid in self.study.step_sizes:

            def train(step: float, name: str = name) -> list[Run]:
                return self._all(lambda case: descend(name, step, start, case, iterations), cases)

            tuning = tune(grid, train)
            records[name] = self.record(name, "step_size", tuning, tuning.runs[tuning.choice], iterations)
        return records

    def patience(self) -> dict[str, Any]:
        """The gradient methods with more iterations from the poor start with noise, tuned anew."""
        study = self.study
        iterations = study.longer * study.iterations
        tqdm.write(f"\n{TITLES['noise']}: gradient methods with {iterations} iterations")
        methods = self.baselines("noise", self.cases[: study.few_seeds], iterations)
        return {"start": "noise", "iterations": iterations, "methods": methods}

    def record(
        self, method: str, parameter: str | None, tuning: Tuning | None, runs: list[Run], iterations: int
    ) -> dict[str, Any]:
        """What is stored of a method, and printed of its grid."""
        record: dict[str, Any] = {"parameter": parameter, "choice": None, "grid": []}
        if tuning is not None:
            record |= {"choice": tuning.choice, "choice_at_edge": tuning.at_edge}
            at = counts(iterations)
            for value, tried in sorted(tuning.runs.items()):
                level = {str(k): statistics.median(run.train[k] for run in tried) for k in at}
                seeds = [run.seed for run in tried]
                record["grid"].append({"value": value, "end": tuning.score(value), "at": level, "seeds": seeds})
            grid = "  ".join(f"{entry['value']:g}: {entry['end']:.3g}" for entry in record["grid"])
            tqdm.write(f"  {method:18s} {parameter} {tuning.choice:g}   from end losses  {grid}")
        else:
            tqdm.write(f"  {method:18s} nothing to tune")
        for key in ("seconds", "cpu_seconds"):
            record[f"{key}_per_iteration"] = statistics.median(vars(run)[key] for run in runs) / iterations
        for run in runs:
            run_record = {key: value for key, value in vars(run).items() if key != "control"}
            record.setdefault("runs", []).append(run_record | {"spread": _sine.spread(run.control)})
        return record

    def hessian(self, step_size: float) -> dict[str, Any]:
        """Spectra at the exactly zero start and where gradient descent from there stalls, for the first seed."""
        case, steps = self.cases[0], self.study.stall
        stalled = descend("SGD", step_size, "zero", case, steps)
        saturated = descend("SGD", 10 * step_size, "zero", case, steps // 10)
        points = {
            "start": (case.starts["zero"], "the exactly zero start itself"),
            "stalled": (stalled.control, f"the point after {steps} steps of {step_size:g} of gradient descent"),
            "saturated": (
                saturated.control,
                f"the point after {steps // 10} steps of {10 * step_size:g} of gradient descent",
            ),
        }
        return {key: {"name": name} | _sine.curvature(u, case.train) for key, (u, name) in points.items()}

    def run(self) -> dict[str, Any]:
        """Everything that the picture and the claims need."""
        begin = time.perf_counter()
        panels = {start: self.panel(start) for start in _sine.STARTS}
        patience = self.patience()
        self.bar.close()
        hessian = self.hessian(panels["zero"]["SGD"]["choice"])
        results: dict[str, Any] = {
            "figure": 1,
            "study": {key: value for key, value in vars(self.study).items() if key not in ("rho", "step_sizes")},
            "iterations": self.study.iterations,
            "seeds": [case.seed for case in self.cases],
            "starts": _sine.STARTS,
            "network": {"width": _sine.WIDTH, "layers": _sine.LAYERS, "horizon": _sine.HORIZON},
            "dtype": str(_sine.DTYPE),
            "panels": panels,
            "patience": patience,
            "hessian": hessian,
            "seconds": time.perf_counter() - begin,
        }
        results |= environment()
        return results | {"claims": [asdict(claim) for claim in check_claims(results)]}


# ------------------------------------------------------------------------------------------------------- output


def report(results: dict[str, Any]) -> None:
    """Print losses, times, spectra and claims."""
    for start, title in TITLES.items():
        print(f"\n{title}: median training loss after … iterations, last test loss, processor seconds per iteration")
        for method in (*SUCCESSIVE, *BASELINES):
            train, test = (median_curve(results, start, method, which) for which in ("train", "test"))
            levels = "  ".join(f"{k}: {train[k]:.2e}" for k in counts(results["iterations"]))
            seconds = results["panels"][start][method]["cpu_seconds_per_iteration"]
            print(f"  {method:18s} {levels}   test {test[-1]:.2e}   {seconds:.4f} s")
    print_claims(results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and write ``figure1.png``, ``figure1.pdf`` and ``figure1.json``.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        0: the study ran, whatever the claims say.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes: few samples, seeds and iterations"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the picture and its numbers (default: out)"
    )
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {Study.seeds}, quick: 2)")
    parser.add_argument(
        "--iterations", type=int, help=f"iterations of every method (default: {Study.iterations}, quick: 6)"
    )
    options = parser.parse_args(argv)
    chosen = {key: value for key in ("seeds", "iterations") if (value := getattr(options, key)) is not None}
    if any(value < 1 for value in chosen.values()):
        parser.error("--seeds and --iterations must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    results = storable(Experiment(Study.short(**chosen) if options.quick else Study(**chosen)).run())
    write_json(options.out / "figure1.json", results)
    figure = draw(results)
    figure.savefig(options.out / "figure1.png", dpi=160)
    figure.savefig(options.out / "figure1.pdf")
    report(results)
    print("\n" + "\n".join(str(options.out / f"figure1.{kind}") for kind in ("png", "pdf", "json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
