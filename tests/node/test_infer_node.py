"""An inference node beside a live run, after the run is gone, and without one."""

from __future__ import annotations

import contextlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

import gradmq
from gradmq.config import InferSettings, NetworkSettings
from gradmq.errors import GradmqError
from gradmq.infer import node
from gradmq.infer.run_watch import RunWatch
from gradmq.infer.serving import Serving
from gradmq.infer.swapping import Swapper
from gradmq.run.saved import read_saved

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

INFER = "/v2/models/sums/infer"
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}


def model() -> torch.nn.Linear:
    made = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(made.weight)
    return made


def a_job(**more: Any) -> gradmq.Job:
    return gradmq.Job(
        name="sums",
        model=model,
        batches=lambda context: iter(()),
        loss="mse_loss",
        serve=lambda: gradmq.TensorModel(
            inputs=(gradmq.TensorSpec("x", "FP32", (-1, 2)),),
            outputs=(gradmq.TensorSpec("y", "FP32", (-1, 1)),),
        ),
        **more,
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(
        model(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0),
        settings={"run.release_every": "50ms"},
        folder=tmp_path / "run",
    ) as cluster:
        yield cluster


@contextlib.contextmanager
def serving_node(
    job: gradmq.Job, source: node.Source, **settings: Any
) -> Iterator[tuple[httpx.Client, Serving]]:
    """A node in a thread of this process: a client of it, and what it holds."""
    stopped = threading.Event()
    up: queue.SimpleQueue[tuple[Serving, str]] = queue.SimpleQueue()
    failures: list[Exception] = []

    def tell(swapper: Swapper, url: str, stop: Callable[[], bool]) -> None:
        up.put((swapper.serving, url))
        source(swapper, url, stop)

    def run() -> None:
        try:
            node.serve(job, InferSettings(**settings), NetworkSettings(), tell, stopped)
        except Exception as error:  # noqa: BLE001  (shown by the assertion below)
            failures.append(error)
            up.put((Serving(), "http://127.0.0.1:0"))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        serving, url = up.get(timeout=30)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client, serving
    finally:
        stopped.set()
        thread.join()
    assert failures == []


def push(worker: gradmq.Worker, value: float) -> str:
    """Take this from every weight; returns the versions that hold the update."""
    answered = worker.push({"weight": torch.full((1, 2), value)}).verdict()
    worker.catch_up()
    return ",".join(f"{v.version[0]}:{v.version[1]}" for v in answered.verdicts if v.version)


def value(client: httpx.Client, **wishes: str) -> float:
    answer = client.post(INFER, json=ROW, params=wishes)
    assert answer.status_code == 200, answer.text
    found: float = answer.json()["outputs"][0]["data"][0]
    return found


def test_a_run_is_told_the_address_at_which_others_reach_the_node() -> None:
    told: list[str] = []
    stopped = threading.Event()

    def source(swapper: Swapper, url: str, stop: Callable[[], bool]) -> None:
        told.append(url)
        stopped.set()

    network = NetworkSettings(insecure=True, advertise="node.example")
    node.serve(a_job(), InferSettings(host="0.0.0.0"), network, source, stopped)
    assert told[0].startswith("http://node.example:")


def test_who_pushed_can_read_the_own_write(cluster: gradmq.LocalCluster) -> None:
    source = node.releases_of_run(a_job(), cluster.address, "", 30.0, None)
    with (
        serving_node(a_job(), source) as (client, _),
        gradmq.Worker(model(), cluster.address) as worker,
    ):
        for total in (-2.0, -4.0, -6.0):
            assert value(client, min_version=push(worker, 1.0), max_age="5s") == total


def test_a_run_that_goes_away_leaves_a_node_that_serves_and_grows_old(
    cluster: gradmq.LocalCluster,
) -> None:
    source = node.releases_of_run(a_job(), cluster.address, "", 30.0, None)
    with serving_node(a_job(), source, max_age=1.5) as (client, serving):
        with gradmq.Worker(model(), cluster.address) as worker:
            value(client, min_version=push(worker, 1.0))
        assert client.get("/v2/health/ready").status_code == 200
        for role in ("ps-0", "ps-1", "broker"):
            cluster.kill(role)
        while client.get("/v2/health/ready").status_code == 200:
            pass  # the test's own time limit ends this
        assert value(client) == -2.0
        assert int(client.get("/healthz").headers["x-gradmq-age-ms"]) >= 1500
        refused = client.post(INFER, json=ROW, params={"max_age": "1s", "wait": "100ms"})
        assert refused.status_code == 503
        assert refused.json()["error"].startswith(f"release {serving.held()[-1].release.number} ha")


def test_a_node_knows_the_run_it_follows_and_says_when_its_broker_falls_silent(
    cluster: gradmq.LocalCluster,
) -> None:
    watch = RunWatch()
    source = node.releases_of_run(a_job(), cluster.address, "", 30.0, None, watch=watch)
    with (
        serving_node(a_job(), source) as (client, _),
        gradmq.Worker(model(), cluster.address, name="worker-1") as worker,
    ):
        value(client, min_version=push(worker, 1.0))
        while not (watch.report(time.monotonic())["updates"] and watch.history()["points"]):
            pass  # the test's own time limit ends this
        report = watch.report(time.monotonic())
        assert [each["name"] for each in report["workers"]] == ["worker-1"]
        assert [each["url"] for each in report["nodes"]] == [str(client.base_url).rstrip("/")]
        cluster.kill("broker")
        while watch.report(time.monotonic())["silent_s"] < 2.0:
            pass  # the test's own time limit ends this
        assert value(client) == -2.0


def test_a_diverged_release_is_skipped_and_the_last_good_one_goes_on(
    cluster: gradmq.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    source = node.releases_of_run(a_job(), cluster.address, "", 30.0, None)
    with (
        serving_node(a_job(), source) as (client, serving),
        gradmq.Worker(model(), cluster.address) as worker,
    ):
        value(client, min_version=push(worker, 1.0))
        for _ in range(2):  # each is finite, their sum is not; a release between them may be served
            worker.push({"weight": torch.tensor([[3e38, 0.0]])}).verdict()
            worker.catch_up()
        while serving.last_turned_down is None:
            pass  # the test's own time limit ends this
        down = serving.last_turned_down
        assert down.reason == "has a value in 'weight' that is not finite"
        assert value(client) in (-2.0, pytest.approx(-3e38))
        assert client.get("/gradmq/v1/serving").json()["turned_down"]["release"] >= down.number
    (skips,) = re.findall("skips release .*", caplog.text)  # the first of them alone
    assert skips.endswith(f": it {down.reason}")


def test_a_release_that_the_job_scores_too_low_is_skipped(cluster: gradmq.LocalCluster) -> None:
    job = a_job(score=lambda net: float(net(torch.ones(1, 2))))
    source = node.releases_of_run(job, cluster.address, "", 30.0, None, max_score_drop=3.0)
    with (
        serving_node(job, source) as (client, serving),
        gradmq.Worker(model(), cluster.address) as worker,
    ):
        assert value(client, min_version=push(worker, -1.0)) == 2.0  # weights are 1 each
        push(worker, 5.0)
        while serving.last_turned_down is None:
            pass  # the test's own time limit ends this
        assert serving.last_turned_down.reason == "scores -8 after 2, a drop of more than 3"
        assert value(client) == 2.0
        assert value(client, min_version=push(worker, -6.0)) == 4.0


def test_what_is_saved_is_served_without_a_run(
    cluster: gradmq.LocalCluster, tmp_path: Path
) -> None:
    cluster.close()  # release 0 is what is there
    save_file({"weight": torch.ones(1, 2)}, tmp_path / "best.safetensors", {"release": "7"})
    torch.save(model().state_dict(), tmp_path / "model.pth")
    run = tmp_path / "run"
    for path, release, said in (
        (run, 0, "0:0,0:0"),
        (run / "checkpoints", 0, "0:0,0:0"),
        (tmp_path / "best.safetensors", 7, ""),
        (tmp_path / "model.pth", 0, ""),
    ):
        saved = read_saved(a_job(), path)
        assert (saved.number, saved.versions_text()) == (release, said)
        with serving_node(a_job(), node.one_release(saved)) as (client, _):
            assert value(client, wait="20s", pin=str(release)) == (2.0 if release else 0.0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", "there is no "),
        ("empty", "is no run's folder, and has no folder shard-0"),
        ("run", "this model does not match "),
        ("other.safetensors", "is of another model"),
        ("torn.safetensors", "cannot read parameters from "),
    ],
)
def test_what_cannot_be_served_is_named(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"not much")
    if name == "run":
        with gradmq.LocalCluster(torch.nn.Linear(5, 5), folder=tmp_path / "run"):
            pass
    with pytest.raises(GradmqError, match=says):
        read_saved(a_job(), tmp_path / name)


JOB = """
import torch
import gradmq

job = gradmq.Job(
    name="sums", model=lambda: torch.nn.Linear(2, 1, bias=False),
    batches=lambda context: iter(()), loss="mse_loss",
    serve=lambda: gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("x", "FP32", (-1, 2)),),
        outputs=(gradmq.TensorSpec("y", "FP32", (-1, 1)),),
    ),
)
"""


def test_the_command_serves_a_file_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(JOB)
    save_file({"weight": torch.ones(1, 2)}, tmp_path / "best.safetensors", {"release": "7"})
    command = ["infer", "sums.py", "--checkpoint", "best.safetensors", "--max-age", "90s"]
    with subprocess.Popen(
        [sys.executable, "-m", "gradmq", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "answers at" in line)
            with httpx.Client(base_url=line.split()[-1], timeout=30) as client:
                assert value(client, wait="20s") == 2.0
                assert client.get("/healthz").headers["x-gradmq-release"] == "7"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_tolerated_drop_needs_a_job_that_scores(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(JOB)
    command = ["infer", "sums.py", "--set", "infer.max_score_drop=0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "gradmq", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "infer.max_score_drop is set, and job sums has no score" in done.stderr
