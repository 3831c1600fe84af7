"""What a broker shows to Prometheus: the run as a whole, and where to scrape its members."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from gradmq.broker.directory import Member, Members
from gradmq.broker.releases import Releases
from gradmq.exposition import Family, one
from gradmq.wire.messages import Evaluated, Phase, Role

_ADDRESS = re.compile(r"[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+", re.ASCII)


def families(
    members: Members, releases: Releases, evaluations: Iterable[Evaluated], lost: int
) -> Iterator[Family]:
    """As of now; ``lost``: members whose lease ran out."""
    counts = {role: 0 for role in get_args(Role) if role != "observer"}
    counts.update(Counter(member.role for member in members.members.values()))
    samples = [("", {"role": role}, count) for role, count in counts.items()]
    yield Family("gradmq_run_members", "gauge", "Members that are there, by role.", samples)
    text = "Members whose lease ran out: gone without a goodbye."
    yield one("gradmq_run_members_lost_total", "counter", text, lost)
    phases = [("", {"phase": phase}, phase == members.phase) for phase in get_args(Phase)]
    yield Family("gradmq_run_phase", "gauge", "1 for the phase that the run is in.", phases)
    text = "Shards that the run has."
    yield one("gradmq_run_shards", "gauge", text, members.shards)
    text = "Workers in quarantine."
    quarantined = sum(1 for _ in members.standings.quarantined())
    yield one("gradmq_run_quarantined_workers", "gauge", text, quarantined)
    yield from _releases(releases)
    yield from _evaluations(evaluations)


def _releases(releases: Releases) -> Iterator[Family]:
    newest = releases.manifest.release if releases.manifest else 0
    text = "Number of the newest release that all shards have labelled."
    yield one("gradmq_run_release", "gauge", text, newest)
    text = "Number of the newest release that all shards have on disk, of those asked for here."
    yield one("gradmq_run_saved_release", "gauge", text, releases.saved)
    text = "Releases that all shards have labelled."
    yield one("gradmq_run_releases_closed_total", "counter", text, releases.closed)
    text = "Releases given up because a shard did not answer in time."
    yield one("gradmq_run_releases_abandoned_total", "counter", text, releases.abandoned)


def _evaluations(evaluations: Iterable[Evaluated]) -> Iterator[Family]:
    last = max(evaluations, key=lambda evaluated: evaluated.release, default=None)
    if last is None:
        return
    text = "Number of the newest release that was evaluated."
    yield one("gradmq_run_evaluated_release", "gauge", text, last.release)
    samples = [("", {"metric": name}, value) for name, value in last.metrics.items()]
    yield Family("gradmq_run_evaluation", "gauge", "What it achieved, by metric.", samples)


def targets(run: str, members: Iterable[Member], own: str) -> bytes:
    """Everybody who can be scraped, as Prometheus' http_sd reads it; ``own``: the broker."""
    addresses = [("broker", "broker", own)]
    for member in members:
        address = str(member.report.get("metrics") or _of_url(str(member.report.get("url"))))
        if _ADDRESS.fullmatch(address):  # what members report is theirs
            addresses.append((member.role, member.name, address))
    groups = [
        {"targets": [address], "labels": {"run": run, "role": role, "member": name}}
        for role, name, address in sorted(addresses)
    ]
    return json.dumps(groups).encode()


def _of_url(url: str) -> str:
    """HOST:PORT of an inference node, which shows its metrics where it answers."""
    return url.removeprefix("http://")
