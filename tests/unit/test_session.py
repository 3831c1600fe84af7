"""A session: what it sends when, what it sends again, and how every push ends."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.layout import Layout, Tensor
from gradmq.wire.messages import (
    Attach,
    Attached,
    Beacon,
    Directory,
    NotSeen,
    Query,
    Reattach,
    Refused,
    ShardEntry,
    Verdict,
    Verdicts,
    Version,
)
from gradmq.worker.session import (
    ATTACH_AGAIN_S,
    QUERY_AFTER_S,
    QUERY_AT_MOST_S,
    Session,
    ToShard,
)

ONE_SHARD = Layout((Tensor("w", "float32", (2,)),), shards=1)
TWO_SHARDS = Layout((Tensor("w", "float32", (2,)),), shards=2)
ME = 7


# -- what others say ------------------------------------------------------------------------------


def directory(*incarnations: int, ready: bool = True, phase: Any = "open") -> Directory:
    return Directory(
        serial=1,
        run="demo",
        phase=phase,
        shards=tuple(
            ShardEntry(index=i, incarnation=incarnation, addresses=(), ready=ready)
            for i, incarnation in enumerate(incarnations)
        ),
        sessions=(ME,),
        horizon=ME,
        seeder=0,
    )


def beacon(version: Version, shard: int = 0) -> Beacon:
    return Beacon(
        run="demo", shard=shard, version=version, published=version, release=0, last_seqs={}
    )


def attached(
    *verdicts: Verdict, last_seq: int = 0, incarnation: int = 1, window: int = 4, session: int = ME
) -> Attached:
    return Attached(
        session=session,
        incarnation=incarnation,
        last_seq=last_seq,
        window=window,
        verdicts=verdicts,
    )


def applied(seq: int, version: Version) -> Verdict:
    return Verdict(seq=seq, outcome="applied", version=version)


def rejected(seq: int, reason: str = "nonfinite") -> Verdict:
    return Verdict(seq=seq, outcome="rejected", reason=reason)


def verdicts(*several: Verdict, incarnation: int = 1, session: int = ME) -> Verdicts:
    return Verdicts(session=session, incarnation=incarnation, verdicts=several)


def not_seen(seq: int, idle: bool = True, incarnation: int = 1) -> NotSeen:
    return NotSeen(session=ME, incarnation=incarnation, seq=seq, idle=idle)


# -- a session ------------------------------------------------------------------------------------


def new_session(layout: Layout = ONE_SHARD, max_in_flight: int = 4) -> Session:
    return Session("demo", layout, ME, "worker-1", max_in_flight)


def attached_session(layout: Layout = ONE_SHARD, **settings: Any) -> Session:
    session = new_session(layout, **settings)
    session.on_directory(directory(*[1] * layout.shards), now=0.0)
    for shard in range(layout.shards):
        session.on_attached(shard, attached(), now=0.0)
    return session


@pytest.fixture
def session() -> Session:
    """Attached to one shard at time 0."""
    return attached_session()


def push(session: Session, now: float = 0.0, base: Version = (1, 0)) -> int:
    shards = len(session._sides)
    return session.push([base] * shards, [(b"",)] * shards, [0] * shards, None, now)


def sent(session: Session, now: float = 0.0, shard: int = 0) -> list[tuple[int, int]]:
    """Hand over all that the session has for a shard: (seq, incarnation) of each push."""
    out = []
    while (one := session.next_push(shard)) is not None:
        session.on_sent(shard, now)
        out.append((one.seq, one.incarnation))
    return out


def ends(session: Session) -> dict[int, list[str]]:
    """Outcomes by seq of what was answered since the last call, a list by shard."""
    return {a.seq: [v.outcome for v in a.verdicts] for a in session.take_answered()}


def ask_to_attach(oldest_unanswered: int = 1, newest_seen: Version | None = None) -> ToShard:
    return ToShard(
        0,
        Attach(
            run="demo",
            layout=ONE_SHARD.hash,
            session=ME,
            name="worker-1",
            oldest_unanswered=oldest_unanswered,
            newest_seen=newest_seen,
            window=4,
        ),
    )


# -- attaching ------------------------------------------------------------------------------------


def test_a_shard_that_is_ready_is_attached_to() -> None:
    session = new_session()
    assert session.on_time(now=0.0) == []
    session.on_directory(directory(1), now=1.0)
    assert session.on_time(now=1.0) == [ask_to_attach()]


@pytest.mark.parametrize("words", [{"ready": False}, {"phase": "waiting"}])
def test_a_shard_without_parameters_or_peers_is_not(words: dict[str, Any]) -> None:
    session = new_session()
    session.on_directory(directory(1, **words), now=0.0)
    assert session.on_time(now=9.0) == []
    session.on_directory(directory(1), now=9.0)
    assert session.on_time(now=9.0) == [ask_to_attach()]


def test_an_attach_without_answer_is_repeated_ever_more_slowly() -> None:
    session = new_session()
    session.on_directory(directory(1), now=0.0)
    first_s, longest_s = ATTACH_AGAIN_S
    asked_at = [0.0]
    for _ in range(9):
        assert session.on_time(now=asked_at[-1]) == [ask_to_attach()]
        assert session.on_time(now=asked_at[-1]) == []
        asked_at.append(session.next_deadline())
    pauses_s = [round(after - before, 9) for before, after in pairwise(asked_at)]
    assert pauses_s[:3] == [first_s, 2 * first_s, 4 * first_s]
    assert pauses_s[-2:] == [longest_s, longest_s]


def test_no_push_leaves_before_the_shard_has_attached_the_session() -> None:
    session = new_session()
    session.on_directory(directory(3), now=0.0)
    push(session)
    assert sent(session) == []
    session.on_attached(0, attached(incarnation=3), now=0.0)
    assert sent(session) == [(1, 3)]


def test_pushes_leave_in_order_and_once(session: Session) -> None:
    assert [push(session) for _ in range(3)] == [1, 2, 3]
    assert sent(session) == [(1, 1), (2, 1), (3, 1)]
    assert sent(session) == []


def test_an_answer_to_an_attach_that_was_repeated_sends_nothing_again(session: Session) -> None:
    push(session)
    sent(session)
    session.on_attached(0, attached(), now=0.1)
    assert sent(session) == []


def test_answers_to_another_session_are_passed_over() -> None:
    session = new_session()
    session.on_directory(directory(1), now=0.0)
    session.on_attached(0, attached(session=6), now=0.0)
    push(session)
    assert sent(session) == []


def test_an_answer_of_an_older_incarnation_is_passed_over() -> None:
    session = new_session()
    session.on_directory(directory(2), now=0.0)
    session.on_attached(0, attached(incarnation=1), now=0.0)
    push(session)
    assert sent(session) == []


def test_after_a_reattach_undecided_pushes_are_sent_again(session: Session) -> None:
    for _ in range(3):
        push(session)
    sent(session)
    session.on_reattach(0, Reattach(session=ME, incarnation=1), now=1.0)
    assert sent(session) == []
    assert session.on_time(now=1.0) == [ask_to_attach(oldest_unanswered=1)]
    session.on_attached(0, attached(applied(1, (1, 1)), last_seq=1), now=1.0)
    assert sent(session) == [(2, 1), (3, 1)]
    assert ends(session) == {1: ["applied"]}


def test_a_reattach_for_another_session_or_of_an_older_life_is_passed_over(
    session: Session,
) -> None:
    session.on_directory(directory(2), now=0.0)
    session.on_attached(0, attached(incarnation=2), now=0.0)
    session.on_reattach(0, Reattach(session=6, incarnation=2), now=1.0)
    session.on_reattach(0, Reattach(session=ME, incarnation=1), now=1.0)
    push(session)
    assert sent(session) == [(1, 2)]


# -- restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("news", ["directory", "beacon", "replica", "reattach"])
def test_a_new_incarnation_is_attached_to_whoever_tells_of_it(session: Session, news: str) -> None:
    push(session)
    sent(session)
    match news:
        case "directory":
            session.on_directory(directory(2), now=1.0)
        case "beacon":
            session.on_beacon(beacon((2, 0)), now=1.0)
        case "replica":
            session.on_replica(0, (2, 0), now=1.0)
        case "reattach":
            session.on_reattach(0, Reattach(session=ME, incarnation=2), now=1.0)
    assert session.on_time(now=1.0) == [ask_to_attach(oldest_unanswered=1)]
    session.on_attached(0, attached(incarnation=2), now=1.0)
    assert sent(session) == [(1, 2)]


def test_news_of_an_older_incarnation_change_nothing() -> None:
    session = new_session()
    session.on_directory(directory(2), now=0.0)
    session.on_attached(0, attached(incarnation=2), now=0.0)
    session.on_directory(directory(1), now=1.0)
    session.on_beacon(beacon((1, 50)), now=1.0)
    push(session)
    assert sent(session) == [(1, 2)]


def test_what_the_new_life_has_decided_is_not_sent_again(session: Session) -> None:
    for _ in range(3):
        push(session)
    sent(session)
    session.on_directory(directory(2), now=1.0)
    stored = (applied(1, (1, 1)), rejected(2, "stale"))
    session.on_attached(0, attached(*stored, last_seq=2, incarnation=2), now=1.0)
    assert sent(session) == [(3, 2)]
    assert ends(session) == {1: ["applied"], 2: ["rejected"]}


def test_a_decided_push_whose_verdict_is_gone_ends_as_unknown(session: Session) -> None:
    push(session)
    push(session)
    sent(session)
    session.on_directory(directory(2), now=1.0)
    session.on_attached(0, attached(applied(2, (1, 2)), last_seq=2, incarnation=2), now=1.0)
    assert ends(session) == {1: ["unknown"], 2: ["applied"]}
    assert sent(session) == []


def test_the_worker_tells_the_newest_it_knows_of_the_last_life_so_that_losses_are_counted(
    session: Session,
) -> None:
    push(session)
    sent(session)
    session.on_replica(0, (1, 1), now=0.1)
    session.on_verdicts(0, verdicts(applied(1, (1, 5))), now=0.2)
    session.on_replica(0, (2, 0), now=1.0)
    assert session.on_time(now=1.0) == [ask_to_attach(oldest_unanswered=2, newest_seen=(1, 5))]


def test_verdicts_of_a_life_that_is_over_are_passed_over(session: Session) -> None:
    push(session)
    sent(session)
    session.on_directory(directory(2), now=1.0)
    session.on_verdicts(0, verdicts(applied(1, (1, 1))), now=1.1)
    assert ends(session) == {}
    assert session.unanswered == (1,)


# -- the window -----------------------------------------------------------------------------------


def test_a_push_leaves_the_window_when_the_replica_holds_its_version(session: Session) -> None:
    push(session)
    sent(session)
    assert session.in_flight == 1
    session.on_verdicts(0, verdicts(applied(1, (1, 5))), now=0.1)
    assert session.in_flight == 1
    session.on_replica(0, (1, 4), now=0.2)
    assert session.in_flight == 1
    session.on_replica(0, (1, 5), now=0.3)
    assert session.in_flight == 0


def test_a_push_whose_version_is_here_already_leaves_with_its_verdict(session: Session) -> None:
    push(session)
    sent(session)
    session.on_replica(0, (1, 5), now=0.1)
    session.on_verdicts(0, verdicts(applied(1, (1, 5))), now=0.2)
    assert session.in_flight == 0


def test_a_verdict_without_a_version_ends_the_push_at_once(session: Session) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(rejected(1)), now=0.1)
    assert session.in_flight == 0


def test_a_restart_settles_a_version_that_was_lost_with_it(session: Session) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(applied(1, (1, 50))), now=0.1)
    session.on_replica(0, (2, 3), now=1.0)
    assert session.in_flight == 0


def test_the_window_is_what_the_worker_asked_for_less_where_a_shard_granted_less() -> None:
    session = new_session(TWO_SHARDS, max_in_flight=8)
    session.on_directory(directory(1, 1), now=0.0)
    assert session.max_in_flight == 1
    session.on_attached(0, attached(window=5), now=0.0)
    assert session.max_in_flight == 1
    session.on_attached(1, attached(window=3), now=0.0)
    assert session.max_in_flight == 3
    session.on_reattach(1, Reattach(session=ME, incarnation=1), now=1.0)
    session.on_attached(1, attached(window=20), now=1.0)
    assert session.max_in_flight == 5


def test_a_push_is_in_flight_until_every_shard_has_answered() -> None:
    session = attached_session(TWO_SHARDS)
    push(session)
    sent(session, shard=0)
    sent(session, shard=1)
    session.on_verdicts(0, verdicts(rejected(1)), now=0.1)
    assert (session.in_flight, session.unanswered) == (1, (1,))
    session.on_verdicts(1, verdicts(rejected(1)), now=0.2)
    assert (session.in_flight, session.unanswered) == (0, ())


def test_answers_behind_a_lost_one_make_no_room(session: Session) -> None:
    for _ in range(4):
        push(session)
    sent(session)
    session.on_verdicts(0, verdicts(*(rejected(seq) for seq in (2, 3, 4))), now=0.1)
    assert session.in_flight == 4
    session.on_verdicts(0, verdicts(rejected(1)), now=0.2)
    assert session.in_flight == 0


@given(st.lists(st.integers(0, 11), max_size=60))
def test_a_shard_that_keeps_a_window_of_verdicts_can_always_answer(events: list[int]) -> None:
    """However verdicts get lost, a push never runs a window ahead of one without a verdict."""
    window = 3
    session = attached_session(max_in_flight=window)
    for event in events:
        if event < 6 and session.in_flight < session.max_in_flight:
            push(session)
        elif session.unanswered:
            heard = session.unanswered[event % len(session.unanswered)]
            session.on_verdicts(0, verdicts(rejected(heard)), now=0.0)
        oldest = min(session.unanswered, default=session.last_seq)
        assert session.last_seq - oldest < window


# -- verdicts -------------------------------------------------------------------------------------


def test_a_push_is_answered_once_every_shard_has_and_says_what_each_did() -> None:
    session = attached_session(TWO_SHARDS)
    push(session)
    for shard in (0, 1):
        sent(session, shard=shard)
    stale = Verdict(seq=1, outcome="rejected", version=(1, 9), staleness=9, reason="stale")
    session.on_verdicts(1, verdicts(stale), now=0.1)
    assert session.take_answered() == []
    session.on_verdicts(0, verdicts(applied(1, (1, 1))), now=0.2)
    (answered,) = session.take_answered()
    assert (answered.session, answered.seq) == (ME, 1)
    assert answered.verdicts == (applied(1, (1, 1)), stale)
    assert not answered.applied
    assert answered.staleness == 9
    assert answered.reasons == ("stale",)


def test_answers_come_in_order_of_seq(session: Session) -> None:
    for _ in range(3):
        push(session)
    sent(session)
    for seq in (3, 1, 2):
        session.on_verdicts(0, verdicts(applied(seq, (1, seq))), now=0.1)
    answers = session.take_answered()
    assert [answer.seq for answer in answers] == [1, 2, 3]
    assert all(answer.applied for answer in answers)
    assert session.take_answered() == []


def test_a_verdict_said_twice_counts_once(session: Session) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(applied(1, (1, 1))), now=0.1)
    session.on_verdicts(0, verdicts(rejected(1)), now=0.2)
    assert ends(session) == {1: ["applied"]}


def test_verdicts_of_another_session_or_of_no_push_are_passed_over(session: Session) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(applied(1, (1, 1)), session=6), now=0.1)
    session.on_verdicts(0, verdicts(applied(9, (1, 1))), now=0.1)
    assert ends(session) == {}


@pytest.mark.parametrize("outcome", ["applied", "buffered", "rejected"])
def test_every_outcome_ends_the_push(session: Session, outcome: Any) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(Verdict(seq=1, outcome=outcome)), now=0.1)
    assert ends(session) == {1: [outcome]}
    assert session.in_flight == 0


# -- asking before resending ----------------------------------------------------------------------


def query(seq: int) -> ToShard:
    return ToShard(0, Query(session=ME, seq=seq))


def test_a_push_is_asked_after_only_after_a_time_without_progress(session: Session) -> None:
    push(session)
    push(session)
    sent(session, now=1.0)
    assert session.on_time(now=1.0 + 0.9 * QUERY_AFTER_S) == []
    assert session.on_time(now=1.0 + QUERY_AFTER_S) == [query(1)]
    assert session.on_time(now=1.1 + QUERY_AFTER_S) == []


def test_progress_puts_the_question_off(session: Session) -> None:
    push(session)
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(rejected(1)), now=0.9)
    assert session.on_time(now=QUERY_AFTER_S) == []
    assert session.on_time(now=0.9 + QUERY_AFTER_S) == [query(2)]


def test_a_push_that_the_socket_has_not_taken_yet_is_not_asked_after(session: Session) -> None:
    push(session)
    assert session.on_time(now=50.0) == []
    assert session.next_deadline() == float("inf")


def test_nothing_is_sent_again_until_an_idle_shard_says_not_seen(session: Session) -> None:
    for _ in range(3):
        push(session)
    sent(session)
    session.on_time(now=QUERY_AFTER_S)
    session.on_not_seen(0, not_seen(1, idle=False), now=1.1)
    assert sent(session) == []
    session.on_not_seen(0, not_seen(2), now=1.2)
    assert sent(session) == [(2, 1), (3, 1)]


@pytest.mark.parametrize(
    "answer",
    [not_seen(9), not_seen(1, incarnation=2), NotSeen(session=6, incarnation=1, seq=1, idle=True)],
)
def test_a_not_seen_that_is_not_about_this_push_sends_nothing(
    session: Session, answer: NotSeen
) -> None:
    push(session)
    sent(session)
    session.on_not_seen(0, answer, now=1.0)
    assert sent(session) == []


def test_each_resending_doubles_the_patience_up_to_its_limit(session: Session) -> None:
    push(session)
    now, pauses = 0.0, []
    for _ in range(8):
        sent(session, now)
        asked = session.next_deadline()
        assert session.on_time(asked) == [query(1)]
        pauses.append(asked - now)
        now = asked
        session.on_not_seen(0, not_seen(1), now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, QUERY_AT_MOST_S, QUERY_AT_MOST_S, QUERY_AT_MOST_S]


def test_an_answer_restores_the_patience(session: Session) -> None:
    push(session)
    push(session)
    sent(session)
    session.on_not_seen(0, not_seen(1), now=1.0)
    sent(session, now=1.0)
    session.on_verdicts(0, verdicts(rejected(1)), now=2.0)
    assert session.next_deadline() == 2.0 + QUERY_AFTER_S


def test_one_shard_that_is_away_does_not_hold_up_another() -> None:
    session = new_session(TWO_SHARDS)
    session.on_directory(directory(1, 1), now=0.0)
    session.on_attached(0, attached(), now=0.0)
    push(session)
    assert sent(session, shard=0) == [(1, 1)]
    assert sent(session, shard=1) == []


# -- the end of a session -------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["broker", "shard"])
def test_a_fenced_session_ends_every_push_as_unknown_and_sends_nothing_more(
    session: Session, by: str
) -> None:
    for _ in range(2):
        push(session)
    sent(session)
    if by == "broker":
        session.fence("its lease ran out")
    else:
        session.on_refused(0, Refused(reason="fenced", text="session 7 is not live"), now=1.0)
    assert session.fenced
    assert ends(session) == {1: ["unknown"], 2: ["unknown"]}
    assert (session.in_flight, session.unanswered) == (0, ())
    assert session.on_time(now=99.0) == []
    assert session.next_deadline() == float("inf")
    assert sent(session) == []


def test_a_fenced_session_does_not_attach_to_a_shard_that_comes_back(session: Session) -> None:
    session.fence("its lease ran out")
    session.on_directory(directory(2), now=1.0)
    assert session.on_time(now=9.0) == []


def test_an_unknown_end_says_why(session: Session) -> None:
    push(session)
    session.fence("its lease ran out")
    (answered,) = session.take_answered()
    assert answered.reasons == ("its lease ran out",)


def test_the_refusal_of_an_earlier_session_does_not_end_this_one(session: Session) -> None:
    session.on_refused(0, Refused(reason="fenced", text="not live", session=ME - 1), now=1.0)
    assert not session.fenced


def test_another_refusal_does_not_end_the_session() -> None:
    session = new_session()
    session.on_directory(directory(1), now=0.0)
    session.on_refused(0, Refused(reason="memory", text="push budget is used up"), now=0.5)
    assert not session.fenced
    assert session.on_time(now=5.0) == [ask_to_attach()]


# -- for whom the worker waits --------------------------------------------------------------------


def test_a_session_with_nothing_under_way_waits_for_nobody(session: Session) -> None:
    assert session.waiting_for(now=99.0) == ""


def test_waiting_to_attach_names_the_shard_and_its_refusal() -> None:
    session = new_session(TWO_SHARDS)
    session.on_directory(directory(1, 1), now=0.0)
    session.on_attached(0, attached(), now=0.0)
    assert session.waiting_for(now=0.0) == "shard 1: to attach"
    session.on_refused(1, Refused(reason="memory", text="push budget is used up"), now=1.0)
    assert session.waiting_for(now=1.0) == "shard 1: to attach (push budget is used up)"


def test_waiting_for_a_verdict_names_the_push_and_since_when(session: Session) -> None:
    push(session)
    push(session)
    sent(session)
    assert session.waiting_for(now=0.5) == "shard 0: verdict on push 1"
    session.on_beacon(beacon((1, 0)), now=2.0)
    assert session.waiting_for(now=4.5) == "shard 0: verdict on push 1, silent for 2.5 s"


def test_waiting_for_parameters_names_the_version(session: Session) -> None:
    push(session)
    sent(session)
    session.on_verdicts(0, verdicts(applied(1, (1, 5))), now=0.1)
    assert session.waiting_for(now=0.1) == "shard 0: parameters of version 5"
    session.on_replica(0, (1, 5), now=0.2)
    assert session.waiting_for(now=0.2) == ""
