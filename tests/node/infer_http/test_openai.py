"""The OpenAI dialect, mostly as the unmodified openai package sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch

from gradmq.infer.limits import HttpLimits
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch


def client_of(node: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=node.url + "/v1", api_key="none needed", max_retries=0)


@pytest.fixture
def client(letters_node: Any) -> Iterator[openai.OpenAI]:
    with client_of(letters_node) as client:
        yield client


def test_the_model_is_listed_and_found_by_name(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["letters"]
    found = client.models.retrieve("letters")
    assert (found.object, found.owned_by) == ("model", "gradmq")
    assert found.created > 0


def test_a_completion_has_all_that_the_package_reads(client: openai.OpenAI) -> None:
    completion = client.completions.create(
        model="letters", prompt="abc", max_tokens=4, temperature=0
    )
    (choice,) = completion.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "defg", "length")
    assert completion.object == "text_completion"
    assert completion.model == "letters"
    assert completion.id.startswith("cmpl-")
    assert completion.usage is not None
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 4, 7)
    assert completion.system_fingerprint == "release-12"


def test_a_completion_names_its_release_in_body_and_headers(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="letters", prompt="a")
    assert raw.headers["x-gradmq-release"] == "12"
    assert int(raw.headers["x-gradmq-age-ms"]) >= 0
    metadata = raw.parse().model_extra["metadata"]
    assert (metadata["release"], metadata["versions"]) == ("12", "1:120,2:121")
    assert all(isinstance(value, str) for value in metadata.values())


def test_several_prompts_give_as_many_choices_in_order(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="letters", prompt=["a", "x", "m"], max_tokens=2)
    assert [(choice.index, choice.text) for choice in completion.choices] == [
        (0, "bc"),
        (1, "yz"),
        (2, "no"),
    ]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 9


def test_text_ends_before_the_first_stop(client: openai.OpenAI) -> None:
    completion = client.completions.create(
        model="letters", prompt="abc", max_tokens=20, stop=["k", "gh"]
    )
    assert completion.choices[0].text == "def"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


def test_a_prompt_longer_than_the_context_is_seen_from_its_end(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="letters", prompt="x" * 100 + "a", max_tokens=2)
    assert completion.choices[0].text == "bc"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 101


def test_without_max_tokens_64_are_generated(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="letters", prompt="a")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 64


def test_another_model_raises_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this node serves 'letters'") as caught:
        client.completions.create(model="gpt-5", prompt="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"n": 2.0}, "n"),
        ({"prompt": ["a", "b"], "n": 9}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"stop": "a" * 257}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": [True]}, "stream_options"),
        ({"stream": True, "stream_options": {"every": 3}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"echo": "yes"}, "echo"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"logit_bias": {"50": 1}}, "logit_bias"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"extra_body": {"top_k": 4}}, "top_k"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": [97, 98]}, "prompt"),
        ({"prompt": [[97, 98]]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a" * 9000, "echo": True, "logprobs": 0}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"model": 7}, "model"),
    ],
)
def test_a_wrong_field_raises_bad_request_that_names_it(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**({"model": "letters", "prompt": "abc"} | fields))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in caught.value.message


def test_fields_at_the_values_that_change_nothing_are_taken(letters_node: Any) -> None:
    body = {
        "prompt": "abc",
        "max_tokens": 3,
        "n": 1,
        "best_of": 1,
        "stream": False,
        "echo": False,
        "logprobs": None,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "stop": None,
        "seed": None,
        "user": "me",
    }
    answer = letters_node.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == "def"


def test_a_prompt_that_cannot_be_encoded_is_the_request_s_fault(letters_node: Any) -> None:
    refused = letters_node.client.post("/v1/completions", content=rb'{"prompt": "\ud800"}')
    assert refused.status_code == 400
    assert "cannot be encoded" in refused.json()["error"]["message"]


def test_before_the_first_release_clients_are_told_to_come_again(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    with client_of(node) as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="letters", prompt="a")
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
    assert "x-should-retry" not in caught.value.response.headers
    assert "x-gradmq-release" not in caught.value.response.headers


def test_a_tensor_model_points_to_the_other_dialect(sums_node: Any) -> None:
    with client_of(sums_node) as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="sums", prompt="a")
    assert "/v2/models/sums/infer" in caught.value.message


def test_a_full_queue_raises_rate_limit(serve_node: Any, gate: Any, text_spec: TextModel) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(waiting_requests=0))
    node.offer(1, gate(lambda ids: ids))
    with client_of(node) as client, pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="letters", prompt="a")
    assert caught.value.response.headers["retry-after"] == "1"


def test_logits_that_are_not_numbers_name_the_release(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    node.offer(5, lambda ids: torch.full((1, ids.shape[1], 256), torch.nan))
    with client_of(node) as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="letters", prompt="a")
    assert "release 5" in caught.value.message


def test_errors_of_paths_and_bodies_have_the_dialect_s_form_too(letters_node: Any) -> None:
    for answer, status in (
        (letters_node.client.get("/v1/chat"), 404),
        (letters_node.client.get("/v1/completions"), 405),
        (letters_node.client.post("/v1/completions", content=b"{"), 400),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_answer_has_the_id_of_its_request_or_a_new_one(letters_node: Any) -> None:
    named = letters_node.client.get("/v1/models", headers={"x-request-id": "mine"})
    assert named.headers["x-request-id"] == "mine"
    with client_of(letters_node) as client:
        answers = [client.completions.create(model="letters", prompt="a") for _ in range(2)]
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="another", prompt="a")
    ids = [answer._request_id for answer in answers] + [caught.value.request_id]
    assert all(ids)
    assert len(set(ids)) == 3
    long = letters_node.client.get("/healthz", headers={"x-request-id": "a" * 201})
    assert long.headers["x-request-id"] != "a" * 201


def test_the_key_of_the_package_is_the_token_of_the_node(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, token="secret")
    node.offer(1, lambda ids: torch.zeros(1, ids.shape[1], 256))
    with client_of(node) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.completions.create(model="letters", prompt="a", stream=True)
    assert caught.value.request_id
    with client_of(node).with_options(api_key="secret") as client:
        assert list(client.completions.create(model="letters", prompt="a", stream=True))


def test_a_request_over_its_time_is_not_repeated(
    serve_node: Any, gate: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(request_s=0.2))
    slow = gate(lambda ids: torch.zeros(1, ids.shape[1], 256))
    node.offer(1, slow)
    with (
        client_of(node).with_options(max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.completions.create(model="letters", prompt="a")
    assert caught.value.status_code == 504
    assert slow.calls <= 1
