"""A cache of keys and values makes completions faster, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gradmq.infer.completion_request import CompletionRequest
from gradmq.infer.generate import Generation
from gradmq.infer.sampling import Sampling
from gradmq.infer.serving import Holding, ServedRelease
from gradmq.jobs import lm
from gradmq.jobs.lm_model import Cache
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch


class Model:
    """Notes what it is called with; goes on with the digit after the last one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []
        self.caches = 0

    def new_cache(self) -> int:
        self.caches += 1
        return self.caches

    def __call__(self, ids: torch.Tensor, cache: int) -> torch.Tensor:
        self.seen.append((cache, ids[0].tolist()))
        return torch.nn.functional.one_hot((ids + 1) % 10, 10).float()


DIGITS = TextModel(
    encode=lambda text: [int(digit) for digit in text],
    decode=lambda ids: "".join(str(token) for token in ids),
    context_tokens=4,
    cache=Model.new_cache,
)


def generation(spec: TextModel, model: Any, *prompts: str, **sampling: Any) -> Generation:
    holding = Holding(ServedRelease(1, ((1, 1),), model), 0.0)
    return Generation(holding, spec, CompletionRequest(prompts, Sampling(**sampling)), 0)


def text_of(generation: Generation) -> str:
    (choice,), _ = generation.take(lambda: False)
    return choice.text


def test_the_model_is_given_what_is_not_in_the_cache_yet() -> None:
    model = Model()
    assert text_of(generation(DIGITS, model, "12", temperature=0, max_tokens=3)) == "345"
    assert model.seen == [(1, [1, 2]), (1, [3]), (1, [4])]


def test_a_text_that_outgrows_the_context_begins_a_new_cache_with_its_newest_half() -> None:
    model = Model()
    text_of(generation(DIGITS, model, "123456", temperature=0, max_tokens=6))
    assert model.seen == [
        (1, [3, 4, 5, 6]),
        (2, [6, 7]),
        (2, [8]),
        (2, [9]),
        (3, [9, 0]),
        (3, [1]),
    ]


def test_each_text_has_a_cache_of_its_own() -> None:
    model = Model()
    generation(DIGITS, model, "1", "5", temperature=0, max_tokens=2).take(lambda: False)
    assert model.seen == [(1, [1]), (1, [2]), (2, [5]), (2, [6])]


def a_release_of_lm(seed: int) -> torch.nn.Module:
    """Of weights that no training has made; heavier where places differ, so that texts vary."""
    torch.manual_seed(seed)
    model = lm.model().eval()
    for name in ("position", "taps"):
        model.get_parameter(name).data *= 4
    return model


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ("d", {"temperature": 0}),
        ("def f(x):\n" * 20, {"seed": 1}),
        ("def f(x):\n" * 20, {"seed": 2, "temperature": 0.7, "top_p": 0.8}),
    ],
)
def test_lm_completes_the_same_with_and_without_its_cache(
    prompt: str, sampling: dict[str, Any]
) -> None:
    model, cached = a_release_of_lm(1), lm.serve()
    plain = replace(cached, cache=None)
    sampling = sampling | {"max_tokens": 140}
    found = text_of(generation(cached, model, prompt, **sampling))
    assert found == text_of(generation(plain, model, prompt, **sampling))
    assert len(set(found)) > 10


def test_completions_of_two_releases_in_turns_are_those_of_each_alone() -> None:
    spec, sampling = lm.serve(), {"seed": 3, "max_tokens": 30}
    models = [a_release_of_lm(1), a_release_of_lm(2)]
    alone = [text_of(generation(spec, model, "x = ", **sampling)) for model in models]
    together = [generation(spec, model, "x = ", **sampling) for model in models]
    texts, ended = ["", ""], [False, False]
    while not all(ended):
        for which, each in enumerate(together):
            pieces, ended[which] = each.take(lambda: True)
            texts[which] += "".join(piece.text for piece in pieces)
    assert texts == alone
    assert alone[0] != alone[1]


def test_lm_gives_the_same_logits_for_a_text_in_parts() -> None:
    model = a_release_of_lm(1)
    tokens = torch.randint(256, (1, 128))
    cache = Cache()
    with torch.inference_mode():
        parts = [model(part, cache) for part in tokens.split([5, 1, 1, 40, 1, 80], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-4, atol=1e-4)
