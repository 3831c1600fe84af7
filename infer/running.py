"""One request's completions under way, between the model's thread and the one that answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

from gradmq.infer.completion_request import CompletionRequest
from gradmq.infer.generate import Generation, Piece

#: What came, and whether nothing follows it.
Turn = tuple[list[Piece], bool]


class Running:
    """The completions of one request under way.

    Belongs to the event loop's thread, but for ``turn``, which the model's thread calls.
    """

    def __init__(
        self, wanted: CompletionRequest, deadline_s: float, start: Callable[[], Generation]
    ) -> None:
        """``start`` is called by the model's thread, in the first turn."""
        self.wanted = wanted
        self.deadline_s = deadline_s
        """When it must have ended, on the event loop's clock."""
        self._start = start
        self._generation: Generation | None = None
        self._nobody_waits = threading.Event()
        self._news = asyncio.Event()
        self._ready: list[Piece] = []
        self._error: BaseException | None = None
        self._ended = False

    @property
    def generation(self) -> Generation:
        """What is running, and on which release; once ``begun``."""
        assert self._generation is not None
        return self._generation

    async def begun(self) -> None:
        """Wait for the first token, or raise what there is instead of it."""
        await self._wait()
        if self._error is not None:
            raise self._error

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is generated, as it comes, to the end; raises what ends it early."""
        while True:
            await self._wait()
            ready, self._ready = self._ready, []
            for piece in ready:
                yield piece
            if self._error is not None:
                raise self._error
            if self._ended and not self._ready:
                return

    async def _wait(self) -> None:
        # Bounded: at the request's deadline the alarm that ``Completing`` has set ends it.
        while not (self._ready or self._ended or self._error):
            self._news.clear()
            await self._news.wait()

    def came(self, pieces: list[Piece], ended: bool) -> None:
        """A turn is over."""
        self._ready += pieces
        self._ended = ended
        self._news.set()

    def fail(self, error: BaseException) -> None:
        """Nothing more will come, or nobody waits for it; the first reason given stays."""
        if not self._ended and self._error is None:
            self._error = error
        self._nobody_waits.set()
        self._news.set()

    def turn(self, clock: Callable[[], float], turn_s: float) -> Turn:
        """Generate for so long: the pieces, and whether nothing follows them."""
        until_s = clock() + turn_s
        if self._nobody_waits.is_set():
            return [], True
        if self._generation is None:
            self._generation = self._start()
        return self._generation.take(lambda: self._nobody_waits.is_set() or clock() >= until_s)
