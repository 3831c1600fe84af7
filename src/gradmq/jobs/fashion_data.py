"""Fashion-MNIST as arrays, from wherever this machine has its four IDX files."""

from __future__ import annotations

import gzip
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from gradmq.errors import JobError

Images = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.uint8]]

#: File name -> the shape that its header must declare.
FILES: Final[dict[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}

#: Where Debian's package dataset-fashion-mnist puts them.
SYSTEM_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")


def cache_folder() -> Path:
    """The folder that ``make data`` fills: in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path there is to be ignored.
    base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    return base / "gradmq" / "fashion-mnist"


def find_folder(data: str | None = None) -> Path:
    """The folder with all four files: ``data`` alone if given, else the system's, else the cache.

    Raises ``JobError`` that says where it looked and what to do.
    """
    if data is not None:
        missing = [name for name in FILES if not Path(data, name).is_file()]
        if missing:
            raise JobError(
                f"--data {data} has no {missing[0]}: "
                f"give the folder with the four Fashion-MNIST files {', '.join(FILES)}"
            )
        return Path(data)
    folders = (SYSTEM_FOLDER, cache_folder())
    for folder in folders:
        if is_complete(folder):
            return folder
    raise JobError(
        f"Fashion-MNIST is neither in {folders[0]} nor in {folders[1]}: run `make data`, "
        "or install Debian's package dataset-fashion-mnist, or give its folder with --data DIR"
    )


def is_complete(folder: Path) -> bool:
    """Whether all four files are there; says nothing of what is in them."""
    return all((folder / name).is_file() for name in FILES)


@cache
def load(part: Literal["train", "test"], data: str | None = None) -> tuple[Images, Labels]:
    """Images (N, 28, 28) and labels (N,), both uint8; read once a process.

    Raises ``JobError`` where files are missing or damaged.
    """
    folder = find_folder(data)
    prefix = "train" if part == "train" else "t10k"
    return (
        read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"),
        read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz"),
    )


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """The uint8 array in one of the four IDX files, of the shape that ``FILES`` names for it.

    Raises ``JobError`` for a file that is damaged or another's.
    """
    shape = FILES[path.name]
    # IDX: two zero bytes, 8 for uint8, the number of dimensions, each as big-endian 32 bits.
    header = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise JobError(f"{path} cannot be read ({error}): delete it and run `make data`") from error
    values = np.frombuffer(content, dtype=np.uint8, offset=min(len(header), len(content)))
    if not content.startswith(header) or values.size != np.prod(shape):
        raise JobError(
            f"{path} is not Fashion-MNIST's file of that name: delete it and run `make data`"
        )
    return values.reshape(shape)
