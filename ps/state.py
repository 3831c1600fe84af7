"""What of a shard survives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradmq.ps.optim import State, Vector
from gradmq.wire.messages import Verdict


@dataclass(slots=True)
class Row:
    """One session's place in the order of pushes: with it, a push is decided at most once."""

    name: str
    last_seq: int = 0
    verdicts: deque[Verdict] = field(default_factory=deque)
    """The last *window* of them, to be said again to whoever missed them."""
    said_up_to: int = field(default=0, compare=False, repr=False)
    """Verdicts up to this seq may be said: with a journal, those that are on disk."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """Everything that survives a shard: one checkpoint holds exactly this, from one instant."""

    parameters: Vector
    optimizer: State
    version: int
    lineage: tuple[tuple[int, int], ...]
    """(incarnation, version it was restored at), oldest first; −1: it began with new parameters."""
    rows: Mapping[int, Row]
    release: int
    fenced_up_to: int = 0
    """Sessions up to this one are over, but for the spared ones: what was decided of their pushes
    is forgotten, so they must never be attached again."""
    spared: frozenset[int] = frozenset()
    position: int = 0
    """Of the journal: what was decided up to there is in here."""
    floor: int = 0
    """The version of the last rollback: a gradient of an older one is not wanted any more."""


def copied(rows: Mapping[int, Row]) -> dict[int, Row]:
    return {
        s: Row(row.name, row.last_seq, deque(row.verdicts), row.last_seq) for s, row in rows.items()
    }
