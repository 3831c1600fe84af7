"""Whoever stops reporting is named within five seconds: in the log, in a status, in the table."""

from __future__ import annotations

from typing import Any

import pytest

from gradmq.broker.directory import LEASE_S, Members
from gradmq.broker.releases import Releases
from gradmq.broker.silence import Silence
from gradmq.broker.status import compose
from gradmq.layout import Layout, Tensor
from gradmq.membership import RENEW_EVERY_S, Membership
from gradmq.view.figures import Figures, Wait
from gradmq.wire.messages import Hello, Role, Welcome

LAYOUT = Layout((Tensor("w", "float32", (4,)),), 1)

#: As in docs/guarantees.md, P9.
NAMED_WITHIN_S = 5.0

#: The broker looks this often, ``gradmq run`` asks this often.
TICK_S, LOOK_S = 0.1, 0.25

ROLES: dict[bytes, Role] = {b"shard": "ps", b"worker": "worker", b"infer": "infer"}


class Run:
    """A broker's directory under a clock; every member but the stopped ones reports."""

    def __init__(self) -> None:
        self.now = 100.0
        self.members = Members("demo", 1, 1, {}, self.now)
        self.silence = Silence()
        self.figures = Figures()
        self.log: list[str] = []
        self.stopped: set[bytes] = set()
        for peer in ROLES:
            self.hello(peer)

    def hello(self, peer: bytes) -> None:
        role = ROLES[peer]
        shard: dict[str, Any] = {}
        if role == "ps":
            shard = {"shard": 0, "incarnation": 1, "ready": True}
        payload = (LAYOUT.to_bytes(),)
        hello = Hello(role=role, name=peer.decode(), host="h", pid=7, payload=payload, **shard)
        self.members.on_hello(peer, hello, self.now)

    def go_on(self, seconds: float, **reports: dict[str, Any]) -> None:
        for tick in range(1, round(seconds / TICK_S) + 1):
            self.now += TICK_S
            if tick % round(RENEW_EVERY_S / TICK_S) == 0:
                for peer in ROLES.keys() - self.stopped:
                    report = {"seq": tick, "version": tick, "release": tick}
                    self.members.on_renew(peer, reports.get(peer.decode(), report), self.now)
            self.members.on_time(self.now)
            self.log += self.silence.look(self.members.members.values(), self.now)
        self.figures.update(self.status(), self.now)

    def status(self) -> dict[str, Any]:
        return compose(self.members, Releases(1, 1.0, 30.0), [], self.now)

    def wait(self, peer: bytes) -> Wait | None:
        figures = self.figures
        row = {b"shard": figures.shards, b"worker": figures.workers, b"infer": figures.infer}[peer]
        return row[0].wait


@pytest.mark.parametrize("peer", ROLES)
def test_who_falls_silent_is_named_in_time_with_since_when_and_again_when_heard(
    peer: bytes,
) -> None:
    run = Run()
    run.go_on(3.0)
    assert run.log == [] and run.wait(peer) is None
    stopped_at = run.now
    run.stopped.add(peer)
    run.go_on(NAMED_WITHIN_S)
    (line,) = run.log
    shown = "ps-0" if peer == b"shard" else peer.decode()
    assert line == f"{shown}: silent for 2.1 s (process 7 on h)"
    wait = run.wait(peer)
    assert wait is not None and wait.kind == "silent"
    assert wait.since == pytest.approx(stopped_at)
    run.stopped.clear()
    run.go_on(1.0)
    assert run.log[1] == f"{shown}: heard again after 5.5 s"
    assert run.wait(peer) is None


@pytest.mark.parametrize("peer", ROLES)
def test_who_is_lost_stays_in_the_status_with_since_when_until_it_is_back(peer: bytes) -> None:
    run = Run()
    run.go_on(1.0)
    lost_at = run.now
    run.stopped.add(peer)
    run.go_on(LEASE_S + 60.0)
    wait = run.wait(peer)
    assert wait is not None and wait.kind == "away"
    assert wait.since == pytest.approx(lost_at, abs=1e-2)
    run.hello(peer)
    run.stopped.clear()
    run.go_on(1.0)
    assert run.wait(peer) is None
    assert [len(run.status()[rows]) for rows in ("shards", "workers", "infer")] == [1, 1, 1]


def test_who_says_goodbye_is_not_lost() -> None:
    run = Run()
    for peer in ROLES:
        run.members.on_goodbye(peer)
    status = run.status()
    assert [(w["live"], w["lost"]) for w in status["workers"]] == [(False, False)]
    assert status["infer"] == []


def test_a_wait_counts_from_its_first_report_and_anew_after_progress() -> None:
    run = Run()
    stuck = {"seq": 7, "waiting_for": "shard 0: verdict on push 7"}
    run.go_on(3.0, worker=stuck)
    assert run.status()["workers"][0]["waiting_s"] == pytest.approx(2.5, abs=1e-2)
    run.go_on(1.0, worker=stuck | {"seq": 8})
    assert run.status()["workers"][0]["waiting_s"] == pytest.approx(0.5, abs=1e-2)
    run.go_on(1.0)
    assert run.status()["workers"][0]["waiting_s"] == 0.0


def test_what_was_waited_for_before_the_run_opened_is_another_wait() -> None:
    members = Members("demo", 1, 1, {}, 0.0)
    hello = Hello(role="worker", name="a", host="h", pid=1, payload=(LAYOUT.to_bytes(),))
    members.on_hello(b"a", hello, 0.0)
    members.on_renew(b"a", {"seq": 0, "waiting_for": "the run to get its parameters"}, 1.0)
    members.phase = "open"
    members.on_renew(b"a", {"seq": 0, "waiting_for": "shard 0: to attach"}, 5.0)
    (row,) = compose(members, Releases(1, 1.0, 30.0), [], 5.0)["workers"]
    assert row["waiting_s"] == 0.0


def test_a_broker_that_stood_still_itself_gives_nobody_up() -> None:
    run = Run()
    run.go_on(1.0)
    sessions = [member.session for member in run.members.workers()]
    run.now += 60.0
    run.members.on_stopped(60.0, run.now)
    run.go_on(1.0)
    assert run.log == []
    assert [member.session for member in run.members.workers()] == sessions
    assert not run.members.departed


def test_a_member_says_once_that_its_broker_is_silent_and_once_that_it_answers() -> None:
    def hello() -> Hello:
        return Hello(role="infer", name="", host="h", pid=1)

    welcome = Welcome(run="demo", name="a", session=0, shards=1, lease_s=10.0, settings={})
    member = Membership(hello)
    member.on_time(0.0, dict)
    member.on_welcome(welcome, 0.1)
    assert member.news("tcp://h:1", 1.0) == ""
    assert member.news("tcp://h:1", 2.3) == "waiting for broker tcp://h:1: silent for 2.2 s"
    assert member.news("tcp://h:1", 3.0) == ""
    member.on_heard(9.0)
    assert member.news("tcp://h:1", 9.1) == "broker tcp://h:1 answers"
    assert member.news("tcp://h:1", 9.2) == ""
