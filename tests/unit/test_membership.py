"""A member's side of joining: hello until welcomed, renewals after that, hello again if asked."""

from __future__ import annotations

import pytest

from gradmq.membership import BROKER_SILENT_S, HELLO_AGAIN_S, RENEW_EVERY_S, Membership
from gradmq.wire.messages import Directory, Hello, Renew, Renewed, Welcome

HELLO = Hello(role="worker", name="alice", host="node", pid=7)
WELCOME = Welcome(run="demo", name="alice", session=1, shards=1, lease_s=10.0, settings={})


def directory(serial: int) -> Directory:
    return Directory(
        serial=serial, run="demo", phase="open", shards=(), sessions=(), horizon=0, seeder=0
    )


def due(member: Membership, now: float) -> Hello | Renew | None:
    return member.on_time(now, lambda: {"seq": 3})


@pytest.fixture
def member() -> Membership:
    return Membership(lambda: HELLO)


@pytest.fixture
def joined(member: Membership) -> Membership:
    """Welcomed at time 1, with directory 5."""
    due(member, 1.0)
    member.on_welcome(WELCOME, 1.0)
    member.on_directory(directory(5), 1.0)
    return member


def test_hello_is_said_at_once_and_again_until_welcomed(member: Membership) -> None:
    assert due(member, 1.0) == HELLO
    assert due(member, 1.0 + 0.9 * HELLO_AGAIN_S) is None
    assert due(member, 1.0 + HELLO_AGAIN_S) == HELLO


def test_a_hello_that_could_not_be_sent_is_said_again_soon(member: Membership) -> None:
    due(member, 1.0)
    member.not_sent(1.0)
    assert due(member, member.next_deadline()) == HELLO
    assert member.next_deadline() <= 1.0 + 2 * HELLO_AGAIN_S


def test_a_welcomed_member_reports_at_once_and_then_renews(joined: Membership) -> None:
    assert joined.joined
    for turn in range(3):
        now = 1.0 + turn * RENEW_EVERY_S
        assert joined.next_deadline() == now
        assert due(joined, now) == Renew(report={"seq": 3})
        assert due(joined, now) is None


def test_news_that_the_broker_should_know_do_not_wait_for_the_next_turn(
    joined: Membership,
) -> None:
    due(joined, 1.0)
    joined.renew_soon(1.1)
    assert due(joined, 1.1) == Renew(report={"seq": 3})


def test_a_directory_that_got_lost_is_noticed_and_hello_brings_it(joined: Membership) -> None:
    joined.on_renewed(Renewed(serial=5), 1.5)
    assert joined.joined
    joined.on_renewed(Renewed(serial=6), 2.0)
    assert due(joined, 2.0) == HELLO


def test_a_member_that_the_broker_does_not_know_says_hello(joined: Membership) -> None:
    joined.rejoin(2.0)
    assert not joined.joined
    assert due(joined, 2.0) == HELLO


def test_who_is_waited_for_and_since_when(member: Membership) -> None:
    assert due(member, 1.0) == HELLO
    assert member.waiting_for(1.5) == "broker: welcome, silent 0.5 s"
    member.on_welcome(WELCOME, 1.5)
    assert member.waiting_for(1.5 + BROKER_SILENT_S) == ""
    assert member.waiting_for(4.5) == "broker: a sign of life, silent 3.0 s"
    member.on_heard(4.5)
    assert member.waiting_for(4.5) == ""
