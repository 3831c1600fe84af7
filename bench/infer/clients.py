"""A process of HTTP clients: each keeps one connection, and every answer is checked.

Written on epoll and httptools, in one thread: a request costs some 25 µs here, so that on two cores
the node is what is measured. (httpx takes a millisecond for one.)
"""

from __future__ import annotations

import base64
import contextlib
import math
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httptools

from gradmq.bench.child import Parent, run
from gradmq.bench.figures import Window
from gradmq.bench.infer.requests import Answer, Check, check_of

#: A request that has no answer by then has failed.
ANSWER_S = 20.0

_READ_BYTES = 1 << 16


class Connection:
    """One client: a request at a time, the next one when the answer is there, or when it is due."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.number = 0
        self.due = self.done = 0.0
        self.is_asking = self.has_ended = False
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(self._address, ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._is_whole = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes, number: int, due: float) -> None:
        """Send a request that was ``due`` then, from when its time counts."""
        self.number, self.due, self.is_asking = number, due, True
        with contextlib.suppress(OSError):  # read() finds out
            self._socket.sendall(request)

    def read(self) -> Answer | None:
        """The answer if it is whole now; raises OSError if the connection ended before."""
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("closed before the answer was whole")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ConnectionError(f"no HTTP: {error}") from None
        if not self._is_whole:
            return None
        self.done, self.is_asking = time.monotonic(), False
        answer = Answer(self._parser.get_status_code(), self._headers, b"".join(self._pieces))
        self._headers, self._pieces, self._is_whole = {}, [], False
        return answer

    def open_again(self) -> None:
        """After a failure: whatever was asked is not waited for any more."""
        self.close()
        self.is_asking = self.has_ended = False
        self._open()

    # -- what httptools calls ---------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_whole = True


class Tally:
    """What became of the requests of one window."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.failures: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.latencies_ms: list[float] = []

    def take(self, connection: Connection, answer: Answer, check: Check) -> None:
        if answer.status != 200:
            self.failures[f"status {answer.status}: {answer.body[:100]!r}"] += 1
            return
        why = check(connection.number, answer)
        if why:
            self.wrong[why] += 1
        if self._window.start <= connection.done < self._window.end:
            self.latencies_ms.append(round(1e3 * (connection.done - connection.due), 4))

    def as_json(self) -> dict[str, Any]:
        return {
            "within": len(self.latencies_ms),
            "latencies_ms": self.latencies_ms,
            "failures": sum(self.failures.values()),
            "wrong": sum(self.wrong.values()),
            # Which, and a few of them: thousands of answers may be wrong in as many ways.
            "what": [text for text, _ in (self.failures + self.wrong).most_common(3)],
        }


class Clients:
    """So many connections to one server, which go through the same requests in turn."""

    def __init__(
        self, address: tuple[str, int], count: int, requests: Sequence[bytes], check: Check
    ) -> None:
        self._requests = requests
        self._check = check
        self._address = address
        self._count = count
        self._asked = 0

    def load(self, window: Window, every_s: float) -> Tally:
        """Ask until the window ends, on new connections.

        ``every_s`` is from one request of a client to its next; 0: as soon as it has its answer.
        Servers close connections that were idle for some seconds, so none lasts longer than this.
        """
        tally = Tally(window)
        connections = [Connection(self._address) for _ in range(self._count)]
        now = time.monotonic()
        # Clients that keep a pace do not all ask at the same moment.
        due = {one: now + every_s * i / self._count for i, one in enumerate(connections)}
        with select.epoll() as poll:
            for connection in connections:
                poll.register(connection, select.EPOLLIN)
            by_fileno = {connection.fileno(): connection for connection in connections}
            while (now := time.monotonic()) < window.end + ANSWER_S:
                if now >= window.end:
                    due.clear()
                    if not any(connection.is_asking for connection in connections):
                        break
                for connection in [one for one, at in due.items() if at <= now]:
                    self._ask(connection, due.pop(connection))
                wake_at = min(due.values(), default=window.end if now < window.end else math.inf)
                for fileno, _ in poll.poll(max(0.0, min(wake_at, window.end + ANSWER_S) - now)):
                    connection = by_fileno[fileno]
                    if self._take(connection, tally):
                        next_at = connection.due + every_s if every_s else connection.done
                        if next_at <= connection.done < window.end:
                            self._ask(connection, next_at)
                        else:
                            due[connection] = next_at
                    elif connection.has_ended:
                        del by_fileno[fileno]
                        connection.open_again()
                        by_fileno[connection.fileno()] = connection
                        poll.register(connection, select.EPOLLIN)
                        due[connection] = time.monotonic()
        for connection in connections:
            if connection.is_asking:
                tally.failures[f"no answer within {ANSWER_S:g} s"] += 1
            connection.close()
        return tally

    def _take(self, connection: Connection, tally: Tally) -> bool:
        """Read; True if that made an answer whole."""
        try:
            answer = connection.read()
        except OSError as error:
            tally.failures[f"{type(error).__name__}: {error}"] += 1
            connection.has_ended = True
            return False
        if answer is None:
            return False
        tally.take(connection, answer, self._check)
        return True

    def _ask(self, connection: Connection, due: float) -> None:
        number = self._asked % len(self._requests)
        self._asked += 1
        connection.ask(self._requests[number], number, due)


def main(parent: Parent, spec: dict[str, Any]) -> None:
    requests = [base64.b64decode(request) for request in spec["requests"]]
    clients = Clients(
        (spec["host"], spec["port"]), spec["clients"], requests, check_of(spec["check"])
    )
    parent.say("up")
    while (heard := parent.await_any("load", "leave"))["word"] == "load":
        tally = clients.load(Window(heard["start"], heard["end"]), heard["every_s"])
        parent.say("done", **tally.as_json())


if __name__ == "__main__":
    run(main)
