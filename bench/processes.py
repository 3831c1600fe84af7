"""What the kernel says of other processes: time on a processor, memory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from gradmq.errors import RoleFailed


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds on a processor so far, user and system, of all threads of these processes."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    try:
        # The clock of another process, as clock_getcpuclockid(3) names it: in nanoseconds, where
        # /proc counts in hundredths.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        raise RoleFailed(f"process {pid} ended while it was measured") from None


def peak_rss_mb(pids: Iterable[int]) -> float:
    """The largest resident size each had so far, summed; MB of 1e6 bytes."""
    return sum(_peak_rss_mb(pid) for pid in pids)


def _peak_rss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RoleFailed(f"process {pid} ended while it was measured")


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and those that they started, as of now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; the parent is the second word after it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    left = [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
