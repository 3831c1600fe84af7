"""The text of Python's own standard library as bytes, split by file for training and judging."""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gradmq.errors import JobError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

#: Not the library's own text: what was installed later, tests, and compiled leftovers.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}

#: One file in this many is held out.
_HELD_OUT_ONE_IN = 20


@cache
def text(part: Literal["train", "held_out"], root: str | None = None) -> Bytes:
    """All ``*.py`` files of one part of the split, in the order of their paths, as one uint8 array.

    The parts share no file, and a file stays in its part whatever else is installed. Read once a
    process. Raises ``JobError`` where ``root`` (default: this Python's library) has no such files.
    """
    folder = Path(sysconfig.get_path("stdlib") if root is None else root)
    want_held_out = part == "held_out"
    contents = [
        path.read_bytes() for path in _files(folder) if held_out(path, folder) is want_held_out
    ]
    if not any(contents):
        raise JobError(
            f"{folder} has no .py files to train the job lm on: "
            "use a Python whose standard library is installed as source"
        )
    return np.frombuffer(b"".join(contents), dtype=np.uint8)


def held_out(path: Path, root: Path) -> bool:
    """Whether the file is in the held-out part; depends on nothing but its path below ``root``."""
    return zlib.crc32(path.relative_to(root).as_posix().encode()) % _HELD_OUT_ONE_IN == 0


def _files(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
