"""A ring: whatever a reader finds is whole, and a reader that was overtaken is told.

A version here is a vector whose elements are all its number, so a torn copy shows.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain, cycle, pairwise, repeat
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq import ring
from gradmq.ring import (
    PAGE_BYTES,
    SLOTS,
    RingReader,
    RingView,
    RingWriter,
    memory_bytes,
    own_memory,
    slot_bytes,
    slot_vectors,
)

SIZE = 3


class Ring:
    """A writer and a reader of the same memory."""

    def __init__(self, *versions: int, size: int = SIZE) -> None:
        memory = own_memory(size)
        self.writer, self.reader = RingWriter(memory, size), RingReader(memory, size)
        for version in versions:
            self.write(version)

    def write(self, version: int, lent: set[int] | None = None) -> int:
        """Returns the slot that it was written to."""
        self.writer.begin(lent or set())[:] = version
        self.writer.commit(version)
        return self.writer.newest


def content(view: RingView) -> list[float]:
    return view.values.tolist()


# -- one after the other --------------------------------------------------------------------------


def test_what_was_written_last_is_found() -> None:
    pair = Ring(1, 2, 3, 4, 5)
    view = pair.reader.newest()
    assert (view.version, content(view)) == (5, [5.0] * SIZE)
    assert pair.reader.is_intact(view)
    assert pair.reader.version == 5
    assert pair.writer.values.tolist() == [5.0] * SIZE


def test_every_reader_finds_the_same() -> None:
    memory = own_memory(SIZE)
    writer = RingWriter(memory, SIZE)
    readers = [RingReader(memory, SIZE) for _ in range(3)]
    writer.begin()[:] = 7
    writer.commit(7)
    assert [reader.version for reader in readers] == [7, 7, 7]


def test_versions_need_not_begin_at_one_nor_follow_each_other() -> None:
    pair = Ring(1 << 40)
    assert pair.reader.newest().version == 1 << 40
    pair.write(3)
    assert pair.reader.newest().version == 3


def test_a_version_that_is_being_written_is_not_found_and_the_one_before_is_whole() -> None:
    pair = Ring(1, 2)
    pair.writer.begin()[:2] = 9.0
    view = pair.reader.newest()
    assert (view.version, content(view)) == (2, [2.0] * SIZE)
    assert pair.reader.is_intact(view)


def test_a_write_that_is_given_up_keeps_the_newest_and_its_reader() -> None:
    pair = Ring(1, 2)
    view = pair.reader.newest()
    for _ in range(7):
        pair.writer.begin()[:] = np.nan
        assert pair.reader.is_intact(view)
        assert pair.writer.values.tolist() == [2.0] * SIZE
    pair.write(3)
    assert (pair.reader.version, content(pair.reader.newest())) == (3, [3.0] * SIZE)


def test_a_reader_of_the_newest_is_overtaken_by_the_second_write_after_it_and_no_sooner() -> None:
    pair = Ring(1)
    view = pair.reader.newest()
    pair.write(2)
    assert pair.reader.is_intact(view)
    pair.writer.begin()
    pair.writer.commit(3)
    assert pair.reader.is_intact(view)
    pair.writer.begin()
    assert not pair.reader.is_intact(view)


def test_a_view_that_was_overtaken_stays_so() -> None:
    pair = Ring(1)
    view = pair.reader.newest()
    for version in range(2, 40):
        pair.write(version)
        assert pair.reader.is_intact(view) == (version < 4)


def test_a_view_overtaken_by_a_write_that_was_given_up_is_not_intact() -> None:
    pair = Ring(1, 2)
    view = pair.reader.newest()
    pair.write(3)
    pair.write(4)
    assert pair.reader.is_intact(view)
    pair.writer.begin()
    assert not pair.reader.is_intact(view)
    pair.write(5)
    assert not pair.reader.is_intact(view)


# -- where it is written --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.integers(0, SLOTS - 1)))))
def test_what_is_newest_and_what_is_lent_is_never_written_to(
    writes: list[tuple[bool, int | None]],
) -> None:
    pair = Ring(0)
    slots = {slot: pair.write(1 + slot) for slot in range(SLOTS)}
    assert sorted(slots.values()) == list(range(SLOTS))
    for at, (commits, lent) in enumerate(writes):
        kept = {pair.writer.newest} | ({lent} if lent is not None else set())
        before = {slot: vector.copy() for slot, vector in enumerate(pair.writer._slots)}
        vector = pair.writer.begin(() if lent is None else {lent})
        vector[:] = 100 + at
        for slot in kept:
            np.testing.assert_array_equal(pair.writer._slots[slot], before[slot])
        if commits:
            pair.writer.commit(100 + at)
            assert pair.writer.values is vector


def test_a_slot_that_is_lent_is_left_alone_however_many_versions_follow() -> None:
    pair = Ring(1)
    lent = pair.writer.newest
    view = pair.reader.newest()
    for version in range(2, 30):
        assert pair.write(version, {lent}) != lent
    assert pair.reader.is_intact(view)
    assert content(view) == [1.0] * SIZE


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 5000])
def test_slots_are_whole_pages_behind_a_page_of_header(size: int) -> None:
    assert slot_bytes(size) % PAGE_BYTES == 0
    assert 0 <= slot_bytes(size) - 4 * size < PAGE_BYTES
    memory = bytearray(memory_bytes(size, 5))
    vectors = slot_vectors(memory, size, 5)
    assert [vector.size for vector in vectors] == [size] * 5
    for at, vector in enumerate(vectors):
        vector[:] = 1 + at
    assert bytes(memory[:PAGE_BYTES]) == bytes(PAGE_BYTES)
    assert [set(vector.tolist()) for vector in vectors] == [
        {1 + at} if size else set() for at in range(5)
    ]


def test_a_shard_without_elements_has_versions_all_the_same() -> None:
    pair = Ring(4, size=0)
    view = pair.reader.newest()
    assert (view.version, content(view)) == (4, [])
    assert pair.reader.is_intact(view)


def test_the_first_bytes_are_not_the_rings() -> None:
    memory = np.zeros(memory_bytes(SIZE, SLOTS), np.uint8)
    memory[:16] = 0xAB
    writer, reader = RingWriter(memory, SIZE), RingReader(memory, SIZE)
    for version in range(1, 9):
        writer.begin()[:] = version
        writer.commit(version)
    assert reader.version == 8
    assert (memory[:16] == 0xAB).all()


def test_a_reader_needs_only_read_access() -> None:
    memory = np.zeros(memory_bytes(SIZE, SLOTS), np.uint8)
    writer, seen = RingWriter(memory, SIZE), memory.view()
    seen.flags.writeable = False
    reader = RingReader(seen, SIZE)
    writer.begin()[:] = 1
    writer.commit(1)
    view = reader.newest()
    assert (content(view), reader.is_intact(view)) == ([1.0] * SIZE, True)
    assert not view.values.flags.writeable


@pytest.mark.parametrize("newest", [3, 1000, (1 << 64) - 1])
def test_a_header_that_names_no_slot_is_read_all_the_same(newest: int) -> None:
    memory = np.zeros(memory_bytes(SIZE, SLOTS), np.uint8)
    memory.view("<u8")[8] = newest
    assert 0 <= RingReader(memory, SIZE).newest().slot < SLOTS


# -- at once --------------------------------------------------------------------------------------


class Turns:
    """Two threads that take turns as a schedule says, at every line of the ring and every element.

    What one of them does between two turns happens at one instant: every order of the ring's lines
    can be had, and none but those.
    """

    def __init__(self, schedule: Iterator[int]) -> None:
        self._schedule = schedule
        self._gates = (threading.Semaphore(0), threading.Semaphore(0))
        self._over = [False, False]
        self.errors: list[BaseException] = []

    def run(self, *mains: Callable[[Callable[[], None]], None]) -> None:
        threads = [
            threading.Thread(target=self._main, args=(me, main)) for me, main in enumerate(mains)
        ]
        for thread in threads:
            thread.start()
        self._gates[next(self._schedule)].release()
        for thread in threads:
            thread.join()
        for error in self.errors:
            raise error

    def _main(self, me: int, main: Callable[[Callable[[], None]], None]) -> None:
        self._gates[me].acquire()
        sys.settrace(lambda frame, event, _: self._traced(me, frame, event))
        try:
            main(lambda: self._turn(me))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread of the test)
            self.errors.append(error)
        finally:
            sys.settrace(None)
            self._over[me] = True
            self._gates[1 - me].release()

    def _traced(self, me: int, frame: FrameType, event: str) -> Any:
        if frame.f_code.co_filename != ring.__file__:
            return None
        if event == "line":
            self._turn(me)
        return lambda frame, event, _: self._traced(me, frame, event)

    def _turn(self, me: int) -> None:
        whose = next(self._schedule)
        if whose != me and not self._over[whose]:
            self._gates[whose].release()
            self._gates[me].acquire()


WRITER, READER = 0, 1


class Race:
    """A writer that makes versions 2, 3, …, and a reader that copies what is newest."""

    def __init__(self, writes: list[str], reads: int) -> None:
        self.pair = Ring(1)
        self.found: list[tuple[int, list[float], bool]] = []
        """Of every read: the version, the copy, and whether it counts."""
        self._writes = writes
        self._reads = reads

    def write(self, turn: Callable[[], None]) -> None:
        version, lent = 1, set[int]()
        for what in self._writes:
            if what == "lend":
                lent = {self.pair.writer.newest}
            elif what == "take back":
                lent = set()
            else:
                vector = self.pair.writer.begin(lent)
                for at in range(SIZE):
                    turn()
                    vector[at] = version + 1 if what == "write" else np.nan
                if what == "write":
                    version += 1
                    self.pair.writer.commit(version)

    def read(self, turn: Callable[[], None]) -> None:
        for _ in range(self._reads):
            view = self.pair.reader.newest()
            copied = []
            for at in range(SIZE):
                turn()
                copied.append(float(view.values[at]))
            self.found.append((view.version, copied, self.pair.reader.is_intact(view)))

    def run(self, schedule: Iterator[int]) -> None:
        """Checks what can be said of every order."""
        Turns(schedule).run(self.write, self.read)
        kept = [(version, copied) for version, copied, intact in self.found if intact]
        assert all(copied == [version] * SIZE for version, copied in kept)
        assert all(a <= b for (a, _), (b, _) in pairwise(kept))
        view = self.pair.reader.newest()
        assert self.pair.reader.is_intact(view)
        assert content(view) == [1 + self._writes.count("write")] * SIZE


@settings(max_examples=300)
@given(
    st.lists(st.integers(1, 50), max_size=20),
    st.lists(st.sampled_from(["write", "give up", "lend", "take back"]), min_size=1, max_size=8),
)
def test_in_no_order_of_steps_is_a_torn_copy_taken_for_whole(
    turns: list[int], writes: list[str]
) -> None:
    runs = (repeat(who, count) for who, count in zip(cycle([READER, WRITER]), turns, strict=False))
    Race(writes, reads=4).run(chain(chain.from_iterable(runs), repeat(WRITER)))


def test_wherever_a_reader_is_held_up_however_long_its_copy_is_whole_or_does_not_count() -> None:
    outcomes = set()
    for read_before in range(12):
        for written_meanwhile in range(60):
            race = Race(["write"] * 4, reads=1)
            race.run(
                chain(
                    repeat(READER, read_before), repeat(WRITER, written_meanwhile), repeat(READER)
                )
            )
            ((version, copied, intact),) = race.found
            outcomes.add((copied == [version] * SIZE, intact))
    assert outcomes == {(True, True), (True, False), (False, False)}
