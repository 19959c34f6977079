"""Pages of the gallery from the docstrings of the problems and the records of their solutions; it solves nothing."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpydoc.docscrape import FunctionDoc

import problems
from problems import Reference

__all__ = ["write_pages"]

KNOWN_DIGITS = 1e-12  # of known costs, relative to max(1, |J*|)


def modules() -> dict[str, ModuleType]:
    """The modules of the reference problems by the labels of their problems, such as ``A01``."""
    found = {}
    for module in vars(problems).values():
        if inspect.ismodule(module) and hasattr(module, "build"):
            label = re.search(r"\(([AB]\d\d)\)", module.__doc__ or "")
            assert label is not None, module.__name__
            found[label[1]] = module
    return found


def write_pages(folder: Path, references: Sequence[Reference], records: Mapping[str, Any]) -> int:
    """Write one page per problem, with all of its variants, and the page that lists them.

    Parameters
    ----------
    folder : path
        Where the pages go; what is there is replaced.
    references : sequence of Reference
        The problems to show.
    records : mapping
        For the name of each problem what `gallery.record_of` returned.

    Returns
    -------
    int
        Number of pages.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variants: dict[str, list[Reference]] = {}
    for reference in references:
        variants.setdefault(reference.id, []).append(reference)
    named = modules()
    for label, group in variants.items():
        module = named[label]
        text = page(module, group, records)
        (folder / f"{short(module)}.md").write_text(text, encoding="utf-8")
    (folder / "index.md").write_text(overview(named, variants, records), encoding="utf-8")
    return len(variants) + 1


def short(module: ModuleType) -> str:
    """Name of a module without its package."""
    return module.__name__.rpartition(".")[2]


def documentation(module: ModuleType) -> Any:
    """Docstring of ``build`` in sections."""
    return FunctionDoc(module.build)


def title(module: ModuleType) -> str:
    """First line of that docstring, without its full stop."""
    return escaped(" ".join(documentation(module)["Summary"]).rstrip("."))


