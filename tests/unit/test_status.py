"""The status: all that is known of a run, complete in shape from the first moment on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradmq.broker.directory import LEASE_S, Members
from gradmq.broker.releases import Releases
from gradmq.broker.status import compose
from gradmq.layout import Layout, Tensor
from gradmq.wire.codec import decode, encode
from gradmq.wire.messages import Evaluated, Hello, Labelled, Role, Status

LAYOUT = (Layout((Tensor("w", "float32", (4,)),), 1).to_bytes(),)
ADDRESSES = ("tcp://10.0.0.5:5551", "tcp://10.0.0.5:5552", "tcp://10.0.0.5:5553")
NOW = 100.0

EMPTY_TALLY = {
    "applied": 0,
    "samples": 0,
    "rejected": {},
    "staleness": {"median": 0, "max": 0, "histogram": []},
}


@pytest.fixture
def members() -> Members:
    return Members("demo", 2, 1, {}, now=NOW - LEASE_S)


@pytest.fixture
def releases() -> Releases:
    return Releases(2, 1.0, 100.0)


def join(members: Members, role: Role, name: str = "", **changes: Any) -> None:
    payload = LAYOUT if role == "worker" else ()
    hello = Hello(role=role, name=name, host="node", pid=7, payload=payload, **changes)
    members.on_hello((name or role).encode(), hello, NOW)


def join_shard(members: Members, index: int) -> None:
    own = {"shard": index, "incarnation": 3, "ready": True, "addresses": ADDRESSES}
    join(members, "ps", f"ps-{index}", **own)


def counts(applied: int, samples: int, rejected: int = 0, **staleness: int) -> dict[str, Any]:
    return {
        "applied": applied,
        "samples": samples,
        "rejected": {"stale": rejected} if rejected else {},
        "staleness": [[int(at[1:]), count] for at, count in staleness.items()],
    }


def report(members: Members, name: str, **values: Any) -> None:
    assert members.on_renew(name.encode(), values, NOW) is None


def status(members: Members, releases: Releases, *evaluations: Evaluated) -> dict[str, Any]:
    """The composed status, as it arrives at the other end of the wire and in JSON."""
    composed = compose(members, releases, evaluations, NOW)
    received = decode(encode(Status(status=composed)))
    assert isinstance(received, Status)
    assert json.loads(json.dumps(composed)) == json.loads(json.dumps(received.status))
    return received.status


def test_an_empty_run_waits_for_its_shards(members: Members, releases: Releases) -> None:
    found = status(members, releases)
    assert (found["run"], found["phase"]) == ("demo", "waiting")
    assert found["waiting_for"] == "shards [0, 1] to join"
    assert [(s["index"], s["live"], s["waiting_for"]) for s in found["shards"]] == [
        (0, False, "to join"),
        (1, False, "to join"),
    ]
    assert found["release"] == {"number": 0, "versions": [], "saved": 0, "abandoned": 0}
    for empty in ("workers", "infer", "followers", "evaluations"):
        assert found[empty] == []


def test_a_run_without_parameters_waits_for_them(members: Members, releases: Releases) -> None:
    join(members, "ps", "ps-0", shard=0)
    assert status(members, releases)["waiting_for"] == "shards [1] to join"
    join(members, "ps", "ps-1", shard=1)
    assert status(members, releases)["waiting_for"] == "initial parameters, from the first worker"


def test_a_shard_has_the_same_keys_whether_it_is_there_or_not(
    members: Members, releases: Releases
) -> None:
    join_shard(members, 0)
    there, away = status(members, releases)["shards"]
    assert set(there) == set(away)


def test_a_shard_shows_what_it_reported(members: Members, releases: Releases) -> None:
    join_shard(members, 0)
    report(
        members,
        "ps-0",
        version=41,
        pushed_bytes=1000,
        parameter_bytes=16,
        lost_updates=2,
        workers={"a": counts(3, 30, rejected=1), "b": counts(2, 20, rejected=4)},
    )
    shard = status(members, releases)["shards"][0]
    assert (shard["incarnation"], shard["version"], shard["live"]) == (3, 41, True)
    assert (shard["applied"], shard["rejected"]) == (5, {"stale": 5})
    assert (shard["parameter_bytes"], shard["pushed_bytes"], shard["lost_updates"]) == (16, 1000, 2)
    assert (shard["host"], shard["pid"], shard["addresses"]) == ("node", 7, list(ADDRESSES))


def test_a_worker_is_summed_over_shards_and_its_samples_are_counted_once(
    members: Members, releases: Releases
) -> None:
    for index in range(2):
        join_shard(members, index)
    join(members, "worker", "a")
    join(members, "worker", "b")
    report(members, "ps-0", workers={"a": counts(3, 30, _0=2, _4=1), "b": counts(1, 10, _0=1)})
    report(members, "ps-1", workers={"a": counts(2, 30, rejected=1, _0=2), "b": counts(1, 10)})
    report(members, "a", seq=3, samples_per_s=12.5, loss=0.5, waiting_for="shard 0: to attach")
    a, b = status(members, releases)["workers"]
    assert (a["name"], a["live"], a["seq"], a["loss"]) == ("a", True, 3, 0.5)
    assert (a["applied"], a["rejected"], a["samples"]) == (5, {"stale": 1}, 30)
    assert a["staleness"] == {"median": 0, "max": 4, "histogram": [[0, 4], [4, 1]]}
    assert a["waiting_for"] == "shard 0: to attach"
    assert (a["share"], b["share"]) == (0.75, 0.25)
    assert (b["seq"], b["loss"], b["samples_per_s"]) == (0, None, 0.0)


def test_a_worker_that_left_keeps_its_share_and_has_no_speed(
    members: Members, releases: Releases
) -> None:
    join_shard(members, 0)
    join(members, "worker", "a")
    report(members, "a", seq=3, samples_per_s=12.5)
    report(members, "ps-0", workers={"a": counts(3, 30)})
    members.on_goodbye(b"a")
    (a,) = status(members, releases)["workers"]
    assert (a["live"], a["seq"], a["applied"], a["samples_per_s"]) == (False, 3, 3, 0.0)
    assert a["share"] == 1.0


def test_a_worker_that_has_pushed_nothing_has_an_empty_row(
    members: Members, releases: Releases
) -> None:
    join(members, "worker", "a")
    (a,) = status(members, releases)["workers"]
    assert {key: a[key] for key in EMPTY_TALLY} == EMPTY_TALLY
    assert a["share"] == 0.0


def test_workers_are_listed_by_number(members: Members, releases: Releases) -> None:
    for name in ("worker-10", "worker-9", "alice", "worker-1"):
        join(members, "worker", name)
    names = [worker["name"] for worker in status(members, releases)["workers"]]
    assert names == ["alice", "worker-1", "worker-9", "worker-10"]


def test_inference_nodes_and_other_followers_are_apart(
    members: Members, releases: Releases
) -> None:
    join(members, "infer", "infer-1")
    join(members, "follower", "evaluator")
    steered = {"answering": 11, "steering": "pinned"}
    report(members, "infer-1", release=12, age_s=0.25, url="http://127.0.0.1:8000", **steered)
    found = status(members, releases)
    (infer,), (follower,) = found["infer"], found["followers"]
    assert (infer["release"], infer["age_s"], infer["url"]) == (12, 0.25, "http://127.0.0.1:8000")
    assert (infer["answering"], infer["steering"]) == (11, "pinned")
    assert (follower["name"], follower["release"], follower["age_s"]) == ("evaluator", 0, None)


def test_the_newest_release_shows_the_version_of_every_shard(
    members: Members, releases: Releases
) -> None:
    releases.on_known(11)
    releases.on_time(NOW, ((3, 40), (3, 39)))
    for shard, version in enumerate(((3, 41), (3, 39))):
        releases.on_labelled(Labelled(release=12, shard=shard, version=version, crc=1), NOW)
    release = status(members, releases)["release"]
    assert (release["number"], release["versions"]) == (12, [[3, 41], [3, 39]])


def test_evaluations_are_listed_as_they_came(members: Members, releases: Releases) -> None:
    evaluated = (
        Evaluated(release=1, metrics={"accuracy": 0.5}),
        Evaluated(release=3, metrics={"accuracy": 0.75, "loss": 0.5}),
    )
    assert status(members, releases, *evaluated)["evaluations"] == [
        {"release": 1, "accuracy": 0.5},
        {"release": 3, "accuracy": 0.75, "loss": 0.5},
    ]
