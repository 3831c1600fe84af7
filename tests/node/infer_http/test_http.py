"""What holds for every request, in any dialect: releases, limits, errors, status."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from gradmq.infer.limits import HttpLimits
from gradmq.serve import TensorModel, TextModel

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"


def one_row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": list(values)}]}


def constant(value: float) -> Any:
    return lambda rows: (torch.full((len(rows),), value), rows)


def letters(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot((ids + 1) % 256, 256).float() * 1000


def test_requests_after_a_swap_are_answered_by_the_newer_release(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    for number in (3, 8, 9):
        node.offer(number, constant(number))
        answer = node.post(INFER, one_row(0, 0, 0))
        assert answer.json()["outputs"][0]["data"] == [number]
        assert answer.json()["model_version"] == str(number)
        assert answer.headers["x-gradmq-release"] == str(number)


def test_a_completion_ends_on_the_release_it_began_with_and_says_so(
    serve_node: Any, gate: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    first = gate(letters)
    node.offer(1, first)
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "abc", "max_tokens": 3}
        waiting = pool.submit(node.post, "/v1/completions", body)
        first.entered.wait()
        node.offer(2, lambda ids: letters(ids + 1))
        assert node.client.get("/healthz").headers["x-gradmq-release"] == "2"
        first.go.set()
        answer = waiting.result()
    assert answer.json()["choices"][0]["text"] == "def"
    assert answer.json()["metadata"]["release"] == "1"
    assert answer.headers["x-gradmq-release"] == "1"
    assert first.calls == 3
    assert node.post("/v1/completions", body).json()["choices"][0]["text"] == "egi"


def test_a_request_that_waited_is_answered_by_the_newest_release(
    serve_node: Any, gate: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    first = gate(constant(1))
    node.offer(1, first)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(node.post, INFER, one_row(0, 0, 0))
        first.entered.wait()
        waiting = pool.submit(node.post, INFER, one_row(0, 0, 0))
        node.offer(2, constant(2))
        first.go.set()
        assert running.result().json()["model_version"] == "1"
        assert waiting.result().json()["model_version"] == "2"


def test_the_node_answers_other_paths_while_the_model_runs(
    serve_node: Any, gate: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    busy = gate(constant(1))
    node.offer(1, busy)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(node.post, INFER, one_row(0, 0, 0))
        busy.entered.wait()
        assert node.client.get("/v2/health/ready").status_code == 200
        busy.go.set()
        assert running.result().status_code == 200


def test_a_request_over_its_time_is_refused_and_its_work_abandoned(
    serve_node: Any, gate: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(request_s=0.2))
    slow = gate(letters)
    node.offer(1, slow)
    refused = node.post("/v1/completions", {"prompt": "a", "max_tokens": 50})
    assert refused.status_code == 504
    assert "0.2 s" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    slow.go.set()
    node.offer(2, letters)
    while node.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code != 200:
        pass  # on a busy machine this short limit may strike again
    assert slow.calls <= 1


def test_work_for_a_client_that_went_away_is_abandoned(
    serve_node: Any, gate: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    slow = gate(letters)
    node.offer(1, slow)
    body = json.dumps({"prompt": "a", "max_tokens": 50}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(_address(node)) as client:
        client.sendall(head.encode() + body)
        slow.entered.wait()
    # Answered on the same event loop: by then it has seen the connection close.
    while node.client.get("/gradmq/v1/status").json()["requests"]["refused"] == 0:
        pass
    slow.go.set()
    node.offer(2, letters)
    assert node.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    assert slow.calls == 1


def _address(node: Any) -> tuple[str, int]:
    url = httpx.URL(node.url)
    assert url.port is not None
    return url.host, url.port


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b'{"inputs": [1,]}', "at line 1 column 15 (character 14)"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"[]", "must be a JSON object"),
        (b'{"inputs": NaN}', "holds NaN"),
        (b'{"inputs": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": ' + b"9" * 10_000 + b"}", "too many digits"),
    ],
)
def test_a_body_that_is_not_json_is_told_where(sums_node: Any, body: bytes, says: str) -> None:
    refused = sums_node.client.post(INFER, content=body)
    assert refused.status_code == 400
    assert says in refused.json()["error"]


def test_a_body_over_the_limit_is_refused_announced_or_not(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(body_bytes=1000))
    node.offer(1, constant(1))
    announced = node.client.post(INFER, content=bytes(1001))
    in_chunks = node.client.post(INFER, content=iter([bytes(600), bytes(600)]))
    for refused in (announced, in_chunks):
        assert refused.status_code == 413
        assert "1000 bytes" in refused.json()["error"]
        assert refused.headers["connection"] == "close"
    assert node.post(INFER, one_row(0, 0, 0)).status_code == 200


def test_a_client_that_sends_a_huge_body_before_it_reads_still_learns_why(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(body_bytes=1000))
    connection = http.client.HTTPConnection(*_address(node))
    try:
        connection.request("POST", INFER, bytes(2**24))
        refused = connection.getresponse()
        assert refused.status == 413
        assert b"1000 bytes" in refused.read()
    finally:
        connection.close()


def test_a_body_that_does_not_arrive_is_given_up(serve_node: Any, sums_spec: TensorModel) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(request_s=0.2))
    node.offer(1, constant(1))
    with socket.create_connection(_address(node)) as client:
        head = b"POST /v2/models/sums/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        client.sendall(head + b"{")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"1 bytes came in 0.2 s" in answer


def test_bodies_of_all_requests_together_are_bounded(
    serve_node: Any, gate: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(held_body_bytes=200))
    busy = gate(constant(1))
    node.offer(1, busy)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(node.post, INFER, one_row(0, 0, 0))
        busy.entered.wait()
        refused = node.client.post(INFER, content=bytes(150))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        busy.go.set()
        assert running.result().status_code == 200
    assert node.post(INFER, one_row(0, 0, 0)).status_code == 200


def test_a_compression_that_is_not_read_here_is_refused(sums_node: Any) -> None:
    refused = sums_node.client.post(INFER, content=b"x", headers={"content-encoding": "br"})
    assert refused.status_code == 415
    assert "'br' is not accepted: gzip and deflate are" in refused.json()["error"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_bodies_may_come_and_answers_go_compressed(
    sums_node: Any, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    body = pack(json.dumps(one_row(1, 2, 3)).encode())
    headers = {"content-encoding": encoding, "accept-encoding": encoding}
    answer = sums_node.client.post(INFER, content=body, headers=headers)
    assert answer.headers["content-encoding"] == encoding
    assert answer.json()["outputs"][0]["data"] == [6]
    usual = sums_node.post(INFER, one_row(1, 2, 3))
    assert "gzip, deflate" in usual.request.headers["accept-encoding"]
    assert "content-encoding" not in usual.headers


def test_a_small_body_that_becomes_huge_is_stopped_at_the_limit(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(body_bytes=2**20))
    node.offer(1, constant(1))
    bomb = gzip.compress(bytes(2**26))
    assert len(bomb) < 2**17
    refused = node.client.post(INFER, content=bomb, headers={"content-encoding": "gzip"})
    assert refused.status_code == 413
    assert "larger than 1048576 bytes" in refused.json()["error"]
    assert node.post(INFER, one_row(0, 0, 0)).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "is not gzip"),
        (gzip.compress(b"{}")[:-3], "ends within its gzip data"),
        (gzip.compress(b"{}") + b"more", "behind the end of its gzip data"),
    ],
)
def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    sums_node: Any, body: bytes, says: str
) -> None:
    refused = sums_node.client.post(INFER, content=body, headers={"content-encoding": "gzip"})
    assert refused.status_code == 400
    assert says in refused.json()["error"]


def test_unknown_paths_and_methods_are_errors_in_words(sums_node: Any) -> None:
    unknown = sums_node.client.get("/v2/modles")
    assert unknown.status_code == 404
    assert "GET '/v2/modles' is not served: this node answers /v2" in unknown.json()["error"]
    wrong_method = sums_node.client.put("/v2/health/live")
    assert wrong_method.status_code == 405
    assert "GET" in wrong_method.headers["allow"]
    assert "PUT '/v2/health/live' is not served" in wrong_method.json()["error"]
    assert sums_node.client.get("/v2/").status_code == 404


def test_every_answer_names_the_release_errors_included(sums_node: Any) -> None:
    for path in ("/healthz", "/v1/models", "/v2/health/live", "/v2/models/no", "/nowhere"):
        headers = sums_node.client.get(path).headers
        assert headers["x-gradmq-release"] == "12"
        assert headers["x-gradmq-age-ms"].isdecimal()
    assert sums_node.post(INFER, {}).headers["x-gradmq-release"] == "12"


def test_text_that_utf8_cannot_write_is_answered_all_the_same(sums_node: Any) -> None:
    body = json.dumps(one_row(1, 2, 3) | {"id": "\ud800"}).encode()
    answer = sums_node.client.post(INFER, content=body)
    assert answer.json()["id"] == "?"


def test_the_status_says_what_is_served_and_what_was_asked(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    empty = node.client.get("/gradmq/v1/status").json()
    assert (empty["release"], empty["age_s"], empty["versions"]) == (None, None, [])
    node.offer(3, constant(1))
    node.offer(4, lambda rows: rows @ rows)
    node.post(INFER, one_row(0, 0, 0))
    node.post(INFER, {})
    node.offer(5, constant(1))
    node.post(INFER, one_row(0, 0, 0))
    status = node.client.get("/gradmq/v1/status").json()
    assert status.pop("age_s") >= 0
    assert status == {
        "model": "sums",
        "kind": "tensor",
        "accepts": [],
        "class_names": [],
        "sample_prompt": "",
        "url": node.url,
        "release": 5,
        "first_release": 3,
        "versions": [[1, 50], [2, 51]],
        "swaps": 2,
        "waiting": 0,
        "requests": {"answered": 1, "refused": 1, "failed": 1},
    }
