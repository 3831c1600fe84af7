"""A Worker on plain arrays: what it pushes is applied, counted and answered exactly once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradmq

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]


def zeros() -> Arrays:
    """Nothing here divides evenly; ``scale`` is 0-dim, ``nothing`` is empty."""
    shapes: dict[str, tuple[int, ...]] = {
        "weight": (7, 3), "scale": (), "nothing": (0, 4), "bias": (5,)
    }  # fmt: skip
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def ones() -> Arrays:
    return {name: np.ones_like(array) for name, array in zeros().items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    """Learning rate 1: every applied gradient can be read off the parameters."""
    with gradmq.LocalCluster(
        zeros(), shards=2, optimizer=gradmq.SGD(lr=1.0), staleness=gradmq.Unbounded()
    ) as cluster:
        yield cluster


def test_a_push_is_applied_by_every_shard_and_pulled(cluster: gradmq.LocalCluster) -> None:
    arrays = zeros()
    with gradmq.Worker(arrays, cluster.address) as worker:
        before = worker.parameters()
        push = worker.push(ones(), samples=4)
        answer = push.verdict()
        versions = worker.pull()
        assert answer.applied
        assert [v.version for v in answer.verdicts] == list(versions) == list(worker.versions)
        for name, value in worker.parameters().items():
            np.testing.assert_array_equal(value, before[name] - 1)
            np.testing.assert_array_equal(value, cluster.parameters()[name])
            np.testing.assert_array_equal(value, arrays[name])
        assert versions == cluster.versions()


def test_parameters_are_copies_of_the_right_shape(cluster: gradmq.LocalCluster) -> None:
    arrays = zeros()
    with gradmq.Worker(arrays, cluster.address) as worker:
        copies = worker.parameters()
        assert {n: v.shape for n, v in copies.items()} == {n: v.shape for n, v in arrays.items()}
        copies["weight"] += 1
        assert not np.array_equal(copies["weight"], arrays["weight"])
    assert list(cluster.parameters()) == list(arrays)


def test_a_tensor_that_was_not_pushed_keeps_its_value(cluster: gradmq.LocalCluster) -> None:
    with gradmq.Worker(zeros(), cluster.address) as worker:
        before = cluster.parameters()
        worker.push({"bias": np.full(5, 2, np.float32)}).verdict()
        after = cluster.parameters()
    np.testing.assert_array_equal(after.pop("bias"), before.pop("bias") - 2)
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_push_without_tensors_is_answered_and_changes_nothing(
    cluster: gradmq.LocalCluster,
) -> None:
    with gradmq.Worker(zeros(), cluster.address) as worker:
        before = cluster.versions()
        assert worker.push({}).verdict().applied
        assert cluster.versions() == before


def test_drain_returns_every_answer_once_and_in_order(cluster: gradmq.LocalCluster) -> None:
    with gradmq.Worker(zeros(), cluster.address, max_in_flight=3) as worker:
        seqs = [worker.push(ones()).seq for _ in range(10)]
        assert seqs == list(range(1, 11))
        assert [answer.seq for answer in worker.drain(timeout=30)] == seqs
        assert worker.drain() == ()


def test_the_verdict_of_an_older_push_can_be_asked_for_after_newer_ones(
    cluster: gradmq.LocalCluster,
) -> None:
    with gradmq.Worker(zeros(), cluster.address, max_in_flight=4) as worker:
        pushes = [worker.push(ones()) for _ in range(4)]
        for push in reversed(pushes):
            assert push.verdict().seq == push.seq


def test_two_workers_gradients_are_each_applied_exactly_once() -> None:
    """Gradient i is one-hot at i: every parameter counts how often its gradient was applied."""
    pushes = 60
    counters = {"counts": np.zeros(2 * pushes, np.float32)}
    with gradmq.LocalCluster(
        counters, shards=3, optimizer=gradmq.SGD(lr=1.0), staleness=gradmq.Bounded(2)
    ) as cluster:

        def one_hot(index: int) -> Arrays:
            gradient = np.zeros(2 * pushes, np.float32)
            gradient[index] = -1
            return {"counts": gradient}

        def copy() -> Arrays:
            return {name: array.copy() for name, array in counters.items()}

        with (
            gradmq.Worker(copy(), cluster.address, name="left", max_in_flight=3) as left,
            gradmq.Worker(copy(), cluster.address, name="right", max_in_flight=3) as right,
        ):
            made = {}
            for i in range(pushes):
                for worker, offset in ((left, 0), (right, pushes)):
                    push = worker.push(one_hot(offset + i), samples=1)
                    made[worker.name, push.seq] = offset + i
            expected = np.zeros(2 * pushes, np.float32)
            bounds = [2 * pushes * shard // 3 for shard in range(4)]
            answers = 0
            for worker in (left, right):
                for answer in worker.drain(timeout=30):
                    answers += 1
                    index = made[worker.name, answer.seq]
                    shard = next(s for s in range(3) if index < bounds[s + 1])
                    verdict = answer.verdicts[shard]
                    assert verdict.staleness <= 2 or verdict.reason == "stale"
                    expected[index] = verdict.outcome == "applied"
            assert answers == 2 * pushes
            np.testing.assert_array_equal(cluster.parameters()["counts"], expected)
            left.pull()
            np.testing.assert_array_equal(left.parameters()["counts"], expected)


def test_the_status_adds_up_what_two_workers_did(cluster: gradmq.LocalCluster) -> None:
    with (
        gradmq.Worker(zeros(), cluster.address, name="fast", max_in_flight=4) as fast,
        gradmq.Worker(zeros(), cluster.address, name="slow", max_in_flight=4) as slow,
    ):
        for _ in range(6):
            fast.push(ones(), loss=0.5, samples=10)
        for _ in range(2):
            slow.push(ones(), loss=0.25, samples=10)
        fast.drain(30)
        slow.drain(30)
        rows = _workers_once(
            cluster, lambda rows: rows["slow"]["samples"] == 20 and rows["fast"]["seq"] == 6
        )
    assert rows["fast"]["applied"] == 2 * 6, "counted by each of the two shards"
    assert rows["fast"]["samples"] == 60
    assert rows["fast"]["loss"] == 0.5
    assert rows["fast"]["live"] and rows["fast"]["session"] != rows["slow"]["session"]


def _workers_once(
    cluster: gradmq.LocalCluster, holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    while True:  # the test's own time limit ends this
        rows = {row["name"]: row for row in cluster.status()["workers"]}
        if holds(rows):
            return rows


def test_float16_arrays_travel_as_float32_and_come_back_as_they_were() -> None:
    half = {"w": np.full(3, 0.5, np.float16)}
    with (
        gradmq.LocalCluster(half, optimizer=gradmq.SGD(lr=0.5)) as cluster,
        gradmq.Worker(half, cluster.address) as worker,
    ):
        worker.push({"w": np.ones(3, np.float16)}).verdict()
        worker.pull()
        assert half["w"].dtype == np.float16
        np.testing.assert_array_equal(half["w"], np.zeros(3))
        assert cluster.parameters()["w"].dtype == np.float32


def test_arrays_need_no_torch(cluster: gradmq.LocalCluster) -> None:
    program = f"""
import sys, numpy, gradmq
shapes = {{"weight": (7, 3), "scale": (), "nothing": (0, 4), "bias": (5,)}}
arrays = {{name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}}
with gradmq.Worker(arrays, {cluster.address!r}) as worker:
    worker.push({{"bias": numpy.ones(5, numpy.float32)}}).verdict()
    worker.pull()
with gradmq.Follower(arrays, {cluster.address!r}) as follower:
    follower.update()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
