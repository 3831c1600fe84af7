"""The first release runs once on the smallest input before a node says that it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from gradmq.infer.measures import Measures
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.infer.standstill import Standstill
from gradmq.infer.swapping import Swapper
from gradmq.infer.warm_up import warm_up
from gradmq.serve import TensorModel, TensorSpec, TextModel

pytestmark = pytest.mark.torch

RELEASE = (1, ((1, 0),))


class Recorder(torch.nn.Module):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.seen.append(x)
        return x


@pytest.mark.parametrize(
    ("datatype", "shape", "dtype"),
    [
        ("FP32", (-1, 2, -1), torch.float32),
        ("BF16", (-1, 2, -1), torch.bfloat16),
        ("INT64", (-1, 2, -1), torch.int64),
        ("BOOL", (-1, 2, -1), torch.bool),
    ],
)
def test_a_tensor_model_runs_on_zeros_whose_free_sizes_are_one(
    datatype: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    model = Recorder()
    spec = TensorSpec("x", datatype, shape)
    warm_up(ServedRelease(*RELEASE, model), TensorModel((spec,), (spec,)))
    (seen,) = model.seen
    assert torch.equal(seen, torch.zeros(1, 2, 1, dtype=dtype))


def test_texts_are_empty() -> None:
    given: list[Any] = []

    def prepare(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        given.append(inputs["text"].tolist())
        return (torch.zeros(1),)

    spec = TensorModel(
        (TensorSpec("text", "BYTES", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),), prepare
    )
    warm_up(ServedRelease(*RELEASE, Recorder()), spec)
    assert given == [[[b"", b""]]]


def a_text_model(sample_prompt: str, context_tokens: int = 8) -> TextModel:
    return TextModel(
        lambda text: list(text.encode()),
        lambda ids: bytes(ids).decode(),
        context_tokens,
        sample_prompt,
    )


def test_a_text_model_goes_on_from_the_end_of_its_sample_prompt() -> None:
    model = Recorder()
    warm_up(ServedRelease(*RELEASE, model), a_text_model("abc", context_tokens=2))
    assert model.seen[0].tolist() == [[ord("b"), ord("c")]]
    warm_up(ServedRelease(*RELEASE, model), a_text_model(""))
    assert model.seen[1].shape == (1, 1)


def test_a_text_model_with_a_cache_is_given_one() -> None:
    given: list[Any] = []

    def model(tokens: torch.Tensor, cache: object) -> torch.Tensor:
        given.append(cache)
        return torch.zeros(1, tokens.shape[1], 256)

    spec = replace(a_text_model("abc"), cache=lambda model: "empty")
    warm_up(ServedRelease(*RELEASE, model), spec)
    assert given == ["empty"]


def test_a_job_that_does_not_take_that_input_is_served_all_the_same() -> None:
    def prepare(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        raise ValueError("no picture")

    spec = TensorSpec("x", "FP32", (-1,))
    warm_up(ServedRelease(*RELEASE, Recorder()), TensorModel((spec,), (spec,), prepare))
    warm_up(ServedRelease(*RELEASE, torch.nn.Linear(7, 1)), TensorModel((spec,), (spec,)))


def test_only_the_first_release_is_warmed_up_and_before_it_is_held() -> None:
    serving = Serving(keep=2)
    held_then = []

    def prepare(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        held_then.append(serving.held())
        return (torch.zeros(1),)

    spec = TensorModel(
        (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), prepare
    )
    with ThreadPoolExecutor(1) as executor:
        swapper = Swapper(serving, Measures(), spec, executor, Standstill())
        for number in (4, 5):
            swapper.offer(ServedRelease(number, ((1, number),), Recorder()), 0.0)
    assert held_then == [[]]
    assert [held.release.number for held in serving.held()] == [4, 5]
