"""Would a push be faster as many messages, applied while the rest still arrives?

``python -m gradmq.bench.overlap [MB]`` sends gradients over PUSH and PULL on loopback, from a
process of its own, and applies them to a flat vector: as one multipart that is applied once it is
all there (as gradmq does), and with every 1 MiB part as a message of its own, applied when it
comes (what an overlap could gain at the very most: nothing is checked, and a push is not atomic).
See docs/adr/0017-a-push-stays-one-message.md.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import zmq

from gradmq.wire.codec import PART_BYTES

#: Before giving up on the other process.
PATIENCE_MS = 20_000

ROUNDS, WARM_UP = 12, 3


def send(address: str, mb: float, whole: bool) -> None:
    """Send one gradient for every reply."""
    gradient = np.ones(int(mb * 1e6) // 4, np.float32).data.cast("B")
    parts = [gradient[at : at + PART_BYTES] for at in range(0, len(gradient), PART_BYTES)]
    with (
        zmq.Context() as context,
        context.socket(zmq.PUSH) as push,
        context.socket(zmq.DEALER) as replies,
    ):
        push.connect(address)
        replies.connect(sys.argv[4])
        replies.send(b"ready")
        for _ in range(ROUNDS + WARM_UP):
            if whole:
                push.send_multipart(parts, copy=False)
            else:
                for part in parts:
                    push.send(part, copy=False)
            if not replies.poll(PATIENCE_MS):
                raise SystemExit("no reply from the receiver")
            replies.recv()


def receive(mb: float, whole: bool) -> float:
    """Milliseconds from one reply to the next, the median: a push received and applied."""
    parameters = np.zeros(int(mb * 1e6) // 4, np.float32)
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as pull,
        context.socket(zmq.ROUTER) as replies,
    ):
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (pull, replies)]
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        module = [sys.executable, "-m", "gradmq.bench.overlap", str(mb), addresses[0]]
        sender = subprocess.Popen([*module, "whole" if whole else "parts", addresses[1]])
        try:
            if not replies.poll(PATIENCE_MS):
                raise SystemExit("the sender did not start")
            peer, _ = replies.recv_multipart()
            times = [_round(pull, replies, peer, parameters) for _ in range(ROUNDS + WARM_UP)]
        finally:
            sender.terminate()
            sender.wait()
    return float(1000 * np.median(times[WARM_UP:]))


def _round(
    pull: zmq.Socket[bytes], replies: zmq.Socket[bytes], peer: bytes, parameters: object
) -> float:
    assert isinstance(parameters, np.ndarray)
    started, at = time.perf_counter(), 0
    while at < parameters.size:
        if not pull.poll(PATIENCE_MS):
            raise SystemExit("no gradient from the sender")
        at = _apply(parameters, pull.recv_multipart(copy=False), at)
    replies.send_multipart([peer, b"applied"])
    return time.perf_counter() - started


def _apply(parameters: object, frames: Sequence[zmq.Frame], at: int) -> int:
    assert isinstance(parameters, np.ndarray)
    for frame in frames:
        part = np.frombuffer(frame.buffer, np.float32)
        parameters[at : at + part.size] -= np.float32(0.5) * part
        at += part.size
    return at


def main() -> None:
    mb = float(sys.argv[1]) if len(sys.argv) > 1 else 100.0
    if len(sys.argv) > 2:
        send(sys.argv[2], mb, sys.argv[3] == "whole")
        return
    for turn in range(3):
        whole, parts = receive(mb, True), receive(mb, False)
        print(f"{turn + 1}: one message {whole:.1f} ms, as parts {parts:.1f} ms, "
              f"{whole / parts:.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
