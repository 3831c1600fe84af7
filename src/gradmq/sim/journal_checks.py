"""Every journal: nothing is said before it is on disk, nothing that was said is missing later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradmq.errors import JournalError
from gradmq.layout import Layout
from gradmq.ps.effects import Append
from gradmq.ps.journal.records import Decided, Labelled
from gradmq.ps.journal.replay import Replay
from gradmq.ps.state import ShardState
from gradmq.sim.disk import SimDisk
from gradmq.sim.history import PushId, ShardHistory
from gradmq.sim.violation import Violation
from gradmq.wire.messages import Attached, Message, Verdict, Verdicts, Version

if TYPE_CHECKING:
    from gradmq.sim.shard import SimShard


class JournalChecks:
    """What each shard had on disk, and what it said."""

    def __init__(
        self, histories: Sequence[ShardHistory], disks: Sequence[SimDisk], counts: Counter[str]
    ) -> None:
        self._histories = histories
        self._disks = disks
        self._counts = counts
        self._said: list[dict[PushId, Verdict]] = [{} for _ in disks]
        """By shard: every verdict that left it."""

    # -- while it lives ---------------------------------------------------------------------------

    def appended(self, process: SimShard, append: Append) -> None:
        """A record is handed over; one of a life that is over does not reach the disk."""
        disk, record = self._disks[process.index], append.record
        if disk.owner != process.incarnation:
            return
        self._counts["records"] += 1
        if isinstance(record, Decided):
            push = (record.session, record.seq)
            if push in self._said[process.index]:
                text = f"{process} decides seq {record.seq} of session {record.session} again"
                raise Violation("exactly once", f"{text}, which was answered")
            disk.decided[push] = (append.position, record.outcome, record.version)
        elif isinstance(record, Labelled):
            disk.labels[record.release] = append.position

    def said(self, process: SimShard, message: Message) -> None:
        """A shard says verdicts: those that are on disk."""
        if not isinstance(message, Verdicts | Attached):
            return
        disk, said = self._disks[process.index], self._said[process.index]
        for verdict in message.verdicts:
            push = (message.session, verdict.seq)
            what = f"{process} says that seq {verdict.seq} of session {message.session} is"
            position, *record = disk.decided.get(push, (0, "", None))
            if record != [verdict.outcome, verdict.version] or position > disk.durable:
                raise Violation(
                    "durable first",
                    f"{what} {verdict.outcome} ({verdict.version}); on disk are {disk.durable} "
                    f"records, and its is {position} ({record[0] or 'none'})",
                )
            said[push] = verdict
        if isinstance(message, Attached):
            position, *_ = disk.decided.get((message.session, message.last_seq), (0,))
            if position > disk.durable:
                text = f"{process} says that seq {message.last_seq} of {message.session} is decided"
                raise Violation("durable first", f"{text}, which is not on disk")

    def labelled(self, process: SimShard, release: int) -> None:
        """A shard says that its part of a release is there."""
        disk = self._disks[process.index]
        if disk.labels.get(release, 0) > disk.durable or release not in disk.labels:
            text = f"{process} labels release {release} before that is on disk"
            raise Violation("durable first", text)

    # -- from one life to the next ----------------------------------------------------------------

    def restored(self, index: int, origin: Version, state: ShardState) -> None:
        """A life goes on from this state: with everything that was said."""
        history = self._histories[index]
        for (session, seq), verdict in self._said[index].items():
            what = f"seq {seq} of session {session}, said to be {verdict.outcome}"
            at = verdict.version if verdict.outcome == "applied" else None
            if at is not None and not history.follows(origin, at):
                text = f"shard {index} goes on from {origin} without {what} at {at}"
                raise Violation("journalled", text)
            row = state.rows.get(session)
            if row is None:
                continue  # it had ended
            if row.last_seq < seq or any(v.seq == seq and v != verdict for v in row.verdicts):
                raise Violation("journalled", f"shard {index} goes on and does not know of {what}")

    def try_damage(self, disk: SimDisk, run: str, layout: Layout) -> None:
        """What was on disk is damaged: a shard must refuse to start from that."""
        mend = disk.rot()
        if mend is None:
            return
        try:
            disk.recover(run, layout)
        except JournalError:
            self._counts["damage refused"] += 1
        else:
            raise Violation("journal", f"shard {disk.index} starts from a damaged journal")
        finally:
            mend()

    # -- the end ----------------------------------------------------------------------------------

    def finish(self, process: SimShard, release_0: ShardState | None) -> None:
        """All is quiet: the journal from its beginning makes the same parameters, bit for bit."""
        shard = process.shard
        assert shard is not None
        replay = Replay(shard.run, shard.layout, process.index, release_0)
        try:
            for stored in self._disks[process.index].whole_journal():
                replay.on(stored.position, stored.record)
        except JournalError as error:
            raise Violation("replay", f"the journal of {process}: {error}") from None
        state, now = replay.state(), shard.snapshot()
        if state is None or state.version != now.version:
            made = state.version if state else None
            raise Violation("replay", f"{process} is at version {now.version}, replayed: {made}")
        if state.parameters.tobytes() != now.parameters.tobytes():
            raise Violation("replay", f"{process} has other bits than its journal makes")
        for session, row in now.rows.items():
            again = state.rows.get(session)
            if again is not None and again.last_seq != row.last_seq:
                raise Violation("replay", f"{process} has another last seq of session {session}")
        self._counts["journals replayed"] += 1
