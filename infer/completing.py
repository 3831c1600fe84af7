"""Completions take turns on the model's thread: a long one does not block the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from functools import partial

from starlette.requests import Request

from gradmq.infer.choosing import Choice
from gradmq.infer.completion_request import CompletionRequest
from gradmq.infer.generate import Generation
from gradmq.infer.model_thread import disconnection, until_possible
from gradmq.infer.node_api import NodeApi
from gradmq.infer.refusal import Refused, client_gone, over_time, too_many
from gradmq.infer.running import Running, Turn
from gradmq.infer.standstill import Standstill
from gradmq.infer.turns import Turns
from gradmq.serve import TextModel


class Completing:
    """Runs completions by turns; used by the event loop's thread.

    The release is taken in the first turn of a request, which keeps to it whatever is swapped
    meanwhile: one that waited is answered by the newest.
    """

    def __init__(
        self, node: NodeApi, spec: TextModel, executor: Executor, standstill: Standstill
    ) -> None:
        """``executor`` has the model's one thread.

        In a ``standstill`` no completion begins, and it waits for those that have begun.
        """
        self._node = node
        self._spec = spec
        self._executor = executor
        self._limits = node.limits
        self._standstill = standstill
        self._turns: Turns[Running] = Turns(node.limits.running_completions, standstill.begin)
        self._on_turn: tuple[Running, asyncio.Future[Turn]] | None = None
        self._waiting = 0

    @property
    def spec(self) -> TextModel:
        """What the model is asked with."""
        return self._spec

    @property
    def waiting(self) -> int:
        """Requests that wait for their completions."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def begin(
        self, request: Request, parse: Callable[[Mapping[str, object]], CompletionRequest]
    ) -> AsyncIterator[Running]:
        """Completions of a request from their first token on; leaving the block ends them.

        ``parse`` makes them of the body. Raises ``Refused``: what the body, ``parse`` and the wish
        for a release are refused with, 503 before the first release, 429 when too many wait, 504 at
        the deadline, 500 when the model fails.
        """
        deadline_s = self._node.deadline_s()
        async with self._node.intake.json_object(request, deadline_s) as body:
            wanted = parse(body)
            choice = self._node.choice(request, deadline_s)
            if self._waiting >= self._limits.waiting_requests:
                raise too_many(self._waiting)
            self._waiting += 1
            try:
                await until_possible(request, choice)
                running = Running(wanted, deadline_s, lambda: self._start(choice, wanted))
                async with self._taking_turns(request, running):
                    yield running
            finally:
                self._waiting -= 1

    @contextlib.asynccontextmanager
    async def _taking_turns(self, request: Request, running: Running) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._standstill.when_over = partial(self._call_soon, loop)
        late = over_time(self._limits.request_s)
        async with disconnection(request) as gone:
            gone.add_done_callback(lambda _: self._end(running, client_gone()))
            alarm = loop.call_at(running.deadline_s, self._end, running, late)
            self._turns.add(running)
            self._start_turn()
            try:
                await running.begun()
                yield
            finally:
                alarm.cancel()
                self._end(running, client_gone())

    def _start(self, choice: Choice, wanted: CompletionRequest) -> Generation:
        return Generation(choice.holding(), self._spec, wanted, self._limits.scored_tokens)

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the node is ending
            loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        self._turns.fill()
        self._start_turn()

    def _leave(self, running: Running) -> None:
        if self._turns.remove(running):
            self._standstill.end()

    def _end(self, running: Running, why: Refused) -> None:
        running.fail(why)
        self._leave(running)
        if self._on_turn is not None and self._on_turn[0] is running:
            # Its last token may still be under way; what comes next waits behind that.
            self._on_turn[1].cancel()

    def _start_turn(self) -> None:
        if self._on_turn is not None:
            return
        running = self._turns.next()
        if running is None:
            return
        loop = asyncio.get_running_loop()
        turn = loop.run_in_executor(
            self._executor, running.turn, self._node.clock, self._limits.turn_s
        )
        self._on_turn = running, turn
        turn.add_done_callback(partial(self._turn_over, running))

    def _turn_over(self, running: Running, turn: asyncio.Future[Turn]) -> None:
        self._on_turn = None
        if not turn.cancelled():
            error = turn.exception()
            if error is not None:
                running.fail(error)
                self._leave(running)
            else:
                pieces, ended = turn.result()
                running.came(pieces, ended)
                if ended:
                    self._leave(running)
        self._start_turn()
