"""The server's own life: its address, its end, its manners towards the process it is in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gradmq import link
from gradmq.errors import SettingsError
from gradmq.http_listener import told_address
from gradmq.infer import connection, server
from gradmq.infer.server import HttpServer
from gradmq.serve import TensorModel

pytestmark = pytest.mark.torch

ROW = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("never called")


def test_a_port_in_use_is_named_before_anything_is_served() -> None:
    with HttpServer(no_app, "127.0.0.1", 0) as first:
        second = HttpServer(no_app, "127.0.0.1", first.port)
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{first.port}.*in use.*choose"):
            second.bind()
    with second:
        assert second.url == f"http://127.0.0.1:{second.port}"


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)]
)
def test_an_impossible_address_is_named(host: str, port: int) -> None:
    with pytest.raises(SettingsError, match=f"{host}:{port}"):
        HttpServer(no_app, host, port).bind()


def test_the_url_of_a_server_on_all_interfaces_can_be_opened() -> None:
    with HttpServer(no_app, "0.0.0.0", 0) as opened:
        assert opened.url == f"http://127.0.0.1:{opened.port}"


@pytest.mark.parametrize(
    ("host", "advertise", "told"),
    [
        ("127.0.0.1", "", "127.0.0.1:80"),
        ("10.0.0.2", "", "10.0.0.2:80"),
        ("fd00::2", "", "[fd00::2]:80"),
        ("0.0.0.0", "", f"{link.this_host()}:80"),
        ("::", "", f"{link.this_host()}:80"),
        ("0.0.0.0", "node.example", "node.example:80"),
        ("10.0.0.2", "node.example", "node.example:80"),
        ("127.0.0.1", "node.example", "127.0.0.1:80"),  # where others would meet somebody else
    ],
)
def test_others_are_told_an_address_that_they_can_reach(
    host: str, advertise: str, told: str
) -> None:
    assert told_address(host, 80, advertise) == told


def test_a_server_told_to_stop_ends_though_a_request_still_runs(
    serve_node: Any, gate: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    stuck = gate(lambda rows: (rows.sum(dim=1), rows))
    node.offer(1, stuck)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(node.post, "/v2/models/sums/infer", ROW)
        stuck.entered.wait()
        node.stop.set()
        told = running.result()
    assert told.status_code == 503
    assert told.json() == {"error": "this node is stopping"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(node.url + "/healthz")


def test_a_client_too_many_is_told_so_while_all_others_have_requests_under_way(
    serve_node: Any, gate: Any, sums_spec: TensorModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 2)
    node = serve_node("sums", sums_spec)
    stuck = gate(lambda rows: (rows.sum(dim=1), rows))
    node.offer(1, stuck)
    url = f"{node.url}/v2/models/sums/infer"
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(httpx.post, url, json=ROW, timeout=30) for _ in range(2)]
        stuck.entered.wait()
        told = httpx.get(f"{node.url}/healthz")
        while told.status_code != 503:  # the second one has not come yet
            told = httpx.get(f"{node.url}/healthz")
        assert told.json() == {"error": "2 connections are at work, the most here"}
        stuck.go.set()
        assert [answer.result().status_code for answer in under_way] == [200, 200]
    assert httpx.get(f"{node.url}/healthz").status_code == 200


def test_answers_that_nobody_takes_in_are_given_up_the_oldest_first(
    sums_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_UNREAD_BYTES", 16 << 20)
    count = 1 << 20
    tensor = {"name": "rows", "datatype": "FP32", "shape": [count, 3]}
    tensor["parameters"] = {"binary_data_size": count * 12}
    asked = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lengths = {
        "inference-header-content-length": str(len(asked)),
        "content-length": str(len(asked) + count * 12),
    }
    with contextlib.ExitStack() as open_ones:
        answers = []
        for _ in range(2):
            client = open_ones.enter_context(httpx.Client(base_url=sums_node.url, timeout=30))
            request = client.build_request(
                "POST", "/v2/models/sums/infer", content=asked + bytes(count * 12), headers=lengths
            )
            answers.append(client.send(request, stream=True))  # the head is read, and no more
        with pytest.raises(httpx.RemoteProtocolError):
            answers[0].read()
        assert len(answers[1].read()) > count * 16
        for answer in answers:
            answer.close()


def test_signal_handlers_are_left_as_they_are() -> None:
    watched = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in watched]
    seen: list[Any] = []
    stop = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(signal.getsignal(number) for number in watched)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        stop.set()

    previous = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        before[0] = signal.getsignal(signal.SIGINT)
        with HttpServer(app, "127.0.0.1", 0) as begun, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx.get, begun.url)
            begun.serve_until(stop)
            assert asked.result().status_code == 204
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == before


def test_the_head_of_an_answer_comes_with_what_follows_it_and_alone_if_nothing_does() -> None:
    may_go_on, stop = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/slow":
            await asyncio.to_thread(may_go_on.wait, 30)
        await send({"type": "http.response.body", "body": b"ok"})

    with HttpServer(app, "127.0.0.1", 0) as http, ThreadPoolExecutor(1) as pool:
        pool.submit(http.serve_until, stop)
        with socket.create_connection(("127.0.0.1", http.port), 30) as client:
            client.sendall(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).endswith(b"\r\n\r\nok")
            client.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).endswith(b"\r\n\r\n")
            may_go_on.set()
            assert client.recv(65536) == b"ok"
        stop.set()
