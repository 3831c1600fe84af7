"""The HTTP server of a node: binds first, serves until told, leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import threading
from collections.abc import Generator
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from gradmq.http_listener import http_listener
from gradmq.infer.connection import Connection
from gradmq.infer.connections import Connections
from gradmq.infer.descriptors import most_connections, say_once_without_descriptors

#: How long answers under way may take to end once the server is told to stop; whole seconds.
_GRACE_S = 1

#: How often the event loop looks whether it was told to stop.
_STOP_POLL_S = 0.05

#: Connections that the kernel holds before they are accepted.
_BACKLOG = 1024

#: The event loop accepts so many before it tells anybody of the first: far fewer than there are
#: descriptors in reserve.
_ACCEPTED_AT_ONCE = 16


class HttpServer:
    """Serves one ASGI application on one address.

    ``bind`` first: from then on ``port`` and ``url`` are known and clients may connect, though
    they are answered only inside ``serve_until``. All methods belong to one thread.

        with HttpServer(app, "127.0.0.1", 0) as server:
            print(server.url)
            server.serve_until(stop)
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._listener: socket.socket | None = None

    def __enter__(self) -> HttpServer:
        self.bind()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def bind(self) -> None:
        """Listen at the address; port 0 takes a free one.

        Raises ``SettingsError`` that names the address and what to do, for a port in use or not
        permitted, and for a host that is unknown or not this machine's.
        """
        self._listener = http_listener(self._host, self._port, _BACKLOG)

    @property
    def port(self) -> int:
        """The port listened at; only after ``bind``."""
        port: int = self._listening().getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where this server answers, seen from this machine; only after ``bind``."""
        port = self.port
        bound = ipaddress.ip_address(self._listening().getsockname()[0])
        host = self._host
        if bound.is_unspecified:
            host = "127.0.0.1" if bound.version == 4 else "::1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve_until(self, stop: threading.Event) -> None:
        """Answer requests in this thread until ``stop`` is set, then end within 2 s and close.

        Answers under way get 1 s to end. Signal handlers are left as they are.
        """
        asyncio.run(self._serve(self._listening(), stop))
        self.close()

    def close(self) -> None:
        """Stop listening; may be called at any time, also twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _listening(self) -> socket.socket:
        if self._listener is None:
            raise RuntimeError("bind() comes first")
        return self._listener

    async def _serve(self, listener: socket.socket, stop: threading.Event) -> None:
        asyncio.get_running_loop().set_exception_handler(say_once_without_descriptors())
        connections: Connections[Connection] = Connections(most_connections())
        config = uvicorn.Config(
            self._app,
            http=functools.partial(Connection, connections=connections),  # type: ignore[arg-type]
            log_config=None,
            log_level="error",  # its warnings are strangers' words
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            backlog=_ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = _Server(config)
        watcher = asyncio.create_task(_end_when(stop, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            watcher.cancel()


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept; asyncio takes the number of one go for the kernel's queue as well."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the node that this server is a part of."""
        yield


async def _end_when(stop: threading.Event, server: uvicorn.Server) -> None:
    # A threading.Event cannot be awaited, and a thread that waits for it could outlive the loop.
    while not stop.is_set():  # noqa: ASYNC110
        await asyncio.sleep(_STOP_POLL_S)
    server.should_exit = True
