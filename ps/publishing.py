"""When a shard publishes: often enough that nobody waits for parameters, seldom enough to coalesce.

Publish when somebody reads, the version is unpublished and (a) no push is waiting, or (b) one push
per attached worker was applied since the last publication, or (c) the oldest unpublished apply is
LATEST_S old, or (d) a push was rejected as stale; never while the previous publication is still
draining to healthy readers. None of these waits for a worker that may itself be waiting for a
publication: that is why this cannot deadlock.

A publication goes to every reader, so with W workers one per push carries W times the bytes that
anybody needed. Workers that got the same publication push at about the same time; so (a) waits a
moment for the next push, as long as such moments have been bringing one.
"""

from __future__ import annotations

from collections import deque

#: An applied push is published at the latest after this long, drain permitting; where publications
#: themselves take longer to leave, after two of the shortest drains of late.
LATEST_S = 0.05
LATEST_DRAINS = 2

#: A publication that has not drained after this long is held up by a reader that does not read;
#: longer where earlier ones took longer (a slow link is not a stopped reader).
DRAIN_PATIENCE_S = 0.25

#: Once one was held up, the next ones are not waited for like that: they are for the readers that
#: do read, so the shortest drain of late says how long to wait. After so long, patience is back.
HELD_UP_S = 30.0

#: How many drains are "of late".
DRAINS_KEPT = 16

#: A moment, in shortest drains of late: it costs at most what it may save.
MOMENT = 1.0

#: After so many moments in a row that brought no push, none is waited for this many publications.
VAIN_MOMENTS = 4
WITHOUT_MOMENTS = 64

#: While a publication drains, the caller looks this often whether it has.
DRAIN_POLL_S = 0.002

#: A subscriber learns within this of anything it missed; the first beacon after a publication, or
#: after somebody has subscribed.
BEACON_AFTER_S = 0.1

#: While nothing changes, each beacon comes after twice the silence of the last, up to this.
BEACON_AT_MOST_S = 0.8


class PublishTiming:
    """Decides when to publish and when to send a beacon; the caller tells it what happened."""

    def __init__(self) -> None:
        self.readers = True
        """False: nobody would receive a publication, so none is due."""
        self._unpublished_since: float | None = None
        self._applied = 0
        self._last_apply = 0.0
        self._waited_a_moment = False
        self._vain_moments = 0
        self._without_moments = 0
        self._asked = False
        self._draining_since: float | None = None
        self._longest_drain_s = 0.0
        self._drains_s: deque[float] = deque(maxlen=DRAINS_KEPT)
        self._held_up_until = 0.0
        self._last_sent = 0.0
        self._silence_s = BEACON_AFTER_S

    @property
    def unpublished(self) -> bool:
        return self._unpublished_since is not None

    def on_apply(self, now: float) -> None:
        self._applied += 1
        self._last_apply = now
        if self.readers:
            self._silence_s = BEACON_AFTER_S
        if self._unpublished_since is None:
            self._unpublished_since = now

    def ask(self) -> None:
        """A stale worker needs fresh parameters: publish as soon as there is something to."""
        self._asked = True

    def on_subscriber(self) -> None:
        """Somebody has begun to listen: a beacon tells what there is."""
        self._last_sent = 0.0

    def due(self, now: float, attached: int, push_waiting: bool) -> bool:
        """True if a publication should leave now."""
        if not self.readers or self._unpublished_since is None or self._is_draining(now):
            return False
        if (
            self._asked
            or self._applied >= max(1, attached)
            or now - self._unpublished_since >= self._latest_s()
        ):
            return True
        if push_waiting:
            return False
        if now < self._last_apply + self._moment_s():
            self._waited_a_moment = True
            return False
        return True

    def _latest_s(self) -> float:
        return max(LATEST_S, LATEST_DRAINS * min(self._drains_s, default=0.0))

    def _moment_s(self) -> float:
        """How long to wait for the next push; 0 where that was in vain."""
        if self._without_moments or not self._drains_s:
            return 0.0
        return MOMENT * min(self._drains_s)

    def beacon_due(self, now: float) -> bool:
        """Beacons fill silences; while a publication drains they would only queue behind it."""
        return now - self._last_sent >= self._silence_s and not self._is_draining(now)

    def on_published(self, now: float) -> None:
        self._count_moment()
        self._unpublished_since = None
        self._applied = 0
        self._asked = False
        if self._draining_since is not None:
            self._held_up_until = now + HELD_UP_S  # the last one was waited for in vain
        self._draining_since = now
        self._last_sent = now
        self._silence_s = BEACON_AFTER_S

    def _count_moment(self) -> None:
        self._without_moments = max(0, self._without_moments - 1)
        if self._waited_a_moment:
            self._vain_moments = self._vain_moments + 1 if self._applied < 2 else 0
            if self._vain_moments == VAIN_MOMENTS:
                self._vain_moments, self._without_moments = 0, WITHOUT_MOMENTS
        self._waited_a_moment = False

    def on_beacon(self, now: float) -> None:
        self._last_sent = now
        self._silence_s = min(2 * self._silence_s, BEACON_AT_MOST_S)

    def on_drained(self, now: float) -> None:
        """The newest publication has left for every reader that still reads."""
        if self._draining_since is not None:
            # The longest of late, forgotten slowly: one slow drain must not set the pace for ever.
            drain_s = now - self._draining_since
            self._longest_drain_s = max(0.9 * self._longest_drain_s, drain_s)
            self._drains_s.append(drain_s)
            self._draining_since = None

    def next_deadline(self, now: float) -> float:
        """Nothing here becomes due before this time unless something else happens first."""
        due = self._last_sent + self._silence_s
        if self.readers and self._unpublished_since is not None:
            due = min(due, self._unpublished_since + self._latest_s())
            if self._waited_a_moment:
                due = min(due, max(now, self._last_apply + self._moment_s()))
        if self._is_draining(now):
            # Nothing leaves before that has drained, and only looking tells: often if a
            # publication waits for it, at the time of the next beacon if none does.
            due = max(now if self.unpublished else due, now + DRAIN_POLL_S)
        return due

    def _is_draining(self, now: float) -> bool:
        if self._draining_since is None:
            return False
        return now - self._draining_since < self._patience_s(now)

    def _patience_s(self, now: float) -> float:
        if now < self._held_up_until and self._drains_s:
            return 4 * min(self._drains_s) + DRAIN_POLL_S
        return max(DRAIN_PATIENCE_S, 4 * self._longest_drain_s)
