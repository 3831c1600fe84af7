"""Raw TCP on loopback, the least that any transport over it costs: both ends of the echo."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from gradmq.bench.child import Parent, run
from gradmq.bench.figures import Window
from gradmq.errors import RoleFailed, WaitTimeout

#: Both ends work from one buffer of at most this size, which stays in the cache.
BUFFER_BYTES = 4 << 20

#: Nobody waits longer for the other end.
PEER_S = 60.0


def serve(parent: Parent) -> None:
    """Echo every client in a thread of its own, until all have gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PEER_S)
        parent.say("listening", port=listener.getsockname()[1])
        order = parent.await_word("serve")
        threads = []
        for _ in range(order["clients"]):
            connection, _ = listener.accept()
            thread = threading.Thread(target=_echo, args=(connection, order["nbytes"]))
            thread.start()
            threads.append(thread)
    for thread in threads:
        thread.join()


def ask(parent: Parent, port: int, nbytes: int) -> None:
    """Send so many bytes, take as many back, until the window ends."""
    with _tuned(socket.create_connection(("127.0.0.1", port), PEER_S)) as connection:
        parent.say("connected")
        go = parent.await_word("go")
        window = Window(go["start"], go["end"])
        buffer = memoryview(bytearray(min(nbytes, BUFFER_BYTES)))
        within = 0.0
        while (started := time.monotonic()) < window.end:
            _send(connection, buffer, nbytes)
            if not _receive(connection, buffer, nbytes):
                raise RoleFailed("the server of the echo went away")
            within += window.share_of(started, time.monotonic())
        parent.say("done", within=within)
        parent.await_word("leave")


def _echo(connection: socket.socket, nbytes: int) -> None:
    buffer = memoryview(bytearray(min(nbytes, BUFFER_BYTES)))
    with _tuned(connection):
        while _receive(connection, buffer, nbytes):
            _send(connection, buffer, nbytes)


def _tuned(connection: socket.socket) -> socket.socket:
    connection.settimeout(PEER_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _send(connection: socket.socket, buffer: memoryview, nbytes: int) -> None:
    for start in range(0, nbytes, len(buffer)):
        connection.sendall(buffer[: nbytes - start])


def _receive(connection: socket.socket, buffer: memoryview, nbytes: int) -> bool:
    """False if the other end has closed."""
    left = nbytes
    while left:
        got = connection.recv_into(buffer, min(left, len(buffer)))
        if not got:
            return False
        left -= got
    return True


def main(parent: Parent, spec: dict[str, Any]) -> None:
    try:
        if spec["role"] == "server":
            serve(parent)
        else:
            ask(parent, spec["port"], spec["nbytes"])
    except TimeoutError:
        raise WaitTimeout(f"the other end of the echo was silent for {PEER_S:g} s") from None


if __name__ == "__main__":
    run(main)
