"""Bugs that the simulator found in the cores, each as the shortest story that shows it."""

from __future__ import annotations

import numpy as np
import pytest

from gradmq.broker.directory import LEASE_S, Members
from gradmq.layout import Layout, Tensor
from gradmq.membership import Membership
from gradmq.ps.effects import Reply
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Unbounded
from gradmq.ps.shard import Shard
from gradmq.ps.state import ShardState
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    Attach,
    Attached,
    Detach,
    Directory,
    Hello,
    Push,
    Refused,
    ShardEntry,
    Verdict,
    Verdicts,
    Welcome,
)
from gradmq.worker.session import Session

LAYOUT = Layout((Tensor("w", "float32", (2,)),), shards=1)
PEER = b"peer"
PAYLOAD = array_payload(np.ones(2, np.float32))
CRC = payload_crc(PAYLOAD)


# -- a session ------------------------------------------------------------------------------------


def directory_of(incarnation: int, *sessions: int, horizon: int = 0) -> Directory:
    entry = ShardEntry(index=0, incarnation=incarnation, addresses=(), ready=True)
    return Directory(
        serial=1, run="demo", phase="open", shards=(entry,), sessions=sessions, horizon=horizon,
        seeder=0,
    )  # fmt: skip


def attached_session(number: int = 7) -> Session:
    session = Session("demo", LAYOUT, number, "worker-1", max_in_flight=2)
    session.on_directory(directory_of(1, number), now=0.0)
    session.on_attached(0, Attached(session=number, incarnation=1, last_seq=0, window=2), now=0.0)
    return session


def attach_sent(session: Session, now: float) -> Attach:
    (effect,) = session.on_time(now)
    assert isinstance(effect.message, Attach)
    return effect.message


def answer(session: Session, seq: int, version: tuple[int, int]) -> None:
    verdict = Verdict(seq=seq, outcome="applied", version=version)
    message = Verdicts(session=7, incarnation=version[0], verdicts=(verdict,))
    session.on_verdicts(0, message, now=0.0)


def test_what_a_dead_life_had_is_told_though_the_next_ones_parameters_come_first() -> None:
    session = attached_session()
    session.on_replica(0, (1, 9), now=0.0)
    session.on_replica(0, (2, 4), now=1.0)
    assert attach_sent(session, now=1.0).newest_seen == (1, 9)


def test_what_a_verdict_named_is_told_though_the_replica_never_held_it() -> None:
    session = attached_session()
    session.push([(1, 4)], [PAYLOAD], [CRC], None, now=0.0)
    answer(session, 1, (1, 5))
    session.on_directory(directory_of(2, 7), now=1.0)
    assert attach_sent(session, now=1.0).newest_seen == (1, 5)


def test_a_life_that_attached_the_session_accounts_for_its_own_versions_next() -> None:
    session = attached_session()
    session.on_replica(0, (1, 9), now=0.0)
    session.on_directory(directory_of(2, 7), now=1.0)
    session.on_attached(0, Attached(session=7, incarnation=2, last_seq=0, window=2), now=1.0)
    session.on_replica(0, (2, 4), now=1.0)
    session.on_directory(directory_of(3, 7), now=2.0)
    assert attach_sent(session, now=2.0).newest_seen == (2, 4)


def test_a_refusal_of_the_session_before_does_not_end_this_one() -> None:
    session = attached_session()
    session.on_refused(0, Refused(reason="fenced", text="…", session=6), now=0.0)
    assert not session.fenced
    session.on_refused(0, Refused(reason="fenced", text="…", session=7), now=0.0)
    assert session.fenced


# -- a shard --------------------------------------------------------------------------------------


def shard_of(incarnation: int, state: ShardState | None = None) -> Shard:
    shard = Shard("demo", LAYOUT, 0, incarnation, SGD(lr=1.0), Unbounded())
    zeros = np.zeros(2, np.float32)
    shard.restore(state or ShardState(zeros, {}, 0, ((0, -1),), rows={}, release=0))
    return shard


def attach(shard: Shard, session: int) -> Attached | Refused | None:
    message = Attach(
        run="demo", layout=LAYOUT.hash, session=session, name=f"worker-{session}",
        oldest_unanswered=1, newest_seen=None, window=2,
    )  # fmt: skip
    effects = shard.on_attach(PEER, message)
    if not effects:
        return None
    (effect,) = effects
    assert isinstance(effect, Reply)
    assert isinstance(effect.message, Attached | Refused)
    return effect.message


def push_once(shard: Shard, session: int) -> None:
    push = Push(
        run="demo", shard=0, incarnation=shard.incarnation, session=session, seq=1,
        base=shard.version, layout=LAYOUT.hash, crc=CRC, payload=PAYLOAD,
    )  # fmt: skip
    shard.on_push(push, now=0.0)


def test_a_refusal_says_whose_session_it_is() -> None:
    shard = shard_of(1)
    shard.on_directory(directory_of(1, 2, horizon=2), 0.0)
    refused = attach(shard, 1)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.session) == ("fenced", 1)


