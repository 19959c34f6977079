"""E-MSA against first-order methods, quasi-Newton methods and K-FAC: who trains a network to a given quality first?

All methods of a task run in one process, step by step in turn, each on its own clock, so that they share the weather of
the machine. The clock stands still during evaluation and while others run. Full-batch tasks (the sine network of the
paper, four targets, two starts) end at thresholds of the loss; image tasks (the residual CNN of the paper on MNIST and
Fashion-MNIST, a residual network of 50 layers on digits) at thresholds of the test accuracy, which count when two
evaluations in a row hold them. Competitors have step sizes tuned by half decades, on validation images or on a start
that is not measured; of Adam on the sine tasks the whole grid takes part, and the best value counts at each threshold.
Competitors train by plain loops, E-MSA as a user would run it.

K-FAC and SINGD take part if their packages are installed (`scripts/_race_curvature.py`). Neither kfac-pytorch nor
torch-kfac was found on the package index; asdfghjkl and singd were, and both work.

Everything that is done is in the JSON file; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from scripts._race_curvature import available
from scripts._race_methods import METHODS
from scripts._race_picture import draw
from scripts._race_results import print_table
from scripts._race_study import SettingsError, Study
from scripts._race_tasks import Task, all_tasks

__all__ = ["main"]

QUICK = ("sine-good-sin", "mnist", "digits")
SEEDS, SECONDS = 5, 30.0


def selected(tasks: dict[str, Task], wanted: Sequence[str]) -> list[Task]:
    """Tasks whose names begin with one of the words."""
    return [task for name, task in tasks.items() if any(name.startswith(word) for word in wanted)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the races, then write numbers and pictures.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        0, or 130 if Ctrl-C ended it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of hours: small networks, digits, 2 seeds"
    )
    parser.add_argument("--draw", action="store_true", help="train nothing; show what there is")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for pictures and numbers (default: out)")
    parser.add_argument("--reuse", type=Path, metavar="JSON", help="take what fits from another run's numbers")
    text = "tasks, or beginnings of their names: sine[-good|-noise[-sin|-cos2|-abs|-step]], mnist, fashion, digits"
    parser.add_argument("--task", nargs="+", metavar="NAME", help=text + " (default: all)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"some of: {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {SEEDS}; quick: 2)")
    parser.add_argument("--epochs", type=int, help="passes over the data, for mini-batches (default: 5; digits: 10)")
    text = "train through all epochs, also when all thresholds are reached: who is ahead in the end?"
    parser.add_argument("--to-the-end", action="store_true", help=text)
    text = f"limit of each run's own clock on full-batch tasks (default: {SECONDS:g})"
    parser.add_argument("--seconds", type=float, default=SECONDS, help=text)
    options = parser.parse_args(argv)
    for name in ("seeds", "epochs", "seconds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be positive")
    default = [name for name, method in METHODS.items() if method.default]
    names = options.methods or default
    for name in names:
        if name not in METHODS:
            parser.error(f"there is no method {name}; choose from {', '.join(METHODS)}")
        package = {"K-FAC": "asdl", "SINGD": "singd"}.get(name)
        if package is not None and not available(package):
            parser.error(f"{name} needs packages that are not installed; see scripts/_race_curvature.py")
    everything = all_tasks(quick=options.quick, epochs=options.epochs, seconds=options.seconds)
    tasks = selected(everything, options.task or (QUICK if options.quick else list(everything)))
    if not tasks:
        parser.error(f"no task has such a name; choose from {', '.join(everything)}")

    if options.to_the_end:
        tasks = [replace(task, leave_early=False) for task in tasks]

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "benchmark_training.json"
    methods = [method for name, method in METHODS.items() if name in names]
    study = Study(
        [] if options.draw else tasks, methods, options.seeds or (2 if options.quick else SEEDS), options.quick, path
    )
    try:
        if path.exists():
            study.take(json.loads(path.read_text(encoding="utf-8")), strict=not options.draw)
    except SettingsError as error:
        parser.error(f"{path.name} in --out cannot be continued: {error}; choose another folder")
    if options.reuse is not None:
        study.take(json.loads(options.reuse.read_text(encoding="utf-8")), strict=False)
    complete = options.draw or run(study)
    study.save()
    report(study, options.out)
    print(f"\nwritten: {path}")
    return 0 if complete else 130


def run(study: Study) -> bool:
    """Do what is missing; False if Ctrl-C ended it."""
    torch.set_num_threads(1)  # times then do not depend on how busy the other cores are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diverging runs and old packages; statuses are in the records
        try:
            for _ in study.everything():
                pass
        except KeyboardInterrupt:
            print("Interrupted; the same command goes on from here.", file=sys.stderr)
            return False
    return True


def report(study: Study, out: Path) -> None:
    """Print the tables and draw the pictures of everything that is there."""
    results = study.results()
    for name, summary in results["summary"].items():
        print_table(name, summary)
        for method, entry in results["tuning"].get(name, {}).items():
            if entry["at_edge"]:
                print(f"{method}: the step size {entry['choice']:g} is at the edge of its grid")
        picture = draw(name, results["races"][name])
        for kind in ("png", "pdf"):
            picture.savefig(out / f"benchmark_training_{name}.{kind}", dpi=160)
        plt.close(picture)


if __name__ == "__main__":
    sys.exit(main())
