"""The checkpoint of one shard: a safetensors file per release, ``shard-I/release-NNNNNN``.

Tensors: ``parameters`` and one vector per optimizer state, all float32 of the shard's size. The
metadata holds the layout, the version, the lineage, and each session's last seq with its stored
verdicts, and a crc32c of every tensor and of itself: everything that makes a push decided at most
once, from the same instant.
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import crc32c
import msgpack
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gradmq.durable import write_atomically
from gradmq.errors import CheckpointError, RemoteProtocolError
from gradmq.failpoints import failpoint
from gradmq.layout import Layout
from gradmq.ps.state import Row, ShardState
from gradmq.wire.messages import Verdict

log = logging.getLogger(__name__)

FORMAT = 1

#: The newest that stay unless told otherwise; a run that ends badly has one to fall back on.
KEPT = 3

#: What reading JSON of another form runs into.
_NOT_AS_WRITTEN = (
    AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError,
    RemoteProtocolError,
)  # fmt: skip

#: Characters of what somebody else says of a file.
_TEXT = 300

_NAME = re.compile(r"release-(\d+)\.safetensors")


def shard_folder(state: Path, index: int) -> Path:
    return state / f"shard-{index}"


def release_path(state: Path, index: int, release: int) -> Path:
    return shard_folder(state, index) / f"release-{release:06d}.safetensors"


def saved_releases(state: Path, index: int) -> list[int]:
    """The releases that this shard has on disk, oldest first."""
    folder = shard_folder(state, index)
    names = (_NAME.fullmatch(path.name) for path in folder.glob("release-*.safetensors"))
    return sorted(int(name[1]) for name in names if name)


def save(
    state_dir: Path, run: str, layout: Layout, index: int, state: ShardState, kept: int = KEPT
) -> Path:
    """Write one checkpoint and drop the oldest beyond ``kept``, 0: none; raises CheckpointError."""
    path = release_path(state_dir, index, state.release)
    tensors = {"parameters": state.parameters, **_prefixed(state.optimizer)}
    text = json.dumps(_metadata(run, layout, index, state, tensors))
    metadata = {"gradmq": text, "gradmq.crc32c": _crc(text)}
    try:
        failpoint("checkpoint.before_write")
        write_atomically(path, lambda beside: save_file(tensors, beside, metadata))
        failpoint("checkpoint.after_write")
        for release in _superseded(saved_releases(state_dir, index), kept):
            release_path(state_dir, index, release).unlink(missing_ok=True)
        failpoint("checkpoint.after_drop")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error}") from None
    return path


def load(state_dir: Path, index: int, release: int) -> tuple[str, Layout, ShardState]:
    """Read one checkpoint: (run, layout, state); raises CheckpointError if anything is off."""
    path = release_path(state_dir, index, release)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {_in_short(error)}") from None
    try:
        text = metadata.get("gradmq", "")
        if metadata.get("gradmq.crc32c") != _crc(text):
            raise ValueError("its metadata does not match its crc32c, or it is not of gradmq")
        return _checked(json.loads(text), tensors, index)
    except _NOT_AS_WRITTEN as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {_in_short(error)}") from None


def load_newest(state_dir: Path, index: int) -> tuple[str, Layout, ShardState] | None:
    """The newest checkpoint that is whole; None if there are none.

    Raises CheckpointError if there are some and none is.
    """
    releases = saved_releases(state_dir, index)
    for release in reversed(releases):
        try:
            return load(state_dir, index, release)
        except CheckpointError as error:
            if release == releases[0]:
                raise
            log.error("%s; going on with an older one", error)
    return None


def journal_position(state_dir: Path, index: int, release: int) -> int:
    """Up to which record of the journal a checkpoint holds everything; raises CheckpointError."""
    path = release_path(state_dir, index, release)
    try:
        with safe_open(path, framework="numpy") as file:
            return int(json.loads((file.metadata() or {})["gradmq"]).get("position", 0))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from None


def _in_short(error: Exception) -> str:
    """Its text in one line; some errors quote all that they were given."""
    text = " ".join(str(error).split())
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _superseded(releases: Iterable[int], kept: int) -> list[int]:
    # Release 0 is where the run began; it stays, to compare with and to start again from.
    return [release for release in releases if release > 0][:-kept] if kept else []


def _prefixed(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {f"optimizer.{name}": vector for name, vector in optimizer.items()}


def _metadata(
    run: str, layout: Layout, index: int, state: ShardState, tensors: dict[str, Any]
) -> dict[str, Any]:
    shards, rows = msgpack.unpackb(layout.to_bytes())
    return {
        "format": FORMAT,
        "run": run,
        "shard": index,
        "shards": shards,
        "tensors": rows,
        "version": state.version,
        "release": state.release,
        "fenced_up_to": state.fenced_up_to,
        "spared": sorted(state.spared),
        "lineage": state.lineage,
        "position": state.position,
        "floor": state.floor,
        "rows": {
            session: {
                "name": row.name,
                "last_seq": row.last_seq,
                "verdicts": [asdict(verdict) for verdict in row.verdicts],
            }
            for session, row in state.rows.items()
        },
        "crc32c": {name: crc32c.crc32c(vector.data) for name, vector in tensors.items()},
    }


def _crc(text: str) -> str:
    return f"{crc32c.crc32c(text.encode()):08x}"


def _checked(
    metadata: dict[str, Any], tensors: dict[str, Any], index: int
) -> tuple[str, Layout, ShardState]:
    if metadata["format"] != FORMAT:
        raise ValueError(f"it is of format {metadata['format']}, this gradmq reads {FORMAT}")
    layout = Layout.from_bytes(msgpack.packb([metadata["shards"], metadata["tensors"]]))
    if metadata["shard"] != index:
        raise ValueError(f"it is of shard {metadata['shard']}, not {index}")
    size = layout.parts[index].size
    for name, vector in tensors.items():
        if vector.dtype != np.float32 or vector.shape != (size,):
            raise ValueError(f"{name} is {vector.dtype}{list(vector.shape)}, not float32[{size}]")
        if crc32c.crc32c(vector.data) != metadata["crc32c"][name]:
            raise ValueError(f"the bytes of {name} do not match their crc32c")
    state = ShardState(
        parameters=tensors["parameters"],
        optimizer={
            name.removeprefix("optimizer."): vector
            for name, vector in tensors.items()
            if name.startswith("optimizer.")
        },
        version=int(metadata["version"]),
        lineage=tuple((int(i), int(v)) for i, v in metadata["lineage"]),
        rows={int(session): _row(row) for session, row in metadata["rows"].items()},
        release=int(metadata["release"]),
        fenced_up_to=int(metadata["fenced_up_to"]),
        spared=frozenset(int(session) for session in metadata["spared"]),
        position=int(metadata.get("position", 0)),
        floor=int(metadata.get("floor", 0)),
    )
    return str(metadata["run"]), layout, state


def _row(row: dict[str, Any]) -> Row:
    last_seq = int(row["last_seq"])
    return Row(row["name"], last_seq, deque(_verdict(v) for v in row["verdicts"]), last_seq)


def _verdict(values: dict[str, Any]) -> Verdict:
    version = values["version"]
    return Verdict(**{**values, "version": None if version is None else tuple(version)})
