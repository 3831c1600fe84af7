"""``python -m soak``: a run under load; memory and descriptors of every role, and their slopes.

    python -m soak [--minutes N] [--network direct|proxy]

Two workers push all the time, a third is killed every 20 s and started again; a follower follows,
a client asks the inference node. Ends with status 1 if a role grows.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from random import Random

import psutil

from chaos.network import NETWORKS
from chaos.roles import Role
from chaos.run import DURABILITIES, Case, TracedRun
from soak.growth import MAY_RISE_DESCRIPTORS, MAY_RISE_MB, growth

RESTART_EVERY_S = 20.0
LOOK_EVERY_S = 1.0

Figures = dict[str, list[tuple[float, float, float]]]
"""By role: (seconds, resident megabytes, descriptors), of processes that live all the time."""


class Soak(TracedRun):
    """The load, and the looking."""

    def run(self, seconds: float) -> Figures:
        """All of it; raises if the run does not begin."""
        figures: Figures = defaultdict(list)
        try:
            self.begin()
            began_at = time.monotonic()
            *_, coming_and_going = self.of("worker")
            watched = {
                role.name: psutil.Process(role.pid)
                for role in self.roles
                if role not in (coming_and_going, *self.of("client"))
            }
            self.later(RESTART_EVERY_S, lambda: self._restart(coming_and_going))
            while (at := time.monotonic() - began_at) < seconds:
                for name, process in watched.items():
                    with contextlib.suppress(psutil.NoSuchProcess):  # said by on_ended
                        memory_mb = process.memory_info().rss / 1e6
                        figures[name].append((at, memory_mb, float(process.num_fds())))
                self.pass_until(began_at + at + LOOK_EVERY_S)
            self.versions = [
                shard["version"] for shard in (self.status() or {"shards": []})["shards"]
            ]
            self.stop()
        finally:
            self.kill_all()
        return figures

    def _restart(self, role: Role) -> None:
        role.kill()
        self.start(role)
        self.later(RESTART_EVERY_S, lambda: self._restart(role))

    def worker_words(self, name: str) -> list[object]:
        return ["soak.worker", self.network.broker, name, *self.sizes]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--network", choices=["direct", "proxy"], default="direct")
    options = parser.parse_args()
    case = Case(options.network, DURABILITIES[0], pushes=12_000, copies=64, staleness="unbounded")
    with (
        tempfile.TemporaryDirectory(prefix="gradmq-soak-") as folder,
        NETWORKS[case.network](case.shards, Random(0)) as network,
    ):
        soak = Soak(case, network, Path(folder))
        figures = soak.run(60 * options.minutes)
    print(
        f"{case.network}, {case.durability}: {options.minutes:g} min, versions {soak.versions}, "
        f"a worker killed every {RESTART_EVERY_S:g} s; slopes after the first third"
    )
    print(f"{'':12}{'MB first':>10}{'last':>8}{'most':>8}{'MB/h':>9}", end="")
    print(f"{'fds first':>11}{'last':>6}{'/h':>8}")
    good = not soak.failures
    for name, rows in figures.items():
        times, memory_mb, descriptors = zip(*rows, strict=True)
        memory, files = growth(times, memory_mb), growth(times, descriptors)
        grows = memory.rise > MAY_RISE_MB or files.rise > MAY_RISE_DESCRIPTORS
        print(
            f"{name:12}{memory.first:10.1f}{memory.last:8.1f}{memory.most:8.1f}"
            f"{memory.per_hour:9.1f}{files.first:11.0f}{files.last:6.0f}{files.per_hour:8.1f}"
            + ("  grows" if grows else "")
        )
        good &= not grows
    for kind, text in soak.failures:
        print(f"{kind}: {text}"[:400])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
