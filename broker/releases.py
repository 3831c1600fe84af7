"""Releases: numbered whole-model states, one version per shard; pure.

The broker asks every shard to label its present version, and closes the release with a manifest
once all have answered; one that misses its deadline is abandoned. Numbers are never used again.
A release is a version vector, not a cut through pushes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from gradmq.wire.messages import (
    Label,
    Labelled,
    Manifest,
    ManifestEntry,
    ReleaseMade,
    Saved,
    Version,
)

#: A shard that has not labelled by then is away; the release is abandoned, the next one may close.
LABEL_DEADLINE_S = 5.0

#: A shard that has not written its checkpoint by then is reported as failed.
SAVE_DEADLINE_S = 60.0


@dataclass(slots=True)
class _Request:
    peer: bytes
    save: bool
    contents_of: int | None


@dataclass(slots=True)
class _Open:
    """The release that is under way; there is one at a time."""

    number: int
    save: bool
    deadline: float
    requests: list[_Request]
    entries: dict[int, ManifestEntry] = field(default_factory=dict)
    applied_at: float | None = None
    """When the last update in it was applied, of those that the shards told of."""
    saved: dict[int, Saved] = field(default_factory=dict)
    """By shard: those that have written it before the last one has labelled."""


@dataclass(slots=True)
class _Saving:
    """A closed release whose shards are writing."""

    number: int
    versions: tuple[Version, ...]
    deadline: float
    requests: list[_Request]
    waiting: set[int]


@dataclass(frozen=True, slots=True)
class Begin:
    """Effect: send this to every shard."""

    label: Label


@dataclass(frozen=True, slots=True)
class Close:
    """Effect: send this to every follower."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class AnswerRelease:
    """Effect: tell the peer that asked for a release."""

    peer: bytes
    message: ReleaseMade


ReleaseEffect = Begin | Close | AnswerRelease


