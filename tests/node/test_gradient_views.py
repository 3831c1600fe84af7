"""Gradients that a program writes where they are sent from."""

from __future__ import annotations

import numpy as np
import pytest

import gradmq

TENSORS = {"a": (3, 400), "b": (700,), "c": ()}


def zeros() -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in TENSORS.items()}


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_what_is_written_into_the_views_is_what_is_applied(transport: str) -> None:
    model = zeros()
    settings = {"network.transport": transport}
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=1.0), settings=settings) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=3) as worker,
    ):
        for step in range(12):
            views = worker.gradient_views()
            assert {name: view.shape for name, view in views.items()} == TENSORS
            for view in views.values():
                view[...] = step
            worker.push(views)
            worker.catch_up()
        worker.drain()
        for name, values in cluster.parameters().items():
            np.testing.assert_array_equal(values, np.full(TENSORS[name], -sum(range(12)), "f4"))


def test_views_of_an_earlier_push_are_copied_like_anything_else() -> None:
    model = {"a": np.zeros(1000, np.float32)}
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=1.0)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=2) as worker,
    ):
        old = worker.gradient_views()["a"]
        old[:] = 1.0
        assert worker.push({"a": old}).verdict().applied
        worker.push({"a": np.full(1000, 2.0, np.float32)}).verdict()
        kept = old.copy()
        assert worker.push({"a": kept}).verdict().applied
        np.testing.assert_array_equal(cluster.parameters()["a"], -3.0 - kept)


def test_a_tensor_that_lies_in_two_shards_has_no_view() -> None:
    model = {"a": np.zeros(10, np.float32), "b": np.zeros(100, np.float32)}
    with (
        gradmq.LocalCluster(model, shards=2) as cluster,
        gradmq.Worker(model, cluster.address) as worker,
    ):
        assert set(worker.gradient_views()) == {"a"}


def test_a_view_that_holds_nan_is_refused_and_the_next_one_is_good() -> None:
    model = {"a": np.zeros(1000, np.float32)}
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=1.0)) as cluster,
        gradmq.Worker(model, cluster.address) as worker,
    ):
        view = worker.gradient_views()["a"]
        view[:] = np.nan
        with pytest.raises(gradmq.JobError, match="NaN"):
            worker.push({"a": view})
        view = worker.gradient_views()["a"]
        view[:] = 4.0
        assert worker.push({"a": view}).verdict().applied
        np.testing.assert_array_equal(cluster.parameters()["a"], np.full(1000, -4.0, "f4"))


@pytest.mark.torch
def test_a_parameters_grad_may_be_its_view() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(600, 3, bias=False)
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=1.0)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        before = cluster.parameters()["weight"]
        for _ in range(4):
            view = worker.gradient_views()["weight"]
            view[...] = 0.0
            model.weight.grad = torch.from_numpy(view)
            model(torch.ones(1, 600)).sum().backward()  # adds to what is there
            assert worker.step().seq is not None
        np.testing.assert_allclose(cluster.parameters()["weight"], before - 4.0, atol=1e-5)
