"""The sessions of one shard: who may push, up to which seq everything is decided, who never again.

Pure. A session attaches to this incarnation, and from then on its pushes are decided densely; its
row survives restarts, its attachment does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradmq.ps.optim import Vector
from gradmq.ps.state import Row, copied
from gradmq.wire.messages import (
    MAX_WINDOW,
    Attach,
    Directory,
    NotSeen,
    Query,
    Reattach,
    Refused,
    Verdict,
    Verdicts,
)


@dataclass(frozen=True, slots=True)
class SharedSlots:
    """What became of the segment that a session offered for its payloads."""

    vectors: tuple[Vector, ...] = field(default=(), repr=False)
    """Its slots, mapped here; empty: the payloads come over TCP."""
    reason: str = ""
    """Why it could not be opened, if one was offered."""


NOTHING_SHARED = SharedSlots()


@dataclass(slots=True)
class Attachment:
    """A session whose pushes are decided."""

    peer: bytes
    window: int
    slots: tuple[Vector, ...] = field(repr=False)
    pending: list[Verdict] = field(default_factory=list)
    """Given and not sent yet."""


class Sessions:
    """Rows, attachments and fences."""

    def __init__(self, incarnation: int, push_bytes: int, budget_bytes: int) -> None:
        """A push takes up to ``push_bytes``; all windows together hold at most the budget."""
        self.rows: dict[int, Row] = {}
        self.attached: dict[int, Attachment] = {}
        self._incarnation = incarnation
        self._push_bytes = push_bytes
        self._budget_bytes = budget_bytes
        self._live: frozenset[int] = frozenset()
        self.fenced_up_to = 0
        self.spared: frozenset[int] = frozenset()
        """Sessions up to there that are not fenced."""
        self._unwritten: deque[tuple[int, Row, int]] = deque()
        """(position in the journal, row, seq) of what was decided and is not on disk yet."""
        self._owners: Mapping[int, str] = {}
        self._ended: set[int] = set()
        """Sessions that detached and that the directory still lists."""

    def restore(self, rows: Mapping[int, Row], fenced_up_to: int, spared: frozenset[int]) -> None:
        self.rows = copied(rows)
        self.fenced_up_to = fenced_up_to
        self.spared = spared

    def on_directory(self, directory: Directory) -> None:
        """The broker's list of live sessions; the rows of fenced ones go.

        What was fenced once stays so: a broker that was restarted does not know it any more, and
        may list such a session again, whose pushes would be decided a second time without its row.
        """
        self._live = frozenset(s for s in directory.sessions if not self.is_fenced(s))
        self._owners = directory.owners
        if directory.horizon >= self.fenced_up_to:
            self.fenced_up_to = directory.horizon
            self.spared = self._live
        self._ended.intersection_update(directory.sessions)
        for session in [s for s in self.rows if self.is_fenced(s)]:
            del self.rows[session]
            self.attached.pop(session, None)

    def is_fenced(self, session: int) -> bool:
        if session in self._ended:
            return True
        return session <= self.fenced_up_to and session not in self.spared

    def owner(self, session: int) -> str:
        """The worker to which it was given; "" if nobody has said that here."""
        row = self.rows.get(session)
        return row.name if row is not None else self._owners.get(session, "")

    def is_known(self, session: int) -> bool:
        """False while the directory that lists it is still under way."""
        return session in self.rows or session in self._live

    def attach(self, peer: bytes, attach: Attach, slots: Sequence[Vector]) -> Row | Refused:
        """Take a known session's pushes from now on; refused if the budget is used up."""
        window = self._grant_window(attach)
        if window == 0:
            return Refused(
                reason="memory",
                text=f"push budget of {self._budget_bytes} bytes is used up by "
                f"{len(self.attached)} workers; raise ps.push_budget_mb or start fewer",
            )
        self.attached[attach.session] = Attachment(peer, window, tuple(slots))
        return self.rows.setdefault(attach.session, Row(attach.name))

    def _grant_window(self, attach: Attach) -> int:
        """P6: the pushes of all windows together fit the budget; one worker is always served."""
        others = [a.window for s, a in self.attached.items() if s != attach.session]
        free = self._budget_bytes // max(1, self._push_bytes) - sum(others)
        return max(0 if others else 1, min(attach.window, free, MAX_WINDOW))

    def pass_over(self, row: Row, up_to: int) -> None:
        """What was acknowledged and is not known here was lost with the last life's memory.

        Deciding it again is not possible: the row goes on behind it.
        """
        row.last_seq = row.said_up_to = up_to
        row.verdicts.clear()

    def answer(
        self, peer: bytes, query: Query, push_waiting: bool
    ) -> Verdicts | NotSeen | Reattach | None:
        """What there is to say of a push that is asked after; None: that comes once it may."""
        row = self.rows.get(query.session)
        attachment = self.attached.get(query.session)
        if row is None or attachment is None:
            return Reattach(session=query.session, incarnation=self._incarnation)
        attachment.peer = peer  # another one after the worker's connection broke
        if query.seq > row.last_seq:
            return NotSeen(
                session=query.session,
                incarnation=self._incarnation,
                seq=query.seq,
                idle=not push_waiting,
            )
        if query.seq > row.said_up_to:
            return None  # its verdict comes as soon as it is on disk
        again = tuple(v for v in row.verdicts if query.seq <= v.seq <= row.said_up_to)
        if not again or again[0].seq != query.seq:
            # Not stored any more (its window shrank): attaching again ends it as unknown.
            del self.attached[query.session]
            return Reattach(session=query.session, incarnation=self._incarnation)
        return Verdicts(session=query.session, incarnation=self._incarnation, verdicts=again)

    def decided(self, session: int, verdict: Verdict, position: int | None = None) -> None:
        """Remember what was decided on the next push of an attached session.

        With a position in the journal, nobody is told before ``on_durable`` has reached it.
        """
        row, attachment = self.rows[session], self.attached[session]
        row.last_seq = verdict.seq
        if position is None:
            row.said_up_to = verdict.seq
        else:
            self._unwritten.append((position, row, verdict.seq))
        row.verdicts.append(verdict)
        while len(row.verdicts) > attachment.window:
            row.verdicts.popleft()
        attachment.pending.append(verdict)

    def end(self, session: int) -> None:
        """Over for good: an Attach that comes late does not begin it anew."""
        self.attached.pop(session, None)
        if self.rows.pop(session, None) is not None:
            self._ended.add(session)

    def on_durable(self, position: int) -> None:
        """The journal is on disk up to there."""
        while self._unwritten and self._unwritten[0][0] <= position:
            _, row, seq = self._unwritten.popleft()
            row.said_up_to = seq

    def take_verdicts(self) -> Iterator[tuple[bytes, Verdicts]]:
        """Those that may be said and were not said yet: to whom, one message a session."""
        for session, attachment in self.attached.items():
            if not attachment.pending:
                continue
            verdicts, attachment.pending = tuple(attachment.pending), []
            if self._unwritten:
                up_to = self.rows[session].said_up_to
                attachment.pending = [v for v in verdicts if v.seq > up_to]
                verdicts = tuple(v for v in verdicts if v.seq <= up_to)
            if verdicts:
                said = Verdicts(session=session, incarnation=self._incarnation, verdicts=verdicts)
                yield attachment.peer, said
