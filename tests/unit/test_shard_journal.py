"""A shard with a journal: nothing is said before it is on disk, and nothing is lost with a life."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from gradmq.layout import Layout, Tensor
from gradmq.ps import durability
from gradmq.ps.effects import Append, Effect, Publish, Reply, Save, TellBroker
from gradmq.ps.journal.records import Decided, Opened, Record
from gradmq.ps.journal.replay import Replay
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Bounded
from gradmq.ps.sessions import SharedSlots
from gradmq.ps.shard import Shard
from gradmq.ps.state import ShardState
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    AskRelease,
    Attach,
    Attached,
    Directory,
    Label,
    Labelled,
    Push,
    Query,
    Reattach,
    Segment,
    Verdict,
    Verdicts,
)

LAYOUT = Layout((Tensor("w", "float32", (3,)),), shards=1)
PEER = b"peer"
SEGMENT = Segment(pid=1, fd=1, nonce=b"", nbytes=1)


def state(**changes: Any) -> ShardState:
    values: dict[str, Any] = {
        "parameters": np.zeros(3, np.float32),
        "optimizer": {},
        "version": 0,
        "lineage": ((0, -1),),
        "rows": {},
        "release": 0,
    }
    return ShardState(**{**values, **changes})


def new_shard(incarnation: int = 1, began: ShardState | None = None) -> Shard:
    shard = Shard(
        "demo", LAYOUT, 0, incarnation, SGD(lr=1.0, momentum=0.5), Bounded(8),
        ring_segment=SEGMENT, journalled=True,
    )  # fmt: skip
    shard.restore(began or state())
    listed = Directory(
        serial=1, run="demo", phase="open", shards=(), sessions=(1, 2), horizon=2, seeder=0
    )
    shard.on_directory(listed, 0.0)
    return shard


def attach(session: int = 1, oldest_unanswered: int = 1) -> Attach:
    return Attach(
        run="demo", layout=LAYOUT.hash, session=session, name=f"worker-{session}",
        oldest_unanswered=oldest_unanswered, newest_seen=None, window=4,
    )  # fmt: skip


def push(seq: int, fill: float = 1.0, session: int = 1, incarnation: int = 1, **more: Any) -> Push:
    payload = array_payload(np.full(3, fill, np.float32))
    fields: dict[str, Any] = {"payload": payload, "crc": payload_crc(payload), "base": (0, 0)}
    return Push(
        run="demo", shard=0, incarnation=incarnation, session=session, seq=seq,
        layout=LAYOUT.hash, **{**fields, **more},
    )  # fmt: skip


def attached(shard: Shard, session: int = 1, oldest_unanswered: int = 1) -> Attached:
    (effect,) = shard.on_attach(PEER, attach(session, oldest_unanswered))
    assert isinstance(effect, Reply)
    assert isinstance(effect.message, Attached)
    return effect.message


def records(effects: Iterable[Effect]) -> list[tuple[int, Record]]:
    return [(e.position, e.record) for e in effects if isinstance(e, Append)]


def verdicts(effects: Iterable[Effect]) -> list[Verdict]:
    messages = [e.message for e in effects if isinstance(e, Reply)]
    return [v for m in messages if isinstance(m, Verdicts) for v in m.verdicts]


@pytest.fixture
def shard() -> Shard:
    shard = new_shard()
    attached(shard)
    attached(shard, 2)
    return shard


def test_a_verdict_leaves_once_its_record_is_on_disk(shard: Shard) -> None:
    ((position, record),) = records(shard.on_push(push(1), 0.0))
    assert position == 1
    assert isinstance(record, Decided)
    assert (record.worker, record.seq, record.version, record.lr) == ("worker-1", 1, (1, 1), 1.0)
    assert shard.take_verdicts() == []
    assert verdicts(shard.on_durable(0)) == []
    assert [v.seq for v in verdicts(shard.on_durable(1))] == [1]


def test_one_sync_lets_all_that_it_holds_be_said(shard: Shard) -> None:
    for seq in (1, 2, 3):
        shard.on_push(push(seq), 0.0)
        shard.on_push(push(seq, session=2), 0.0)
    assert [v.seq for v in verdicts(shard.on_durable(4))] == [1, 2, 1, 2]
    assert [v.seq for v in verdicts(shard.on_durable(6))] == [3, 3]


def test_a_rejection_is_recorded_without_its_payload_and_waits_like_any_verdict(
    shard: Shard,
) -> None:
    ((_, record),) = records(shard.on_push(push(1, fill=float("nan")), 0.0))
    assert isinstance(record, Decided)
    assert (record.outcome, record.reason, record.payload) == ("rejected", "nonfinite", ())
    assert shard.take_verdicts() == []
    assert [v.reason for v in verdicts(shard.on_durable(1))] == ["nonfinite"]


def test_a_payload_in_a_slot_is_recorded_where_it_lies() -> None:
    shard = new_shard()
    slot = np.array([1, 2, 3], np.float32)
    shard.on_attach(PEER, attach(), SharedSlots((slot,)))
    ((_, record),) = records(shard.on_push(push(1, payload=(), crc=0, slot=0), 0.0))
    assert isinstance(record, Decided)
    assert b"".join(map(bytes, record.payload)) == slot.tobytes()


def test_what_is_not_on_disk_is_told_to_nobody_who_asks(shard: Shard) -> None:
    shard.on_push(push(1), 0.0)
    assert shard.on_query(PEER, Query(session=1, seq=1), push_waiting=False) == []
    assert shard.on_attach(PEER, attach()) == []
    shard.on_push(push(1), 0.0)  # repeated
    assert shard.take_verdicts() == []
    shard.on_durable(1)
    assert [v.seq for v in verdicts(shard.on_query(PEER, Query(session=1, seq=1), False))] == [1]
    assert [v.seq for v in attached(shard).verdicts] == [1]


def test_an_attachment_that_ended_gets_its_verdict_by_attaching_again(shard: Shard) -> None:
    shard.on_push(push(1), 0.0)
    (effect,) = shard.on_push(push(7), 0.0)
    assert isinstance(effect, Reply)
    assert isinstance(effect.message, Reattach)
    shard.on_durable(1)
    assert [v.seq for v in attached(shard).verdicts] == [1]


def test_a_release_waits_for_the_version_that_it_labels_and_holds_only_that(shard: Shard) -> None:
    shard.on_push(push(1), 0.0)
    effects = shard.on_label(Label(release=1, save=True))
    assert [position for position, _ in records(effects)] == [2]
    assert len(effects) == 1
    shard.on_push(push(2), 0.0)
    assert verdicts(shard.on_durable(1)) != []
    effects = shard.on_durable(2)
    kinds = [type(effect) for effect in effects]
    assert kinds == [Publish, TellBroker, Save]
    labelled, saved = effects[1], effects[2]
    assert isinstance(labelled, TellBroker)
    assert isinstance(labelled.message, Labelled)
    assert labelled.message.version == (1, 1)
    assert isinstance(saved, Save)
    assert (saved.state.version, saved.state.position) == (1, 2)
    assert saved.state.parameters.tolist() == [-1.0] * 3


def test_a_checkpoint_is_asked_for_once_there_is_much_to_do_again(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "SAVE_AFTER_BYTES", 1)
    shard = new_shard()
    attached(shard)
    asked = []
    for seq in range(1, 2 * durability.REPLAYED_AT_MOST + 1):
        effects = shard.on_push(push(seq, base=(1, seq - 1)), 0.0)
        asked += [e.message for e in effects if isinstance(e, TellBroker)]
    assert asked == [AskRelease(save=True)] * 2


def life_after(shard: Shard, history: list[tuple[int, Record]], incarnation: int) -> Shard:
    """Its next life, out of its first checkpoint and these records."""
    replay = Replay("demo", LAYOUT, 0, state())
    opened = Opened(
        run="demo", shard=0, incarnation=1, layout=LAYOUT.to_bytes(),
        optimizer=shard.optimizer_settings, lineage=shard.lineage,
    )  # fmt: skip
    replay.on(0, opened)
    for position, record in history:
        replay.on(position, record)
    restored = replay.state()
    assert restored is not None
    return new_shard(incarnation, restored)


def test_the_next_life_has_what_was_said_and_decides_nothing_twice(shard: Shard) -> None:
    history = []
    for seq, session in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1)):
        history += records(shard.on_push(push(seq, fill=seq + session, session=session), 0.0))
    shard.on_durable(4)  # the last one was written, and nobody was told
    before = shard.snapshot()
    life = life_after(shard, history, incarnation=2)
    after = life.snapshot()
    assert after.parameters.tobytes() == before.parameters.tobytes()
    assert after.optimizer["momentum"].tobytes() == before.optimizer["momentum"].tobytes()
    assert life.version == (2, 5)
    assert life.lineage == ((0, -1), (1, 0), (2, 5))

    again = attached(life, oldest_unanswered=3)
    assert (again.last_seq, [v.seq for v in again.verdicts]) == (3, [3])
    life.on_push(push(3, incarnation=2), 0.0)
    assert life.version == (2, 5)
    assert [v.version for v in verdicts(life.take_verdicts())] == [(1, 5)]


def test_a_life_that_lost_its_last_records_decides_those_pushes_anew(shard: Shard) -> None:
    history = [records(shard.on_push(push(seq), 0.0))[0] for seq in (1, 2, 3)]
    life = life_after(shard, history[:2], incarnation=2)
    assert attached(life, oldest_unanswered=3).last_seq == 2
    ((position, record),) = records(life.on_push(push(3, base=(2, 2), incarnation=2), 0.0))
    assert isinstance(record, Decided)
    assert (position, record.version) == (3, (2, 3))


def test_going_back_makes_a_new_version_and_refuses_what_was_computed_on_an_older_one(
    shard: Shard,
) -> None:
    old = state(
        parameters=np.full(3, 7, np.float32),
        optimizer={"momentum": np.full(3, 2, np.float32)},
        version=1,
    )
    history = records(shard.on_push(push(1), 0.0)) + records(shard.on_push(push(2), 0.0))
    effects = shard.on_label(Label(release=3, save=True, contents_of=1), old)
    history += records(effects)
    assert shard.version == (1, 3)
    assert shard.snapshot().parameters.tolist() == [7.0] * 3
    history += records(shard.on_push(push(3, base=(1, 2)), 0.0))
    shard.on_durable(len(history))
    late = history[-1][1]
    assert isinstance(late, Decided)
    assert (late.outcome, late.reason, late.version) == ("rejected", "lost_base", (1, 3))
    history += records(shard.on_push(push(4, base=(1, 3)), 0.0))
    assert shard.snapshot().parameters.tolist() == [5.0] * 3

    after = life_after(shard, history, incarnation=2).snapshot()
    assert after.parameters.tolist() == [5.0] * 3
    assert after.optimizer["momentum"].tolist() == [2.0] * 3
    assert (after.version, after.floor, after.release) == (4, 3, 3)
