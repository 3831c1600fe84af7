"""A file instead of tensors, for a job that says how to read it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from gradmq.errors import JobError
from gradmq.infer.limits import HttpLimits
from gradmq.serve import TensorModel, TensorSpec

pytestmark = pytest.mark.torch

INFER = "/v2/models/numbers/infer"


def numbers_of(content: bytes) -> Mapping[str, np.ndarray[Any, Any]]:
    """A file of three numbers."""
    if content == b"boom":
        raise KeyError("a fault of the job")
    numbers = [float(word) for word in content.split()]
    return {"rows": np.array([numbers], np.float64)}


SPEC = TensorModel(
    inputs=(TensorSpec("rows", "FP32", (-1, 3)),),
    outputs=(TensorSpec("sum", "FP32", (-1,)), TensorSpec("double", "FP32", (-1, 3))),
    media={"text/x-numbers": numbers_of},
    class_names=("one", "two"),
)


def sums(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.sum(dim=1), rows * 2


@pytest.fixture
def node(serve_node: Any) -> Any:
    node = serve_node("numbers", SPEC)
    node.offer(12, sums)
    return node


def ask(node: Any, content: bytes, kind: str | None = "text/x-numbers", query: str = "") -> Any:
    headers = {} if kind is None else {"content-type": kind}
    return node.client.post(INFER + query, content=content, headers=headers)


@pytest.mark.parametrize("kind", ["text/x-numbers", "Text/X-Numbers; charset=utf-8"])
def test_a_file_is_answered_as_its_tensors_would_be(node: Any, kind: str) -> None:
    answer = ask(node, b"1 2 3.5", kind)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-gradmq-release"] == "12"
    tensors = {"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3.5]}
    same = node.post(INFER, {"inputs": [tensors]}).json()
    assert answer.json()["outputs"] == same["outputs"]
    assert answer.json()["model_version"] == "12"


def test_it_may_wish_for_a_release_like_any_other_request(node: Any) -> None:
    refused = ask(node, b"1 2 3", query="?min_release=13&wait=0s")
    assert refused.status_code == 503
    assert ask(node, b"1 2 3", query="?pin=12").status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"one two", 400, "the text/x-numbers cannot be used: could not convert"),
        (b"", 400, "the body is empty: send a file of text/x-numbers"),
        (b"1 2", 500, "input 'rows' has shape [1, 2], the job declares [-1, 3]"),
        (b"boom", 500, "the job failed on this text/x-numbers: KeyError: 'a fault of the job'"),
        (b"1 " * 2**23 + b"1", 413, "the body is larger than"),
    ],
    ids=["unfit", "empty", "of another shape", "the job fails", "too large"],
)
def test_a_file_that_cannot_be_used_says_why(
    node: Any, content: bytes, status: int, says: str
) -> None:
    refused = ask(node, content)
    assert (refused.status_code, set(refused.json())) == (status, {"error"})
    assert says in refused.json()["error"]
    assert ask(node, b"1 2 3").status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "image/png", "application/x-www-form-urlencoded", "nonsense"]
)
def test_a_content_type_that_the_job_does_not_name_means_nothing(
    node: Any, kind: str | None
) -> None:
    tensors = b'{"inputs": [{"name": "rows", "datatype": "FP32", "shape": [0, 3], "data": []}]}'
    assert ask(node, tensors, kind).status_code == 200
    refused = ask(node, b"\x89PNG", kind)
    assert refused.status_code == 400
    assert "the body is not" in refused.json()["error"]
    assert "; a file is sent with its content-type: text/x-numbers" in refused.json()["error"]


def test_files_run_in_one_batch_with_others(serve_node: Any, gate: Any) -> None:
    node = serve_node("numbers", SPEC, HttpLimits(batch_rows=8, batch_delay_s=30.0))
    sizes = []

    def counting(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(rows))
        return sums(rows)

    node.offer(1, counting)
    with ThreadPoolExecutor(8) as askers:
        answers = list(askers.map(lambda n: ask(node, b"1 2 %d" % n).json(), range(8)))
    assert [answer["outputs"][0]["data"] for answer in answers] == [[3.0 + n] for n in range(8)]
    assert sizes == [8]


def test_a_file_that_takes_long_to_read_holds_up_no_tensors(serve_node: Any) -> None:
    reading, go = threading.Event(), threading.Event()

    def slow(content: bytes) -> Mapping[str, np.ndarray[Any, Any]]:
        reading.set()
        go.wait()
        return numbers_of(content)

    spec = TensorModel(SPEC.inputs, SPEC.outputs, media={"text/x-slow": slow})
    node = serve_node("numbers", spec)
    node.offer(1, sums)
    with ThreadPoolExecutor(1) as asker:
        try:
            late = asker.submit(ask, node, b"1 2 3", "text/x-slow")
            assert reading.wait(30)
            tensors = {"name": "rows", "datatype": "FP32", "shape": [0, 3], "data": []}
            assert node.post(INFER, {"inputs": [tensors]}).status_code == 200
        finally:
            go.set()
        assert late.result().status_code == 200


def test_a_file_that_waits_for_others_too_long_is_told_so(serve_node: Any) -> None:
    go = threading.Event()

    def slow(content: bytes) -> Mapping[str, np.ndarray[Any, Any]]:
        go.wait()
        return numbers_of(content)

    spec = TensorModel(SPEC.inputs, SPEC.outputs, media={"text/x-slow": slow})
    node = serve_node("numbers", spec, HttpLimits(request_s=0.2))
    node.offer(1, sums)
    try:
        late = ask(node, b"1 2 3", "text/x-slow")
        assert late.status_code == 504
        assert "was not read in time" in late.json()["error"]
    finally:
        go.set()


def test_the_status_says_what_files_may_be_sent_and_what_classes_are_called(
    node: Any, letters_node: Any
) -> None:
    status = node.client.get("/gradmq/v1/status").json()
    assert status["accepts"] == ["text/x-numbers"]
    assert status["class_names"] == ["one", "two"]
    text = letters_node.client.get("/gradmq/v1/status").json()
    assert (text["accepts"], text["class_names"]) == ([], [])


@pytest.mark.parametrize("kind", ["application/json", "image", "Image/PNG", "image/png; q=1", ""])
def test_a_job_may_not_name_a_kind_that_no_request_could_be_told_by(kind: str) -> None:
    with pytest.raises(JobError, match="is not the content type of a kind of file"):
        TensorModel((), (), media={kind: numbers_of})
