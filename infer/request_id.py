"""Every answer has an id, so that the logs of clients and proxies can name it."""

from __future__ import annotations

import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = b"x-request-id"

#: A longer id is not repeated.
_MAX_BYTES = 200


class RequestId:
    """Gives each answer the id of its request, or a new one; outermost, for all answers have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        request_id = asked if 0 < len(asked) <= _MAX_BYTES else uuid.uuid4().hex.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id)]
            await send(message)

        await self._app(scope, receive, named)
