"""The simulated follower: ``infer/stream.py`` around the production assembly of releases."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from gradmq.layout import Layout
from gradmq.replica import Release, Releases
from gradmq.sim.member import SimMember
from gradmq.wire.messages import (
    Beacon,
    Directory,
    Hello,
    Manifest,
    Message,
    Publication,
    Refused,
    Renewed,
    Welcome,
)

if TYPE_CHECKING:
    from gradmq.sim.world import World


class SimFollower(SimMember):
    """One process that follows the releases."""

    def __init__(self, world: World, label: str) -> None:
        self.releases: Releases | None = None
        self.newest: Release | None = None
        self.topics: Set[str] = {"beacons"}
        self._follower_name = ""
        super().__init__(world, label)

    def hello(self) -> Hello:
        layout = Layout(self.world.tracer.layout.tensors, 1)
        return Hello(
            role="follower",
            name=self._follower_name,
            host="host",
            pid=self.pid,
            run=self.welcome.run if self.welcome else None,
            release=self.newest.number if self.newest else 0,
            payload=(layout.to_bytes(),),
        )

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        self._follower_name = welcome.name
        if self.releases is None:
            self.releases = Releases(welcome.run, self.world.tracer.layout)

    def on_name_taken(self, refused: Refused) -> None:
        self.world.member_checks.refused(self, refused)

    def on_directory(self, directory: Directory, now: float) -> None:
        pass

    def on_broker(self, message: Message, now: float) -> None:
        match message:
            case Manifest():
                self._on_manifest(message, now)
            case Renewed():
                if message.manifest is not None:
                    self._on_manifest(message.manifest, now)
            case _:
                raise AssertionError(f"a {message.KIND} is not for a follower")

    def _on_manifest(self, manifest: Manifest, now: float) -> None:
        assert self.releases is not None
        self._take(self.releases.on_manifest(manifest))
        if self.newest is None:
            for ask in self.releases.missing(now):
                self.ask(ask)

    def on_stream(
        self, publications: Sequence[Publication], beacon: Beacon | None, now: float
    ) -> None:
        assert self.releases is not None
        for publication in publications:
            self._take(self.releases.on_publication(publication))
        if beacon is not None:
            self.ask(self.releases.on_beacon(beacon, now))

    def on_control(self, shard: int, message: Message, now: float) -> None:
        assert self.releases is not None
        match message:
            case Publication():
                self._take(self.releases.on_publication(message))
            case Refused(reason="release"):
                self.world.counts["refused for release"] += 1
                self.topics |= {"releases"}
                self.releases.on_refused(shard)
            case _:
                raise AssertionError(f"a {message.KIND} is not for a follower")

    def _take(self, release: Release | None) -> None:
        if release is not None:
            self.world.view_checks.released(self, release)
            self.newest = release
            self.topics |= {"releases"}

    def on_time(self, now: float) -> None:
        pass

    def on_end_of_pass(self, now: float) -> None:
        pass

    def wake_at(self) -> float:
        return float("inf")
