"""What a shard wants done: its node performs these, the simulator too."""

from __future__ import annotations

from dataclasses import dataclass

from gradmq.ps.journal.records import Record
from gradmq.ps.state import ShardState
from gradmq.wire.messages import (
    AskRelease,
    Attached,
    Beacon,
    Labelled,
    NotSeen,
    Publication,
    Reattach,
    Refused,
    Verdicts,
)

ShardReply = Attached | Reattach | Verdicts | NotSeen | Refused | Publication


@dataclass(frozen=True, slots=True)
class Reply:
    """Effect: send this to the peer that holds this address on the control socket."""

    peer: bytes
    message: ShardReply


@dataclass(frozen=True, slots=True)
class Publish:
    """Effect: send this to all subscribers of the newest parameters (or of releases)."""

    message: Publication | Beacon
    slot: int | None = None
    """Where the payload lies: ``Shard.on_slot_free`` once no connection needs it any more."""


@dataclass(frozen=True, slots=True)
class TellBroker:
    """Effect: send this to the broker."""

    message: Labelled | AskRelease
    applied_at: float | None = None
    """Of a Labelled: when the last update in it was applied. What is sent says how long ago."""


@dataclass(frozen=True, slots=True)
class Save:
    """Effect: write this state to disk as part of a release."""

    release: int
    state: ShardState


@dataclass(frozen=True, slots=True)
class Append:
    """Effect: write this to the journal, and say ``Shard.on_durable`` once it is on disk."""

    position: int
    record: Record


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Effect: tell people, and the broker soon, that this worker is not listened to any more."""

    name: str
    why: str


Effect = Reply | Publish | TellBroker | Save | Append | Quarantined
