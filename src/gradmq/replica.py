"""A replica: a subscriber's copy of the parameters, in worker and follower alike.

Two pure classes. ``Replica`` keeps the newest version of every shard, each for itself (a worker
computes on it). ``Releases`` assembles whole-model releases (a follower serves them). Both are fed
by the same stream, or read what a shard of the same host has in a ring, and both repair every loss
in one way: fetch.

Why a beacon is enough to see a loss: publications and beacons of a shard travel on one PUB socket,
in order. A beacon that names a version which did not come before it names one that was dropped, or
published before this subscriber was there; nothing needs to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import crc32c

from gradmq.layout import Layout
from gradmq.ring import RingReader
from gradmq.wire.codec import Vector, payload_chunks
from gradmq.wire.messages import Beacon, Fetch, Manifest, Publication, Version

#: A fetch without answer for this long is repeated: its answer was dropped, or the shard restarted.
FETCH_AGAIN_S = 5.0

#: Releases may close so many times before the parts of one are here.
MANIFESTS_KEPT = 8


@dataclass(frozen=True, slots=True)
class AskShard:
    """Effect: send this request to this shard."""

    shard: int
    message: Fetch


@dataclass(frozen=True, slots=True)
class Source:
    """One version of a shard's parameters where it lies, to be copied from there."""

    version: Version
    chunks: Iterable[Vector] = field(repr=False)
    """Back to back they are the parameters; to be gone through once."""
    is_intact: Callable[[], bool] = field(repr=False)
    """Asked after that: False if it was not this version, whole and undamaged."""


@dataclass(slots=True)
class _Copy:
    """The state of one shard in a replica."""

    newest: Publication | None = None
    version: Version | None = None
    incarnation: int = 0
    ring: RingReader | None = None
    """Where that life of the shard writes its parameters. It stays when that life is over, with
    its last version, until something newer is here."""
    torn: Version | None = None
    """This version could not be copied whole: the answer to a fetch, at least as new, is awaited,
    or here as ``whole``."""
    whole: Publication | None = None
    fetching_since: float | None = None
    fetching: Version | None = None
    """What the answer must hold at least; the stream may bring it too."""

    def lacks(self, version: Version) -> bool:
        return self.version is None or self.version < version

    def holds(self, version: Version) -> None:
        self.version = version
        if self.fetching is not None and version >= self.fetching:
            self.fetching_since = self.fetching = None

    def source(self) -> Source:
        """Of a complete replica."""
        if self.whole is not None:
            return _in_parts(self.whole)
        if self.newest is not None:
            return _in_parts(self.newest)
        ring = self.ring
        assert ring is not None
        view = ring.newest()
        version = (self.incarnation, view.version)
        return Source(version, (view.values,), lambda: ring.is_intact(view))


def _in_parts(publication: Publication) -> Source:
    """Each part is summed just before it is copied: it is in the cache then."""
    crc = 0

    def chunks() -> Iterator[Vector]:
        nonlocal crc
        for chunk in payload_chunks(publication.payload):
            crc = crc32c.crc32c(chunk.data, crc)
            yield chunk

    return Source(publication.version, chunks(), lambda: crc == publication.crc)


