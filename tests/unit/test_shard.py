"""A shard decides every push once, in order, and says what became of it; rule by rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.errors import RemoteProtocolError
from gradmq.layout import Layout, Tensor
from gradmq.ps.effects import Effect, Publish, Reply, Save, TellBroker
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Bounded, Policy, Unbounded
from gradmq.ps.publishing import BEACON_AFTER_S
from gradmq.ps.shard import Shard
from gradmq.ps.state import ShardState
from gradmq.wire.codec import array_payload, decode, encode, payload_crc
from gradmq.wire.messages import (
    MAX_WINDOW,
    Attach,
    Attached,
    Beacon,
    Detach,
    Directory,
    Fetch,
    Label,
    Labelled,
    NotSeen,
    Publication,
    Push,
    Query,
    Reattach,
    Refused,
    Renew,
    Seed,
    Verdict,
    Verdicts,
    Version,
)

#: Three elements of "w", a scalar, and a buffer.
LAYOUT = Layout(
    (
        Tensor("w", "float32", (3,)),
        Tensor("scalar", "float32", ()),
        Tensor("mean", "float32", (1,), "buffer"),
    ),
    shards=1,
)
INITIAL = [10.0, 20.0, 30.0, 40.0, 50.0]
ONES = [1.0] * 5
PEER = b"peer-1"


# -- what others say ------------------------------------------------------------------------------


def directory(*sessions: int, horizon: int | None = None, seeder: int = 0) -> Directory:
    return Directory(
        serial=1,
        run="demo",
        phase="open",
        shards=(),
        sessions=sessions,
        horizon=max(sessions, default=0) if horizon is None else horizon,
        seeder=seeder,
    )


def payload_of(values: Sequence[float]) -> dict[str, Any]:
    payload = array_payload(np.array(values, np.float32))
    return {"payload": payload, "crc": payload_crc(payload)}


def seed(values: Sequence[float] = INITIAL, **changes: Any) -> Seed:
    fields = {"run": "demo", "layout": LAYOUT.hash, "shard": 0, "session": 1}
    return Seed(**{**fields, **payload_of(values), **changes})


def attach(session: int = 1, oldest_unanswered: int = 1, window: int = 4, **changes: Any) -> Attach:
    fields = {"run": "demo", "layout": LAYOUT.hash, "name": f"worker-{session}"}
    own = {"session": session, "oldest_unanswered": oldest_unanswered, "window": window}
    return Attach(**{**fields, "newest_seen": None, **own, **changes})


def push(
    seq: int,
    values: Sequence[float] = ONES,
    base: Version = (1, 0),
    session: int = 1,
    **changes: Any,
) -> Push:
    fields = {"run": "demo", "shard": 0, "incarnation": 1, "layout": LAYOUT.hash}
    own = {"session": session, "seq": seq, "base": base}
    return Push(**{**fields, **own, **payload_of(values), **changes})


# -- a shard, and what it answers -----------------------------------------------------------------


def new_shard(
    policy: Policy | None = None, budget_pushes: int = 1000, incarnation: int = 1, lr: float = 1.0
) -> Shard:
    optimizer = SGD(lr=lr)
    budget_bytes = budget_pushes * LAYOUT.parts[0].nbytes
    return Shard("demo", LAYOUT, 0, incarnation, optimizer, policy or Bounded(8), budget_bytes)


def seeded_shard(*sessions: int, **settings: Any) -> Shard:
    """A shard at version 0 to which these sessions are attached."""
    shard = new_shard(**settings)
    shard.on_directory(directory(*sessions, seeder=1), 0.0)
    assert shard.on_seed(PEER, seed()) == []
    for session in sessions:
        assert isinstance(reply(shard.on_attach(PEER, attach(session))), Attached)
    return shard


def restarted(shard: Shard, state: ShardState | None = None) -> Shard:
    """Its next incarnation, from this checkpoint or from its last instant."""
    life = new_shard(incarnation=shard.incarnation + 1)
    life.restore(state or shard.snapshot())
    life.on_directory(directory(1, 2), 0.0)
    return life


@pytest.fixture
def shard() -> Shard:
    return seeded_shard(1, 2)


def reply(effects: Sequence[Effect]) -> Any:
    """The only effect, a reply's message."""
    (effect,) = effects
    assert isinstance(effect, Reply)
    return effect.message


