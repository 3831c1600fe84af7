"""What a follower has heard of releases: how old each is; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradmq.wire.messages import Manifest

#: Releases that close while none comes whole.
MOST = 64


@dataclass(slots=True)
class _News:
    newest_at: float
    """When it was last said to be the newest."""
    applied_at: float | None = None
    """When the last update in it was applied, if that was told as it closed."""


class ReleaseNews:
    """Of the release that is complete, and of those that have closed since."""

    def __init__(self) -> None:
        self._newest = 0
        self._complete = 0
        self._news: dict[int, _News] = {}

    def on_manifest(self, manifest: Manifest, now: float) -> None:
        """The broker names a release; the largest number is the newest."""
        number, since_s = manifest.release, manifest.since_applied_s
        if number < max(self._newest, self._complete):
            return
        self._newest = number
        news = self._news.setdefault(number, _News(now))
        news.newest_at = now
        if since_s is not None and math.isfinite(since_s):
            news.applied_at = now - since_s
        for old in sorted(self._news)[:-MOST]:
            if old != self._complete:
                del self._news[old]

    def on_complete(self, number: int, now: float) -> None:
        """Everything of this release is here; it may not be the newest any more."""
        self._complete = number
        self._news = {n: news for n, news in self._news.items() if n >= number}
        self._news.setdefault(number, _News(now))

    def age_s(self, number: int, now: float) -> float:
        """Time since this release was last heard to be the newest; infinite if it never was."""
        news = self._news.get(number)
        return math.inf if news is None else now - news.newest_at

    def since_applied_s(self, number: int, now: float) -> float | None:
        """Time since the last update in this release was applied, if it is known."""
        news = self._news.get(number)
        return None if news is None or news.applied_at is None else now - news.applied_at