def escaped(text: str) -> str:
    """Plain text as Markdown: stars, bars and the like stand for themselves, except in ``literals``."""
    parts = re.split(r"(``.*?``)", text)
    parts[::2] = [re.sub(r"[*_|<>$\[\]~]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


# ------------------------------------------------------------------------------------------------------------ one page


def page(module: ModuleType, group: Sequence[Reference], records: Mapping[str, Any]) -> str:
    """Statement, result, picture, certificate, what is exact, parameters and sources of one problem."""
    doc = documentation(module)
    name = short(module)
    parts = [
        f"# {title(module)}",
        f"*{group[0].id}, `problems.{name}`: {', '.join(tags(group))}.*",
        escaped("\n".join(doc["Extended Summary"])),
        f"```python\nimport ocsolver as oc\nfrom problems import {name}\n\n"
        f"solution = oc.solve({name}.build().problem)\nprint(solution)\n```",
        "## Result",
        results(group, records),
    ]
    for reference in group:
        record = records[reference.name]
        if record["solved"]:
            heading = [f"### {reference.name}"] if len(group) > 1 else []
            parts += [*heading, picture(reference), certificate(record), *events(reference, record)]
    parts += ["## What is exact, and what depends on the mesh", exactness(group, records)]
    parts += ["## Parameters", "\n".join(parameter(entry) for entry in doc["Parameters"])]
    parts += ["## Source", escaped(sources("\n".join(doc["References"])))]
    return "\n\n".join(part for part in parts if part) + "\n"


def tags(group: Sequence[Reference]) -> list[str]:
    """All tags of the variants."""
    return sorted(set().union(*(reference.tags for reference in group))) or ["no tags"]


def known(reference: Reference) -> str:
    """J* with the digits that are known."""
    if reference.cost is None:
        return "unknown"
    return f"{reference.cost:.12g}"


def results(group: Sequence[Reference], records: Mapping[str, Any]) -> str:
    """Table of the variants."""
    lines = [
        "| variant | J\\* | J found | J − J\\* | status | largest gap | worst violation |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for reference in group:
        record = records[reference.name]
        if not record["solved"]:
            lines.append(f"| {reference.name} | {known(reference)} | not taken by the default solver yet | | | | |")
            continue
        error = "" if record["error"] is None else f"{record['error']:.1e}"
        violation = f"{max(record['violations'].values()):.1e}" if record["violations"] else "none to violate"
        gap = number(record["certificate"]["max_gap"])
        statuses = ", ".join(f"`{status}`" for status in record["status"])
        row = (reference.name, known(reference), record["cost"], error, statuses, gap, violation)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _difference(cost: float, known_cost: float) -> str:
    """How far a cost is from the known one, as far as the digits of that one go."""
    least = KNOWN_DIGITS * max(1.0, abs(known_cost))
    return f"{cost - known_cost:.1e}" if abs(cost - known_cost) >= least else f"less than {least:.0e}"


def number(value: float | None) -> str:
    """A number of the record, where null stands for infinity and for what does not apply."""
    return "not finite" if value is None else f"{value:.1e}"


def picture(reference: Reference) -> str:
    """The picture, as the documentation includes it."""
    return f"![States, control, costates, Hamiltonian and convergence](../figures/gallery/{reference.name}.png)"


def certificate(record: Mapping[str, Any]) -> str:
    """Solver, effort and certificate as printed."""
    head = f"{', '.join(record['status'])} after {record['iterations']} iterations of {record['solver']}"
    return f"```text\n{head}, {record['intervals']} intervals\n{record['certificate_text']}\n```"


def events(reference: Reference, record: Mapping[str, Any]) -> list[str]:
    """Switching times, singular arcs and final times, found and exact, where there are any."""
    lines = []
    exact = reference.exact
    switches = ", ".join(f"u[{j}] at {t:.6g}" for t, j in record["switches"])
    if switches:
        lines.append(f"Switches found: {switches}.")
    arcs = ", ".join(f"u[{j}] from {start:.5g} to {end:.5g}" for start, end, j in record["singular"])
    if arcs:
        lines.append(f"Singular arcs found: {arcs}.")
    if exact is not None and exact.switches:
        lines.append(f"Exact times between smooth arcs: {', '.join(f'{t:.9g}' for t in exact.switches)}.")
    if "free-time" in reference.tags:
        best = "" if exact is None else f" (exact: {reference.horizon[1]:.9g})"
        lines.append(f"Final time: {record['final_time']}{best}.")
    return lines


def exactness(group: Sequence[Reference], records: Mapping[str, Any]) -> str:
    """What the data of the problem and the record of its solution entitle to say."""
    lines = []
    for reference in group:
        record, exact = records[reference.name], reference.exact
        if exact is not None:
            text = (
                "control, state and costate are known as functions of time (`Reference.exact`), J\\* to twelve digits."
            )
        elif "no-minimizer" in reference.tags:
            text = "J\\* is an infimum that no control attains: whatever is returned depends on the mesh."
        else:
            text = f"only J\\* = {known(reference)} is known, from finer solutions, with about the digits printed."
        if record["solved"] and reference.cost is not None:
            cost = float(record["cost"])
            nearest = min(reference.local_costs or (reference.cost,), key=lambda local: abs(local - cost))
            which = "J\\*" if nearest == reference.cost else f"the local minimum {nearest:.8g}"
            bound = number(record["certificate"]["cost_error"])
            text += (
                f" With {record['intervals']} intervals J minus {which} is {_difference(cost, nearest)}. To first order"
                f" the integration accounts for {bound} of that at most; the rest is the representation of"
                " the control and what the iterations left."
            )
        lines.append(f"- {reference.name}: {text}")
    local = [cost for reference in group for cost in reference.local_costs]
    if local:
        lines.append(f"- The problem has several minima: {', '.join(f'{cost:.8g}' for cost in local)}.")
    return "\n".join(lines)


def parameter(entry: Any) -> str:
    """One parameter of ``build``."""
    return f"- `{entry.name}` ({escaped(entry.type)}): {escaped(' '.join(entry.desc))}"


def sources(text: str) -> str:
    """The references of a docstring as a list."""
    joined = re.sub(r"\n\s+", " ", text)
    return re.sub(r"^\.\. \[\d+\] ?", "- ", joined, flags=re.MULTILINE)


# -------------------------------------------------------------------------------------------------------- the overview


def overview(
    named: Mapping[str, ModuleType], variants: Mapping[str, list[Reference]], records: Mapping[str, Any]
) -> str:
    """The page that lists all problems."""
    parts = [
        "# Gallery",
        "Every reference problem, solved by `oc.solve(problem)` with nothing else given. The statements are the "
        "docstrings of `problems/`; pictures, numbers and pages are made by `python scripts/gallery.py --out docs`.",
    ]
    for heading, letter in (("Free end, fixed horizon", "A"), ("Constraints and free ends", "B")):
        rows = [label for label in sorted(variants) if label.startswith(letter)]
        if rows:
            parts += [f"## {heading}", listing(rows, named, variants, records)]
    files = "\n".join(short(named[label]) for label in sorted(variants))
    parts.append(f"```{{toctree}}\n:hidden:\n\n{files}\n```")
    return "\n\n".join(parts) + "\n"


def listing(
    labels: Sequence[str],
    named: Mapping[str, ModuleType],
    variants: Mapping[str, list[Reference]],
    records: Mapping[str, Any],
) -> str:
    """Table of some problems, each by its first variant."""
    lines = ["| | problem | kind | J\\* | J − J\\* | status |", "| --- | --- | --- | --- | --- | --- |"]
    for label in labels:
        group, module = variants[label], named[label]
        first, record = group[0], records[group[0].name]
        error = "" if not record["solved"] or record["error"] is None else f"{record['error']:.1e}"
        status = f"`{', '.join(record['status'])}`" if record["solved"] else "not taken yet"
        link = f"[{title(module)}]({short(module)}.md)"
        kind = ", ".join(sorted(first.tags))
        lines.append(f"| {label} | {link} | {kind} | {known(first)} | {error} | {status} |")
    return "\n".join(lines)
