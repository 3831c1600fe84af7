"""A worker whose every update adds 1 to every parameter, and who has releases made of that."""

from __future__ import annotations

import http.client
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from gradmq.bench.child import Parent, run
from gradmq.bench.infer.filled import LR, arrays
from gradmq.errors import RoleFailed
from gradmq.observer import Observer
from gradmq.wire.messages import Version
from gradmq.worker.client import Worker

#: A push, a release or an answer that takes longer has failed.
STEP_S = 30.0


class Pusher:
    """One worker, and an observer of the same run."""

    def __init__(self, mb: float, worker: Worker, observer: Observer) -> None:
        self._worker = worker
        self._observer = observer
        self._gradients = {k: np.full_like(v, -1 / LR) for k, v in arrays(mb).items()}

    def push(self) -> Version:
        """Push, and wait until it is applied; returns the version with it."""
        answered = self._worker.push(self._gradients, timeout=STEP_S).verdict(STEP_S)
        (verdict,) = answered.verdicts
        if verdict.version is None:
            raise RoleFailed(f"push {answered.seq} was not applied: {answered.reasons}")
        return verdict.version

    def release(self, start: float, end: float, every_s: float) -> int:
        """An update and a release of it, so often; returns how many."""
        made = 0
        due = start
        while (now := time.monotonic()) < end:
            time.sleep(max(0.0, min(due, end) - now))
            if time.monotonic() >= end:
                break
            self.push()
            self._observer.make_release(False, STEP_S)
            made += 1
            due = max(due + every_s, time.monotonic())
        return made

    def freshness_ms(self, url: str, path: str, body: bytes, count: int, ask: bool) -> list[float]:
        """Of each of so many pushes: from its verdict to the first answer that has it in it.

        ``ask``: have a release made at once, instead of waiting for the broker to make one.
        """
        node = http.client.HTTPConnection(urlsplit(url).netloc, timeout=STEP_S)
        times = []
        for _ in range(count):
            incarnation, version = self.push()
            begun = time.monotonic()
            wish = f"{incarnation}:{version}"
            headers = {"x-gradmq-min-version": wish, "x-gradmq-wait": f"{STEP_S:g}s"}
            node.request("POST", path, body, headers)
            if ask:
                self._observer.make_release(False, STEP_S)
            answer = node.getresponse()
            text = answer.read()
            times.append(1e3 * (time.monotonic() - begun))
            if answer.status != 200:
                raise RoleFailed(f"a wish for {wish} was answered {answer.status}: {text[:200]!r}")
        node.close()
        return times


def main(parent: Parent, spec: dict[str, Any]) -> None:
    mb, address = spec["mb"], spec["address"]
    with (
        Worker(arrays(mb), address, max_in_flight=1, timeout=STEP_S) as worker,
        Observer(address) as observer,
    ):
        pusher = Pusher(mb, worker, observer)
        parent.say("up")
        while (heard := parent.await_any("release", "freshness", "leave")).pop("word") != "leave":
            if "url" in heard:
                body = heard.pop("body").encode()
                parent.say("done", times_ms=pusher.freshness_ms(body=body, **heard))
            else:
                parent.say("done", made=pusher.release(**heard))


if __name__ == "__main__":
    run(main)