def decide(shard: Shard, *pushes: Push) -> list[Verdict]:
    """Hand in pushes one by one; the verdicts in order of their arrival."""
    verdicts: list[Verdict] = []
    for one in pushes:
        assert shard.on_push(one, now=0.0) == []
        for effect in shard.take_verdicts():
            assert isinstance(effect, Reply)
            assert isinstance(effect.message, Verdicts)
            verdicts += effect.message.verdicts
    return verdicts


def values(shard: Shard) -> list[float]:
    parameters: list[float] = shard.snapshot().parameters.tolist()
    return parameters


def published(effects: Iterable[Effect]) -> list[Publication | Beacon]:
    return [effect.message for effect in effects if isinstance(effect, Publish)]


# -- first parameters -----------------------------------------------------------------------------


def test_a_shard_without_parameters_says_what_it_waits_for() -> None:
    shard = new_shard()
    assert not shard.ready
    assert shard.report(0.0)["waiting_for"] == "initial parameters"
    assert shard.on_time(now=5.0, push_waiting=False) == []
    assert shard.next_deadline(now=5.0) == float("inf")


def test_the_seeders_parameters_are_version_zero() -> None:
    shard = new_shard(incarnation=3)
    shard.on_directory(directory(1, seeder=1), 0.0)
    assert shard.on_seed(PEER, seed()) == []
    assert shard.ready
    assert shard.version == (3, 0)
    assert values(shard) == INITIAL


def test_only_the_first_seed_counts() -> None:
    shard = seeded_shard(1)
    assert shard.on_seed(PEER, seed(values=[0.0] * 5)) == []
    assert values(shard) == INITIAL


@pytest.mark.parametrize(
    "wrong", [{"session": 2}, {"shard": 1}, {"run": "other"}, {"layout": "other"}]
)
def test_a_seed_that_was_not_granted_is_refused(wrong: dict[str, Any]) -> None:
    shard = new_shard()
    shard.on_directory(directory(1, 2, seeder=1), 0.0)
    refused = reply(shard.on_seed(PEER, seed(**wrong)))
    assert isinstance(refused, Refused)
    assert refused.reason == "role"
    assert not shard.ready


@pytest.mark.parametrize("wrong", [payload_of(ONES[:4]), {"crc": 1}, {"payload": ()}])
def test_a_damaged_seed_leaves_the_shard_waiting(wrong: dict[str, Any]) -> None:
    shard = new_shard()
    shard.on_directory(directory(1, seeder=1), 0.0)
    with pytest.raises(RemoteProtocolError):
        shard.on_seed(PEER, seed(**wrong))
    assert not shard.ready


# -- attach ---------------------------------------------------------------------------------------


def test_a_live_session_is_attached() -> None:
    shard = seeded_shard(1)
    assert reply(shard.on_attach(b"other", attach(window=3))) == Attached(
        session=1, incarnation=1, last_seq=0, window=3, verdicts=()
    )


def test_an_attachment_is_answered_to_whoever_asked() -> None:
    (effect,) = seeded_shard(1).on_attach(b"other", attach())
    assert isinstance(effect, Reply)
    assert effect.peer == b"other"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"run": "other"}, "run"), ({"layout": "other"}, "layout"), ({"session": 3}, "fenced")],
)
def test_a_session_that_does_not_belong_here_is_refused(wrong: dict[str, Any], reason: str) -> None:
    shard = seeded_shard(1)
    shard.on_directory(directory(1, 4), 0.0)
    refused = reply(shard.on_attach(PEER, attach(**wrong)))
    assert isinstance(refused, Refused)
    assert refused.reason == reason


def test_a_session_whose_directory_is_under_way_gets_no_answer_yet() -> None:
    shard = seeded_shard(1)
    assert shard.on_attach(PEER, attach(session=9)) == []
    shard.on_directory(directory(1, 9), 0.0)
    assert isinstance(reply(shard.on_attach(PEER, attach(session=9))), Attached)


def test_a_session_of_the_checkpoint_attaches_before_the_directory_lists_it(shard: Shard) -> None:
    life = new_shard(incarnation=2)
    life.restore(shard.snapshot())
    assert isinstance(reply(life.on_attach(PEER, attach(1))), Attached)


def test_attaching_again_tells_the_stored_verdicts_from_the_oldest_unanswered_on(
    shard: Shard,
) -> None:
    first, second, third = decide(shard, push(1), push(2), push(3))
    attached = reply(shard.on_attach(PEER, attach(oldest_unanswered=2)))
    assert (attached.last_seq, attached.verdicts) == (3, (second, third))
    attached = reply(shard.on_attach(PEER, attach(oldest_unanswered=1)))
    assert attached.verdicts == (first, second, third)


