"""The Open Inference Protocol: what its clients read, and what wrong requests are told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from gradmq.infer.tensors import DTYPES
from gradmq.serve import DATATYPES, TensorModel, TensorSpec

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"


def rows(**changes: Any) -> dict[str, Any]:
    """An inference request for two rows, with ``changes`` to its one input."""
    tensor = {"name": "rows", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}
    return {"inputs": [tensor | changes]}


def outputs_of(answer: Any) -> dict[str, np.ndarray[Any, Any]]:
    assert answer.status_code == 200, answer.text
    return {
        output["name"]: np.array(output["data"], DTYPES[output["datatype"]]).reshape(
            output["shape"]
        )
        for output in answer.json()["outputs"]
    }


def test_health_is_200_with_the_keys_that_clients_read(sums_node: Any) -> None:
    live = sums_node.client.get("/v2/health/live")
    ready = sums_node.client.get("/v2/health/ready")
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "live": True})


def test_before_the_first_release_the_node_is_live_but_not_ready(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    assert node.client.get("/v2/health/live").status_code == 200
    assert node.client.get("/v2/health/ready").status_code == 503
    assert node.client.get("/v2/models/sums/ready").status_code == 503
    assert node.client.get("/v2/models/sums").json()["versions"] == []
    refused = node.post(INFER, rows())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "waiting for the first release" in refused.json()["error"]
    node.offer(1, lambda tensor: (tensor.sum(dim=1), tensor))
    assert node.client.get("/v2/health/ready").status_code == 200
    assert node.post(INFER, rows()).status_code == 200


def test_metadata_names_server_model_versions_and_tensors(sums_node: Any) -> None:
    server = sums_node.client.get("/v2").json()
    assert server["name"] == "gradmq"
    assert server["extensions"] == [
        "binary_tensor_data",
        "generate",
        "model_configuration",
        "statistics",
    ]
    for path in ("/v2/models/sums", "/v2/models/sums/versions/12"):
        assert sums_node.client.get(path).json() == {
            "name": "sums",
            "versions": ["12"],
            "platform": "gradmq_pytorch",
            "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [
                {"name": "sum", "datatype": "FP32", "shape": [-1]},
                {"name": "double", "datatype": "FP32", "shape": [-1, 3]},
            ],
        }


def test_flat_and_nested_data_mean_the_same(sums_node: Any) -> None:
    flat = outputs_of(sums_node.post(INFER, rows()))
    nested = outputs_of(sums_node.post(INFER, rows(data=[[1, 2, 3], [4, 5, 6]])))
    for outputs in (flat, nested):
        assert outputs["sum"].tolist() == [6, 15]
        assert outputs["double"].tolist() == [[2, 4, 6], [8, 10, 12]]


def test_an_answer_names_its_release_in_body_and_headers(sums_node: Any) -> None:
    answer = sums_node.post(INFER, rows() | {"id": "request 7"})
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("request 7", "sums", "12")
    age_ms = body["parameters"].pop("gradmq_age_ms")
    assert 0 <= int(age_ms) <= int(answer.headers["x-gradmq-age-ms"])
    assert body["parameters"] == {"gradmq_release": "12", "gradmq_versions": "1:120,2:121"}
    assert answer.headers["x-gradmq-release"] == "12"
    assert int(answer.headers["x-gradmq-age-ms"]) >= 0


def test_an_id_is_echoed_only_if_one_was_sent(sums_node: Any) -> None:
    assert "id" not in sums_node.post(INFER, rows()).json()


def test_the_model_may_be_named_in_the_body_too_if_it_is_the_same(sums_node: Any) -> None:
    assert sums_node.post(INFER, rows() | {"model_name": "sums"}).status_code == 200
    for other in ("products", None, 7):
        refused = sums_node.post(INFER, rows() | {"model_name": other})
        assert refused.status_code == 400
        assert refused.json() == {"error": f"model_name is {other!r} in a request to 'sums'"}


def test_only_the_outputs_asked_for_are_answered_in_their_order(sums_node: Any) -> None:
    wanted = [{"name": "double", "parameters": {"binary_data": False}}, {"name": "sum"}]
    both = sums_node.post(INFER, rows() | {"outputs": wanted})
    one = sums_node.post(INFER, rows() | {"outputs": [{"name": "sum"}]})
    assert [output["name"] for output in both.json()["outputs"]] == ["double", "sum"]
    assert [output["name"] for output in one.json()["outputs"]] == ["sum"]


def test_no_rows_give_empty_outputs(sums_node: Any) -> None:
    outputs = outputs_of(sums_node.post(INFER, rows(shape=[0, 3], data=[])))
    assert outputs["sum"].shape == (0,)
    assert outputs["double"].shape == (0, 3)


def test_the_current_version_may_be_named_and_no_other(sums_node: Any) -> None:
    path = "/v2/models/sums/versions/{}/{}"
    assert sums_node.post(path.format(12, "infer"), rows()).status_code == 200
    assert sums_node.client.get(path.format(12, "ready")).status_code == 200
    other = sums_node.post(path.format(11, "infer"), rows())
    assert other.status_code == 404
    assert "'11' is not served here: the current one is 12" in other.json()["error"]
    assert sums_node.client.get(path.format(11, "ready")).status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "inputs must be a list"),
        ({"inputs": [7]}, "an object with a name"),
        ({"inputs": []}, "input 'rows' is missing"),
        (rows(name="lines"), "unknown input 'lines': the model has 'rows'"),
        ({"inputs": rows()["inputs"] * 2}, "given twice"),
        (rows(datatype="FP64"), "datatype must be 'FP32', got 'FP64'"),
        (rows(shape=[2, 4]), "does not fit the model's [-1, 3]"),
        (rows(shape=[6]), "does not fit the model's [-1, 3]"),
        (rows(shape=[-1, 3]), "shape must be a list of sizes"),
        (rows(shape=[True, 3]), "shape must be a list of sizes"),
        (rows(shape="2x3"), "shape must be a list of sizes"),
        (rows(shape=[10**12, 3]), "is larger than"),
        (rows(data=[1, 2, 3]), "data has 3 values, shape [2, 3] needs 6"),
        (rows(data=[[1, 2], [3, 4], [5, 6]]), "data has shape [3, 2]"),
        (rows(data=[[1, 2, 3], [4, 5]]), "neither flat nor evenly nested"),
        (rows(data=["1", "2", "3", "4", "5", "6"]), "must hold numbers"),
        (rows(data=[None] * 6), "must hold numbers"),
        (rows(data=[True] * 6), "not FP32"),
        (rows(data=[1e300] * 6), "out of the range of FP32"),
        (rows(data=5), "data must be a list"),
        (rows(parameters={"binary_data_size": 24}), "both data and binary_data_size"),
        (rows(parameters={"shared_memory_region": "r"}), "'shared_memory_region'"),
        (rows(parameters=[]), "must be an object"),
        (rows() | {"parameters": {"binary_data_output": 1}}, "must be true or false, got 1"),
        (rows() | {"parameters": {"timeout": 0}}, "number of microseconds, got 0"),
        (rows() | {"parameters": {"sequence_id": 4}}, "'sequence_id' of the request"),
        (rows() | {"outputs": [{"name": "product"}]}, "unknown output 'product'"),
        (rows() | {"outputs": [{"name": "sum"}, {"name": "sum"}]}, "asked for twice"),
        (
            rows() | {"outputs": [{"name": "sum", "parameters": {"binary_data": "yes"}}]},
            "binary_data of output 'sum' must be true or false",
        ),
        (
            rows() | {"outputs": [{"name": "sum", "parameters": {"classification": 2}}]},
            "'classification' of output 'sum'",
        ),
        (rows() | {"outputs": {}}, "outputs must be a list, got {}"),
        (rows() | {"outputs": False}, "outputs must be a list, got False"),
        (rows() | {"id": 7}, "id must be a string"),
        (rows() | {"prompt": "hello"}, "unknown field 'prompt'"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    sums_node: Any, body: dict[str, Any], says: str
) -> None:
    refused = sums_node.post(INFER, body)
    assert refused.status_code == 400, refused.text
    assert set(refused.json()) == {"error"}
    assert says in refused.json()["error"]


def test_the_configuration_says_what_perf_analyzer_looks_for(sums_node: Any) -> None:
    for path in ("/v2/models/sums/config", "/v2/models/sums/versions/12/config"):
        config = sums_node.client.get(path).json()
        assert (config["name"], config["max_batch_size"]) == ("sums", 0)
        assert config["input"] == [{"name": "rows", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
        assert [output["name"] for output in config["output"]] == ["sum", "double"]
    assert sums_node.client.get("/v2/models/sums/versions/11/config").status_code == 404


def test_the_repository_lists_the_one_model_and_its_release(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec)
    index = "/v2/repository/index"
    waiting = {"name": "sums", "version": "", "state": "UNAVAILABLE"}
    waiting["reason"] = "waiting for the first release"
    assert node.client.post(index).json() == [waiting]
    assert node.post(index, {"ready": True}).json() == []
    node.offer(7, lambda tensor: (tensor.sum(dim=1), tensor))
    refused = node.post(index, {"ready": "yes"})
    assert refused.status_code == 400
    assert refused.json() == {"error": "ready must be true or false, got 'yes'"}
    ready = {"name": "sums", "version": "7", "state": "READY", "reason": ""}
    assert node.client.post(index).json() == [ready]
    assert node.post(index, {"ready": True}).json() == [ready]


def test_another_model_is_not_found(sums_node: Any) -> None:
    for answer in (
        sums_node.client.get("/v2/models/products"),
        sums_node.client.get("/v2/models/products/ready"),
        sums_node.post("/v2/models/products/infer", rows()),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"error": "no model 'products' here: this node serves 'sums'"}


def test_a_text_model_points_to_completions(letters_node: Any) -> None:
    refused = letters_node.post("/v2/models/letters/infer", rows())
    assert refused.status_code == 400
    assert "use POST /v1/completions" in refused.json()["error"]
    assert letters_node.client.get("/v2/models/letters").json()["inputs"] == []


def test_every_datatype_that_a_job_may_declare_can_be_asked_with() -> None:
    assert set(DTYPES) == set(DATATYPES)


def echo_request(**changes: list[Any]) -> dict[str, Any]:
    """One tensor of each datatype, named by it; ``changes`` are data by datatype."""
    data = {datatype: [0, 1] for datatype in DTYPES} | changes
    data = {"BOOL": [True, False], "BYTES": ["", "grün"]} | {
        datatype: values
        for datatype, values in data.items()
        if datatype in changes or datatype not in ("BOOL", "BYTES")
    }
    return {
        "inputs": [
            {"name": datatype, "datatype": datatype, "shape": [len(values)], "data": values}
            for datatype, values in data.items()
        ]
    }


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


@pytest.fixture
def echo_node(serve_node: Any) -> Any:
    tensors = tuple(TensorSpec(datatype, datatype, (-1,)) for datatype in DTYPES)
    spec = TensorModel(tensors, tensors, prepare=lambda arrays: (arrays,), finish=dict)
    node = serve_node("echo", spec)
    node.offer(1, lambda arrays: arrays)
    return node


def test_values_come_back_in_the_datatype_they_were_sent_in(echo_node: Any) -> None:
    request = echo_request(INT64=[-(2**63), 2**63 - 1], UINT64=[0, 2**64 - 1], FP64=[0.1, 1e300])
    answer = echo_node.post("/v2/models/echo/infer", request)
    assert by_name(answer.json()["outputs"]) == by_name(request["inputs"])


def test_values_are_refused_rather_than_changed(echo_node: Any) -> None:
    for datatype, value, says in (
        ("UINT8", 300, "out of the range of UINT8"),
        ("UINT64", -1, "out of the range of UINT64"),
        ("INT64", 2**63, "out of the range of INT64"),
        ("INT32", 1.5, "not INT32"),
        ("BOOL", 1, "not BOOL"),
        ("FP16", 70000.0, "out of the range of FP16"),
        ("INT8", 2**40, "out of the range of INT8"),
        ("INT64", 2**70, "not INT64"),
        ("UINT64", 2**64, "not UINT64"),
        ("BF16", 3.4e38, "out of the range of BF16"),
        ("BYTES", 7, "must be strings"),
        ("BYTES", "\ud800", "half a surrogate pair"),
    ):
        body = json.dumps(echo_request(**{datatype: [value]}))
        refused = echo_node.client.post("/v2/models/echo/infer", content=body)
        assert refused.status_code == 400, datatype
        assert says in refused.json()["error"]


def test_prepare_and_finish_stand_between_request_and_model(serve_node: Any) -> None:
    def prepare(arrays: Any) -> tuple[torch.Tensor, ...]:
        if arrays["pixels"].max(initial=0) > 9:
            raise ValueError("a pixel is over 9")
        return (torch.from_numpy(arrays["pixels"]).float() / 9,)

    spec = TensorModel(
        inputs=(TensorSpec("pixels", "UINT8", (-1, 2)),),
        outputs=(TensorSpec("class", "INT64", (-1,)),),
        prepare=prepare,
        finish=lambda logits: {"class": logits.argmax(dim=1), "not declared": None},
    )
    node = serve_node("pixels", spec)
    node.offer(1, lambda pixels: -pixels)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [2, 2], "data": [0, 9, 9, 0]}
    answer = node.post("/v2/models/pixels/infer", {"inputs": [tensor]})
    assert outputs_of(answer)["class"].tolist() == [0, 1]
    tensor["data"] = [0, 10, 0, 0]
    refused = node.post("/v2/models/pixels/infer", {"inputs": [tensor]})
    assert refused.status_code == 400
    assert refused.json()["error"] == "the inputs cannot be used: a pixel is over 9"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda tensor: tensor @ tensor, "RuntimeError"),
        (lambda tensor: tensor, "the model returned 1 outputs, the job names 2"),
        (lambda tensor: (tensor, tensor), "has shape [2, 3], the job declares [-1]"),
        (lambda tensor: (tensor.sum(dim=1) / 0, tensor), "NaN or infinite"),
    ],
)
def test_a_model_that_fails_is_an_error_of_the_node_and_the_next_request_is_answered(
    serve_node: Any, sums_spec: TensorModel, model: Any, says: str
) -> None:
    node = serve_node("sums", sums_spec)
    node.offer(1, model)
    failed = node.post(INFER, rows())
    assert failed.status_code == 500
    assert says in failed.json()["error"]
    assert failed.headers["x-should-retry"] == "false"
    node.offer(2, lambda tensor: (tensor.sum(dim=1), tensor))
    assert outputs_of(node.post(INFER, rows()))["sum"].tolist() == [6, 15]
