"""Queues inference requests and has the model's thread run them in batches."""

from __future__ import annotations

import asyncio
import itertools
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


@dataclass(frozen=True, slots=True)
class _Ticket:
    asked: Asked
    answer: asyncio.Future[Answered[InferAnswer]]


class Batching:
    """Answers inference requests in batches, one batch at a time; used by the event loop's thread.

    The release is taken when a batch begins: a swap happens between two batches, never inside one.
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
        self._former: BatchFormer[_Ticket] = BatchFormer(
            limits.batch_rows, limits.batch_delay_s, limits.waiting_requests
        )
        self._running = False
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
        if not self._former.add(waiting):
            raise too_many(len(self._former))
        self._start_what_is_due()
        try:
            return await answer_to(request, waiting.what.answer, deadline_s, allowed_s)
        finally:
            self._former.remove(waiting)

    def _place(self, wanted: InferRequest, rows: int) -> tuple[object, int]:
        """Key and rows: what may run beside it, and how much room it takes."""
        arrays = [wanted.inputs[name] for name in sorted(wanted.inputs)]
        if not self._batchable or any(len(array) != rows for array in arrays):
            # By itself: nothing has its key, and it fills a batch.
            return next(self._serial), self._limits.batch_rows
        return tuple(array.shape[1:] for array in arrays), max(1, rows)

    def _start_what_is_due(self) -> None:
        if self._running:
            return
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        batch = self._former.take(loop.time())
        if batch:
            self._running = True
            begun_s = loop.time()
            asked = [waiting.what.asked for waiting in batch]
            outcome = loop.run_in_executor(self._executor, self._runner.run, asked)
            outcome.add_done_callback(lambda done: self._deliver(batch, begun_s, done))
        elif (due_s := self._former.next_due_s()) is not None:
            self._alarm = loop.call_at(due_s, self._start_what_is_due)

    def _deliver(
        self, batch: Sequence[Waiting[_Ticket]], begun_s: float, done: asyncio.Future[BatchOutcome]
    ) -> None:
        self._running = False
        if done.cancelled():
            return  # the node is ending
        error = done.exception()
        if error is None:
            self._measure(batch, begun_s, done.result())
        for index, waiting in enumerate(batch):
            answer = waiting.what.answer
            if answer.done():
                continue  # its deadline is over, or its client is gone
            found = error or done.result().answers[index]
            if isinstance(found, Answered):
                answer.set_result(found)
            else:
                answer.set_exception(found)
        self._start_what_is_due()

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


def is_batchable(spec: TensorModel | TextModel) -> bool:
    """True if the first dimension of every tensor may vary: rows of several requests can be one."""
    return isinstance(spec, TensorModel) and all(
        tensor.shape[0] == -1 for tensor in (*spec.inputs, *spec.outputs)
    )


def require_batchable(spec: TensorModel | TextModel, batch_rows: int) -> None:
    """Raises ``SettingsError`` if batches are wanted of a model that cannot have them."""
    if batch_rows > 1 and not is_batchable(spec):
        raise SettingsError(
            f"infer.max_batch_size is {batch_rows}, but this job's requests cannot be batched: "
            "leave it at 1, or give every tensor of its TensorModel -1 as the first dimension"
        )
