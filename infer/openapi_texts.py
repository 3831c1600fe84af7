"""Requests and answers of the OpenAI dialect, as JSON schemas."""

from __future__ import annotations

from typing import Final

from gradmq.infer.limits import HttpLimits
from gradmq.infer.schemas import COUNT, TEXT, Schema, fields, listed, maybe

MODEL: Final = fields(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT)


def _answer(name: str, **choice: Schema) -> Schema:
    finish_reason = {"enum": ["stop", "length"]}
    choice = {"index": COUNT, **choice, "finish_reason": finish_reason, "logprobs": {}}
    return fields(
        id=TEXT,
        object={"const": name},
        created=COUNT,
        model=TEXT,
        choices=listed(fields(**choice)),
        usage=fields(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
        metadata={"type": "object", "additionalProperties": TEXT},
    )


COMPLETION: Final = _answer("text_completion", text=TEXT)

CHAT: Final = _answer("chat.completion", message=fields(role=TEXT, content=TEXT))

GENERATED: Final = fields(model_name=TEXT, model_version=TEXT, text_output=TEXT)


def completion_body(model_name: str, limits: HttpLimits) -> Schema:
    """What a completion may be asked with."""
    texts = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": limits.choices}
    return {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            **_shared(model_name, limits),
            "prompt": {"anyOf": [TEXT, texts]},
            "max_tokens": maybe("integer", minimum=1, maximum=limits.completion_tokens),
            "best_of": maybe("integer", minimum=1, maximum=limits.choices),
            "echo": maybe("boolean"),
            "logprobs": maybe("integer", minimum=0, maximum=5),
        },
        "examples": [{"model": model_name, "prompt": "def ", "max_tokens": 4}],
    }


def chat_body(model_name: str, limits: HttpLimits) -> Schema:
    """What a chat may be asked with, of a job that has a template."""
    part = fields(type={"const": "text"}, text=TEXT)
    content = {"anyOf": [TEXT, {**listed(part), "minItems": 1}]}
    message = {**fields(role=TEXT, content=content), "additionalProperties": False}
    tokens = maybe("integer", minimum=1, maximum=limits.completion_tokens)
    return {
        "type": "object",
        "required": ["messages"],
        "properties": {
            **_shared(model_name, limits),
            "messages": {**listed(message), "minItems": 1},
            "max_tokens": tokens,
            "max_completion_tokens": tokens,
        },
        "not": {"required": ["max_tokens", "max_completion_tokens"]},
    }


def generate_body(limits: HttpLimits, stream: bool) -> Schema:
    """What a text may be asked for with, in the Open Inference Protocol."""
    asked = _shared("", limits)
    names = ("temperature", "top_p", "seed", "stop")
    parameters = {
        **{name: asked[name] for name in names},
        "max_tokens": maybe("integer", minimum=1, maximum=limits.completion_tokens),
        "stream": {"const": stream},
    }
    return {
        "type": "object",
        "required": ["text_input"],
        "properties": {
            "id": maybe("string"),
            "text_input": TEXT,
            "parameters": maybe("object", properties=parameters, additionalProperties=False),
        },
        "additionalProperties": False,
        "examples": [{"text_input": "def ", "parameters": {"max_tokens": 4}}],
    }


def _shared(model_name: str, limits: HttpLimits) -> dict[str, Schema]:
    stop: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
    stops: Schema = {"type": "array", "items": stop, "maxItems": 4}
    options = {"include_usage": maybe("boolean")}
    return {
        "model": {"enum": [model_name, None]},
        "temperature": maybe("number", minimum=0, maximum=2),
        "top_p": maybe("number", minimum=0, maximum=1),
        "seed": maybe("integer", minimum=-(2**63), maximum=2**64 - 1),
        "stop": {"anyOf": [stop, stops, {"type": "null"}]},
        "n": maybe("integer", minimum=1, maximum=limits.choices),
        "stream": maybe("boolean"),
        "stream_options": maybe("object", properties=options, additionalProperties=False),
    }