class Releases:
    """Numbers, opens, closes and abandons releases."""

    def __init__(self, shards: int, every_s: float, save_every_s: float) -> None:
        self.manifest: Manifest | None = None
        self.saved = 0
        self.closed = 0
        self.abandoned = 0
        self._shards = shards
        self._every_s = every_s
        self._save_every_s = save_every_s
        self._last = 0
        self._open: _Open | None = None
        self._saving: _Saving | None = None
        self._requests: list[_Request] = []
        self._due_at: float | None = None
        self._save_at: float | None = None
        self._labelled_versions: tuple[Version, ...] = ()
        self._saved_versions: tuple[Version, ...] = ()

    def on_known(self, release: int) -> None:
        """A member knows this release: numbers go on from there."""
        self._last = max(self._last, release)

    def on_ask(
        self,
        peer: bytes,
        save: bool,
        contents_of: int | None = None,
        on_disk: Sequence[Collection[int]] = (),
    ) -> list[ReleaseEffect]:
        """Somebody wants a release: of the state from now on, or the contents of an older one.

        That one must be ``on_disk``, what each shard has there: nobody goes back alone.
        """
        if contents_of is not None:
            lacking = [i for i, saved in enumerate(on_disk) if contents_of not in saved]
            if lacking or not on_disk:
                common = sorted(set.intersection(*map(set, on_disk))) if on_disk else []
                error = (
                    f"release {contents_of} is not on the disk of shards {lacking}; "
                    f"all of them have {common}"
                )
                return self._answer([_Request(peer, save, contents_of)], contents_of, error)
        self._requests.append(_Request(peer, save, contents_of))
        return []

    def on_time(
        self, now: float, versions: tuple[Version, ...] | None, followed: bool = True
    ) -> list[ReleaseEffect]:
        """Open the next release if it is due; ``versions`` of all shards, None if one is away.

        While nobody follows, releases are made only to be saved, or because somebody asks: each
        costs every shard a copy of its parameters.
        """
        effects = self._expire(now)
        if self._due_at is None:
            self._due_at, self._save_at = now, now + self._save_every_s
        if versions is None or self._open is not None:
            return effects
        due = followed and now >= self._due_at
        changed = due and _is_newer(versions, self._labelled_versions)
        if not changed and not self._requests and not self._save_is_due(now, versions):
            return effects
        return [*effects, self._begin(now, versions)]

    def _save_is_due(self, now: float, versions: tuple[Version, ...]) -> bool:
        """What was trained before a pause is saved too, though no newer release will come."""
        assert self._save_at is not None
        unsaved = _is_newer(versions, self._saved_versions)
        return now >= self._save_at and self._saving is None and unsaved

    def _begin(self, now: float, versions: tuple[Version, ...]) -> Begin:
        requests, self._requests = _of_one_content(self._requests)
        asked = any(request.save for request in requests)
        assert self._save_at is not None
        periodic = now >= self._save_at and self._saving is None
        save = asked or periodic
        if save:
            self._save_at = now + self._save_every_s
        self._due_at = now + self._every_s
        self._last += 1
        self._labelled_versions = versions
        self._open = _Open(self._last, save, now + LABEL_DEADLINE_S, requests)
        closed = self.manifest.release if self.manifest else 0
        contents_of = next((r.contents_of for r in requests if r.contents_of is not None), None)
        return Begin(Label(release=self._last, save=save, closed=closed, contents_of=contents_of))

    def on_labelled(self, message: Labelled, now: float) -> list[ReleaseEffect]:
        """One shard has labelled; the last one closes the release."""
        release = self._open
        if release is None or message.release != release.number or message.shard >= self._shards:
            return []
        release.entries[message.shard] = ManifestEntry(version=message.version, crc=message.crc)
        if message.since_applied_s is not None:
            applied_at = now - message.since_applied_s
            release.applied_at = max(applied_at, release.applied_at or applied_at)
        if len(release.entries) < self._shards:
            return []
        entries = tuple(release.entries[shard] for shard in range(self._shards))
        self._labelled_versions = versions = tuple(entry.version for entry in entries)
        self._open = None
        self.closed += 1
        self.manifest = Manifest(release=release.number, shards=entries)
        since_s = None if release.applied_at is None else now - release.applied_at
        effects: list[ReleaseEffect] = [Close(replace(self.manifest, since_applied_s=since_s))]
        effects += self._answer([r for r in release.requests if not r.save], release.number)
        if release.save:
            # A save that another one overtakes is answered by the newer: it holds more.
            waiting = [r for r in release.requests if r.save]
            waiting += self._saving.requests if self._saving else []
            deadline, everyone = now + SAVE_DEADLINE_S, set(range(self._shards))
            self._saving = _Saving(release.number, versions, deadline, waiting, everyone)
            for saved in release.saved.values():
                effects += self.on_saved(saved)
        return effects

    def on_new_life(self, shard: int) -> None:
        """What this shard's last life was at died with it; whoever asked gets the next release."""
        if self._open is not None:
            self._requests = self._abandon().requests + self._requests
        if self._saving is not None and shard in self._saving.waiting:
            self._requests = self._saving.requests + self._requests
            self._saving = None

    def on_saved(self, message: Saved) -> list[ReleaseEffect]:
        """One shard has written its part, or could not."""
        if self._open is not None and message.release == self._open.number:
            self._open.saved[message.shard] = message
        saving = self._saving
        if saving is None or message.release != saving.number:
            return []
        if message.error:
            self._saving = None
            return self._answer(saving.requests, saving.number, message.error)
        saving.waiting.discard(message.shard)
        if saving.waiting:
            return []
        self._saving = None
        self.saved, self._saved_versions = saving.number, saving.versions
        return self._answer(saving.requests, saving.number)

    def _expire(self, now: float) -> list[ReleaseEffect]:
        effects: list[ReleaseEffect] = []
        release, saving = self._open, self._saving
        if release is not None and now >= release.deadline:
            late = sorted(set(range(self._shards)) - set(release.entries))
            error = f"release {release.number} was abandoned: no answer from shards {late}"
            effects += self._answer(self._abandon().requests, release.number, error)
        if saving is not None and now >= saving.deadline:
            self._saving = None
            error = f"release {saving.number}: shards {sorted(saving.waiting)} did not write it"
            effects += self._answer(saving.requests, saving.number, error)
        return effects

    def _abandon(self) -> _Open:
        assert self._open is not None
        abandoned, self._open = self._open, None
        self._labelled_versions = ()  # the state it stood for has still to be released
        self.abandoned += 1
        return abandoned

    @staticmethod
    def _answer(requests: list[_Request], number: int, error: str = "") -> list[ReleaseEffect]:
        message = ReleaseMade(release=number, error=error)
        return [AnswerRelease(request.peer, message) for request in requests]


def _of_one_content(requests: list[_Request]) -> tuple[list[_Request], list[_Request]]:
    """Those that one release can answer, and the rest: two rollbacks are two releases."""
    contents = [r.contents_of for r in requests if r.contents_of is not None]
    other = next((i for i, r in enumerate(requests) if r.contents_of not in (None, *contents[:1])),
                 len(requests))  # fmt: skip
    return requests[:other], requests[other:]


def _is_newer(reported: tuple[Version, ...], known: tuple[Version, ...]) -> bool:
    """True if a shard has reported more than was known; a report may also be the older one."""
    return not known or any(a > b for a, b in zip(reported, known, strict=True))
