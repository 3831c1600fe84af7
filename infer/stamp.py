"""What holds for every answer: it names the release, and it is counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradmq.infer.error_answers import render_error
from gradmq.infer.node_api import RELEASE_HEADER, NodeApi
from gradmq.infer.refusal import RETRY_AFTER_S, Refused


@dataclass(slots=True)
class RequestCounts:
    """Requests to the model (every POST), by how they ended."""

    answered: int = 0
    refused: int = 0
    """Answered with 4xx: the request was to blame."""
    failed: int = 0
    """Answered with 5xx: the node was."""

    def count(self, status: int) -> None:
        """Count one answer by its status."""
        if status >= 500:
            self.failed += 1
        elif status >= 400:
            self.refused += 1
        else:
            self.answered += 1


class Stamp:
    """Wraps the application; outermost, so that answers to errors are stamped too.

    An answer that already names its release keeps it: the model may have moved on meanwhile.
    A request that is still unanswered when the server ends is told so.
    """

    def __init__(self, app: ASGIApp, node: NodeApi, counts: RequestCounts) -> None:
        self._app = app
        self._node = node
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        begun = False

        async def stamped(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                holding = self._node.serving.holding()
                if RELEASE_HEADER in headers:
                    self._node.serving.count_answer(int(headers[RELEASE_HEADER]))
                elif holding is not None:
                    headers.update(self._node.release_headers(holding))
                if scope["method"] == "POST" and not scope["path"].startswith("/gradmq/"):
                    self._counts.count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except asyncio.CancelledError:
            # Nothing but the end of the server, past its grace, cancels a request.
            if begun:
                raise
            ending = Refused(503, "this node is stopping", retry_after_s=RETRY_AFTER_S)
            await render_error(scope["path"], ending)(scope, receive, stamped)
