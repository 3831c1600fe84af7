"""Torch modules as tensors of a layout: whatever a module holds is carried right, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from gradmq.binding import Gradients, first_not_finite
from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Tensor
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Unbounded
from gradmq.ps.shard import Shard
from gradmq.torch_binding import TorchBinding, hollow
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Attach, Directory, Push, Seed

pytestmark = pytest.mark.torch

Vector = npt.NDArray[np.float32]


# -- modules --------------------------------------------------------------------------------------


class Shapes(nn.Module):
    """11 elements in a matrix, a scalar, an empty and a half-precision tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 2))
        self.scalar = nn.Parameter(torch.randn(()))
        self.empty = nn.Parameter(torch.randn(0, 4))
        self.vector = nn.Parameter(torch.randn(4))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens))


class Buffers(nn.Module):
    """One of every kind of buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.mean: torch.Tensor


def conv_channels_last() -> nn.Module:
    return nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)


def mixed_precision() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2).half(), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 1))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "uneven shapes": Shapes,
    "tied": Tied,
    "buffers": Buffers,
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)),
    "channels last": conv_channels_last,
    "mixed precision": mixed_precision,
}


# -- a run of one process -------------------------------------------------------------------------


def chunks(layout: Layout, flat: dict[int, Vector]) -> list[list[Vector]]:
    """The values of every shard, in two pieces where there are two elements."""
    vectors, _ = Gradients(layout, flat).packed()
    return [np.array_split(vector, 2) if vector.size > 1 else [vector] for vector in vectors]


class Run:
    """The shards of a run, seeded with a model, to which every worker is attached."""

    def __init__(self, model: nn.Module, shards: int, workers: int, lr: float = 1.0) -> None:
        binding = TorchBinding(model)
        self.layout = Layout(binding.tensors, shards)
        self._shards = [
            Shard("demo", self.layout, i, 1, SGD(lr=lr), Unbounded()) for i in range(shards)
        ]
        self._seqs = dict.fromkeys(range(1, workers + 1), 0)
        first, _ = Gradients(self.layout, binding.read()).packed()
        for i, shard in enumerate(self._shards):
            shard.on_directory(
                Directory(
                    serial=1,
                    run="demo",
                    phase="open",
                    shards=(),
                    sessions=tuple(self._seqs),
                    horizon=workers,
                    seeder=1,
                ),
                0.0,
            )
            shard.on_seed(
                b"",
                Seed(
                    run="demo",
                    layout=self.layout.hash,
                    shard=i,
                    session=1,
                    crc=payload_crc(array_payload(first[i])),
                    payload=array_payload(first[i]),
                ),
            )
            for session in self._seqs:
                attach = Attach(
                    run="demo",
                    layout=self.layout.hash,
                    session=session,
                    name=f"worker-{session}",
                    oldest_unanswered=1,
                    newest_seen=None,
                    window=4,
                )
                shard.on_attach(b"", attach)

    def push(self, binding: TorchBinding, session: int = 1) -> None:
        """What ``Worker.step`` does, to the last byte."""
        cut = Gradients(self.layout, binding.gradients())
        binding.clear_gradients()
        vectors, finite = cut.packed()
        assert finite
        self._seqs[session] += 1
        for i, shard in enumerate(self._shards):
            push = Push(
                run="demo",
                shard=i,
                incarnation=1,
                session=session,
                seq=self._seqs[session],
                base=shard.version,
                layout=self.layout.hash,
                present=cut.present,
                crc=payload_crc(array_payload(vectors[i])),
                payload=array_payload(vectors[i]),
            )
            shard.on_push(push, now=0.0)

    def install(self, binding: TorchBinding) -> None:
        binding.install(self.layout, self.newest)

    @property
    def newest(self) -> list[list[Vector]]:
        return [[shard.snapshot().parameters] for shard in self._shards]


def randomised(model: nn.Module) -> nn.Module:
    """Other values everywhere that travels."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor, dtype=torch.float32))
    return model


def assert_equal_state(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(12)


# -- the table ------------------------------------------------------------------------------------


def test_parameters_come_first_then_the_buffers_that_travel() -> None:
    assert TorchBinding(Buffers()).tensors == (
        Tensor("weight", "float32", (2,)),
        Tensor("mean", "float32", (2,), "buffer"),
    )


def test_a_tied_parameter_is_listed_once() -> None:
    assert [tensor.name for tensor in TorchBinding(Tied()).tensors] == ["embed.weight"]


def test_the_dtype_of_every_tensor_is_in_the_table() -> None:
    dtypes = [tensor.dtype for tensor in TorchBinding(mixed_precision()).tensors]
    assert dtypes == ["float16", "float16", "bfloat16", "bfloat16", "float32", "float32"]


def with_parameter(value: torch.Tensor) -> nn.Module:
    module = nn.Module()
    module.register_parameter("odd", nn.Parameter(value, requires_grad=False))
    return module


def with_buffer(value: torch.Tensor) -> nn.Module:
    module = nn.Module()
    module.register_buffer("odd", value)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int64, torch.float8_e5m2])
