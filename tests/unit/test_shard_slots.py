"""Pushes are read where they lie in shared memory, and publications are sent from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradmq.layout import Layout, Tensor
from gradmq.ps.effects import Effect, Publish, Reply
from gradmq.ps.optim import SGD, Vector
from gradmq.ps.policy import Bounded
from gradmq.ps.publishing import BEACON_AFTER_S
from gradmq.ps.sessions import SharedSlots
from gradmq.ps.shard import Shard
from gradmq.replica import Replica
from gradmq.ring import SLOTS, RingReader, RingWriter, memory_bytes, own_memory, slot_vectors
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    Attach,
    Attached,
    Beacon,
    Detach,
    Directory,
    Fetch,
    Label,
    Publication,
    Push,
    Seed,
    Segment,
    Verdict,
    Verdicts,
)

LAYOUT = Layout(
    (
        Tensor("w", "float32", (3,)),
        Tensor("scalar", "float32", ()),
        Tensor("mean", "float32", (1,), "buffer"),
    ),
    shards=1,
)
SIZE = LAYOUT.parts[0].size
INITIAL = [10.0, 20.0, 30.0, 40.0, 50.0]
PEER = b"peer-1"
WINDOW = 2
RING = Segment(pid=1, fd=2, nonce=bytes(16), nbytes=memory_bytes(SIZE, SLOTS))


def directory(*sessions: int) -> Directory:
    return Directory(
        serial=1,
        run="demo",
        phase="open",
        shards=(),
        sessions=sessions,
        horizon=2,
        seeder=1,
    )


def attach(session: int = 1) -> Attach:
    return Attach(
        run="demo",
        layout=LAYOUT.hash,
        session=session,
        name=f"worker-{session}",
        oldest_unanswered=1,
        newest_seen=None,
        window=WINDOW,
    )


def seed() -> Seed:
    payload = array_payload(np.array(INITIAL, np.float32))
    return Seed(
        run="demo",
        layout=LAYOUT.hash,
        shard=0,
        session=1,
        crc=payload_crc(payload),
        payload=payload,
    )


def push(seq: int, slot: int | None, session: int = 1, **changes: Any) -> Push:
    fields = {"run": "demo", "shard": 0, "incarnation": 1, "layout": LAYOUT.hash, "base": (1, 0)}
    return Push(**{**fields, "session": session, "seq": seq, "slot": slot, **changes})


def new_shard(memory: object, incarnation: int = 1) -> Shard:
    ring = RingWriter(memory, SIZE)
    return Shard("demo", LAYOUT, 0, incarnation, SGD(lr=1.0), Bounded(8), 1 << 30, ring, RING)


class Host:
    """A shard, its ring, and the slots of session 1; session 2 is on another host."""

    def __init__(self) -> None:
        self.memory = own_memory(SIZE)
        self.shard = new_shard(self.memory)
        self.ring = RingReader(self.memory, SIZE)
        segment = bytearray(memory_bytes(SIZE, WINDOW))
        self.slots = slot_vectors(segment, SIZE, WINDOW)
        self.shard.on_directory(directory(1, 2), 0.0)
        assert self.shard.on_seed(PEER, seed()) == []
        assert self.attached(1, SharedSlots(self.slots)).ring == RING
        assert self.attached(2).ring is None

    def attached(self, session: int, *shared: SharedSlots) -> Attached:
        message = reply(self.shard.on_attach(PEER, attach(session), *shared))
        assert isinstance(message, Attached)
        return message

    def decide(self, *pushes: Push) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for one in pushes:
            assert self.shard.on_push(one, now=0.0) == []
            for effect in self.shard.take_verdicts():
                assert isinstance(effect, Reply)
                assert isinstance(effect.message, Verdicts)
                verdicts += effect.message.verdicts
        return verdicts

    def publish(self, now: float) -> tuple[Publication | Beacon, int | None]:
        (effect,) = self.shard.on_time(now, push_waiting=False)
        assert isinstance(effect, Publish)
        return effect.message, effect.slot

    @property
    def values(self) -> list[float]:
        return self.ring.newest().values.tolist()


def reply(effects: Sequence[Effect]) -> Any:
    (effect,) = effects
    assert isinstance(effect, Reply)
    return effect.message


def vector(message: Publication | Beacon) -> Vector:
    assert isinstance(message, Publication)
    assert message.crc == payload_crc(message.payload)
    return np.frombuffer(b"".join(message.payload), np.float32)


@pytest.fixture
def host() -> Host:
    return Host()


# -- attaching ------------------------------------------------------------------------------------


def test_a_session_whose_segment_was_not_opened_is_told_why_and_not_where_the_ring_is(
    host: Host,
) -> None:
    message = host.attached(2, SharedSlots(reason="cannot open /proc/1/fd/2: Permission denied"))
    assert message.ring is None
    assert message.not_shared == "cannot open /proc/1/fd/2: Permission denied"


def test_a_session_that_offers_no_segment_is_told_nothing_of_it(host: Host) -> None:
    message = host.attached(2)
    assert (message.ring, message.not_shared) == (None, "")


def test_a_shard_without_a_ring_to_share_takes_no_slots_for_granted() -> None:
    shard = Shard("demo", LAYOUT, 0, 1, SGD(lr=1.0), Bounded(8))
    shard.on_directory(directory(1), 0.0)
    assert shard.on_seed(PEER, seed()) == []
    assert reply(shard.on_attach(PEER, attach())).ring is None


def test_nobody_finds_parameters_in_the_ring_of_a_shard_that_has_none() -> None:
    """Zeros that nobody trained would be newer than whatever the life before had."""
    memory = own_memory(SIZE)
    shard = new_shard(memory, incarnation=2)
    shard.on_directory(directory(1), 0.0)
    slots = slot_vectors(bytearray(memory_bytes(SIZE, WINDOW)), SIZE, WINDOW)
    effects = shard.on_attach(PEER, attach(), SharedSlots(slots))
    replica = Replica("demo", LAYOUT)
    if effects and (ring := reply(effects).ring) is not None:
        assert ring == RING
        replica.open_ring(0, 2, RingReader(memory, SIZE))
    assert replica.versions == (None,)


def test_the_report_says_how_many_sessions_share(host: Host) -> None:
    assert (host.shard.report(0.0)["attached"], host.shard.report(0.0)["shared"]) == (2, 1)
    host.shard.on_detach(Detach(session=1))
    assert (host.shard.report(0.0)["attached"], host.shard.report(0.0)["shared"]) == (1, 0)


# -- pushes ---------------------------------------------------------------------------------------


def test_a_push_is_applied_from_its_slot(host: Host) -> None:
    host.slots[0][:] = 1.0
    host.slots[1][:] = 2.0
    verdicts = host.decide(push(1, slot=1), push(2, slot=0))
    assert [verdict.version for verdict in verdicts] == [(1, 1), (1, 2)]
    assert host.values == [value - 3.0 for value in INITIAL]


def test_a_push_in_a_slot_and_one_over_tcp_come_to_the_same(host: Host) -> None:
    gradient = np.array([0.1, -2.5, 3e-8, 7.0, 0.3], np.float32)
    host.slots[0][:] = gradient
    host.decide(push(1, slot=0))
    there = host.ring.newest().values.copy()
    other = Host()
    payload = array_payload(gradient)
    other.decide(push(1, slot=None, session=2, payload=payload, crc=payload_crc(payload)))
    assert there.tobytes() == other.ring.newest().values.tobytes()


def test_the_first_elements_of_a_slot_are_those_of_the_tensors_that_are_present(
    host: Host,
) -> None:
    host.slots[0][:] = [1.0, 2.0, np.nan, np.nan, np.nan]
    (verdict,) = host.decide(push(1, slot=0, present=b"\x06"))
    assert verdict.outcome == "applied"
    assert host.values == [10.0, 20.0, 30.0, 39.0, 48.0]


def test_a_push_of_nothing_looks_at_no_slot_and_makes_no_version(host: Host) -> None:
    host.slots[0][:] = np.nan
    assert host.decide(push(1, slot=0, present=b"\x00")) == [Verdict(seq=1, outcome="applied")]
    assert host.shard.version == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slot": WINDOW},
        {"slot": 1 << 62},
        {"payload": (bytes(4 * SIZE),)},
        {"codec": "f16"},
        {"layout": "other"},
        {"present": b""},
        {"present": b"\x07\x00"},
    ],
    ids=[
        "one too many",
        "far too many",
        "a payload beside it",
        "codec",
        "layout",
        "no bitmap",
        "bitmap",
    ],
)
def test_a_malformed_push_in_a_slot_is_rejected_and_the_next_one_decided(
    host: Host, wrong: dict[str, Any]
) -> None:
    for slot in host.slots:
        slot[:] = 1.0
    view = host.ring.newest()
    assert host.decide(push(1, **{"slot": 0, **wrong})) == [
        Verdict(seq=1, outcome="rejected", reason="malformed")
    ]
    assert host.values == INITIAL
    assert (host.ring.newest(), host.ring.is_intact(view)) == (view, True)
    assert host.decide(push(2, slot=0))[0].version == (1, 1)


def test_a_slot_of_a_session_that_shares_none_is_malformed(host: Host) -> None:
    assert host.decide(push(1, slot=0, session=2)) == [
        Verdict(seq=1, outcome="rejected", reason="malformed")
    ]
    assert host.values == INITIAL


def test_a_session_that_attaches_without_its_segment_has_no_slots_any_more(host: Host) -> None:
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    assert host.attached(1).ring is None
    assert host.decide(push(2, slot=0)) == [Verdict(seq=2, outcome="rejected", reason="malformed")]
    assert host.shard.version == (1, 1)


def test_a_session_may_send_a_payload_although_it_has_slots(host: Host) -> None:
    payload = array_payload(np.ones(SIZE, np.float32))
    verdicts = host.decide(push(1, slot=None, payload=payload, crc=payload_crc(payload)))
    assert [verdict.outcome for verdict in verdicts] == ["applied"]


@pytest.mark.parametrize("at", range(SIZE))
def test_a_slot_that_is_not_finite_is_rejected_as_that(host: Host, at: int) -> None:
    host.slots[0][:] = 1.0
    host.slots[0][at] = np.inf
    assert host.decide(push(1, slot=0)) == [Verdict(seq=1, outcome="rejected", reason="nonfinite")]
    assert host.values == INITIAL


def test_a_push_that_is_answered_again_does_not_look_at_its_slot_again(host: Host) -> None:
    host.slots[0][:] = 1.0
    first = host.decide(push(1, slot=0))
    host.slots[0][:] = np.nan
    assert host.decide(push(1, slot=0)) == first
    assert host.shard.version == (1, 1)


def test_a_slot_of_a_fenced_session_is_not_looked_at(host: Host) -> None:
    host.slots[0][:] = 1.0
    host.shard.on_directory(directory(2), 0.0)
    assert host.decide(push(1, slot=0)) == []
    assert host.values == INITIAL


def test_what_is_pushed_in_slots_counts_as_pushed_bytes(host: Host) -> None:
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0), push(2, slot=0, present=b"\x02"))
    assert host.shard.report(0.0)["pushed_bytes"] == 4 * SIZE + 4


# -- publications ---------------------------------------------------------------------------------


def test_a_publication_is_sent_from_where_the_version_lies(host: Host) -> None:
    message, slot = host.publish(now=0.0)
    assert slot == host.ring.newest().slot
    assert isinstance(message, Publication)
    (part,) = message.payload
    assert np.shares_memory(np.frombuffer(part, np.float32), host.ring.newest().values)
    assert vector(message).tolist() == INITIAL


def test_it_stays_what_it_is_until_it_has_left_for_everybody(host: Host) -> None:
    message, slot = host.publish(now=0.0)
    host.slots[0][:] = 1.0
    for seq in range(1, 8):
        host.decide(push(seq, slot=0, base=(1, seq - 1)))
        assert host.ring.newest().slot != slot
    assert vector(message).tolist() == INITIAL


def test_while_one_leaves_the_next_is_sent_as_a_copy_and_then_from_its_place_again(
    host: Host,
) -> None:
    _, lent = host.publish(now=0.0)
    host.shard.on_drained(now=0.0)
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    copied, slot = host.publish(now=0.1)
    assert (slot, vector(copied).tolist()) == (None, [value - 1 for value in INITIAL])
    host.shard.on_drained(now=0.1)
    assert lent is not None
    host.shard.on_slot_free(lent)
    for seq in range(2, 7):
        host.decide(push(seq, slot=0, base=(1, seq - 1)))
    newest, slot = host.publish(now=0.2)
    assert slot == host.ring.newest().slot
    assert vector(newest).tolist() == [value - 6 for value in INITIAL]
    assert vector(copied).tolist() == [value - 1 for value in INITIAL]


def fetch(**changes: Any) -> Fetch:
    return Fetch(**{"run": "demo", "layout": LAYOUT.hash, **changes})


@pytest.mark.parametrize("what", ["fetch", "label", "snapshot"])
def test_what_is_kept_longer_is_a_copy(host: Host, what: str) -> None:
    if what == "fetch":
        kept = vector(reply(host.shard.on_fetch(PEER, fetch())))
    elif what == "label":
        part, _ = host.shard.on_label(Label(release=1, save=False))
        assert isinstance(part, Publish)
        assert part.slot is None
        kept = vector(part.message)
    else:
        kept = host.shard.snapshot().parameters
    host.slots[0][:] = 1.0
    for seq in range(1, 8):
        host.decide(push(seq, slot=0, base=(1, seq - 1)))
    assert kept.tolist() == INITIAL


def test_who_reads_the_ring_is_only_told_that_the_newest_version_is_there(host: Host) -> None:
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    answer = reply(host.shard.on_fetch(PEER, fetch(session=1)))
    assert (answer.version, answer.in_ring, answer.payload) == ((1, 1), True, ())


@pytest.mark.parametrize("session", [None, 0, 2, 77])
def test_whoever_else_asks_gets_the_payload(host: Host, session: int | None) -> None:
    answer = reply(host.shard.on_fetch(PEER, fetch(session=session)))
    assert not answer.in_ring
    assert vector(answer).tolist() == INITIAL


def test_who_asks_for_a_release_gets_its_bytes_whatever_ring_it_reads(host: Host) -> None:
    host.shard.on_label(Label(release=1, save=False))
    answer = reply(host.shard.on_fetch(PEER, fetch(session=1, release=1)))
    assert (answer.release, answer.in_ring, vector(answer).tolist()) == (1, False, INITIAL)


def test_without_readers_nothing_is_published_and_beacons_still_come(host: Host) -> None:
    host.shard.on_readers(False)
    assert host.publish(now=1.0) == (beacon(version=(1, 0), published=(1, 0), last_seq=0), None)
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    assert host.shard.on_time(now=1.0 + 1.5 * BEACON_AFTER_S, push_waiting=False) == []
    assert host.publish(now=1.0 + 2.1 * BEACON_AFTER_S) == (
        beacon(version=(1, 1), published=(1, 0), last_seq=1),
        None,
    )


def test_the_first_reader_gets_the_newest_version_at_once(host: Host) -> None:
    host.shard.on_readers(False)
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    host.shard.on_readers(True)
    message, _ = host.publish(now=0.01)
    assert vector(message).tolist() == [value - 1 for value in INITIAL]


def test_readers_that_come_back_are_told_what_they_missed(host: Host) -> None:
    host.publish(now=0.0)
    host.shard.on_drained(now=0.0)
    host.shard.on_readers(False)
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    message, _ = host.publish(now=1.0)
    assert message == beacon(version=(1, 1), published=(1, 0), last_seq=1)
    host.shard.on_readers(True)
    message, _ = host.publish(now=1.01)
    assert vector(message).tolist() == [value - 1 for value in INITIAL]


def test_a_shard_with_no_readers_sleeps_until_its_next_beacon(host: Host) -> None:
    host.shard.on_readers(False)
    host.publish(now=1.0)
    host.slots[0][:] = 1.0
    host.decide(push(1, slot=0))
    assert host.shard.next_deadline(now=1.01) == 1.0 + 2 * BEACON_AFTER_S


def beacon(version: tuple[int, int], published: tuple[int, int], last_seq: int) -> Beacon:
    return Beacon(
        run="demo",
        shard=0,
        version=version,
        published=published,
        release=0,
        last_seqs={1: last_seq, 2: 0},
    )
