"""The binary extension of the Open Inference Protocol, byte by byte."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradmq.infer.binary_tensors import array_from_bytes, bytes_from_array
from gradmq.infer.refusal import Refused
from gradmq.infer.tensors import DTYPES, as_bfloat16
from gradmq.serve import TensorModel, TensorSpec

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"
HEADER = "Inference-Header-Content-Length"
SIX = struct.pack("<6f", 1, 2, 3, 4, 5, 6)


def binary_rows(size: object = 24, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "rows", "datatype": "FP32", "shape": [2, 3]}
    return {"inputs": [tensor | {"parameters": {"binary_data_size": size}} | changes]}


def post(node: Any, header: dict[str, Any], raw: bytes, path: str = INFER, **headers: str) -> Any:
    head = json.dumps(header).encode()
    return node.client.post(path, content=head + raw, headers={HEADER: str(len(head))} | headers)


def parts(answer: Any) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[HEADER])
    return json.loads(answer.content[:length]), answer.content[length:]


def test_raw_tensors_come_in_and_go_out_behind_the_json(sums_node: Any) -> None:
    header = binary_rows() | {"id": "7", "parameters": {"binary_data_output": True}}
    answer = post(sums_node, header, SIX)
    assert answer.headers["content-type"] == "application/octet-stream"
    head, raw = parts(answer)
    assert (head["id"], head["model_version"]) == ("7", "12")
    assert head["outputs"] == [
        {"name": "sum", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {
            "name": "double", "datatype": "FP32", "shape": [2, 3],
            "parameters": {"binary_data_size": 24},
        },
    ]  # fmt: skip
    assert raw == struct.pack("<8f", 6, 15, 2, 4, 6, 8, 10, 12)


def test_each_output_is_binary_or_json_as_it_was_asked_for(sums_node: Any) -> None:
    outputs = [{"name": "double", "parameters": {"binary_data": True}}, {"name": "sum"}]
    head, raw = parts(post(sums_node, binary_rows() | {"outputs": outputs}, SIX))
    assert raw == struct.pack("<6f", 2, 4, 6, 8, 10, 12)
    assert head["outputs"][1]["data"] == [6, 15]
    outputs = [{"name": "double", "parameters": {"binary_data": False}}, {"name": "sum"}]
    header = {"outputs": outputs, "parameters": {"binary_data_output": True}}
    head, raw = parts(post(sums_node, binary_rows() | header, SIX))
    assert raw == struct.pack("<2f", 6, 15)


def test_binary_inputs_alone_are_answered_in_json(sums_node: Any) -> None:
    answer = post(sums_node, binary_rows(), SIX)
    assert HEADER not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [6, 15]


def test_the_length_of_the_json_counts_before_compression(sums_node: Any) -> None:
    header = binary_rows() | {"parameters": {"binary_data_output": True}}
    head = json.dumps(header).encode()
    headers = {HEADER: str(len(head)), "content-encoding": "gzip", "accept-encoding": "gzip"}
    answer = sums_node.client.post(INFER, content=gzip.compress(head + SIX), headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert parts(answer)[1] == struct.pack("<8f", 6, 15, 2, 4, 6, 8, 10, 12)


def test_an_empty_tensor_is_no_bytes(sums_node: Any) -> None:
    header = binary_rows(0, shape=[0, 3]) | {"parameters": {"binary_data_output": True}}
    head, raw = parts(post(sums_node, header, b""))
    assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [0, 0]
    assert raw == b""


def test_infinities_that_json_cannot_write_travel_in_binary(sums_node: Any) -> None:
    raw = struct.pack("<6f", float("inf"), 2, 3, 4, 5, 6)
    refused = post(sums_node, binary_rows(), raw)
    assert refused.status_code == 500
    assert "ask for it in binary" in refused.json()["error"]
    header = binary_rows() | {"parameters": {"binary_data_output": True}}
    assert parts(post(sums_node, header, raw))[1].startswith(struct.pack("<f", float("inf")))


@pytest.mark.parametrize(
    ("header", "raw", "says"),
    [
        (binary_rows(20), SIX[:20], "binary_data_size is 20, shape [2, 3] of FP32 needs 24"),
        (binary_rows(), SIX[:20], "binary_data_size is 24, 20 bytes are left behind the JSON"),
        (binary_rows(), SIX + b"x", "1 bytes of the body belong to no input"),
        (binary_rows(-1), SIX, "must be a number of bytes, got -1"),
        (binary_rows(True), SIX, "must be a number of bytes, got True"),
        (binary_rows(2**60), SIX, "bytes are left behind the JSON"),
        (binary_rows(2**70), SIX, "must be a number of bytes"),
        (binary_rows(data=[1] * 6), SIX, "both data and binary_data_size"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(
    sums_node: Any, header: dict[str, Any], raw: bytes, says: str
) -> None:
    refused = post(sums_node, header, raw)
    assert refused.status_code == 400
    assert says in refused.json()["error"]


@pytest.mark.parametrize("length", ["", "-1", "1e3", "forty", "9" * 19, "9" * 5000])
def test_a_length_that_is_none_is_refused(sums_node: Any, length: str) -> None:
    refused = sums_node.client.post(INFER, content=b"{}", headers={HEADER: length})
    assert refused.status_code == 400
    assert "must be from 0 to 2" in refused.json()["error"]


def test_binary_input_without_the_header_is_told_of_it(sums_node: Any) -> None:
    refused = sums_node.post(INFER, binary_rows())
    assert refused.status_code == 400
    assert "set inference-header-content-length" in refused.json()["error"]


def test_bfloat16_reaches_the_model_as_such(serve_node: Any) -> None:
    tensor = TensorSpec("x", "BF16", (-1,))
    node = serve_node("half", TensorModel((tensor,), (TensorSpec("y", "BF16", (-1,)),)))
    seen: list[torch.dtype] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return x / 2

    node.offer(1, model)
    raw = struct.pack("<2H", 0x3F80, 0xC000)  # 1 and -2
    entry = {"name": "x", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}}
    header = {"inputs": [entry], "parameters": {"binary_data_output": True}}
    _, answer = parts(post(node, header, raw, "/v2/models/half/infer"))
    assert answer == struct.pack("<2H", 0x3F00, 0xBF80)
    assert seen == [torch.bfloat16]


def test_texts_travel_in_binary_and_in_json(serve_node: Any) -> None:
    spec = TensorModel(
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        outputs=(TensorSpec("bytes", "INT32", (-1,)), TensorSpec("upper", "BYTES", (-1,))),
        prepare=lambda arrays: (list(arrays["text"]),),
        finish=lambda texts: {
            "bytes": np.array([len(text) for text in texts]),
            "upper": [text.upper() for text in texts],
        },
    )
    node = serve_node("texts", spec)
    node.offer(1, lambda texts: texts)
    path = "/v2/models/texts/infer"
    raw = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0) + struct.pack("<I", 1) + b"\xff"
    entry = {"name": "text", "datatype": "BYTES", "shape": [3]}
    in_binary = entry | {"parameters": {"binary_data_size": len(raw)}}
    outputs = [{"name": "bytes"}, {"name": "upper", "parameters": {"binary_data": True}}]
    head, answer = parts(post(node, {"inputs": [in_binary], "outputs": outputs}, raw, path))
    assert head["outputs"][0]["data"] == [2, 0, 1]
    assert answer == raw.upper()
    in_json = node.post(path, {"inputs": [entry | {"data": ["ab", "", "ß"]}]}).json()["outputs"]
    assert in_json[0]["data"] == [2, 0, 2]
    assert in_json[1]["data"] == ["AB", "", "ß"]
    refused = post(node, {"inputs": [in_binary]}, raw, path)
    assert refused.status_code == 500
    assert "not UTF-8, which JSON cannot write" in refused.json()["error"]


# Bytes to arrays and back.


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_comes_back_as_the_same_bytes(datatype: str) -> None:
    raw = {
        "BOOL": b"\x00\x01\x01\x00",
        "BYTES": b"\x01\x00\x00\x00a" * 4,
        "BF16": struct.pack("<4H", 0x3F80, 0x0001, 0x7F80, 0x8000),
    }.get(datatype) or bytes(range(4 * DTYPES[datatype].itemsize))
    # Behind a JSON header tensors begin anywhere.
    for shift in range(8):
        moved = memoryview(bytearray(shift) + raw)[shift:]
        array = array_from_bytes(moved, datatype, (2, 2), "x")
        assert (array.shape, array.dtype) == ((2, 2), DTYPES[datatype])
        assert array.flags.aligned
        assert bytes_from_array(array, datatype) == raw


@given(st.binary(max_size=40), st.integers(0, 5))
def test_bytes_are_texts_or_refused(raw: bytes, count: int) -> None:
    with contextlib.suppress(Refused):
        texts = array_from_bytes(memoryview(raw), "BYTES", (count,), "x")
        assert bytes_from_array(texts, "BYTES") == raw


def test_a_bool_is_0_or_1() -> None:
    with pytest.raises(Refused, match="0 or 1"):
        array_from_bytes(memoryview(b"\x02"), "BOOL", (1,), "x")


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_rounded_as_torch_does(values: Sequence[float]) -> None:
    array = np.array(values, np.float32)
    by_torch = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(as_bfloat16(array), by_torch)
