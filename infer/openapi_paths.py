"""What goes into each path of a node and what comes out, as JSON schemas.

A new path is a line in ``operations``; a test says which one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradmq.infer.control import ACTIONS
from gradmq.infer.limits import HttpLimits
from gradmq.infer.openapi_tensors import infer_answer, infer_request, tensor_metadata
from gradmq.infer.openapi_texts import (
    CHAT,
    COMPLETION,
    GENERATED,
    MODEL,
    chat_body,
    completion_body,
    generate_body,
)
from gradmq.infer.schemas import COUNT, EVENTS, TEXT, Schema, fields, listed
from gradmq.serve import TensorModel

ERROR: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "additionalProperties": False,
}

#: The OpenAI dialect's.
OPENAI_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


_MAYBE_COUNT: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
_MAYBE_SECONDS: Final[Schema] = {"type": ["number", "null"], "minimum": 0}
_FLAG: Final[Schema] = {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; what is left out is an object of JSON."""

    answers: Mapping[str, Schema] = field(
        default_factory=lambda: {"application/json": {"type": "object"}}
    )
    """Content type -> schema."""
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    """Content type -> schema; of a file there is none."""
    body_required: bool = True
    names: Mapping[str, Schema] = field(default_factory=dict)
    """What may stand for the names in the path."""
    parameters: Sequence[Schema] = ()
    """Those of the query and the headers."""
    error: Schema = field(default_factory=lambda: ERROR)
    not_ready: Schema | None = None
    """What 503 may answer beside an error."""


def json(schema: Schema) -> dict[str, Schema]:
    """Answers or bodies that are JSON and nothing else."""
    return {"application/json": schema}


def operations(model_name: str, tensors: TensorModel, limits: HttpLimits) -> dict[str, Operation]:
    """By ``METHOD PATH``, for a node that serves ``model_name``."""
    model = {"model": {"const": model_name}}
    ready = fields(ready=_FLAG)
    found = {
        "GET /healthz": Operation(json(fields(status=TEXT))),
        "GET /openapi.json": Operation(json(fields(openapi=TEXT, paths={"type": "object"}))),
        "GET /metrics": Operation({"text/plain": TEXT}),
        "GET /": Operation({"text/html": TEXT}),
        "GET /page/{path}": Operation({"text/javascript": TEXT, "text/css": TEXT}),
        "GET /gradmq/v1/status": Operation(json(_STATUS)),
        "GET /gradmq/v1/events": Operation({"text/event-stream": EVENTS}),
        "GET /gradmq/v1/serving": Operation(json(_SERVING)),
        "POST /gradmq/v1/serving/{action}": Operation(
            json(_SERVING), json(_ACTION_BODY), names={"action": {"enum": list(ACTIONS)}}
        ),
        "GET /v2": Operation(json(fields(name=TEXT, version=TEXT, extensions=listed(TEXT)))),
        "GET /v2/health/live": Operation(json(fields(live=_FLAG))),
        "GET /v2/health/ready": Operation(json(ready), not_ready=ready),
        "GET /v2/models/stats": Operation(json(_STATISTICS)),
        "POST /v2/repository/index": Operation(
            json(listed(fields(name=TEXT, version=TEXT, state=TEXT, reason=TEXT))),
            json({"type": "object", "properties": {"ready": _FLAG}}),
            body_required=False,
        ),
        "GET /v1/models": Operation(
            json(fields(object=TEXT, data=listed(MODEL))), error=OPENAI_ERROR
        ),
        "GET /v1/models/{model}": Operation(json(MODEL), names=model, error=OPENAI_ERROR),
        "POST /v1/completions": Operation(
            json(COMPLETION) | {"text/event-stream": EVENTS},
            json(completion_body(model_name, limits)),
            parameters=WISHES,
            error=OPENAI_ERROR,
        ),
        "POST /v1/chat/completions": Operation(
            json(CHAT) | {"text/event-stream": EVENTS},
            json(chat_body(model_name, limits)),
            parameters=WISHES,
            error=OPENAI_ERROR,
        ),
    }
    described = fields(
        name=TEXT,
        versions=listed(TEXT),
        platform=TEXT,
        inputs=listed(tensor_metadata()),
        outputs=listed(tensor_metadata()),
    )
    files: dict[str, Schema] = {kind: {} for kind in tensors.media}
    versions = model | {"version": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,8})$"}}
    for path, names in (
        ("/v2/models/{model}", model),
        ("/v2/models/{model}/versions/{version}", versions),
    ):
        found |= {
            f"GET {path}": Operation(json(described), names=names),
            f"GET {path}/ready": Operation(json(ready), names=names, not_ready=ready),
            f"GET {path}/stats": Operation(json(_STATISTICS), names=names),
            f"GET {path}/config": Operation(
                json(fields(name=TEXT, max_batch_size=COUNT)), names=names
            ),
            f"POST {path}/infer": Operation(
                json(infer_answer(tensors)) | {"application/octet-stream": {}},
                json(infer_request(model_name, tensors)) | {"application/octet-stream": {}} | files,
                names=names,
                parameters=(*WISHES, _BINARY_LENGTH),
            ),
            f"POST {path}/generate": Operation(
                json(GENERATED), json(generate_body(limits, False)), names=names, parameters=WISHES
            ),
            f"POST {path}/generate_stream": Operation(
                {"text/event-stream": EVENTS},
                json(generate_body(limits, True)),
                names=names,
                parameters=WISHES,
            ),
        }
    return found


