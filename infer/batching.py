"""Queues inference requests and has the model's thread run them in batches."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from starlette.requests import Request

from gradmq.errors import SettingsError
from gradmq.infer.batch_former import BatchFormer, Waiting
from gradmq.infer.batch_run import Asked, BatchOutcome, BatchRunner
from gradmq.infer.infer_answer import InferAnswer
from gradmq.infer.infer_request import InferRequest
from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.infer.model_thread import Answered, answer_to
from gradmq.infer.refusal import too_many
from gradmq.infer.serving import Holding
from gradmq.serve import TensorModel, TextModel

#: While more requests wait, answers are given away together: held back so long at most, and for the
#: batch that is running then. As the event loop writes them, the model's thread waits for the
#: interpreter, up to Python's switch interval each time: this, too.
_TOGETHER_S = 0.005


@dataclass(frozen=True, slots=True)
class _Ticket:
    asked: Asked
    answer: asyncio.Future[Answered[InferAnswer]]


@dataclass(frozen=True, slots=True)
class _Ran:
    """A batch that ran, and what came of it."""

    batch: Sequence[Waiting[_Ticket]]
    begun_s: float
    outcome: BatchOutcome | Exception


class Batching:
    """Answers inference requests in batches, one batch at a time.

    Requests come and answers go in the event loop's thread. The model's thread takes the next batch
    itself as soon as it has run one: it never waits for the event loop while there is work. The
    release is taken when a batch begins: a swap happens between two batches, never inside one.
    """

    def __init__(
        self,
        model_name: str,
        spec: TensorModel,
        executor: Executor,
        limits: HttpLimits,
        measures: Measures,
        clock: Callable[[], float],
    ) -> None:
        """``clock``: monotonic seconds, the one that releases were offered by."""
        self._executor = executor
        self._limits = limits
        self._measures = measures
        self._runner = BatchRunner(model_name, spec, clock)
        self._batchable = is_batchable(spec)
        self._lock = threading.Lock()
        """Of the two below, which both threads use."""
        self._former: BatchFormer[_Ticket] = BatchFormer(
            limits.batch_rows, limits.batch_delay_s, limits.waiting_requests
        )
        self._is_running = False
        """The model's thread is at work, and looks for more before it rests."""
        self._ran: deque[_Ran] = deque()
        self._delivers = False
        """The event loop has been told to deliver what ran, and has not begun to."""
        self._alarm: asyncio.TimerHandle | None = None
        self._serial = itertools.count()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._former)

    async def infer(
        self,
        request: Request,
        wanted: InferRequest,
        choose: Callable[[], Holding],
        encoding: str | None,
        deadline_s: float,
    ) -> Answered[InferAnswer]:
        """The answer to ``wanted``, and the release it ran on.

        ``choose`` takes the release when the batch begins, in the model's thread. ``deadline_s`` is
        an instant of the event loop's clock; the request's own timeout may be earlier. The body of
        ``request`` must have been read. Raises ``Refused``: what ``choose`` does, 429 when too many
        wait, 504 at the deadline, 500 when the model fails.
        """
        loop = asyncio.get_running_loop()
        now, allowed_s = loop.time(), self._limits.request_s
        if wanted.timeout_s is not None and now + wanted.timeout_s < deadline_s:
            deadline_s, allowed_s = now + wanted.timeout_s, wanted.timeout_s
        rows = min((len(array) for array in wanted.inputs.values()), default=0)
        waiting = Waiting(
            _Ticket(Asked(wanted, choose, encoding, rows), loop.create_future()),
            *self._place(wanted, rows),
            arrived_s=now,
            deadline_s=deadline_s,
        )
        with self._lock:
            if not self._former.add(waiting):
                raise too_many(len(self._former))
        if not self._is_running:
            # Only after all requests that this round of the event loop brings: they run together,
            # and the two threads do not take the interpreter from each other for every one.
            loop.call_soon(self._start_what_is_due, loop)
        try:
            return await answer_to(request, waiting.what.answer, deadline_s, allowed_s)
        finally:
            with self._lock:
                self._former.remove(waiting)

    def _place(self, wanted: InferRequest, rows: int) -> tuple[object, int]:
        """Key and rows: what may run beside it, and how much room it takes."""
        arrays = [wanted.inputs[name] for name in sorted(wanted.inputs)]
        if not self._batchable or any(len(array) != rows for array in arrays):
            # By itself: nothing has its key, and it fills a batch.
            return next(self._serial), self._limits.batch_rows
        return tuple(array.shape[1:] for array in arrays), max(1, rows)

    def _start_what_is_due(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._is_running:
                return
            due_s = self._former.next_due_s()
            self._is_running = due_s is not None and due_s <= loop.time()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._is_running:
            self._executor.submit(self._run_all_due, loop)
        elif due_s is not None:
            self._alarm = loop.call_at(due_s, self._start_what_is_due, loop)

    def _run_all_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the model's thread: batch after batch while one is due."""
        untold_since_s: float | None = None
        while True:
            with self._lock:
                batch = self._former.take(loop.time())
                self._is_running = bool(batch)
                waits = len(self._former) > 0
            if untold_since_s is not None and not (
                batch and loop.time() - untold_since_s < _TOGETHER_S
            ):
                untold_since_s = None
                self._tell_of_answers(loop)
            if not batch:
                if waits:  # for others to come, or for its time to be over
                    _tell(loop, self._start_what_is_due, loop)
                return
            begun_s = loop.time()
            try:
                outcome: BatchOutcome | Exception = self._runner.run(
                    [waiting.what.asked for waiting in batch]
                )
            except Exception as error:  # noqa: BLE001  (raised again where the answer is awaited)
                outcome = error
            self._ran.append(_Ran(batch, begun_s, outcome))
            if untold_since_s is None:
                untold_since_s = begun_s

    def _tell_of_answers(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._delivers:
            self._delivers = True
            _tell(loop, self._deliver)

    def _deliver(self) -> None:
        """In the event loop: give away the answers of all batches that ran."""
        # Before the first look: what runs from now on is announced again.
        self._delivers = False
        while self._ran:
            ran = self._ran.popleft()
            if isinstance(ran.outcome, BatchOutcome):
                self._measure(ran.batch, ran.begun_s, ran.outcome)
            for index, waiting in enumerate(ran.batch):
                answer = waiting.what.answer
                if answer.done():
                    continue  # its deadline is over, or its client is gone
                if isinstance(ran.outcome, Exception):
                    found: Answered[InferAnswer] | Exception = ran.outcome
                else:
                    found = ran.outcome.answers[index]
                if isinstance(found, Answered):
                    answer.set_result(found)
                else:
                    answer.set_exception(found)

    def _measure(
        self, batch: Sequence[Waiting[_Ticket]], begun_s: float, outcome: BatchOutcome
    ) -> None:
        answered = [
            waiting
            for waiting, answer in zip(batch, outcome.answers, strict=True)
            if isinstance(answer, Answered)
        ]
        if answered:
            times = outcome.times
            self._measures.batch(
                [begun_s - waiting.arrived_s for waiting in answered],
                sum(waiting.what.asked.rows for waiting in answered),
                times.executions,
                input_s=times.input_s,
                infer_s=times.infer_s,
                output_s=times.output_s,
            )


def _tell(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the node has ended
        loop.call_soon_threadsafe(callback, *arguments)


def is_batchable(spec: TensorModel | TextModel) -> bool:
    """True if the first dimension of every tensor may vary: rows of several requests can be one."""
    return isinstance(spec, TensorModel) and all(
        tensor.shape[0] == -1 for tensor in (*spec.inputs, *spec.outputs)
    )


def require_batchable(spec: TensorModel | TextModel, batch_rows: int) -> None:
    """Raises ``SettingsError`` if batches are wanted of a model that cannot have them."""
    if batch_rows > 1 and not is_batchable(spec):
        text = f"infer.max_batch_size is {batch_rows}, but this job's requests cannot be batched"
        more = ", or give every tensor of its TensorModel -1 as the first dimension"
        is_text = isinstance(spec, TextModel)
        raise SettingsError(f"{text}: leave it at 1{'' if is_text else more}")
