"""Makes a run's parameters again, as they were at some point, or as they would have been."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gradmq.binding import whole_tensors
from gradmq.durable import write_atomically
from gradmq.errors import JournalError, SettingsError
from gradmq.history.journals import ShardHistory, shard_histories
from gradmq.layout import Layout
from gradmq.ps.journal.records import Decided, Labelled, RolledBack
from gradmq.ps.journal.replay import Replay
from gradmq.ps.optim import Vector

_TARGET = re.compile(r"(release|version):(\d+)")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to stop: a release, or a version of every shard; neither: where the journal ends."""

    release: int | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """``release:12``, ``version:4711`` or ""; raises SettingsError."""
        if not text:
            return cls()
        match = _TARGET.fullmatch(text)
        if match is None:
            raise SettingsError(f"--to {text}: write release:12 or version:4711")
        return cls(**{match[1]: int(match[2])})

    def __str__(self) -> str:
        if self.release is not None:
            return f"release {self.release}"
        return "the end" if self.version is None else f"version {self.version}"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A whole model out of a run's past."""

    layout: Layout
    tensors: Mapping[str, Vector]
    versions: tuple[tuple[int, int], ...]
    replayed: int
    """Updates, over all shards."""
    skipped: int
    """Of the workers that were left out."""

    @property
    def digest(self) -> str:
        """sha256 of all values as float32, in the order of the layout."""
        return digest(self.layout, self.tensors)

    def write(self, folder: Path) -> Path:
        """As ``parameters.safetensors``, which ``gradmq run --init`` takes; raises JournalError."""
        path = folder / "parameters.safetensors"
        tensors = {name: np.ascontiguousarray(values) for name, values in self.tensors.items()}
        try:
            write_atomically(path, lambda beside: save_file(tensors, beside))
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error.strerror}") from None
        return path


def digest(layout: Layout, tensors: Mapping[str, Vector]) -> str:
    """sha256 of all values as float32, in the order of the layout."""
    sha = hashlib.sha256()
    for tensor in layout.tensors:
        sha.update(np.ascontiguousarray(tensors[tensor.name], np.float32).data)
    return sha.hexdigest()


def rebuild(run: Path, target: Target, without: Collection[str] = ()) -> Rebuilt:
    """Replay every shard's journal to the target, leaving these workers out.

    Raises SettingsError if the run has no journal or nobody of that name pushed, JournalError or
    CheckpointError if it is damaged or does not reach that far.
    """
    histories = shard_histories(run)
    replays = [_replay(history, target, without) for history in histories]
    pushed = set().union(*(workers for _, workers in replays))
    unknown = sorted(set(without) - pushed)
    if unknown:
        raise SettingsError(f"--without {unknown[0]}: in this journal pushed {sorted(pushed)}")
    layout = histories[0].layout
    return Rebuilt(
        layout=layout,
        tensors=_tensors(layout, [replay for replay, _ in replays]),
        versions=tuple(replay.version for replay, _ in replays),
        replayed=sum(replay.replayed for replay, _ in replays),
        skipped=sum(replay.skipped for replay, _ in replays),
    )


def _replay(
    history: ShardHistory, target: Target, without: Collection[str]
) -> tuple[Replay, set[str]]:
    """One shard at the target, and who had pushed until then."""
    workers: set[str] = set()
    rollbacks = (s.record for s in history.records() if isinstance(s.record, RolledBack))
    replay = Replay(
        history.run,
        history.layout,
        history.index,
        history.state,
        lambda decided: decided.worker in without,
        {record.contents_of for record in rollbacks} if without else (),
    )
    reached = history.state is not None and history.state.release == target.release
    for stored in history.records():
        if stored.position and reached:
            break
        record = stored.record
        replay.on(stored.position, record)
        if isinstance(record, Decided):
            workers.add(record.worker)
        reached = (isinstance(record, Labelled) and record.release == target.release) or (
            target.version is not None and replay.version[1] == target.version
        )
    if not reached and target != Target():
        begin = history.state.release if history.state else 0
        raise JournalError(
            f"shard {history.index}: {target} is not in its journal, which begins with release "
            f"{begin} and ends with version {replay.version[1]}, release {replay.release}"
        )
    return replay, workers


def _tensors(layout: Layout, replays: Sequence[Replay]) -> dict[str, Vector]:
    states = [replay.state() for replay in replays]
    missing = [i for i, state in enumerate(states) if state is None]
    if missing:
        raise JournalError(f"shards {missing} never had parameters")
    rows = whole_tensors(layout, [(state.parameters,) for state in states if state is not None])
    return {
        tensor.name: np.asarray(rows.get(row, ()), np.float32).reshape(tensor.shape)
        for row, tensor in enumerate(layout.tensors)
    }
