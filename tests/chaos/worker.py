"""A worker of the tracer model: pushes its own numbers, and writes down all it does and sees.

python -m chaos.worker BROKER NAME HISTORY SHARDS PUSHES COPIES FIRST COUNT
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import gradmq
from chaos.history import History
from chaos.tracer import Tracer
from gradmq.process import StopFlag
from gradmq.worker.session import Answered

IN_FLIGHT = 4

#: Between two pushes: all workers together leave the machine room for the faults.
PACE_S = 0.02

#: A wait is broken up so that the history shows that the process lives.
SLICE_S = 5.0


class TracedWorker:
    """One life of one worker."""

    def __init__(self, worker: gradmq.Worker, tracer: Tracer, history: History) -> None:
        self._worker = worker
        self._tracer = tracer
        self._history = history
        self._pushes: dict[tuple[int, int], int] = {}
        self._begun: list[int] = []
        self._session = 0

    def push(self, number: int) -> None:
        gradient = self._tracer.gradient(number)
        self._history.note("begun", push=number)
        self._begun.append(number)
        while True:
            try:
                handle = self._worker.push(gradient, timeout=SLICE_S)
                break
            except gradmq.ShardAway as error:
                self._history.note("waits", text=str(error))
                self.catch_up()
        self._pushes[handle.session, handle.seq] = number
        if handle.session != self._session:
            self._session = handle.session
            self._history.note("session", session=handle.session)

    def catch_up(self) -> None:
        try:
            self._answered(self._worker.catch_up(timeout=SLICE_S).verdicts)
        except gradmq.ShardAway as error:
            self._history.note("waits", text=str(error))

    def drain(self) -> None:
        while True:
            try:
                self._answered(self._worker.drain(timeout=SLICE_S))
                return
            except gradmq.DrainTimeout as error:
                self._history.note("waits", text=str(error))

    def look(self) -> None:
        """Write down what is installed now: the program's own copy, as it would compute on it."""
        versions = self._worker.versions
        if versions:
            seen = self._tracer.read(self._worker.parameters())
            own = ["".join(str(shard.counts[push]) for push in self._begun) for shard in seen]
            self._history.saw(versions, seen, own=own)

    def _answered(self, answers: Iterable[Answered]) -> None:
        for answer in answers:
            self._history.note(
                "verdict",
                push=self._pushes[answer.session, answer.seq],
                session=answer.session,
                seq=answer.seq,
                outcomes=[verdict.outcome for verdict in answer.verdicts],
                versions=[verdict.version for verdict in answer.verdicts],
            )


def main(words: list[str]) -> None:
    broker, name, path = words[:3]
    shards, pushes, copies, first, count = map(int, words[3:])
    logging.basicConfig(format="%(asctime)s worker %(message)s", level=logging.INFO)
    stop = StopFlag().install()
    tracer = Tracer(shards, pushes, copies)
    with (
        History(Path(path)) as history,
        gradmq.Worker(tracer.zeros(), broker, name, IN_FLIGHT, timeout=60.0) as worker,
    ):
        traced = TracedWorker(worker, tracer, history)
        for number in range(first, first + count):
            if worker.stopping or stop():
                break
            traced.push(number)
            traced.catch_up()
            traced.look()
            time.sleep(PACE_S)
        traced.drain()
        traced.catch_up()
        traced.look()


if __name__ == "__main__":
    main(sys.argv[1:])
