"""The runs of Figures 2, 3 and 4: tuning on validation images, then several seeds; whatever is done is kept.

Every run has its record in a folder. Results are made from the records alone, so that an interrupted study is
continued, and drawn as far as it goes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts._claims import known, print_claims
from scripts._images import ADAPTIVE, METHODS, SUCCESSIVE, Data, Job, Size, load_data, train
from scripts._images_claims import COUNTS, check_claims
from scripts._images_picture import draw
from scripts._records import environment, storable, write_json
from scripts._training import tune

__all__ = ["Study", "figure", "level"]


@dataclass(frozen=True)
class Study:
    """How much is computed."""

    data: str
    size: Size = field(default_factory=Size)
    seeds: int = 3
    epochs: int = 5  # of every baseline
    successive_epochs: int = 2
    tuning_steps: int = 550  # of every baseline
    successive_tuning_steps: int = 200  # there is nothing to tune; for the comparison on the validation images
    # grids are powers of √10 and grow if the best value lies at their edge
    grids: tuple[tuple[str, range], ...] = (
        ("SGD", range(-3, 1)),
        ("Adagrad", range(-5, -1)),
        ("Adam", range(-7, -3)),
    )

    @classmethod
    def short(cls, seeds: int = 2, epochs: int = 2, successive_epochs: int = 1) -> Study:
        """Seconds instead of hours, on the digits that scikit-learn ships: the machinery, not the result."""
        grids = tuple((name, range(grid[0], grid[-1] + 1, 2)) for name, grid in cls("digits").grids)
        size = Size(image=8, channels=4, depth=2, batch=100)
        return cls("digits", size, seeds, epochs, successive_epochs, 6, 4, grids)

    def tuning_job(self, method: str, value: float) -> Job:
        """Run of one value on the grid."""
        steps = self.successive_tuning_steps if method == SUCCESSIVE else self.tuning_steps
        return Job(self.data, method, value, 0, steps, True)

    def final_job(self, method: str, value: float, seed: int, per_epoch: int) -> Job:
        """Run that is shown."""
        epochs = self.successive_epochs if method == SUCCESSIVE else self.epochs
        return Job(self.data, method, value, seed, epochs * per_epoch, False)


class InterruptionError(Exception):
    """Ctrl-C ended a run; its checkpoint and record are written."""


class Runner:
    """Runs what has no record yet."""

    def __init__(self, study: Study, data: Data, folder: Path) -> None:
        self.study, self.data, self.folder = study, data, folder
        self.per_epoch = len(data.train) // study.size.batch

    def evaluations(self, job: Job) -> set[int]:
        """Steps after which a run is evaluated, besides the end of each epoch."""
        if job.tuning:
            return {*COUNTS, job.steps}
        early = range(self.per_epoch // 5, 2 * self.per_epoch, max(1, self.per_epoch // 5))
        late = range(2 * self.per_epoch, job.steps, max(1, self.per_epoch // 2))
        return {0, 10, *COUNTS, *early, *late, job.steps}

    def run(self, job: Job) -> dict[str, Any]:
        """Record of a job, from its file or by doing it."""
        with tqdm(total=job.steps, desc=job.name, unit="step", disable=None, leave=False) as bar:
            record = train(
                job, self.study.size, self.data, self.evaluations(job), self.folder, lambda k: set_bar(bar, k)
            )
        if not record["complete"]:
            raise InterruptionError
        return record

    def everything(self) -> None:
        """Tune the baselines and run all seeds, then E-MSA, which takes longest."""
        for method, grid in self.study.grids:

            def trial(value: float, method: str = method) -> list[dict[str, Any]]:
                return [self.run(self.study.tuning_job(method, value))]

            self.seeds(method, tune(grid, trial, level).choice)
        self.seeds(SUCCESSIVE, ADAPTIVE)
        self.run(self.study.tuning_job(SUCCESSIVE, ADAPTIVE))

    def seeds(self, method: str, value: float) -> None:
        """Run a method from all starts."""
        tqdm.write(f"{self.study.data}: {method} runs with {told(method, value)}")
        for seed in range(self.study.seeds):
            record = self.run(self.study.final_job(method, value, seed, self.per_epoch))
            accuracy, seconds = 100 * record["test"]["accuracy"][-1], record["seconds"]
            tqdm.write(
                f"{self.study.data}: {method}, seed {seed}: test accuracy {accuracy:.2f} % after {seconds:.0f} s"
            )


def told(method: str, value: float) -> str:
    """A value in words."""
    if value == ADAPTIVE:
        return "adaptive ρ"
    return f"ρ {value:g}" if method == SUCCESSIVE else f"step size {value:g}"


def set_bar(bar: Any, step: int) -> None:
    """Bring a progress bar to a step."""
    bar.update(step - bar.n)


def level(record: dict[str, Any]) -> float:
    """What tuning minimizes: the geometric mean of the validation losses at the counts that the run reaches."""
    losses = [known(loss) for loss in record["test"]["loss"]]
    if record["status"] == "NONFINITE" or not losses:
        return math.inf
    return math.exp(sum(math.log(loss) for loss in losses) / len(losses)) if math.inf not in losses else math.inf


# ------------------------------------------------------------------------------------------------------- results


def collect(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Records of a study in a folder, finished or not, in the order of their names."""
    names = sorted(folder.glob(f"{study.data}-*.json"))
    return [json.loads(name.read_text(encoding="utf-8")) for name in names]


