"""A checkpoint is whole or refused: what is read is, to the bit, what the shard was."""

from __future__ import annotations

import json
import os
import random
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gradmq.durable import next_incarnation, write_atomically
from gradmq.errors import CheckpointError
from gradmq.layout import Layout, Tensor
from gradmq.ps import checkpoint
from gradmq.ps.checkpoint import load, load_newest, release_path, save, saved_releases
from gradmq.ps.state import Row, ShardState
from gradmq.wire.messages import Verdict

LAYOUT = Layout(
    (
        Tensor("w", "float32", (2, 3)),
        Tensor("scalar", "bfloat16", ()),
        Tensor("empty", "float32", (0,)),
    ),
    shards=2,
)
INDEX = 1
SIZE = LAYOUT.parts[INDEX].size


def state(release: int = 3) -> ShardState:
    verdicts = (
        Verdict(seq=7, outcome="applied", version=(2, 41), weight=0.5, staleness=3),
        Verdict(seq=8, outcome="rejected", reason="nonfinite"),
    )
    return ShardState(
        parameters=np.array([1.0, -0.0, 1e-45, 3.4e38], np.float32)[:SIZE],
        optimizer={"momentum": np.linspace(0, 1, SIZE, dtype=np.float32)},
        version=41,
        lineage=((1, -1), (2, 17)),
        rows={16777217: Row("worker-1", 8, deque(verdicts)), 16777219: Row("Änne", 0)},
        release=release,
    )


def assert_same(one: ShardState, other: ShardState) -> None:
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert {k: v.tobytes() for k, v in one.optimizer.items()} == {
        k: v.tobytes() for k, v in other.optimizer.items()
    }
    bare = {"parameters": np.zeros(0, np.float32), "optimizer": {}}
    assert replace(one, **bare).__repr__() == replace(other, **bare).__repr__()


def no_files_beside(folder: Path) -> bool:
    return not list(folder.glob("**/.*"))


# -- what is written is what is read --------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    assert path == tmp_path / "shard-1" / "release-000003.safetensors"
    run, layout, loaded = load(tmp_path, INDEX, 3)
    assert (run, layout) == ("demo", LAYOUT)
    assert_same(loaded, state())
    assert no_files_beside(tmp_path)


def test_a_shard_without_elements_or_optimizer_state_comes_back_too(tmp_path: Path) -> None:
    layout = Layout((Tensor("w", "float32", (1,)),), shards=2)
    empty = replace(state(), parameters=np.zeros(0, np.float32), optimizer={}, rows={})
    save(tmp_path, "demo", layout, 0, empty)
    assert_same(load(tmp_path, 0, 3)[2], empty)


def test_what_was_loaded_can_be_written_to(tmp_path: Path) -> None:
    save(tmp_path, "demo", LAYOUT, INDEX, state())
    load(tmp_path, INDEX, 3)[2].parameters[0] = 5.0


# -- which are kept -------------------------------------------------------------------------------


def test_the_newest_three_are_kept_and_the_beginning(tmp_path: Path) -> None:
    for release in range(8):
        save(tmp_path, "demo", LAYOUT, INDEX, state(release))
    assert saved_releases(tmp_path, INDEX) == [0, 5, 6, 7]
    assert saved_releases(tmp_path, 0) == []


def test_the_newest_is_the_one_with_the_largest_number(tmp_path: Path) -> None:
    for release in (2, 1_000_000, 9):
        save(tmp_path, "demo", LAYOUT, INDEX, state(release))
    newest = load_newest(tmp_path, INDEX)
    assert newest is not None
    assert newest[2].release == 1_000_000


def test_a_shard_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert load_newest(tmp_path, INDEX) is None


def test_other_files_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, "demo", LAYOUT, INDEX, state())
    for name in ("release-000009.safetensors.old", ".release-000009.safetensors.77.tmp", "lock"):
        (tmp_path / "shard-1" / name).write_bytes(b"")
    assert saved_releases(tmp_path, INDEX) == [3]


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, "demo", LAYOUT, INDEX, state())
    save(tmp_path, "other", LAYOUT, INDEX, state())
    assert load(tmp_path, INDEX, 3)[0] == "other"


# -- damage ---------------------------------------------------------------------------------------


