"""Waits for a release and for the model's thread, as long as the client does and may."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from gradmq.infer.choosing import Choice
from gradmq.infer.refusal import client_gone, over_time
from gradmq.infer.serving import Holding

#: How often a request that waits for another release looks whether it is there.
_LOOK_EVERY_S = 0.05

#: And sooner in the beginning, so that no wait becomes much longer by it: after this, and when this
#: part of the time it has waited has gone by once more.
_LOOK_SOON_S, _LOOK_LATE = 0.002, 0.25

#: So long a request waits for its answer before anybody looks whether its client is still there:
#: most answers come sooner, and looking costs more than all the rest of the wait.
_UNWATCHED_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What the work returned, and the release it ran on."""

    value: T
    holding: Holding


async def until_possible(request: Request, choice: Choice) -> None:
    """Wait until there is a release for this request; its body must have been read.

    Raises ``Refused`` as ``Choice.is_possible`` does, and 499 when the client goes away.
    """
    if choice.is_possible():
        return
    clock = asyncio.get_running_loop().time
    begun_s = clock()
    async with disconnection(request) as gone:
        while not choice.is_possible():
            waited_s = clock() - begun_s
            look_s = min(_LOOK_EVERY_S, max(_LOOK_SOON_S, _LOOK_LATE * waited_s))
            await asyncio.wait({gone}, timeout=look_s)
            if gone.done():
                raise client_gone()


async def answer_to(
    request: Request, answer: asyncio.Future[T], deadline_s: float, allowed_s: float
) -> T:
    """What ``answer`` becomes; cancelled when the time is over or the client goes away.

    The body of ``request`` must have been read. ``deadline_s`` is an instant of the event loop's
    clock, ``allowed_s`` the time from the request to it. Raises ``Refused`` 504 and 499.
    """
    loop = asyncio.get_running_loop()
    try:
        if await _comes(answer, min(deadline_s, loop.time() + _UNWATCHED_S)):
            return answer.result()
        async with disconnection(request) as gone:
            either: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(
                either,
                timeout=max(0.0, deadline_s - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            if gone.done():
                raise client_gone()
    finally:
        # Takes it out of the executor's queue if it has not begun; what runs sees the event.
        answer.cancel()
    raise over_time(allowed_s)


async def _comes(answer: asyncio.Future[T], by_s: float) -> bool:
    """True if ``answer`` is done by then; much cheaper than ``asyncio.wait``."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_at(by_s, end)
    answer.add_done_callback(end)
    try:
        await over
    finally:
        timer.cancel()
        answer.remove_done_callback(end)
    return answer.done()


@contextlib.asynccontextmanager
async def disconnection(request: Request) -> AsyncIterator[asyncio.Task[None]]:
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
