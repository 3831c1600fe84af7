"""A session: one life of a worker, its pushes in order, each answered exactly once per shard.

Pure. A push enters the window when it is made, and leaves it on a shard when that shard's verdict
names no version, or the replica holds that version: with one push in flight this is exactly
sequential SGD. Nothing is sent twice unless the shard said that it does not have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradmq.layout import Layout
from gradmq.wire.codec import payload_crc
from gradmq.wire.messages import (
    Attach,
    Attached,
    Beacon,
    Directory,
    NotSeen,
    Payload,
    Push,
    Query,
    Reattach,
    Refused,
    Segment,
    Verdict,
    Verdicts,
    Version,
)

#: An Attach without answer is repeated after this long, then twice as long, up to the second value.
ATTACH_AGAIN_S = (0.1, 2.0)

#: A push is asked after at the earliest after this long without any sign of progress.
QUERY_AFTER_S = 1.0

#: The longest time between two questions about the same push.
QUERY_AT_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class ToShard:
    """Effect: send this on the control socket of a shard."""

    shard: int
    message: Attach | Query


@dataclass(frozen=True, slots=True)
class Answered:
    """A push that every shard has answered."""

    session: int
    seq: int
    verdicts: tuple[Verdict, ...]
    """By shard: there is no exactly-once across the shards of one gradient."""

    @property
    def applied(self) -> bool:
        """True if every shard applied its part."""
        return all(verdict.outcome == "applied" for verdict in self.verdicts)

    @property
    def staleness(self) -> int:
        """The largest of all shards, in updates."""
        return max(verdict.staleness for verdict in self.verdicts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why parts were not applied, each reason once."""
        return tuple(dict.fromkeys(v.reason for v in self.verdicts if v.reason))


@dataclass(slots=True)
class _Pushed:
    """A push under way, as it is sent now, and what is needed to send it otherwise."""

    push: Push
    payload: Payload
    slot: int | None

    def restamp(self, incarnation: int, shared: bool) -> None:
        """For another life of the shard, or another way to it."""
        in_slot = shared and self.slot is not None
        self.push = replace(
            self.push,
            incarnation=incarnation,
            slot=self.slot if in_slot else None,
            payload=() if in_slot else self.payload,
            crc=0 if in_slot else self._crc(),
        )

    def _crc(self) -> int:
        return self.push.crc if self.push.slot is None else payload_crc(self.payload)


@dataclass(slots=True)
class _Side:
    """This session as one shard sees it."""

    incarnation: int = 0
    reachable: bool = False
    attached: bool = False
    shared: bool = False
    """The shard reads payloads in the session's segment."""
    window: int = 1
    unanswered: dict[int, _Pushed] = field(default_factory=dict)
    landing: dict[int, Version] = field(default_factory=dict)
    """Answered pushes whose version the replica does not hold yet."""
    outbox: deque[int] = field(default_factory=deque)
    newest_seen: Version | None = None
    attached_life: int = 0
    """The incarnation that attached this session last."""
    known: Version | None = None
    """The newest version of that life, out of the replica or a verdict: if the next life lacks it,
    updates were lost. The next life's own versions may well be seen before it is attached to."""
    attach_at: float = 0.0
    attach_again_s: float = ATTACH_AGAIN_S[0]
    query_at: float = 0.0
    query_after_s: float = QUERY_AFTER_S
    heard_at: float | None = None
    refusal: str = ""


