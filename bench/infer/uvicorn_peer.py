"""Serves an application on uvicorn until the parent says that it is enough."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

from gradmq.bench.child import Parent


def serve(parent: Parent, app: Any) -> None:
    """On a free port of loopback, without a log of every request."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    # Named, as uvicorn's own is: asyncio turns Nagle's algorithm off for no other, and then every
    # answer waits 40 ms for the client to acknowledge its head.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def wait() -> None:
            parent.say("up", port=listener.getsockname()[1])
            parent.await_word("leave")
            server.should_exit = True

        threading.Thread(target=wait, daemon=True).start()
        server.run(sockets=[listener])
