"""A follower's side of the network: release assembly in the thread ``gradmq-io``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradmq import link
from gradmq.infer.news import ReleaseNews
from gradmq.layout import Layout, Tensor
from gradmq.member_thread import MemberThread
from gradmq.replica import Release, Releases
from gradmq.security.keys import Identity
from gradmq.wire.codec import check_payload
from gradmq.wire.messages import (
    AskStatus,
    Beacon,
    Directory,
    Hello,
    Manifest,
    Message,
    Publication,
    Refused,
    Renewed,
    Role,
    Status,
    Welcome,
)

log = logging.getLogger(__name__)

#: Members tell the broker twice as often; people read no faster.
STATUS_EVERY_S = 1.0


class FollowerThread(MemberThread):
    """Keeps the newest complete release; what is public here needs ``lock``."""

    def __init__(
        self,
        broker: str,
        role: Role,
        name: str,
        tensors: Sequence[Tensor],
        report: Callable[[], Mapping[str, Any]],
        identity: Identity | None = None,
        on_status: Callable[[Mapping[str, Any], float], None] | None = None,
    ) -> None:
        topics = (link.TOPIC_BEACONS,)
        super().__init__(broker, topics, with_gradients=False, report=report, identity=identity)
        self.releases: Releases | None = None
        self.newest: Release | None = None
        self._reads_releases = False
        """From the first release on, which is fetched: until then one copy on its way is enough."""
        self._role: Role = role
        self._name = name
        self._tensors = tuple(tensors)
        self.let_go_of = -1
        self._news = ReleaseNews()
        self._on_status = on_status
        self._ask_status_at = 0.0

    def let_go(self, number: int) -> None:
        """Keep the versions alone of this release, if it is the newest: somebody else has it."""
        if self.newest is not None and self.newest.number == number:
            emptied = tuple(replace(part, payload=()) for part in self.newest.publications)
            self.newest, self.let_go_of = Release(number, emptied), number

    def age_s(self, release: int) -> float:
        """Time since this node last heard that ``release`` is the newest."""
        return self._news.age_s(release, time.monotonic())

    def since_applied_s(self, release: int) -> float | None:
        """Time since the last update in ``release`` was applied, if it is known."""
        return self._news.since_applied_s(release, time.monotonic())

    def waiting_for(self) -> str:
        """Who this follower waits for, in words; "" once it has a release."""
        joining = self.waiting_to_join()
        if joining or self.newest is not None:
            return joining
        if self.directory is not None and self.directory.phase == "waiting":
            return "the run to get its initial parameters"
        return self.member.waiting_for(time.monotonic()) or "the first release"

    # -- joining ----------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(
            role=self._role,
            name=self._name,
            host=link.this_host(),
            pid=os.getpid(),
            run=self.welcome.run if self.welcome else None,
            release=self.newest.number if self.newest else 0,
            payload=(Layout(self._tensors, 1).to_bytes(),),
        )

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        self._name = welcome.name
        if self.layout is None:
            self.layout = Layout(self._tensors, welcome.shards)
            self.releases = Releases(welcome.run, self.layout)

    def on_directory(self, directory: Directory, now: float) -> None:
        """A layout that the first worker brought after this follower had joined is checked here."""
        if directory.payload and self.layout is not None:
            theirs = Layout.from_bytes(b"".join(directory.payload))
            self.layout.require_equal(theirs, "this model", "the run's")

    def on_broker(self, message: Message) -> None:
        now = time.monotonic()
        match message:
            case Manifest():
                self._on_manifest(message, now)
            case Renewed():
                if message.manifest is not None:
                    self._on_manifest(message.manifest, now)
            case Status() if self._on_status is not None:
                self._on_status(message.status, now)
            case _:
                super().on_broker(message)

    def wake_at(self) -> float:
        """When to ask for the status again."""
        asks = self._on_status is not None and self.member.joined
        return self._ask_status_at if asks else float("inf")

    def on_time(self, now: float) -> None:
        if self._reads_releases:
            for shard_link in self.links.by_shard.values():
                shard_link.take(link.TOPIC_RELEASES)
        if now >= self.wake_at():
            # Also when it could not be sent: the next turn is as good.
            self._ask_status_at = now + STATUS_EVERY_S
            link.send(self.broker, AskStatus())

    # -- releases ---------------------------------------------------------------------------------

    def checked(self, publication: Publication, size: int) -> Publication:
        """Its parts stay as they came: they are copied once, into a model."""
        check_payload(publication.payload, size, publication.crc, publication.codec)
        return publication

    def _on_manifest(self, manifest: Manifest, now: float) -> None:
        assert self.releases is not None
        self._news.on_manifest(manifest, now)
        self._take(self.releases.on_manifest(manifest))
        if self.newest is None:
            # A fresh follower does not wait for the next release: this one is still kept.
            for ask in self.releases.missing(now):
                self.ask(ask)

    def on_stream(self, publications: Sequence[Publication], beacon: Beacon | None) -> None:
        assert self.releases is not None
        for publication in publications:
            self._take(self.releases.on_publication(publication))
        if beacon is not None:
            self.ask(self.releases.on_beacon(beacon, time.monotonic()))

    def on_control(self, shard: int, message: Message) -> None:
        assert self.releases is not None
        match message:
            case Publication():
                self._take(self.releases.on_publication(message))
            case Refused(reason="release"):
                self._reads_releases = True  # they follow each other faster than they are fetched
                self.releases.on_refused(shard)
            case _:
                log.warning("a %s of shard %d was ignored", message.KIND, shard)

    def _take(self, release: Release | None) -> None:
        if release is not None:
            self._reads_releases = True
            self.newest = release
            self._news.on_complete(release.number, time.monotonic())
