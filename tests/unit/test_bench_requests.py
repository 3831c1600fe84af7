"""What a benchmark's clients ask, and which answers they take for right."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from gradmq.bench.figures import Window
from gradmq.bench.infer.clients import Tally
from gradmq.bench.infer.requests import Answer, check_of, infer_binary, infer_json, post
from gradmq.infer.infer_request import BINARY_HEADER, parse_infer, split_body
from gradmq.serve import TensorModel, TensorSpec

SPEC = TensorModel((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))


def answered(outputs: list[list[float]], **more: Any) -> Answer:
    content = {"outputs": [{"name": "y", "data": data} for data in outputs], **more}
    return Answer(200, {}, json.dumps(content).encode())


def test_a_request_is_read_as_the_node_reads_it_in_json_and_in_binary() -> None:
    as_json, none = split_body(memoryview(infer_json("x", "FP32", (1, 2), [0.5, 1])), None)
    assert parse_infer(as_json, SPEC, none).inputs["x"].tolist() == [[0.5, 1.0]]
    body, headers = infer_binary("x", "FP32", (1, 2), struct.pack("<2f", 0.5, 1))
    head, raw = split_body(memoryview(body), headers[BINARY_HEADER])
    parsed = parse_infer(head, SPEC, raw)
    assert parsed.inputs["x"].tolist() == [[0.5, 1.0]]
    assert parsed.outputs[0].binary


def test_a_request_says_how_long_it_is() -> None:
    head, _, body = post("h", "/p", b"{}", {"a": "b"}).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [b"POST /p HTTP/1.1", b"host: h", b"content-length: 2", b"a: b"]
    assert body == b"{}"


def test_an_answer_is_right_if_every_output_is_near_what_belongs_to_its_own_request() -> None:
    check = check_of({"outputs": [[[1.0, 2.0]], [[3.0, 4.0]]]})
    assert check(0, answered([[1.0, 2.0001]])) == ""
    assert check(1, answered([[3.0, 4.0]])) == ""
    for outputs in ([[1.0, 2.0]], [[3.0]], [[3.0, 4.0], [3.0]], []):
        assert "request 1" in check(1, answered(outputs))
    assert check(0, answered([[1.0, 2.0001]])) == ""
    assert "request 1" in check(1, answered([[1.0, 2.0001]])), "known is right of one request only"


def test_a_binary_answer_is_read_too() -> None:
    outputs = [
        {"name": "c", "datatype": "INT64", "parameters": {"binary_data_size": 8}},
        {"name": "y", "datatype": "FP32", "parameters": {"binary_data_size": 8}},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    raw = struct.pack("<q2f", 7, 0.5, 0.25)
    answer = Answer(200, {BINARY_HEADER: str(len(head))}, head + raw)
    assert check_of({"outputs": [[[7], [0.5, 0.25]]]})(0, answer) == ""


@pytest.mark.parametrize(
    ("low", "high", "version", "torn"),
    [(3.0, 3.0, 3, False), (2.0, 3.0, 3, True), (3.0, 3.0, 4, True)],
)
def test_an_answer_of_one_version_has_no_parameter_of_another(
    low: float, high: float, version: int, torn: bool
) -> None:
    parameters = {"gradmq_versions": f"1:{version}"}
    why = check_of({"version": True})(0, answered([[low], [high]], parameters=parameters))
    assert bool(why) is torn


def test_of_a_model_that_learns_only_numbers_are_expected() -> None:
    check = check_of({"finite": 2})
    assert check(0, answered([[0.1, -5.0]])) == ""
    assert check(0, answered([[0.1]])) != ""
    assert check(0, answered([[0.1, float("nan")]])) != ""


def test_a_completion_has_the_tokens_that_were_asked_for() -> None:
    check = check_of({"tokens": 256})
    assert check(0, answered([], usage={"completion_tokens": 256})) == ""
    assert "got 255 tokens" in check(0, answered([], usage={"completion_tokens": 255}))


def test_only_what_is_answered_within_the_window_counts_but_every_failure_does() -> None:
    class Connection:
        number, due, done = 0, 1.0, 1.5

    tally = Tally(Window(1.0, 2.0))
    check = check_of({"finite": 1})
    right, wrong, refused = answered([[1.0]]), answered([[]]), Answer(503, {}, b"no")
    for answer in (right, wrong, refused):
        tally.take(Connection(), answer, check)
    Connection.done = 2.5
    tally.take(Connection(), right, check)
    found = tally.as_json()
    assert (found["within"], found["failures"], found["wrong"]) == (2, 1, 1)
    assert found["latencies_ms"] == [500.0, 500.0]
    assert any("503" in what for what in found["what"])
