"""Brings a node's releases into service, in the thread ``gradmq-swap``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

from gradmq.infer.follower import FollowedRelease, Follower, TakenRelease
from gradmq.infer.guard import Guard
from gradmq.infer.measures import Measures
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.infer.standstill import Standstill
from gradmq.infer.warm_up import warm_up
from gradmq.serve import TensorModel, TextModel

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: A release is looked for at least this often; the stream's thread wakes the wait earlier.
FOLLOW_S = 0.25

#: Releases that are served between two lines of the log.
TOLD_EVERY = 60


class Swapper:
    """Offers releases to a ``Serving`` and measures what that took.

    Belongs to one thread, which waits while the model's does in its place what is written in place.
    """

    def __init__(
        self,
        serving: Serving,
        measures: Measures,
        spec: TensorModel | TextModel,
        executor: Executor,
        standstill: Standstill,
    ) -> None:
        """``executor`` has the model's one thread; in a ``standstill`` no completion runs on it."""
        self.serving = serving
        self.measures = measures
        self._spec = spec
        self._executor = executor
        self._standstill = standstill
        self._seen: FollowedRelease | None = None
        self._last_was_unfit = False

    def offer(
        self, release: ServedRelease, heard_newest_at_s: float, in_models_thread: bool = False
    ) -> None:
        """Serve this release if it is the newest; the first only once it has run."""
        if self.serving.newest() is None:
            if in_models_thread:
                warm_up(release, self._spec)
            else:
                self._executor.submit(warm_up, release, self._spec).result()
        self.serving.offer(release, heard_newest_at_s)

    def follow(
        self,
        follower: Follower,
        guard: Guard,
        stopped: Callable[[], bool],
        in_place: torch.nn.Module | None = None,
    ) -> None:
        """Serve what comes and is fit, until ``stopped``; raises what ends the follower.

        ``in_place``, the follower's model, is what every release is written into; None: each
        becomes a module of its own.
        """
        while not stopped():
            newest = follower.newest()
            self.measures.newest_release = newest.number
            if self._seen is not None and newest.number <= self._seen.number:
                self.serving.heard_newest(newest.number, time.monotonic() - newest.age_s)
            elif in_place is None:
                self._swap(follower, guard)
            elif self.serving.takes_newer:
                with self._standstill.hold(stopped) as still:
                    if still:
                        write = partial(self._swap, follower, guard, in_place)
                        self._executor.submit(write).result()
            follower.wait(newest, FOLLOW_S)

    def _swap(
        self, follower: Follower, guard: Guard, in_place: torch.nn.Module | None = None
    ) -> None:
        begun_s = time.monotonic()
        release = follower.take()
        before, self._seen = self._seen, release.about
        unfit = guard.why_unfit(release)
        if not unfit:
            module = release.module() if in_place is None else self._written(release, in_place)
            unfit = guard.why_worse(module)
        taken = release.about
        del release  # two models are enough
        was_unfit, self._last_was_unfit = self._last_was_unfit, bool(unfit)
        if unfit:
            self.serving.turn_down(taken.number, unfit)
            if not was_unfit:
                log.warning("skips release %d: it %s", taken.number, unfit)
            return
        served = ServedRelease(taken.number, taken.versions, module)
        self.offer(served, begun_s - taken.age_s, in_models_thread=in_place is not None)
        now = time.monotonic()
        self.measures.swaps.add(now - begun_s)
        is_news = before is None or before.versions != taken.versions
        if taken.since_applied_s is not None and is_news:
            self.measures.applied_to_servable.observe(taken.since_applied_s + now - begun_s)
        if before is None or taken.number % TOLD_EVERY == 0 or was_unfit:
            log.info("serves release %d", taken.number)

    def _written(self, release: TakenRelease, module: torch.nn.Module) -> torch.nn.Module:
        try:
            release.install()
        except BaseException:
            self.serving.withdraw()  # parts of two releases: nobody may be answered from that
            raise
        return module
