"""Validate the docstrings of the public names: everything in ``ocsolver.__all__``, and the methods of its classes.

It knows the numpydoc rules that this project keeps, and how dataclasses document their fields; it does not judge prose.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import inspect
import sys
from collections.abc import Iterator, Sequence

from numpydoc.validate import validate

import ocsolver

# Not demanded: an extended summary (ES01), see-also sections (SA01, SA04), an example on every name (EX01), the layout
# of the quotes (GL01, GL02, GL03), deprecation texts (GL09), a one-line summary (SS06), a summary in the infinitive
# (SS05), and capital letters and full stops in descriptions, which often are shapes (PR05, PR06, PR08, PR09, RT02 …).
RULES = {
    "GL05",  # tabs
    "GL06",  # unknown section
    "GL07",  # order of sections
    "GL08",  # no docstring
    "SS01",  # no summary
    "SS02",  # the summary starts with a capital letter
    "SS03",  # the summary ends with a full stop
    "SS04",  # leading spaces in the summary
    "PR01",  # a parameter is not documented
    "PR02",  # a documented parameter does not exist
    "PR03",  # wrong order of parameters
    "PR04",  # a parameter has no type
    "PR07",  # a parameter has no description
    "PR10",  # no space before the colon
    "RT01",  # no Returns section
    "YD01",  # no Yields section
}
SIGNATURE_RULES = {"PR01", "PR02", "PR03"}


def public_objects() -> Iterator[tuple[str, object, type | None]]:
    """Yield the qualified name of each public object, the object, and the class that holds it."""
    for name in ocsolver.__all__:
        public = getattr(ocsolver, name)
        if name.startswith("__") or inspect.ismodule(public) or not callable(public):
            continue
        yield f"ocsolver.{name}", public, None
        if not inspect.isclass(public):
            continue
        for attribute, value in vars(public).items():
            documented = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
            if documented and not attribute.startswith("_"):
                yield f"ocsolver.{name}.{attribute}", value, public


def problems_of(name: str, public: object, owner: type | None) -> Iterator[str]:
    """Yield one line for each rule that the docstring breaks."""
    if owner is not None and not public.__doc__:
        # A method that fulfills an interface is documented there.
        attribute = name.rpartition(".")[2]
        if any(getattr(vars(base).get(attribute), "__doc__", None) for base in owner.__mro__[1:]):
            return
    rules = RULES
    if inspect.isclass(public):
        # Enums and exceptions have Python's own constructors; the fields of a result are attributes, not parameters.
        if issubclass(public, enum.Enum | BaseException):
            rules = RULES - SIGNATURE_RULES
        elif dataclasses.is_dataclass(public) and "Attributes\n" in (inspect.getdoc(public) or ""):
            rules = RULES - SIGNATURE_RULES
            text = inspect.getdoc(public) or ""
            for field in dataclasses.fields(public):
                if not field.name.startswith("_") and field.name not in text:
                    yield f"{name}: the field '{field.name}' is not documented"
    for code, message in validate(name)["errors"]:
        if code in rules:
            yield f"{name}: {code} {message}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the faults and return how the process should end."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args(argv)
    count, faults = 0, []
    for name, public, owner in public_objects():
        count += 1
        faults += list(problems_of(name, public, owner))
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{count} public docstrings, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
