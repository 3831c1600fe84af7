"""Files that are whole or not there: written beside, synced, renamed, the folder synced."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gradmq.errors import CheckpointError
from gradmq.failpoints import failpoint


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then make it ``path`` for good; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    failpoint("durable.before_write")
    try:
        write(beside)
        failpoint("durable.after_write")
        sync_path(beside)
        failpoint("durable.after_sync")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    failpoint("durable.after_rename")
    sync_path(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process killed while writing left; nobody else may be writing there."""
    for beside in folder.glob(".*.tmp"):
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a small file, whole or not at all; raises OSError."""
    write_atomically(path, lambda beside: _write(beside, text))


def read_number(path: Path) -> int:
    """The number in this file, 0 if there is none; raises CheckpointError."""
    try:
        return int(path.read_text()) if path.exists() else 0
    except ValueError:
        raise CheckpointError(f"{path} does not hold a number; remove it or restore it") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def next_incarnation(path: Path) -> int:
    """Count one life more in this file, on disk before it is returned; raises CheckpointError."""
    last = read_number(path)
    try:
        write_text(path, f"{last + 1}\n")
    except OSError as error:
        raise CheckpointError(f"cannot count incarnations in {path}: {error.strerror}") from None
    return last + 1


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def sync_path(path: Path) -> None:
    """Have what a file or folder holds on disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process per folder; the lock goes with the process, however it ends.

    Raises CheckpointError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise CheckpointError(f"cannot use state folder {folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"{folder} is in use by another process; stop it or use another --state"
            ) from None
        yield
