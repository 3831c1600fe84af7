"""Sampling: what temperature, top_p and seed promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradmq.infer.completion_request import CompletionRequest
from gradmq.infer.generate import Generation
from gradmq.infer.sampling import Sampling
from gradmq.infer.serving import Holding, ServedRelease
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch

DIGITS = TextModel(
    encode=lambda text: [int(digit) for digit in text],
    decode=lambda ids: "".join(str(token) for token in ids),
    context_tokens=4,
)

#: Of the ten digits 7 is likely, 3 is possible, 1 rare, the others impossible.
PROBABILITIES = torch.tensor([0, 0.05, 0, 0.35, 0, 0, 0, 0.6, 0, 0])


def model(ids: torch.Tensor) -> torch.Tensor:
    return PROBABILITIES.log().expand(1, ids.shape[1], 10)


def text(sampling: Sampling, prompt: str = "0", model: Any = model) -> str:
    release = ServedRelease(1, ((1, 1),), model)
    generation = Generation(
        Holding(release, 0.0), DIGITS, CompletionRequest((prompt,), sampling), 0
    )
    (choice,), is_all = generation.take(lambda: False)
    assert is_all
    return choice.text


def test_temperature_0_always_takes_the_likeliest() -> None:
    assert text(Sampling(max_tokens=30, temperature=0)) == "7" * 30


def test_a_tiny_temperature_is_nearly_0_and_a_small_one_prefers_the_likely() -> None:
    assert text(Sampling(max_tokens=30, temperature=1e-30, seed=1)) == "7" * 30
    assert text(Sampling(max_tokens=30, temperature=0.02, seed=1)) == "7" * 30


def test_only_possible_tokens_are_drawn_and_all_of_them() -> None:
    assert set(text(Sampling(max_tokens=300, seed=1))) == {"7", "3", "1"}


def test_frequencies_follow_the_model() -> None:
    drawn = text(Sampling(max_tokens=1000, seed=1))
    assert 0.5 < drawn.count("7") / 1000 < 0.7
    assert 0.25 < drawn.count("3") / 1000 < 0.45


@pytest.mark.parametrize(("top_p", "drawn"), [(0.0, "7"), (0.6, "7"), (0.61, "73"), (0.99, "731")])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, drawn: str) -> None:
    assert set(text(Sampling(max_tokens=300, top_p=top_p, seed=1))) == set(drawn)


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    first = text(Sampling(max_tokens=40, seed=1))
    assert text(Sampling(max_tokens=40, seed=1)) == first
    assert text(Sampling(max_tokens=40, seed=2)) != first


def test_without_a_seed_each_text_is_another() -> None:
    texts = {text(Sampling(max_tokens=60)) for _ in range(5)}
    assert len(texts) == 5


def test_a_global_seed_is_neither_used_nor_moved() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    text(Sampling(max_tokens=5))
    assert torch.equal(torch.rand(1), expected)


def test_a_text_that_outgrows_the_context_is_seen_from_its_newest_half() -> None:
    seen: list[list[int]] = []

    def watch(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids[0].tolist())
        return model(ids)

    text(Sampling(max_tokens=6, temperature=0), "12", watch)
    assert seen == [[1, 2], [1, 2, 7], [1, 2, 7, 7], [7, 7], [7, 7, 7], [7, 7, 7, 7]]
    seen.clear()
    text(Sampling(max_tokens=3, temperature=0), "123456", watch)
    assert seen == [[3, 4, 5, 6], [6, 7], [6, 7, 7]]
