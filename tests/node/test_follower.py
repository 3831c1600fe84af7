"""A Follower: whole releases, in order, into a model that changes only when asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import gradmq
from gradmq.run.local import start_broker
from gradmq.run.roles import end_all

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]


def zeros() -> Arrays:
    return {"weight": np.zeros((3, 5), np.float32), "bias": np.zeros(3, np.float32)}


def ones() -> Arrays:
    return {name: np.ones_like(array) for name, array in zeros().items()}


def a_cluster() -> gradmq.LocalCluster:
    return gradmq.LocalCluster(
        zeros(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0),
        staleness=gradmq.Unbounded(),
        settings={"run.release_every": "50ms"},
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    with a_cluster() as cluster:
        yield cluster


def test_a_late_follower_has_the_present_release_though_nobody_trains(
    cluster: gradmq.LocalCluster,
) -> None:
    # While nobody follows, hardly any release is made.
    with gradmq.Follower(zeros(), cluster.address) as early:
        release = early.newest()
        while release.versions != cluster.versions():  # of an earlier test's training
            assert early.wait(newer_than=release, timeout=20)
            release = early.newest()
    known = release.number
    with gradmq.Follower(zeros(), cluster.address, timeout=2.0) as follower:
        release = follower.update()
        assert release.number >= known
        assert release.versions == cluster.versions()
        assert release.age_s < 2.0


def test_the_model_changes_only_when_asked(cluster: gradmq.LocalCluster) -> None:
    arrays = zeros()
    with (
        gradmq.Follower(arrays, cluster.address) as follower,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        first = follower.update()
        while first.versions != cluster.versions():  # of an earlier test's training
            first = follower.update(timeout=20)
        before = {name: array.copy() for name, array in arrays.items()}
        worker.push(ones()).verdict()
        newest = first
        while newest.versions != cluster.versions():
            assert follower.wait(newer_than=newest, timeout=20)
            newest = follower.newest()
        assert newest.number > first.number
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, before[name])
        assert follower.update().number >= newest.number
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, before[name] - 1)


def test_numbers_and_versions_only_grow_and_no_release_is_torn(
    cluster: gradmq.LocalCluster,
) -> None:
    """Each update takes 1 from every element: a shard's elements must tell of its version."""
    arrays = zeros()
    with (
        gradmq.Follower(arrays, cluster.address) as follower,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        release = follower.update()
        seen = 0
        while seen < 8:
            worker.push(ones())
            newer = follower.update(timeout=0.05)
            assert newer.number >= release.number
            assert all(
                new >= old for new, old in zip(newer.versions, release.versions, strict=True)
            )
            flat = np.concatenate([arrays["weight"].ravel(), arrays["bias"]])
            first, second = np.split(flat, [flat.size // 2])
            assert set(first) == {-newer.versions[0][1]}
            assert set(second) == {-newer.versions[1][1]}
            seen += newer.number > release.number
            release = newer


def test_update_waits_for_a_newer_release_no_longer_than_told(
    cluster: gradmq.LocalCluster,
) -> None:
    with (
        gradmq.Follower(zeros(), cluster.address) as follower,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        release = follower.update()
        while release.versions != cluster.versions():  # of an earlier test's training
            release = follower.update(timeout=20)
        assert follower.update(timeout=0.01).versions == release.versions
        worker.push(ones()).verdict()
        assert follower.update(timeout=20).number > release.number


def test_two_followers_see_the_same_releases(cluster: gradmq.LocalCluster) -> None:
    one, two = zeros(), zeros()
    with (
        gradmq.Follower(one, cluster.address) as first,
        gradmq.Follower(two, cluster.address) as second,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        seen = {}
        for _ in range(5):
            worker.push(ones()).verdict()
            release = first.update(timeout=20)
            seen[release.number] = release.versions
        while second.newest().number <= min(seen):
            release = second.update(timeout=20)
            assert seen.get(release.number, release.versions) == release.versions
        while second.update(timeout=1).number < max(seen):
            pass


def test_the_status_lists_followers_with_their_release(cluster: gradmq.LocalCluster) -> None:
    with gradmq.Follower(zeros(), cluster.address, name="watching") as follower:
        number = follower.update().number
        while True:  # the test's own time limit ends this
            rows = {row["name"]: row for row in cluster.status()["followers"]}
            if rows["watching"]["release"] >= number:
                break
        assert rows["watching"]["age_s"] < 10
        assert rows["watching"]["waiting_for"] == ""


def test_a_release_is_taken_once_and_the_follower_waits_for_a_newer_one(
    cluster: gradmq.LocalCluster,
) -> None:
    arrays = zeros()
    with (
        gradmq.Follower(arrays, cluster.address) as follower,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        taken = follower.take()
        assert taken.first_not_finite() == ""
        for again in (follower.take, follower.update):
            with pytest.raises(gradmq.GradmqError, match="was taken before"):
                again()
        assert follower.newest().versions == taken.about.versions
        taken.install()
        assert set(arrays["bias"]) == {-taken.about.versions[1][1]}
        worker.push(ones()).verdict()
        assert follower.wait(newer_than=taken.about, timeout=20)
        newer = follower.update()
        assert newer.number > taken.about.number
        assert follower.update().number >= newer.number, "what is installed may be asked for again"


def test_arrays_are_no_module(cluster: gradmq.LocalCluster) -> None:
    with (
        gradmq.Follower(zeros(), cluster.address) as follower,
        pytest.raises(gradmq.GradmqError, match="update"),
    ):
        follower.module()


def test_the_age_is_small_while_the_broker_talks_and_grows_when_it_is_gone() -> None:
    with a_cluster() as cluster, gradmq.Follower(zeros(), cluster.address) as follower:
        release = follower.update()
        began = time.monotonic()
        assert release.age_s < 2.0
        cluster.kill("broker")
        while follower.newest().age_s < 2.5:
            assert not follower.wait(newer_than=follower.newest(), timeout=0.1)
        assert time.monotonic() - began > 0.5
        assert follower.update().versions == release.versions, "it is served all the same"


def test_a_follower_of_a_run_without_parameters_says_what_it_waits_for(
    tmp_path: Path,
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("[run]\nshards = 2\n")
    broker, address = start_broker(tmp_path, settings, "nobody", 0)
    try:
        follower = gradmq.Follower(zeros(), address, timeout=0.5)
        with pytest.raises(gradmq.WaitTimeout, match="initial parameters"):
            follower.open()
    finally:
        end_all([broker])
