"""The stream of a node's events: what it tells, to how many, and when it ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gradmq.infer import connection, events
from gradmq.infer.run_watch import RunWatch
from gradmq.serve import TensorModel

EVENTS = "/gradmq/v1/events"


@contextlib.contextmanager
def listening(node: Any, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """(name, data) of each event."""
    with node.client.stream("GET", EVENTS, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_a_node_without_a_run_tells_what_it_serves(
    serve_node: Callable[..., Any], sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, keep=2)
    with listening(node) as told:
        assert next(told) == ("history", None)
        name, report = next(told)
        assert (name, report["run"]) == ("report", None)
        assert report["node"]["release"] is report["node"]["age_s"] is None
        node.offer(12, lambda rows: (rows.sum(dim=1), rows))
        _, report = next(told)
        assert (report["node"]["release"], report["node"]["swaps"]) == (12, 0)
        assert report["node"]["versions"] == [[1, 120], [2, 121]]
        assert [held["release"] for held in report["node"]["held"]] == [12]
        body = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [1] * 3}]}
        assert node.post("/v2/models/sums/infer", body).status_code == 200
        _, report = next(told)
        assert report["node"]["requests"] == {"answered": 1, "refused": 0, "failed": 0}
        assert report["node"]["latency_by_release"]["12"]["count"] == 1
        assert report["node"]["latency"]["half_within_s"] > 0


def status(release: int) -> dict[str, Any]:
    whole: dict[str, Any] = {"run": "lm", "phase": "open", "waiting_for": "", "shards": []}
    whole |= {"workers": [], "infer": [], "followers": [], "release": {"number": release}}
    return whole | {"evaluations": [{"release": 1, "rmse": 0.5}]}


def test_who_comes_late_gets_the_history_first(
    serve_node: Callable[..., Any], sums_spec: TensorModel
) -> None:
    watch = RunWatch()
    node = serve_node("sums", sums_spec, watch=watch)
    for release in range(3):
        watch.heard(status(release), 10.0 + release)
    with listening(node) as told:
        name, history = next(told)
        assert name == "history"
        assert [point[0] for point in history["points"]] == [0, 1, 2]
        assert history["evaluations"] == [{"release": 1, "rmse": 0.5}]
        _, report = next(told)
        assert report["run"]["name"] == "lm"
        assert report["run"]["point"] == history["points"][-1]


def test_a_stream_ends_in_words_when_the_node_stops(
    serve_node: Callable[..., Any], sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    with listening(node) as told:
        next(told)
        node.stop.set()
        assert list(told)[-1] == ("end", None)


def test_as_many_as_may_listen_and_a_place_is_free_when_one_leaves(
    serve_node: Callable[..., Any], sums_spec: TensorModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_LISTENERS", 2)
    node = serve_node("sums", sums_spec)
    with listening(node) as first:
        next(first)
        with listening(node) as second:
            next(second)
            refused = node.client.get(EVENTS)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"].startswith("2 listeners are here already")
        while _is_full(node):
            pass  # the test's own time limit ends this


def _is_full(node: Any) -> bool:
    with node.client.stream("GET", EVENTS) as answer:
        return answer.status_code == 503


def test_a_listener_that_reads_nothing_is_left_and_holds_up_nobody(
    serve_node: Callable[..., Any], sums_spec: TensorModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(connection, "_UNREAD_MS", 200)
    monkeypatch.setattr(events, "MOST_LISTENERS", 1)
    node = serve_node("sums", sums_spec)
    with node.client.stream("GET", EVENTS) as answer:
        assert answer.status_code == 200
        while _is_full(node):
            pass  # the test's own time limit ends this


def test_who_asks_for_the_head_alone_does_not_wait_for_the_end(
    serve_node: Callable[..., Any], sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    head = node.client.head(EVENTS)
    assert (head.status_code, head.headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert node.client.get("/healthz").status_code == 200


def test_events_are_for_who_bears_the_token(
    serve_node: Callable[..., Any], sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, token="secret-token-of-32-characters-long")
    assert node.client.get(EVENTS).status_code == 401
    with listening(node, authorization="Bearer secret-token-of-32-characters-long") as told:
        assert next(told)[0] == "history"
