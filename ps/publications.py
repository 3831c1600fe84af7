"""What a shard publishes: its present version, from where it lies or copied, and kept releases.

Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

from gradmq.ps.effects import Publish
from gradmq.ps.optim import Vector
from gradmq.ps.parameters import Parameters
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Label, Publication, Version

#: On the stream of newest versions, as part of a release, or for one who asked.
Kind = Literal["newest", "release", "fetched"]


class Publications:
    """Of one life of a shard."""

    def __init__(
        self, run: str, shard: int, layout_hash: str, incarnation: int, parameters: Parameters
    ) -> None:
        self.newest: Version | None = None
        """The last one that went to who reads newest versions."""
        self._run = run
        self._shard = shard
        self._layout_hash = layout_hash
        self._incarnation = incarnation
        self._parameters = parameters
        self._copy: Publication | None = None
        """The present version in memory of its own, if somebody asked for it."""
        self._releases: dict[int, Publication] = {}
        self.made: Counter[str] = Counter()
        """By kind, and their payloads."""
        self.made_bytes: Counter[str] = Counter()

    @property
    def version(self) -> Version:
        """The present one."""
        return (self._incarnation, self._parameters.version or 0)

    def on_change(self) -> None:
        """There is another version now."""
        self._copy = None

    def next(self) -> Publish:
        """The present version, from where it lies; a copy while an older one is still leaving."""
        self.newest = self.version
        if self._parameters.lent:
            return Publish(self._counted("newest", self.copied()))
        slot = self._parameters.slot
        self._parameters.lent.add(slot)
        return Publish(self._counted("newest", self._of(self._parameters.values)), slot)

    def in_ring(self) -> Publication:
        """That the present version is where its reader looks."""
        return Publication(
            run=self._run,
            shard=self._shard,
            version=self.version,
            layout=self._layout_hash,
            in_ring=True,
        )

    def fetched(self) -> Publication:
        """The present version for who asked for it."""
        return self._counted("fetched", self.copied())

    def copied(self) -> Publication:
        """The present version in memory that nobody writes to."""
        if self._copy is None:
            self._copy = self._of(self._parameters.values.copy())
        return self._copy

    def label(self, label: Label) -> Publication:
        """The present version as part of a release, which is kept; older ones but the closed go."""
        part = self._counted("release", replace(self.copied(), release=label.release))
        self._releases = {n: p for n, p in self._releases.items() if n == label.closed}
        self._releases[label.release] = part
        return part

    def kept(self, release: int) -> Publication | None:
        """Its part of a release for who asked for it, if it is kept still."""
        part = self._releases.get(release)
        return part and self._counted("fetched", part)

    def _counted(self, kind: Kind, publication: Publication) -> Publication:
        self.made[kind] += 1
        self.made_bytes[kind] += sum(map(len, publication.payload))
        return publication

    def _of(self, values: Vector) -> Publication:
        payload = array_payload(values)
        return Publication(
            run=self._run,
            shard=self._shard,
            version=self.version,
            layout=self._layout_hash,
            crc=payload_crc(payload),
            payload=payload,
        )