class Replica:
    """The newest version of every shard that can be had here; versions only grow (P3).

    A shard's parameters come as publications, or lie in a ring that can be read here.
    """

    def __init__(self, run: str, layout: Layout) -> None:
        self._run = run
        self._layout = layout
        self._copies = [_Copy() for _ in layout.parts]

    @property
    def complete(self) -> bool:
        """True once every shard has arrived at least once."""
        return all(copy.version is not None for copy in self._copies)

    @property
    def versions(self) -> tuple[Version | None, ...]:
        return tuple(copy.version for copy in self._copies)

    @property
    def publications(self) -> tuple[Publication | None, ...]:
        """The newest that came of each shard; None: nothing did, or a ring holds newer ones."""
        return tuple(copy.newest for copy in self._copies)

    @property
    def fetching(self) -> tuple[int, ...]:
        """The shards whose answer to a fetch is awaited."""
        return tuple(i for i, copy in enumerate(self._copies) if copy.fetching_since is not None)

    def sources(self) -> list[Source]:
        """The newest parameters of every shard; the replica must be complete."""
        return [copy.source() for copy in self._copies]

    # -- rings ------------------------------------------------------------------------------------

    def open_ring(self, shard: int, incarnation: int, ring: RingReader) -> None:
        """This life of a shard writes its parameters here."""
        copy = self._copies[shard]
        copy.incarnation, copy.ring = incarnation, ring
        self.look(shard)

    def has_ring(self, shard: int) -> bool:
        return self._copies[shard].ring is not None

    def look(self, shard: int) -> None:
        """Whatever is newest in a shard's ring is here, whether or not it was announced."""
        copy = self._copies[shard]
        if copy.ring is None:
            return
        version = (copy.incarnation, copy.ring.newest().version)
        if copy.lacks(version):
            copy.newest = None
            copy.holds(version)

    def on_torn(self, shard: int) -> None:
        """Its newest cannot be copied: overtaken, or damaged. What a fetch brings is, instead."""
        copy = self._copies[shard]
        copy.torn = copy.version
        copy.whole = None  # what an earlier fetch brought was damaged too

    def is_torn(self, shard: int) -> bool:
        return self._copies[shard].torn is not None

    def is_whole(self) -> bool:
        """True unless something that could not be copied is still to come."""
        return all(copy.torn is None or copy.whole is not None for copy in self._copies)

    def on_installed(self) -> None:
        """The newest versions were copied."""
        for shard, copy in enumerate(self._copies):
            if copy.whole is not None and copy.ring is None:
                copy.newest = copy.whole  # what it replaces was damaged
                copy.holds(max(copy.whole.version, copy.version or copy.whole.version))
            copy.torn = copy.whole = None
            self.look(shard)

    # -- publications -----------------------------------------------------------------------------

    def on_publication(self, publication: Publication) -> bool:
        """Take a publication from the stream; True if it is newer than what was here."""
        copy = self._copies[publication.shard]
        if not copy.lacks(publication.version):
            return False
        if copy.ring is not None and publication.version[0] <= copy.incarnation:
            self.look(publication.shard)  # it was under way when the ring was opened
            return False
        copy.newest, copy.ring = publication, None
        copy.holds(publication.version)
        return True

    def on_fetched(self, publication: Publication) -> bool:
        """Take the answer to a fetch; True if it is newer than what was here."""
        copy = self._copies[publication.shard]
        if copy.torn is not None and publication.version < copy.torn:
            return False  # asked for before
        copy.fetching_since = copy.fetching = None
        if publication.in_ring:
            self.look(publication.shard)
            return False
        if copy.torn is not None:
            copy.whole = publication
            return False
        return self.on_publication(publication)

    def on_beacon(self, beacon: Beacon, now: float) -> AskShard | None:
        """Fetch what the beacon says must be here and is not, once at a time."""
        copy = self._copies[beacon.shard]
        if not copy.lacks(beacon.published):
            return None
        asked = copy.fetching or copy.version
        of_this_life = asked is None or asked[0] == beacon.published[0]
        if copy.fetching_since is not None and of_this_life:
            return None
        return self.fetch(beacon.shard, now, at_least=beacon.published)

    def on_time(self, now: float) -> list[AskShard]:
        """Ask again where an answer is overdue."""
        return [
            self.fetch(shard, now, copy.fetching)
            for shard, copy in enumerate(self._copies)
            if copy.fetching_since is not None and now - copy.fetching_since >= FETCH_AGAIN_S
        ]

    def fetch(
        self,
        shard: int,
        now: float,
        at_least: Version | None = None,
        session: int | None = None,
    ) -> AskShard:
        """Ask for the newest version of a shard, whether or not anything is missing.

        With a ``session`` that reads its ring, the answer only says that it is there.
        """
        copy = self._copies[shard]
        copy.fetching_since = now
        copy.fetching = at_least
        return AskShard(
            shard,
            Fetch(run=self._run, layout=self._layout.hash, at_least=at_least, session=session),
        )


@dataclass(frozen=True, slots=True)
class Release:
    """A whole model: one publication per shard, checked against the manifest of the broker."""

    number: int
    publications: tuple[Publication, ...] = field(repr=False)

    @property
    def versions(self) -> tuple[Version, ...]:
        return tuple(publication.version for publication in self.publications)

    @property
    def chunks(self) -> tuple[tuple[Vector, ...], ...]:
        """The values of each shard, where they lie; nobody writes to them."""
        return tuple(payload_chunks(publication.payload) for publication in self.publications)


