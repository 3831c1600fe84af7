"""The token that a request must bear, where one is asked for."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from gradmq.infer.error_answers import render_error
from gradmq.infer.refusal import Refused

#: Asked by who balances load or restarts nodes, and telling nothing of the model.
OPEN_PATHS = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})

#: The page is the same for every node, and asks for the token itself.
PAGE = "/page/"


def is_open(path: str) -> bool:
    """Whether a path is answered without the token."""
    return path in OPEN_PATHS or path == "/" or path.startswith(PAGE)


class Bearer:
    """Wraps the application: requests without the token are refused before anything is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if is_open(scope["path"]) or self._bears_it(scope):
            await self._app(scope, receive, send)
            return
        text = "this node asks for a token: send the header `authorization: Bearer TOKEN`"
        refused = Refused(401, text, code="invalid_api_key", close=True)
        response = render_error(scope["path"], refused, {"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _bears_it(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
