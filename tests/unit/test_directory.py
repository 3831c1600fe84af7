"""Members: who joins, who stays, who is fenced, and when everybody hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.broker.directory import LEASE_S, SESSIONS_PER_LIFE, Members, Tell
from gradmq.layout import Layout, Tensor
from gradmq.wire.messages import Directory, Hello, Refused, Rejoin, ShardEntry, Welcome

TENSORS = (Tensor("w", "float32", (4,)), Tensor("b", "float32", (2,)))
OTHER_TENSORS = (Tensor("w", "float32", (5,)), Tensor("b", "float32", (2,)))
SHARDS = 2
ADDRESSES = ("tcp://10.0.0.5:5551", "tcp://10.0.0.5:5552", "tcp://10.0.0.5:5553")


def new_members(incarnation: int = 1, now: float = 0.0) -> Members:
    return Members("demo", SHARDS, incarnation, {"max_in_flight": 2}, now)


@pytest.fixture
def members() -> Members:
    """A broker that was started so long ago that its grace is over."""
    members = new_members()
    members.on_time(now=LEASE_S)
    return members


#: The first moment after the grace.
NOW = LEASE_S


def layout_bytes(tensors: Sequence[Tensor] = TENSORS, shards: int = 1) -> tuple[bytes, ...]:
    return (Layout(tuple(tensors), shards).to_bytes(),)


def worker(name: str = "", pid: int = 100, **changes: Any) -> Hello:
    fields = {"host": "node", "payload": layout_bytes()}
    return Hello(role="worker", name=name, pid=pid, **{**fields, **changes})


def shard(index: int, incarnation: int = 1, pid: int = 200, **changes: Any) -> Hello:
    fields = {"host": "node", "addresses": ADDRESSES, "ready": True}
    own = {"shard": index, "incarnation": incarnation, "pid": pid + index}
    return Hello(role="ps", name=f"ps-{index}", **{**fields, **own, **changes})


def follower(name: str = "", **changes: Any) -> Hello:
    return Hello(role="follower", name=name, host="node", pid=300, **changes)


def join(members: Members, peer: bytes, hello: Hello, now: float = NOW) -> Welcome:
    (tell,) = members.on_hello(peer, hello, now)
    assert tell.peer == peer
    assert isinstance(tell.message, Welcome)
    return tell.message


def refusal(members: Members, peer: bytes, hello: Hello, now: float = NOW) -> Refused:
    (tell,) = members.on_hello(peer, hello, now)
    assert tell.peer == peer
    assert isinstance(tell.message, Refused)
    return tell.message


def told(members: Members, now: float = NOW) -> dict[bytes, Directory]:
    """The directories that leave now, by peer."""
    out = {}
    for tell in members.on_time(now):
        assert isinstance(tell.message, Directory)
        out[tell.peer] = tell.message
    return out


def directory(members: Members, now: float = NOW) -> Directory:
    """The directory as a newcomer gets it."""
    join(members, b"newcomer", follower("newcomer"), now)
    newest = told(members, now)[b"newcomer"]
    members.on_goodbye(b"newcomer")
    return newest


def renew_all(members: Members, now: float, **report: Any) -> None:
    for peer in list(members.members):
        assert members.on_renew(peer, {"version": 0, "ready": True, **report}, now) is None


def open_run(members: Members, now: float = NOW) -> None:
    """Both shards are there and ready, and have reported."""
    for index in range(SHARDS):
        join(members, b"ps%d" % index, shard(index, payload=layout_bytes(shards=SHARDS)), now)
    renew_all(members, now)


# -- joining --------------------------------------------------------------------------------------


def test_a_member_is_welcomed_with_the_runs_settings(members: Members) -> None:
    assert join(members, b"a", worker("alice")) == Welcome(
        run="demo",
        name="alice",
        session=SESSIONS_PER_LIFE + 1,
        shards=SHARDS,
        lease_s=LEASE_S,
        settings={"max_in_flight": 2},
    )


def test_a_member_of_another_run_is_refused(members: Members) -> None:
    refused = refusal(members, b"a", worker(run="yesterdays"))
    assert refused.reason == "run"
    assert "demo" in refused.text
    assert "yesterdays" in refused.text
    assert members.members == {}


def test_names_are_given_by_role_and_never_twice(members: Members) -> None:
    names = [join(members, b"%d" % i, worker()).name for i in range(2)]
    members.on_goodbye(b"0")
    names.append(join(members, b"2", worker()).name)
    names.append(join(members, b"f", follower()).name)
    assert names == ["worker-1", "worker-2", "worker-3", "follower-1"]


def test_a_chosen_name_is_not_given_to_another(members: Members) -> None:
    join(members, b"a", worker("worker-1"))
    assert join(members, b"b", worker()).name == "worker-2"


def test_saying_hello_twice_changes_neither_name_nor_session(members: Members) -> None:
    first = join(members, b"a", worker())
    assert join(members, b"a", worker()) == first


def test_only_workers_have_sessions(members: Members) -> None:
    assert join(members, b"f", follower()).session == 0
    assert join(members, b"p", shard(0)).session == 0


# -- the layout -----------------------------------------------------------------------------------


def test_the_first_workers_tensors_are_the_runs_cut_into_its_shards(members: Members) -> None:
    join(members, b"a", worker())
    assert members.layout == Layout(TENSORS, SHARDS)


def test_a_restored_shards_layout_is_the_runs(members: Members) -> None:
    join(members, b"p", shard(0, payload=layout_bytes(shards=SHARDS)))
    assert members.layout == Layout(TENSORS, SHARDS)


def test_a_follower_does_not_decide_the_layout(members: Members) -> None:
    join(members, b"f", follower(payload=layout_bytes()))
    assert members.layout is None


@pytest.mark.parametrize(
    "hello",
    [
        worker(payload=layout_bytes(OTHER_TENSORS)),
        follower(payload=layout_bytes(OTHER_TENSORS)),
        shard(0, payload=layout_bytes(OTHER_TENSORS, SHARDS)),
    ],
)
def test_a_model_that_is_not_the_runs_is_refused_with_the_first_difference(
    members: Members, hello: Hello
) -> None:
    join(members, b"a", worker())
    refused = refusal(members, b"b", hello)
    assert refused.reason == "layout"
    assert "parameter 'w' float32[5] where the other has parameter 'w' float32[4]" in refused.text


def test_a_checkpoint_of_another_number_of_shards_is_refused(members: Members) -> None:
    refused = refusal(members, b"p", shard(0, payload=layout_bytes(shards=3)))
    assert refused.reason == "layout"
    assert "3 shards in a run of 2" in refused.text


def test_bytes_that_are_no_layout_are_refused(members: Members) -> None:
    refused = refusal(members, b"a", worker(payload=(b"\xc1", b"")))
    assert refused.reason == "layout"
    assert members.layout is None


def test_a_member_hears_the_layout_once_as_soon_as_it_is_known(members: Members) -> None:
    join(members, b"p", shard(0, addresses=(), ready=False))
    assert told(members)[b"p"].payload == ()
    join(members, b"a", worker())
    assert told(members)[b"p"].payload == layout_bytes(shards=SHARDS)
    join(members, b"b", worker())
    assert told(members)[b"p"].payload == ()


# -- shards ---------------------------------------------------------------------------------------


def test_shards_that_listen_are_in_the_directory_by_index(members: Members) -> None:
    join(members, b"p1", shard(1, incarnation=4))
    join(members, b"p0", shard(0, addresses=(), ready=False))
    assert directory(members).shards == (
        ShardEntry(index=1, incarnation=4, addresses=ADDRESSES, ready=True),
    )
    join(members, b"p0", shard(0, ready=False))
    assert [(s.index, s.ready) for s in directory(members).shards] == [(0, False), (1, True)]


def test_a_shard_that_does_not_exist_is_refused(members: Members) -> None:
    refused = refusal(members, b"p", shard(2))
    assert refused.reason == "shard"
    assert "no shard 2 in a run of 2; use 0 to 1" in refused.text


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_shard_has_three_addresses_or_none_yet(members: Members, count: int) -> None:
    refused = refusal(members, b"p", shard(0, addresses=(ADDRESSES[0],) * count))
    assert refused.reason == "wire"


@pytest.mark.parametrize("incarnation", [3, 4])
def test_a_second_process_that_is_not_newer_is_refused(members: Members, incarnation: int) -> None:
    join(members, b"p", shard(0, incarnation=4, pid=200))
    refused = refusal(members, b"q", shard(0, incarnation=incarnation, pid=700))
    assert refused.reason == "shard"
    assert "already served by process 200 on node as incarnation 4" in refused.text
    assert set(members.members) == {b"p"}


def test_a_newer_incarnation_takes_the_place_of_the_old_one(members: Members) -> None:
    join(members, b"p", shard(0, incarnation=4))
    join(members, b"q", shard(0, incarnation=5, pid=700))
    assert set(members.members) == {b"q"}
    assert members.on_renew(b"p", {}, NOW) == Tell(b"p", Rejoin())


def test_a_shard_whose_connection_broke_comes_back_as_itself(members: Members) -> None:
    join(members, b"p", shard(0, incarnation=4))
    join(members, b"q", shard(0, incarnation=4))
    assert set(members.members) == {b"q"}
    assert [s.incarnation for s in directory(members).shards] == [4]


# -- sessions -------------------------------------------------------------------------------------


def test_sessions_grow(members: Members) -> None:
    sessions = [join(members, b"%d" % i, worker()).session for i in range(3)]
    assert sessions == [SESSIONS_PER_LIFE + i for i in (1, 2, 3)]
    assert directory(members).sessions == tuple(sessions)
    assert directory(members).horizon == sessions[-1]


def test_sessions_of_a_later_life_of_the_broker_are_larger_than_all_before() -> None:
    sessions = [join(new_members(life), b"a", worker()).session for life in (1, 2, 3)]
    assert sessions == sorted(set(sessions))


def test_a_name_that_is_taken_over_ends_the_session_before(members: Members) -> None:
    first = join(members, b"a", worker("alice", pid=100))
    told_first, told_second = members.on_hello(b"b", worker("alice", pid=101), NOW)
    assert told_first.peer == b"a"
    assert isinstance(told_first.message, Refused)
    assert told_first.message.reason == "name"
    assert "taken over by process 101 on node" in told_first.message.text
    assert isinstance(told_second.message, Welcome)
    assert told_second.message.session > first.session
    assert directory(members).sessions == (told_second.message.session,)


def test_a_worker_whose_connection_broke_keeps_its_session_and_is_not_told_off(
    members: Members,
) -> None:
    first = join(members, b"a", worker("alice"))
    again = join(members, b"b", worker("alice", session=first.session, run="demo"))
    assert again.session == first.session
    assert set(members.members) == {b"b"}


def test_a_worker_that_was_overtaken_does_not_take_its_name_back(members: Members) -> None:
    first = join(members, b"a", worker("alice", pid=100))
    members.on_hello(b"b", worker("alice", pid=101), NOW)
    refused = refusal(members, b"c", worker("alice", pid=100, session=first.session))
    assert refused.reason == "name"
    assert set(members.members) == {b"b"}


# -- leases ---------------------------------------------------------------------------------------


def test_a_member_that_renews_stays(members: Members) -> None:
    join(members, b"a", worker(), now=NOW)
    members.on_renew(b"a", {}, NOW + 0.9 * LEASE_S)
    members.on_time(NOW + 1.8 * LEASE_S)
    assert set(members.members) == {b"a"}


def test_a_member_that_is_silent_for_a_lease_is_gone_and_its_session_fenced(
    members: Members,
) -> None:
    silent = join(members, b"a", worker("alice"), now=NOW)
    later = NOW + 1.01 * LEASE_S
    alive = join(members, b"b", worker("bob"), now=later)
    newest = told(members, later)[b"b"]
    assert newest.sessions == (alive.session,)
    assert newest.horizon >= silent.session
    assert members.on_renew(b"a", {}, later) == Tell(b"a", Rejoin())


def test_a_fenced_session_comes_back_as_a_new_one(members: Members) -> None:
    first = join(members, b"a", worker("alice"), now=NOW)
    later = NOW + 1.01 * LEASE_S
    members.on_time(later)
    again = join(members, b"a", worker("alice", session=first.session), later)
    assert again.session > first.session


def test_a_goodbye_ends_a_session_at_once(members: Members) -> None:
    join(members, b"a", worker("alice"))
    members.on_goodbye(b"a")
    members.on_goodbye(b"nobody")
    assert directory(members).sessions == ()
    assert list(members.departed) == ["alice"]


def test_a_follower_that_is_started_again_takes_the_place_of_its_silent_last_life(
    members: Members,
) -> None:
    join(members, b"a", follower("watching"), now=NOW)
    join(members, b"b", replace(follower("watching"), host="elsewhere"), now=NOW)
    join(members, b"c", replace(follower("watching"), pid=301), now=NOW + 0.5)
    assert set(members.members) == {b"a", b"b", b"c"}, "it may live"
    join(members, b"d", replace(follower("watching"), pid=302), now=NOW + 5.0)
    assert set(members.members) == {b"b", b"d"}
    assert members.on_renew(b"a", {}, NOW + 5.0) == Tell(b"a", Rejoin()), "it was stopped only"


def test_a_follower_whose_name_is_there_again_is_not_missed(members: Members) -> None:
    join(members, b"a", follower("watching"), now=NOW)
    join(members, b"b", follower("other"), now=NOW)
    later = NOW + 0.9 * LEASE_S
    join(members, b"c", follower("watching"), now=later)
    members.on_time(NOW + 1.1 * LEASE_S)
    assert list(members.departed) == ["other"]


def test_a_worker_that_comes_back_is_no_longer_departed(members: Members) -> None:
    join(members, b"a", worker("alice"))
    members.on_goodbye(b"a")
    join(members, b"b", worker("alice"))
    assert members.departed == {}


# -- a restart of the broker ----------------------------------------------------------------------

BEFORE = SESSIONS_PER_LIFE + 5


def test_for_one_lease_after_a_restart_nobody_is_fenced() -> None:
    members = new_members(incarnation=2)
    assert directory(members, now=0.0).horizon == 0
    later = join(members, b"a", worker(), now=1.0).session
    assert directory(members, now=1.0).horizon == 0
    assert directory(members, now=LEASE_S).horizon == later


def test_in_that_time_a_worker_comes_back_with_the_session_it_has() -> None:
    members = new_members(incarnation=2)
    assert join(members, b"a", worker("alice", session=BEFORE), now=1.0).session == BEFORE
    assert directory(members, now=1.0).sessions == (BEFORE,)


def test_after_that_time_it_gets_a_new_one() -> None:
    members = new_members(incarnation=2)
    members.on_time(LEASE_S)
    welcome = join(members, b"a", worker("alice", session=BEFORE), now=LEASE_S)
    assert welcome.session == 2 * SESSIONS_PER_LIFE + 1


def test_the_end_of_the_grace_is_told_to_everyone() -> None:
    members = new_members(incarnation=2)
    join(members, b"a", worker(session=BEFORE), now=LEASE_S / 2)
    told(members, now=LEASE_S / 2)
    assert told(members, now=0.99 * LEASE_S) == {}
    assert told(members, now=LEASE_S)[b"a"].horizon >= BEFORE


def test_release_numbers_go_on_from_the_largest_that_anyone_knows(members: Members) -> None:
    join(members, b"p", shard(0, release=7))
    join(members, b"f", follower(release=12))
    join(members, b"q", shard(1, release=3))
    assert members.newest_known_release == 12


# -- first parameters, and the phases -------------------------------------------------------------


def test_the_first_worker_seeds_shards_that_lack_parameters(members: Members) -> None:
    for index in range(SHARDS):
        join(members, b"ps%d" % index, shard(index, ready=False))
    first = join(members, b"a", worker())
    join(members, b"b", worker())
    assert directory(members).seeder == first.session


def test_the_seeding_passes_on_when_the_seeder_leaves(members: Members) -> None:
    join(members, b"ps0", shard(0, ready=False))
    join(members, b"a", worker())
    second = join(members, b"b", worker())
    directory(members)
    members.on_goodbye(b"a")
    assert directory(members).seeder == second.session


def test_nobody_seeds_once_all_shards_have_parameters(members: Members) -> None:
    join(members, b"ps0", shard(0, ready=False))
    join(members, b"a", worker())
    assert directory(members).seeder != 0
    members.on_renew(b"ps0", {"ready": True}, NOW)
    newest = directory(members)
    assert newest.seeder == 0
    assert newest.shards[0].ready


def test_nobody_seeds_before_the_layout_is_known(members: Members) -> None:
    join(members, b"ps0", shard(0, ready=False))
    join(members, b"a", worker(payload=()))
    assert directory(members).seeder == 0


def test_a_run_opens_once_every_shard_is_ready_and_has_reported(members: Members) -> None:
    join(members, b"ps0", shard(0))
    members.on_renew(b"ps0", {"ready": True, "version": 0}, NOW)
    assert directory(members).phase == "waiting"
    join(members, b"ps1", shard(1, ready=False))
    members.on_renew(b"ps1", {"ready": False, "version": 0}, NOW)
    assert directory(members).phase == "waiting"
    members.on_renew(b"ps1", {"ready": True, "version": 0}, NOW)
    assert directory(members).phase == "open"


def test_an_open_run_stays_open_when_a_shard_is_away(members: Members) -> None:
    open_run(members)
    members.on_goodbye(b"ps0")
    assert directory(members).phase == "open"
    assert members.versions() is None


def test_a_stop_is_told_to_everyone_as_draining(members: Members) -> None:
    open_run(members)
    join(members, b"a", worker())
    told(members)
    members.on_stop()
    assert {d.phase for d in told(members).values()} == {"draining"}


def test_versions_are_those_the_shards_reported(members: Members) -> None:
    join(members, b"ps0", shard(0, incarnation=3))
    join(members, b"ps1", shard(1, incarnation=1))
    assert members.versions() is None
    members.on_renew(b"ps0", {"ready": True, "version": 41}, NOW)
    members.on_renew(b"ps1", {"ready": True, "version": 7}, NOW)
    assert members.versions() == ((3, 41), (1, 7))


# -- who hears what when --------------------------------------------------------------------------


def test_a_change_is_told_to_everyone_once_with_a_new_serial(members: Members) -> None:
    join(members, b"a", worker())
    first = told(members)
    join(members, b"b", worker())
    second = told(members)
    assert set(second) == {b"a", b"b"}
    assert second[b"a"].serial > first[b"a"].serial
    assert second[b"a"].serial == second[b"b"].serial == members.serial
    assert told(members) == {}


def test_a_follower_that_joins_changes_nothing_for_others(members: Members) -> None:
    join(members, b"a", worker())
    told(members)
    serial = members.serial
    join(members, b"f", follower())
    assert set(told(members)) == {b"f"}
    assert members.serial == serial


def test_whoever_says_hello_again_gets_the_directory_again(members: Members) -> None:
    join(members, b"f", follower())
    told(members)
    join(members, b"f", follower())
    assert set(told(members)) == {b"f"}


def test_a_report_that_says_nothing_new_is_told_to_nobody(members: Members) -> None:
    open_run(members)
    told(members)
    renew_all(members, NOW, version=5)
    assert told(members) == {}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["hello", "hello with session", "renew", "goodbye", "wait"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)


@given(EVENTS)
def test_a_name_has_one_session_the_newest_and_no_session_comes_back_from_the_dead(
    events: list[tuple[str, int, bool]],
) -> None:
    members, now = new_members(incarnation=2), 0.0
    held: dict[int, int] = {}
    dead: set[int] = set()
    live: set[int] = set()
    for event, which, other_connection in events:
        peer = b"%d%d" % (which, other_connection)
        name = f"worker-{which % 2}"
        if event.startswith("hello"):
            session = held.get(which) if event == "hello with session" else None
            for tell in members.on_hello(peer, worker(name, pid=which, session=session), now):
                if isinstance(tell.message, Welcome):
                    held[which] = tell.message.session
        elif event == "renew":
            members.on_renew(peer, {}, now)
        elif event == "goodbye":
            members.on_goodbye(peer)
        else:
            now += 0.6 * LEASE_S
        members.on_time(now)
        names = [member.name for member in members.workers()]
        assert len(names) == len(set(names))
        before, live = live, {member.session for member in members.workers()}
        dead |= before - live
        assert not live & dead
