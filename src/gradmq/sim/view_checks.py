"""Every view of the parameters: whole, true, and never older than the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradmq.replica import Release, Replica
from gradmq.sim.history import ShardHistory
from gradmq.sim.violation import Violation
from gradmq.wire.codec import payload_crc
from gradmq.wire.messages import Manifest, Publication, Version

if TYPE_CHECKING:
    from gradmq.sim.follower import SimFollower
    from gradmq.sim.worker import SimWorker


class ViewChecks:
    """What shards published, and what workers and followers held."""

    def __init__(self, histories: Sequence[ShardHistory], counts: Counter[str]) -> None:
        self._histories = histories
        self._counts = counts
        self._seen: dict[tuple[SimWorker, int], Version] = {}
        self._installed: dict[SimWorker, tuple[Version, ...]] = {}
        self._labelled: dict[tuple[int, int], Version] = {}
        """By (release, shard): what was published under this number."""
        self._manifests: dict[int, Manifest] = {}
        self._taken: set[int] = set()
        """Releases that some follower took, and may have told others of."""

    def published(self, publication: Publication) -> None:
        """What leaves a shard is exactly the version that it says it is."""
        self._require_true("a publication", publication)
        number, shard = publication.release, publication.shard
        if number is None:
            return
        before = self._labelled.get((number, shard), publication.version)
        self._labelled[number, shard] = publication.version
        if before != publication.version and number in self._taken:
            raise Violation(
                "releases",
                f"number {number} is used again: shard {shard} had {before} under it and "
                f"publishes {publication.version}",
            )

    def left_unchanged(self, publication: Publication, sent: Publication) -> None:
        """Nobody has written to a publication while it was being sent."""
        if b"".join(publication.payload) != b"".join(sent.payload):
            raise Violation(
                "never torn",
                f"a publication of {publication.version} of shard {publication.shard} was written "
                "to while it left",
            )

    def _require_true(self, what: str, publication: Publication) -> None:
        state = self._histories[publication.shard].state(publication.version)
        if state != b"".join(publication.payload):
            raise Violation(
                "never torn",
                f"{what} of shard {publication.shard} names {publication.version} and holds "
                f"{'what no version was' if state is not None else 'what never was'}",
            )

    def observed(self, worker: SimWorker, shard: int, replica: Replica) -> None:
        """A worker's replica may have changed."""
        version, publication = replica.versions[shard], replica.publications[shard]
        assert version is not None
        before = self._seen.get((worker, shard))
        if before is not None and version < before:
            raise Violation(
                "never backwards",
                f"{worker}'s replica of shard {shard} went from {before} to {version}",
            )
        if publication is not None and version != before:
            self._require_true(f"{worker}'s replica", publication)
        self._seen[worker, shard] = version

    def copied(self, worker: SimWorker, parameters: Sequence[bytes]) -> None:
        """A worker has copied these parameters, as those of its base versions."""
        for history, version, values in zip(self._histories, worker.base, parameters, strict=True):
            if history.state(version) != values:
                raise Violation(
                    "never torn",
                    f"{worker} copied {version} of shard {history.index}, which was not so",
                )

    def installed(self, worker: SimWorker) -> None:
        """A worker's model holds these versions now."""
        before = self._installed.get(worker)
        if before and any(a > b for a, b in zip(before, worker.base, strict=True)):
            raise Violation("never backwards", f"{worker} installed {worker.base} after {before}")
        self._installed[worker] = worker.base

    def closed(self, manifest: Manifest) -> None:
        """A release has closed: each shard truly had what the manifest says."""
        self._manifests[manifest.release] = manifest
        for history, entry in zip(self._histories, manifest.shards, strict=True):
            state = history.state(entry.version)
            if state is None or payload_crc((state,)) != entry.crc:
                raise Violation(
                    "never torn",
                    f"release {manifest.release} closed with {entry.version} of shard "
                    f"{history.index}, which was not so",
                )

    def released(self, follower: SimFollower, release: Release) -> None:
        """A follower has a whole release: a closed one, newer than the last, and true."""
        manifest = self._manifests.get(release.number)
        if manifest is None:
            raise Violation("releases", f"{follower} took release {release.number}, never closed")
        versions = tuple(entry.version for entry in manifest.shards)
        if release.versions != versions:
            raise Violation(
                "never torn",
                f"{follower} took {release.versions} as release {release.number}, "
                f"which is {versions}",
            )
        last = follower.newest
        if last is not None and (
            release.number <= last.number
            or any(a > b for a, b in zip(last.versions, release.versions, strict=True))
        ):
            raise Violation("never backwards", f"{follower} went from {last} to {release}")
        for publication in release.publications:
            self._require_true(f"{follower}'s release", publication)
        self._taken.add(release.number)
        self._counts["releases taken"] += 1
