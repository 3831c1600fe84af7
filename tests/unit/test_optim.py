"""SGD on a shard's flat vector is torch's SGD, tensor by tensor, however the vector is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradmq.binding import Gradients, is_finite
from gradmq.errors import SettingsError
from gradmq.layout import Layout, Tensor
from gradmq.ps.optim import BLOCK, SGD, optimizer_from
from gradmq.ps.policy import Unbounded
from gradmq.ps.shard import Shard
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Attach, Directory, Push, Seed

Vector = npt.NDArray[np.float32]

STEPS = 200

#: Of a tensor's largest value; float32 rounds at 6e-8, and every step may round differently.
TOLERANCE = 2e-6

#: The first is longer than a block; the cut into 3 shards goes through it and through the last.
SHAPES: tuple[tuple[int, ...], ...] = ((181, 367), (7,), (), (0, 3), (5, 257))

LAYOUTS = {
    shards: Layout(tuple(Tensor(f"t{i}", "float32", s) for i, s in enumerate(SHAPES)), shards)
    for shards in (1, 3)
}


def random_vectors(chance: np.random.Generator, scale: float) -> list[Vector]:
    return [
        (scale * chance.standard_normal(tensor.size)).astype(np.float32)
        for tensor in LAYOUTS[1].tensors
    ]


def payload_of(vector: Vector) -> dict[str, Any]:
    payload = array_payload(vector)
    return {"payload": payload, "crc": payload_crc(payload)}


class Shards:
    """All shards of a run, fed by one session that sees every version at once."""

    def __init__(self, layout: Layout, optimizer: SGD, initial: Mapping[int, Vector]) -> None:
        self._layout = layout
        self._shards = [
            Shard("demo", layout, i, 1, optimizer, Unbounded()) for i in range(layout.shards)
        ]
        self._seq = 0
        vectors, _ = Gradients(layout, initial).packed()
        for i, shard in enumerate(self._shards):
            shard.on_directory(
                Directory(
                    serial=1,
                    run="demo",
                    phase="open",
                    shards=(),
                    sessions=(1,),
                    horizon=1,
                    seeder=1,
                ),
                0.0,
            )
            seed = Seed(
                run="demo",
                layout=layout.hash,
                shard=i,
                session=1,
                **payload_of(vectors[i]),
            )
            shard.on_seed(b"peer", seed)
            attach = Attach(
                run="demo",
                layout=layout.hash,
                session=1,
                name="worker-1",
                oldest_unanswered=1,
                newest_seen=None,
                window=1,
            )
            shard.on_attach(b"peer", attach)

    def step(self, gradients: Mapping[int, Vector]) -> None:
        self._seq += 1
        cut = Gradients(self._layout, gradients)
        vectors, _ = cut.packed()
        for i, shard in enumerate(self._shards):
            push = Push(
                run="demo",
                shard=i,
                incarnation=1,
                session=1,
                seq=self._seq,
                base=shard.version,
                layout=self._layout.hash,
                present=cut.present,
                **payload_of(vectors[i]),
            )
            shard.on_push(push, now=float(self._seq))

    @property
    def tensors(self) -> list[Vector]:
        flat = np.concatenate([shard.snapshot().parameters for shard in self._shards])
        ends = np.cumsum([tensor.size for tensor in self._layout.tensors])
        return np.split(flat, ends[:-1])


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.1},
    "weight decay": {"lr": 0.1, "weight_decay": 0.01},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "Nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "everything": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def differences(ours: Sequence[Vector], torchs: Sequence[Vector]) -> list[float]:
    """The largest difference of each tensor, as a part of its largest value."""
    return [
        float(np.abs(a - b).max() / np.abs(b).max())
        for a, b in zip(ours, torchs, strict=True)
        if a.size
    ]


@pytest.mark.torch
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("some_are_absent", [False, True], ids=["all present", "some absent"])
def test_sgd_is_torchs(settings: str, shards: int, some_are_absent: bool) -> None:
    import torch

    chance = np.random.default_rng(20)
    initial = random_vectors(chance, scale=1.0)
    run = Shards(LAYOUTS[shards], SGD(**SETTINGS[settings]), dict(enumerate(initial)))
    parameters = [torch.nn.Parameter(torch.from_numpy(vector.copy())) for vector in initial]
    torchs = torch.optim.SGD(parameters, **SETTINGS[settings])
    batches = [random_vectors(chance, scale=0.1) for _ in range(20)]
    for step in range(STEPS):
        present = chance.random(len(SHAPES)) < (0.6 if some_are_absent else 1.0)
        batch = batches[step % len(batches)]
        gradients = {row: vector for row, vector in enumerate(batch) if present[row]}
        run.step(gradients)
        for row, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(gradients[row]) if row in gradients else None
        torchs.step()
    expected = [parameter.detach().numpy() for parameter in parameters]
    assert max(differences(run.tensors, expected)) <= TOLERANCE


def applied(
    optimizer: SGD, old: Vector, gradient: Vector, state: dict[str, Vector], weight: float = 1.0
) -> Vector:
    new = np.full_like(old, np.nan)
    optimizer.apply(old, new, gradient, state, weight)
    return new


def test_blocks_are_seen_nowhere_in_the_result() -> None:
    chance = np.random.default_rng(21)
    size = 2 * BLOCK + 17
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    start, gradient = (chance.standard_normal(size).astype(np.float32) for _ in range(2))
    whole, state = start.copy(), optimizer.state(size)
    cut, cut_state = start.copy(), optimizer.state(size)
    for _ in range(3):
        whole = applied(optimizer, whole, gradient, state)
        before, cut = cut, np.empty_like(cut)
        for a, b in ((0, 1), (1, BLOCK), (BLOCK, 2 * BLOCK + 3), (2 * BLOCK + 3, size)):
            momentum = {"momentum": cut_state["momentum"][a:b]}
            optimizer.apply(before[a:b], cut[a:b], gradient[a:b], momentum, 1.0)
    np.testing.assert_array_equal(whole, cut)
    np.testing.assert_array_equal(state["momentum"], cut_state["momentum"])


def test_a_weight_scales_the_gradient_and_leaves_it_as_it_was() -> None:
    old, gradient = np.ones(3, np.float32), np.full(3, 2.0, np.float32)
    new = applied(SGD(lr=0.5), old, gradient, {}, 0.25)
    np.testing.assert_array_equal(new, np.full(3, 0.75, np.float32))
    np.testing.assert_array_equal(gradient, np.full(3, 2.0, np.float32))


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_gradient_and_the_old_version_are_only_read(settings: str, weight: float) -> None:
    old, gradient = np.ones(5, np.float32), np.ones(5, np.float32)
    old.flags.writeable = gradient.flags.writeable = False
    optimizer = SGD(**SETTINGS[settings])
    assert np.isfinite(applied(optimizer, old, gradient, optimizer.state(5), weight)).all()


def test_without_momentum_there_is_no_state() -> None:
    assert SGD(lr=0.1).state(5) == {}
    assert list(SGD(lr=0.1, momentum=0.9).state(5)) == ["momentum"]


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_optimizer_comes_back_from_its_settings(settings: str) -> None:
    optimizer = SGD(**SETTINGS[settings])
    assert optimizer_from(optimizer.settings()) == optimizer


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"lr": -0.1}, "optimizer.lr is -0.1"),
        ({"lr": float("nan")}, "optimizer.lr is nan"),
        ({"lr": float("inf")}, "optimizer.lr is inf"),
        ({"lr": "fast"}, "optimizer.lr is 'fast'"),
        ({"lr": 0.1, "momentum": -1}, "optimizer.momentum is -1"),
        ({"lr": 0.1, "weight_decay": None}, "optimizer.weight_decay is None"),
        ({"lr": 0.1, "nesterov": True}, "nesterov needs a momentum"),
        ({"lr": 0.1, "betas": [0.9, 0.99]}, "known are lr, momentum, nesterov, weight_decay"),
        ({}, "known are lr"),
        ({"name": "adam", "lr": 0.1}, "optimizer 'adam' is unknown; use sgd"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        optimizer_from(settings)


# -- finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    vector = np.ones(1000, np.float32)
    vector[700] = value
    assert not is_finite(vector)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38])
def test_the_smallest_and_the_largest_values_are_finite(value: float) -> None:
    assert is_finite(np.full(1000, value, np.float32))
    assert is_finite(np.zeros(0, np.float32))
