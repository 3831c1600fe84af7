"""``python -m gradmq.sim``: play schedules; a seed that fails is replayed with ``--seed``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence

from gradmq.sim.many import be_quiet, play_all
from gradmq.sim.plan import draw_plan
from gradmq.sim.violation import Violation
from gradmq.sim.world import play


def main(arguments: Sequence[str] | None = None) -> int:
    """Play one schedule with its trace, or many with their sums; 1 if any breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m gradmq.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay this schedule, line by line")
    what.add_argument("--seeds", type=int, help="play so many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed)
    return _play_many(range(options.first, options.first + options.seeds))


def _replay(seed: int) -> int:
    be_quiet()
    print(draw_plan(seed))
    try:
        play(seed, print)
    except Violation as violation:
        if violation.rule == "raises":
            traceback.print_exception(violation.__cause__)
        print(violation, file=sys.stderr)
        return 1
    print("all promises were kept")
    return 0


def _play_many(seeds: range) -> int:
    sums: Counter[str] = Counter()
    failed, spent_s, began = 0, 0.0, time.monotonic()
    for violations, counts, took_s in play_all(seeds):
        failed += len(violations)
        spent_s += took_s
        sums.update(counts)
        for violation in violations:
            print(violation, flush=True)
    for what in sorted(sums):
        print(f"{sums[what] / len(seeds):10.2f} a schedule  {what}")
    print(
        f"{len(seeds)} schedules, {failed} failed; {spent_s:.1f} s of CPU, "
        f"{len(seeds) / spent_s:.0f} a second of it; {time.monotonic() - began:.1f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a trace is often cut short with head
    sys.exit(main())
