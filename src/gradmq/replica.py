"""A replica: a subscriber's copy of the parameters, in worker and follower alike.

Two pure classes. ``Replica`` keeps the newest version of every shard, each for itself (a worker
computes on it). ``Releases`` assembles whole-model releases (a follower serves them). Both are fed
by the same stream, and both repair every loss in one way: fetch.

Why a beacon is enough to see a loss: publications and beacons of a shard travel on one PUB socket,
in order. A beacon that names a version which did not come before it names one that was dropped, or
published before this subscriber was there; nothing needs to be waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gradmq.layout import Layout
from gradmq.wire.messages import Beacon, Fetch, Manifest, Publication, Version

#: A fetch without answer for this long is repeated: its answer was dropped, or the shard restarted.
FETCH_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class AskShard:
    """Effect: send this request to this shard."""

    shard: int
    message: Fetch


@dataclass(slots=True)
class _Copy:
    """The state of one shard in a replica."""

    newest: Publication | None = None
    fetching_since: float | None = None
    fetching: Version | None = None
    """What the answer must hold at least; the stream may bring it too."""

    @property
    def version(self) -> Version | None:
        return self.newest.version if self.newest else None

    def lacks(self, version: Version) -> bool:
        return self.newest is None or self.newest.version < version


class Replica:
    """The newest version of every shard that has arrived here; versions only grow (P3)."""

    def __init__(self, run: str, layout: Layout) -> None:
        self._run = run
        self._layout = layout
        self._copies = [_Copy() for _ in layout.parts]

    @property
    def complete(self) -> bool:
        """True once every shard has arrived at least once."""
        return all(copy.newest is not None for copy in self._copies)

    @property
    def versions(self) -> tuple[Version | None, ...]:
        return tuple(copy.version for copy in self._copies)

    @property
    def publications(self) -> tuple[Publication | None, ...]:
        """The newest publication of each shard; their payloads never change."""
        return tuple(copy.newest for copy in self._copies)

    @property
    def fetching(self) -> tuple[int, ...]:
        """The shards whose answer to a fetch is awaited."""
        return tuple(i for i, copy in enumerate(self._copies) if copy.fetching_since is not None)

    def on_publication(self, publication: Publication) -> bool:
        """Take a publication from the stream; True if it is newer than what was here."""
        copy = self._copies[publication.shard]
        if not copy.lacks(publication.version):
            return False
        copy.newest = publication
        if copy.fetching is not None and publication.version >= copy.fetching:
            copy.fetching_since = copy.fetching = None
        return True

    def on_fetched(self, publication: Publication) -> bool:
        """Take the answer to a fetch; True if it is newer than what was here."""
        copy = self._copies[publication.shard]
        copy.fetching_since = copy.fetching = None
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

    def fetch(self, shard: int, now: float, at_least: Version | None = None) -> AskShard:
        """Ask for the newest version of a shard, whether or not anything is missing."""
        copy = self._copies[shard]
        copy.fetching_since = now
        copy.fetching = at_least
        return AskShard(shard, Fetch(run=self._run, layout=self._layout.hash, at_least=at_least))


@dataclass(frozen=True, slots=True)
class Release:
    """A whole model: one publication per shard, checked against the manifest of the broker."""

    number: int
    publications: tuple[Publication, ...] = field(repr=False)

    @property
    def versions(self) -> tuple[Version, ...]:
        return tuple(publication.version for publication in self.publications)


class Releases:
    """Assembles releases out of a manifest and one labelled publication per shard (P2)."""

    def __init__(self, run: str, layout: Layout) -> None:
        self._run = run
        self._layout = layout
        self._parts: dict[int, dict[int, Publication]] = {}
        self._manifest: Manifest | None = None
        self._labelled = [0] * layout.shards
        self._fetching: dict[int, tuple[int, float]] = {}
        self.newest: Release | None = None
        self.newest_heard = 0

    def on_publication(self, publication: Publication) -> Release | None:
        """Take one shard's part of a release; returns the release it completes, if any."""
        number = publication.release
        if number is None or number <= self._have:
            return None
        self._parts.setdefault(number, {})[publication.shard] = publication
        self._labelled[publication.shard] = max(self._labelled[publication.shard], number)
        self._forget_all_but_two()
        return self._complete()

    def on_manifest(self, manifest: Manifest) -> Release | None:
        """Take the broker's word on a release; returns the release it completes, if any."""
        self.newest_heard = max(self.newest_heard, manifest.release)
        if manifest.release <= self._have or len(manifest.shards) != self._layout.shards:
            return None
        if self._manifest is None or manifest.release > self._manifest.release:
            self._manifest = manifest
        return self._complete()

    def on_beacon(self, beacon: Beacon, now: float) -> AskShard | None:
        """Fetch this shard's part of the manifest's release, if it should have come and did not."""
        self._labelled[beacon.shard] = max(self._labelled[beacon.shard], beacon.release)
        manifest = self._manifest
        if manifest is None or self._labelled[beacon.shard] < manifest.release:
            return None
        return self._missing(beacon.shard, manifest.release, now)

    def missing(self, now: float) -> list[AskShard]:
        """What to fetch for the newest manifest without waiting for beacons (a fresh follower)."""
        if self._manifest is None:
            return []
        asks = (self._missing(i, self._manifest.release, now) for i in range(self._layout.shards))
        return [ask for ask in asks if ask]

    def on_refused(self, shard: int) -> None:
        """The shard has this release no more; the next manifest brings a newer one."""
        self._fetching.pop(shard, None)

    @property
    def _have(self) -> int:
        return self.newest.number if self.newest else 0

    def _missing(self, shard: int, release: int, now: float) -> AskShard | None:
        if shard in self._parts.get(release, {}):
            return None
        asked, since = self._fetching.get(shard, (0, 0.0))
        if asked == release and now - since < FETCH_AGAIN_S:
            return None
        self._fetching[shard] = (release, now)
        return AskShard(shard, Fetch(run=self._run, layout=self._layout.hash, release=release))

    def _complete(self) -> Release | None:
        manifest = self._manifest
        if manifest is None or manifest.release <= self._have:
            return None
        parts = self._parts.get(manifest.release, {})
        for shard, entry in enumerate(manifest.shards):
            part = parts.get(shard)
            if part is None:
                return None
            if (part.version, part.crc) != (entry.version, entry.crc):
                del parts[shard]  # of an incarnation that died with it: fetch the right one
                return None
        ordered = tuple(parts[shard] for shard in range(self._layout.shards))
        self.newest = Release(manifest.release, ordered)
        self._parts = {n: p for n, p in self._parts.items() if n > manifest.release}
        return self.newest

    def _forget_all_but_two(self) -> None:
        """Two releases may be under way (one closing, one labelled); older ones never complete."""
        for number in sorted(self._parts)[:-2]:
            if self._manifest is None or number != self._manifest.release:
                del self._parts[number]
