"""Where a run keeps its journals, and from which checkpoint each can be gone through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradmq.errors import CheckpointError, JournalError, SettingsError
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.journal.chain import Stored
from gradmq.ps.journal.records import Opened, layout_of
from gradmq.ps.journal.segments import Journal, journal_folder, segments
from gradmq.ps.state import ShardState


@dataclass(frozen=True, slots=True)
class ShardHistory:
    """One shard's oldest checkpoint that its journal follows; None: the journal has it all."""

    run: str
    layout: Layout
    index: int
    state: ShardState | None
    folder: Path

    def records(self) -> Iterator[Stored]:
        """Everything since ``state``; raises JournalError."""
        return Journal(self.folder).after(self.state.position if self.state else 0)


def shard_histories(run: Path) -> list[ShardHistory]:
    """Of every shard of a run's folder, or of a --state folder; raises SettingsError if it has
    none, JournalError or CheckpointError if one cannot be used."""
    state_dir = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    first = _history(state_dir, 0)
    return [first, *(_history(state_dir, i) for i in range(1, first.layout.shards))]


def _history(state_dir: Path, index: int) -> ShardHistory:
    folder = journal_folder(checkpoint.shard_folder(state_dir, index))
    known = segments(folder)
    if not known:
        raise SettingsError(
            f"{state_dir} holds no journal of shard {index}; "
            "a run writes one with --set run.durability=journal"
        )
    for release in checkpoint.saved_releases(state_dir, index):
        try:
            if checkpoint.journal_position(state_dir, index, release) + 1 < known[0][0]:
                continue  # the segments that follow it are gone
            run, layout, state = checkpoint.load(state_dir, index, release)
        except CheckpointError:
            continue  # a newer one may be whole
        return ShardHistory(run, layout, index, state, folder)
    if known[0][0] > 1:
        raise JournalError(f"{folder}: no checkpoint is left that it follows")
    opened = next(Journal(folder).after(0)).record
    assert isinstance(opened, Opened)
    return ShardHistory(opened.run, layout_of(opened), index, None, folder)
