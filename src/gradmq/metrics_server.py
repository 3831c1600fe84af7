"""``/metrics`` of a role that speaks no HTTP otherwise: a thread that knows nothing of the role.

What it shows it is handed as a whole (``read``); who asks slowly, often, at length or by the
hundred costs the role a few snapshots a second at most.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, TypeVar

from gradmq import link
from gradmq.config import MetricsSettings
from gradmq.errors import GradmqError
from gradmq.exposition import CONTENT_TYPE, Family, render
from gradmq.handover import Handover
from gradmq.http_listener import http_listener, told_address
from gradmq.security.token import read_token

log = logging.getLogger(__name__)

#: Connections at once; a scraper has one. For one more the oldest goes: it hangs.
CONNECTIONS = 16

#: Connections that the kernel holds until they are accepted, or closed.
BACKLOG = 128

#: From a connection to the end of its answer; Prometheus gives up after 10 s by default.
WHOLE_S = 5.0

#: The head of a request, which is all that is read of it.
HEAD_BYTES = 8192

#: What was read is shown again for so long.
FRESH_S = 0.25

#: A role that has not come round by then is busy with something else, or hangs.
ASK_S = 2.0

#: Content type and body, by path.
Pages = Mapping[str, tuple[str, bytes]]

T = TypeVar("T")

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
            405: "Method Not Allowed", 500: "Internal Server Error",
            503: "Service Unavailable"}  # fmt: skip
_TEXT = "text/plain; charset=utf-8"


def metrics_page(families: Sequence[Family]) -> Pages:
    """These as ``/metrics``."""
    return {"/metrics": (CONTENT_TYPE, render(families))}


class MetricsServer:
    """Answers while the ``with`` block lasts; without ``metrics.port`` it does nothing.

    ``read`` is called in the server's thread; it may wait up to ``ASK_S``. TimeoutError and
    GradmqError from it are answered with 503. Entering raises SettingsError for an address that
    cannot be had.
    """

    def __init__(
        self, settings: MetricsSettings, insecure: bool, read: Callable[[], Pages]
    ) -> None:
        """Raises SettingsError for an address that strangers reach without a token."""
        self._settings = settings
        self._read = read
        self._token = ""
        if settings.port is not None:
            self._token = read_token(settings.token_file)
            link.require_closed(settings.host, insecure, bool(self._token), "metrics.token_file")
        self._thread: threading.Thread | None = None
        self._pages: Pages = {}
        self._read_at = float("-inf")
        self._open: list[_Connection] = []
        self.address = ""
        """HOST:PORT for others to scrape, once entered; "" if there is none."""

    def __enter__(self) -> MetricsServer:
        settings = self._settings
        if settings.port is None:
            return self
        listener = http_listener(settings.host, settings.port, BACKLOG)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop, self._stop = self._runner.get_loop(), asyncio.Event()
        port = listener.getsockname()[1]
        self.address = told_address(settings.host, port)
        if not (self._token or link.is_loopback(settings.host)):
            log.warning("INSECURE: whoever reaches %s can read these metrics", settings.host)
        log.info("metrics at http://%s/metrics", self.address)

        def run() -> None:
            with self._runner, listener:
                self._runner.run(self._serve(listener))

        self._thread = threading.Thread(target=run, name="gradmq-metrics")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    # -- the thread -------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket) -> None:
        server = await self._loop.create_server(
            lambda: _Connection(self._answer, self._open), sock=listener, backlog=BACKLOG
        )
        await self._stop.wait()
        self._loop.remove_reader(listener)
        # Each accepts a connection, which asyncio loses if its server is closed meanwhile.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        server.close()
        for connection in self._open:
            connection.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        """The whole answer to a request, whatever it asks for."""
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, "this is no request of HTTP/1.1\n")
        method, target, _ = words
        if not self._bears_token(lines):
            text = "a token is asked for: send the header `authorization: Bearer TOKEN`\n"
            return _response(401, text, more="www-authenticate: Bearer\r\n")
        if method not in ("GET", "HEAD"):
            return _response(405, "only GET is served here\n", more="allow: GET, HEAD\r\n")
        try:
            pages = self._fresh_pages()
        except TimeoutError:
            return _response(503, f"busy: it has not come round for {ASK_S:g} s\n")
        except GradmqError as error:
            return _response(503, f"{error}\n")
        except Exception as error:
            log.exception("no metrics")
            return _response(500, f"failed on this: {type(error).__name__}\n")
        path = target.partition("?")[0]
        if path not in pages:
            return _response(404, f"served here: {', '.join(pages)}\n")
        kind, body = pages[path]
        return _response(200, body, kind, with_body=method == "GET")

    def _bears_token(self, lines: Sequence[str]) -> bool:
        if not self._token:
            return True
        pairs = (line.partition(":") for line in lines)
        given = [value.strip() for name, _, value in pairs if name.lower() == "authorization"]
        wanted = f"Bearer {self._token}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode("latin-1"), wanted)

    def _fresh_pages(self) -> Pages:
        if time.monotonic() - self._read_at >= FRESH_S:
            self._pages = self._read()
            self._read_at = time.monotonic()
        return self._pages


class _Connection(asyncio.Protocol):
    """One request, one answer; what lasts, or is too long, ends the connection."""

    transport: asyncio.Transport

    def __init__(self, answer: Callable[[bytes], bytes], every: list[_Connection]) -> None:
        """``every``: those that are open, oldest first."""
        self._answer = answer
        self._every = every
        self._head = b""
        self._answered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._timer = asyncio.get_running_loop().call_later(WHOLE_S, transport.abort)
        self._every.append(self)
        if len(self._every) > CONNECTIONS:
            self._every.pop(0).transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._answered = True
            self.transport.write(self._answer(self._head))
            self.transport.close()
        elif len(self._head) > HEAD_BYTES:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if self in self._every:
            self._every.remove(self)


class OwnedMetrics(Generic[T]):
    """A server of what only its owner's thread may gather: it does when it comes round.

    That is an immutable snapshot; the server's thread makes text of it (``pages``).
    """

    def __init__(
        self, settings: MetricsSettings, insecure: bool, pages: Callable[[T], Pages]
    ) -> None:
        """Raises SettingsError as ``MetricsServer`` does."""
        handover = self._handover = Handover[T]()
        self._server = MetricsServer(settings, insecure, lambda: pages(handover.ask(ASK_S)))

    def open(self, stack: ExitStack) -> None:
        """Serve until the stack closes; raises SettingsError."""
        stack.enter_context(self._server)
        stack.callback(self._handover.close)

    @property
    def address(self) -> str:
        """HOST:PORT for others to scrape; "" if there is none."""
        return self._server.address

    def give_if_asked(self, gather: Callable[[], T]) -> None:
        """For the owner, at every turn; costs nothing unless somebody scrapes."""
        self._handover.give_if_asked(gather)


def _response(
    status: int, body: bytes | str, kind: str = _TEXT, *, more: str = "", with_body: bool = True
) -> bytes:
    body = body.encode("utf-8", "replace") if isinstance(body, str) else body
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")
