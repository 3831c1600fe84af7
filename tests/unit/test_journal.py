"""A journal: what was written comes back bit for bit, a torn end goes, other damage is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq.errors import JournalError
from gradmq.layout import Layout, Tensor
from gradmq.ps.journal import writer as writing
from gradmq.ps.journal.chain import Chain, End, Records, Stored
from gradmq.ps.journal.records import (
    PREFIX_BYTES,
    Damaged,
    Decided,
    Labelled,
    Opened,
    Record,
    RolledBack,
    Seeded,
    encode,
    read,
)
from gradmq.ps.journal.replay import Replay
from gradmq.ps.journal.segments import Journal, drop_before, segments
from gradmq.ps.journal.writer import JournalWriter
from gradmq.wire.codec import array_payload

LAYOUT = Layout((Tensor("w", "float32", (5,)),), shards=1)


def opened(incarnation: int = 1, momentum: float = 0.0) -> Opened:
    return Opened(
        run="demo",
        shard=0,
        incarnation=incarnation,
        layout=LAYOUT.to_bytes(),
        optimizer={"name": "sgd", "lr": 0.5, "momentum": momentum},
        lineage=((incarnation, -1),),
    )


def seeded() -> Seeded:
    return Seeded(payload=array_payload(np.zeros(5, np.float32)))


def decided(seq: int, version: int | None = None, worker: str = "w", fill: float = 1.0) -> Decided:
    applied = version is not None
    values = np.full(5, fill, np.float32)
    return Decided(
        worker=worker,
        session=7,
        seq=seq,
        base=(1, (version or 1) - 1),
        outcome="applied" if applied else "rejected",
        version=(1, version) if version is not None else None,
        weight=1.0,
        staleness=0,
        reason="" if applied else "malformed",
        lr=0.5,
        present=None,
        loss=None,
        samples=4,
        payload=array_payload(values) if applied else (),
    )


def write(folder: Path, records: Sequence[Record], end: End | None = None, life: int = 1) -> End:
    """One life of a shard: it writes these and is closed; returns the new end."""
    end = end or End()
    journal = JournalWriter(folder, opened(life), end, lambda: None)
    for position, record in enumerate(records, end.position + 1):
        journal.append(position, record)
    assert journal.close(10.0) == 0
    assert journal.durable == end.position + len(records)
    return end_of(folder)


def end_of(folder: Path) -> End:
    journal = Journal(folder)
    list(journal.after(0))
    return journal.end


def positions(folder: Path, after: int = 0, repair: bool = False) -> list[int]:
    found: list[Stored] = list(Journal(folder).after(after, repair))
    return [stored.position for stored in found if not isinstance(stored.record, Opened)]


def only_segment(folder: Path) -> Path:
    ((_, path),) = segments(folder)
    return path


HISTORY = [seeded(), *(decided(i, i) for i in range(1, 8))]


# -- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        opened(),
        seeded(),
        decided(3, 4),
        decided(3),
        Labelled(release=9, version=(1, 4)),
        RolledBack(
            contents_of=2,
            version=(1, 5),
            optimizer=("momentum",),
            payload=array_payload(np.arange(10, dtype=np.float32)),
        ),
    ],
    ids=lambda record: record.KIND,
)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    buffers, crc = encode(record, 5, previous=11, durable=3)
    data = b"".join(map(bytes, buffers))
    assert len(data) % 8 == 0
    prefix, back = read(memoryview(data))
    assert (prefix.crc, prefix.previous, prefix.position, prefix.durable) == (crc, 11, 5, 3)
    assert prefix.nbytes == len(data)
    assert b"".join(map(bytes, getattr(back, "payload", ()))) == b"".join(
        map(bytes, getattr(record, "payload", ()))
    )
    again, _ = encode(back, 5, previous=11, durable=3)
    assert b"".join(map(bytes, again)) == data


@given(st.data())
def test_one_changed_bit_is_damage_wherever_it_is(data: st.DataObject) -> None:
    buffers, _ = encode(decided(3, 4), 5, previous=11, durable=3)
    raw = bytearray(b"".join(map(bytes, buffers)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        read(memoryview(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_damage(raw: bytes) -> None:
    with pytest.raises(Damaged):
        read(memoryview(raw))


# -- segments -------------------------------------------------------------------------------------


def test_what_is_written_is_read_in_order_from_any_position(tmp_path: Path) -> None:
    write(tmp_path, HISTORY)
    assert positions(tmp_path) == list(range(1, 9))
    assert positions(tmp_path, after=5) == [6, 7, 8]
    assert positions(tmp_path, after=8) == []


def test_another_life_goes_on_in_a_segment_of_its_own(tmp_path: Path) -> None:
    end = write(tmp_path, HISTORY)
    end = write(tmp_path, [], end, life=2)  # begins, decides nothing, and is killed
    end = write(tmp_path, [decided(8, 8)], end, life=3)
    assert positions(tmp_path) == list(range(1, 10))
    assert end.position == 9
    assert [first for first, _ in segments(tmp_path)] == [1, 9]


def test_full_segments_are_closed_and_dropped_once_no_checkpoint_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 1)
    end = End()
    for i, record in enumerate(HISTORY, 1):
        end = write(tmp_path, [record], end)
        assert end.position == i
    assert positions(tmp_path) == list(range(1, 9))
    drop_before(tmp_path, 5)
    assert positions(tmp_path, after=5) == [6, 7, 8]
    with pytest.raises(JournalError, match=r"begins with record 6, .* ends with 4: segments are"):
        positions(tmp_path, after=4)


@settings(max_examples=60)
@given(st.data())
def test_a_journal_cut_anywhere_gives_the_records_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    write(folder, HISTORY)
    path = only_segment(folder)
    whole = path.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:size])
    before = positions(folder)
    assert before == list(range(1, len(before) + 1))
    assert positions(folder, repair=True) == before
    end = write(folder, [decided(len(before), len(before) + 1)], end_of(folder), life=2)
    assert positions(folder) == list(range(1, len(before) + 2))
    assert end.position == len(before) + 1


def test_damage_that_was_never_synced_is_cut_though_a_later_record_reached_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two records of one sync: the second one's page was written, the first one's not."""
    end = write(tmp_path, HISTORY[:4])
    first, crc = encode(decided(4, 4), 5, end.crc, durable=4)
    second, _ = encode(decided(5, 5), 6, crc, durable=4)
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    unwritten = bytes(sum(map(len, first)))
    path.write_bytes(whole + unwritten + b"".join(map(bytes, second)))
    assert positions(tmp_path, repair=True) == [1, 2, 3, 4]
    assert path.read_bytes() == whole
    lost = len(unwritten) + sum(map(len, second))
    assert f"the last {lost} bytes (from record 5 on) are torn" in caplog.text


