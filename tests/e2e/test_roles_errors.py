"""What can be wrong when a role is started: one line that names it, status 1, no traceback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import gradmq
from gradmq.binding import ArrayBinding
from gradmq.run.local import start_broker
from gradmq.run.release_zero import write_release_0
from gradmq.run.roles import end_all

pytestmark = pytest.mark.e2e


def fails(
    words: Sequence[object],
    folder: Path,
    status: int = 1,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command that must end by itself with this status; returns its one line."""
    ended = subprocess.run(
        [sys.executable, "-m", "gradmq", *map(str, words)],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    told = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert len(told) == 1, ended.stderr
    return told[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gradmq.LocalCluster]:
    folder = tmp_path_factory.mktemp("run")
    with gradmq.LocalCluster({"w": np.zeros(6, np.float32)}, shards=2, folder=folder) as cluster:
        yield cluster


@pytest.fixture
def lonely_broker(tmp_path: Path) -> Iterator[str]:
    """The address of a broker of run ``today``, which waits for its two shards."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[run]\nshards = 2\n")
    broker, address = start_broker(tmp_path / "broker", settings, "today", 0)
    yield address
    end_all([broker])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """The state of run ``today``: with it, a shard knows the layout and listens at once."""
    binding = ArrayBinding({"w": np.zeros(6, np.float32)})
    write_release_0(tmp_path / "checkpoints", "today", binding, 2)
    return tmp_path / "checkpoints"


def test_a_port_in_use(tmp_path: Path, free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        line = fails(["broker", "--port", free_port], tmp_path)
        assert f"port {free_port} on 127.0.0.1 is in use" in line and "choose another" in line


def test_the_port_of_a_shard_in_use(
    lonely_broker: str, checkpoints: Path, tmp_path: Path, free_port: int
) -> None:
    """It takes three: here the second is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port + 1))
        taken.listen()
        words = ["ps", "--broker", lonely_broker, "--port", free_port, "--state", checkpoints]
        assert f"port {free_port + 1} on 127.0.0.1 is in use" in fails(words, tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "optimizer.lr=fast"], "optimizer.lr is 'fast'"),
        (["--set", "optimizer.lr=-1"], "optimizer.lr is '-1'.*greater than or equal to 0"),
        (
            ["--set", "staleness.rule=strict"],
            "staleness.rule is 'strict'.*'bounded' or 'unbounded'",
        ),
        (["--set", "run.save_every=soon"], "'soon' is not a duration; write 90s"),
        (["--set", "optimizer.rate=1"], "no setting 'optimizer.rate'.*optimizer.lr"),
        (["--set", "optimiser.lr=1"], "no section 'optimiser'.*optimizer"),
        (["--set", "lr=1"], "'lr' has no section"),
        (["--set", "optimizer.lr"], "--set optimizer.lr: write it as KEY=VALUE"),
        (["--port", 65536], "network.port is 65536.*65535"),
        (["--config", "missing.toml"], "cannot read missing.toml: No such file"),
        (["--config", "broken.toml"], "broken.toml is not TOML.*line 2"),
        (["--config", "."], r"cannot read \.: Is a directory"),
        (["--config", "loose.toml"], "loose.toml: 'lr' stands outside of a section"),
        (["--config", "typo.toml"], "no setting 'run.shard'; .*run.shards"),
        (["--state", "file"], "file.*Not a directory"),
        (["--bind", "0.0.0.0", "--advertise", "10.0.0.1"], "0.0.0.0 is reachable.*--insecure"),
        (["--bind", "0.0.0.0", "--insecure"], "nobody can connect to 0.0.0.0: give --advertise"),
        (["--bind", "192.0.2.7", "--insecure"], "cannot listen on 192.0.2.7:5550"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_broker_that_cannot_start(words: list[object], told: str, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[run]\nshards = = 2\n")
    (tmp_path / "loose.toml").write_text("lr = 2\n")
    (tmp_path / "typo.toml").write_text("[run]\nshard = 2\n")
    (tmp_path / "file").write_text("")
    line = fails(["broker", *words], tmp_path)
    assert line.startswith("gradmq broker: ")
    assert re.search(told, line)


def test_a_variable_that_is_no_setting(tmp_path: Path) -> None:
    line = fails(["broker"], tmp_path, environment={"GRADMQ_OPTIMIZER_RATE": "1"})
    assert "GRADMQ_OPTIMIZER_RATE is no setting" in line
    line = fails(["broker"], tmp_path, environment={"GRADMQ_OPTIMIZER_LR": "x"})
    assert "optimizer.lr is 'x'" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--broker", "localhost:5550"], "'localhost:5550' is not of the form tcp://HOST:PORT"),
        (["--bind", "0.0.0.0", "--advertise", "10.0.0.1"], "0.0.0.0 is reachable.*--insecure"),
        (["--state", "file"], "file.*Not a directory"),
        (["--shard", -1], "shard is -1"),
        (["--port", 65534], "port is 65534"),
        (["--restore-release", 7], "cannot read checkpoint.*release-000007.*[Nn]o such file"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_shard_that_cannot_start(words: list[object], told: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = fails(["ps", *words], tmp_path)
    assert line.startswith("gradmq ps: ")
    assert re.search(told, line)


def test_a_shard_the_run_does_not_have(cluster: gradmq.LocalCluster, tmp_path: Path) -> None:
    line = fails(["ps", "--broker", cluster.address, "--shard", 2], tmp_path)
    assert "no shard 2 in a run of 2; use 0 to 1" in line


def test_a_shard_that_is_served_already(cluster: gradmq.LocalCluster, tmp_path: Path) -> None:
    line = fails(["ps", "--broker", cluster.address, "--shard", 1], tmp_path)
    assert "shard 1 is already served by process" in line


def test_a_state_folder_in_use(
    cluster: gradmq.LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = next(tmp_path_factory.getbasetemp().glob("run*")) / "checkpoints"
    words = ["ps", "--broker", cluster.address, "--shard", 1, "--state", state]
    line = fails(words, state)
    assert f"{state}/shard-1 is in use by another process" in line and "--state" in line


def test_the_state_of_another_run(lonely_broker: str, checkpoints: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_release_0(other, "yesterday", ArrayBinding({"b": np.zeros(9, np.float32)}), 2)
    line = fails(["ps", "--broker", lonely_broker, "--state", other], tmp_path)
    assert f"the state in {other} is of run yesterday; use another --state" in line
    assert "runs today" in line
    # Its layout was not taken for the run's: shards of this run are welcome.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["ps", "--broker", lonely_broker, "--port", port, "--state", checkpoints]
        assert f"port {port} on 127.0.0.1 is in use" in fails(words, tmp_path)


def test_a_damaged_checkpoint(cluster: gradmq.LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "bad" / "shard-0").mkdir(parents=True)
    (tmp_path / "bad" / "shard-0" / "release-000003.safetensors").write_bytes(b"nonsense")
    line = fails(["ps", "--broker", cluster.address, "--state", "bad"], tmp_path)
    assert "release-000003.safetensors" in line


def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o500)
    if os.access(state, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert "Permission denied" in fails(["broker", "--state", state], tmp_path)
    assert "Permission denied" in fails(["ps", "--state", state], tmp_path)


def test_a_status_of_nobody(tmp_path: Path, free_port: int) -> None:
    line = fails(["status", f"tcp://127.0.0.1:{free_port}"], tmp_path)
    assert f"broker tcp://127.0.0.1:{free_port} did not answer" in line
    assert "is it running there?" in line
    assert "tcp://HOST:PORT" in fails(["status", "here"], tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paint"], 'Unknown command "paint".*broker'),
        (["broker", "--colour", "red"], "--colour"),
        (["ps", "--shard", "first"], "--shard.*first"),
        (["broker", "one", "two"], "one"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_words_that_mean_nothing(words: list[object], told: str, tmp_path: Path) -> None:
    line = fails(words, tmp_path, status=2)
    assert line.startswith("gradmq: ") and "--help)" in line
    assert re.search(told, line)


def test_a_reader_that_has_enough_is_no_error(lonely_broker: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [sys.executable, "-m", "gradmq", "status", lonely_broker, "--json"]
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")
