"""Files in the idx format of MNIST: how they are spelled, verified, copied and read.

The format is a header of big-endian integers, then the bytes of one array. The module knows unsigned bytes only, and
nothing of where the files come from or what they depict.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ocsolver.errors import InputError, complaint

__all__ = ["collect", "read_idx", "sound"]

CHUNK = 1 << 20
UNSIGNED_BYTE = 0x08
TODO = "Delete the file and fetch it again."


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read one uncompressed idx file.

    Parameters
    ----------
    path : Path
        The file.
    dimensions : int
        Number of axes that the array must have: 3 for images, 1 for labels.

    Returns
    -------
    Tensor, uint8
        The array, in memory of its own.

    Raises
    ------
    InputError
        The file is not of this format, has other axes, or is not exactly as long as its header says.
    """
    content = bytearray(path.read_bytes())
    offset = 4 + 4 * dimensions
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        what = f"{path} is not an idx file of unsigned bytes with {dimensions} axes"
        raise InputError(complaint(what, expected=f"magic number {magic.hex()}", got=content[:4].hex(), todo=TODO))
    if len(content) < offset:
        what = f"{path} ends within its header"
        raise InputError(complaint(what, expected=f"{offset} bytes", got=len(content), todo=TODO))
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != offset + math.prod(shape):
        what = f"{path} is not as long as its header says, for shape {shape}"
        raise InputError(complaint(what, expected=f"{offset + math.prod(shape)} bytes", got=len(content), todo=TODO))
    return torch.frombuffer(content, dtype=torch.uint8)[offset:].reshape(shape)


def sound(path: Path, md5: str) -> bool:
    """Whether the file is there, complete and unchanged."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == md5


def plain_name(path: Path) -> str:
    """The usual name of a file that may be spelled train-images.idx3-ubyte, or end in .gz."""
    return path.name.removesuffix(".gz").replace(".idx", "-idx")


def take(origin: Path, target: Path, md5: str) -> bool:
    """Put a verified, uncompressed copy in the target's place at once; say whether the origin is the right file."""
    with origin.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as part:
        copy = Path(part) / target.name
        try:
            with gzip.open(origin) if compressed else origin.open("rb") as stream, copy.open("wb") as output:
                shutil.copyfileobj(stream, output, CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return False
        if not sound(copy, md5):
            return False
        os.replace(copy, target)
        return True


def collect(folder: Path, wanted: dict[Path, str]) -> str:
    """Take what is wanted (target and MD5) from anywhere below the folder, strike it out, say what still is missing."""
    targets = {path.name: path for path in wanted}
    damaged = set()
    for origin in sorted(folder.rglob("*")):
        target = targets.get(plain_name(origin))
        if target in wanted and origin.is_file():
            if take(origin, target, wanted[target]):
                del wanted[target]
            else:
                damaged.add(target)
    absent = ", ".join(path.name for path in wanted if path not in damaged)
    wrong = ", ".join(path.name for path in wanted if path in damaged)
    return "; ".join(
        part for part in (absent and f"without {absent}", wrong and f"damaged or of another data set: {wrong}") if part
    )
