"""A Worker on a torch model: the same training as torch alone, and every kind of tensor at home."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

import gradmq

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


class Odd(nn.Module):
    """Tied, frozen, unused, 0-dim, empty and channels_last tensors, and BatchNorm's buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(5)
        self.frozen = nn.Linear(5, 7)
        self.frozen.requires_grad_(False)
        self.embedding = nn.Embedding(11, 7)
        self.head = nn.Linear(7, 11)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.unused = nn.Linear(2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.convolution(images)).relu().mean((2, 3))
        scores: torch.Tensor = self.head(self.frozen(hidden) * self.scale)
        return scores


def batches(count: int, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        labels = torch.randint(0, 11, (6,), generator=generator)
        yield torch.randn(6, 3, 6, 6, generator=generator), labels


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def small_batches(count: int, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)


def largest_difference(one: torch.Tensor, two: torch.Tensor) -> float:
    """Per tensor, against its largest value."""
    if not one.numel():
        return 0.0
    return float((one - two).abs().max() / two.abs().max().clamp(min=1e-6))


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(small(), optimizer=gradmq.SGD(lr=0.05)) as cluster:
        yield cluster


@pytest.mark.parametrize("shards", [1, 3])
def test_one_push_in_flight_is_sequential_sgd(shards: int) -> None:
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    alone, model = Odd(), Odd()
    alone.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(alone.parameters(), **settings)  # type: ignore[arg-type]
    with (
        gradmq.LocalCluster(model, shards, gradmq.SGD(**settings)) as cluster,  # type: ignore[arg-type]
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        for images, labels in batches(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(alone(images), labels).backward()
            optimizer.step()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            step = worker.step(loss=loss, samples=6)
            assert all(answer.applied and answer.staleness == 0 for answer in step.verdicts)
        state = model.state_dict()
        for name, expected in alone.state_dict().items():
            assert largest_difference(state[name].float(), expected.float()) <= 1e-4, name
        held = worker.parameters()
        for name, value in cluster.parameters().items():
            np.testing.assert_array_equal(value, held[name])
        assert step.versions == cluster.versions()


def test_what_stays_without_gradient_is_not_changed_by_weight_decay() -> None:
    model = Odd()
    before = copy.deepcopy(model)
    with (
        gradmq.LocalCluster(model, 2, gradmq.SGD(lr=0.1, weight_decay=0.5)) as cluster,
        gradmq.Worker(model, cluster.address) as worker,
    ):
        for images, labels in batches(3):
            nn.functional.cross_entropy(model(images), labels).backward()
            worker.step()
        worker.drain()
        worker.pull()
    assert torch.equal(model.frozen.weight, before.frozen.weight)
    assert torch.equal(model.unused.weight, before.unused.weight)
    assert not torch.equal(model.scale, before.scale)
    assert model.head.weight is model.embedding.weight
    assert model.convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_batchnorm_statistics_reach_a_follower_in_eval_mode() -> None:
    model = Odd()
    with (
        gradmq.LocalCluster(model, 2, gradmq.SGD(lr=0.1)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
        gradmq.Follower(Odd(), cluster.address) as follower,
    ):
        for images, labels in batches(5):
            nn.functional.cross_entropy(model(images), labels).backward()
            step = worker.step()
        release = follower.newest()
        while release.versions != step.versions:
            assert follower.wait(newer_than=release, timeout=20)
            release = follower.newest()
        served_release, served = follower.module()
        assert served_release.versions == step.versions
        assert isinstance(served, Odd)
        images, _ = next(batches(1, seed=9))
        with torch.inference_mode():
            assert torch.allclose(served(images), model.eval()(images), atol=1e-5)
        assert not served.training
        statistics = served.state_dict()["norm.running_var"]
        assert torch.equal(statistics, model.state_dict()["norm.running_var"])
        assert not torch.equal(statistics, torch.ones(5))
        assert served.head.weight is served.embedding.weight


def test_two_workers_batchnorm_statistics_add_up() -> None:
    """A buffer's change is applied at full weight, whatever the learning rate and the bound."""
    model = nn.BatchNorm1d(2, affine=False, momentum=None)
    model.add_module("linear", nn.Linear(1, 1))
    with (
        gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=0.0)) as cluster,
        gradmq.Worker(model, cluster.address) as one,
        gradmq.Worker(copy.deepcopy(model), cluster.address) as two,
    ):
        push = {"running_mean": torch.tensor([-1.0, 0.0])}
        one.push(push).verdict()
        two.push({"running_mean": torch.tensor([0.0, -2.0])}).verdict()
        np.testing.assert_array_equal(cluster.parameters()["running_mean"], [1.0, 2.0])
        one.pull()
        assert model.running_mean is not None
        assert model.running_mean.tolist() == [1.0, 2.0]


def test_a_bfloat16_model_is_trained_with_the_precision_of_float32() -> None:
    model = small().to(torch.bfloat16)
    with (
        gradmq.LocalCluster(model, 2, gradmq.SGD(lr=1e-3)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        start = cluster.parameters()["0.weight"]
        gradient = torch.ones(5, 4, dtype=torch.bfloat16)
        for _ in range(10):
            assert worker.push({"0.weight": gradient}).verdict().applied
            worker.pull()
        end = cluster.parameters()["0.weight"]
        # Steps of 0.001 are too small for bfloat16 to add to most of these values one by one.
        np.testing.assert_allclose(end, start - 0.01, atol=1e-6)
        weight = model.get_parameter("0.weight")
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, torch.from_numpy(end).to(torch.bfloat16))


def test_a_loop_written_for_torch_runs_with_the_workers_optimizer(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer(samples_per_step=8)
        losses = []
        inputs, targets = next(small_batches(1))
        for _ in range(50):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        assert optimizer.param_groups[0]["lr"] == 0.05
        np.testing.assert_array_equal(
            cluster.parameters()["0.weight"], model.get_parameter("0.weight").detach().numpy()
        )


def test_a_closure_is_evaluated_with_gradients(cluster: gradmq.LocalCluster) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        inputs, targets = next(small_batches(1))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        before = cluster.versions()
        with torch.no_grad():
            loss = optimizer.step(closure)
        assert loss.item() > 0
        assert cluster.versions()[0][1] == before[0][1] + 1


def test_a_grad_scaler_skips_what_overflows_and_goes_on(cluster: gradmq.LocalCluster) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        scaler = torch.amp.GradScaler("cpu", init_scale=1e38, backoff_factor=1e-19)
        before = cluster.versions()[0][1]
        scales = []
        for inputs, targets in small_batches(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.mse_loss(model(inputs).float(), 100 * targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert scales[0] < 1e38, "the first gradients have overflowed"
        assert scales[-1] == scales[0], "the others have not"
        assert cluster.versions()[0][1] == before + 3
        assert all(np.isfinite(value).all() for value in cluster.parameters().values())


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, name="overflowing", max_in_flight=1) as worker:
        before = cluster.versions()
        for value in (float("nan"), float("inf")):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, value)
            step = worker.step(loss=float("nan"))
            assert step.seq is None
        assert all(parameter.grad is None for parameter in model.parameters())
        assert cluster.versions() == before
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        assert worker.step().seq == 1
        skipped = 0
        while skipped != 2:  # the test's own time limit ends this
            rows = {row["name"]: row for row in cluster.status()["workers"]}
            skipped = rows["overflowing"]["skipped_nonfinite"]


def _renamed() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    model.add_module("last", nn.Linear(5, 3))
    return model


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), "0.weight.*6, 4"),
        (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), "2.weight.*2, 5"),
        (_renamed, "last.weight.*2.weight"),
        (lambda: small().to(torch.bfloat16), "0.weight.*bfloat16"),
        (lambda: nn.Sequential(nn.Linear(4, 5)), "lacks.*2.weight"),
    ],
    ids=["wider", "fewer outputs", "other names", "bfloat16", "shorter"],
)
def test_another_model_is_refused_with_the_first_tensor_that_differs(
    cluster: gradmq.LocalCluster, other: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(gradmq.LayoutMismatch, match=words):
        gradmq.Worker(other(), cluster.address).open()
    with pytest.raises(gradmq.LayoutMismatch, match=words):
        gradmq.Follower(other(), cluster.address).open()


def test_types_that_would_lose_digits_are_refused_before_anything_is_joined() -> None:
    address = "tcp://127.0.0.1:1"
    with pytest.raises(gradmq.LayoutMismatch, match=r"0.weight.*float64.*float\(\)"):
        gradmq.Worker(small().double(), address)
    with pytest.raises(gradmq.LayoutMismatch, match="complex64"):
        gradmq.Worker(nn.Linear(2, 2, dtype=torch.complex64), address)
    with pytest.raises(gradmq.LayoutMismatch, match=r"float64.*astype"):
        gradmq.Worker({"w": np.zeros(3)}, address)
    with pytest.raises(gradmq.LayoutMismatch, match="run one batch"):
        gradmq.Worker(nn.LazyLinear(3), address)


def test_a_sparse_gradient_is_applied_as_the_dense_one() -> None:
    model = nn.Embedding(6, 2, sparse=True)
    expected = model.weight.detach().clone()
    with (
        gradmq.LocalCluster(model, 2, gradmq.SGD(lr=1.0)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        model(torch.tensor([1, 4, 4])).sum().backward()
        worker.step()
        expected[1] -= 1
        expected[4] -= 2
        assert torch.equal(model.weight.detach(), expected)
