"""A run with a journal: a shard is killed, and nothing that was answered is lost.

Gradient i is one-hot at i in both tensors, so without momentum each element counts how often the
shard that holds it applied push i.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

import gradmq
from gradmq.history.rebuild import Target, digest, rebuild
from gradmq.layout import Layout
from gradmq.models import bound
from gradmq.observer import Observer
from gradmq.worker.session import Answered

pytestmark = pytest.mark.e2e

PUSHES = 400
WORKERS = 4

Arrays = dict[str, npt.NDArray[np.float32]]


def counters() -> Arrays:
    return {"left": np.zeros(PUSHES, np.float32), "right": np.zeros(PUSHES, np.float32)}


def one_hot(index: int) -> Arrays:
    gradient = np.zeros(PUSHES, np.float32)
    gradient[index] = -1
    return {"left": gradient, "right": gradient}


def cluster(folder: Path, momentum: float, **settings: object) -> gradmq.LocalCluster:
    return gradmq.LocalCluster(
        counters(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0, momentum=momentum),
        staleness=gradmq.Unbounded(),
        settings={"run.durability": "journal", **settings},
        folder=folder,
    )


def digest_of(values: Arrays) -> str:
    return digest(Layout(bound(counters()).tensors, 2), values)


def history(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradmq", "history", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Pushers:
    """Workers that push every index once between them, each in its own thread."""

    def __init__(self, address: str) -> None:
        self.answers: list[Answered] = []
        self.half_way = threading.Barrier(WORKERS + 1)
        self._address = address
        self._threads = [threading.Thread(target=self._push, args=(k,)) for k in range(WORKERS)]

    def __enter__(self) -> Pushers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for thread in self._threads:
            thread.join()

    def _push(self, number: int) -> None:
        name = f"worker-{number}"
        with gradmq.Worker(counters(), self._address, name, max_in_flight=4) as worker:
            for index in range(number, PUSHES, WORKERS):
                if index == PUSHES // 2 + number:
                    self.half_way.wait(30)
                worker.push(one_hot(index))
            self.answers += worker.drain(30)


@pytest.fixture(params=["shm", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_killed_shards_come_back_with_every_update_that_was_answered(
    tmp_path: Path, transport: str
) -> None:
    with cluster(tmp_path, 0.0, **{"network.transport": transport}) as run:
        with Pushers(run.address) as pushers:
            pushers.half_way.wait(30)
            for shard in (0, 1):
                run.kill(f"ps-{shard}")
                run.restart_shard(shard)
        assert len(pushers.answers) == PUSHES
        applied = sum(v.outcome == "applied" for a in pushers.answers for v in a.verdicts)
        values = run.parameters()
        assert all(np.isin(tensor, (0.0, 1.0)).all() for tensor in values.values())
        # The rest was computed on versions that were never on disk, and said so.
        assert sum(int(tensor.sum()) for tensor in values.values()) == applied
        shards = run.status()["shards"]
        assert [shard["incarnation"] for shard in shards] == [2, 2]
        assert [shard["lost_updates"] for shard in shards] == [0, 0]
        assert (
            sum(v.reason not in ("", "lost_base") for a in pushers.answers for v in a.verdicts) == 0
        )


def test_a_replay_has_the_bits_of_the_run_and_without_a_worker_it_has_not(tmp_path: Path) -> None:
    with cluster(tmp_path, 0.5) as run:
        with Pushers(run.address) as pushers:
            pushers.half_way.wait(30)
            with Observer(run.address) as observer:
                saved = observer.make_release(save=True)
            at_release = rebuild(tmp_path, Target(release=saved))  # of a run that goes on
            run.kill("ps-1")
            run.restart_shard(1)
        values, versions = run.parameters(), run.versions()

    rebuilt = rebuild(tmp_path, Target())
    assert rebuilt.digest == digest_of(values)
    assert [version for _, version in rebuilt.versions] == [version for _, version in versions]
    assert all(np.array_equal(rebuilt.tensors[name], values[name]) for name in values)
    assert 0 < at_release.versions[0][1] < versions[0][1]
    assert rebuild(tmp_path, Target(release=saved)).digest == at_release.digest

    done = history("replay", tmp_path, "--to", f"release:{saved}", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sha256 {at_release.digest}" in done.stdout
    written = load_file(tmp_path / "out" / "parameters.safetensors")
    assert all(np.array_equal(written[name], at_release.tensors[name]) for name in written)

    without = rebuild(tmp_path, Target(), without=["worker-3"])
    assert (
        without.skipped
        == sum(v.outcome == "applied" for a in pushers.answers for v in a.verdicts if a.session)
        - without.replayed
    )
    assert not without.tensors["left"][3::WORKERS].any()
    assert without.tensors["left"][2::WORKERS].any()

    listed = history("list", tmp_path, "--json", "--worker", "worker-2", "--last", 0)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {row["worker"] for row in rows} == {"worker-2"}
    assert [row["seq"] for row in rows if row["shard"] == 0] == list(
        range(1, PUSHES // WORKERS + 1)
    )
    assert {row["norm"] for row in rows if row["outcome"] == "applied"} == {1.0}


def test_a_live_run_goes_back_and_followers_and_workers_go_with_it(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, 0.0) as run,
        gradmq.Follower(followed := counters(), run.address) as follower,
        gradmq.Worker(counters(), run.address, max_in_flight=1) as worker,
    ):
        for index in range(3):
            worker.push(one_hot(index)).verdict(30)
        with Observer(run.address) as observer:
            good = observer.make_release(save=True)
        for index in range(3, 6):
            worker.push(one_hot(index)).verdict(30)
        done = history("rollback", run.address, "--to", f"release:{good}")
        assert done.returncode == 0, done.stderr
        assert f"holds what release {good} held" in done.stdout
        assert run.parameters()["left"][:7].tolist() == [1.0] * 3 + [0.0] * 4

        late = worker.push(one_hot(6)).verdict(30)
        assert {v.reason for v in late.verdicts} == {"lost_base"}
        worker.catch_up(30)
        assert worker.push(one_hot(6)).verdict(30).applied
        made = int(done.stdout.split()[1])
        with Observer(run.address) as observer:
            newest = observer.make_release(save=False)
        assert newest > made > good
        while follower.update(timeout=30).number < newest:
            pass
        assert followed["left"][:7].tolist() == [1.0] * 3 + [0.0] * 3 + [1.0]

        refused = history("rollback", run.address, "--to", "release:4711")
        assert refused.returncode == 1
        assert "release 4711 is not on the disk of shards [0, 1]; all" in refused.stderr
    assert rebuild(tmp_path, Target()).tensors["left"].sum() == 4


def test_what_cannot_be_replayed_is_one_line(tmp_path: Path) -> None:
    done = history("replay", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "holds no journal of shard 0; a run writes one with" in done.stderr
    done = history("replay", tmp_path, "--to", "yesterday")
    assert done.stderr == "gradmq: --to yesterday: write release:12 or version:4711\n"
