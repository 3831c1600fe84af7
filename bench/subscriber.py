"""One subscriber of a shard's publications: it counts them, or is slow until it is ended."""

from __future__ import annotations

import time
from typing import Any

import zmq

from gradmq import link
from gradmq.bench.child import Parent, run
from gradmq.bench.figures import Window
from gradmq.errors import RoleFailed, ShardAway
from gradmq.wire.messages import Publication, Version

#: A shard that is pushed to all the time publishes sooner than this.
PUBLICATION_S = 20.0

#: A slow reader keeps what it has not read where it holds up the sender: not in its own memory.
SLOW_QUEUE_BYTES = 64 << 10


class Subscriber:
    """The stream of one shard, read in one thread."""

    def __init__(self, stream: link.Socket) -> None:
        self._stream = stream
        self._newest: Version = (0, 0)
        self._times: list[float] = []

    def read(self) -> None:
        """Take one publication; raises ShardAway if none comes, RoleFailed if it is no newer."""
        if not self._stream.poll(int(1000 * PUBLICATION_S)):
            raise ShardAway(f"no publication for {PUBLICATION_S:g} s")
        received = link.receive(self._stream, prefixes=1)
        if received is None or not isinstance(received[1], Publication):
            return
        version = received[1].version
        if version <= self._newest:
            raise RoleFailed(f"version {version} came after {self._newest}")
        self._newest = version
        self._times.append(time.monotonic())

    def rate(self, window: Window) -> float:
        """Publications per second within the window."""
        count = sum(window.start <= moment < window.end for moment in self._times)
        return count / window.seconds


def open_stream(context: zmq.Context[link.Socket], address: str, slow: bool) -> link.Socket:
    """As workers open it; a slow one with as little room for what it has not read as can be."""
    if not slow:
        return link.subscribe(context, address, [link.TOPIC_NEWEST])
    stream = context.socket(zmq.SUB)
    stream.setsockopt(zmq.LINGER, 0)
    stream.setsockopt(zmq.RCVHWM, 1)
    stream.setsockopt(zmq.RCVBUF, SLOW_QUEUE_BYTES)
    stream.setsockopt(zmq.SUBSCRIBE, link.TOPIC_NEWEST)
    stream.connect(address)
    return stream


def main(parent: Parent, spec: dict[str, Any]) -> None:
    parent.say("up")
    parent.await_word("join")
    pause_s = spec["pause_s"]
    with zmq.Context() as context, open_stream(context, spec["address"], pause_s > 0) as stream:
        subscriber = Subscriber(stream)
        subscriber.read()
        parent.say("joined")
        while pause_s:
            time.sleep(pause_s)
            subscriber.read()
        while not parent.heard():
            subscriber.read()
        windows = [Window(*window) for window in parent.await_word("count")["windows"]]
        parent.say("done", per_s=[subscriber.rate(window) for window in windows])
        parent.await_word("leave")


if __name__ == "__main__":
    run(main)
