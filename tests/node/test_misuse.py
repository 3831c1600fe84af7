"""Mistakes of the caller: each is an error with a name, at once, and harms nobody else."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradmq

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]

NOBODY = "tcp://127.0.0.1:9"


def zeros() -> Arrays:
    return {"weight": np.zeros((4, 5), np.float32), "bias": np.zeros(4, np.float32)}


def ones() -> Arrays:
    return {name: np.ones_like(array) for name, array in zeros().items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(zeros(), optimizer=gradmq.SGD(lr=1.0)) as cluster:
        yield cluster


@pytest.fixture
def worker(cluster: gradmq.LocalCluster) -> Iterator[gradmq.Worker]:
    with gradmq.Worker(zeros(), cluster.address) as worker:
        yield worker


@pytest.mark.parametrize(
    ("gradients", "error", "words"),
    [
        ({"weight": np.ones((5, 4))}, gradmq.LayoutMismatch, r"'weight'.*\[5, 4\].*\[4, 5\]"),
        ({"weight": np.ones(20)}, gradmq.LayoutMismatch, r"'weight'.*\[20\].*\[4, 5\]"),
        ({"wait": np.ones((4, 5))}, gradmq.LayoutMismatch, "'wait'.*weight, bias"),
        ({"bias": np.ones(4, complex)}, gradmq.LayoutMismatch, "'bias'.*complex128"),
        ({"bias": np.array(["a"] * 4)}, gradmq.LayoutMismatch, "'bias'"),
        ({"bias": [1.0, 2.0]}, gradmq.LayoutMismatch, r"'bias'.*\[2\].*\[4\]"),
        ({"bias": np.array([1, np.nan, 0, 0])}, gradmq.JobError, "NaN or infinity"),
        ({"bias": np.array([1, np.inf, 0, 0])}, gradmq.JobError, "NaN or infinity"),
        ({"bias": np.full(4, 1e300)}, gradmq.JobError, "NaN or infinity"),
    ],
    ids=str,
)
def test_a_gradient_that_does_not_fit_is_not_pushed(
    cluster: gradmq.LocalCluster,
    worker: gradmq.Worker,
    gradients: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    before = cluster.versions()
    with pytest.raises(error, match=words):
        worker.push(gradients)
    assert worker.push(ones()).seq == 1, "the seqs stay dense"
    worker.drain(30)
    assert cluster.versions()[0][1] == before[0][1] + 1


def test_the_arrays_given_are_checked() -> None:
    readonly = np.zeros(3, np.float32)
    readonly.flags.writeable = False
    for arrays, words in (
        ({"w": readonly}, "'w' is read-only"),
        ({"w": np.zeros(3, np.int64)}, "'w' is int64"),
        ({"w": [0.0, 1.0]}, "'w' is a list"),
    ):
        with pytest.raises(gradmq.LayoutMismatch, match=words):
            gradmq.Worker(arrays, NOBODY)  # type: ignore[arg-type]


def test_arguments_are_checked_before_anything_is_opened() -> None:
    with pytest.raises(gradmq.JobError, match="max_in_flight is 0"):
        gradmq.Worker(zeros(), NOBODY, max_in_flight=0)
    for address in ("127.0.0.1:5550", "tcp://127.0.0.1", "tcp://:5550", "udp://host:1", ""):
        with pytest.raises(gradmq.SettingsError, match="tcp://HOST:PORT"):
            gradmq.Worker(zeros(), address)
        with pytest.raises(gradmq.SettingsError, match="tcp://HOST:PORT"):
            gradmq.Follower(zeros(), address)
    with pytest.raises(gradmq.SettingsError, match="bound is -1"):
        gradmq.Bounded(-1)
    with pytest.raises(gradmq.SettingsError, match="nesterov needs a momentum"):
        gradmq.SGD(lr=0.1, nesterov=True)
    with pytest.raises(gradmq.SettingsError, match=r"no setting 'run\.shard'"):
        gradmq.LocalCluster(zeros(), settings={"run.shard": 3}).open()


def test_nothing_is_opened_before_open() -> None:
    gc.collect()  # or what earlier tests dropped goes in between
    descriptors = len(os.listdir("/proc/self/fd"))
    worker, follower = gradmq.Worker(zeros(), NOBODY), gradmq.Follower(zeros(), NOBODY)
    cluster = gradmq.LocalCluster(zeros())
    assert len(os.listdir("/proc/self/fd")) == descriptors
    for close in (worker.close, follower.close, cluster.close):
        close()
    del worker, follower, cluster
    gc.collect()  # a socket that was dropped open would warn here


@pytest.mark.parametrize("kind", [gradmq.Worker, gradmq.Follower])
def test_an_unreachable_broker_is_named_with_what_to_do(kind: Any, free_port: int) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    with pytest.raises(gradmq.BrokerAway, match=rf"{address} did not answer.*`gradmq broker`"):
        kind(zeros(), address, timeout=0.2).open()


WORKER_CALLS: dict[str, Callable[[gradmq.Worker], object]] = {
    "push": lambda worker: worker.push(ones()),
    "pull": lambda worker: worker.pull(),
    "drain": lambda worker: worker.drain(),
    "catch_up": lambda worker: worker.catch_up(),
    "optimizer": lambda worker: worker.optimizer(),
}

FOLLOWER_CALLS: dict[str, Callable[[gradmq.Follower], object]] = {
    "update": lambda follower: follower.update(),
    "wait": lambda follower: follower.wait(),
    "newest": lambda follower: follower.newest(),
    "report_evaluation": lambda follower: follower.report_evaluation(None, {}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", WORKER_CALLS)
def test_a_worker_that_is_not_open_says_so(cluster: gradmq.LocalCluster, call: str) -> None:
    worker = gradmq.Worker(zeros(), cluster.address)
    with pytest.raises(gradmq.Closed, match="not open"):
        WORKER_CALLS[call](worker)
    with worker:
        pass
    with pytest.raises(gradmq.Closed):
        WORKER_CALLS[call](worker)
    worker.close()


@pytest.mark.parametrize("call", FOLLOWER_CALLS)
def test_a_follower_that_is_not_open_says_so(cluster: gradmq.LocalCluster, call: str) -> None:
    follower = gradmq.Follower(zeros(), cluster.address)
    with pytest.raises(gradmq.Closed, match="not open"):
        FOLLOWER_CALLS[call](follower)
    with follower:
        pass
    with pytest.raises(gradmq.Closed):
        FOLLOWER_CALLS[call](follower)
    follower.close()


@pytest.mark.parametrize("kind", [gradmq.Worker, gradmq.Follower])
def test_what_was_closed_is_not_opened_again(cluster: gradmq.LocalCluster, kind: Any) -> None:
    member = kind(zeros(), cluster.address)
    with member, pytest.raises(gradmq.Closed, match="open already"):
        member.open()
    with pytest.raises(gradmq.Closed, match="make a new one"):
        member.open()


def test_a_verdict_asked_for_after_the_worker_was_closed(cluster: gradmq.LocalCluster) -> None:
    with gradmq.Worker(zeros(), cluster.address) as worker:
        answered = worker.push(ones())
        assert answered.verdict().applied
    assert answered.verdict().applied, "it is known"


def test_arrays_have_no_gradients_to_step_with(worker: gradmq.Worker) -> None:
    with pytest.raises(gradmq.JobError, match=r"push\(\)"):
        worker.step()


def test_an_error_inside_the_block_closes_without_waiting(cluster: gradmq.LocalCluster) -> None:
    worker = gradmq.Worker(zeros(), cluster.address)
    with contextlib.suppress(KeyError), worker:
        worker.push(ones())
        raise KeyError
    with pytest.raises(gradmq.Closed):
        worker.pull()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_childs_copies_are_closed_and_the_parent_goes_on(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker
) -> None:
    with gradmq.Follower(zeros(), cluster.address) as follower:
        calls: list[Callable[[], object]] = [
            *(lambda call=call: call(worker) for call in WORKER_CALLS.values()),
            *(lambda call=call: call(follower) for call in FOLLOWER_CALLS.values()),
            worker.open,
            follower.open,
        ]
        child = os.fork()
        if child == 0:
            try:
                os._exit(_how_many_are_not_refused(calls) or _closes(worker, follower))
            finally:
                os._exit(99)  # whatever happens: no second test run
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert worker.push(ones()).verdict().applied
        assert follower.update(timeout=0.1).number


def _how_many_are_not_refused(calls: list[Callable[[], object]]) -> int:
    refused = 0
    for call in calls:
        try:
            call()
        except gradmq.Closed as error:
            refused += "belongs to the process that made it" in str(error)
    return len(calls) - refused


def _closes(worker: gradmq.Worker, follower: gradmq.Follower) -> int:
    worker.close()
    follower.close()
    gc.collect()
    return 0


def test_a_cluster_that_is_not_open_says_so() -> None:
    cluster = gradmq.LocalCluster(zeros())
    for call in (cluster.status, cluster.parameters, cluster.versions):
        with pytest.raises(gradmq.Closed, match="not open"):
            call()


def test_a_cluster_whose_process_fails_says_why(free_port: int) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        cluster = gradmq.LocalCluster(zeros(), settings={"network.port": free_port})
        with pytest.raises(gradmq.RoleFailed, match=f"broker.*port {free_port}.*in use"):
            cluster.open()
