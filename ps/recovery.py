"""What a shard begins with: its newest good checkpoint, and what its journal holds since then."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gradmq.errors import CheckpointError, JournalError
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.journal.chain import End, Records
from gradmq.ps.journal.records import Opened, layout_of
from gradmq.ps.journal.replay import Replay
from gradmq.ps.journal.segments import (
    Journal,
    drop_before,
    journal_folder,
    segments,
    set_aside,
)
from gradmq.ps.state import ShardState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A shard as it was, and where its journal goes on."""

    run: str
    layout: Layout
    state: ShardState
    end: End


def recover(
    state_dir: Path, index: int, restore_release: int | None, incarnation: int
) -> Recovered | None:
    """Read, verify and replay; None if this shard never had parameters.

    With ``restore_release``, that checkpoint and nothing since: the journal is set aside. Raises
    CheckpointError if no checkpoint can be read, JournalError if the journal is damaged or lacks
    something.
    """
    folder = journal_folder(checkpoint.shard_folder(state_dir, index))
    if restore_release is not None:
        run, layout, state = checkpoint.load(state_dir, index, restore_release)
        try:
            set_aside(folder, incarnation)
        except OSError as error:
            raise JournalError(f"cannot set journal {folder} aside: {error.strerror}") from None
        return Recovered(run, layout, state, End(state.position))
    found = checkpoint.load_newest(state_dir, index)
    if not segments(folder):
        return Recovered(*found, End(found[2].position)) if found else None
    return replayed(Journal(folder), index, found)


def replayed(
    journal: Records, index: int, found: tuple[str, Layout, ShardState] | None
) -> Recovered | None:
    """What a journal makes of a checkpoint, or of nothing; its torn end is cut off.

    None if the shard never had parameters. Raises JournalError.
    """
    position = found[2].position if found else 0
    replay = Replay(found[0], found[1], index, found[2]) if found else None
    for stored in journal.after(position, repair=True):
        if replay is None:
            assert isinstance(stored.record, Opened)
            layout = layout_of(stored.record)
            replay = Replay(stored.record.run, layout, index, None)
        replay.on(stored.position, stored.record)
    if journal.end.position < position:
        raise JournalError(
            f"{journal.name} ends with record {journal.end.position}, the newest checkpoint holds "
            f"{position}: segments are missing; restore them from a copy, or give up what came "
            "after a release with --restore-release"
        )
    state = replay.state() if replay else None
    if replay is None or state is None:
        return None
    if replay.replayed:
        log.info("replayed %d updates of the journal", replay.replayed)
    return Recovered(replay.run, replay.layout, state, journal.end)


def forget_journal(state_dir: Path, index: int) -> None:
    """Remove the segments that no kept checkpoint needs; raises JournalError.

    Release 0 stays for ever, and needs none: it is what a run is compared with.
    """
    folder = journal_folder(checkpoint.shard_folder(state_dir, index))
    releases = [r for r in checkpoint.saved_releases(state_dir, index) if r > 0]
    if not releases or not segments(folder):
        return
    try:
        oldest = checkpoint.journal_position(state_dir, index, releases[0])
    except CheckpointError as error:
        log.warning("the journal keeps what a damaged checkpoint may need: %s", error)
        return
    try:
        drop_before(folder, oldest)
    except OSError as error:
        raise JournalError(f"cannot remove old segments in {folder}: {error.strerror}") from None
