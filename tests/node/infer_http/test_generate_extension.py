"""Triton's generate and generate_stream, for text models."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from gradmq.serve import TextModel

pytestmark = pytest.mark.torch

PATH = "/v2/models/letters/generate"


def generated(node: Any, path: str = PATH, **body: Any) -> Any:
    answer = node.post(path, {"text_input": "abc"} | body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gradmq-release"] == "12"
    return answer.json()


def test_a_text_is_completed_and_the_release_is_its_version(letters_node: Any) -> None:
    expected = {"model_name": "letters", "model_version": "12", "text_output": "defg"}
    assert generated(letters_node, parameters={"max_tokens": 4, "temperature": 0}) == expected
    assert generated(letters_node, max_tokens=4, id="mine") == {"id": "mine"} | expected
    assert generated(letters_node, "/v2/models/letters/versions/12/generate", max_tokens=4)


def test_a_stream_has_the_same_text_in_pieces(letters_node: Any) -> None:
    body = {"text_input": "abc", "stream": True, "parameters": {"max_tokens": 99, "stop": "wx"}}
    answer = letters_node.post(PATH + "_stream", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = answer.text.split("\n\n")
    assert end == ""
    pieces = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(piece["text_output"] for piece in pieces) == "defghijklmnopqrstuv"
    assert {piece["model_version"] for piece in pieces} == {"12"}


def test_what_clients_of_tensorrt_llm_send_for_nothing_is_taken(letters_node: Any) -> None:
    parameters = {"max_tokens": 2, "bad_words": [""], "stop_words": [""]}
    assert generated(letters_node, parameters=parameters, stream=False)["text_output"] == "de"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "text_input"),
        ({"text_input": ["a"]}, "text_input"),
        ({"text_input": "a", "parameters": [1]}, "parameters"),
        ({"text_input": "a", "parameters": {"top_k": 3}}, "'top_k'"),
        ({"text_input": "a", "parameters": {"stream": True}}, "stream"),
        ({"text_input": "a", "parameters": {"stop_words": ["b"]}}, "stop_words"),
        ({"text_input": "a", "seed": 1, "parameters": {"seed": 1}}, "'seed' is given twice"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens"),
        ({"text_input": "a", "id": 3}, "id"),
    ],
)
def test_a_wrong_body_is_refused_in_words(letters_node: Any, body: Any, says: str) -> None:
    refused = letters_node.post(PATH, body)
    assert refused.status_code == 400
    assert says in refused.json()["error"]


def test_another_model_and_another_version_are_not_found(letters_node: Any) -> None:
    for path in ("/v2/models/no/generate", "/v2/models/letters/versions/11/generate_stream"):
        refused = letters_node.post(path, {"text_input": "a"})
        assert refused.status_code == 404
        assert isinstance(refused.json()["error"], str)


def test_a_failure_before_the_first_token_has_the_status_of_an_error(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    node.offer(12, lambda ids: torch.full((1, ids.shape[1], 256), torch.nan))
    refused = node.post(PATH + "_stream", {"text_input": "a"})
    assert refused.status_code == 500
    assert "release 12" in refused.json()["error"]


def test_a_tensor_model_points_to_infer(sums_node: Any) -> None:
    refused = sums_node.post("/v2/models/sums/generate", {"text_input": "a"})
    assert refused.status_code == 400
    assert "/v2/models/sums/infer" in refused.json()["error"]
