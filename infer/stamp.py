"""What holds for every answer: it names the release, and it is counted."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradmq.infer.error_answers import render_error
from gradmq.infer.measures import Measures
from gradmq.infer.node_api import RELEASE_HEADER, NodeApi
from gradmq.infer.refusal import stopping

_RELEASE = RELEASE_HEADER.encode()


class Stamp:
    """Wraps the application from outside, so that answers to errors are stamped too.

    An answer that already names its release keeps it: the model may have moved on meanwhile.
    A request that is still unanswered when the server ends is told so.
    """

    def __init__(self, app: ASGIApp, node: NodeApi, measures: Measures) -> None:
        self._app = app
        self._node = node
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        begun = False
        begun_s = self._node.clock()
        by_release: int | None = None

        async def stamped(message: Message) -> None:
            nonlocal begun, by_release
            if message["type"] == "http.response.start":
                begun = True
                named = [value for name, value in message["headers"] if name == _RELEASE]
                if named:
                    by_release = int(named[0])
                    self._node.serving.count_answer(by_release)
                elif (holding := self._node.serving.holding()) is not None:
                    headers = MutableHeaders(scope=message)
                    headers.update(self._node.release_headers(holding))
                if scope["method"] == "POST" and not scope["path"].startswith("/gradmq/"):
                    self._measures.statuses[message["status"]] += 1
            await send(message)
            is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_end and by_release is not None:
                self._measures.answered(by_release, self._node.clock() - begun_s)

        try:
            await self._app(scope, receive, stamped)
        except asyncio.CancelledError:
            # Nothing but the end of the server, past its grace, cancels a request.
            if begun:
                raise
            await render_error(scope["path"], stopping())(scope, receive, stamped)
