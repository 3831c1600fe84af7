"""Runs requests on the model's own thread, each wholly on one release."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from gradmq.infer.choosing import Choice
from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import Abandoned, Refused, model_failed, too_many
from gradmq.infer.serving import Holding, ServedRelease, Serving

#: How often a request that waits for another release looks whether it is there.
_LOOK_EVERY_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What the work returned, and the release it ran on."""

    value: T
    holding: Holding


class ModelThread:
    """Hands work to the executor and waits for it without blocking the event loop.

    The release is taken by the work itself, at its beginning: a request that waited is answered by
    the newest release, and a swap happens between two requests, never inside one.
    """

    def __init__(
        self,
        serving: Serving,
        executor: Executor,
        limits: HttpLimits,
        clock: Callable[[], float],
    ) -> None:
        """``clock``: monotonic seconds, as ``serving`` is told about releases with."""
        self._serving = serving
        self._clock = clock
        self._executor = executor
        self._limits = limits
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for the model or run on it."""
        return self._waiting

    async def run(
        self,
        request: Request,
        deadline_s: float,
        work: Callable[[ServedRelease, Callable[[], bool]], T],
    ) -> Answered[T]:
        """Run ``work(release, abandoned)`` on the model's thread.

        ``work`` must ask ``abandoned()`` now and then if it may take long, and raise ``Abandoned``
        when it is True. ``deadline_s`` is an instant of the event loop's clock. The body of
        ``request`` must have been read. Raises ``Refused``: 503 before the first release or the one
        that is wished for, 409 for a wish that will not come true here, 429 when too many wait, 504
        at the deadline, 500 when the model fails, whatever ``work`` refuses.
        """
        left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        choice = Choice(request, self._serving, self._clock, left_s)
        if self._waiting >= self._limits.waiting_requests:
            raise too_many(self._waiting)
        nobody_waits = threading.Event()
        self._waiting += 1
        try:
            await until_possible(request, choice)
            return await self._wait(request, deadline_s, choice, work, nobody_waits)
        finally:
            self._waiting -= 1
            nobody_waits.set()

    async def _wait(
        self,
        request: Request,
        deadline_s: float,
        choice: Choice,
        work: Callable[[ServedRelease, Callable[[], bool]], T],
        nobody_waits: threading.Event,
    ) -> Answered[T]:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(self._executor, self._job(choice, work, nobody_waits.is_set))
        return await answer_to(request, answer, deadline_s, self._limits.request_s)

    def _job(
        self,
        choice: Choice,
        work: Callable[[ServedRelease, Callable[[], bool]], T],
        abandoned: Callable[[], bool],
    ) -> Callable[[], Answered[T]]:
        def job() -> Answered[T]:
            holding = choice.holding()
            if abandoned():
                raise Abandoned
            try:
                return Answered(work(holding.release, abandoned), holding)
            except (Refused, Abandoned):
                raise
            except Exception as error:
                raise model_failed(holding.release.number, error) from error

        return job


async def until_possible(request: Request, choice: Choice) -> None:
    """Wait until there is a release for this request; its body must have been read.

    Raises ``Refused`` as ``Choice.is_possible`` does, and 499 when the client goes away.
    """
    if choice.is_possible():
        return
    async with _disconnection(request) as gone:
        while not choice.is_possible():
            await asyncio.wait({gone}, timeout=_LOOK_EVERY_S)
            if gone.done():
                raise Refused(499, "the client went away", close=True)


async def answer_to(
    request: Request, answer: asyncio.Future[T], deadline_s: float, allowed_s: float
) -> T:
    """What ``answer`` becomes; cancelled when the time is over or the client goes away.

    The body of ``request`` must have been read. ``deadline_s`` is an instant of the event loop's
    clock, ``allowed_s`` the time from the request to it. Raises ``Refused`` 504 and 499.
    """
    try:
        async with _disconnection(request) as gone:
            either: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(
                either,
                timeout=max(0.0, deadline_s - asyncio.get_running_loop().time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            if gone.done():
                raise Refused(499, "the client went away", close=True)
    finally:
        # Takes it out of the executor's queue if it has not begun; what runs sees the event.
        answer.cancel()
    raise Refused(504, f"no answer after {allowed_s:g} s, the limit here: ask for less")


@contextlib.asynccontextmanager
async def _disconnection(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends when the client goes away; for after the body was read."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
