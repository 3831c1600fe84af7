"""An answer that comes piece by piece, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gradmq.infer.body import json_bytes
from gradmq.infer.error_answers import error_content
from gradmq.infer.refusal import Refused, stopping

#: Past the deadline of the request, for a client that takes long to read the last of it.
_LINGER_S = 1.0

_HEADERS = {
    "cache-control": "no-store",
    # A proxy that collects the pieces would take their point away.
    "x-accel-buffering": "no",
}


def event(data: bytes, name: str = "") -> bytes:
    """One event; ``data`` is of one line."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


async def json_events(contents: AsyncIterator[Mapping[str, object]]) -> AsyncIterator[bytes]:
    """Each content as an event without a name."""
    async for content in contents:
        yield event(json_bytes(content))


class EventStream(Response):
    """Sends each event as it comes, then ``[DONE]`` where the dialect ends so.

    A failure after the beginning is an event too, in the dialect's form of an error, and the last
    one: a stream without its own end is not whole. A client that goes away, or that does not read
    in time, is left; ``held`` is closed in any case.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        held: AsyncExitStack,
        deadline_s: float | None,
        headers: Mapping[str, str],
        *,
        done: bool = False,
    ) -> None:
        """``deadline_s``: of the event loop's clock; ``events`` end by then, or raise ``Refused``.

        None: they end when their listener has gone, or the node stops.

        ``done``: end with the event ``[DONE]``.
        """
        super().__init__(headers={**_HEADERS, **headers})
        # Its length is not known before its end.
        del self.headers["content-length"]
        self._events = events
        self._held = held
        self._leave_at_s = None if deadline_s is None else deadline_s + _LINGER_S
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it whole, or as far as it goes."""
        path = scope["path"]
        async with self._held:
            try:
                async with asyncio.timeout_at(self._leave_at_s):
                    await self._send(path, send)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                # Nothing but the end of the server, past its grace, cancels a request.
                await _send(send, event(json_bytes(error_content(path, stopping()))), is_last=True)
                raise

    async def _send(self, path: str, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        try:
            async for each in self._events:
                await _send(send, each)
        except Refused as refused:
            if refused.status != 499:
                await _send(send, event(json_bytes(error_content(path, refused))), is_last=True)
        else:
            await _send(send, event(b"[DONE]") if self._done else b"", is_last=True)


async def _send(send: Send, body: bytes, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