def test_damage_before_what_was_synced_later_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    end = write(tmp_path, HISTORY[:4])
    path = only_segment(tmp_path)
    later, _ = encode(decided(4, 4), 5, end.crc, durable=4)
    raw = bytearray(path.read_bytes() + b"".join(map(bytes, later)))
    raw[-len(b"".join(map(bytes, later))) - 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(JournalError, match=r"damaged at byte \d+, in record 4, which was on disk"):
        positions(tmp_path, repair=True)
    assert path.read_bytes() == raw


def test_a_whole_record_of_another_gradmq_is_refused_and_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(Labelled, "KIND", "labelled-otherwise")
        journal = JournalWriter(tmp_path, opened(), End(), lambda: None)
        journal.append(1, seeded())
        journal.append(2, Labelled(release=1, version=(1, 0)))
        journal.close(10.0)
    whole = only_segment(tmp_path).read_bytes()
    with pytest.raises(JournalError, match=r"record 2: what it says is not understood: a kind of"):
        positions(tmp_path, repair=True)
    assert only_segment(tmp_path).read_bytes() == whole


def test_damage_in_a_closed_segment_is_refused(tmp_path: Path) -> None:
    end = write(tmp_path, HISTORY[:4])
    write(tmp_path, HISTORY[4:], end, life=2)
    (_, path), _ = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(JournalError, match="in record 4, which was on disk"):
        positions(tmp_path, repair=True)


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    end = write(tmp_path, HISTORY[:3])
    end = write(tmp_path, HISTORY[3:5], end, life=2)
    write(tmp_path, HISTORY[5:], end, life=3)
    segments(tmp_path)[1][1].unlink()
    with pytest.raises(JournalError, match="a segment is missing"):
        positions(tmp_path)


# -- the thread -----------------------------------------------------------------------------------


def test_what_waits_while_one_sync_runs_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing, go_on, syncs = threading.Event(), threading.Event(), 0

    def sync(file: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == 2:  # the first is that of the new segment
            syncing.set()
            assert go_on.wait(30)

    monkeypatch.setattr(writing, "_sync", sync)
    woken = threading.Event()
    journal = JournalWriter(tmp_path, opened(), End(), woken.set)
    journal.append(1, seeded())
    assert syncing.wait(30)
    for i in range(1, 6):
        journal.append(i + 1, decided(i, i))
    assert journal.durable == 0
    assert journal.close(0) == 6  # the one that is being synced is none that is on disk
    go_on.set()
    assert journal.close(30) == 0
    assert (journal.durable, syncs, woken.is_set()) == (6, 3, True)


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_called_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = JournalWriter(tmp_path, opened(), End(), lambda: None)

    def full(file: int, buffers: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_write_all", full)
    journal.append(1, seeded())
    assert journal.close(30) == 1
    assert journal.durable == 0
    assert str(journal.error).startswith(f"cannot write to journal {tmp_path}: No space left")


def test_whatever_ends_the_thread_is_told_to_who_waits_for_it(tmp_path: Path) -> None:
    woken = threading.Event()
    journal = JournalWriter(tmp_path, opened(), End(), woken.set)
    journal.append(7, seeded())  # where record 1 belongs
    assert woken.wait(30)
    journal.close(30)
    assert "broke: AssertionError" in str(journal.error)
    assert journal.durable == 0


# -- replay ---------------------------------------------------------------------------------------


def replayed(records: Sequence[Record], momentum: float = 0.0, without: str = "") -> Replay:
    replay = Replay("demo", LAYOUT, 0, None, lambda decided: decided.worker == without)
    replay.on(0, opened(momentum=momentum))
    for position, record in enumerate(records, 1):
        replay.on(position, record)
    return replay


def values(replay: Replay) -> list[float]:
    state = replay.state()
    assert state is not None
    return [float(x) for x in state.parameters]


def test_replay_makes_the_same_steps_with_the_recorded_weights_and_rates() -> None:
    state = replayed(HISTORY, momentum=0.5).state()
    assert state is not None
    b, p = np.float32(0), np.float32(0)
    for _ in range(7):
        b = b * np.float32(0.5) + np.float32(1)
        p = p - b * np.float32(0.5)
    assert list(state.parameters) == [p] * 5
    assert list(state.optimizer["momentum"]) == [b] * 5
    assert (state.version, state.position, state.rows[7].last_seq) == (7, 8, 7)
    assert state.rows[7].verdicts[-1].version == (1, 7)


def test_a_worker_left_out_leaves_the_steps_of_the_others() -> None:
    records = [seeded(), decided(1, 1), decided(2, 2, "poison", fill=1000.0), decided(3, 3)]
    assert values(replayed(records)) == [-501.0] * 5
    replay = replayed(records, without="poison")
    assert values(replay) == [-1.0] * 5
    assert (replay.replayed, replay.skipped) == (2, 1)


def test_a_rollback_brings_back_what_was_and_later_steps_stand_on_it() -> None:
    back = RolledBack(
        contents_of=3,
        version=(1, 3),
        optimizer=(),
        payload=array_payload(np.full(5, 8, np.float32)),
    )
    state = replayed([seeded(), decided(1, 1), decided(2, 2), back, decided(3, 4)]).state()
    assert state is not None
    assert list(state.parameters) == [7.5] * 5
    assert (state.version, state.floor) == (4, 3)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([seeded(), decided(1, 2)], "version 2 follows 0"),
        ([decided(1, 1)], "version 1 follows None"),
        ([seeded(), decided(1, 1, fill=float("nan"))], "version 1 cannot be made again"),
        ([seeded(), replace(decided(1, 1), lr=-1.0)], "version 1 cannot be made again"),
    ],
    ids=["a gap", "no beginning", "not finite", "a rate below 0"],
)
def test_what_cannot_follow_is_refused(records: list[Record], words: str) -> None:
    with pytest.raises(JournalError, match=words):
        replayed(records)


def test_a_prefix_is_of_the_size_that_the_page_says() -> None:
    assert PREFIX_BYTES == 40


class WrittenNotSynced:
    """A segment of a process that was killed between the two: its bytes are there to be read."""

    name = "segment"

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.synced = 0

    def data(self) -> memoryview:
        return memoryview(self._content)

    def keep(self, nbytes: int) -> None:
        self.synced = nbytes


def test_what_a_killed_life_wrote_is_synced_before_the_next_one_builds_on_it() -> None:
    chain = Chain(opened(), End())
    buffers = [*chain.open_segment()[1], *chain.add([(1, seeded()), (2, decided(1, version=1))])]
    segment = WrittenNotSynced(content := b"".join(buffers))
    assert [s.position for s in Records("journal", [(1, segment)]).after(0, repair=True)] == [
        0,
        1,
        2,
    ]
    assert segment.synced == len(content)


def test_a_life_that_decided_nothing_hands_on_what_the_next_record_follows(tmp_path: Path) -> None:
    end = write(tmp_path, [seeded(), decided(1, version=1)])
    write(tmp_path, [], end, life=2)
    journal = Journal(tmp_path)
    list(journal.after(2, repair=True))  # a checkpoint holds both
    assert journal.end == end
    write(tmp_path, [decided(2, version=2)], journal.end, life=3)
    assert [stored.position for stored in Journal(tmp_path).after(0)] == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("left", [0, 30])
def test_the_end_is_known_though_the_newest_segment_is_torn_from_its_beginning(
    tmp_path: Path, left: int
) -> None:
    end = write(tmp_path, [seeded(), decided(1, version=1)])
    write(tmp_path, [], end, life=2)
    os.truncate(segments(tmp_path)[1][1], left)
    journal = Journal(tmp_path)
    list(journal.after(2, repair=True))  # a checkpoint holds both
    assert journal.end == end
    assert [first for first, _ in segments(tmp_path)] == [1]
