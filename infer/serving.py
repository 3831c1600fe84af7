"""What an inference node serves: the releases it holds, and which of them answers a request.

The stream's thread offers releases and reports what it heard; the thread that talks HTTP steers and
chooses. Nothing here knows a socket, a clock or a tensor library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gradmq.infer.steering import LABELS, NEWEST, NotHeld, Pinned, Split, require_label
from gradmq.infer.wish import Lack, Wish


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
    the stream moves ``heard_newest_at_s``, only the one that talks HTTP counts ``answers``; both
    are replaced whole, so any thread may read them.
    """

    __slots__ = ("answers", "heard_newest_at_s", "release")

    def __init__(self, release: ServedRelease, heard_newest_at_s: float) -> None:
        self.release = release
        self.heard_newest_at_s = heard_newest_at_s
        self.answers = 0
        """Requests that it answered."""

    def age_s(self, now: float) -> float:
        """Seconds since this node last heard that the release is the newest; never negative."""
        return max(0.0, now - self.heard_newest_at_s)


@dataclass(frozen=True, slots=True)
class TurnedDown:
    """A release that came whole and is not served."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class ServingStatistics:
    """Counts of a ``Serving`` at one instant."""

    first_release: int | None
    release: int | None
    versions: tuple[tuple[int, int], ...]
    age_s: float | None
    swaps: int
    """How often one release took the place of another as the newest."""
    passed_over: int
    """Offers that were not newer than the release already held."""
    turned_down: int
    """Releases that were not fit to be served."""


class Serving:
    """The newest complete releases, and which of them answers; their numbers only grow.

    It holds the last ``keep`` of them, and beside these what is pinned or has a label: in memory,
    one model each. ``offer``, ``turn_down`` and ``heard_newest`` belong to the stream's thread;
    what steers (``pin`` to ``split``) and ``count_answer`` to the one that talks HTTP; every other
    method may be called from any thread. So no attribute is written by two threads but the mode,
    where the last word counts.
    """

    def __init__(
        self, keep: int = 1, return_to_stable: bool = False, in_place: bool = False
    ) -> None:
        """``return_to_stable``: when a release is turned down, ``stable`` is pinned.

        ``in_place``: each release is written over the last one, so one is held and none other ever
        answers; who offers sees to it that nothing runs meanwhile, and looks at ``takes_newer``.
        """
        self._keep = 1 if in_place else keep
        self._in_place = in_place
        self._return_to_stable = return_to_stable
        self._recent: tuple[Holding, ...] = ()
        self._labels: Mapping[str, Holding] = MappingProxyType({})
        self._mode: Pinned | Split | None = None
        self._first_release: int | None = None
        self._swaps = 0
        self._passed_over = 0
        self._turned_down = 0
        self._last_turned_down: TurnedDown | None = None

    # -- the stream -------------------------------------------------------------------------------

    def offer(self, release: ServedRelease, heard_newest_at_s: float) -> bool:
        """Install a complete release unless one at least as new is held; True if installed.

        ``heard_newest_at_s`` is when this node heard that the release is the newest (the arrival
        of its manifest, not the end of its assembly), on the clock that ``age_s`` is asked with.
        """
        newest = self.newest()
        if newest is not None and release.number <= newest.release.number:
            self._passed_over += 1
            return False
        if newest is None:
            self._first_release = release.number
        else:
            self._swaps += 1
        holding = Holding(release, heard_newest_at_s)
        self._recent = (*self._recent, holding)[-self._keep :]
        mode = self._mode  # once: the thread that steers may take it away meanwhile
        if self._in_place and isinstance(mode, Pinned):
            # It was pinned while this one was written over it: what is here is what stays.
            self._mode = Pinned(holding, mode.reason)
        return True

    def withdraw(self) -> None:
        """Hold nothing any more: what was written in place is not whole."""
        self._recent = ()
        self._mode = None

    @property
    def takes_newer(self) -> bool:
        """False while the one release that is held in place is pinned, and must not change."""
        return not (self._in_place and isinstance(self._mode, Pinned))

    def turn_down(self, number: int, reason: str) -> None:
        """Note that a complete release is not fit to be served: what is held goes on."""
        self._turned_down += 1
        self._last_turned_down = TurnedDown(number, reason)
        stable = self._labels.get("stable")
        if self._return_to_stable and stable is not None and not isinstance(self._mode, Pinned):
            self._mode = Pinned(stable, f"back to stable, as release {number} {reason}")

    def heard_newest(self, number: int, now: float) -> None:
        """Note that the stream names ``number`` as the newest release at ``now``.

        Only news about the newest release held keeps it young: when a newer one is named, its age
        grows until that one is offered.
        """
        newest = self.newest()
        if newest is not None and number == newest.release.number:
            newest.heard_newest_at_s = max(newest.heard_newest_at_s, now)

    # -- steering ---------------------------------------------------------------------------------

    def pin(self, number: int, reason: str = "pinned") -> None:
        """Answer from this release alone until told otherwise; raises NotHeld."""
        self._mode = Pinned(self._find(number), reason)

    def freeze(self) -> None:
        """Pin what answers now; raises NotHeld before the first release."""
        if not isinstance(self._mode, Pinned):
            self._mode = Pinned(self._answering(), "frozen")

    def roll_back(self) -> None:
        """Pin the release held before the one that answers now; raises NotHeld."""
        now = self._answering().release.number
        older = [held for held in self.held() if held.release.number < now]
        if not older:
            raise NotHeld(f"nothing older than release {now} is held; {self.held_text()}")
        self._mode = Pinned(older[-1], f"rolled back from release {now}")

    def unfreeze(self) -> None:
        """Answer from the newest release again: the end of a pin, a freeze, a split."""
        self._mode = None

    def label(self, label: str, number: int | None = None) -> None:
        """Mark a release, by default the one that answers now; raises NotHeld."""
        require_label(label, LABELS)
        if self._in_place:
            text = "this node writes each release over the last one (infer.inplace)"
            raise NotHeld(f"{text}: nothing stays that could be labelled")
        holding = self._answering() if number is None else self._find(number)
        self._labels = MappingProxyType({**self._labels, label: holding})

    def unlabel(self, label: str) -> None:
        """Take a mark away; raises NotHeld if there is none, or if a split goes by it."""
        if label not in self._labels:
            raise NotHeld(f"no release is labelled {label!r}")
        if isinstance(self._mode, Split) and label in self._mode.weights:
            raise NotHeld(f"requests are split by {label!r}: unfreeze or split anew first")
        kept = {name: held for name, held in self._labels.items() if name != label}
        self._labels = MappingProxyType(kept)

    def split(self, weights: Mapping[str, float]) -> None:
        """Give each label's release, or ``newest``, its share of the requests; raises NotHeld.

        Weights are above 0 and finite; their sum is the whole.
        """
        for label in weights:
            require_label(label, (*LABELS, NEWEST))
            if label != NEWEST and label not in self._labels:
                raise NotHeld(f"no release is labelled {label!r}: label one first")
        self._mode = Split(MappingProxyType(dict(weights)))

    # -- answering --------------------------------------------------------------------------------

    def choose(self, wish: Wish, point: float, now: float) -> Holding | Lack:
        """The release that answers a request with this wish, or what the node's lacks.

        ``point`` in [0, 1) decides in a split. A pin of the request goes before the node's; its
        other wishes do not: who pinned the node may have had a reason against newer releases.
        """
        holding = self.holding(point) if wish.pin is None else self.find(wish.pin)
        newest = self.newest()
        if newest is None:
            return Lack("nothing is held here yet: waiting for the first release", later=True)
        if holding is None:
            later = self.takes_newer and wish.pin is not None and wish.pin > newest.release.number
            return Lack(f"release {wish.pin} is not held here; {self.held_text()}", later)
        release = holding.release
        lack = wish.lack(release.number, release.versions, holding.age_s(now))
        if lack is None:
            return holding
        text = f"release {release.number} {lack.text}"
        if holding is newest and self.takes_newer:
            return Lack(text, lack.later)
        return Lack(f"{text}; {self.mode_text()}", later=False)

    def holding(self, point: float = 0.0) -> Holding | None:
        """The release that answers who wishes nothing, or None before the first."""
        mode = self._mode
        newest = self.newest()
        if isinstance(mode, Pinned):
            return newest if self._in_place else mode.holding
        if isinstance(mode, Split):
            # A label that another thread has just taken away leaves its share to the newest.
            return self._labels.get(mode.label(point), newest) if newest else None
        return newest

    def count_answer(self, number: int) -> None:
        """Note that a request was answered by this release."""
        holding = self.find(number)
        if holding is not None:
            holding.answers += 1

    # -- looking ----------------------------------------------------------------------------------

    def newest(self) -> Holding | None:
        """The newest release held, whatever answers; None before the first."""
        recent = self._recent
        return recent[-1] if recent else None

    def current(self) -> ServedRelease | None:
        """The release that answers who wishes nothing, or None before the first."""
        held = self.holding()
        return None if held is None else held.release

    def held(self) -> list[Holding]:
        """Every release held, oldest first."""
        by_number = {held.release.number: held for held in self._every()}
        return [by_number[number] for number in sorted(by_number)]

    def find(self, number: int) -> Holding | None:
        """The release with this number, if it is held."""
        return next((held for held in self._every() if held.release.number == number), None)

    def labels_of(self, number: int) -> list[str]:
        """What this release is marked with."""
        return [name for name, held in self._labels.items() if held.release.number == number]

    @property
    def mode(self) -> Pinned | Split | None:
        """How it is chosen which release answers; None: the newest does."""
        return self._mode

    @property
    def last_turned_down(self) -> TurnedDown | None:
        """The newest release that was not fit to be served."""
        return self._last_turned_down

    def mode_text(self) -> str:
        """The mode in words."""
        return str(self._mode) if self._mode else "this node answers from its newest release"

    def held_text(self) -> str:
        """The numbers of the releases held, in words."""
        numbers = ", ".join(str(held.release.number) for held in self.held())
        return f"held are {numbers}" if numbers else "none is held yet"

    def age_s(self, now: float) -> float | None:
        """Seconds since this node last heard that what answers is the newest; None before."""
        held = self.holding()
        return None if held is None else held.age_s(now)

    def is_ready(self, now: float, max_age_s: float | None) -> bool:
        """Whether there is a release, and the newest held is no older than this.

        Also while an older one is pinned: it is the node's ears that are asked after.
        """
        newest = self.newest()
        return newest is not None and (max_age_s is None or newest.age_s(now) <= max_age_s)

    def statistics(self, now: float) -> ServingStatistics:
        """Counts and what answers, taken together."""
        held = self.holding()
        return ServingStatistics(
            first_release=self._first_release,
            release=None if held is None else held.release.number,
            versions=() if held is None else held.release.versions,
            age_s=None if held is None else held.age_s(now),
            swaps=self._swaps,
            passed_over=self._passed_over,
            turned_down=self._turned_down,
        )

    def report(self, now: float) -> dict[str, object]:
        """For the run's status: the release that answers, its age, and why it is not the newest.

        In a split, where several answer, 0 and the age of the newest.
        """
        mode = self._mode
        several = isinstance(mode, Split)
        held = self.newest() if several else self.holding()
        return {
            "answering": held.release.number if held and not several else 0,
            "steering": mode.brief() if mode else "",
            "age_s": round(held.age_s(now), 3) if held else None,
        }

    # -- inside -----------------------------------------------------------------------------------

    def _every(self) -> Iterator[Holding]:
        """Every release held, some more than once; the newest, which is asked for most, first."""
        yield from reversed(self._recent)
        yield from self._labels.values()
        mode = self._mode
        if isinstance(mode, Pinned) and not self._in_place:
            yield mode.holding

    def _find(self, number: int) -> Holding:
        found = self.find(number)
        if found is None:
            raise NotHeld(f"release {number} is not held here; {self.held_text()}")
        return found

    def _answering(self) -> Holding:
        answering = self.holding()
        if answering is None:
            raise NotHeld("no release is held here yet: waiting for the first")
        return answering
