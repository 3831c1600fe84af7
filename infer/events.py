"""``/gradmq/v1/events``: what is served and how it is trained, told every second to who listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq import strict_json
from gradmq.exposition import Histogram
from gradmq.infer.control import described
from gradmq.infer.event_stream import EventStream, event
from gradmq.infer.measures import Measures
from gradmq.infer.model_thread import disconnection
from gradmq.infer.node_api import NodeApi
from gradmq.infer.refusal import RETRY_AFTER_S, Refused
from gradmq.infer.run_watch import RunWatch

#: Each is one report a second; pages left open in many tabs must not add up.
MOST_LISTENERS = 32

#: Also the heart-beat: who hears nothing for some of these has lost the node.
REPORT_EVERY_S = 1.0

#: The history again, thinned anew, so that a listener need not thin what it collects itself.
HISTORY_EVERY = 600

#: How soon a stream ends once the node does; shorter than the grace that answers have.
_LOOK_EVERY_S = 0.25


class Events:
    """Answers ``/gradmq/v1/events`` with server-sent events without end.

    First ``history`` (null for a node without a run), then ``report`` every second; ``end`` when
    the node stops. A listener that reads slowly misses reports and holds up nobody: no report
    waits for it. Used by the event loop's thread only.
    """

    def __init__(
        self,
        node: NodeApi,
        measures: Measures,
        waiting: Callable[[], int],
        watch: RunWatch | None,
        stopping: Callable[[], bool],
    ) -> None:
        """``waiting``: how many requests wait for the model. ``watch``: None without a run."""
        self._node = node
        self._measures = measures
        self._waiting = waiting
        self._watch = watch
        self._stopping = stopping
        self._listeners = 0
        self._made_at = float("-inf")
        self._made = b""

    def routes(self) -> list[Route]:
        """The path."""
        return [Route("/gradmq/v1/events", self.events, methods=["GET"])]

    async def events(self, request: Request) -> Response:
        """The stream; 503 when as many listen as may."""
        if request.method == "HEAD":
            # It would get none of the events, and hold its connection as long as they come.
            return Response(media_type=EventStream.media_type)
        if self._listeners >= MOST_LISTENERS:
            text = f"{MOST_LISTENERS} listeners are here already, the limit: close a page"
            raise Refused(503, text, retry_after_s=RETRY_AFTER_S)
        async with AsyncExitStack() as held:
            self._listeners += 1
            held.callback(self._leave)
            gone = await held.enter_async_context(disconnection(request))
            return EventStream(self._until(gone), held.pop_all(), None, {})

    async def _until(self, gone: asyncio.Task[None]) -> AsyncIterator[bytes]:
        reports = 0
        while not gone.done() and not self._stopping():
            if reports % HISTORY_EVERY == 0:
                yield _event("history", self._watch.history() if self._watch else None)
            yield self._report()
            reports += 1
            await self._pause(gone)
        if not gone.done():
            yield _event("end", None)

    def _leave(self) -> None:
        self._listeners -= 1

    async def _pause(self, gone: asyncio.Task[None]) -> None:
        """Until the next report is due, the listener is gone or the node stops."""
        until = asyncio.get_running_loop().time() + REPORT_EVERY_S
        while not gone.done() and not self._stopping():
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await asyncio.wait({gone}, timeout=min(left_s, _LOOK_EVERY_S))

    def _report(self) -> bytes:
        """The present report; made once for all who listen."""
        now = self._node.clock()
        if now - self._made_at >= REPORT_EVERY_S / 2:
            self._made_at = now
            run = self._watch.report(now) if self._watch else None
            self._made = _event("report", {"node": self._described(now), "run": run})
        return self._made

    def _described(self, now: float) -> dict[str, Any]:
        statistics = self._node.serving.statistics(now)
        newest = self._node.serving.newest()
        measures = self._measures
        return {
            "model": self._node.job_name,
            **described(self._node.serving, now),
            "versions": [list(version) for version in statistics.versions],
            "age_s": statistics.age_s,
            "newest_age_s": newest and newest.age_s(now),
            "swaps": statistics.swaps,
            "waiting": self._waiting(),
            "requests": {
                "answered": measures.count_statuses(range(400)),
                "refused": measures.count_statuses(range(400, 500)),
                "failed": measures.count_statuses(range(500, 600)),
            },
            "latency": _latency(measures.latency),
            "latency_by_release": {
                str(number): _latency(histogram)
                for number, histogram in measures.latency_by_release.items()
            },
        }


def _event(name: str, data: Any) -> bytes:
    return event(strict_json.dumps(data).encode(), name)


def _latency(histogram: Histogram) -> dict[str, float | int | None]:
    """How many, their mean, the bounds within which half and 19 of 20 were; null: above all."""
    count = sum(histogram.counts)
    return {
        "count": count,
        "mean_s": histogram.total / count if count else None,
        "half_within_s": _bound(histogram, 0.5),
        "most_within_s": _bound(histogram, 0.95),
    }


def _bound(histogram: Histogram, share: float) -> float | None:
    """The least bound that so much of all values is within."""
    wanted, seen = share * sum(histogram.counts), 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        seen += count
        if seen >= wanted:
            return bound
    return None
