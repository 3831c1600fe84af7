"""A replica that reads rings: they are looked at, not waited for, and versions only grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq.layout import Layout, Tensor
from gradmq.replica import Replica, Source
from gradmq.ring import RingReader, RingWriter, own_memory
from gradmq.wire.codec import payload_crc
from gradmq.wire.messages import Beacon, Publication, Version

SIZE = 4
LAYOUT = Layout((Tensor("w", "float32", (SIZE,)),), shards=1)


class Life:
    """One life of the shard, and what lies in its ring: its version, in every element."""

    def __init__(self, incarnation: int, version: int) -> None:
        memory = own_memory(SIZE)
        self.incarnation = incarnation
        self.writer, self.reader = RingWriter(memory, SIZE), RingReader(memory, SIZE)
        self.apply(version)

    def apply(self, version: int) -> None:
        self.version = (self.incarnation, version)
        self.writer.begin()[:] = values_of(self.version)
        self.writer.commit(version)

    def open_in(self, replica: Replica) -> None:
        replica.open_ring(0, self.incarnation, self.reader)


def values_of(version: Version) -> float:
    return 1000.0 * version[0] + version[1]


def publication(version: Version, **changes: Any) -> Publication:
    half = np.full(SIZE // 2, values_of(version), np.float32).tobytes()
    fields = {"run": "demo", "shard": 0, "version": version, "layout": LAYOUT.hash}
    return Publication(
        **{**fields, "payload": (half, half), "crc": payload_crc((half, half)), **changes}
    )


def copied(source: Source) -> list[float]:
    return [value for chunk in source.chunks for value in chunk.tolist()]


def newest(replica: Replica) -> tuple[Version, list[float], bool]:
    """What a worker would install: version, values, and whether it counts."""
    (source,) = replica.sources()
    values = copied(source)
    return source.version, values, source.is_intact()


def whole(version: Version) -> tuple[Version, list[float], bool]:
    return version, [values_of(version)] * SIZE, True


@pytest.fixture
def replica() -> Replica:
    return Replica("demo", LAYOUT)


# -- rings ----------------------------------------------------------------------------------------


def test_a_ring_that_was_opened_completes_the_replica(replica: Replica) -> None:
    assert not replica.has_ring(0)
    Life(1, 5).open_in(replica)
    assert replica.has_ring(0)
    assert replica.complete
    assert replica.versions == ((1, 5),)
    assert newest(replica) == whole((1, 5))


def test_what_is_in_the_ring_is_copied_though_nobody_has_looked_since(replica: Replica) -> None:
    life = Life(1, 5)
    life.open_in(replica)
    life.apply(6)
    assert newest(replica) == whole((1, 6))
    assert replica.versions == ((1, 5),)
    replica.on_installed()
    assert replica.versions == ((1, 6),)


def test_a_look_finds_what_was_written_since(replica: Replica) -> None:
    life = Life(1, 5)
    replica.look(0)
    assert replica.versions == (None,)
    life.open_in(replica)
    life.apply(9)
    replica.look(0)
    assert replica.versions == ((1, 9),)


def test_a_copy_that_was_overtaken_does_not_count(replica: Replica) -> None:
    life = Life(1, 5)
    life.open_in(replica)
    (source,) = replica.sources()
    for version in (6, 7, 8):
        life.apply(version)
    copied(source)
    assert not source.is_intact()
    assert newest(replica) == whole((1, 8))


def test_the_last_version_of_a_life_that_is_over_stays_until_something_newer_is_here(
    replica: Replica,
) -> None:
    Life(1, 5).open_in(replica)
    assert newest(replica) == whole((1, 5))
    Life(2, 3).open_in(replica)
    assert newest(replica) == whole((2, 3))
    assert replica.versions == ((2, 3),)


def test_the_next_life_may_come_over_tcp_and_the_one_after_that_in_a_ring_again(
    replica: Replica,
) -> None:
    Life(1, 5).open_in(replica)
    assert replica.on_publication(publication((2, 3)))
    assert not replica.has_ring(0)
    assert newest(replica) == whole((2, 3))
    Life(3, 3).open_in(replica)
    assert newest(replica) == whole((3, 3))
    assert replica.publications == (None,)


def test_a_publication_that_was_still_under_way_does_not_close_the_ring(replica: Replica) -> None:
    """A worker subscribed, or asked, before the shard attached it with a ring."""
    life = Life(1, 5)
    life.open_in(replica)
    life.apply(6)
    replica.on_publication(publication((1, 6)))
    assert newest(replica)[0] == (1, 6)
    life.apply(7)
    replica.look(0)
    assert replica.versions == ((1, 7),)
    assert newest(replica) == whole((1, 7))


def test_an_older_publication_changes_nothing(replica: Replica) -> None:
    Life(2, 5).open_in(replica)
    for version in ((1, 99), (2, 4), (2, 5)):
        assert not replica.on_publication(publication(version))
    assert newest(replica) == whole((2, 5))


def test_an_answer_that_the_newest_is_in_the_ring_ends_the_fetch_and_is_looked_at(
    replica: Replica,
) -> None:
    life = Life(1, 5)
    life.open_in(replica)
    replica.fetch(0, now=0.0, session=7)
    life.apply(6)
    replica.on_fetched(publication((1, 6), in_ring=True, payload=(), crc=0))
    assert not replica.fetching
    assert replica.versions == ((1, 6),)
    assert newest(replica) == whole((1, 6))


def test_a_ring_ends_the_fetch_that_it_makes_needless(replica: Replica) -> None:
    named = Beacon(run="demo", shard=0, version=(1, 6), published=(1, 6), release=0, last_seqs={})
    assert replica.on_beacon(named, now=0.0)
    life = Life(1, 5)
    life.open_in(replica)
    assert replica.fetching
    life.apply(6)
    replica.look(0)
    assert not replica.fetching
    assert replica.on_beacon(named, now=1.0) is None


# -- damaged and torn -----------------------------------------------------------------------------


def test_a_publication_is_summed_while_it_is_copied(replica: Replica) -> None:
    replica.on_publication(publication((1, 5)))
    (source,) = replica.sources()
    copied(source)
    assert source.is_intact()
    replica.on_publication(publication((1, 6), crc=1))
    assert newest(replica) == ((1, 6), [values_of((1, 6))] * SIZE, False)


def test_what_could_not_be_read_in_a_ring_is_whole_once_it_was_fetched(replica: Replica) -> None:
    life = Life(1, 5)
    life.open_in(replica)
    assert replica.is_whole()
    replica.on_torn(0)
    assert (replica.is_torn(0), replica.is_whole()) == (True, False)
    replica.fetch(0, now=0.0)
    life.apply(6)
    replica.on_fetched(publication((1, 6)))
    assert replica.is_whole()
    life.apply(7)
    assert newest(replica) == whole((1, 6))
    replica.on_installed()
    assert not replica.is_torn(0)
    assert newest(replica) == whole((1, 7))


def test_an_answer_from_before_does_not_make_whole_what_is_newer(replica: Replica) -> None:
    """It was asked for long ago: to install it would be to go backwards."""
    life = Life(1, 3)
    life.open_in(replica)
    replica.fetch(0, now=0.0)
    for version in (4, 5):
        life.apply(version)
    replica.look(0)
    replica.on_torn(0)
    replica.on_fetched(publication((1, 3)))
    assert not replica.is_whole()


def test_after_a_damaged_publication_what_was_fetched_is_not_replaced_by_it(
    replica: Replica,
) -> None:
    replica.on_publication(publication((1, 5), crc=1))
    replica.on_torn(0)
    replica.fetch(0, now=0.0)
    replica.on_fetched(publication((1, 6)))
    assert newest(replica) == whole((1, 6))
    replica.on_installed()
    assert newest(replica) == whole((1, 6))


def test_what_was_fetched_and_is_damaged_too_is_waited_for_again(replica: Replica) -> None:
    replica.on_publication(publication((1, 5), crc=1))
    for _ in range(3):
        replica.on_torn(0)
        assert not replica.is_whole()
        replica.fetch(0, now=0.0)
        replica.on_fetched(publication((1, 6), crc=1))
        assert replica.is_whole()
    replica.on_torn(0)
    replica.on_fetched(publication((1, 7)))
    assert newest(replica) == whole((1, 7))


# -- all at once ----------------------------------------------------------------------------------


@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["apply", "look", "install", "restart", "open"]), st.just(0)),
            st.tuples(st.sampled_from(["stream", "fetched"]), st.integers(0, 8)),
        ),
        max_size=40,
    )
)
def test_whatever_comes_versions_only_grow_and_what_is_installed_is_true(
    events: list[tuple[str, int]],
) -> None:
    replica = Replica("demo", LAYOUT)
    life = Life(1, 0)
    had = [life.version]
    """Every version that there was, oldest first."""
    opened: int = 0
    seen: list[Version] = []
    installed: list[Version] = []
    for what, back in events:
        if what == "apply":
            life.apply(life.version[1] + 1)
            had.append(life.version)
        elif what == "restart":
            life = Life(life.incarnation + 1, max(0, life.version[1] - 2))
            had.append(life.version)
        elif what == "open":
            life.open_in(replica)
            opened = life.incarnation
        elif what == "look":
            replica.look(0)
        elif what == "install" and replica.complete:
            version, values, intact = newest(replica)
            assert (values, intact) == ([values_of(version)] * SIZE, True)
            replica.on_installed()
            installed.append(version)
        elif what == "stream":
            replica.on_publication(publication(had[max(0, len(had) - 1 - back)]))
        elif what == "fetched":
            replica.on_fetched(publication(had[max(0, len(had) - 1 - back)]))
        if replica.versions[0] is not None:
            seen.append(replica.versions[0])
    assert seen == sorted(seen)
    assert installed == sorted(installed)
    if opened == life.incarnation:
        replica.look(0)
        assert replica.versions == (life.version,)
