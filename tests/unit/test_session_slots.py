"""Payloads in shared memory: which slot a push gets, and how each shard is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq.layout import Layout, Tensor
from gradmq.wire.codec import payload_crc
from gradmq.wire.messages import (
    Attach,
    Attached,
    Beacon,
    Directory,
    Push,
    Reattach,
    Refused,
    Segment,
    ShardEntry,
    Verdict,
    Verdicts,
)
from gradmq.worker.session import Session

ME = 7
SHARDS = 2
LAYOUT = Layout((Tensor("w", "float32", (2,)),), shards=SHARDS)
RING = Segment(pid=1, fd=2, nonce=bytes(16), nbytes=4096)
SEGMENTS = [Segment(pid=9, fd=shard, nonce=bytes(16), nbytes=8192) for shard in range(SHARDS)]


def payload(seq: int, shard: int) -> tuple[bytes, ...]:
    return (bytes([seq, shard, 0, 0]),)


def new_session(max_in_flight: int = 3) -> Session:
    session = Session("demo", LAYOUT, ME, "worker-1", max_in_flight, SEGMENTS)
    shards = tuple(
        ShardEntry(index=i, incarnation=1, addresses=(), ready=True) for i in range(SHARDS)
    )
    directory = Directory(
        serial=1, run="demo", phase="open", shards=shards, sessions=(ME,), horizon=ME, seeder=0
    )
    session.on_directory(directory, now=0.0)
    return session


def attach(
    session: Session,
    shard: int,
    shared: bool,
    incarnation: int = 1,
    last_seq: int = 0,
    window: int = 3,
) -> bool:
    message = Attached(
        session=ME,
        incarnation=incarnation,
        last_seq=last_seq,
        window=window,
        ring=RING if shared else None,
    )
    return session.on_attached(shard, message, now=0.0)


def attached_session(*shared: bool, **settings: Any) -> Session:
    session = new_session(**settings)
    for shard, shares in enumerate(shared):
        assert attach(session, shard, shares)
    return session


def push(session: Session, crcs: tuple[int | None, ...] = (None, None)) -> int:
    """Returns the seq."""
    seq = session.last_seq + 1
    payloads = [payload(seq, shard) for shard in range(SHARDS)]
    slot = session.free_slot()
    return session.push([(1, 0)] * SHARDS, payloads, crcs, None, 0.0, slot=slot)


def sent(session: Session, shard: int) -> list[Push]:
    pushes = []
    while (one := session.next_push(shard)) is not None:
        session.on_sent(shard, 0.0)
        pushes.append(one)
    return pushes


def answer(session: Session, shard: int, seq: int, incarnation: int = 1) -> None:
    verdict = Verdict(seq=seq, outcome="rejected", reason="nonfinite")
    message = Verdicts(session=ME, incarnation=incarnation, verdicts=(verdict,))
    session.on_verdicts(shard, message, now=0.0)


def how(one: Push) -> tuple[int | None, bytes, int]:
    return one.slot, b"".join(one.payload), one.crc


def in_slot(slot: int) -> tuple[int | None, bytes, int]:
    return slot, b"", 0


def over_tcp(seq: int, shard: int) -> tuple[int | None, bytes, int]:
    return None, payload(seq, shard)[0], payload_crc(payload(seq, shard))


# -- how a push is sent ---------------------------------------------------------------------------


def test_a_shard_that_shares_is_told_the_slot_and_any_other_gets_the_payload() -> None:
    session = attached_session(True, False)
    push(session)
    push(session)
    assert [how(one) for one in sent(session, 0)] == [in_slot(0), in_slot(1)]
    assert [how(one) for one in sent(session, 1)] == [over_tcp(1, 1), over_tcp(2, 1)]
    assert (session.is_shared(0), session.is_shared(1)) == (True, False)


def test_a_crc_that_is_given_is_not_computed_again() -> None:
    session = attached_session(True, False)
    push(session, crcs=(None, 12345))
    ((slot, _, crc),) = map(how, sent(session, 1))
    assert (slot, crc) == (None, 12345)


def test_every_shard_is_offered_the_segment_that_is_its_own() -> None:
    offers = [effect.message for effect in new_session().on_time(0.0)]
    assert all(isinstance(offer, Attach) for offer in offers)
    assert [getattr(offer, "segment", None) for offer in offers] == SEGMENTS


def test_a_session_without_segments_offers_none_and_sends_payloads() -> None:
    session = Session("demo", LAYOUT, ME, "worker-1", 1)
    assert session._attach(0).segment is None
    attach(session, 0, shared=False)
    session.push([(1, 0)] * SHARDS, [payload(1, 0), payload(1, 1)], [4, 5], None, 0.0)
    ((slot, data, crc),) = map(how, sent(session, 0))
    assert (slot, data, crc) == (None, payload(1, 0)[0], 4)


@pytest.mark.parametrize("shared", [True, False])
def test_what_was_pushed_before_a_shard_attached_is_sent_as_that_shard_takes_it(
    shared: bool,
) -> None:
    session = new_session()
    attach(session, 1, shared=True)
    assert session.max_in_flight == 1
    push(session)
    attach(session, 0, shared)
    assert [how(one) for one in sent(session, 0)] == [in_slot(0) if shared else over_tcp(1, 0)]


@pytest.mark.parametrize(
    "ways", [(True, False), (False, True), (True, False, True), (False, True, False), (True, True)]
)
def test_a_shard_that_comes_back_another_way_gets_the_same_pushes_that_way(
    ways: tuple[bool, ...],
) -> None:
    session = attached_session(ways[0], True)
    push(session)
    push(session)
    answer(session, 0, 1)
    for incarnation, shared in enumerate(ways, start=1):
        attach(session, 0, shared, incarnation, last_seq=1)
        assert session.is_shared(0) == shared
        (one,) = [one for one in sent(session, 0) if one.seq == 2]
        assert one.incarnation == incarnation
        assert how(one) == (in_slot(1) if shared else over_tcp(2, 0))


def test_a_shard_that_attaches_the_session_again_in_one_life_is_served_the_new_way() -> None:
    session = attached_session(True, True)
    push(session)
    session.on_reattach(0, Reattach(session=ME, incarnation=1), now=0.0)
    assert not session.is_shared(0)
    assert attach(session, 0, shared=False)
    assert [how(one) for one in sent(session, 0)] == [over_tcp(1, 0)]


def test_the_answer_to_an_attach_that_was_repeated_changes_nothing() -> None:
    session = attached_session(True, True)
    push(session)
    assert not attach(session, 0, shared=False)
    assert session.is_shared(0)
    assert [how(one) for one in sent(session, 0)] == [in_slot(0)]


def test_nothing_is_shared_with_a_shard_that_has_begun_a_new_life() -> None:
    session = attached_session(True, True)
    news = Beacon(run="demo", shard=0, version=(2, 0), published=(2, 0), release=0, last_seqs={})
    session.on_beacon(news, now=1.0)
    assert (session.is_shared(0), session.is_shared(1)) == (False, True)


# -- which slot -----------------------------------------------------------------------------------


def test_a_slot_is_used_again_once_every_shard_has_answered_and_no_sooner() -> None:
    session = attached_session(True, True)
    assert [session._slots[push(session)] for _ in range(2)] == [0, 1]
    answer(session, 0, 1)
    assert session.free_slot() == 2
    answer(session, 1, 1)
    assert session.free_slot() == 0


def test_a_shard_on_tcp_holds_a_slot_as_long_as_any_other() -> None:
    """What waits to be sent to it lies there."""
    session = attached_session(True, False)
    push(session)
    answer(session, 0, 1)
    assert session.free_slot() == 1
    answer(session, 1, 1)
    assert session.free_slot() == 0


def test_a_push_whose_verdict_was_lost_with_a_restart_leaves_its_slot() -> None:
    session = attached_session(True, True)
    push(session)
    answer(session, 1, 1)
    attach(session, 0, shared=True, incarnation=2, last_seq=1)
    assert session.free_slot() == 0


@pytest.mark.parametrize("fenced_by", ["broker", "shard"])
def test_the_slots_of_a_fenced_session_are_not_used_again(fenced_by: str) -> None:
    """Another shard may not know yet that the session is over, and may still read there."""
    session = attached_session(True, True)
    push(session)
    push(session)
    assert sent(session, 1)
    if fenced_by == "broker":
        session.fence("its lease ran out")
    else:
        refused = Refused(reason="fenced", text="not live", session=ME)
        session.on_refused(0, refused, now=1.0)
    assert session.fenced
    assert session.free_slot() not in (0, 1)


@settings(max_examples=300)
@given(
    st.integers(1, 4),
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.just(0), st.just(True)),
            st.tuples(
                st.sampled_from(["send", "answer", "again", "restart"]),
                st.integers(0, SHARDS - 1),
                st.booleans(),
            ),
        ),
        max_size=60,
    ),
)
def test_a_slot_that_some_shard_may_still_read_is_never_written_to(
    max_in_flight: int, events: list[tuple[str, int, bool]]
) -> None:
    session = attached_session(True, True, max_in_flight=max_in_flight)
    lives = [1] * SHARDS
    decided = [0] * SHARDS
    to_read: list[dict[int, int]] = [{} for _ in range(SHARDS)]
    """By shard: the slot of each push that it has not decided."""
    for what, shard, shared in events:
        if what == "push" and session.in_flight < session.max_in_flight:
            slot = session.free_slot()
            assert all(slot not in slots.values() for slots in to_read)
            seq = push(session)
            for slots in to_read:
                slots[seq] = slot
        elif what == "send":
            for one in sent(session, shard):
                assert one.slot in (None, to_read[shard].get(one.seq))
                assert (one.slot is None) == bool(one.payload)
        elif what == "answer" and to_read[shard]:
            seq = min(to_read[shard])
            del to_read[shard][seq]
            decided[shard] = seq
            answer(session, shard, seq, lives[shard])
        elif what == "again":
            session.on_reattach(shard, Reattach(session=ME, incarnation=lives[shard]), now=0.0)
            attach(session, shard, shared, lives[shard], decided[shard], max_in_flight)
        elif what == "restart":
            lives[shard] += 1
            # From a checkpoint that is older, or that knows more than the worker was told.
            last_seq = max(0, decided[shard] - 1) if shared else decided[shard]
            attach(session, shard, shared, lives[shard], last_seq, max_in_flight)
