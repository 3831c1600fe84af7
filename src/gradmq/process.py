"""What every role's process does alike: logging, signals, ending with its parent, exit status."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from gradmq.errors import GradmqError

log = logging.getLogger(__name__)

#: Set by a launcher whose death, seen as the end of stdin, must end this process too.
UNTIL_STDIN_CLOSES = "GRADMQ_UNTIL_STDIN_CLOSES"

#: A process that was told to stop by a signal and has not after this long is ended from within: a
#: service manager waits longer, and a checkpoint under way may take some of it.
STOP_DEADLINE_S = 30.0
#: The same when its launcher has died: nobody is left to care.
ORPHAN_DEADLINE_S = 10.0


#: glibc's mallopt: what is freed at the top of the heap stays, however much it is.
_M_TRIM_THRESHOLD, _NEVER = -1, -1
#: The heap grows by this much at once.
_M_TOP_PAD, _TOP_PAD_BYTES = -2, 16 << 20
#: Only larger blocks are mapped, and unmapped again, one by one; glibc takes no larger value.
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 32 << 20
#: One heap for all threads: what one frees another can use.
_M_ARENA_MAX = -8


def keep_memory() -> None:
    """Have malloc keep what was freed for the next message of the same size.

    Fresh pages cost more than what is written to them: the kernel clears each one first. For a
    process of one's own: it holds on to the most memory that its messages ever took. Does nothing
    where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in (
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
        (_M_MMAP_THRESHOLD, _MMAP_BYTES),
        (_M_ARENA_MAX, 1),
    ):
        mallopt(option, value)


#: A connection takes a descriptor on its listener's side; with fewer than this, a run of a few
#: hundred members comes near the end of them.
FEW_DESCRIPTORS = 4096


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may, and say so if that is few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < FEW_DESCRIPTORS:
        log.warning(
            "only %d descriptors, one per connection: raise the hard limit (ulimit -Hn)", soft
        )


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
        self._stop(STOP_DEADLINE_S)

    def _watch_stdin(self) -> None:
        while os.read(0, 4096):
            pass
        self._stop(ORPHAN_DEADLINE_S)

    def _stop(self, deadline_s: float) -> None:
        self.event.set()
        # The main thread may be inside a long computation or a hung call.
        timer = threading.Timer(deadline_s, _give_up, (deadline_s,))
        timer.daemon = True
        timer.start()


def _give_up(after_s: float) -> None:
    log.error("did not end within %g s after it was told to; ended all the same", after_s)
    os._exit(1)


def run_role(role: str, main: Callable[[StopFlag], None]) -> int:
    """Run one role to its end; returns the exit status. Errors become one line on stderr.

    ``main`` imports what it needs: numpy reads its number of threads when it is loaded.
    """
    # One pass over memory is not faster with more threads, and roles on one host would fight.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {role} %(message)s",
        datefmt="%H:%M:%S",
    )
    keep_memory()
    raise_descriptor_limit()
    stop = StopFlag().install()
    try:
        main(stop)
    except GradmqError as error:
        print(f"gradmq {role}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
