"""Every answer has an id, so that the logs of clients and proxies can name it."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"

#: A longer id is not repeated.
_MAX_CHARACTERS = 200


class RequestId:
    """Gives each answer the id of its request, or a new one; outermost, for all answers have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = asked if 0 < len(asked) <= _MAX_CHARACTERS else uuid.uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, named)
