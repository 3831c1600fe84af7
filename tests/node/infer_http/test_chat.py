"""Chats, of a job that has a template for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch

from gradmq.errors import JobError
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch

HELLO: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "abc"}]


def template(messages: Sequence[Mapping[str, str]]) -> str:
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's own")
    return "".join(f"{m.get('name', m['role'])}:{m['content']}" for m in messages)


def letters(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot((ids + 1) % 256, 256).float() * 1000


@pytest.fixture(scope="module")
def node(serve_module: Any, text_spec: TextModel) -> Any:
    """Goes on with the alphabet, up to before w."""
    node = serve_module("letters", replace(text_spec, chat=template, chat_stop=("wx",)))
    node.offer(12, letters)
    return node


@pytest.fixture
def client(node: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=node.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_an_answer_has_all_that_the_package_reads(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="letters", messages=HELLO, max_completion_tokens=4, n=2
    )
    for index, choice in enumerate(answer.choices):
        assert (choice.index, choice.finish_reason, choice.logprobs) == (index, "length", None)
        assert (choice.message.role, choice.message.content) == ("assistant", "defg")
    assert (answer.object, answer.model) == ("chat.completion", "letters")
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint == "release-12"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("system:suser:abc")
    assert answer.usage.completion_tokens == 8
    metadata: Any = answer.to_dict()["metadata"]
    assert metadata["release"] == "12"


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="letters",
            messages=HELLO,
            stream=True,
            n=2,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    for index in (0, 1):
        parts = [each for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(part.delta.content or "" for part in parts) == "defghijklmnopqrstuv"
        assert [part.delta.role for part in parts] == ["assistant"] + [None] * (len(parts) - 1)
        assert parts[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2 * len("defghijklmnopqrstuvwx")
    for chunk in (chunks[0], chunks[-1]):
        assert chunk.model_extra is not None
        assert chunk.model_extra["metadata"]["release"] == "12"


def test_the_template_s_own_stop_texts_stand_beside_those_of_the_request(
    client: openai.OpenAI,
) -> None:
    answer = client.chat.completions.create(model="letters", messages=HELLO, stop=["g", "?"])
    assert answer.choices[0].message.content == "def"


def test_content_may_come_in_parts_of_text_and_messages_with_a_name(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: Any = [{"role": "user", "name": "me", "content": parts, "tool_calls": None}]
    answer = client.chat.completions.create(model="letters", messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("me:a\nb")


def test_an_answer_may_be_sent_back_as_the_package_holds_it(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="letters", messages=HELLO).choices[0].message
    messages: Any = [*HELLO, first, {"role": "user", "content": "go on"}]
    again = client.chat.completions.create(model="letters", messages=messages)
    assert again.choices[0].message.content == "opqrstuv"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "abc"}, "messages"),
        ({"messages": ["abc"]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"prompt": "a"}}, "prompt"),
        ({"n": 17}, "n"),
        ({"stop": 3}, "stop"),
    ],
)
def test_a_wrong_field_raises_bad_request_that_names_it(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "letters", "messages": HELLO} | fields))
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_model_without_a_template_points_to_completions(letters_node: Any) -> None:
    with (
        openai.OpenAI(base_url=letters_node.url + "/v1", api_key="none") as client,
        pytest.raises(openai.NotFoundError, match="use POST /v1/completions") as caught,
    ):
        client.chat.completions.create(model="letters", messages=HELLO)
    assert caught.value.code == "no_chat_template"


def test_a_tensor_model_points_to_the_other_dialect(sums_node: Any) -> None:
    refused = sums_node.post("/v1/chat/completions", {"messages": HELLO})
    assert refused.status_code == 400
    assert "/v2/models/sums/infer" in refused.json()["error"]["message"]


@pytest.mark.parametrize("chat_stop", ["<end>", ("<end>", "")])
def test_stop_texts_of_a_template_must_be_texts(text_spec: TextModel, chat_stop: Any) -> None:
    with pytest.raises(JobError, match="chat_stop"):
        replace(text_spec, chat_stop=chat_stop)