def test_verdicts_not_taken_before_a_reattach_come_with_it(shard: Shard) -> None:
    shard.on_push(push(1), now=0.0)
    attached = reply(shard.on_attach(PEER, attach(oldest_unanswered=1)))
    assert [verdict.seq for verdict in attached.verdicts] == [1]
    assert shard.take_verdicts() == []


def test_a_detached_session_is_forgotten(shard: Shard) -> None:
    decide(shard, push(1))
    shard.on_detach(Detach(session=1))
    assert decide(shard, push(2)) == []
    assert 1 not in shard.snapshot().rows


def test_a_fenced_session_is_forgotten_and_never_attaches_again(shard: Shard) -> None:
    decide(shard, push(1))
    shard.on_directory(directory(2), 0.0)
    shard.on_directory(directory(3), 0.0)
    assert decide(shard, push(2), push(1, session=2)) == []
    assert shard.snapshot().rows == {}
    assert reply(shard.on_attach(PEER, attach(1))).reason == "fenced"


def test_a_session_newer_than_the_horizon_is_not_fenced(shard: Shard) -> None:
    shard.on_directory(directory(1, horizon=1), 0.0)
    assert len(decide(shard, push(1, session=2))) == 1


# -- the window -----------------------------------------------------------------------------------


def test_windows_share_the_budget() -> None:
    shard = seeded_shard(1, budget_pushes=6)
    shard.on_directory(directory(1, 2, 3), 0.0)
    windows = [reply(shard.on_attach(PEER, attach(s, window=4))).window for s in (1, 2)]
    assert windows == [4, 2]
    refused = reply(shard.on_attach(PEER, attach(3)))
    assert isinstance(refused, Refused)
    assert refused.reason == "memory"
    assert "ps.push_budget_mb" in refused.text


def test_room_that_a_session_leaves_is_granted_anew() -> None:
    shard = seeded_shard(1, 2, budget_pushes=8)
    shard.on_detach(Detach(session=1))
    assert reply(shard.on_attach(PEER, attach(2, window=9))).window == 8


def test_one_worker_is_served_whatever_the_budget() -> None:
    shard = seeded_shard(1, budget_pushes=0)
    assert reply(shard.on_attach(PEER, attach(1))).window == 1


def test_no_window_is_larger_than_the_wire_allows() -> None:
    shard = seeded_shard(1, budget_pushes=10_000)
    assert reply(shard.on_attach(PEER, attach(window=5_000))).window == MAX_WINDOW


def test_a_shard_keeps_a_verdict_for_each_push_of_the_window(shard: Shard) -> None:
    decide(shard, *(push(seq) for seq in range(1, 8)))
    assert [v.seq for v in shard.snapshot().rows[1].verdicts] == [4, 5, 6, 7]


# -- exactly once, in order -----------------------------------------------------------------------


def test_a_push_is_applied_and_the_version_counts_it(shard: Shard) -> None:
    assert decide(shard, push(1)) == [Verdict(seq=1, outcome="applied", version=(1, 1))]
    assert shard.version == (1, 1)
    assert values(shard) == [9.0, 19.0, 29.0, 39.0, 49.0]


def test_a_repeated_push_gets_its_stored_verdict_and_is_not_applied_again(shard: Shard) -> None:
    first = decide(shard, push(1))
    assert decide(shard, push(1), push(1, values=[100.0] * 5)) == first * 2
    assert shard.version == (1, 1)


def test_a_gap_ends_the_attachment_and_asks_to_attach(shard: Shard) -> None:
    decide(shard, push(1))
    assert shard.on_push(push(3), now=0.0) == [Reply(PEER, Reattach(session=1, incarnation=1))]
    assert decide(shard, push(2)) == []
    assert shard.version == (1, 1)
    shard.on_attach(PEER, attach(oldest_unanswered=2))
    assert [verdict.seq for verdict in decide(shard, push(2), push(3))] == [2, 3]


@pytest.mark.parametrize(
    "wrong", [{"session": 9}, {"run": "other"}, {"shard": 1}, {"incarnation": 2}]
)
def test_a_push_that_is_not_for_this_attachment_is_dropped(
    shard: Shard, wrong: dict[str, Any]
) -> None:
    assert decide(shard, push(1, **wrong)) == []
    assert shard.version == (1, 0)
    assert len(decide(shard, push(1))) == 1


