"""What a shard publishes: its present version, from where it lies or copied, and kept releases.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from gradmq.ps.effects import Publish
from gradmq.ps.optim import Vector
from gradmq.ps.parameters import Parameters
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Label, Publication, Version


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
            return Publish(self.copied())
        slot = self._parameters.slot
        self._parameters.lent.add(slot)
        return Publish(self._of(self._parameters.values), slot)

    def in_ring(self) -> Publication:
        """That the present version is where its reader looks."""
        return Publication(
            run=self._run,
            shard=self._shard,
            version=self.version,
            layout=self._layout_hash,
            in_ring=True,
        )

    def copied(self) -> Publication:
        """The present version in memory that nobody writes to."""
        if self._copy is None:
            self._copy = self._of(self._parameters.values.copy())
        return self._copy

    def label(self, label: Label) -> Publication:
        """The present version as part of a release, which is kept; older ones but the closed go."""
        part = replace(self.copied(), release=label.release)
        self._releases = {n: p for n, p in self._releases.items() if n == label.closed}
        self._releases[label.release] = part
        return part

    def kept(self, release: int) -> Publication | None:
        """Its part of a release, if it is kept still."""
        return self._releases.get(release)

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
