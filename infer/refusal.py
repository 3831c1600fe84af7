"""A request that is answered with an error, in words for the person who sent it."""

from __future__ import annotations

import logging

from gradmq.errors import GradmqError

_log = logging.getLogger(__name__)

#: What clients are told that come too early or find the node full: both pass quickly.
RETRY_AFTER_S = 1

#: Longest piece of a caller's own text that is quoted back; more would only fill logs.
_QUOTED_CHARACTERS = 80


class Refused(GradmqError):
    """This request gets an error answer; the text is for its sender.

    ``status`` is the HTTP status, ``param`` the field of the body that is to blame, ``code`` a
    fixed word for programs. ``retry_after_s`` invites the client to come again, None tells it
    that the same request would fail the same way. ``close`` ends the connection, for requests
    whose body was not read to its end.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.close = close


def invalid(text: str, param: str | None = None) -> Refused:
    """A 400: the request itself is wrong."""
    return Refused(400, text, param=param)


def too_many(limit: int) -> Refused:
    """A 429: the queue for the model is full."""
    text = f"{limit} requests are already waiting for the model, the limit here"
    return Refused(429, text, retry_after_s=RETRY_AFTER_S)


def over_time(allowed_s: float) -> Refused:
    """A 504: the time for an answer is over."""
    return Refused(504, f"no answer after {allowed_s:g} s, the limit here: ask for less")


def client_gone() -> Refused:
    """A 499: nobody will read this."""
    return Refused(499, "the client went away", close=True)


def stopping() -> Refused:
    """A 503: the node ends before the answer does."""
    return Refused(503, "this node is stopping", retry_after_s=RETRY_AFTER_S)


def model_failed(release: int, error: Exception) -> Refused:
    """A 500: this release cannot answer; the traceback goes into the log."""
    _log.error("release %d failed on a request", release, exc_info=error)
    text = f"release {release} failed on this request: {type(error).__name__}: {error}"
    return Refused(500, text)


def quoted(value: object) -> str:
    """A caller's value as it may stand in a message: its repr, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"
