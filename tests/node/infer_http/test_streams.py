"""Completions that come piece by piece: what the openai package and plain HTTP see of them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch

from gradmq.infer.limits import HttpLimits
from gradmq.serve import TextModel

pytestmark = pytest.mark.torch

#: Every turn is one token, so that a test says which tokens have come.
BY_TOKEN = HttpLimits(turn_s=0.0)


def letters(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot((ids + 1) % 256, 256).float() * 1000


class Held:
    """Letters; from the call ``free_calls`` on, each waits for a permit."""

    def __init__(self, free_calls: int = 0) -> None:
        self._free_calls = free_calls
        self.calls = 0
        self.waits = threading.Event()
        self._permits = threading.Semaphore(0)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > self._free_calls:
            self.waits.set()
            self._permits.acquire()
        return letters(ids)

    def let_go(self, calls: int = 1000) -> None:
        self._permits.release(calls)


@pytest.fixture
def held(serve_node: Any) -> Iterator[Any]:
    """Makes models that wait; those still waiting are let go before the test's nodes end."""
    made: list[Held] = []

    def make(free_calls: int = 0) -> Held:
        made.append(Held(free_calls))
        return made[-1]

    yield make
    for each in made:
        each.let_go()


@contextlib.contextmanager
def client_of(node: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=node.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def stream(client: openai.OpenAI, **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": "letters", "prompt": "abc", "stream": True} | fields
    return client.completions.create(**asked)


def events(node: Any, **fields: Any) -> list[Any]:
    """Every event of a whole answer, the last one as text."""
    answer = node.post("/v1/completions", {"prompt": "abc", "stream": True} | fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    *found, end = answer.text.split("\n\n")
    assert end == ""
    assert all(event.startswith("data: ") for event in found)
    assert found[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found[:-1]]


def text_of(chunks: list[Any], choice: int = 0) -> str:
    choices = [each for chunk in chunks for each in chunk["choices"]]
    return "".join(each["text"] for each in choices if each["index"] == choice)


def test_the_pieces_together_are_the_text_that_comes_at_once(letters_node: Any) -> None:
    asked = {"prompt": ["abc", "é"], "max_tokens": 200, "temperature": 0, "stop": ["yz", "\u0421"]}
    whole = letters_node.post("/v1/completions", asked).json()
    chunks = events(letters_node, **asked)
    for choice in whole["choices"]:
        assert text_of(chunks, choice["index"]) == choice["text"]
    assert [
        (each["index"], each["finish_reason"])
        for chunk in chunks
        for each in chunk["choices"]
        if each["finish_reason"]
    ] == [(each["index"], each["finish_reason"]) for each in whole["choices"]]


def test_tokens_come_one_by_one_while_the_model_goes_on(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    slow = held()
    node.offer(1, slow)
    slow.let_go(1)
    with client_of(node) as client, stream(client, max_tokens=3) as chunks:
        came = []
        for chunk in chunks:
            came.append(chunk.choices[0].text)
            assert slow.calls <= len(came) + 1
            slow.let_go(1)
    assert came == ["d", "e", "f"]


def test_a_character_is_sent_whole(serve_node: Any, text_spec: TextModel) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    cycle = "é€😀".encode()
    following = torch.arange(256)
    for byte, after in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        following[byte] = after
    node.offer(1, lambda ids: torch.nn.functional.one_hot(following[ids], 256).float() * 1000)
    chunks = events(node, prompt="😀", max_tokens=11)
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert texts == ["é", "€", "😀", "é"]


def test_what_may_become_a_stop_text_is_not_sent_before_it_is_decided(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    node.offer(1, letters)
    chunks = events(node, stop=["fx", "hijk"], max_tokens=20)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["d", "e", "fg", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_chunks_have_the_form_of_completions(letters_node: Any) -> None:
    with client_of(letters_node) as client, stream(client, max_tokens=3) as chunks:
        found = list(chunks)
    assert "".join(chunk.choices[0].text for chunk in found) == "def"
    assert found[-1].choices[0].finish_reason == "length"
    assert {(chunk.object, chunk.model, chunk.system_fingerprint) for chunk in found} == {
        ("text_completion", "letters", "release-12")
    }
    assert len({chunk.id for chunk in found}) == 1
    assert {chunk.usage for chunk in found} == {None}


def test_the_usage_is_told_last_if_it_is_asked_for(letters_node: Any) -> None:
    asked = {"prompt": ["abc", "x"], "max_tokens": 3, "stream_options": {"include_usage": True}}
    *chunks, last = events(letters_node, **asked)
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    assert last["metadata"]["release"] == "12"
    assert all("usage" not in chunk for chunk in events(letters_node))


def test_a_stream_ends_on_the_release_it_began_with_and_says_so_first_and_last(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    slow = held(free_calls=1)
    node.offer(1, slow)
    with client_of(node) as client:
        with stream(client, max_tokens=5) as chunks:
            first = next(chunks)
            assert chunks.response.headers["x-gradmq-release"] == "1"
            node.offer(2, lambda ids: letters(ids + 1))
            slow.let_go()
            rest = list(chunks)
        assert "".join(chunk.choices[0].text for chunk in [first, *rest]) == "defgh"
        for chunk in (first, rest[-1]):
            assert chunk.metadata["release"] == "1"
            assert chunk.metadata["versions"] == "1:10,2:11"
            assert int(chunk.metadata["age_ms"]) >= 0
        assert not any(hasattr(chunk, "metadata") for chunk in rest[:-1])
        (only,) = stream(client, max_tokens=1)
        assert (only.choices[0].text, only.metadata["release"]) == ("e", "2")


def test_what_fails_before_the_first_token_has_the_status_of_an_error(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec)
    with client_of(node) as client:
        with pytest.raises(openai.InternalServerError) as early:
            stream(client)
        assert early.value.status_code == 503
        assert early.value.response.headers["retry-after"] == "1"
        node.offer(5, lambda ids: torch.full((1, ids.shape[1], 256), torch.nan))
        with pytest.raises(openai.InternalServerError, match="release 5"):
            stream(client)
    body = rb'{"prompt": "\ud800", "stream": true}'
    assert node.client.post("/v1/completions", content=body).status_code == 400


def test_a_failure_later_on_is_an_event_that_the_package_raises(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    slow = held(free_calls=2)

    def fails(ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = slow(ids)
        return found if slow.calls < 3 else found * torch.nan

    node.offer(5, fails)
    with client_of(node) as client, stream(client) as chunks:
        assert [next(chunks).choices[0].text for _ in range(2)] == ["d", "e"]
        slow.let_go()
        with pytest.raises(openai.APIError, match="release 5 gives logits"):
            next(chunks)


def test_a_stream_over_its_time_ends_with_an_error(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(turn_s=0.0, request_s=1.0))
    slow = held(free_calls=2)
    node.offer(1, slow)
    answer = node.post("/v1/completions", {"prompt": "a", "stream": True})
    *_, last, end = answer.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["message"].startswith(
        "no answer after 1 s"
    )
    slow.let_go()
    assert node.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    assert slow.calls <= 4


def test_generation_ends_at_the_next_token_when_the_client_goes_away(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    slow = held(free_calls=2)
    node.offer(1, slow)
    with client_of(node) as client, stream(client, max_tokens=50) as chunks:
        next(chunks)
        slow.waits.wait()
    while node.client.get("/gradmq/v1/status").json()["waiting"]:
        pass  # answered on the event loop that sees the connection close
    slow.let_go()
    assert node.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    assert slow.calls == 4
    assert released_answers(node) == {1: 2}
    assert latencies(node) == 1


def test_a_stream_counts_once_as_an_answer_of_its_release(letters_node: Any) -> None:
    answers, measured = released_answers(letters_node)[12], latencies(letters_node)
    events(letters_node)
    assert released_answers(letters_node)[12] == answers + 1
    assert latencies(letters_node) == measured + 1


def released_answers(node: Any) -> dict[int, int]:
    return {held.release.number: held.answers for held in node.serving.held()}


def latencies(node: Any) -> int:
    lines = node.client.get("/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith("gradmq_request_seconds_count")]
    return int(float(found.split()[-1]))


def test_a_full_node_refuses_streams_too(serve_node: Any, held: Any, text_spec: TextModel) -> None:
    node = serve_node("letters", text_spec, limits=HttpLimits(turn_s=0.0, waiting_requests=1))
    slow = held(free_calls=1)
    node.offer(1, slow)
    with client_of(node) as client, stream(client) as chunks:
        next(chunks)
        with pytest.raises(openai.RateLimitError) as full:
            stream(client)
        assert full.value.response.headers["retry-after"] == "1"
        slow.let_go()
        assert list(chunks)[-1].choices[0].finish_reason == "length"


def test_a_stream_that_the_end_of_the_node_cuts_off_is_told_why(
    serve_node: Any, held: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    slow = held(free_calls=1)
    node.offer(1, slow)
    with client_of(node) as client, stream(client) as chunks:
        next(chunks)
        node.stop.set()
        with pytest.raises(openai.APIError, match="this node is stopping"):
            list(chunks)


def test_a_long_completion_lets_others_have_their_turns(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, limits=BY_TOKEN)
    order: list[str] = []
    both_are_there = threading.Event()

    def model(ids: torch.Tensor) -> torch.Tensor:
        order.append("long" if ids[0, -1] >= ord("a") else "short")
        if len(order) == 2:
            both_are_there.wait()
        return letters(ids)

    node.offer(1, model)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(node.post, "/v1/completions", {"prompt": "a", "max_tokens": 20})
        while len(order) < 2:
            pass
        with httpx.Client(base_url=node.url, timeout=30) as another:
            short = pool_post(another, {"prompt": "0", "max_tokens": 3}, node, both_are_there)
        assert short.status_code == long.result().status_code == 200
    assert order == ["long"] * 2 + ["short", "long"] * 3 + ["long"] * 15


def pool_post(client: httpx.Client, body: Any, node: Any, go: threading.Event) -> httpx.Response:
    """Ask, and say go once the node has this request beside the one before."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/completions", json=body)
        while node.client.get("/gradmq/v1/status").json()["waiting"] < 2:
            pass
        go.set()
        return asked.result()
