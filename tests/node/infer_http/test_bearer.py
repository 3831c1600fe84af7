"""A node with a token answers who bears it; and nobody holds a connection without asking."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from gradmq.infer import connection as limits
from gradmq.serve import TensorModel, TextModel

pytestmark = pytest.mark.torch

TOKEN = "a token of sufficient length".replace(" ", "-")
ASKED = ["/v2/models/sums", "/v1/models", "/gradmq/v1/status", "/v2", "/nowhere"]


@pytest.fixture
def node(serve_node: Any, sums_spec: TensorModel) -> Any:
    return serve_node("sums", sums_spec, token=TOKEN)


HEADERS = [
    None,
    "",
    "Bearer",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"bearer {TOKEN}",
    TOKEN,
    f"Basic {TOKEN}",
    "Bearer ä",
]


def test_without_the_token_nothing_is_told(node: Any) -> None:
    for path in ASKED:
        for header in HEADERS:
            headers = {} if header is None else {"authorization": header.encode()}
            answer = node.client.get(path, headers=headers)
            assert answer.status_code == 401, (path, header)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "x-gradmq-release" not in answer.headers
            assert "asks for a token" in answer.text
            assert TOKEN not in answer.text


def test_with_it_the_node_answers_as_always(node: Any) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert node.client.get("/v2/models/sums", headers=headers).status_code == 200
    assert node.client.get("/nowhere", headers=headers).status_code == 404
    both = [("authorization", "Bearer x"), ("authorization", f"Bearer {TOKEN}")]
    assert httpx.get(f"{node.url}/v2", headers=both).status_code == 401


def test_health_is_told_to_everybody(node: Any) -> None:
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
        assert node.client.get(path).status_code in (200, 503)


def test_a_body_without_the_token_is_not_waited_for(node: Any) -> None:
    head = b"POST /v2/models/sums/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n"
    with connected(node.url) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("answered_before", [False, True])
def test_a_request_whose_head_does_not_come_is_hung_up_on(
    serve_node: Any, text_spec: TextModel, monkeypatch: pytest.MonkeyPatch, answered_before: bool
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    node = serve_node("letters", text_spec)
    for begin in (b"\r\n", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nhost: x\r\nslow: "):
        with connected(node.url) as connection:
            if answered_before:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert b"200" in connection.recv(4096)
            connection.sendall(begin)
            answer = b""
            while more := connection.recv(4096):  # until it hangs up
                answer += more
            assert b"HTTP/1.1 408" in answer
            assert answer.endswith(b'the head of the request did not come within 0.2 s"}')


def test_who_connects_and_says_nothing_is_hung_up_on(
    serve_node: Any, text_spec: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    with connected(serve_node("letters", text_spec).url) as connection:
        assert connection.recv(1) == b""


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20.0)
    return connection
