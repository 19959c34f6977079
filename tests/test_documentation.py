"""Every ``python`` block of the README and of the documentation runs; it knows nothing of what the blocks say."""

from __future__ import annotations

import linecache
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

import ocsolver

ROOT = Path(__file__).resolve().parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.exists()]
FENCE = re.compile(
    r"^(?P<indent>[ \t]*)```(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)


def python_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the source of each block tagged ``python``."""
    for match in FENCE.finditer(text):
        if match["language"].strip() == "python":
            yield text.count("\n", 0, match.start("body")) + 1, textwrap.dedent(match["body"])


def marks(page: Path) -> list[pytest.MarkDecorator]:
    """Pages that compute for long are for the slow tests."""
    return [pytest.mark.slow] if page.name in ("constraints.md", "extending.md", "flows.md") else []


@pytest.fixture
def clean_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, no windows, and torch's global state restored afterwards."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    dtype, generator = torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(generator)
    plt.close("all")


@pytest.mark.usefixtures("clean_room")
@pytest.mark.parametrize("page", [pytest.param(path, id=path.name, marks=marks(path)) for path in PAGES])
def test_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, in one namespace."""
    blocks = list(python_blocks(page.read_text(encoding="utf-8")))
    if not blocks:
        pytest.skip("no python block")
    module = types.ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    linecache.checkcache(str(page))
    for line, source in blocks:
        # The empty lines let a traceback point into the page itself.
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), module.__dict__)


def test_blocks_are_found() -> None:
    """Only blocks tagged ``python`` count, and they keep their line numbers."""
    text = "a\n```python\nx = 1\n```\n```text\ny\n```\n- b\n  ```python\n  z = 2\n  ```\n"
    assert list(python_blocks(text)) == [(3, "x = 1\n"), (10, "z = 2\n")]


def test_reference_is_complete() -> None:
    """The page of the interface lists the public names, each once and no others."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto(?:class|function|exception|data):: ocsolver\.(\w+)$", text, re.MULTILINE)
    public = {name for name in ocsolver.__all__ if not name.startswith("__")}
    public -= {name for name in public if isinstance(getattr(ocsolver, name), types.ModuleType)}
    assert sorted(listed) == sorted(public)
    listed = re.findall(r"^\.\. auto(?:class|function|exception|data):: ocsolver\.nn\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(ocsolver.nn.__all__)
