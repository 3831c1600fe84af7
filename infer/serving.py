"""What an inference node serves: the newest complete release, held by one reference.

The stream's thread offers releases and reports what it heard; the threads that answer requests take
the reference. Nothing here knows a socket, a clock or a tensor library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServedRelease:
    """One whole release, ready to answer: never changed once offered."""

    number: int
    versions: tuple[tuple[int, int], ...]
    """(incarnation, version) of each shard, in shard order."""
    model: object
    """What the requests are run on; opaque here. It must stay valid while anyone holds it."""

    def versions_text(self) -> str:
        """``"1:120,1:118"``: incarnation and version of each shard, for headers and bodies."""
        return ",".join(f"{incarnation}:{version}" for incarnation, version in self.versions)


class Holding:
    """A release, and when this node last heard that it is the newest.

    A request takes a holding once and keeps it to its end, so that the number and the age in its
    answer speak of the same release however many swaps happen meanwhile. Only the thread that owns
    the stream moves ``heard_newest_at_s``; a float is replaced whole, so any thread may read it.
    """

    __slots__ = ("heard_newest_at_s", "release")

    def __init__(self, release: ServedRelease, heard_newest_at_s: float) -> None:
        self.release = release
        self.heard_newest_at_s = heard_newest_at_s

    def age_s(self, now: float) -> float:
        """Seconds since this node last heard that the release is the newest; never negative."""
        return max(0.0, now - self.heard_newest_at_s)


@dataclass(frozen=True, slots=True)
class ServingStatistics:
    """Counts of a ``Serving`` at one instant."""

    first_release: int | None
    release: int | None
    versions: tuple[tuple[int, int], ...]
    age_s: float | None
    swaps: int
    """How often one release took the place of another."""
    passed_over: int
    """Offers that were not newer than the release already held."""


class Serving:
    """Holds the newest complete release; release numbers only grow.

    ``offer`` and ``heard_newest`` belong to the stream's thread; every other method may be called
    from any thread.
    """

    def __init__(self) -> None:
        self._holding: Holding | None = None
        self._first_release: int | None = None
        self._swaps = 0
        self._passed_over = 0

    def offer(self, release: ServedRelease, heard_newest_at_s: float) -> bool:
        """Install a complete release unless one at least as new is held; True if installed.

        ``heard_newest_at_s`` is when this node heard that the release is the newest (the arrival
        of its manifest, not the end of its assembly), on the clock that ``age_s`` is asked with.
        """
        held = self._holding
        if held is not None and release.number <= held.release.number:
            self._passed_over += 1
            return False
        if held is None:
            self._first_release = release.number
        else:
            self._swaps += 1
        self._holding = Holding(release, heard_newest_at_s)
        return True

    def heard_newest(self, number: int, now: float) -> None:
        """Note that the stream names ``number`` as the newest release at ``now``.

        Only news about the held release keeps it young: when a newer one is named, its age grows
        until that one is offered.
        """
        held = self._holding
        if held is not None and number == held.release.number:
            held.heard_newest_at_s = max(held.heard_newest_at_s, now)

    def holding(self) -> Holding | None:
        """The held release with its age, or None before the first."""
        return self._holding

    def current(self) -> ServedRelease | None:
        """The held release, or None before the first."""
        held = self._holding
        return None if held is None else held.release

    def age_s(self, now: float) -> float | None:
        """Seconds since this node last heard that the held release is the newest; None before."""
        held = self._holding
        return None if held is None else held.age_s(now)

    def statistics(self, now: float) -> ServingStatistics:
        """Counts and the held release, taken together."""
        held = self._holding
        return ServingStatistics(
            first_release=self._first_release,
            release=None if held is None else held.release.number,
            versions=() if held is None else held.release.versions,
            age_s=None if held is None else held.age_s(now),
            swaps=self._swaps,
            passed_over=self._passed_over,
        )
