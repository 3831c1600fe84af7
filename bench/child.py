"""The other end of ``bench.crew``: what a measured process hears from its parent, and says."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from gradmq.bench.processes import descendants, kill
from gradmq.errors import GradmqError, RoleFailed, WaitTimeout

#: The longest that a parent has nothing to say: while it waits for the slowest child.
SILENCE_S = 600.0

#: Of linux/prctl.h.
PR_SET_CHILD_SUBREAPER = 36


class Parent:
    """The process that measures; without it this one ends at once, wherever it is."""

    def __init__(self) -> None:
        self._heard: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen(self) -> Parent:
        threading.Thread(target=self._listen, name="gradmq-bench-parent", daemon=True).start()
        return self

    def await_word(self, word: str) -> dict[str, Any]:
        """What the parent says next, which must be this; raises WaitTimeout, RoleFailed."""
        heard = self.await_any(word)
        if heard.pop("word") != word:
            raise RoleFailed(f"the parent did not say {word!r} but {heard}")
        return heard

    def await_any(self, *words: str) -> dict[str, Any]:
        """What the parent says next, its ``word`` included; one of these, or WaitTimeout."""
        try:
            return self._heard.get(timeout=SILENCE_S)
        except queue.Empty:
            wanted = " or ".join(map(repr, words))
            raise WaitTimeout(f"waited {SILENCE_S:g} s for the parent to say {wanted}") from None

    def heard(self) -> bool:
        """True if the parent has said something that was not awaited yet."""
        return not self._heard.empty()

    def say(self, word: str, **more: Any) -> None:
        sys.stdout.write(json.dumps({"word": word, **more}) + "\n")
        sys.stdout.flush()

    def _listen(self) -> None:
        try:
            for line in sys.stdin:
                self._heard.put(json.loads(line))
        finally:  # also of a line that the parent did not live to finish
            _end(1)


def run(main: Callable[[Parent, dict[str, Any]], None]) -> None:
    """Run ``main(parent, spec)``; what went wrong is one line on stderr, and the end at once."""
    # What this process starts is its own to end, even if who stands in between has ended first.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent = Parent().listen()
    status = 1
    try:
        main(parent, parent.await_word("spec"))
        status = 0
    except GradmqError as error:
        print(error, file=sys.stderr)
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()  # of what is not ours to expect; its last line says what it was
        _end(status)


def _end(status: int) -> None:
    """End at once: threads of a measurement that failed may still wait for a shard."""
    kill(descendants(os.getpid()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
