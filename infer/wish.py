"""What a request asks of the release that answers it, and whether a release is that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: (incarnation, version) of one shard; None where it does not matter.
WantedVersion = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a release is not what was asked for, in words that go on after "release 7 …"."""

    text: str
    later: bool
    """True if a later release, or later news of this one, may be what was asked for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """All of it must hold; a field that is None asks for nothing."""

    pin: int | None = None
    """This release and no other."""
    min_release: int | None = None
    max_age_s: float | None = None
    """Heard to be the newest no longer ago than this, when the model begins."""
    min_versions: tuple[WantedVersion, ...] | None = None
    """Every shard has applied at least this: what a push's verdict named, for example."""

    def lack(self, number: int, versions: Sequence[tuple[int, int]], age_s: float) -> Lack | None:
        """What the release with this number, these versions and this age lacks; None: nothing."""
        if self.pin is not None and number != self.pin:
            return Lack(f"is not {self.pin}", later=self.pin > number)
        if self.min_release is not None and number < self.min_release:
            return Lack(f"is older than {self.min_release}", later=True)
        if self.min_versions is not None:
            lack = _lack_of_versions(self.min_versions, versions)
            if lack is not None:
                return lack
        if self.max_age_s is not None and age_s > self.max_age_s:
            return Lack(f"has an age of {age_s:.3f} s, more than {self.max_age_s:g} s", later=True)
        return None


def _lack_of_versions(
    wanted: Sequence[WantedVersion], versions: Sequence[tuple[int, int]]
) -> Lack | None:
    if len(wanted) != len(versions):
        return Lack(f"has versions of {len(versions)} shards, not {len(wanted)}", later=False)
    behind: Lack | None = None
    for shard, (want, have) in enumerate(zip(wanted, versions, strict=True)):
        if want is None or (want[0] == have[0] and want[1] <= have[1]):
            continue
        has = f"has version {have[0]}:{have[1]} of shard {shard}"
        if have[0] > want[0]:
            # A shard may have come back with less than it had, and then counted on: whether an
            # update of its earlier life is in there, the two pairs do not tell.
            text = f"{has}, of a later life than {want[0]}:{want[1]}: that update may be lost"
            return Lack(text, later=False)
        behind = behind or Lack(f"{has}, not yet {want[0]}:{want[1]}", later=True)
    return behind
