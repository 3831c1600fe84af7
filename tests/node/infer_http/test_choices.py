"""More than one text for a prompt, the prompt with the text, and how likely each token was."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest
import torch

from gradmq.infer.limits import HttpLimits
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch

#: After any letter: b half of the time, c a quarter, d and é an eighth each.
LIKELY = {"b": 0.5, "c": 0.25, "d": 0.125, "\xc3": 0.125}


def chances(ids: torch.Tensor) -> torch.Tensor:
    """After the first byte of é always the second one."""
    probabilities = torch.zeros(*ids.shape, 256)
    for letter, probability in LIKELY.items():
        probabilities[..., ord(letter)] = probability
    probabilities[ids == 0xC3] = torch.nn.functional.one_hot(torch.tensor(0xA9), 256).float()
    return probabilities.log()


@pytest.fixture(scope="module")
def node(serve_module: Any, text_spec: TextModel) -> Any:
    node = serve_module("letters", text_spec)
    node.offer(1, chances)
    return node


def choices(node: Any, **fields: Any) -> list[Any]:
    answer = node.post("/v1/completions", {"prompt": "a", "max_tokens": 20} | fields)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["choices"]
    return found


def streamed(node: Any, **fields: Any) -> list[Any]:
    """The choices that a stream comes to, in the form of an answer at once."""
    text = node.post("/v1/completions", {"prompt": "a", "max_tokens": 20, "stream": True} | fields)
    whole: dict[int, Any] = {}
    for event in text.text.split("\n\n")[:-2]:
        for part in json.loads(event.removeprefix("data: "))["choices"]:
            choice = whole.setdefault(part["index"], part)
            if choice is not part:
                choice["text"] += part["text"]
                choice["finish_reason"] = part["finish_reason"]
                for name in choice["logprobs"] or ():
                    choice["logprobs"][name] += part["logprobs"][name]
    return list(whole.values())


def test_each_choice_of_a_prompt_is_what_the_seed_after_the_one_before_gives(node: Any) -> None:
    found = choices(node, prompt=["a", "b"], n=3, seed=5)
    assert [choice["index"] for choice in found] == list(range(6))
    alone = [choices(node, seed=seed)[0]["text"] for seed in (5, 6, 7)]
    assert [choice["text"] for choice in found] == alone * 2
    assert len(set(alone)) == 3


def test_the_last_seed_has_one_after_it(node: Any) -> None:
    assert len(choices(node, n=2, seed=2**64 - 1)) == 2


def test_prompts_are_counted_once_however_many_choices_they_have(node: Any) -> None:
    answer = node.post("/v1/completions", {"prompt": "abc", "n": 4, "max_tokens": 5}).json()
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}


def test_an_echo_puts_the_prompt_before_the_text(node: Any) -> None:
    (plain,) = choices(node, seed=1, prompt="zy")
    (echoed,) = choices(node, seed=1, prompt="zy", echo=True)
    assert echoed["text"] == "zy" + plain["text"]


def test_logprobs_are_those_of_the_model_whatever_the_sampling(node: Any) -> None:
    (choice,) = choices(node, seed=1, logprobs=2, temperature=0.3, top_p=0.9)
    found = choice["logprobs"]
    assert found["tokens"] == list(choice["text"])
    assert found["text_offset"] == list(range(20))
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert logprob == pytest.approx(math.log(LIKELY[token]), abs=1e-5)
        assert list(top)[:2] == ["b", "c"]
        assert set(top) == {"b", "c", token}
        assert top[token] == logprob


def test_with_logprobs_0_only_the_tokens_drawn_are_told_of(node: Any) -> None:
    found = choices(node, seed=1, logprobs=0, max_tokens=2)[0]["logprobs"]
    assert found["top_logprobs"] == [None, None]
    assert len(found["token_logprobs"]) == 2


def test_what_cannot_be_drawn_has_a_logprob_that_json_can_write(node: Any) -> None:
    (choice,) = choices(node, logprobs=5, max_tokens=1)
    assert min(choice["logprobs"]["top_logprobs"][0].values()) == -9999


def test_tokens_of_a_stop_text_are_not_told_of(node: Any) -> None:
    (choice,) = choices(node, seed=1, logprobs=0, stop="c")
    assert choice["finish_reason"] == "stop"
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_the_bytes_of_a_character_stand_where_it_stands(node: Any) -> None:
    for seed in range(20):
        (choice,) = choices(node, seed=seed, logprobs=0)
        offsets = choice["logprobs"]["text_offset"]
        assert len(offsets) == 20
        expected = [
            place for place, letter in enumerate(choice["text"]) for _ in letter.encode()[:2]
        ]
        cut = choice["text"].endswith("\N{REPLACEMENT CHARACTER}")
        assert offsets == (expected[:-1] if cut else expected)


@pytest.mark.parametrize("turn_s", [0.0, 0.005])
def test_a_stream_comes_to_the_same_choices(
    serve_node: Any, text_spec: TextModel, turn_s: float
) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(turn_s=turn_s))
    node.offer(1, chances)
    for fields in (
        {"n": 2, "logprobs": 3},
        {"stop": ["cb", "db"], "logprobs": 1},
        {"echo": True, "prompt": ["é" * 20, "ab"], "n": 2, "logprobs": 2},
        {"echo": True},
    ):
        asked = fields | {"seed": 8}
        assert streamed(node, **asked) == choices(node, **asked)


def test_a_prompt_is_scored_with_an_echo(node: Any) -> None:
    prompt = "bcd" * 10  # longer than the context of 8
    (choice,) = choices(node, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0)
    found = choice["logprobs"]
    assert choice["text"] == prompt + "b"
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == list(range(31))
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    for token, logprob in list(zip(found["tokens"], found["token_logprobs"], strict=True))[1:]:
        assert logprob == pytest.approx(math.log(LIKELY[token]), abs=1e-5)


def test_a_prompt_is_scored_as_it_would_be_if_it_had_been_generated(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)

    def depends_on_all(ids: torch.Tensor) -> torch.Tensor:
        sums = torch.cumsum(ids, dim=1)[..., None]
        logits = torch.sin(sums * torch.arange(1, 257) * 0.37)
        logits[..., : ord("a")] = logits[..., ord("z") :] = -torch.inf
        return logits

    node.offer(1, depends_on_all)
    asked = {"prompt": "a", "seed": 3, "logprobs": 0, "echo": True}
    (generated,) = choices(node, **asked, max_tokens=30)
    (scored,) = choices(node, **asked | {"prompt": generated["text"]}, max_tokens=1)
    assert scored["logprobs"]["token_logprobs"][:31] == pytest.approx(
        generated["logprobs"]["token_logprobs"]
    )


def test_the_package_reads_logprobs(node: Any) -> None:
    with openai.OpenAI(base_url=node.url + "/v1", api_key="none", max_retries=0) as client:
        completion = client.completions.create(model="letters", prompt="a", logprobs=1, n=2)
    for choice in completion.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == 64
