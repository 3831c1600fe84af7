"""Many schedules, on all cores."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from gradmq.sim.violation import Violation
from gradmq.sim.world import play

#: Seeds that one process plays before it is given others.
CHUNK = 250

Played = tuple[list[str], Counter[str], float]
"""Violations, sums, seconds of CPU."""


def play_all(seeds: range) -> Iterator[Played]:
    """Chunk by chunk, a process per core; a single chunk is played here."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if len(chunks) == 1:
        yield play_chunk(seeds)
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(play_chunk, chunks)


def play_chunk(seeds: range) -> Played:
    """Play these in this process."""
    be_quiet()
    counts: Counter[str] = Counter()
    violations, began = [], time.process_time()
    for seed in seeds:
        try:
            counts.update(play(seed))
        except Violation as violation:
            violations.append(f"seed {seed}: {violation}")
    return violations, counts, time.process_time() - began


def be_quiet() -> None:
    """What a shard would log of a torn journal is no news here."""
    logger = logging.getLogger("gradmq")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
