"""Places in the code where a test has the process fail: named, and nothing unless asked for.

``GRADMQ_FAILPOINTS="durable.after_write=kill@3,checkpoint.before_write=sleep:0.2"`` has the process
kill itself the third time it passes the first place, and wait at every pass of the second.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

#: Read once, when this module is loaded. It is no setting: a run never asks for it.
VARIABLE = "GRADMQ_FAILPOINTS"

_ENTRY = re.compile(r"([a-z0-9_.]+)=(?:(kill)|(error)|sleep:(\d+(?:\.\d+)?))(?:@([1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What happens at one place, at every hit or at one only."""

    name: str
    kill: bool
    error: bool
    sleep_s: float
    at_hit: int | None
    hits: count[int] = field(default_factory=lambda: count(1))

    def hit(self) -> None:
        hit = next(self.hits)
        if self.at_hit not in (None, hit):
            return
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error:
            raise OSError(errno.EIO, f"failpoint {self.name}")
        time.sleep(self.sleep_s)


def parse(text: str) -> Mapping[str, _Fault]:
    """The faults by name; ValueError says which entry is not of the form NAME=WHAT[@HIT]."""
    faults = {}
    for entry in filter(None, text.split(",")):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"{VARIABLE} has {entry!r}; write NAME=kill, NAME=error or NAME=sleep:0.2, "
                "and @3 behind it for the third hit only"
            )
        name, kill, error, sleep_s, at_hit = match.groups()
        faults[name] = _Fault(
            name, bool(kill), bool(error), float(sleep_s or 0), int(at_hit) if at_hit else None
        )
    return faults


def _from_environment() -> Mapping[str, _Fault]:
    try:
        return parse(os.environ.get(VARIABLE, ""))
    except ValueError as error:
        raise SystemExit(f"gradmq: {error}") from None


_faults = _from_environment()


def failpoint(name: str) -> None:
    """Fail here if GRADMQ_FAILPOINTS says so: killed, OSError (EIO), or late; any thread."""
    if _faults and name in _faults:
        _faults[name].hit()