def test_sessions_do_not_disturb_each_others_order(shard: Shard) -> None:
    decided = decide(shard, push(1), push(1, session=2), push(2, session=2), push(2))
    assert [(v.seq, v.version) for v in decided] == [
        (1, (1, 1)),
        (1, (1, 2)),
        (2, (1, 3)),
        (2, (1, 4)),
    ]


def test_verdicts_leave_as_one_message_per_worker(shard: Shard) -> None:
    shard.on_attach(b"peer-2", attach(2))
    for one in (push(1), push(1, session=2), push(2)):
        shard.on_push(one, now=0.0)
    effects = shard.take_verdicts()
    assert [(e.peer, e.message.session) for e in effects if isinstance(e, Reply)] == [
        (PEER, 1),
        (b"peer-2", 2),
    ]
    first = reply(effects[:1])
    assert [verdict.seq for verdict in first.verdicts] == [1, 2]
    assert shard.take_verdicts() == []


@given(st.lists(st.integers(1, 6), max_size=40))
def test_however_pushes_are_repeated_and_reordered_each_is_applied_once(seqs: list[int]) -> None:
    shard = seeded_shard(1, policy=Unbounded())
    last = 0
    for seq in seqs:
        if shard.on_push(push(seq), now=0.0):
            shard.on_attach(PEER, attach(oldest_unanswered=last + 1))
        elif seq == last + 1:
            last = seq
        shard.take_verdicts()
    assert shard.version == (1, last)
    assert values(shard) == [initial - last for initial in INITIAL]


# -- what is asked after --------------------------------------------------------------------------


@pytest.mark.parametrize("push_waiting", [False, True])
def test_an_undecided_push_was_not_seen_and_only_an_idle_shard_calls_it_lost(
    shard: Shard, push_waiting: bool
) -> None:
    answer = reply(shard.on_query(PEER, Query(session=1, seq=1), push_waiting))
    assert answer == NotSeen(session=1, incarnation=1, seq=1, idle=not push_waiting)


def test_a_decided_push_is_answered_with_all_that_followed_it(shard: Shard) -> None:
    decided = decide(shard, push(1), push(2), push(3))
    answer = reply(shard.on_query(PEER, Query(session=1, seq=2), push_waiting=False))
    assert answer == Verdicts(session=1, incarnation=1, verdicts=tuple(decided[1:]))


def test_a_session_that_is_not_attached_is_asked_to_attach(shard: Shard) -> None:
    answer = reply(shard.on_query(PEER, Query(session=9, seq=1), push_waiting=False))
    assert answer == Reattach(session=9, incarnation=1)


def test_a_verdict_that_is_not_stored_any_more_is_settled_by_attaching(shard: Shard) -> None:
    decide(shard, *(push(seq) for seq in range(1, 8)))
    answer = reply(shard.on_query(PEER, Query(session=1, seq=2), push_waiting=False))
    assert answer == Reattach(session=1, incarnation=1)
    attached = reply(shard.on_attach(PEER, attach(oldest_unanswered=2)))
    assert attached.last_seq == 7
    assert [verdict.seq for verdict in attached.verdicts] == [4, 5, 6, 7]


def test_verdicts_follow_a_worker_to_its_new_connection(shard: Shard) -> None:
    shard.on_query(b"new", Query(session=1, seq=1), push_waiting=False)
    shard.on_push(push(1), now=0.0)
    (effect,) = shard.take_verdicts()
    assert isinstance(effect, Reply)
    assert effect.peer == b"new"


# -- bounded staleness ----------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0, 2])
def test_a_push_is_applied_up_to_the_bound_and_rejected_beyond_it(bound: int) -> None:
    shard = seeded_shard(1, 2, policy=Bounded(bound))
    decide(shard, *(push(seq, base=(1, seq - 1), session=2) for seq in range(1, bound + 1)))
    (within,) = decide(shard, push(1, base=(1, 0)))
    assert within == Verdict(seq=1, outcome="applied", version=(1, bound + 1), staleness=bound)
    (beyond,) = decide(shard, push(2, base=(1, 0)))
    assert beyond == Verdict(
        seq=2, outcome="rejected", reason="stale", version=(1, bound + 1), staleness=bound + 1
    )
    assert shard.version == (1, bound + 1)


