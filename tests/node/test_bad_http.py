"""Whatever strangers send to an inference node, it answers in words, and others notice nothing.

A real node, raw sockets, and beside them a client that asks and must always be answered.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import psutil
import pytest

from conformance.clients import ECHO
from conformance.nodes import running_node
from gradmq.serve import DATATYPES

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

INFER = "/v2/models/echo/infer"

MAY_GROW_BYTES = 100 << 20


def tensors(**changes: dict[str, Any]) -> dict[str, Any]:
    """A good request for no rows of anything, with changes to some inputs."""
    entries = []
    for kind in sorted(DATATYPES):
        entry: dict[str, Any] = {
            "name": f"in_{kind}",
            "datatype": kind,
            "shape": [0, 1],
            "data": [],
        }
        entries.append(entry | changes.get(kind, {}))
    return {"inputs": entries}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_node(ECHO, tmp_path_factory.mktemp("node"), ["infer.request_timeout=2s"]) as url:
        yield url


@pytest.fixture
def unaffected(node: str) -> Iterator[None]:
    """Somebody asks all the while, and the node does not grow."""
    (process,) = (each for each in psutil.Process().children() if "infer" in each.cmdline())
    before = process.memory_info().rss
    over = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=node, timeout=20) as client:
            while not over.is_set() or not answers:
                answers.append(client.post(INFER, json=tensors()).status_code)
                over.wait(0.02)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield
    finally:
        over.set()
        asker.join()
    assert set(answers) == {200}
    assert process.memory_info().rss - before < MAY_GROW_BYTES


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def answer_to(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    with connection.makefile("rb") as file:
        return next_answer(file)


def next_answer(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    status = int(file.readline().split()[1])
    headers = http.client.parse_headers(file)
    return status, json.loads(file.read(int(headers["content-length"])))


def told(url: str, data: bytes) -> tuple[int, str]:
    """Status and words for these bytes; what is refused early may not be sent to its end."""
    with connected(url) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        status, answer = answer_to(connection)
        return status, answer["error"]


def post(body: bytes, *headers: str, path: str = INFER) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


GOOD = json.dumps(tensors()).encode()
LENGTH = f"Content-Length: {len(GOOD)}"


@pytest.mark.usefixtures("unaffected")
def test_requests_that_say_something_wrong_are_told_what(node: str) -> None:
    header = tensors(FP32={"data": None, "shape": [2, 2], "parameters": {"binary_data_size": 16}})
    for entry in header["inputs"]:
        if entry["data"] is None:
            del entry["data"]
    binary = json.dumps(header).encode()
    inference = f"Inference-Header-Content-Length: {len(binary)}"
    wrong: list[tuple[int, str, bytes, dict[str, str]]] = [
        (400, "datatype must be 'FP32'", tensors(FP32={"datatype": "FP64"}), {}),
        (400, "unknown input 'x'", tensors(FP32={"name": "x"}), {}),
        (400, "does not fit the model's", tensors(FP32={"shape": [0]}), {}),
        (400, "larger than", tensors(FP32={"shape": [2**62, 2**62]}), {}),
        (400, "data has 1 values", tensors(FP32={"data": [1]}), {}),
        (400, "out of the range", tensors(INT8={"shape": [1, 1], "data": [300]}), {}),
        (400, "'in_BF16' is missing", {"inputs": []}, {}),
    ]
    with httpx.Client(base_url=node, timeout=20) as client:
        for status, says, body, query in wrong:
            answer = client.post(INFER, json=body, params=query)
            assert (answer.status_code, says in answer.json()["error"]) == (status, True)
        for path, query, status in (
            ("/v2/models/other/infer", {}, 404),
            ("/v2/models/echo/versions/77/infer", {}, 404),
            (INFER, {"min_release": "77", "wait": "0s"}, 503),
            (INFER, {"pin": "seven"}, 400),
        ):
            answer = client.post(path, json=tensors(), params=query)
            assert (answer.status_code, bool(answer.json()["error"])) == (status, True)
    cut = binary + bytes(15)
    status, says = told(node, post(cut, inference, f"Content-Length: {len(cut)}"))
    assert status == 400 and "binary_data_size is 16, 15 bytes are left" in says
    status, says = told(
        node, post(binary, inference.replace(": ", ": 9"), f"Content-Length: {len(binary)}")
    )
    assert status == 400 and "must be from 0 to" in says


MANY = b"".join(b"h%d: v\r\n" % number for number in range(100_000))

CHUNKED = "Transfer-Encoding: chunked"

HEADS = {
    "two lengths": (400, "Duplicate Content-Length", post(GOOD, LENGTH, "Content-Length: 5")),
    "a length, and chunks": (400, "Transfer-Encoding", post(GOOD, LENGTH, CHUNKED)),
    "chunks, and a length": (400, "Content-Length", post(GOOD, CHUNKED, LENGTH)),
    "an unknown coding": (400, "Transfer-Encoding", post(GOOD, "Transfer-Encoding: xchunked")),
    "a negative length": (400, "Content-Length", post(GOOD, "Content-Length: -1")),
    "a length without end": (400, "overflow", post(GOOD, f"Content-Length: {'9' * 40}")),
    "a folded header": (400, "whitespace", post(GOOD, "a: b", " c", LENGTH)),
    "no carriage returns": (400, "CRLF", b"GET /healthz HTTP/1.1\nHost: x\n\n"),
    "a zero in the path": (400, "url", b"GET /v2\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a written zero in the path": (404, r"no model '\x00'", b"GET /v2/models/%00 HTTP/1.1\r\n\r\n"),
    "a proxy's request": (400, "evil:443", b"CONNECT evil:443 HTTP/1.1\r\n\r\n"),
    "HTTP/2": (400, "HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, "HTTP/1.1", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    "a header of a megabyte": (431, "65536 bytes", post(GOOD, "a: " + "b" * 2**20, LENGTH)),
    "a path of a megabyte": (431, "65536 bytes", post(GOOD, LENGTH, path="/" + "a" * 2**20)),
    "a hundred thousand headers": (431, "65536 bytes", post(b"")[:-2] + MANY + b"\r\n"),
    "a header without end": (431, "65536 bytes", post(b"")[:-2] + b"a: " + b"b" * 2**20),
    "trailers without end": (431, "65536 bytes", post(b"0\r\n", CHUNKED) + MANY),
    "a chunk with much said of it": (
        431, "65536 bytes", post(b"1;a=" + b"b" * 2**20, CHUNKED)
    ),
    "a body of a gigabyte": (413, "16777216 bytes", post(bytes(2**20), f"Content-Length: {2**30}")),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.usefixtures("unaffected")
def test_what_is_no_request_or_too_much_of_one_is_refused(node: str, name: str) -> None:
    status, says, data = HEADS[name]
    got, words = told(node, data)
    assert got == status and says in words and len(words) < 200, (got, words)


@pytest.mark.usefixtures("unaffected")
def test_a_chunked_body_of_a_gigabyte_is_refused_once_it_is_too_much(node: str) -> None:
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    with connected(node) as connection:
        connection.sendall(post(b"", CHUNKED))
        sent = 0
        while not select.select([connection], [], [], 0)[0] and sent < 1024:
            connection.sendall(chunk)
            sent += 1
        assert sent < 100
        assert answer_to(connection)[0] == 413


@pytest.mark.usefixtures("unaffected")
def test_what_follows_a_chunked_body_is_no_header(node: str) -> None:
    size = b"%x\r\n" % len(GOOD)
    body = size + GOOD + b"\r\n0\r\nx-gradmq-pin: 77\r\ncontent-encoding: gzip\r\n\r\n"
    with connected(node) as connection:
        connection.sendall(post(body, CHUNKED))
        assert answer_to(connection)[0] == 200


@pytest.mark.usefixtures("unaffected")
def test_a_body_that_drips_is_given_up(node: str) -> None:
    with connected(node) as connection:
        connection.sendall(post(b"", "Content-Length: 1000"))
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b" ")
        status, answer = answer_to(connection)
        assert (status, "arrives too slowly" in answer["error"]) == (408, True)


def leave(connection: socket.socket) -> None:
    """With a reset, as when a machine or a process dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.usefixtures("unaffected")
