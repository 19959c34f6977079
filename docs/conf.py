"""Configuration of Sphinx; the pages themselves are MyST Markdown."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import ocsolver
from ocsolver import Status

logger = logging.getLogger(__name__)

project = "ocsolver"
author = "The ocsolver authors"
copyright = f"2026, {author}"
release = version = getattr(ocsolver, "__version__", "0.1.0")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "figures/*.md"]
nitpicky = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The docstrings say types together with shapes; the annotations would only repeat them.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "ocsolver"


def escape_shapes(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape (*b, n) and the bars of |x| from being markup, except in literals and examples."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"(?<=[(\s,])\*(?=\w+[,)])|\|", r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def check_statuses(app: Sphinx, page: str, source: list[str]) -> None:
    """Warn unless the table of statuses says what the library says."""
    if page == "first_problem":
        for status in Status:
            row = f"| `{status.name}` | {int(status)} | {status.advice} |"
            if row not in source[0]:
                logger.warning("the table of statuses lacks this row: %s", row, location=page)


def setup(app: Sphinx) -> None:
    """Connect the functions above; 400 is before numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)
    app.connect("source-read", check_statuses)