def test_a_stale_push_makes_the_shard_publish(shard: Shard) -> None:
    shard = seeded_shard(1, 2, policy=Bounded(0))
    shard.on_time(now=0.0, push_waiting=False)
    shard.on_drained(now=0.0)
    decide(shard, push(1))
    assert published(shard.on_time(now=0.001, push_waiting=True)) == []
    decide(shard, push(1, session=2))
    (publication,) = published(shard.on_time(now=0.001, push_waiting=True))
    assert publication.version == (1, 1)


def test_unbounded_applies_everything() -> None:
    shard = seeded_shard(1, policy=Unbounded())
    decided = decide(shard, *(push(seq) for seq in range(1, 40)))
    assert [verdict.staleness for verdict in decided] == list(range(39))
    assert {verdict.outcome for verdict in decided} == {"applied"}


# -- lineage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [(1, 1), (2, 0)])
def test_a_base_of_the_future_is_rejected(shard: Shard, base: Version) -> None:
    assert decide(shard, push(1, base=base)) == [
        Verdict(seq=1, outcome="rejected", reason="future", version=(1, 0))
    ]


def test_a_base_of_an_older_life_counts_up_to_where_it_was_restored(shard: Shard) -> None:
    decide(shard, push(1), push(2))
    checkpoint = shard.snapshot()
    decide(shard, push(3), push(4))
    life = restarted(shard, checkpoint)
    life.on_attach(PEER, attach(oldest_unanswered=3))
    assert decide(life, push(3, base=(1, 3), incarnation=2)) == [
        Verdict(seq=3, outcome="rejected", reason="lost_base", version=(2, 2))
    ]
    (verdict,) = decide(life, push(4, base=(1, 2), incarnation=2))
    assert (verdict.outcome, verdict.version, verdict.staleness) == ("applied", (2, 3), 0)


def test_a_base_must_have_survived_every_later_restart(shard: Shard) -> None:
    checkpoint = shard.snapshot()
    decide(shard, push(1), push(2))
    second = restarted(shard)
    second.on_attach(PEER, attach(oldest_unanswered=3))
    assert decide(second, push(3, base=(1, 2), incarnation=2))[0].outcome == "applied"
    third = new_shard(incarnation=3)
    third.restore(checkpoint)
    third.on_directory(directory(1, 2), 0.0)
    third.on_attach(PEER, attach(oldest_unanswered=4))
    lost, kept = decide(
        third,
        push(4, base=(1, 2), incarnation=3),
        push(5, base=(1, 0), incarnation=3),
    )
    assert (lost.reason, kept.outcome) == ("lost_base", "applied")


def test_no_base_is_older_than_new_parameters() -> None:
    shard = new_shard(incarnation=2)
    shard.on_directory(directory(1, seeder=1), 0.0)
    shard.on_seed(PEER, seed())
    shard.on_attach(PEER, attach())
    (verdict,) = decide(shard, push(1, base=(1, 0), incarnation=2))
    assert verdict.reason == "lost_base"


# -- restarts -------------------------------------------------------------------------------------


def test_a_restored_shard_continues_where_its_checkpoint_ends(shard: Shard) -> None:
    decide(shard, push(1), push(1, session=2))
    life = restarted(shard)
    assert life.version == (2, 2)
    assert values(life) == values(shard)
    attached = reply(life.on_attach(PEER, attach(oldest_unanswered=1)))
    assert (attached.incarnation, attached.last_seq) == (2, 1)
    assert attached.verdicts == (Verdict(seq=1, outcome="applied", version=(1, 1)),)


def test_lost_pushes_that_were_answered_are_passed_over_and_reported(shard: Shard) -> None:
    checkpoint = shard.snapshot()
    decide(shard, *(push(seq) for seq in range(1, 6)))
    life = restarted(shard, checkpoint)
    ask = attach(oldest_unanswered=6, newest_seen=(1, 5))
    assert reply(life.on_attach(PEER, ask)).last_seq == 5
    assert life.report(0.0)["lost_updates"] == 5
    (verdict,) = decide(life, push(6, base=(1, 0), incarnation=2))
    assert verdict.outcome == "applied"


def test_nothing_is_reported_lost_when_nothing_was(shard: Shard) -> None:
    decide(shard, push(1))
    life = restarted(shard)
    life.on_attach(PEER, attach(oldest_unanswered=2, newest_seen=(1, 1)))
    assert life.report(0.0)["lost_updates"] == 0