def test_clients_that_go_in_the_midst_of_it_are_no_matter(node: str) -> None:
    with connected(node) as connection:
        connection.sendall(post(GOOD[:50], LENGTH))
        leave(connection)
    raw = bytes(8 << 20)
    header = tensors(FP32={"shape": [1, 2 << 20], "parameters": {"binary_data_size": len(raw)}})
    next(each for each in header["inputs"] if each["name"] == "in_FP32").pop("data")
    header["parameters"] = {"binary_data_output": True}
    head = json.dumps(header).encode()
    lengths = (
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head + raw)}",
    )
    with connected(node) as connection:
        connection.sendall(post(head + raw, *lengths))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        leave(connection)


@pytest.mark.usefixtures("unaffected")
def test_requests_sent_at_once_are_answered_in_their_order_and_not_without_end(node: str) -> None:
    with connected(node) as connection:
        connection.sendall(b"".join(
            post(b"", "Content-Length: 0", path=f"/nowhere/{number}") for number in range(20)
        ))  # fmt: skip
        with connection.makefile("rb") as file:
            for number in range(20):
                status, answer = next_answer(file)
                assert (status, f"'/nowhere/{number}'" in answer["error"]) == (404, True)
    status, says = told(node, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
    assert (status, says) == (400, "more than 64 requests before the first was answered")


@contextlib.contextmanager
def descriptors() -> Iterator[int]:
    """As many as this process may have; gives how many connections it can open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield min(10_000, (10_000 if hard == resource.RLIM_INFINITY else hard) - 500)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("unaffected")
def test_ten_thousand_connections_that_say_nothing_keep_nobody_out(node: str) -> None:
    with descriptors() as many, contextlib.ExitStack() as open_ones:
        for _ in range(many):
            open_ones.enter_context(connected(node))
        assert httpx.get(f"{node}/healthz").status_code == 200
    assert httpx.get(f"{node}/healthz").status_code == 200


def test_a_node_with_few_descriptors_goes_on_and_says_once_that_there_are_more_clients(
    tmp_path: Path,
) -> None:
    few = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "few"]
    with running_node(ECHO, tmp_path, under=few) as url:
        for _ in range(2):
            with contextlib.ExitStack() as open_ones:
                for _ in range(200):
                    open_ones.enter_context(connected(url))
                assert httpx.post(url + INFER, json=tensors()).status_code == 200
        said = (tmp_path / "echo_job.log").read_text()
    assert "100 connections, the most here" in said
    assert "no descriptors left" not in said