class Session:
    """The pushes of one session, from ``push`` to the last verdict."""

    def __init__(
        self,
        run: str,
        layout: Layout,
        session: int,
        name: str,
        max_in_flight: int,
        segments: Sequence[Segment | None] = (),
    ) -> None:
        """``segments``: where this session's payloads lie, by shard, if others can open that."""
        self.session = session
        self.name = name
        self.fenced = False
        self._run = run
        self._layout = layout
        self._max_in_flight = max_in_flight
        self._next_seq = 1
        self._segments = segments or [None] * layout.shards
        self._sides = [_Side() for _ in layout.parts]
        self._slots: dict[int, int] = {}
        """The slot of each push that some shard has not answered."""
        self._verdicts: dict[int, list[Verdict | None]] = {}
        self._answered: list[Answered] = []

    # -- the window -------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        return self._next_seq - 1

    @property
    def in_flight(self) -> int:
        """Pushes that some shard has not answered, or whose result is not here yet.

        From the oldest unanswered one on, all count: a shard stores the last *window* verdicts, and
        the one that is asked for again must be among them.
        """
        under_way = {seq for side in self._sides for seq in (*side.unanswered, *side.landing)}
        oldest = min((next(iter(s.unanswered)) for s in self._sides if s.unanswered), default=0)
        return max(len(under_way), self._next_seq - oldest if oldest else 0)

    @property
    def has_room(self) -> bool:
        """True if another push may be made; never again once the session is over."""
        return not self.fenced and self.in_flight < self.max_in_flight

    @property
    def max_in_flight(self) -> int:
        """What the worker asked for, less where a shard granted less; 1 before all have granted."""
        return min(self._max_in_flight, *(side.window for side in self._sides))

    def free_slot(self, wanted: int = 0) -> int:
        """A slot that holds no payload under way, ``wanted`` if it can be; there is one if the
        window has room.

        A shard that has answered a push reads its payload no more, and a repetition neither. The
        slots of a fenced session are not used again: some shard may not know yet that it is over.
        """
        taken = set(self._slots.values())
        if wanted not in taken:
            return wanted
        return next(slot for slot in range(self._max_in_flight) if slot not in taken)

    def is_shared(self, shard: int) -> bool:
        """True while this shard reads payloads, and is read from, where they lie."""
        return self._sides[shard].shared

    @property
    def unanswered(self) -> tuple[int, ...]:
        return tuple(sorted({seq for side in self._sides for seq in side.unanswered}))

    def push(
        self,
        base: Sequence[Version],
        payloads: Sequence[Payload],
        crcs: Sequence[int | None],
        present: bytes | None,
        now: float,
        loss: float | None = None,
        samples: int = 0,
        slot: int | None = None,
    ) -> int:
        """Take one gradient, a payload per shard, in this slot of the segments; returns its seq.

        The payloads stay unchanged until all have answered. A shard that shares them needs no crc.
        """
        seq = self._next_seq
        self._next_seq += 1
        self._verdicts[seq] = [None] * len(self._sides)
        if slot is not None:
            self._slots[seq] = slot
        for shard, (side, payload) in enumerate(zip(self._sides, payloads, strict=True)):
            in_slot = side.shared and slot is not None
            crc = crcs[shard]
            if crc is None:
                crc = 0 if in_slot else payload_crc(payload)
            push = Push(
                run=self._run,
                shard=shard,
                incarnation=side.incarnation,
                session=self.session,
                seq=seq,
                base=base[shard],
                layout=self._layout.hash,
                present=present,
                crc=crc,
                loss=loss,
                samples=samples,
                slot=slot if in_slot else None,
                payload=() if in_slot else payload,
            )
            side.unanswered[seq] = _Pushed(push, payload, slot)
            side.outbox.append(seq)
            if len(side.unanswered) == 1:
                side.query_at = now + side.query_after_s
        return seq

    def next_push(self, shard: int) -> Push | None:
        """The push to be handed to this shard's socket now, if any."""
        side = self._sides[shard]
        if not (side.attached and side.outbox):
            return None
        return side.unanswered[side.outbox[0]].push

    def on_sent(self, shard: int, now: float) -> None:
        """The socket took ``next_push``."""
        side = self._sides[shard]
        side.outbox.popleft()
        side.query_at = max(side.query_at, now + side.query_after_s)

    def take_answered(self) -> list[Answered]:
        """The pushes that became fully answered since the last call, by seq."""
        answered, self._answered = sorted(self._answered, key=lambda a: a.seq), []
        return answered

    # -- attaching --------------------------------------------------------------------------------

    def on_directory(self, directory: Directory, now: float) -> None:
        """Shards that are ready can be attached to; a new incarnation must be."""
        for entry in directory.shards:
            side = self._sides[entry.index]
            if entry.incarnation >= side.incarnation:
                side.reachable = entry.ready and directory.phase != "waiting"
            self._on_incarnation(side, entry.incarnation, now)

    def on_beacon(self, beacon: Beacon, now: float) -> None:
        """Life signs; and the first news of a restart, often."""
        side = self._sides[beacon.shard]
        if beacon.version[0] >= side.incarnation:
            side.heard_at = now
        self._on_incarnation(side, beacon.version[0], now)

    def _on_incarnation(self, side: _Side, incarnation: int, now: float) -> None:
        if incarnation > side.incarnation:
            side.incarnation = incarnation
            self._detach(side, now)

    def _detach(self, side: _Side, now: float) -> None:
        side.attached = side.shared = False
        side.outbox.clear()
        side.attach_at = now
        side.attach_again_s = ATTACH_AGAIN_S[0]

    def on_reattach(self, shard: int, message: Reattach, now: float) -> None:
        side = self._sides[shard]
        if message.session == self.session and message.incarnation >= side.incarnation:
            side.incarnation = message.incarnation
            side.heard_at = now
            if side.attached or side.attach_at > now:
                self._detach(side, now)

    def on_attached(self, shard: int, message: Attached, now: float) -> bool:
        """Send again, in order and with the new stamp, what this incarnation has not decided.

        False if this is old news.
        """
        side = self._sides[shard]
        if message.session != self.session or message.incarnation < side.incarnation:
            return False
        side.heard_at = now
        if side.attached and message.incarnation == side.incarnation:
            return False  # the answer to an Attach that was repeated
        side.incarnation = message.incarnation
        side.attached = True
        side.attached_life = message.incarnation
        if side.newest_seen is not None:
            _learn(side, side.newest_seen)
        side.shared = message.ring is not None
        side.window = message.window
        side.refusal = ""
        for verdict in message.verdicts:
            self._answer(shard, verdict, now)
        for seq in [seq for seq in side.unanswered if seq <= message.last_seq]:
            lost = Verdict(seq=seq, outcome="unknown", reason="its verdict was lost with a restart")
            self._answer(shard, lost, now)
        for pushed in side.unanswered.values():
            pushed.restamp(side.incarnation, side.shared)
        side.outbox = deque(side.unanswered)
        side.query_at = now + side.query_after_s
        return True

    def on_refused(self, shard: int, message: Refused, now: float) -> None:
        """Fenced ends the session; anything else is kept as the reason of the wait."""
        if message.session not in (None, self.session):
            return  # the one before was refused, and this one need not care
        side = self._sides[shard]
        side.heard_at = now
        side.refusal = message.text
        if message.reason == "fenced":
            self.fence("a shard knows this session as ended")

    def fence(self, reason: str) -> None:
        """End the session: what is unanswered ends as unknown and is never sent again."""
        self.fenced = True
        for shard, side in enumerate(self._sides):
            for seq in list(side.unanswered):
                self._answer(shard, Verdict(seq=seq, outcome="unknown", reason=reason), 0.0)
            side.landing.clear()
            side.outbox.clear()

    # -- verdicts ---------------------------------------------------------------------------------

    def on_verdicts(self, shard: int, message: Verdicts, now: float) -> None:
        side = self._sides[shard]
        if message.session != self.session or message.incarnation != side.incarnation:
            return  # of a life that is over: the one that lives now answers again
        side.heard_at = now
        for verdict in message.verdicts:
            self._answer(shard, verdict, now)

    def on_not_seen(self, shard: int, message: NotSeen, now: float) -> None:
        """Rule *Ask before resending*: only an idle shard's "not seen" means lost."""
        side = self._sides[shard]
        if message.session != self.session or message.incarnation != side.incarnation:
            return
        side.heard_at = now
        side.query_at = now + side.query_after_s
        if message.idle and side.attached and not side.outbox and message.seq in side.unanswered:
            side.outbox = deque(seq for seq in side.unanswered if seq >= message.seq)
            side.query_after_s = min(2 * side.query_after_s, QUERY_AT_MOST_S)

    def _answer(self, shard: int, verdict: Verdict, now: float) -> None:
        side = self._sides[shard]
        if side.unanswered.pop(verdict.seq, None) is None:
            return  # said twice
        if verdict.seq in side.outbox:
            side.outbox.remove(verdict.seq)
        side.query_after_s = QUERY_AFTER_S
        side.query_at = now + side.query_after_s
        if verdict.version is not None and _lacks(side.newest_seen, verdict.version):
            side.landing[verdict.seq] = verdict.version
        if verdict.version is not None:
            _learn(side, verdict.version)
        verdicts = self._verdicts[verdict.seq]
        verdicts[shard] = verdict
        if all(v is not None for v in verdicts):
            del self._verdicts[verdict.seq]
            if not self.fenced:
                self._slots.pop(verdict.seq, None)
            every = tuple(v for v in verdicts if v is not None)
            self._answered.append(Answered(self.session, verdict.seq, every))

    def on_replica(self, shard: int, version: Version, now: float) -> None:
        """The replica holds this version of a shard."""
        side = self._sides[shard]
        side.heard_at = now
        side.newest_seen = version
        _learn(side, version)
        self._on_incarnation(side, version[0], now)
        side.landing = {seq: v for seq, v in side.landing.items() if _lacks(version, v)}

    # -- time -------------------------------------------------------------------------------------

    def on_time(self, now: float) -> list[ToShard]:
        """What is due: to attach, or to ask after a push."""
        if self.fenced:
            return []
        effects: list[ToShard] = []
        for shard, side in enumerate(self._sides):
            if not side.attached:
                if side.reachable and now >= side.attach_at:
                    side.attach_at = now + side.attach_again_s
                    side.attach_again_s = min(2 * side.attach_again_s, ATTACH_AGAIN_S[1])
                    effects.append(ToShard(shard, self._attach(shard)))
            elif side.unanswered and not side.outbox and now >= side.query_at:
                side.query_at = now + side.query_after_s
                oldest = next(iter(side.unanswered))
                effects.append(ToShard(shard, Query(session=self.session, seq=oldest)))
        return effects

    def next_deadline(self) -> float:
        """Nothing becomes due before this time unless a message comes first."""
        if self.fenced:
            return float("inf")
        times = [
            side.query_at if side.attached else side.attach_at
            for side in self._sides
            if (side.unanswered and not side.outbox if side.attached else side.reachable)
        ]
        return min(times, default=float("inf"))

    def _attach(self, shard: int) -> Attach:
        side = self._sides[shard]
        return Attach(
            run=self._run,
            layout=self._layout.hash,
            session=self.session,
            name=self.name,
            oldest_unanswered=next(iter(side.unanswered), self._next_seq),
            newest_seen=side.known,
            window=self._max_in_flight,
            segment=self._segments[shard],
        )

    def waiting_for(self, now: float) -> str:
        """Who the worker waits for, for what, since when; "" if nothing is under way."""
        for shard, side in enumerate(self._sides):
            if side.attached and not side.unanswered and not side.landing:
                continue
            silent_s = 0.0 if side.heard_at is None else now - side.heard_at
            silence = f", silent for {silent_s:.1f} s" if silent_s > 1.0 else ""
            if not side.attached:
                why = f" ({side.refusal})" if side.refusal else ""
                return f"shard {shard}: to attach{silence}{why}"
            if side.unanswered:
                return f"shard {shard}: verdict on push {next(iter(side.unanswered))}{silence}"
            version = max(side.landing.values())
            return f"shard {shard}: parameters of version {version[1]}{silence}"
        return ""


def _learn(side: _Side, version: Version) -> None:
    if version[0] <= side.attached_life and _lacks(side.known, version):
        side.known = version


def _lacks(have: Version | None, wanted: Version) -> bool:
    return have is None or have < wanted
