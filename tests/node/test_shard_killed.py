"""A shard is killed and started again: who waits says for whom, and nothing is applied twice.

Shard 0 holds ``left``, shard 1 ``right``; gradient i is one-hot at i in both, so each element
counts how often a shard applied push i.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

import gradmq
from gradmq.observer import Observer

pytestmark = pytest.mark.e2e

PUSHES = 64

Arrays = dict[str, npt.NDArray[np.float32]]


def counters() -> Arrays:
    return {"left": np.zeros(PUSHES, np.float32), "right": np.zeros(PUSHES, np.float32)}


def one_hot(index: int) -> Arrays:
    gradient = np.zeros(PUSHES, np.float32)
    gradient[index] = -1
    return {"left": gradient, "right": gradient}


@pytest.fixture
def cluster() -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(
        counters(), shards=2, optimizer=gradmq.SGD(lr=1.0), staleness=gradmq.Unbounded()
    ) as cluster:
        yield cluster


def save_release(cluster: gradmq.LocalCluster) -> None:
    with Observer(cluster.address) as observer:
        observer.make_release(save=True)


def test_a_killed_shard_goes_on_from_its_checkpoint_and_nothing_is_applied_twice(
    cluster: gradmq.LocalCluster,
) -> None:
    with gradmq.Worker(counters(), cluster.address, name="tracer", max_in_flight=4) as worker:
        for i in range(10):
            worker.push(one_hot(i))
        worker.drain(30)
        save_release(cluster)
        for i in range(10, 16):
            worker.push(one_hot(i))
        worker.drain(30)
        worker.pull()

        cluster.kill("ps-1")
        for i in range(16, 20):
            worker.push(one_hot(i))
        with pytest.raises(
            gradmq.ShardAway, match=r"waited 0\.5 s for shard 1: verdict on push 17"
        ):
            worker.push(one_hot(20), timeout=0.5)
        with pytest.raises(gradmq.DrainTimeout, match="shard 1") as caught:
            worker.drain(timeout=0.1)
        assert caught.value.unanswered == (17, 18, 19, 20)
        _status_shows_the_wait(cluster)

        cluster.restart_shard(1)
        answers = worker.catch_up(timeout=30).verdicts
        for i in range(20, 26):
            worker.push(one_hot(i))
        answers += worker.drain(30)
        assert [answer.seq for answer in answers] == list(range(17, 27))
        computed_on_lost_parameters, after = answers[:4], answers[4:]
        assert all(answer.verdicts[0].outcome == "applied" for answer in answers)
        assert all(answer.reasons == ("lost_base",) for answer in computed_on_lost_parameters)
        assert all(answer.applied for answer in after)
        versions = worker.pull()
        assert versions == cluster.versions() == ((1, 26), (2, 16))
        values = cluster.parameters()
        np.testing.assert_array_equal(values["left"][:26], np.ones(26))
        np.testing.assert_array_equal(values["right"][:10], np.ones(10), "saved")
        np.testing.assert_array_equal(values["right"][10:20], np.zeros(10), "lost")
        np.testing.assert_array_equal(values["right"][20:26], np.ones(6), "after the restart")
        np.testing.assert_array_equal(worker.parameters()["right"], values["right"])
        while True:  # the test's own time limit ends this
            shard = cluster.status()["shards"][1]
            if shard["incarnation"] == 2 and shard["lost_updates"]:
                break
        assert shard["lost_updates"] == 6


def _status_shows_the_wait(cluster: gradmq.LocalCluster) -> None:
    while True:  # the test's own time limit ends this
        status = cluster.status()
        (worker,) = status["workers"]
        if status["shards"][1]["silent_s"] > 1.0 and "silent" in worker["waiting_for"]:
            break
    assert worker["waiting_for"].startswith("shard 1: verdict on push 17")
    assert status["shards"][0]["silent_s"] < 5.0


def test_a_shard_killed_again_and_again_loses_at_most_what_was_not_saved() -> None:
    with (
        gradmq.LocalCluster(
            counters(),
            shards=2,
            optimizer=gradmq.SGD(lr=1.0),
            staleness=gradmq.Unbounded(),
            settings={"run.release_every": "50ms", "run.save_every": "50ms"},
        ) as cluster,
        gradmq.Worker(counters(), cluster.address, max_in_flight=4) as worker,
        gradmq.Follower(counters(), cluster.address) as follower,
    ):
        release = follower.update()
        first_unsaved = made = 0
        for incarnation in (1, 2, 3):
            for _ in range(6):
                worker.push(one_hot(made))
                made += 1
            worker.drain(30)
            _save_everything(cluster)
            newer = follower.update(timeout=10)
            assert newer.number > release.number
            assert all(
                new >= old for new, old in zip(newer.versions, release.versions, strict=True)
            )
            release = newer
            first_unsaved = made
            if incarnation < 3:
                for _ in range(4):
                    worker.push(one_hot(made))
                    made += 1
                cluster.kill("ps-1")
                cluster.restart_shard(1)
        values = cluster.parameters()
        np.testing.assert_array_equal(values["left"][:made], np.ones(made))
        assert set(values["right"]) <= {0.0, 1.0}
        lost = {i for i in range(made) if not values["right"][i]}
        assert lost <= {*range(6, 10), *range(16, 20)}
        assert first_unsaved == made
        assert cluster.versions()[1] == (3, made - len(lost))


def _save_everything(cluster: gradmq.LocalCluster) -> None:
    with Observer(cluster.address) as observer:
        observer.make_release(save=True)


@pytest.mark.torch
def test_a_step_that_waited_in_vain_has_pushed_and_the_next_one_keeps_its_gradient() -> None:
    import torch

    model = torch.nn.Linear(4, 2, bias=False)
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=1.0)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        start = model.weight.detach().clone()
        cluster.kill("ps-0")
        model.weight.grad = torch.full((2, 4), 1.0)
        with pytest.raises(gradmq.ShardAway, match=r"step waited 0\.2 s for shard 0"):
            worker.step(timeout=0.2)
        assert model.weight.grad is None
        model.weight.grad = torch.full((2, 4), 2.0)
        with pytest.raises(gradmq.ShardAway, match=r"push waited 0\.2 s for shard 0"):
            worker.step(timeout=0.2)
        assert torch.equal(model.weight.grad, torch.full((2, 4), 2.0))
        assert torch.equal(model.weight, start)

        cluster.restart_shard(0)
        caught_up = worker.catch_up(timeout=30)
        assert [answer.seq for answer in caught_up.verdicts] == [1]
        assert caught_up.waited_for.startswith("shard 0")
        assert caught_up.versions == ((2, 1),)
        assert torch.equal(model.weight, start - 1)
        assert worker.step(timeout=30).versions == ((2, 2),)
        assert torch.equal(model.weight, start - 3)
