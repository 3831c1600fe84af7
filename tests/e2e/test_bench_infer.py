"""``gradmq bench infer`` at its smallest: every question is asked, and what is wrong is found."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gradmq.bench.figures import Window
from gradmq.bench.infer import batches, beside, completions, freshness, load, swaps
from gradmq.bench.infer.clients import Clients
from gradmq.bench.infer.requests import check_of
from gradmq.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def windows_few_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (load, swaps):
        monkeypatch.setattr(module, "ROUNDS", 2)
        monkeypatch.setattr(module, "SETTLE_S", 0.1)


def test_servers_of_the_same_model_are_asked_by_turns_and_those_that_are_absent_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["bench", "infer", "servers", "--seconds", "0.4", "--clients", "3", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    output, errors = capsys.readouterr()
    assert (ended.value.code, errors) == (0, "gradmq bench: servers: 3 clients\n")
    *_, last = output.splitlines()
    found = json.loads(last)
    assert {"machine", "commit", "command", "when"} <= found.keys()
    (compared,) = found["servers"]
    by_name = {one["server"]: one for one in compared["servers"]}
    for name in ("gradmq", "gradmq, binary tensors", "bare Starlette"):
        one = by_name[name]
        assert (one["reason"], one["failures"], one["wrong"]) == ("", 0, 0)
        assert one["answers"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["server_cpu_s_per_1000"] > 0
        assert one["client_cpu_s_per_1000"] > 0
    assert compared["of_bare"] > 0
    assert {"FastAPI", "Ray Serve"} <= by_name.keys()


def test_no_request_fails_and_none_is_torn_while_a_model_is_swapped() -> None:
    found = swaps.tail(0.1, 20.0, 0.6, clients_=2, offered_per_s=50.0)
    assert found.swaps > 0
    assert found.swapping.right, found.swapping.what
    assert found.quiet.right, found.quiet.what


def test_an_update_that_was_applied_can_be_asked_for() -> None:
    found = freshness.one(0.1, "auto", None, pushes=2)
    assert 0 < found.min_ms <= found.p50_ms <= found.max_ms


def test_batches_are_measured_beside_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LIMIT_S", 0.1)
    found = batches.measure(0.4, 3)
    assert found.on.right, found.on.what
    assert found.off.right, found.off.what
    assert found.rows_per_run >= 1
    assert found.limit_rows_per_s > 0


def test_completions_are_measured_with_a_cache_and_without() -> None:
    found = completions.measure(0.4, tokens=8)
    assert found.on.right, found.on.what
    assert found.off.right, found.off.what


def test_a_node_is_asked_beside_busy_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "REST_S", 0.6)
    found = beside.measure(0.6, 2, {"run.workers": "2"})
    assert found.figures.right, found.figures.what
    assert found.releases > 0


RIGHT = b'{"outputs": [{"data": [1.0]}]}'


@contextmanager
def server(answers: list[bytes]) -> Iterator[tuple[str, int]]:
    """Gives each of these to one request, and then closes every connection without an answer."""
    left = iter(answers)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while connection.recv(65536) and (answer := next(left, b"")):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_clients_count_what_fails_what_is_wrong_and_what_is_never_answered() -> None:
    answers = [http(200, RIGHT), http(503, b"no"), http(200, RIGHT.replace(b"1.0", b"2.0"))]
    with server(answers) as address:
        now = time.monotonic()
        clients = Clients(address, 1, [b"ask"], check_of({"outputs": [[[1.0]]]}))
        tally = clients.load(Window(now, now + 0.2), every_s=0.02)
    assert sum(tally.wrong.values()) == 1
    assert len(tally.latencies_ms) == 2
    assert [what for what in tally.failures if what.startswith("status 503")]
    assert [what for what in tally.failures if "closed before the answer was whole" in what]
