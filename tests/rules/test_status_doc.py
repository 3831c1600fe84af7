"""docs/status.md has every key of a status, with its type, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gradmq.broker.directory import Members
from gradmq.broker.releases import Releases
from gradmq.broker.status import compose
from gradmq.layout import Layout, Tensor
from gradmq.wire.messages import Evaluated, Hello, Labelled, Role

PAGE = Path(__file__).parents[2] / "docs" / "status.md"

TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "map": dict,
    "list of map": list,
    "list of list": list,
    "list of str": list,
    "map of str to int": dict,
    "float or null": float | None,
}


def documented(section: str) -> dict[str, str]:
    """Type by key, of one section of the page."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", body, re.MULTILINE))


def a_status() -> dict[str, Any]:
    """Of a run with everything: shards, one that is away, workers, a departed one, followers."""
    layout = Layout((Tensor("w", "float32", (4,)),), shards=2)
    members = Members("tour", 2, 1, {}, now=0.0)
    hello(members, b"s0", "ps", shard=0, payload=(layout.to_bytes(),), ready=True)
    for peer, role in ((b"w1", "worker"), (b"w2", "worker"), (b"i1", "infer"), (b"f1", "follower")):
        hello(members, peer, role)
    counts = {"applied": 3, "samples": 96, "rejected": {"stale": 1}, "staleness": [[0, 2], [1, 1]]}
    members.on_renew(b"s0", {"version": 3, "workers": {"worker-1": counts}}, 1.0)
    members.on_renew(b"w1", {"seq": 4, "samples_per_s": 96.0, "loss": 0.5}, 1.0)
    members.on_renew(b"i1", {"release": 1, "age_s": 0.1, "url": "http://127.0.0.1:8000"}, 1.0)
    members.on_goodbye(b"w2")
    releases = Releases(2, every_s=1.0, save_every_s=30.0)
    releases.on_ask(b"", save=False)
    releases.on_time(0.0, ((1, 3), (1, 3)))
    for shard in range(2):
        releases.on_labelled(Labelled(release=1, shard=shard, version=(1, 3), crc=0), 0.0)
    return compose(members, releases, [Evaluated(release=1, metrics={"accuracy": 0.9})], now=1.5)


def hello(members: Members, peer: bytes, role: Role, **more: Any) -> None:
    message = Hello(role=role, name="", host="node-1", pid=7, **more)
    members.on_hello(peer, message, now=0.5)


def rows() -> list[tuple[str, dict[str, Any]]]:
    """(section of the page, one map that it describes)."""
    status = a_status()
    nodes = [*status["infer"], *status["followers"]]
    return [
        ("run", status),
        ("release", status["release"]),
        *(("shards", shard) for shard in status["shards"]),
        *(("workers", worker) for worker in status["workers"]),
        *(("staleness", worker["staleness"]) for worker in status["workers"]),
        *(("infer and followers", node) for node in nodes),
    ]


def test_the_status_composed_here_has_something_of_everything() -> None:
    status = a_status()
    assert [shard["live"] for shard in status["shards"]] == [True, False]
    assert [worker["live"] for worker in status["workers"]] == [True, False]
    assert all(status[key] for key in ("infer", "followers", "evaluations"))
    assert status["release"]["versions"]
    assert json.dumps(status, allow_nan=False)


@pytest.mark.parametrize("section", sorted({section for section, _ in rows()}))
def test_the_page_has_the_keys_of_a_status_with_their_types(section: str) -> None:
    described = documented(section)
    for named, row in rows():
        if named == section:
            assert set(described) == set(row)
            wrong = {k: row[k] for k, kind in described.items() if not is_a(row[k], kind)}
            assert wrong == {}


def test_an_evaluation_is_a_release_and_its_metrics() -> None:
    (evaluation,) = a_status()["evaluations"]
    assert documented("evaluations") == {"release": "int"}
    assert evaluation == {"release": 1, "accuracy": 0.9}


def is_a(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, TYPES[kind])
