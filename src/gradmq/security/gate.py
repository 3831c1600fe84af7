"""The gate: answers libzmq's question whether a key may connect (ZAP, RFC 27), for one context.

Every listening socket of a role with keys has CURVE, a domain of its own, and enforces that domain:
without an answer from here nobody connects. A gate that died is a closed gate.
"""

from __future__ import annotations

import logging
import socket as sockets
import threading
import time
from types import TracebackType

import zmq
from zmq.utils import z85

from gradmq.errors import SettingsError
from gradmq.security.access import Access

log = logging.getLogger(__name__)

ADDRESS = "inproc://zeromq.zap.01"

#: To bind an inproc address.
START_S = 10.0

#: Strangers knock again and again: more lines than this would only fill the log.
SAY_EVERY_S = 1.0

WELCOME = b"200"
#: The peer hears nothing, is dropped, and comes again: its key may be on its way here.
NOT_NOW = b"300"
#: The peer is told, and never comes again.
NEVER = b"400"


class Gate:
    """A thread that lets in those whom ``access`` lets in, while the ``with`` block lasts.

    ``access`` is replaced by the thread that owns the gate; each question is answered by what it
    is then.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], access: Access) -> None:
        self.access = access
        self.canary = ""
        """A key that proves the gate shut: refused like any other, but told so at once."""
        self._context = context
        self._bound = threading.Event()
        self._say_at = 0.0
        self._thread = threading.Thread(target=self._run, name="gradmq-gate", daemon=True)

    def __enter__(self) -> Gate:
        self._wake_read, self._wake_write = sockets.socketpair()
        self._thread.start()
        if not self._bound.wait(START_S):
            self.close()
            raise SettingsError("the gate did not open: another one answers in this context")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nobody is let in after this."""
        self._wake_write.close()
        self._thread.join()
        self._wake_read.close()

    def _run(self) -> None:
        try:
            with self._context.socket(zmq.REP) as questions:
                questions.setsockopt(zmq.LINGER, 0)
                questions.bind(ADDRESS)
                self._bound.set()
                poller = zmq.Poller()
                poller.register(questions, zmq.POLLIN)
                poller.register(self._wake_read, zmq.POLLIN)
                while not any(ready != questions for ready, _ in poller.poll()):
                    questions.send_multipart(self._answer(questions.recv_multipart()))
        except Exception:
            log.exception("the gate is shut for good: nobody can connect any more")

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """[version, id, domain, address, routing id, mechanism, key] to whether it may come in."""
        version, request, domain, address = (*question, b"", b"", b"", b"")[:4]
        is_curve = len(question) == 7 and question[5] == b"CURVE" and len(question[6]) == 32
        key = z85.encode(question[6]).decode() if is_curve else ""
        if is_curve and self.access.may_connect(domain.decode(errors="replace"), key):
            return [version, request, WELCOME, b"", key.encode(), b""]
        is_canary = key != "" and key == self.canary
        if not is_canary:
            self._say(domain, address, key)
        return [version, request, NEVER if is_canary else NOT_NOW, b"", b"", b""]

    def _say(self, domain: bytes, address: bytes, key: str) -> None:
        now = time.monotonic()
        if now < self._say_at:
            return
        self._say_at = now + SAY_EVERY_S
        who = self.access.name_of(key) or f"key {key or 'none'}"
        log.warning(
            "refused %s at %s: not allowed to connect to %s",
            who,
            address.decode(errors="replace"),
            domain.decode(errors="replace"),
        )
