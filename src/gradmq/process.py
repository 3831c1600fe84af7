"""What every role's process does alike: logging, signals, ending with its parent, exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from gradmq.errors import GradmqError

#: Set by a launcher whose death, seen as the end of stdin, must end this process too.
UNTIL_STDIN_CLOSES = "GRADMQ_UNTIL_STDIN_CLOSES"

#: A process that was told to stop and has not after this long is ended from within.
STOP_DEADLINE_S = 10.0


class StopFlag:
    """Set by SIGTERM or SIGINT; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        return self.event.is_set()

    def install(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if os.environ.pop(UNTIL_STDIN_CLOSES, ""):
            threading.Thread(target=self._watch_stdin, name="gradmq-parent", daemon=True).start()
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set():
            os._exit(128 + number)
        self.event.set()

    def _watch_stdin(self) -> None:
        while os.read(0, 4096):
            pass
        self.event.set()
        # The main thread may be inside a long computation or a hung call; nobody is left to care.
        threading.Timer(STOP_DEADLINE_S, os._exit, (1,)).start()


def run_role(role: str, main: Callable[[StopFlag], None]) -> int:
    """Run one role to its end; returns the exit status. Errors become one line on stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {role} %(message)s",
        datefmt="%H:%M:%S",
    )
    stop = StopFlag().install()
    try:
        main(stop)
    except GradmqError as error:
        print(f"gradmq {role}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
