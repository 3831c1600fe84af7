"""File descriptors of a server: how many clients may take, and what is said when none is left."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any, Final

_log = logging.getLogger(__name__)

#: For files, the model's libraries, and the sockets of the run that is followed.
_RESERVED: Final = 128

#: One that waits takes about 4 kB.
_MOST_CONNECTIONS: Final = 10_000


def most_connections() -> int:
    """How many clients may be connected at once under the present limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(soft - _RESERVED, soft // 2))


def say_once_without_descriptors() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An event loop's handler of errors: that no connection can be accepted is told only once.

    The loop tries again every second, and would tell it each time with a traceback.
    """
    said = False

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if "accept() out of system resource" not in context.get("message", ""):
            loop.default_exception_handler(context)
        elif not said:
            said = True
            _log.error("no descriptors left for more connections: raise the limit (ulimit -n)")

    return handle
