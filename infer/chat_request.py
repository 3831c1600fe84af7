"""The body of ``POST /v1/chat/completions``, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gradmq.infer.completion_request import CompletionRequest, Messages
from gradmq.infer.fields import (
    SHARED,
    Fields,
    asked_stream,
    check_model,
    given,
    integer,
    sampling,
    strings,
)
from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import invalid, quoted
from gradmq.serve import TextModel

_READ: Final = SHARED | {"messages", "max_tokens", "max_completion_tokens"}

#: Fields of the dialect that are not served, each with the only values that change nothing.
_UNSERVED: Final[dict[str, tuple[object, ...]]] = {
    "function_call": ("none",),
    "functions": ([],),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}

#: What a message may hold for a template to read.
_OF_MESSAGES = ("role", "content", "name")


def parse_chat(
    body: Mapping[str, object], spec: TextModel, job_name: str, limits: HttpLimits
) -> CompletionRequest:
    """Check ``body``; a field that is null counts as left out. The prompt is its messages.

    Raises ``Refused``: 404 for another model, 400 for a wrong value, for what this node does not
    serve and for fields that it does not know.
    """
    fields = given(body, _READ, _UNSERVED)
    check_model(fields.get("model", job_name), job_name)
    stream, include_usage = asked_stream(fields)
    wanted = sampling(fields, limits, _name_of_max_tokens(fields))
    return CompletionRequest(
        (_messages(fields),),
        replace(wanted, stop=(*wanted.stop, *spec.chat_stop)),
        integer(fields, "n", 1, 1, limits.choices),
        stream=stream,
        include_usage=include_usage,
    )


def _name_of_max_tokens(fields: Fields) -> str:
    newer, older = "max_completion_tokens", "max_tokens"
    if newer in fields and older in fields:
        raise invalid(f"{newer} and {older} mean the same: give one of them", newer)
    return newer if newer in fields else older


def _messages(fields: Fields) -> Messages:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        text = f"messages must be a list with at least one message, got {quoted(messages)}"
        raise invalid(text, "messages")
    return tuple(_message(index, message) for index, message in enumerate(messages))


def _message(index: int, message: object) -> dict[str, str]:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise invalid(f"{where} must be an object, got {quoted(message)}", "messages")
    for name, value in message.items():
        # Answers that clients send back hold null and [] for what was not there.
        if name not in _OF_MESSAGES and value not in (None, []):
            raise invalid(f"{quoted(name)} of {where} is not served here", "messages")
    read = {"role": message.get("role"), "content": _text(message.get("content"))}
    if message.get("name") is not None:
        read["name"] = message["name"]
    found: dict[str, str] = {}
    for name, value in read.items():
        if not isinstance(value, str):
            text = f"{name} of {where} must be a text, got {quoted(message.get(name))}"
            raise invalid(text, "messages")
        found[name] = value
    return found


def _text(content: object) -> object:
    """Of content in parts that are all text, the text; parts are lines of their own."""
    if not isinstance(content, list):
        return content
    texts = strings([_text_of_part(part) for part in content])
    return "\n".join(texts) if texts else content


def _text_of_part(part: object) -> object:
    return part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
