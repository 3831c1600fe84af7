"""Files that are whole or not there."""

from pathlib import Path

import pytest

from gradmq.durable import next_incarnation, remove_unfinished, write_atomically, write_text
from gradmq.errors import CheckpointError


def test_a_failing_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_text(path, "old")

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_incarnations_count_lives_and_survive_them(tmp_path: Path) -> None:
    counter = tmp_path / "shard-0" / "incarnation"
    assert [next_incarnation(counter) for _ in range(3)] == [1, 2, 3]


def test_a_damaged_counter_is_refused_and_not_begun_anew(tmp_path: Path) -> None:
    counter = tmp_path / "incarnation"
    counter.write_text("seven")
    with pytest.raises(CheckpointError, match="does not hold a number"):
        next_incarnation(counter)


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / ".release-000007.safetensors.123.tmp").write_text("half")
    (tmp_path / "release-000006.safetensors").write_text("whole")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["release-000006.safetensors"]
