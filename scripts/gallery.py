"""Solve every reference problem by the defaults, and make a picture, a record and a page of each.

Pages go to OUT/gallery, pictures and gallery.json to OUT/figures/gallery; those of the documentation come from
``python scripts/gallery.py --out docs``. A problem that the default solver does not take has a page without a picture.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

import ocsolver as oc
import problems
from problems import Reference
from scripts._gallery_pages import write_pages
from scripts._records import environment, storable, write_json

QUICK = ("scalar-lqr", "linear-pendulum", "minimum-energy")
DPI, COLORS = 75, 48  # small files: 30 kB


def record_of(reference: Reference, mesh: int | None, folder: Path) -> dict[str, Any]:
    """Solve one problem, draw it, and return what there is to say about the solution.

    Parameters
    ----------
    reference : Reference
        The problem and its known cost.
    mesh : int or None
        Number of intervals; None for the default.
    folder : path
        Where the picture goes.

    Returns
    -------
    dict
        Status, cost, error, certificate, switches, violations; only the reason where the problem was not taken.
    """
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", oc.ConvergenceWarning)  # the record says it
            solution = oc.solve(reference.problem, mesh=mesh)
    except oc.UnsupportedError as error:
        return {"name": reference.name, "solved": False, "reason": str(error).partition("\n")[0]}
    seconds = time.perf_counter() - start
    save_small(solution, folder / f"{reference.name}.png")
    certificate = solution.certificate
    cost = float(solution.cost.mean())
    return {
        "name": reference.name,
        "solved": True,
        "solver": solution.solver,
        "intervals": int(solution.u.shape[0]),
        "status": sorted({status.name for status in solution.status}),
        "success": bool(solution.success.all()),
        "message": solution.message,
        "cost": f"{cost:.12g}",
        "error": None if reference.cost is None else cost - reference.cost,
        "final_time": f"{float(solution.t[-1].mean()):.9g}",
        "certificate": {entry.name: float(getattr(certificate, entry.name).max()) for entry in fields(certificate)},
        "certificate_text": str(certificate),
        "iterations": solution.stats.iterations,
        "seconds": seconds,
        "switches": [event for group in solution.switches for event in group],  # (t, component)
        "singular": [event for group in solution.singular for event in group],  # (from, to, component)
        "violations": {name: float(worst.max()) for name, worst in solution.violations.items()},
    }


def save_small(solution: oc.Solution, path: Path) -> None:
    """Write the picture of a solution as a PNG of few colors."""
    buffer = io.BytesIO()
    solution.plot().savefig(buffer, dpi=DPI, format="png")
    Image.open(buffer).convert("RGB").quantize(COLORS).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the gallery.

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
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for pages and pictures (default: out)")
    parser.add_argument("--quick", action="store_true", help="three problems on a coarse mesh")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="solve these problems again and keep the others")
    parser.add_argument("--pages-only", action="store_true", help="solve nothing, write the pages from gallery.json")
    options = parser.parse_args(argv)
    folder = options.out / "figures" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "gallery.json"
    stored = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"problems": []}
    records: dict[str, Any] = {record["name"]: record for record in stored["problems"]}

    references = problems.all_references()
    wanted = QUICK if options.quick else options.only or [reference.name for reference in references]
    unknown = sorted(set(wanted) - {reference.name for reference in references})
    if unknown:
        parser.error(f"no such problem: {', '.join(unknown)}")
    for reference in references:
        if reference.name in wanted and not options.pages_only:
            record = records[reference.name] = record_of(reference, 20 if options.quick else None, folder)
            shown = f"{record['status'][0]:15s} J {record['cost']}" if record["solved"] else "not taken"
            print(f"{reference.id}  {reference.name:30s} {shown}", flush=True)
    chosen = [reference for reference in references if reference.name in records]
    write_json(target, environment() | {"problems": [records[reference.name] for reference in chosen]})
    pages = write_pages(options.out / "gallery", chosen, storable(records))  # as the file will be read again
    print(f"written: {target} and {pages} pages in {options.out / 'gallery'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
