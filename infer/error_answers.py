"""Errors in the form of the dialect that was asked in."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gradmq.infer.body import json_bytes, json_response
from gradmq.infer.refusal import Refused

#: The OpenAI dialect's word for each kind of error, by status; others take the class's.
_OPENAI_TYPES = {429: "rate_limit_error"}

#: How long an unread body may go on arriving after its request was refused.
_LINGER_S = 2.0


def render_error(path: str, refused: Refused, headers: dict[str, str] | None = None) -> Response:
    """``refused`` in the form of the dialect that ``path`` belongs to."""
    headers = {} if headers is None else headers
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(refused.retry_after_s)
    elif refused.status == 409 or refused.status >= 500:
        # The openai client repeats these unless told that they would fail again.
        headers["x-should-retry"] = "false"
    content = error_content(path, refused)
    if not refused.close:
        return json_response(content, refused.status, headers)
    headers["connection"] = "close"
    return _ClosingResponse(
        json_bytes(content), refused.status, headers, media_type="application/json"
    )


def error_content(path: str, refused: Refused) -> dict[str, object]:
    """``refused`` as the JSON of the dialect that ``path`` belongs to."""
    openai = path == "/v1" or path.startswith("/v1/")
    return _openai_error(refused) if openai else {"error": refused.text}


class _ClosingResponse(Response):
    """Answers a request whose body was not read, then reads on for a moment and closes.

    Closed at once, with data still coming in, the kernel resets the connection, and most clients
    report that instead of the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer whole, and the end of it only after the lingering."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (message := await receive())["type"] == "http.request":
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _openai_error(refused: Refused) -> dict[str, object]:
    by_class = "server_error" if refused.status >= 500 else "invalid_request_error"
    error: dict[str, object] = {
        "message": refused.text,
        "type": _OPENAI_TYPES.get(refused.status, by_class),
        "param": refused.param,
        "code": refused.code,
    }
    return {"error": error}
