"""Workers of ps-echo, one thread each: push, obtain parameters that include it, and so on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gradmq.bench import workload
from gradmq.bench.child import Parent, run
from gradmq.bench.echo import echo_name, worker_result
from gradmq.bench.figures import Window
from gradmq.errors import RoleFailed
from gradmq.process import keep_memory
from gradmq.wire.messages import Version
from gradmq.worker.client import Step, Worker

#: Multiples of it, less their whole part, are spread evenly however many there are.
GOLDEN = 0.618

#: A push that takes longer has failed.
PUSH_S = 60.0


class EchoWorker:
    """One worker, in a thread of its own; times are those of ``time.monotonic``."""

    def __init__(self, spec: dict[str, Any], index: int) -> None:
        self._mb: float = spec["mb"]
        self._every_s: float = spec["every_s"]
        # Workers that push at a slow pace do not all push at the same moment.
        self._phase = index * GOLDEN % 1
        self._index = index
        self._model = workload.model(self._mb)
        self._gradients = workload.gradients(self._mb, index)
        self._worker = Worker(
            self._model,
            spec["address"],
            name=echo_name(index),
            max_in_flight=spec["in_flight"],
            timeout=PUSH_S,
            keys=spec["keys"],
        )
        self._under_way: dict[int, float] = {}
        self._landing: dict[int, tuple[Version | None, ...]] = {}
        self._times: list[tuple[float, float]] = []
        self._thread = ThreadPoolExecutor(1, f"echo-{index}")

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call in the thread that this worker belongs to."""
        return self._thread.submit(call, *arguments)

    def open(self) -> None:
        self._worker.open()

    def echo(self, window: Window, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Push until the window ends or it is stopped, then hold everything; returns the result."""
        due = time.monotonic() + self._every_s * self._phase
        while (now := time.monotonic()) < window.end and not stopped():
            if self._every_s:
                time.sleep(max(0.0, due - now))
                due += self._every_s
            started = time.monotonic()
            seq = self._worker.push(self._gradients, timeout=PUSH_S).seq
            self._under_way[seq] = started
            self._note(self._worker.catch_up(PUSH_S))
        self._hold_all()
        return worker_result(self._index, self._times, window)

    def check(self, applied: dict[int, int]) -> bool:
        """True if what this worker holds now is the outcome of these pushes."""
        self._worker.pull(PUSH_S)
        return workload.agrees(self._mb, applied, self._model)

    def close(self) -> None:
        self._worker.close()

    def _hold_all(self) -> None:
        """The last pushes of a window wider than 1: nothing makes room for them."""
        deadline = time.monotonic() + PUSH_S
        while self._under_way and time.monotonic() < deadline:
            self._worker.pull(PUSH_S)
            self._note(self._worker.catch_up(PUSH_S))
        if self._under_way:
            raise RoleFailed(f"echo-{self._index}: pushes {list(self._under_way)} were never held")

    def _note(self, step: Step) -> None:
        """Note the time of every push that the parameters installed now include."""
        now = time.monotonic()
        for answer in step.verdicts:
            if not answer.applied:
                raise RoleFailed(
                    f"echo-{self._index}: push {answer.seq} was not applied: {answer.reasons}"
                )
            self._landing[answer.seq] = tuple(v.version for v in answer.verdicts)
        for seq, wanted in list(self._landing.items()):
            if all(v is None or have >= v for have, v in zip(step.versions, wanted, strict=True)):
                self._times.append((self._under_way.pop(seq), now))
                del self._landing[seq]


def main(parent: Parent, spec: dict[str, Any]) -> None:
    keep_memory()  # as every role's process does
    workers = [EchoWorker(spec, index) for index in spec["workers"]]

    def each(call: Callable[[EchoWorker], Future[Any]]) -> list[Any]:
        return [future.result() for future in [call(worker) for worker in workers]]

    parent.say("up")
    parent.await_word("join")
    each(lambda worker: worker.submit(worker.open))
    parent.say("joined")
    go = parent.await_word("go")
    window = Window(go["start"], go["end"])
    results = each(lambda worker: worker.submit(worker.echo, window, parent.heard))
    if parent.heard():
        parent.await_word("stop")
    parent.say("done", workers=results)
    applied = {int(k): v for k, v in parent.await_word("check")["applied"].items()}
    parent.say("checked", agrees=all(each(lambda w: w.submit(w.check, applied))))
    parent.await_word("leave")
    each(lambda worker: worker.submit(worker.close))


if __name__ == "__main__":
    run(main)
