"""Runs a target on inputs and looks at what each of them did, took and kept."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzz.mutate import Parts
from fuzz.targets import Target

#: The most that one input may take: of this thread's processor time, and of memory at once.
LONGEST_S = 0.1
MOST_BYTES = 16 << 20

#: Findings after which there is nothing to learn from more.
ENOUGH = 20


@dataclass(slots=True)
class Fuzzed:
    """What came of it."""

    inputs: int = 0
    taken: int = 0
    slowest_s: float = 0.0
    grown_bytes: int = 0
    """How much the most memory of the process rose, over all inputs."""
    findings: list[tuple[str, Parts]] = field(default_factory=list)


def fuzz(target: Target, inputs: Iterable[Parts]) -> Fuzzed:
    """Read all of them; ends early after many findings."""
    found = Fuzzed()
    for good in target.corpus():
        assert target.read(good) in (True, False)  # what is loaded at the first use is loaded now
    gc.collect()
    first = peak = _peak_bytes()
    for parts in inputs:
        began_s = time.thread_time()
        try:
            found.taken += target.read(parts)
        except BaseException as error:  # a fault of any kind is a finding
            if isinstance(error, KeyboardInterrupt):
                raise
            found.findings.append((f"{type(error).__name__}: {error}"[:300], parts))
        took_s = time.thread_time() - began_s
        found.inputs += 1
        found.slowest_s = max(found.slowest_s, took_s)
        if took_s > LONGEST_S:
            found.findings.append((f"it took {took_s:.3f} s", parts))
        now = _peak_bytes()
        if now - peak > MOST_BYTES:
            found.findings.append((f"it took {(now - peak) >> 20} MiB", parts))
        peak = max(peak, now)
        if len(found.findings) >= ENOUGH:
            break
    found.grown_bytes = peak - first
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
