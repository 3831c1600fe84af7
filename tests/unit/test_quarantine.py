"""Who keeps sending bad gradients is not listened to, on any shard, until somebody lets it back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.broker.directory import Members
from gradmq.broker.releases import Releases
from gradmq.broker.status import compose
from gradmq.layout import Layout, Tensor
from gradmq.ps.effects import Effect, Quarantined
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Unbounded
from gradmq.ps.quarantine import BAD, OF_LAST, Quarantine
from gradmq.ps.shard import Shard
from gradmq.standings import Standings
from gradmq.wire.codec import array_payload, decode, encode, payload_crc
from gradmq.wire.messages import Attach, Directory, Hello, Push, Renew, Seed, Verdict

# -- the rule -------------------------------------------------------------------------------------


def decided(quarantine: Quarantine, *reasons: str, name: str = "a") -> list[str]:
    return [quarantine.decided(name, reason, 0.0) for reason in reasons]


@pytest.mark.parametrize("reason", ["nonfinite", "norm", "malformed"])
def test_the_fifth_bad_gradient_of_twenty_puts_its_worker_in_quarantine(reason: str) -> None:
    quarantine = Quarantine(3)
    reasons = [reason, *[""] * 16, *[reason] * 3]
    assert not any(decided(quarantine, *reasons[:-1], reasons[-1]))
    quarantine = Quarantine(3)
    reasons = [reason, *[""] * (OF_LAST - BAD), *[reason] * (BAD - 1)]
    assert not any(decided(quarantine, *reasons[:-1]))
    (why,) = decided(quarantine, reasons[-1])
    assert why == f"5 of its last 20 pushes to shard 3 were rejected: 5 {reason}"
    assert quarantine.holds("a") and not quarantine.holds("b")


def test_a_bad_gradient_now_and_then_is_forgiven_for_ever() -> None:
    quarantine = Quarantine(0)
    for _ in range(100):
        assert not any(decided(quarantine, "nonfinite", *[""] * 5))


def test_rejections_that_are_not_the_gradients_fault_do_not_count() -> None:
    quarantine = Quarantine(0)
    assert not any(decided(quarantine, *["stale", "future", "lost_base"] * 100))


def test_who_was_let_back_begins_with_a_clean_record() -> None:
    quarantine = Quarantine(0)
    assert any(decided(quarantine, *["norm"] * BAD))
    assert quarantine.standings.end("a", 1.0)
    assert not any(decided(quarantine, *["norm"] * (BAD - 1)))
    assert any(decided(quarantine, "norm"))


# -- the standings --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["begin", "end", "hear 0", "hear 1", "forget"]), max_size=30))
def test_broker_and_shards_agree_once_they_have_heard_each_other(happens: list[str]) -> None:
    """The broker lets back, shard 0 puts in quarantine, and any of them may forget everything."""
    sides = [Standings(), Standings(), Standings()]
    broker = 2
    for step, what in enumerate(happens):
        if what == "begin":
            sides[0].begin("a", "bad", step)
        elif what == "end":
            sides[broker].end("a", step)
        elif what == "forget":
            sides[step % 3] = Standings()
        else:
            one = sides[int(what[-1])]
            sides[broker].hear(one.tell(step), step)
            one.hear(sides[broker].tell(step), step)
    for _ in range(2):
        for shard in sides[:2]:
            sides[broker].hear(shard.tell(99), 99)
            shard.hear(sides[broker].tell(99), 99)
    assert len({side.holds("a") for side in sides}) == 1


def test_a_late_report_does_not_undo_that_a_worker_was_let_back() -> None:
    shard, broker = Standings(), Standings()
    shard.begin("a", "bad", 0.0)
    late = shard.tell(1.0)
    broker.hear(late, 1.0)
    assert broker.end("a", 2.0)
    assert broker.hear(late, 3.0) == []
    assert not broker.holds("a")
    assert shard.hear(broker.tell(4.0), 4.0) == ["a"]
    assert not shard.holds("a")


def test_a_broker_that_was_restarted_hears_since_when_from_a_shard() -> None:
    shard, broker = Standings(), Standings()
    shard.begin("a", "bad", 10.0)
    broker.hear(shard.tell(70.0), 1000.0)
    (quarantined,) = broker.quarantined()
    assert (quarantined.name, quarantined.why, quarantined.since) == ("a", "bad", 940.0)


def test_who_is_in_no_quarantine_is_not_let_out_of_it() -> None:
    standings = Standings()
    assert not standings.end("a", 0.0)
    standings.begin("a", "bad", 0.0)
    assert standings.end("a", 1.0)
    assert not standings.end("a", 2.0)


# -- on a shard, and over the broker --------------------------------------------------------------

LAYOUT = Layout((Tensor("w", "float32", (4,)),), shards=1)
NAN = [np.nan] * 4
ONES = [1.0] * 4


def directory(*sessions: int, **more: object) -> Directory:
    return Directory(
        serial=1, run="demo", phase="open", shards=(), sessions=sessions,
        horizon=max(sessions), seeder=sessions[0], **more,
    )  # type: ignore[arg-type]  # fmt: skip


class Served:
    """A shard at zero, with sessions 1 and 2 of the workers "a" and "b"."""

    def __init__(self, momentum: float = 0.0, max_norm: float | None = None) -> None:
        optimizer = SGD(lr=1.0, momentum=momentum)
        self.shard = Shard("demo", LAYOUT, 0, 1, optimizer, Unbounded(), max_gradient_norm=max_norm)
        self.shard.on_directory(directory(1, 2), 0.0)
        payload = array_payload(np.zeros(4, np.float32))
        self.shard.on_seed(
            b"", Seed(run="demo", layout=LAYOUT.hash, shard=0, session=1,
                      crc=payload_crc(payload), payload=payload),
        )  # fmt: skip
        self.seqs: dict[int, int] = {}
        self.attach(1, "a")
        self.attach(2, "b")

    def attach(self, session: int, name: str) -> None:
        self.shard.on_attach(
            b"", Attach(run="demo", layout=LAYOUT.hash, session=session, name=name,
                        oldest_unanswered=1, newest_seen=None, window=4),
        )  # fmt: skip
        self.seqs[session] = 0

    def push(self, session: int, values: Sequence[float], **changes: object) -> list[Effect]:
        self.seqs[session] += 1
        payload = array_payload(np.array(values, np.float32))
        fields = {"layout": LAYOUT.hash, "crc": payload_crc(payload), "payload": payload}
        push = Push(
            run="demo", shard=0, incarnation=1, session=session, seq=self.seqs[session],
            base=(1, 0), **{**fields, **changes},
        )  # type: ignore[arg-type]  # fmt: skip
        return self.shard.on_push(push, 5.0)

    def verdicts(self) -> list[Verdict]:
        return [v for reply in self.shard.take_verdicts() for v in reply.message.verdicts]  # type: ignore[union-attr]

    @property
    def bits(self) -> tuple[bytes, ...]:
        state = self.shard.snapshot()
        return (state.parameters.tobytes(), *(v.tobytes() for v in state.optimizer.values()))


POISON: dict[str, tuple[Sequence[float], dict[str, object], str]] = {
    "NaN": ([1.0, np.nan, 1.0, 1.0], {}, "nonfinite"),
    "infinity": ([1.0, 1.0, 1.0, -np.inf], {}, "nonfinite"),
    "too long": ([3.0, 4.0, 0.1, 0.0], {}, "norm"),
    "too long for float32": ([3e38] * 4, {}, "norm"),
    "another layout": (ONES, {"layout": "0" * 16}, "malformed"),
    "too few elements": ([1.0, 1.0], {}, "malformed"),
    "a wrong crc": (ONES, {"crc": 1}, "damaged"),
    "a NaN that was none": ([1.0, np.nan, 1.0, 1.0], {"crc": 1}, "damaged"),
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("poison", POISON)
def test_poison_changes_neither_parameters_nor_optimizer(poison: str, momentum: float) -> None:
    values, changes, reason = POISON[poison]
    served = Served(momentum, max_norm=5.0)
    served.push(1, [0.5, -0.5, 1.0, 2.0])
    before = served.bits
    served.push(1, values, **changes)
    assert served.bits == before
    assert [v.reason for v in served.verdicts()] == ["", reason]
    assert served.push(2, [3.0, 4.0, 0.0, 0.0]) == [], "exactly at the limit is not above it"
    assert served.verdicts()[0].outcome == "applied"


def test_from_the_fifth_on_its_pushes_are_rejected_unseen_and_other_workers_go_on() -> None:
    served = Served()
    effects = [effect for _ in range(BAD) for effect in served.push(1, NAN)]
    why = "5 of its last 5 pushes to shard 0 were rejected: 5 nonfinite"
    assert effects == [Quarantined("a", why)]
    assert [v.reason for v in served.verdicts()] == ["nonfinite"] * BAD
    before = served.bits
    served.push(1, ONES)
    served.push(1, ONES, crc=1)
    assert [v.reason for v in served.verdicts()] == ["quarantined"] * 2
    assert served.bits == before
    served.push(2, ONES)
    assert served.verdicts()[0].outcome == "applied"
    assert served.shard.report(7.0)["standings"] == {"a": {"number": 1, "why": why, "for_s": 2.0}}


def test_a_new_session_of_the_same_name_is_in_quarantine_too() -> None:
    served = Served()
    for _ in range(BAD):
        served.push(1, NAN)
    served.verdicts()
    served.shard.on_directory(directory(2, 3), 6.0)
    served.attach(3, "a")
    served.push(3, ONES)
    assert [v.reason for v in served.verdicts()] == ["quarantined"]


def test_a_shard_that_knew_nothing_hears_of_it_with_the_directory_and_of_the_end_too() -> None:
    members = Members("demo", 1, 1, {}, 0.0)
    for peer, role in ((b"s", "ps"), (b"a", "worker")):
        shard = {"shard": 0, "incarnation": 1, "ready": True} if role == "ps" else {}
        members.on_hello(peer, Hello(role=role, name=peer.decode(), host="h", pid=1,
                                     payload=(LAYOUT.to_bytes(),), **shard), 0.0)  # type: ignore[arg-type]  # fmt: skip
    served = Served()
    for _ in range(BAD):
        served.push(1, NAN)
    renew = decode(encode(Renew(report=dict(served.shard.report(6.0)))))
    assert isinstance(renew, Renew)
    members.on_renew(b"s", renew.report, 6.0)
    (row,) = compose(members, Releases(1, 1.0, 30.0), [], 8.0)["workers"]
    assert row["quarantine"].startswith("5 of its last 5 pushes to shard 0")
    assert row["quarantined_s"] == 3.0

    def told() -> Directory:
        members.serial += 1
        (tell,) = [t for t in members.on_time(9.0) if t.peer == b"a"]
        message = decode(encode(tell.message))
        assert isinstance(message, Directory)
        return message

    restarted = Served()
    heard = told()
    restarted.shard.on_directory(directory(1, 2, standings=heard.standings), 9.0)
    restarted.push(1, ONES)
    assert [v.reason for v in restarted.verdicts()] == ["quarantined"]
    assert members.on_readmit("a", 9.0) and not members.on_readmit("b", 9.0)
    heard = told()
    for shard in (served, restarted):
        shard.verdicts()
        shard.shard.on_directory(directory(1, 2, standings=heard.standings), 9.0)
        shard.push(1, ONES)
        assert [v.outcome for v in shard.verdicts()] == ["applied"]
