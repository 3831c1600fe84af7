"""The metrics' server: what it answers, to whom, and what it bears."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gradmq import metrics_server
from gradmq.config import MetricsSettings
from gradmq.errors import Closed, SettingsError
from gradmq.exposition import one
from gradmq.handover import Handover
from gradmq.metrics_server import MetricsServer, OwnedMetrics, Pages, metrics_page

ANY_PORT = MetricsSettings.model_construct(port=0)
PAGES = metrics_page([one("up", "gauge", "Whether.", 1)])


def server(
    read: Callable[[], Pages] = lambda: PAGES, settings: MetricsSettings = ANY_PORT
) -> MetricsServer:
    return MetricsServer(settings, False, read)


def get(address: str, path: str = "/metrics", **more: object) -> httpx.Response:
    return httpx.get(f"http://{address}{path}", timeout=30.0, **more)  # type: ignore[arg-type]


def test_it_shows_what_it_is_given() -> None:
    with server() as shown:
        answer = get(shown.address)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == "# HELP up Whether.\n# TYPE up gauge\nup 1\n"


def test_without_a_port_it_does_nothing() -> None:
    with server(settings=MetricsSettings.model_construct(host="0.0.0.0")) as shown:
        assert shown.address == ""


def test_other_paths_and_methods_are_refused_with_what_there_is() -> None:
    with server() as shown:
        assert (get(shown.address, "/").status_code, get(shown.address, "/?a=b").text) == (
            404,
            "served here: /metrics\n",
        )
        assert get(shown.address, "/metrics?a=b").status_code == 200
        posted = httpx.post(f"http://{shown.address}/metrics", content=b"x" * 10)
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
        head = httpx.head(f"http://{shown.address}/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert said(shown.address, b"what\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_who_asks_often_sees_the_same_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "FRESH_S", 1000.0)
    reads = []
    with server(lambda: reads.append(1) or PAGES) as shown:  # type: ignore[func-returns-value]
        for _ in range(5):
            assert get(shown.address).status_code == 200
    assert reads == [1]


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("t" * 20)
    settings = MetricsSettings.model_construct(port=0, host="0.0.0.0", token_file=file)
    good, bad = f"Bearer {'t' * 20}", f"Bearer {'u' * 20}"
    with server(settings=settings) as shown:
        address = f"127.0.0.1:{shown.address.rpartition(':')[2]}"
        assert get(address).status_code == 401
        assert get(address, headers={"authorization": bad}).status_code == 401
        twice = [("authorization", good), ("authorization", good)]
        assert get(address, headers=twice).status_code == 401
        assert get(address, headers={"authorization": good}).status_code == 200


def test_strangers_are_not_let_in_unless_told() -> None:
    settings = MetricsSettings.model_construct(port=0, host="0.0.0.0")
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 .* use 127.0.0.1, metrics.token_file"):
        server(settings=settings)
    MetricsServer(settings, True, lambda: PAGES)


def test_a_port_in_use_is_named() -> None:
    with server() as first:
        port = int(first.address.rpartition(":")[2])
        taken = MetricsSettings.model_construct(port=port)
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}.*in use"):
            server(settings=taken).__enter__()


def test_a_role_that_does_not_come_round_is_said_to_be_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server, "ASK_S", 0.01)
    metrics = OwnedMetrics(ANY_PORT, False, lambda pages: pages)
    with contextlib.ExitStack() as stack:
        metrics.open(stack)
        answer = get(metrics.address)
        assert (answer.status_code, answer.text) == (
            503,
            "busy: it has not come round for 0.01 s\n",
        )


def test_what_goes_wrong_while_it_reads_is_told_and_ends_nothing() -> None:
    def read() -> Pages:
        return {} if errors == [] else raises(errors.pop())

    errors: list[Exception] = [Closed("it is over")]
    with server(read) as shown:
        assert (get(shown.address).status_code, get(shown.address).status_code) == (503, 404)


def test_a_fault_is_an_error_500(caplog: pytest.LogCaptureFixture) -> None:
    with server(lambda: raises(ValueError("secret"))) as shown:
        answer = get(shown.address)
    assert (answer.status_code, answer.text) == (500, "failed on this: ValueError\n")
    assert "no metrics" in caplog.text


def test_who_hangs_gives_way_to_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTIONS", 2)
    monkeypatch.setattr(metrics_server, "WHOLE_S", 1000.0)
    with server() as shown, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(shown.address)) for _ in range(8)]
        assert get(shown.address).status_code == 200
        assert [ended(each) for each in silent[:6]] == [b""] * 6


def test_a_connection_that_says_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "WHOLE_S", 0.05)
    with server() as shown, connected(shown.address) as silent:
        assert ended(silent) == b""


def test_a_head_without_end_is_not_read_to_its_end() -> None:
    with server() as shown:
        assert said(shown.address, b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 10_000) == b""


def test_it_ends_while_somebody_is_connected_or_waits_for_the_role() -> None:
    metrics = OwnedMetrics(ANY_PORT, False, lambda pages: pages)
    with contextlib.ExitStack() as clients:
        with contextlib.ExitStack() as serving:
            metrics.open(serving)
            silent, asking = (clients.enter_context(connected(metrics.address)) for _ in range(2))
            asking.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ended(silent) == b""
        assert ended(asking)[:12] in (b"", b"HTTP/1.1 503")  # heard before the end, or not


def test_the_owner_makes_what_it_hands_over_in_its_own_thread() -> None:
    handover: Handover[str] = Handover()
    found: list[str] = []
    asker = threading.Thread(target=lambda: found.append(handover.ask(30.0)))
    asker.start()
    while asker.is_alive():
        handover.give_if_asked(lambda: threading.current_thread().name)
    assert found == [threading.current_thread().name]
    handover.give_if_asked(lambda: raises(AssertionError("nobody has asked")))
    handover.close()
    with pytest.raises(Closed):
        handover.ask(30.0)


def raises(error: Exception) -> Pages:
    raise error


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30.0)


def ended(connection: socket.socket) -> bytes:
    """All that it still says, however it ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while received := connection.recv(65536):
            found += received
    return found


def said(address: str, request: bytes) -> bytes:
    with connected(address) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return ended(connection)
