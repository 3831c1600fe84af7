"""A subscriber's copy: versions only grow, releases are whole, and every loss ends in one fetch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.layout import Layout, Tensor
from gradmq.replica import FETCH_AGAIN_S, MANIFESTS_KEPT, AskShard, Release, Releases, Replica
from gradmq.wire.messages import (
    Beacon,
    Fetch,
    Manifest,
    ManifestEntry,
    Publication,
    Version,
)

LAYOUT = Layout((Tensor("w", "float32", (4,)),), shards=2)


def publication(
    shard: int, version: Version, release: int | None = None, crc: int = 7
) -> Publication:
    return Publication(
        run="demo", shard=shard, version=version, layout=LAYOUT.hash, crc=crc, release=release
    )


def beacon(shard: int, published: Version, release: int = 0) -> Beacon:
    return Beacon(
        run="demo",
        shard=shard,
        version=published,
        published=published,
        release=release,
        last_seqs={},
    )


def fetch(shard: int, at_least: Version | None = None, release: int | None = None) -> AskShard:
    return AskShard(
        shard, Fetch(run="demo", layout=LAYOUT.hash, release=release, at_least=at_least)
    )


def manifest(release: int, *versions: Version, crc: int = 7) -> Manifest:
    entries = tuple(ManifestEntry(version=version, crc=crc) for version in versions)
    return Manifest(release=release, shards=entries)


@pytest.fixture
def replica() -> Replica:
    return Replica("demo", LAYOUT)


@pytest.fixture
def releases() -> Releases:
    return Releases("demo", LAYOUT)


# -- the newest of every shard --------------------------------------------------------------------


def test_a_replica_is_complete_once_every_shard_has_arrived(replica: Replica) -> None:
    assert not replica.complete
    assert replica.versions == (None, None)
    replica.on_publication(publication(1, (1, 0)))
    assert not replica.complete
    replica.on_publication(publication(0, (1, 5)))
    assert replica.complete
    assert replica.versions == ((1, 5), (1, 0))


def test_an_older_or_repeated_publication_changes_nothing(replica: Replica) -> None:
    newest = publication(0, (2, 5))
    assert replica.on_publication(newest)
    assert not replica.on_publication(publication(0, (2, 5), crc=8))
    assert not replica.on_publication(publication(0, (2, 4)))
    assert not replica.on_publication(publication(0, (1, 900)))
    assert replica.publications == (newest, None)


def test_a_new_incarnation_is_newer_even_at_a_smaller_version(replica: Replica) -> None:
    replica.on_publication(publication(0, (1, 900)))
    assert replica.on_publication(publication(0, (2, 3)))
    assert replica.versions[0] == (2, 3)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1))
def test_whatever_the_order_versions_only_grow(versions: list[Version]) -> None:
    replica = Replica("demo", LAYOUT)
    seen = []
    for version in versions:
        replica.on_publication(publication(0, version))
        seen.append(replica.versions[0])
    assert seen == [max(versions[: i + 1]) for i in range(len(versions))]


def test_a_beacon_that_names_what_is_here_asks_for_nothing(replica: Replica) -> None:
    replica.on_publication(publication(0, (1, 5)))
    assert replica.on_beacon(beacon(0, (1, 5)), now=0.0) is None
    assert replica.on_beacon(beacon(0, (1, 4)), now=0.0) is None


def test_a_beacon_that_names_more_than_came_asks_once(replica: Replica) -> None:
    assert replica.on_beacon(beacon(0, (1, 5)), now=0.0) == fetch(0, at_least=(1, 5))
    assert replica.on_beacon(beacon(0, (1, 5)), now=0.1) is None
    assert replica.on_beacon(beacon(0, (1, 6)), now=0.2) is None
    assert replica.on_beacon(beacon(1, (1, 5)), now=0.2) == fetch(1, at_least=(1, 5))


def test_a_restart_while_fetching_asks_the_new_incarnation(replica: Replica) -> None:
    replica.on_beacon(beacon(0, (1, 5)), now=0.0)
    assert replica.on_beacon(beacon(0, (2, 3)), now=0.1) == fetch(0, at_least=(2, 3))


def test_what_the_stream_brings_ends_the_fetch_it_makes_needless(replica: Replica) -> None:
    replica.on_beacon(beacon(0, (1, 5)), now=0.0)
    replica.on_publication(publication(0, (1, 4)))
    assert replica.fetching
    replica.on_publication(publication(0, (1, 6)))
    assert not replica.fetching
    assert replica.on_time(now=100.0) == []


def test_a_fetch_without_answer_is_repeated(replica: Replica) -> None:
    replica.on_beacon(beacon(0, (1, 5)), now=0.0)
    assert replica.on_time(now=FETCH_AGAIN_S - 0.01) == []
    assert replica.on_time(now=FETCH_AGAIN_S) == [fetch(0, at_least=(1, 5))]
    assert replica.on_time(now=FETCH_AGAIN_S + 0.01) == []


def test_the_answer_to_a_fetch_ends_it(replica: Replica) -> None:
    replica.on_beacon(beacon(0, (1, 5)), now=0.0)
    assert replica.on_fetched(publication(0, (1, 5)))
    assert not replica.fetching
    assert replica.on_time(now=100.0) == []


def test_asking_for_the_newest_waits_for_the_answer_not_for_the_stream(replica: Replica) -> None:
    replica.on_publication(publication(0, (1, 5)))
    assert replica.fetch(0, now=0.0) == fetch(0)
    replica.on_publication(publication(0, (1, 6)))
    assert replica.fetching
    assert not replica.on_fetched(publication(0, (1, 6)))
    assert not replica.fetching


# -- releases -------------------------------------------------------------------------------------


def test_a_release_is_complete_with_its_manifest_and_a_part_of_every_shard(
    releases: Releases,
) -> None:
    parts = publication(0, (1, 5), release=1), publication(1, (4, 9), release=1)
    assert releases.on_publication(parts[0]) is None
    assert releases.on_publication(parts[1]) is None
    complete = releases.on_manifest(manifest(1, (1, 5), (4, 9)))
    assert complete == Release(1, parts)
    assert complete.versions == ((1, 5), (4, 9))


def test_the_manifest_may_come_first(releases: Releases) -> None:
    assert releases.on_manifest(manifest(1, (1, 5), (1, 5))) is None
    assert releases.on_publication(publication(1, (1, 5), release=1)) is None
    complete = releases.on_publication(publication(0, (1, 5), release=1))
    assert complete is not None
    assert [part.shard for part in complete.publications] == [0, 1]


def test_publications_without_a_release_do_not_count(releases: Releases) -> None:
    releases.on_manifest(manifest(1, (1, 5), (1, 5)))
    for shard in (0, 1):
        assert releases.on_publication(publication(shard, (1, 5))) is None


def test_an_older_release_never_replaces_a_newer_one(releases: Releases) -> None:
    complete = []
    for number in (2, 1):
        for shard in (0, 1):
            releases.on_publication(publication(shard, (1, number), release=number))
        complete.append(releases.on_manifest(manifest(number, (1, number), (1, number))))
    assert [release and release.number for release in complete] == [2, None]
    assert releases.newest_heard == 2


@pytest.mark.parametrize(("version", "crc"), [((1, 6), 7), ((1, 5), 8), ((2, 5), 7)])
def test_a_part_that_is_not_the_manifests_is_fetched_anew(
    releases: Releases, version: Version, crc: int
) -> None:
    releases.on_publication(publication(0, (1, 5), release=1))
    releases.on_publication(publication(1, version, release=1, crc=crc))
    assert releases.on_manifest(manifest(1, (1, 5), (1, 5))) is None
    assert releases.missing(now=0.0) == [fetch(1, release=1)]
    assert releases.on_publication(publication(1, (1, 5), release=1)) is not None


def test_a_manifest_of_another_number_of_shards_is_passed_over(releases: Releases) -> None:
    releases.on_publication(publication(0, (1, 5), release=1))
    assert releases.on_manifest(manifest(1, (1, 5))) is None
    assert releases.missing(now=0.0) == []


def test_a_part_is_fetched_once_its_shards_beacon_says_that_it_was_sent(
    releases: Releases,
) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    assert releases.on_beacon(beacon(0, (1, 5), release=2), now=0.0) is None
    assert releases.on_beacon(beacon(0, (1, 5), release=3), now=0.1) == fetch(0, release=3)
    assert releases.on_beacon(beacon(0, (1, 5), release=3), now=0.2) is None


def test_a_beacon_before_the_manifest_asks_for_nothing(releases: Releases) -> None:
    assert releases.on_beacon(beacon(0, (1, 5), release=3), now=0.0) is None


def test_parts_that_come_after_a_newer_release_are_not_kept(releases: Releases) -> None:
    for shard in (0, 1):
        releases.on_publication(publication(shard, (1, 5), release=2))
    releases.on_manifest(manifest(2, (1, 5), (1, 5)))
    releases.on_publication(publication(0, (1, 4), release=1))
    assert releases._parts == {}


def test_a_part_that_is_here_is_not_fetched(releases: Releases) -> None:
    releases.on_publication(publication(0, (1, 5), release=3))
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    assert releases.on_beacon(beacon(0, (1, 5), release=3), now=0.0) is None
    assert releases.missing(now=0.0) == [fetch(1, release=3)]


def test_a_part_without_answer_is_fetched_again(releases: Releases) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    releases.missing(now=0.0)
    assert releases.missing(now=FETCH_AGAIN_S - 0.01) == []
    assert len(releases.missing(now=FETCH_AGAIN_S)) == 2


def test_what_was_asked_for_is_waited_for_though_newer_releases_close(releases: Releases) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    assert releases.missing(now=0.0) == [fetch(0, release=3), fetch(1, release=3)]
    releases.on_manifest(manifest(4, (1, 6), (1, 6)))
    assert releases.missing(now=0.1) == []
    assert releases.on_publication(publication(0, (1, 5), release=3)) is None
    assert releases.missing(now=0.2) == []
    complete = releases.on_publication(publication(1, (1, 5), release=3))
    assert complete is not None
    assert complete.number == 3
    assert releases.missing(now=0.3) == [fetch(0, release=4), fetch(1, release=4)]


def test_releases_that_close_before_their_parts_are_here_are_taken_all_the_same(
    releases: Releases,
) -> None:
    """A slow network: of each release the parts come when two newer ones have closed."""
    taken = []
    for number in range(1, 10):
        releases.on_manifest(manifest(number, (1, number), (1, number)))
        for shard in (0, 1):
            part = publication(shard, (1, number - 2), release=number - 2)
            release = releases.on_publication(part) if number > 2 else None
            taken += [release.number] if release else []
    assert taken == [1, 2, 3, 4, 5, 6, 7]


def test_manifests_of_releases_that_never_come_do_not_pile_up(releases: Releases) -> None:
    for number in range(1, 1000):
        releases.on_manifest(manifest(number, (1, number), (1, number)))
    assert len(releases._manifests) == MANIFESTS_KEPT + 1
    for shard in (0, 1):
        release = releases.on_publication(publication(shard, (1, 1), release=1))
    assert release is not None, "the first was wanted, and stays so"


def test_a_newer_release_that_is_whole_ends_the_wait_for_an_older_one(releases: Releases) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    releases.missing(now=0.0)
    for shard in (0, 1):
        releases.on_publication(publication(shard, (1, 6), release=4))
    complete = releases.on_manifest(manifest(4, (1, 6), (1, 6)))
    assert complete is not None
    assert complete.number == 4
    assert releases.missing(now=0.1) == []


def test_what_a_shard_has_no_more_gives_way_to_the_newest(releases: Releases) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    releases.missing(now=0.0)
    releases.on_manifest(manifest(4, (1, 6), (1, 6)))
    releases.on_manifest(manifest(5, (1, 7), (1, 7)))
    releases.on_refused(1)
    assert releases.missing(now=0.1) == [fetch(1, release=5)], "shard 0 has still to answer"
    releases.on_publication(publication(0, (1, 5), release=3))
    assert releases.missing(now=0.2) == [fetch(0, release=5)]


def test_a_refused_part_is_asked_for_again_only_when_somebody_names_it(
    releases: Releases,
) -> None:
    releases.on_manifest(manifest(3, (1, 5), (1, 5)))
    releases.missing(now=0.0)
    releases.on_refused(0)
    assert releases.on_beacon(beacon(0, (1, 5), release=3), now=0.1) == fetch(0, release=3)


def test_parts_of_releases_that_never_close_do_not_pile_up(releases: Releases) -> None:
    releases.on_manifest(manifest(1, (1, 1), (1, 1)))
    for number in range(1, 1000):
        releases.on_publication(publication(0, (1, number), release=number))
    assert len(releases._parts) == 3
    assert releases.on_publication(publication(1, (1, 1), release=1)) is not None


@given(st.permutations(range(6)))
def test_a_release_completes_in_any_order(order: list[int]) -> None:
    releases = Releases("demo", LAYOUT)
    complete = []
    for event in order:
        number, what = event // 3 + 1, event % 3
        if what == 2:
            release = releases.on_manifest(manifest(number, (1, number), (1, number)))
        else:
            release = releases.on_publication(publication(what, (1, number), release=number))
        complete += [release] if release else []
    assert complete[-1].number == 2
    assert complete[-1].versions == ((1, 2), (1, 2))