def test_a_checkpoint_is_not_changed_by_the_shard_that_started_from_it(shard: Shard) -> None:
    checkpoint = shard.snapshot()
    life = restarted(shard, checkpoint)
    life.on_attach(PEER, attach())
    decide(life, push(1, base=(2, 0), incarnation=2))
    assert checkpoint.rows[1].last_seq == 0
    assert checkpoint.parameters.tolist() == INITIAL


def test_a_snapshot_is_not_changed_by_what_follows(shard: Shard) -> None:
    decide(shard, push(1))
    before = shard.snapshot()
    decide(shard, push(2))
    assert (before.version, before.rows[1].last_seq, len(before.rows[1].verdicts)) == (1, 1, 1)
    assert before.parameters.tolist() == [value - 1 for value in INITIAL]


# -- what a push holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_rejected_and_changes_nothing(
    shard: Shard, value: float
) -> None:
    assert decide(shard, push(1, values=[*ONES[:4], value])) == [
        Verdict(seq=1, outcome="rejected", reason="nonfinite")
    ]
    assert values(shard) == INITIAL
    assert len(decide(shard, push(2))) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": "other"},
        {"codec": "zip"},
        {"payload": (b"123",)},
        payload_of(ONES[:4]),
        payload_of([1.0] * 6),
        {"present": b"\x01"},
        {"present": b""},
        {"present": b"\x07\x00"},
    ],
)
def test_a_malformed_push_is_rejected_and_the_next_one_decided(
    shard: Shard, wrong: dict[str, Any]
) -> None:
    assert decide(shard, push(1, **wrong)) == [
        Verdict(seq=1, outcome="rejected", reason="malformed")
    ]
    assert values(shard) == INITIAL
    assert decide(shard, push(2))[0].outcome == "applied"


@pytest.mark.parametrize("fill", [1.0, float("nan")])
def test_a_push_that_was_changed_on_its_way_is_rejected_as_damaged_whatever_it_holds(
    shard: Shard, fill: float
) -> None:
    damaged = push(1, values=[fill] * 5, crc=1)
    assert decide(shard, damaged) == [Verdict(seq=1, outcome="rejected", reason="damaged")]
    assert values(shard) == INITIAL
    assert decide(shard, push(2))[0].outcome == "applied"


@pytest.mark.parametrize("payload", [(), (b"",), (b"", b"")])
def test_a_push_without_elements_advances_seq_and_not_the_version(
    shard: Shard, payload: tuple[bytes, ...]
) -> None:
    header_only = push(1, present=b"\x00", payload=payload, crc=0)
    assert decide(shard, header_only) == [Verdict(seq=1, outcome="applied")]
    assert shard.version == (1, 0)
    assert decide(shard, push(2))[0].version == (1, 1)


def test_absent_tensors_are_not_touched(shard: Shard) -> None:
    decide(shard, push(1, values=[7.0], present=b"\x02"))
    assert values(shard) == [10.0, 20.0, 30.0, 33.0, 50.0]
    decide(shard, push(2, values=[1.0, 2.0, 3.0, 4.0], base=(1, 1), present=b"\x05"))
    assert values(shard) == [9.0, 18.0, 27.0, 33.0, 46.0]


def test_bits_behind_the_last_tensor_mean_nothing(shard: Shard) -> None:
    (verdict,) = decide(shard, push(1, values=[7.0], present=b"\xfa"))
    assert verdict.outcome == "applied"
    assert values(shard) == [10.0, 20.0, 30.0, 33.0, 50.0]


def test_a_buffers_difference_is_taken_away_without_the_optimizer() -> None:
    shard = seeded_shard(1, lr=0.5)
    decide(shard, push(1))
    assert values(shard) == [9.5, 19.5, 29.5, 39.5, 49.0]


def test_large_finite_gradients_are_finite(shard: Shard) -> None:
    (verdict,) = decide(shard, push(1, values=[3e38, -3e38, 1e30, 0.0, 1.0]))
    assert verdict.outcome == "applied"


def test_a_shard_without_elements_works_like_any_other() -> None:
    layout = Layout((Tensor("w", "float32", (1,)),), shards=2)
    shard = Shard("demo", layout, 0, 1, SGD(lr=1.0), Bounded(8))
    shard.on_directory(directory(1, seeder=1), 0.0)
    shard.on_seed(PEER, seed(values=[], layout=layout.hash))
    assert shard.ready
    shard.on_attach(PEER, attach(layout=layout.hash))
    (verdict,) = decide(shard, push(1, values=[], layout=layout.hash))
    assert verdict == Verdict(seq=1, outcome="applied")
    (publication,) = published(shard.on_time(now=0.0, push_waiting=False))
    assert isinstance(publication, Publication)
    assert publication.payload == ()


