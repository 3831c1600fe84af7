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
    "cache-control": "no-cache",
    # A proxy that collects the pieces would take their point away.
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """Sends each event as it comes, then ``[DONE]`` where the dialect ends so.

    A failure after the beginning is an event too, in the dialect's form of an error, and the last
    one: a stream without its own end is not whole. A client that goes away, or that does not read
    in time, is left; ``held`` is closed in any case.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, object]],
        held: AsyncExitStack,
        deadline_s: float,
        headers: Mapping[str, str],
        *,
        done: bool = False,
    ) -> None:
        """``deadline_s``: of the event loop's clock; ``events`` end by then, or raise ``Refused``.

        ``done``: end with the event ``[DONE]``.
        """
        super().__init__(headers={**_HEADERS, **headers})
        # Its length is not known before its end.
        del self.headers["content-length"]
        self._events = events
        self._held = held
        self._deadline_s = deadline_s
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it whole, or as far as it goes."""
        path = scope["path"]
        async with self._held:
            try:
                async with asyncio.timeout_at(self._deadline_s + _LINGER_S):
                    await self._send(path, send)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                # Nothing but the end of the server, past its grace, cancels a request.
                await _send_end(send, json_bytes(error_content(path, stopping())))
                raise

    async def _send(self, path: str, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        try:
            async for event in self._events:
                await send(_body(json_bytes(event), more_body=True))
        except Refused as refused:
            if refused.status != 499:
                await _send_end(send, json_bytes(error_content(path, refused)))
        else:
            await _send_end(send, b"[DONE]" if self._done else b"")


async def _send_end(send: Send, data: bytes) -> None:
    await send(_body(data, more_body=False))


def _body(data: bytes, more_body: bool) -> dict[str, object]:
    event = b"data: " + data + b"\n\n" if data else b""
    return {"type": "http.response.body", "body": event, "more_body": more_body}