def refusal(tmp_path: Path, index: int = INDEX, release: int = 3) -> str:
    with pytest.raises(CheckpointError) as error:
        load(tmp_path, index, release)
    text = str(error.value)
    assert "\n" not in text
    assert str(release_path(tmp_path, index, release)) in text
    return text


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path)


def test_a_damaged_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    whole, chance = path.read_bytes(), random.Random(3)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        refusal(tmp_path)


def test_a_checkpoint_that_was_cut_off_or_grew_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    whole = path.read_bytes()
    for wrong in (*(whole[:length] for length in range(0, len(whole), 7)), whole + b"\x00"):
        path.write_bytes(wrong)
        refusal(tmp_path)


def test_exchanged_bytes_are_found(tmp_path: Path) -> None:
    path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    whole, chance = path.read_bytes(), random.Random(4)
    for _ in range(300):
        damaged = bytearray(whole)
        a, b = chance.sample(range(len(whole)), 2)
        damaged[a], damaged[b] = damaged[b], damaged[a]
        if damaged != whole:
            path.write_bytes(damaged)
            refusal(tmp_path)


def test_the_checkpoint_of_another_shard_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    other = release_path(tmp_path, 0, 3)
    other.parent.mkdir()
    path.rename(other)
    assert "it is of shard 1, not 0" in refusal(tmp_path, index=0)


def test_the_checkpoint_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 9)
        save(tmp_path, "demo", LAYOUT, INDEX, state())
    assert "it is of format 9, this gradmq reads 1" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("part", "by"),
    [
        ('"version": 41', '"version": 1e999'),
        ('"lineage": [[1, -1]', '"lineage": [[1e999, -1]'),
        ('"spared": []', '"spared": ' + 20_000 * "["),
        ('"tensors": [[', '"tensors": [[], ['),
        ('"rows": {', '"rows": [], "else": {'),
    ],
)
def test_metadata_of_another_form_is_refused_though_its_crc_is_right(
    tmp_path: Path, part: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        dumps = json.dumps
        later.setattr(json, "dumps", lambda value: dumps(value).replace(part, by, 1))
        path = save(tmp_path, "demo", LAYOUT, INDEX, state())
    assert by.encode() in path.read_bytes().replace(b"\\", b"")
    refusal(tmp_path)


def test_a_refusal_quotes_little_of_what_it_was_given(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": "no such thing\n" * 1000}).encode()
    path = release_path(tmp_path, INDEX, 3)
    path.parent.mkdir()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "no such thing" in refusal(tmp_path)
    assert len(refusal(tmp_path)) < 1000


def test_a_file_that_gradmq_did_not_write_is_refused(tmp_path: Path) -> None:
    path = release_path(tmp_path, INDEX, 3)
    path.parent.mkdir()
    save_file({"parameters": np.zeros(SIZE, np.float32)}, path)
    assert "not of gradmq" in refusal(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shard-1").write_text("a file where the folder belongs")
    with pytest.raises(CheckpointError, match=r"^cannot write checkpoint .*shard-1"):
        save(tmp_path, "demo", LAYOUT, INDEX, state())


# -- files that are whole or not there ------------------------------------------------------------


def failing(path: Path) -> None:
    path.write_bytes(b"half of i")
    raise OSError("no space left on device")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, failing)
    assert path.read_bytes() == b"old"
    assert no_files_beside(tmp_path)


def test_a_file_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noting(what: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            order.append(what)
            real(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noting("sync", os.fsync))
    monkeypatch.setattr(os, "replace", noting("rename", os.replace))
    write_atomically(tmp_path / "file", lambda beside: beside.write_bytes(b"new"))
    assert order == ["sync", "rename", "sync"]


def test_incarnations_are_counted_from_one_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "shard-1" / "incarnation"
    assert [next_incarnation(path) for _ in range(3)] == [1, 2, 3]
    assert path.read_text() == "3\n"


def test_an_incarnation_file_that_holds_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "incarnation"
    path.write_text("three")
    with pytest.raises(CheckpointError, match=r"incarnation does not hold a number; remove it"):
        next_incarnation(path)
    assert path.read_text() == "three"


def test_an_incarnation_that_cannot_be_counted_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"^cannot count incarnations in .*incarnation"):
        next_incarnation(tmp_path / "file" / "incarnation")
