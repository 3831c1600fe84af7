"""A process fails where it was told to, and nowhere unless it was told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradmq.config import resolve
from gradmq.durable import read_number, write_text
from gradmq.failpoints import VARIABLE, parse
from gradmq.layout import Layout, Tensor
from gradmq.ps import checkpoint
from gradmq.ps.state import ShardState

LAYOUT = Layout((Tensor("w", "float32", (3,)),), shards=1)

#: Where a release that dies there is found afterwards: as it was, or as it was to be.
BEFORE_THE_RENAME = ["checkpoint.before_write", "durable.before_write", "durable.after_write",
                     "durable.after_sync"]  # fmt: skip
AFTER_IT = ["durable.after_rename", "checkpoint.after_write", "checkpoint.after_drop"]


def run(code: str, failpoints: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: failpoints},
        capture_output=True,
        text=True,
        timeout=30,
    )


def save_numbered(folder: Path, release: int) -> None:
    parameters = np.full(3, release, np.float32)
    state = ShardState(parameters, {}, release, lineage=((1, -1),), rows={}, release=release)
    checkpoint.save(folder, "demo", LAYOUT, 0, state)


@pytest.mark.parametrize("name", [*BEFORE_THE_RENAME, *AFTER_IT])
def test_a_shard_killed_while_it_writes_leaves_the_old_release_or_the_new_one(
    tmp_path: Path, name: str
) -> None:
    save_numbered(tmp_path, 1)
    again = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_failpoints import save_numbered
save_numbered(Path({str(tmp_path)!r}), 2)
"""
    assert run(again, f"{name}=kill").returncode == -signal.SIGKILL
    found = checkpoint.load_newest(tmp_path, 0)
    assert found is not None
    release = 1 if name in BEFORE_THE_RENAME else 2
    assert (found[2].release, found[2].parameters.tolist()) == (release, [release] * 3)


def test_a_number_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    write_text(tmp_path / "n", "1")
    code = f"from gradmq.durable import *; write_text(Path({str(tmp_path / 'n')!r}), '2')"
    for name, number in (("durable.after_write", 1), ("durable.after_rename", 2)):
        assert run(code, f"{name}=kill").returncode == -signal.SIGKILL
        assert read_number(tmp_path / "n") == number


def test_a_fault_comes_at_its_hit_and_at_no_other(tmp_path: Path) -> None:
    code = """
from gradmq.failpoints import failpoint
for hit in range(1, 5):
    try:
        failpoint("here")
        failpoint("elsewhere")
    except OSError as error:
        print(hit, error)
"""
    told = run(code, "here=error@3,there=kill")
    assert told.stdout == "3 [Errno 5] failpoint here\n"
    assert run(code, "").stdout == ""


def test_a_wrong_entry_is_named_in_one_line() -> None:
    with pytest.raises(ValueError, match="has 'here=explode'; write NAME=kill"):
        parse("there=kill@1,here=explode")
    told = run("import gradmq.failpoints", "here=kill@0")
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)


def test_the_variable_is_not_taken_for_a_setting() -> None:
    assert resolve({}, None, {VARIABLE: "here=kill"}, {}).run.shards == 1