def test_parameters_of_other_dtypes_are_refused_by_name(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(LayoutMismatch, match=rf"^parameter 'odd' is {name}; .*model\.float\(\)"):
        TorchBinding(with_parameter(torch.zeros(2).to(dtype)))


def test_a_float64_buffer_is_refused_too() -> None:
    with pytest.raises(LayoutMismatch, match=r"^buffer 'odd' is float64"):
        TorchBinding(with_buffer(torch.zeros(2, dtype=torch.float64)))


@pytest.mark.parametrize(
    "module", [lambda: nn.LazyLinear(3), lambda: nn.Linear(2, 3, device="meta")]
)
def test_a_module_without_values_is_refused(module: Callable[[], nn.Module]) -> None:
    with pytest.raises(LayoutMismatch, match="'weight' has no values yet: run one batch"):
        TorchBinding(module())


# -- values, there and back -----------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("name", MODULES)
def test_values_come_back_through_any_number_of_shards(name: str, shards: int) -> None:
    source, target = randomised(MODULES[name]()), MODULES[name]()
    layout = Layout(TorchBinding(source).tensors, shards)
    TorchBinding(target).install(layout, chunks(layout, TorchBinding(source).read()))
    assert_equal_state(target, source)


def test_installing_keeps_the_tensors_their_dtypes_and_their_memory_format() -> None:
    for model in (conv_channels_last(), mixed_precision()):
        before = {name: (id(p), p.dtype, p.stride()) for name, p in model.named_parameters()}
        binding = TorchBinding(model)
        layout = Layout(binding.tensors, 2)
        binding.install(layout, chunks(layout, binding.read()))
        assert {n: (id(p), p.dtype, p.stride()) for n, p in model.named_parameters()} == before


def test_channels_last_travels_in_logical_order() -> None:
    plain, last = nn.Conv2d(3, 4, 2), conv_channels_last()
    last.load_state_dict(plain.state_dict())
    np.testing.assert_array_equal(TorchBinding(last).read()[0], TorchBinding(plain).read()[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_where_it_is_installed(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    binding = TorchBinding(model)
    layout = Layout(binding.tensors, 1)
    binding.install(layout, chunks(layout, {0: np.array([1.0001], np.float32)}))
    assert model.weight.item() == 1.0
    assert model.weight.dtype == dtype


def test_a_frozen_parameter_travels_and_is_never_pushed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    binding = TorchBinding(model)
    model(torch.ones(1, 2)).sum().backward()
    assert len(binding.tensors) == 4
    assert sorted(binding.gradients()) == [2, 3]
    run = Run(model, shards=2, workers=1)
    before = copy.deepcopy(model[0])
    run.push(binding)
    run.install(binding)
    assert_equal_state(model[0], before)


# -- gradients ------------------------------------------------------------------------------------


def test_what_backward_did_not_reach_is_absent() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    model["used"](torch.ones(1, 2)).sum().backward()
    binding = TorchBinding(model)
    assert [binding.tensors[row].name for row in binding.gradients()] == [
        "used.weight",
        "used.bias",
    ]


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize(
    ("module", "batch"),
    [
        (Tied, lambda: torch.tensor([0, 3, 3])),
        (conv_channels_last, lambda: torch.randn(2, 3, 4, 4)),
        (lambda: nn.Embedding(7, 3, sparse=True), lambda: torch.tensor([1, 1, 5])),
        (lambda: nn.Linear(5, 3).bfloat16(), lambda: torch.randn(2, 5).bfloat16()),
    ],
    ids=["tied", "channels last", "sparse embedding", "bfloat16"],
)
def test_one_step_through_the_shards_is_torchs_own(
    module: Callable[[], nn.Module], batch: Callable[[], torch.Tensor], shards: int
) -> None:
    model = module()
    reference = copy.deepcopy(model)
    inputs = batch()
    run, binding = Run(model, shards, workers=1, lr=0.5), TorchBinding(model)
    model(inputs).square().sum().backward()
    run.push(binding)
    run.install(binding)
    reference(inputs).square().sum().backward()
    torch.optim.SGD(reference.parameters(), lr=0.5).step()
    for ours, torchs in zip(model.parameters(), reference.parameters(), strict=True):
        precision = 1e-2 if ours.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(ours, torchs, rtol=precision, atol=precision)


def test_a_sparse_gradient_is_made_dense() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    binding = TorchBinding(model)
    model(torch.tensor([1, 1])).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.is_sparse
    np.testing.assert_array_equal(binding.gradients()[0], [0, 0, 2, 2, 0, 0, 0, 0])


def test_a_gradient_that_is_not_finite_says_so() -> None:
    model = nn.Linear(2, 1)
    (model(torch.ones(1, 2)) * float("inf")).sum().backward()
    binding = TorchBinding(model)
    _, finite = Gradients(Layout(binding.tensors, 2), binding.gradients()).packed()
    assert not finite


def test_what_was_packed_does_not_change_with_the_gradient() -> None:
    model = nn.Linear(2, 1, bias=False)
    model(torch.ones(1, 2)).sum().backward()
    binding = TorchBinding(model)
    (packed,), _ = Gradients(Layout(binding.tensors, 1), binding.gradients()).packed()
    assert model.weight.grad is not None
    model.weight.grad.zero_()
    assert packed.tolist() == [1.0, 1.0]


def test_clearing_leaves_no_gradient() -> None:
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    binding = TorchBinding(model)
    binding.clear_gradients()
    assert binding.gradients() == {}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_by_name_may_be_tensors_or_arrays() -> None:
    binding = TorchBinding(nn.Linear(2, 1))
    bias = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    named = binding.named({"weight": np.ones((1, 2)), "bias": bias})
    assert {row: vector.tolist() for row, vector in named.items()} == {0: [1.0, 1.0], 1: [1.0]}
    with pytest.raises(LayoutMismatch, match=r"'weight' has shape \[2\], the tensor \[1, 2\]"):
        binding.named({"weight": torch.ones(2)})


# -- buffers --------------------------------------------------------------------------------------


def moved(model: Buffers, by: float) -> None:
    model.mean += by


def a_run_with_buffers(workers: int) -> tuple[Run, list[Buffers], list[TorchBinding]]:
    run = Run(Buffers(), shards=2, workers=workers)
    models = [Buffers() for _ in range(workers)]
    bindings = [TorchBinding(model) for model in models]
    for binding in bindings:
        run.install(binding)
    return run, models, bindings


def test_buffers_that_have_not_moved_are_absent() -> None:
    _, _, (binding,) = a_run_with_buffers(workers=1)
    assert binding.gradients() == {}


def test_two_workers_steps_add_up_in_a_buffer() -> None:
    run, models, bindings = a_run_with_buffers(workers=2)
    for session, (model, binding, step) in enumerate(
        zip(models, bindings, (1.0, 10.0), strict=True)
    ):
        moved(model, by=step)
        run.push(binding, session + 1)
    for model, binding in zip(models, bindings, strict=True):
        run.install(binding)
        assert model.mean.tolist() == [11.0, 11.0]


def test_a_buffers_movement_is_told_once_though_no_parameters_came_in_between() -> None:
    run, (model,), (binding,) = a_run_with_buffers(workers=1)
    for _ in range(3):
        moved(model, by=1.0)
        run.push(binding)
    assert model.mean.tolist() == [3.0, 3.0]
    run.install(binding)
    assert model.mean.tolist() == [3.0, 3.0]


def test_batch_norm_follows_the_data_of_all_workers() -> None:
    first = nn.BatchNorm1d(2, momentum=0.5)
    run = Run(first, shards=1, workers=2)
    models = [copy.deepcopy(first) for _ in range(2)]
    bindings = [TorchBinding(model) for model in models]
    for binding in bindings:
        run.install(binding)
    for session, (model, mean) in enumerate(zip(models, (2.0, 6.0), strict=True)):
        model(torch.full((4, 2), mean))
        run.push(bindings[session], session + 1)
    run.install(bindings[0])
    assert models[0].running_mean is not None
    assert models[0].running_mean.tolist() == [4.0, 4.0]
    assert models[0].num_batches_tracked is not None
    assert models[0].num_batches_tracked.item() == 1


def test_integer_and_transient_buffers_stay_where_they_are() -> None:
    run, (model,), (binding,) = a_run_with_buffers(workers=1)
    model.get_buffer("count").add_(5)
    model.get_buffer("table").add_(5)
    moved(model, by=1.0)
    run.push(binding)
    run.install(binding)
    assert model.get_buffer("count").item() == 5
    assert model.get_buffer("table").tolist() == [5.0, 6.0, 7.0]


def test_a_buffer_that_the_module_replaces_is_followed() -> None:
    run, (model,), (binding,) = a_run_with_buffers(workers=1)
    model.mean = model.mean + 1.0
    run.push(binding)
    model.mean = model.mean * 0.0
    run.install(binding)
    assert model.mean.tolist() == [1.0, 1.0]


def test_a_buffer_that_is_not_finite_any_more_goes_back_to_what_it_was() -> None:
    run, (model,), (binding,) = a_run_with_buffers(workers=1)
    moved(model, by=1.0)
    run.push(binding)
    moved(model, by=float("inf"))
    _, finite = Gradients(run.layout, binding.gradients()).packed()
    assert not finite
    binding.clear_gradients()
    assert model.mean.tolist() == [1.0, 1.0]
    moved(model, by=1.0)
    run.push(binding)
    run.install(binding)
    assert model.mean.tolist() == [2.0, 2.0]


# -- a module of a release's values ---------------------------------------------------------------


def released(model: nn.Module, values: nn.Module, shards: int = 2) -> nn.Module:
    """A module like ``model`` with the values of another one."""
    layout = Layout(TorchBinding(values).tensors, shards)
    flat = TorchBinding(values).read()
    return TorchBinding(model).with_values(layout, chunks(layout, flat))


@pytest.mark.parametrize("name", MODULES)
def test_a_release_becomes_a_second_module_and_the_first_is_not_touched(name: str) -> None:
    model, values = MODULES[name](), randomised(MODULES[name]())
    before = copy.deepcopy(model)
    served = released(model, values)
    assert_equal_state(served, values)
    assert_equal_state(model, before)
    assert model.training
    assert not served.training
    assert not any(p.requires_grad for p in served.parameters() if p.numel())


def test_what_is_done_to_the_second_module_does_not_reach_the_first() -> None:
    model = Buffers()
    served = released(model, Buffers())
    with torch.no_grad():
        for tensor in (*served.parameters(), *served.buffers()):
            tensor.zero_()
    assert model.weight.tolist() == [1.0, 1.0]
    assert model.get_buffer("table").tolist() == [0.0, 1.0, 2.0]


def test_tied_tensors_stay_tied() -> None:
    served: Any = released(Tied(), randomised(Tied()))
    assert served.head.weight is served.embed.weight


def test_a_served_module_computes_what_the_trained_one_would() -> None:
    values: Any = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU())
    randomised(values[0])
    served = released(copy.deepcopy(values), values)
    batch = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(served(batch), values.eval()(batch), rtol=0, atol=0)


def test_later_releases_do_not_change_a_module_made_before() -> None:
    model = nn.Linear(2, 1)
    first = released(model, randomised(nn.Linear(2, 1)), shards=1)
    weight = first.state_dict()["weight"].clone()
    released(model, randomised(nn.Linear(2, 1)), shards=1)
    assert torch.equal(first.state_dict()["weight"], weight)


def test_a_model_is_a_mould_without_values_of_its_own() -> None:
    for model, values in ((Tied(), randomised(Tied())), (Buffers(), Buffers())):
        binding = TorchBinding(model)
        layout = Layout(binding.tensors, 2)
        hollow(model)
        assert all(tensor.numel() == 0 for tensor in model.parameters())
        served = binding.with_values(layout, chunks(layout, TorchBinding(values).read()))
        assert_equal_state(served, values)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "value", [65519.0, 65520.0, 3.395e38, 3.3962e38, 3.4e38, float("inf"), float("nan")]
)
def test_what_becomes_infinite_in_the_models_type_is_not_finite(dtype: str, value: float) -> None:
    values = np.full(600, -value, np.float32)
    held = torch.from_numpy(values).to(getattr(torch, dtype))
    name = first_not_finite(Layout((Tensor("a", dtype, (600,)),), 1), [(values,)])
    assert (name == "") == bool(torch.isfinite(held).all())


# -- devices --------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_module_on_a_gpu_trains_and_is_served_there() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).cuda()
    reference = copy.deepcopy(model)
    batch = torch.randn(8, 3, device="cuda")
    run, binding = Run(model, shards=3, workers=1, lr=0.5), TorchBinding(model)
    run.install(binding)
    model(batch).square().sum().backward()
    run.push(binding)
    run.install(binding)
    reference(batch).square().sum().backward()
    torch.optim.SGD(reference.parameters(), lr=0.5).step()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    served = binding.with_values(run.layout, run.newest)
    assert {tensor.device.type for tensor in served.state_dict().values()} == {"cuda"}
