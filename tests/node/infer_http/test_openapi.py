"""``/openapi.json`` speaks of every path that is answered, and of none that is not."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.applications import Starlette

from gradmq.infer import chat_request, completion_request
from gradmq.infer.control import ACTIONS
from gradmq.infer.http import make_app
from gradmq.infer.limits import HttpLimits
from gradmq.infer.openapi import methods_and_paths
from gradmq.infer.openapi_paths import operations
from gradmq.infer.serving import Serving
from gradmq.serve import TensorModel

pytestmark = pytest.mark.torch


def answered_by(spec: TensorModel) -> set[str]:
    """``METHOD PATH`` of each route of the application."""
    with ThreadPoolExecutor(1) as executor:
        app: Any = make_app(Serving(1), "sums", spec, executor, time.monotonic)
    while not isinstance(app, Starlette):
        app = app._app
    return {
        f"{method} {path}"
        for route in app.routes
        for method, path in methods_and_paths(route) or [("?", str(route))]
    }


def test_every_path_is_described_and_every_description_has_a_path(sums_spec: TensorModel) -> None:
    answered = answered_by(sums_spec)
    described = set(operations("sums", sums_spec, HttpLimits()))
    forgotten, gone = answered - described, described - answered
    assert forgotten == set(), f"give these a line in infer/openapi_paths.py: {sorted(forgotten)}"
    assert gone == set(), f"nothing answers these, take them out: {sorted(gone)}"


def test_the_document_has_all_of_them_with_a_summary(
    sums_node: Any, sums_spec: TensorModel
) -> None:
    document = sums_node.client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    found = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(found) == answered_by(sums_spec)
    assert [name for name, operation in found.items() if not operation["summary"]] == []
    for name, operation in found.items():
        in_path = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
        assert all(f"{{{each}}}" in name for each in in_path) and name.count("{") == len(in_path)


def test_its_examples_are_answered(sums_node: Any, letters_node: Any) -> None:
    for node, path in (
        (sums_node, "/v2/models/{model}/infer"),
        (letters_node, "/v1/completions"),
    ):
        document = node.client.get("/openapi.json").json()
        post = document["paths"][path]["post"]
        (example,) = post["requestBody"]["content"]["application/json"]["schema"]["examples"]
        names = {p["name"]: p["schema"].get("const") for p in post["parameters"]}
        answer = node.post(path.format_map(names), example)
        assert answer.status_code == 200, answer.text


def test_the_fields_of_completions_and_of_actions_are_those_that_are_read(
    letters_node: Any,
) -> None:
    paths = letters_node.client.get("/openapi.json").json()["paths"]
    for path, read in (
        ("/v1/completions", completion_request._READ),
        ("/v1/chat/completions", chat_request._READ),
    ):
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == read
    act = paths["/gradmq/v1/serving/{action}"]["post"]
    schema = act["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {
        field for fields, _ in ACTIONS.values() for field in fields
    }