def _query(name: str, pattern: str, description: str) -> Schema:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "query", "description": description, "schema": schema}


_DURATION: Final = r"^ *([0-9]+\.?[0-9]*|\.[0-9]+) *(ms|s|m|min|h)? *$"
_NUMBER: Final = "^ *[0-9]{1,18} *$"
_VERSION: Final = " *(-|[0-9]{1,18}:[0-9]{1,18}) *"

#: Which release shall answer; all of them also go as headers, x-gradmq-max-age and so on.
WISHES: Final[Sequence[Schema]] = (
    _query("max_age", _DURATION, "Of a release heard to be the newest no longer ago."),
    _query("min_release", _NUMBER, "Of this release or a later one."),
    _query("min_version", f"^{_VERSION}(,{_VERSION})*$", "With these updates of each shard."),
    _query("pin", _NUMBER, "Of this release and no other."),
    _query("wait", _DURATION, "How long to wait for that."),
)

_BINARY_LENGTH: Final[Schema] = {
    "name": "inference-header-content-length",
    "in": "header",
    "description": "So many bytes of JSON begin the body; raw tensors follow.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
}

_VERSIONS: Final = listed({"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2})

_STATUS: Final = fields(
    model=TEXT,
    kind={"enum": ["text", "tensor"]},
    accepts=listed(TEXT),
    sample_prompt=TEXT,
    class_names=listed(TEXT),
    url=TEXT,
    release=_MAYBE_COUNT,
    first_release=_MAYBE_COUNT,
    versions=_VERSIONS,
    age_s=_MAYBE_SECONDS,
    swaps=COUNT,
    waiting=COUNT,
    requests=fields(answered=COUNT, refused=COUNT, failed=COUNT),
)

_SERVING: Final = fields(
    mode={"enum": ["newest", "pinned", "split"]},
    text=TEXT,
    release=_MAYBE_COUNT,
    newest=_MAYBE_COUNT,
    weights={"type": ["object", "null"]},
    held=listed(
        fields(release=COUNT, versions=TEXT, age_s={"type": "number"}, labels=listed(TEXT),
               answers=COUNT)
    ),
    turned_down=fields(count=COUNT, release=_MAYBE_COUNT, reason={"type": ["string", "null"]}),
)  # fmt: skip

#: Each action takes some of these; docs/freshness.md says which.
_ACTION_BODY: Final[Schema] = {
    "type": "object",
    "properties": {
        "release": COUNT,
        "label": {"enum": ["stable", "canary"]},
        "weights": {
            "type": "object",
            "propertyNames": {"enum": ["stable", "canary", "newest"]},
            "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6},
            "minProperties": 1,
        },
    },
    "additionalProperties": False,
}

_STATISTICS: Final = fields(
    model_stats=listed(
        fields(
            name=TEXT,
            version=TEXT,
            last_inference=COUNT,
            inference_count=COUNT,
            execution_count=COUNT,
            inference_stats={"type": "object"},
        )
    )
)
