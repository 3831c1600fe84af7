"""One HTTP connection: what it may send before anybody looks at a request, and for how long."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gradmq.infer.connections import Connections

_log = logging.getLogger(__name__)

#: From the connection, or the first byte of a later request, to the end of the head; longer than
#: any client needs, shorter than who opens connections to use them up would like.
HEAD_S = 10.0

#: Of the line and the headers together; tokens and cookies of proxies need a few thousand.
_HEAD_BYTES: Final = 2**16

#: Chunked bodies of single bytes have five bytes around each.
_AROUND_A_BYTE: Final = 8

#: Requests that came before the first of them was answered; clients that do so send a few.
_PIPELINED: Final = 64

#: Characters of a fault, which may hold what was sent.
_SHOWN: Final = 100

#: Reading goes on so long after a refusal: closed at once, with data still coming in, the kernel
#: resets the connection, and most clients report that instead of the answer.
_LINGER_S: Final = 2.0

#: The kernel ends a connection whose other side takes in nothing for so long.
_UNREAD_MS: Final = 30_000


#: Of answers that nobody takes in, all together; above it the oldest of them is given up.
_UNREAD_BYTES = 256 * 2**20


class TooMuch(Exception):
    """The connection brought more than is read here; raised within the parser."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Joined:
    """A transport that sends the head of an answer together with what follows it at once.

    uvicorn writes them one after the other, and each write is a call of the system, a packet, and
    a client that is woken up. A head that nothing follows in this round of the event loop is sent
    at its end.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """A connection that is refused or closed where a request's head is too long or too slow.

    From the end of the head on the request has a deadline of its own (``HttpLimits.request_s``).
    """

    def __init__(self, *args: Any, connections: Connections[Connection], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._all = connections
        self._late: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._refused = False
        self._silent = True
        self._in_head = True
        self._head_bytes = 0
        self._around_bytes = 0
        """What came of this request and is no body: head, sizes of chunks, trailers."""
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Joined(transport, self.loop))
        unread = transport.get_extra_info("socket")
        unread.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self._expect_head()
        crowded = self._all.crowded
        goes = self._all.add(self)
        if goes is None:
            return
        if not crowded:
            text = "%d connections, the most here: those that wait longest without a request go"
            _log.warning(text, len(self._all))
        if goes is self:
            self.refuse(503, f"{len(self._all)} connections are at work, the most here")
        else:
            goes.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        self._head_is_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._silent = False
        cycle = self.cycle
        is_answering = self._under_way() is not None
        self._around_bytes += len(data)
        super().data_received(data)
        # Most heads come in one piece, and need no timer.
        if not (is_answering or self._refused) and self.cycle is cycle:
            self._expect_head()
        if self._around_bytes > _HEAD_BYTES + _AROUND_A_BYTE * self._body_bytes:
            self.refuse(431, f"more than {_HEAD_BYTES} bytes of headers, the limit here")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._around_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        # What follows a chunked body is no header: it could wish for what was never checked.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_over()
        self._all.work(self)
        super().on_headers_complete()
        if len(self.pipeline) > _PIPELINED:
            raise TooMuch(400, f"more than {_PIPELINED} requests before the first was answered")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._around_bytes -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._all.wait(self)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        unread = self._all.unread(self)
        held_bytes = sum(each.transport.get_write_buffer_size() for each in unread)
        for oldest in unread:
            if held_bytes <= _UNREAD_BYTES:
                break
            held_bytes -= oldest.transport.get_write_buffer_size()
            oldest.transport.abort()

    def resume_writing(self) -> None:
        self._all.read(self)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        # Called where the error of the parser is handled, and not told what it was.
        error = sys.exception()
        within = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if isinstance(within, TooMuch):
            self.refuse(within.status, str(within))
        else:
            fault = str(within or error)[:_SHOWN]
            self.refuse(400, f"this is no request of HTTP/1.1: {fault}")

    def refuse(self, status: int, text: str) -> None:
        """Answer the request that is coming in with an error, and close after a moment."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._head_is_over()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        cycle = self._under_way()
        if cycle is not None and cycle.response_started:
            # In the midst of another answer this one would be read as a part of it.
            self.transport.close()
            return
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        body = json.dumps({"error": text}, ensure_ascii=False).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _under_way(self) -> RequestResponseCycle | None:
        """The request that is being answered."""
        running = self._running
        return None if running is None or running.response_complete else running

    def _count(self, head_bytes: int) -> None:
        self._head_bytes += head_bytes
        if self._head_bytes > _HEAD_BYTES:
            raise TooMuch(431, f"more than {_HEAD_BYTES} bytes of headers, the limit here")

    def _expect_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._silent:
            self.transport.close()
        else:
            self.refuse(408, f"the head of the request did not come within {HEAD_S:g} s")

    def _head_is_over(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
