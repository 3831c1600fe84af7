"""Membership: one member's side of joining the broker and staying joined; pure.

Say hello until welcomed; then renew the lease every RENEW_EVERY_S. A broker that stays silent is
waited for, never given up: no data passes through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradmq.wire.messages import Directory, Hello, Renew, Renewed, Welcome

RENEW_EVERY_S = 0.5
HELLO_AGAIN_S = 0.5
NOT_SENT_AGAIN_S = 0.02
#: After this long without a word the broker counts as away, and a wait says so.
BROKER_SILENT_S = 2.0


class Membership:
    """Knows when to say hello and when to renew."""

    def __init__(self, hello: Callable[[], Hello]) -> None:
        self._hello = hello
        self.welcome: Welcome | None = None
        self.joined = False
        self._serial = 0
        self._due_at = 0.0
        self._untold = True
        """There is something to tell that no hello has said yet."""
        self._heard_at: float | None = None
        self._since: float | None = None
        self._said_silent = False

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        self.welcome = welcome
        self._heard_at = now
        if self._untold:
            return  # it answers an earlier hello
        self.joined = True
        self._due_at = now  # the first report follows at once

    def on_heard(self, now: float) -> None:
        """Any message of the broker is a life sign."""
        self._heard_at = now

    def on_directory(self, directory: Directory, now: float) -> None:
        self._heard_at = now
        self._serial = directory.serial

    def on_renewed(self, renewed: Renewed, now: float) -> None:
        """Another serial than ours means a directory that got lost: saying hello brings it."""
        self._heard_at = now
        if renewed.serial != self._serial:
            self.rejoin(now)

    def rejoin(self, now: float) -> None:
        """Say hello again: the broker does not know us, or we have something new to tell."""
        self.joined = False
        self._untold = True
        self._due_at = now

    def renew_soon(self, now: float) -> None:
        """Something changed that the broker should know: do not wait for the next turn."""
        self._due_at = min(self._due_at, now)

    def on_time(self, now: float, report: Callable[[], dict[str, Any]]) -> Hello | Renew | None:
        """What is due to be sent to the broker."""
        if self._since is None:
            self._since = now
        if now < self._due_at:
            return None
        if not self.joined:
            self._untold = False
            self._due_at = now + HELLO_AGAIN_S
            return self._hello()
        self._due_at = now + RENEW_EVERY_S
        return Renew(report=report())

    def not_sent(self, now: float) -> None:
        """The connection is not there yet: what was due is due again soon."""
        self._untold = not self.joined
        self._due_at = now + NOT_SENT_AGAIN_S

    def next_deadline(self) -> float:
        return self._due_at

    def silent_s(self, now: float) -> float:
        """How long the broker has said nothing; counted from the first hello if never."""
        heard = self._heard_at if self._heard_at is not None else self._since
        return 0.0 if heard is None else now - heard

    def news(self, broker: str, now: float) -> str:
        """For the log, once each: this broker has fallen silent, it answers again; else ""."""
        silent = self.silent_s(now) > BROKER_SILENT_S
        if silent == self._said_silent:
            return ""
        self._said_silent = silent
        if not silent:
            return f"broker {broker} answers"
        return f"waiting for broker {broker}: silent for {self.silent_s(now):.1f} s"

    def waiting_for(self, now: float) -> str:
        """Why the member is not joined; "" if it is and the broker talks."""
        silent_s = self.silent_s(now)
        if self.joined and silent_s <= BROKER_SILENT_S:
            return ""
        return f"broker: {'a sign of life' if self.joined else 'welcome'}, silent {silent_s:.1f} s"