def test_a_restarted_broker_that_lists_a_fenced_session_does_not_bring_it_back() -> None:
    shard = shard_of(1)
    shard.on_directory(directory_of(1, 1, 2), 0.0)
    attach(shard, 1)
    push_once(shard, 1)
    shard.on_directory(directory_of(1, 2, horizon=2), 0.0)
    shard.on_directory(directory_of(1, 1, 2, horizon=0), 0.0)
    assert isinstance(attach(shard, 1), Refused)
    assert isinstance(attach(shard, 2), Attached)


def test_a_session_of_the_restarted_broker_is_attached() -> None:
    shard = shard_of(1)
    shard.on_directory(directory_of(1, 1, horizon=2), 0.0)
    shard.on_directory(directory_of(1, 1, 12, horizon=0), 0.0)
    assert isinstance(attach(shard, 12), Attached)
    shard.on_directory(directory_of(1, 12, horizon=12), 0.0)
    assert isinstance(attach(shard, 1), Refused)
    assert isinstance(attach(shard, 12), Attached)


def test_fences_outlive_the_shard() -> None:
    shard = shard_of(1)
    shard.on_directory(directory_of(1, 1, 2, 3), 0.0)
    attach(shard, 1)
    push_once(shard, 1)
    shard.on_directory(directory_of(1, 2, horizon=2), 0.0)
    restarted = shard_of(2, shard.snapshot())
    restarted.on_directory(directory_of(2, 1, 2, 3, horizon=0), 0.0)
    assert isinstance(attach(restarted, 1), Refused)
    assert isinstance(attach(restarted, 2), Attached)
    assert isinstance(attach(restarted, 3), Attached)


def test_an_attach_that_comes_after_the_detach_does_not_begin_the_session_anew() -> None:
    shard = shard_of(1)
    shard.on_directory(directory_of(1, 1, 2), 0.0)
    attach(shard, 1)
    push_once(shard, 1)
    shard.on_detach(Detach(session=1))
    assert isinstance(attach(shard, 1), Refused)
    shard.on_directory(directory_of(1, 2, horizon=2), 0.0)
    assert isinstance(attach(shard, 1), Refused)


# -- members and the broker -----------------------------------------------------------------------


def welcome() -> Welcome:
    return Welcome(run="demo", name="ps-0", session=0, shards=1, lease_s=LEASE_S, settings={})


def hello(**changes: object) -> Hello:
    fields = {"role": "worker", "name": "", "host": "node", "pid": 1}
    return Hello(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_welcome_to_an_earlier_hello_does_not_stand_for_the_one_that_is_due() -> None:
    member = Membership(lambda: hello(role="ps"))
    assert isinstance(member.on_time(0.0, dict), Hello)
    assert isinstance(member.on_time(0.5, dict), Hello)
    member.on_welcome(welcome(), now=0.6)
    member.rejoin(0.6)  # a shard has opened its sockets, and the broker should know where
    member.on_welcome(welcome(), now=0.6)
    assert isinstance(member.on_time(0.6, dict), Hello)
    member.on_welcome(welcome(), now=0.7)
    assert member.joined


def test_a_hello_that_could_not_be_sent_is_not_answered_by_an_old_welcome() -> None:
    member = Membership(lambda: hello(role="ps"))
    assert isinstance(member.on_time(0.0, dict), Hello)
    member.rejoin(0.1)
    assert isinstance(member.on_time(0.1, dict), Hello)
    member.not_sent(0.1)
    member.on_welcome(welcome(), now=0.2)
    assert not member.joined


def joined(members: Members, peer: bytes, message: Hello) -> Welcome:
    (tell,) = members.on_hello(peer, message, now=0.0)
    assert isinstance(tell.message, Welcome)
    return tell.message


def test_a_sleeper_does_not_take_its_name_back_from_a_newer_session() -> None:
    members = Members("demo", 1, 1, {}, now=0.0)
    asleep = joined(members, b"a", hello(name="w", pid=1))
    newer = joined(members, b"c", hello(name="x", pid=3))
    assert newer.session > asleep.session
    members.on_hello(b"b", hello(name="w", pid=2), now=0.0)
    (tell,) = members.on_hello(b"a2", hello(name="w", pid=1, session=asleep.session), now=0.0)
    assert tell.peer == b"a2"
    assert isinstance(tell.message, Refused)
    assert tell.message.reason == "name"
    assert members.members[b"b"].name == "w"


@pytest.mark.parametrize("incarnation", [2, 3])
def test_a_restarted_broker_gives_nobody_a_name_that_may_come_back(incarnation: int) -> None:
    first = Members("demo", 1, 1, {}, now=0.0)
    names = {joined(first, peer, hello(pid=pid)).name for peer, pid in ((b"a", 1), (b"b", 2))}
    later = Members("demo", 1, incarnation, {}, now=0.0)
    assert joined(later, b"c", hello(pid=3)).name not in names


def test_who_gave_way_does_not_take_the_name_back_with_a_hello_said_before() -> None:
    members = Members("demo", 1, 1, {}, now=0.0)
    joined(members, b"a", hello(name="w", pid=1))
    members.on_hello(b"b", hello(name="w", pid=2), now=0.0)
    (tell,) = members.on_hello(b"a", hello(name="w", pid=1), now=0.0)
    assert tell.peer == b"a"
    assert isinstance(tell.message, Refused)
    assert members.members[b"b"].name == "w"
