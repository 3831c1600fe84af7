"""An observer: asks a broker for status, releases and the end, without being part of the run."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq

from gradmq import link
from gradmq.errors import BrokerAway, SettingsError, ShardAway
from gradmq.layout import Layout
from gradmq.replica import FETCH_AGAIN_S
from gradmq.security.keys import Identity, load_operator, why_silent
from gradmq.wire.codec import joined
from gradmq.wire.messages import (
    AskReadmit,
    AskRelease,
    AskStatus,
    AskStop,
    Fetch,
    Message,
    Publication,
    Refused,
    ReleaseMade,
    Status,
)

Answer = TypeVar("Answer", Status, ReleaseMade)

#: A question without answer is asked again after this long.
ASK_AGAIN_S = 0.5


class Observer:
    """A connection to a broker; for one thread.

    ``keys``: in a run with keys, a key file, or the folder with the broker's; raises SettingsError.
    """

    def __init__(self, address: str, keys: Path | None = None) -> None:
        self._address = link.check_address(address)
        self.identity = load_operator(keys)

    def __enter__(self) -> Observer:
        self._context = link.new_context()
        self._broker = link.broker(self._context, self._address, self.identity)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._broker.close()
        self._context.term()

    def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """What is known of the run; raises BrokerAway after ``timeout`` seconds."""
        answer = self._ask(AskStatus(), Status, timeout)
        return answer.status

    def make_release(self, save: bool, timeout: float = 30.0) -> int:
        """Have a release made, and written to disk if ``save``; returns its number.

        Raises BrokerAway at the deadline, ShardAway if the release could not be made.
        """
        answer = self._ask(AskRelease(save=save), ReleaseMade, timeout, repeat=False)
        if answer.error:
            raise ShardAway(answer.error)
        return answer.release

    def roll_back(self, release: int, timeout: float = 60.0) -> int:
        """Have the run go back to a release that is on disk; returns the number of the new one.

        Raises BrokerAway at the deadline, ShardAway if it could not be done.
        """
        ask = AskRelease(save=True, contents_of=release)
        answer = self._ask(ask, ReleaseMade, timeout, repeat=False)
        if answer.error:
            raise ShardAway(answer.error)
        return answer.release

    def stop_workers(self, reason: str) -> None:
        """Ask all workers to finish; sent, not awaited: the status shows when they have left."""
        self._tell(AskStop(reason=reason))

    def readmit(self, worker: str, timeout: float = 5.0) -> None:
        """Let a worker out of quarantine; raises SettingsError if it is in none, or BrokerAway."""
        quarantined = self._quarantined(timeout)
        if worker not in quarantined:
            text = f"in quarantine: {', '.join(quarantined)}" if quarantined else "nobody is"
            raise SettingsError(f"no worker {worker!r} is in quarantine; {text}")
        deadline = time.monotonic() + timeout
        self._tell(AskReadmit(name=worker))
        while worker in self._quarantined(timeout):
            if time.monotonic() > deadline:
                raise BrokerAway(f"broker {self._address} did not let {worker} back")
            time.sleep(0.05)

    def _quarantined(self, timeout_s: float) -> list[str]:
        return [w["name"] for w in self.status(timeout_s)["workers"] if w["quarantine"]]

    def _tell(self, message: Message) -> None:
        deadline = time.monotonic() + ASK_AGAIN_S
        while not link.send(self._broker, message):
            if time.monotonic() > deadline:
                raise BrokerAway(f"broker {self._address} is not connected")
            time.sleep(0.01)

    def wait_for_workers(self, timeout: float) -> list[str]:
        """Wait until all workers have left; returns the names of those still there at the end."""
        deadline = time.monotonic() + timeout
        while True:
            left = [w["name"] for w in self.status(timeout)["workers"] if w["live"]]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    def _ask(
        self, question: Message, kind: type[Answer], timeout_s: float, repeat: bool = True
    ) -> Answer:
        """Send, and wait for an answer of this kind; others belong to older questions."""
        deadline = time.monotonic() + timeout_s
        send_at = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= send_at:
                sent = link.send(self._broker, question)
                again_s = (ASK_AGAIN_S if repeat else timeout_s) if sent else 0.02
                send_at = now + again_s
            wake_at = min(send_at, deadline)
            if not self._broker.poll(max(1, int(1000 * (wake_at - now)))):
                continue
            message = link.receive_good(self._broker, from_broker=True)
            if isinstance(message, kind):
                return message
            if isinstance(message, Refused):
                raise BrokerAway(f"broker {self._address}: {message.text}")
        raise BrokerAway(
            f"broker {self._address} did not answer within {timeout_s:g} s; "
            f"{why_silent(self.identity)}"
        )


def fetch_parameters(
    status: dict[str, Any],
    layout: Layout,
    timeout: float = 10.0,
    identity: Identity | None = None,
) -> list[Publication]:
    """The newest parameters of every shard in ``status``, exactly as the shards have them now.

    Raises ShardAway if one has not answered after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    with link.new_context() as context:
        return [
            _fetch(context, status["run"], layout, shard, deadline, identity)
            for shard in status["shards"]
        ]


def _fetch(
    context: zmq.Context[link.Socket],
    run: str,
    layout: Layout,
    shard: dict[str, Any],
    deadline: float,
    identity: Identity | None,
) -> Publication:
    index = int(shard["index"])
    if not shard["addresses"]:
        raise ShardAway(f"shard {index} is not there: it waits {shard['waiting_for']}")
    control = shard["addresses"][2]
    with link.dealer(context, control, identity, shard["key"]) as socket:
        send_at = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= send_at:
                sent = link.send(socket, Fetch(run=run, layout=layout.hash))
                send_at = now + (FETCH_AGAIN_S if sent else 0.02)
            if not socket.poll(max(1, int(1000 * (min(send_at, deadline) - now)))):
                continue
            match link.receive_good(socket):
                case Publication() as publication:
                    return joined(publication, layout.parts[index].size)
                case Refused(text=text):
                    raise ShardAway(f"shard {index} refused: {text}")
                case _:
                    pass
    raise ShardAway(f"shard {index} at {control} did not send its parameters in time")
