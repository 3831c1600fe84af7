"""Brings a node's releases into service, in the thread ``gradmq-swap``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gradmq.infer.follower import FollowedRelease, Follower
from gradmq.infer.guard import Guard
from gradmq.infer.measures import Measures
from gradmq.infer.serving import ServedRelease, Serving

log = logging.getLogger(__name__)

#: A release is looked for at least this often; the stream's thread wakes the wait earlier.
FOLLOW_S = 0.25

#: Releases that are served between two lines of the log.
TOLD_EVERY = 60


class Swapper:
    """Offers releases to a ``Serving`` and measures what that took; belongs to one thread."""

    def __init__(
        self, serving: Serving, measures: Measures, warm_up: Callable[[ServedRelease], None]
    ) -> None:
        """``warm_up`` runs the first release once, and returns when that is done."""
        self.serving = serving
        self.measures = measures
        self._warm_up = warm_up

    def offer(self, release: ServedRelease, heard_newest_at_s: float) -> None:
        """Serve this release if it is the newest; the first only once it is warm."""
        if self.serving.newest() is None:
            self._warm_up(release)
        self.serving.offer(release, heard_newest_at_s)

    def follow(self, follower: Follower, guard: Guard, stopped: Callable[[], bool]) -> None:
        """Serve what comes and is fit, until ``stopped``; raises what ends the follower."""
        seen: FollowedRelease | None = None
        while not stopped():
            newest = follower.newest()
            self.measures.newest_release = newest.number
            if seen is None or newest.number > seen.number:
                seen = self._take(follower, guard, seen)
            else:
                self.serving.heard_newest(newest.number, time.monotonic() - newest.age_s)
            follower.wait(seen, FOLLOW_S)

    def _take(
        self, follower: Follower, guard: Guard, before: FollowedRelease | None
    ) -> FollowedRelease:
        begun_s = time.monotonic()
        release = follower.take()
        taken = release.about
        unfit = guard.why_unfit(release)
        if not unfit:
            module = release.module()
            del release  # two models are enough
            unfit = guard.why_worse(module)
        down = self.serving.last_turned_down
        was_unfit = bool(before and down and down.number == before.number)
        if unfit:
            self.serving.turn_down(taken.number, unfit)
            if not was_unfit:
                log.warning("skips release %d: it %s", taken.number, unfit)
            return taken
        self.offer(ServedRelease(taken.number, taken.versions, module), begun_s - taken.age_s)
        now = time.monotonic()
        self.measures.swaps.add(now - begun_s)
        is_news = before is None or before.versions != taken.versions
        if taken.since_applied_s is not None and is_news:
            self.measures.applied_to_servable.observe(taken.since_applied_s + now - begun_s)
        if taken.number == 1 or taken.number % TOLD_EVERY == 0 or was_unfit:
            log.info("serves release %d", taken.number)
        return taken