class Releases:
    """Assembles releases out of a manifest and one labelled publication per shard (P2).

    It keeps the parts of what is not complete; a release that is, is its caller's.

    Where parts take longer to come than releases to follow each other, the newest is never whole
    when the next one closes. So one that is begun stays wanted, whatever closes meanwhile, until it
    is whole, a newer one is, or a shard has it no more; a shard is asked for one part at a time.
    """

    def __init__(self, run: str, layout: Layout) -> None:
        self._run = run
        self._layout = layout
        self._parts: dict[int, dict[int, Publication]] = {}
        self._manifests: dict[int, Manifest] = {}
        """The newest that were heard, and the one wanted; all newer than what is complete."""
        self._wanted: int | None = None
        """The release whose parts are fetched; among the manifests."""
        self._labelled = [0] * layout.shards
        self._fetching: dict[int, tuple[int, float]] = {}
        self._have = 0
        """The newest that is complete."""
        self.newest_heard = 0

    def on_publication(self, publication: Publication) -> Release | None:
        """Take one shard's part of a release; returns the release it completes, if any."""
        number = publication.release
        if number is None or number <= self._have:
            return None
        self._parts.setdefault(number, {})[publication.shard] = publication
        if self._fetching.get(publication.shard, (0, 0.0))[0] == number:
            del self._fetching[publication.shard]
        self._labelled[publication.shard] = max(self._labelled[publication.shard], number)
        self._forget_all_but_two()
        return self._complete()

    def on_manifest(self, manifest: Manifest) -> Release | None:
        """Take the broker's word on a release; returns the release it completes, if any."""
        self.newest_heard = max(self.newest_heard, manifest.release)
        if manifest.release <= self._have or len(manifest.shards) != self._layout.shards:
            return None
        self._manifests[manifest.release] = manifest
        if self._wanted is None:
            self._wanted = manifest.release
        for number in sorted(self._manifests)[:-MANIFESTS_KEPT]:
            if number != self._wanted:
                del self._manifests[number]
        return self._complete()

    def on_beacon(self, beacon: Beacon, now: float) -> AskShard | None:
        """Fetch this shard's part of the release wanted, if it should have come and did not."""
        self._labelled[beacon.shard] = max(self._labelled[beacon.shard], beacon.release)
        if self._wanted is None or self._labelled[beacon.shard] < self._wanted:
            return None
        return self._missing(beacon.shard, self._wanted, now)

    def missing(self, now: float) -> list[AskShard]:
        """What to fetch for the release wanted without waiting for beacons (a fresh follower)."""
        if self._wanted is None:
            return []
        asks = (self._missing(i, self._wanted, now) for i in range(self._layout.shards))
        return [ask for ask in asks if ask]

    def on_refused(self, shard: int) -> None:
        """The shard has the release wanted no more: the newest is wanted now, or the next one."""
        self._fetching.pop(shard, None)
        self._wanted = max(self._manifests, default=None)

    def _missing(self, shard: int, release: int, now: float) -> AskShard | None:
        if shard in self._parts.get(release, {}):
            return None
        if shard in self._fetching and now - self._fetching[shard][1] < FETCH_AGAIN_S:
            return None
        self._fetching[shard] = (release, now)
        return AskShard(shard, Fetch(run=self._run, layout=self._layout.hash, release=release))

    def _complete(self) -> Release | None:
        for number in sorted(self._manifests.keys() & self._parts.keys(), reverse=True):
            if self._is_whole(self._manifests[number], self._parts[number]):
                ordered = tuple(self._parts[number][i] for i in range(self._layout.shards))
                self._have = number
                self._forget_what_is_complete()
                return Release(number, ordered)
        return None

    @staticmethod
    def _is_whole(manifest: Manifest, parts: dict[int, Publication]) -> bool:
        for shard, entry in enumerate(manifest.shards):
            part = parts.get(shard)
            if part is None:
                return False
            if (part.version, part.crc) != (entry.version, entry.crc):
                del parts[shard]  # of an incarnation that died with it: fetch the right one
                return False
        return True

    def _forget_what_is_complete(self) -> None:
        have = self._have
        self._parts = {n: parts for n, parts in self._parts.items() if n > have}
        self._fetching = {shard: f for shard, f in self._fetching.items() if f[0] > have}
        self._manifests = {n: manifest for n, manifest in self._manifests.items() if n > have}
        if self._wanted not in self._manifests:
            self._wanted = max(self._manifests, default=None)

    def _forget_all_but_two(self) -> None:
        """Two releases may be under way (one closing, one labelled); older ones never complete."""
        for number in sorted(self._parts)[:-2]:
            if number != self._wanted:
                del self._parts[number]
