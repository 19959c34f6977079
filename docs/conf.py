"""Configuration of Sphinx; the pages themselves are MyST Markdown."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

import ocsolver

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
exclude_patterns = ["_build"]
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
    """Keep the star of a shape such as (*b, n) from starting an emphasis; literals and examples stay as they are."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"(?<=[(\s,])\*(?=\w+[,)])", r"\\*", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app: Sphinx) -> None:
    """Run before numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)
