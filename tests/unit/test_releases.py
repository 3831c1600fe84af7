"""Releases: opened when due, closed when every shard has labelled, else abandoned and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gradmq.broker.releases import (
    LABEL_DEADLINE_S,
    SAVE_DEADLINE_S,
    AnswerRelease,
    Begin,
    Close,
    ReleaseEffect,
    Releases,
)
from gradmq.wire.messages import (
    Label,
    Labelled,
    Manifest,
    ManifestEntry,
    ReleaseMade,
    Saved,
    Version,
)

SHARDS = 2
EVERY_S = 1.0
SAVE_EVERY_S = 100.0

V0: tuple[Version, ...] = ((1, 0), (1, 0))
V1: tuple[Version, ...] = ((1, 1), (1, 0))
V2: tuple[Version, ...] = ((1, 2), (1, 1))


@pytest.fixture
def releases() -> Releases:
    return Releases(SHARDS, EVERY_S, SAVE_EVERY_S)


def begin(release: int, save: bool = False, closed: int = 0) -> Begin:
    return Begin(Label(release=release, save=save, closed=closed))


def answer(release: int, error: str = "", peer: bytes = b"me") -> AnswerRelease:
    return AnswerRelease(peer, ReleaseMade(release=release, error=error))


def manifest(release: int, versions: Sequence[Version]) -> Manifest:
    entries = tuple(ManifestEntry(version=v, crc=10 + i) for i, v in enumerate(versions))
    return Manifest(release=release, shards=entries)


def labelled(release: int, shard: int, version: Version) -> Labelled:
    return Labelled(release=release, shard=shard, version=version, crc=10 + shard)


def close(
    releases: Releases, release: int, versions: Sequence[Version] = V0, now: float = 0.0
) -> list[ReleaseEffect]:
    """Every shard labels; what follows from the last one."""
    *others, last = enumerate(versions)
    for shard, version in others:
        assert releases.on_labelled(labelled(release, shard, version), now) == []
    return releases.on_labelled(labelled(release, *last), now)


def save(releases: Releases, release: int, shard: int, error: str = "") -> list[ReleaseEffect]:
    return releases.on_saved(Saved(release=release, shard=shard, error=error))


def test_a_manifest_says_how_long_ago_the_last_update_in_it_was_applied_on_any_shard(
    releases: Releases,
) -> None:
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(replace(labelled(1, 0, (1, 1)), since_applied_s=2.0), now=10.0)
    (closed,) = releases.on_labelled(replace(labelled(1, 1, (1, 1)), since_applied_s=4.0), now=11.0)
    told = manifest(1, ((1, 1), (1, 1)))
    assert closed == Close(replace(told, since_applied_s=3.0))
    assert releases.manifest == told, "who hears it later would be told a wrong time"


def test_of_a_shard_that_applied_nothing_a_manifest_says_no_time(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 0)), now=10.0)
    (closed,) = releases.on_labelled(replace(labelled(1, 1, (1, 1)), since_applied_s=4.0), now=11.0)
    assert isinstance(closed, Close)
    assert closed.manifest.since_applied_s == 4.0
    releases.on_time(now=12.0, versions=V2)
    assert close(releases, 2, V2) == [Close(manifest(2, V2))]


# -- opening --------------------------------------------------------------------------------------


def test_the_first_state_is_released_at_once(releases: Releases) -> None:
    assert releases.on_time(now=5.0, versions=V0) == [begin(1)]


def test_nothing_is_released_while_a_shard_is_away(releases: Releases) -> None:
    releases.on_ask(b"me", save=False)
    assert releases.on_time(now=50.0, versions=None) == []
    assert releases.on_time(now=51.0, versions=V0) == [begin(1)]


def test_the_next_release_waits_for_its_time_and_for_a_change(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    assert releases.on_time(now=0.5, versions=V1) == []
    assert releases.on_time(now=1.0, versions=V0) == []
    assert releases.on_time(now=1.5, versions=V1) == [begin(2, closed=1)]


def test_while_nobody_follows_nothing_is_released_unasked(releases: Releases) -> None:
    assert releases.on_time(now=0.0, versions=V0, followed=False) == []
    assert releases.on_time(now=9.0, versions=V1, followed=False) == []
    releases.on_ask(b"me", save=False)
    assert releases.on_time(now=9.1, versions=V1, followed=False) == [begin(1)]
    close(releases, 1, V1)
    assert releases.on_time(now=50.0, versions=V2, followed=False) == []
    assert releases.on_time(now=50.1, versions=V2) == [begin(2, closed=1)]


def test_what_nobody_follows_is_saved_in_its_time_all_the_same(releases: Releases) -> None:
    assert releases.on_time(now=0.0, versions=V0, followed=False) == []
    assert releases.on_time(now=0.99 * SAVE_EVERY_S, versions=V1, followed=False) == []
    assert releases.on_time(now=SAVE_EVERY_S, versions=V1, followed=False) == [begin(1, save=True)]


def test_a_label_names_the_newest_release_that_closed(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    assert releases.on_time(now=1.0, versions=V1) == [begin(2, closed=1)]
    releases.on_new_life(0)  # and so the second is abandoned
    assert releases.on_time(now=2.0, versions=V1) == [begin(3, closed=1)]


def test_there_is_one_release_at_a_time(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    assert releases.on_time(now=2.0, versions=V1) == []
    releases.on_labelled(labelled(1, 0, (1, 0)), 2.0)
    assert releases.on_time(now=3.0, versions=V1) == []


def test_whoever_asks_gets_a_release_at_once_and_of_the_state_from_then_on(
    releases: Releases,
) -> None:
    releases.on_time(now=0.0, versions=V0)
    releases.on_ask(b"me", save=False)
    assert close(releases, 1) == [Close(manifest(1, V0))]
    assert releases.on_time(now=0.1, versions=V0) == [begin(2, closed=1)]
    assert close(releases, 2) == [Close(manifest(2, V0)), answer(2)]


def test_numbers_go_on_from_the_largest_that_anyone_knows(releases: Releases) -> None:
    releases.on_known(41)
    releases.on_known(7)
    assert releases.on_time(now=0.0, versions=V0) == [begin(42)]


# -- closing --------------------------------------------------------------------------------------


def test_a_release_closes_when_the_last_shard_has_labelled(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    assert releases.on_labelled(labelled(1, 1, (1, 3)), 0.1) == []
    assert releases.manifest is None
    expected = manifest(1, [(1, 2), (1, 3)])
    assert releases.on_labelled(labelled(1, 0, (1, 2)), 0.2) == [Close(expected)]
    assert releases.manifest == expected


@pytest.mark.parametrize(
    "stray", [labelled(9, 1, (1, 0)), labelled(1, 0, (1, 0)), labelled(1, 2, (1, 0))]
)
def test_another_number_the_same_shard_or_none_closes_nothing(
    releases: Releases, stray: Labelled
) -> None:
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 0)), 0.1)
    assert releases.on_labelled(stray, 0.2) == []
    assert releases.manifest is None


def test_a_shard_that_was_restarted_in_between_counts_with_its_new_version(
    releases: Releases,
) -> None:
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 5)), 0.1)
    releases.on_labelled(labelled(1, 0, (2, 3)), 0.2)
    assert releases.on_labelled(labelled(1, 1, (1, 1)), 0.3) == [
        Close(manifest(1, [(2, 3), (1, 1)]))
    ]


# -- abandoning -----------------------------------------------------------------------------------


def test_a_release_that_a_shard_does_not_label_is_abandoned_and_its_number_not_used_again(
    releases: Releases,
) -> None:
    releases.on_ask(b"me", save=False)
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 0)), 0.1)
    assert releases.on_time(now=0.9 * LABEL_DEADLINE_S, versions=None) == []
    error = "release 1 was abandoned: no answer from shards [1]"
    assert releases.on_time(now=LABEL_DEADLINE_S, versions=None) == [answer(1, error)]
    assert releases.abandoned == 1
    assert releases.on_labelled(labelled(1, 1, (1, 0)), LABEL_DEADLINE_S) == []
    assert releases.on_time(now=9.0, versions=V1) == [begin(2)]


def test_a_release_under_way_is_abandoned_when_a_shard_starts_anew_and_asked_for_again(
    releases: Releases,
) -> None:
    releases.on_ask(b"me", save=False)
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 0)), 0.1)
    releases.on_new_life(1)
    assert releases.abandoned == 1
    assert releases.on_labelled(labelled(1, 1, (1, 0)), 0.2) == []
    assert releases.on_time(now=0.3, versions=V0) == [begin(2)]
    assert close(releases, 2) == [Close(manifest(2, V0)), answer(2)]


def test_a_state_whose_release_was_abandoned_is_released_though_nothing_changed(
    releases: Releases,
) -> None:
    releases.on_time(now=0.0, versions=V0)
    assert releases.on_time(now=LABEL_DEADLINE_S, versions=V0) == [begin(2)]


# -- saving ---------------------------------------------------------------------------------------


def test_a_save_that_was_asked_for_is_answered_when_every_shard_has_written(
    releases: Releases,
) -> None:
    releases.on_ask(b"me", save=True)
    assert releases.on_time(now=0.0, versions=V0) == [begin(1, save=True)]
    assert close(releases, 1) == [Close(manifest(1, V0))]
    assert save(releases, 1, 0) == []
    assert releases.saved == 0
    assert save(releases, 1, 1) == [answer(1)]
    assert releases.saved == 1


def test_who_asked_without_a_save_does_not_wait_for_it(releases: Releases) -> None:
    releases.on_ask(b"me", save=False)
    releases.on_ask(b"other", save=True)
    assert releases.on_time(now=0.0, versions=V0) == [begin(1, save=True)]
    assert close(releases, 1) == [Close(manifest(1, V0)), answer(1)]


def test_a_shard_may_have_written_before_the_last_one_has_labelled(releases: Releases) -> None:
    releases.on_ask(b"me", save=True)
    releases.on_time(now=0.0, versions=V0)
    releases.on_labelled(labelled(1, 0, (1, 0)), 0.1)
    assert save(releases, 1, 0) == []
    releases.on_labelled(labelled(1, 1, (1, 0)), 0.2)
    assert save(releases, 1, 1) == [answer(1)]


def test_a_shard_that_cannot_write_ends_the_save_with_its_reason(releases: Releases) -> None:
    releases.on_ask(b"me", save=True)
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    assert save(releases, 1, 1, "no space left on device") == [answer(1, "no space left on device")]
    assert save(releases, 1, 0) == []
    assert releases.saved == 0


def test_whoever_waits_for_what_a_restarted_shard_was_writing_gets_the_next_release(
    releases: Releases,
) -> None:
    releases.on_ask(b"me", save=True)
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    save(releases, 1, 0)
    releases.on_new_life(0)
    assert releases.on_time(now=0.1, versions=V0) == []
    releases.on_new_life(1)
    assert releases.on_time(now=0.2, versions=V0) == [begin(2, save=True, closed=1)]
    close(releases, 2)
    save(releases, 2, 0)
    assert save(releases, 2, 1) == [answer(2)]


def test_a_save_without_end_is_given_up_and_names_the_shards(releases: Releases) -> None:
    releases.on_ask(b"me", save=True)
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1, now=0.0)
    save(releases, 1, 0)
    assert releases.on_time(now=0.99 * SAVE_DEADLINE_S, versions=V0) == []
    assert releases.on_time(now=SAVE_DEADLINE_S, versions=V0) == [
        answer(1, "release 1: shards [1] did not write it")
    ]


def test_a_save_that_another_overtakes_is_answered_by_the_newer(releases: Releases) -> None:
    releases.on_ask(b"first", save=True)
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    releases.on_ask(b"second", save=True)
    assert releases.on_time(now=0.1, versions=V1) == [begin(2, save=True, closed=1)]
    close(releases, 2, V1)
    assert save(releases, 1, 0) == []
    assert save(releases, 1, 1) == []
    save(releases, 2, 0)
    assert sorted(save(releases, 2, 1), key=str) == [
        answer(2, peer=b"first"),
        answer(2, peer=b"second"),
    ]


def test_from_time_to_time_a_release_is_saved_unasked(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    assert releases.on_time(now=0.99 * SAVE_EVERY_S, versions=V1) == [begin(2, closed=1)]
    close(releases, 2, V1)
    assert releases.on_time(now=1.01 * SAVE_EVERY_S, versions=V2) == [begin(3, save=True, closed=2)]
    close(releases, 3, V2)
    assert [save(releases, 3, shard) for shard in range(SHARDS)] == [[], []]
    assert releases.saved == 3


def test_a_state_that_is_released_but_not_saved_is_saved_in_its_time(releases: Releases) -> None:
    releases.on_time(now=0.0, versions=V0)
    close(releases, 1)
    assert releases.on_time(now=SAVE_EVERY_S, versions=V0) == [begin(2, save=True, closed=1)]
    close(releases, 2)
    for shard in range(SHARDS):
        save(releases, 2, shard)
    assert releases.on_time(now=9 * SAVE_EVERY_S, versions=V0) == []