def place(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Put finished records of an earlier study into a folder that lacks them."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        job = Job(**{key: record[key] for key in Job.__dataclass_fields__})
        path = folder / f"{job.name}.json"
        if record["complete"] and not path.exists():
            write_json(path, record)


def tuned(study: Study, records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Grid and choice of every method that was tuned."""
    for method in METHODS:
        runs = [r for r in records if r["tuning"] and r["method"] == method and r["complete"]]
        runs = [r for r in runs if r["steps"] == study.tuning_job(method, r["value"]).steps]
        grid = [{"value": r["value"], "level": level(r)} | r["test"] for r in sorted(runs, key=lambda r: r["value"])]
        if grid:
            yield method, {"choice": min(grid, key=lambda entry: entry["level"])["value"], "grid": grid}


def is_final(study: Study, record: dict[str, Any]) -> bool:
    """Whether a record belongs to a run that is shown, of the length that the study asks for."""
    job = study.final_job(record["method"], record["value"], record["seed"], record["per_epoch"])
    return not record["tuning"] and record["steps"] == job.steps and record["seed"] < study.seeds


def results_of(number: int, study: Study, folder: Path) -> dict[str, Any]:
    """Everything that the picture and the claims need."""
    records = collect(study, folder)
    tuning = dict(tuned(study, records))
    choices = {SUCCESSIVE: ADAPTIVE} | {method: entry["choice"] for method, entry in tuning.items()}
    shown = [r for r in records if r["value"] == choices.get(r["method"]) and is_final(study, r)]
    results: dict[str, Any] = {
        "figure": number,
        "data": study.data,
        "study": {key: value for key, value in asdict(study).items() if key not in ("grids", "data")},
        "tuning": tuning,
        "runs": shown,
        "records": [r for r in records if r["tuning"]],
    }
    results |= environment()
    results = storable(results)
    return results | {"claims": [asdict(claim) for claim in check_claims(results)]}


def from_race(race: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """Curves of E-MSA by its default maximizer, from the numbers of `benchmark_training`.

    Their seconds are those of another day, so they are in proportion to what a step of Adam took here and there.
    """
    runs = [run for record in race["races"].get(results["data"], []) for run in record["runs"]]
    theirs = [run["milliseconds_per_step"] for run in runs if run["family"] == "Adam"]
    ours = [1e3 * run["seconds"] / run["train"]["step"][-1] for run in results["runs"] if run["method"] == "Adam"]
    if not theirs or not ours:
        return []
    scale = statistics.median(ours) / statistics.median(theirs)
    curves = [run["curve"] for run in runs if run["family"] == SUCCESSIVE]
    return [
        {key: curve[key] for key in ("step", "loss", "accuracy")} | {"seconds": [scale * s for s in curve["seconds"]]}
        for curve in curves
    ]


def report(results: dict[str, Any]) -> None:
    """Print grids, final numbers and claims."""
    for method, entry in results["tuning"].items():
        grid = "  ".join(f"{point['value']:g}: {point['level']:.3g}" for point in entry["grid"])
        print(f"{method:8s} {told(method, entry['choice'])}   (geometric mean of validation losses  {grid})")
    for run in results["runs"]:
        test, state = run["test"], "" if run["complete"] else "   (unfinished)"
        if test["step"]:
            milliseconds = 1e3 * run["seconds"] / max(1, run["train"]["step"][-1])
            print(
                f"{run['method']:8s} seed {run['seed']}: {test['step'][-1]} steps of {milliseconds:.0f} ms, "
                f"test loss {test['loss'][-1]:.4f}, accuracy {100 * test['accuracy'][-1]:.2f} %{state}"
            )
    print_claims(results)


def figure(number: int, data: str, against: str, doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Command line of the three figures: run what is missing, then write picture and numbers.

    Parameters
    ----------
    number : int
        Of the figure.
    data : {"mnist", "fashion"}
        What is learned, unless the run is quick.
    against : {"epoch", "seconds"}
        Horizontal axis.
    doc : str
        Description for ``--help``.
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        0, or 130 if Ctrl-C ended it.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of hours: a small network on digits")
    parser.add_argument("--draw", action="store_true", help="train nothing; draw what there is")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for picture and numbers (default: out)")
    parser.add_argument("--reuse", type=Path, metavar="JSON", help="take finished runs from another figure")
    text = "draw E-MSA by its default maximizer, too, from the numbers of benchmark_training"
    parser.add_argument("--race", type=Path, metavar="JSON", help=text)
    for name, default, text in (
        ("seeds", Study.seeds, "number of seeds"),
        ("epochs", Study.epochs, "passes over the data for every baseline"),
        ("successive-epochs", Study.successive_epochs, "passes over the data for E-MSA"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{text} (default: {default})")
    options = parser.parse_args(argv)
    names = ("seeds", "epochs", "successive_epochs")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    if any(value < 1 for value in chosen.values()):
        parser.error("--seeds, --epochs and --successive-epochs must be at least 1")
    study = Study.short(**chosen) if options.quick else Study(data, **chosen)
    folder = options.out / "runs"
    if options.reuse is not None:
        earlier = json.loads(options.reuse.read_text(encoding="utf-8"))
        place([*earlier["records"], *earlier["runs"]], folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # times then do not depend on how busy the other cores are
    complete = True
    if not options.draw:
        try:
            Runner(study, load_data(study.data), folder).everything()
        except InterruptionError:
            complete = False
            print("Interrupted; the same command goes on from here. The picture shows what is done.", file=sys.stderr)
    results = results_of(number, study, folder)
    if options.race is not None:
        results["race"] = from_race(json.loads(options.race.read_text(encoding="utf-8")), results)
    write_json(options.out / f"figure{number}.json", results)
    picture = draw(results, against)
    for kind in ("png", "pdf"):
        picture.savefig(options.out / f"figure{number}.{kind}", dpi=160)
    report(results)
    print("\n" + "\n".join(str(options.out / f"figure{number}.{kind}") for kind in ("png", "pdf", "json")))
    return 0 if complete else 130