# -- publications and fetches ---------------------------------------------------------------------


def vector(publication: Publication) -> list[float]:
    flat: npt.NDArray[np.float32] = np.frombuffer(b"".join(publication.payload), np.float32)
    return flat.tolist()


def test_first_parameters_are_published_at_once(shard: Shard) -> None:
    (publication,) = published(shard.on_time(now=0.0, push_waiting=True))
    assert isinstance(publication, Publication)
    assert (publication.version, publication.release) == ((1, 0), None)
    assert vector(publication) == INITIAL
    assert publication.crc == payload_crc(publication.payload)


def test_a_publication_does_not_change_when_the_shard_goes_on(shard: Shard) -> None:
    (publication,) = published(shard.on_time(now=0.0, push_waiting=False))
    decide(shard, push(1))
    assert isinstance(publication, Publication)
    assert vector(publication) == INITIAL


def test_silence_is_filled_with_beacons(shard: Shard) -> None:
    shard.on_time(now=0.0, push_waiting=False)
    shard.on_drained(now=0.0)
    decide(shard, push(1), push(2))
    shard.on_time(now=0.01, push_waiting=False)
    shard.on_drained(now=0.01)
    assert shard.on_time(now=0.05, push_waiting=False) == []
    assert published(shard.on_time(now=0.01 + BEACON_AFTER_S, push_waiting=False)) == [
        Beacon(
            run="demo",
            shard=0,
            version=(1, 2),
            published=(1, 2),
            release=0,
            last_seqs={1: 2, 2: 0},
        )
    ]


def fetch(**changes: Any) -> Fetch:
    return Fetch(**{"run": "demo", "layout": LAYOUT.hash, **changes})


def test_a_fetch_brings_the_newest_to_who_asked_and_to_nobody_else(shard: Shard) -> None:
    shard.on_time(now=0.0, push_waiting=False)
    decide(shard, push(1))
    effects = shard.on_fetch(PEER, fetch())
    publication = reply(effects)
    assert isinstance(publication, Publication)
    assert (publication.version, publication.release) == ((1, 1), None)
    assert vector(publication) == [value - 1 for value in INITIAL]
    assert publication.crc == payload_crc(publication.payload)
    assert published(effects) == []


def test_what_was_fetched_does_not_change_when_the_shard_goes_on(shard: Shard) -> None:
    publication = reply(shard.on_fetch(PEER, fetch()))
    for seq in range(1, 9):
        decide(shard, push(seq))
    assert isinstance(publication, Publication)
    assert vector(publication) == INITIAL


def test_a_fetch_of_what_is_published_is_the_same_again(shard: Shard) -> None:
    (publication,) = published(shard.on_time(now=0.0, push_waiting=False))
    assert shard.on_fetch(PEER, fetch()) == [Reply(PEER, publication)]


@pytest.mark.parametrize("wrong", [{"run": "other"}, {"layout": "other"}])
def test_a_fetch_of_another_run_is_refused(shard: Shard, wrong: dict[str, Any]) -> None:
    refused = reply(shard.on_fetch(PEER, fetch(**wrong)))
    assert isinstance(refused, Refused)
    assert refused.reason == "layout"


def test_a_fetch_from_a_shard_without_parameters_is_not_answered_yet() -> None:
    assert new_shard().on_fetch(PEER, fetch()) == []


# -- releases -------------------------------------------------------------------------------------


def label(shard: Shard, release: int, save: bool = False, closed: int = 0) -> list[Effect]:
    return shard.on_label(Label(release=release, save=save, closed=closed))


def test_a_label_publishes_the_present_version_as_a_release_and_tells_the_broker(
    shard: Shard,
) -> None:
    decide(shard, push(1))
    effects = label(shard, 5)
    (part,) = published(effects)
    assert isinstance(part, Publication)
    assert (part.version, part.release) == ((1, 1), 5)
    assert vector(part) == [value - 1 for value in INITIAL]
    told = Labelled(release=5, shard=0, version=(1, 1), crc=part.crc)
    assert effects[1:] == [TellBroker(told, applied_at=0.0)]
    assert shard.release == 5


