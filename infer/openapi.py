"""``/openapi.json``: every path of this node, built from the routes that answer them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gradmq.infer.body import json_response
from gradmq.infer.node_api import NodeApi
from gradmq.infer.openapi_paths import Operation, operations

Json = dict[str, Any]

_SECURITY: Final[Json] = {"bearer": {"type": "http", "scheme": "bearer"}}


class OpenApi:
    """Answers ``/openapi.json``, in words of OpenAPI 3.1."""

    def __init__(self, node: NodeApi) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The one path."""
        return [Route("/openapi.json", self.openapi, methods=["GET"])]

    async def openapi(self, request: Request) -> Response:
        """What this node answers, for programs that make clients or tests of it."""
        return json_response(document(request.app.routes, self._node))


def document(routes: Iterable[BaseRoute], node: NodeApi) -> Json:
    """The OpenAPI document of ``routes``; a path is there even if nobody described it."""
    described = operations(node.job_name, node.tensors, node.limits)
    paths: dict[str, Json] = {}
    for route in routes:
        for method, path in methods_and_paths(route):
            operation = described.get(f"{method} {path}", Operation())
            entry = _operation(operation, route)
            entry["operationId"] = f"{method} {path}"
            paths.setdefault(path, {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"gradmq inference node: {node.job_name}",
            "version": package_version(),
            "description": "One model, served while it is trained. Every answer names its release"
            " in x-gradmq-release and how old that is in x-gradmq-age-ms.",
        },
        "paths": paths,
        "components": {"securitySchemes": _SECURITY},
        # Only nodes with a token ask for it.
        "security": [{}, {"bearer": []}],
    }


def methods_and_paths(route: BaseRoute) -> list[tuple[str, str]]:
    """What ``route`` answers, as a document names it: /v1/models/{model}, without kinds of names.

    HEAD, which every GET answers too, is left out.
    """
    if not isinstance(route, Route):
        return []
    return [(method, route.path_format) for method in sorted((route.methods or set()) - {"HEAD"})]


def _operation(operation: Operation, route: BaseRoute) -> Json:
    assert isinstance(route, Route)
    summary = (inspect.getdoc(route.endpoint) or "").partition("\n")[0]
    entry: Json = {"summary": summary, "responses": _responses(operation)}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": operation.names.get(name, {})}
        for name in route.param_convertors
    ]
    if parameters or operation.parameters:
        entry["parameters"] = [*parameters, *operation.parameters]
    if operation.bodies:
        entry["requestBody"] = {
            "required": operation.body_required,
            "content": {kind: _media(schema) for kind, schema in operation.bodies.items()},
        }
    return entry


def _responses(operation: Operation) -> Json:
    errors = {
        "description": "Refused.",
        "content": {"application/json": {"schema": operation.error}},
    }
    answers = {kind: _media(schema) for kind, schema in operation.answers.items()}
    found: Json = {"200": {"description": "The answer.", "content": answers}}
    found |= {"4XX": errors, "5XX": errors}
    if operation.not_ready is not None:
        content = {
            "application/json": {"schema": {"anyOf": [operation.not_ready, operation.error]}}
        }
        found["503"] = {"description": "Not ready.", "content": content}
    return found


def _media(schema: Mapping[str, Any]) -> Json:
    return {"schema": dict(schema)} if schema else {}


def package_version() -> str:
    """The version of gradmq, "unknown" where it is not installed."""
    try:
        return metadata.version("gradmq")
    except metadata.PackageNotFoundError:
        return "unknown"