def test_a_shard_knows_whether_its_version_was_labelled(shard: Shard) -> None:
    assert not new_shard().is_unlabelled
    assert shard.is_unlabelled
    label(shard, 1)
    assert not shard.is_unlabelled
    decide(shard, push(1))
    assert shard.is_unlabelled


def test_a_label_says_when_this_life_last_changed_the_parameters(shard: Shard) -> None:
    def applied_at(release: int) -> float | None:
        (told,) = (e for e in label(shard, release) if isinstance(e, TellBroker))
        return told.applied_at

    assert applied_at(1) is None
    shard.on_push(push(1), now=3.0)
    shard.on_push(push(1), now=4.0)
    assert applied_at(2) == 3.0, "sent again, it was not applied again"


def test_a_release_does_not_change_when_the_shard_goes_on(shard: Shard) -> None:
    (part,) = published(label(shard, 5))
    for seq in range(1, 9):
        decide(shard, push(seq))
    assert isinstance(part, Publication)
    assert vector(part) == INITIAL
    assert reply(shard.on_fetch(PEER, fetch(release=5))) == part


def test_an_unchanged_version_is_labelled_too(shard: Shard) -> None:
    label(shard, 1)
    (part,) = published(label(shard, 2))
    assert isinstance(part, Publication)
    assert (part.release, part.version) == (2, (1, 0))


@pytest.mark.parametrize("release", [4, 5])
def test_a_label_that_is_not_newer_is_passed_over(shard: Shard, release: int) -> None:
    label(shard, 5)
    assert label(shard, release) == []


def test_a_shard_without_parameters_labels_nothing() -> None:
    assert label(new_shard(), 1) == []


def test_beacons_name_the_newest_release(shard: Shard) -> None:
    shard.on_time(now=0.0, push_waiting=False)
    shard.on_drained(now=1.0)
    label(shard, 5)
    (beacon,) = published(shard.on_time(now=2.0, push_waiting=False))
    assert isinstance(beacon, Beacon)
    assert beacon.release == 5


def test_the_bytes_of_the_closed_and_of_the_open_release_are_kept_and_no_others(
    shard: Shard,
) -> None:
    parts = {}
    for number in range(1, 6):
        decide(shard, push(number))
        # The third was abandoned: the second is still the newest that followers may fetch.
        closed = {4: 2, 5: 4}.get(number, number - 1)
        (parts[number],) = published(label(shard, number, closed=closed))
        kept = {closed, number} - {0}
        for asked in range(1, number + 1):
            answer = reply(shard.on_fetch(PEER, fetch(release=asked)))
            if asked in kept:
                assert answer == parts[asked]
            else:
                assert isinstance(answer, Refused)
                assert answer.reason == "release"


def test_a_label_with_save_hands_over_the_state_of_that_instant(shard: Shard) -> None:
    decide(shard, push(1))
    *_, save = label(shard, 7, save=True)
    decide(shard, push(2))
    assert isinstance(save, Save)
    assert (save.release, save.state.release, save.state.version) == (7, 7, 1)
    assert save.state.parameters.tolist() == [value - 1 for value in INITIAL]
    assert save.state.rows[1].last_seq == 1


def test_a_restored_shard_knows_its_release(shard: Shard) -> None:
    label(shard, 7)
    life = restarted(shard)
    assert life.release == 7
    assert label(life, 7) == []


# -- the report -----------------------------------------------------------------------------------


def test_the_report_counts_by_worker_and_reason(shard: Shard) -> None:
    decide(
        shard,
        push(1, samples=32),
        push(1, session=2, samples=8),
        push(2, session=2, values=[np.nan] * 5, samples=8),
        push(3, session=2, layout="other"),
    )
    report = shard.report(0.0)
    assert report["version"] == 2
    assert report["attached"] == 2
    assert report["pushed_bytes"] == 80
    assert report["workers"] == {
        "worker-1": {"applied": 1, "samples": 32, "rejected": {}, "staleness": [(0, 1)]},
        "worker-2": {
            "applied": 1,
            "samples": 8,
            "rejected": {"nonfinite": 1, "malformed": 1},
            "staleness": [(1, 1)],
        },
    }


def test_the_report_is_one_that_the_wire_allows(shard: Shard) -> None:
    decide(shard, push(1))
    for one in (shard, new_shard()):
        renewal = decode(encode(Renew(report=dict(one.report(0.0)))))
        assert isinstance(renewal, Renew)
        assert renewal.report["waiting_for"] == one.report(0.0)["waiting_for"]
