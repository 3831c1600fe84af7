"""The body of ``POST /v1/completions``, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.infer.sampling import DEFAULT_MAX_TOKENS, Sampling

#: What torch's generators take as a seed.
_SEEDS = range(-(2**63), 2**64)

_MAX_STOPS = 4

#: A longer one would cost more to look for than to generate.
_MAX_STOP_CHARACTERS = 256

_READ: Final = frozenset(
    {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "stream_options",
    }
)

#: Asks for nothing from this node; clients send it by default.
_IGNORED: Final = frozenset({"user"})

#: Fields of the dialect that are not served, each with the only values that change nothing.
_UNSERVED: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),
    "suffix": ("",),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked request for completions of one or more prompts."""

    prompts: tuple[str, ...]
    sampling: Sampling
    stream: bool
    """Answer piece by piece, as server-sent events."""
    include_usage: bool
    """Tell the usage in a last chunk of its own; only of a stream."""


def parse_completion(
    body: Mapping[str, object], job_name: str, limits: HttpLimits
) -> CompletionRequest:
    """Check ``body``; a field that is null counts as left out.

    Raises ``Refused``: 404 for another model, 400 for a wrong value, for what this node does not
    serve and for fields that it does not know: nothing asked for is ignored silently.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    check_model(fields.get("model", job_name), job_name)
    for name, value in fields.items():
        if name in _UNSERVED:
            if not any(type(value) is type(same) and value == same for same in _UNSERVED[name]):
                raise invalid(f"{name}={quoted(value)} is not served here: leave it out", name)
        elif name not in _READ and name not in _IGNORED:
            raise invalid(f"unknown field {quoted(name)}", name)
    sampling = Sampling(
        max_tokens=_integer(fields, "max_tokens", DEFAULT_MAX_TOKENS, 1, limits.completion_tokens),
        temperature=_number(fields, "temperature", 0.0, 2.0),
        top_p=_number(fields, "top_p", 0.0, 1.0),
        seed=_seed(fields),
        stop=_stop(fields),
    )
    stream = _boolean(fields, "stream")
    return CompletionRequest(
        _prompts(fields, limits), sampling, stream, _include_usage(fields, stream)
    )


def check_model(name: object, job_name: str) -> None:
    """Raises ``Refused``: 400 if ``name`` is no string, 404 if it is not the served model."""
    if not isinstance(name, str):
        raise invalid(f"model must be a string, got {quoted(name)}", "model")
    if name != job_name:
        text = f"no model {quoted(name)} here: this node serves {job_name!r}"
        raise Refused(404, text, param="model", code="model_not_found")


def _prompts(fields: Mapping[str, object], limits: HttpLimits) -> tuple[str, ...]:
    prompt = fields.get("prompt")
    if prompt is None:
        raise invalid("prompt is missing: a string or a list of strings", "prompt")
    if isinstance(prompt, str):
        return (prompt,)
    texts = _strings(prompt)
    if texts is None:
        text = f"prompt must be a string or a list of strings, got {quoted(prompt)}"
        raise invalid(text, "prompt")
    if not 1 <= len(texts) <= limits.prompts:
        text = f"prompt has {len(texts)} texts: 1 to {limits.prompts} are served in one request"
        raise invalid(text, "prompt")
    return texts


def _stop(fields: Mapping[str, object]) -> tuple[str, ...]:
    stop = fields.get("stop", [])
    texts = (stop,) if isinstance(stop, str) else _strings(stop)
    if texts is None or len(texts) > _MAX_STOPS or "" in texts:
        text = f"stop must be a text or up to {_MAX_STOPS} of them, none empty; got {quoted(stop)}"
        raise invalid(text, "stop")
    longest = max(map(len, texts), default=0)
    if longest > _MAX_STOP_CHARACTERS:
        text = f"a stop text of {longest} characters: at most {_MAX_STOP_CHARACTERS} are served"
        raise invalid(text, "stop")
    return texts


def _include_usage(fields: Mapping[str, object], stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise invalid("stream_options are only for stream=true", "stream_options")
    if isinstance(options, dict) and options.keys() <= {"include_usage"}:
        include_usage = options.get("include_usage", False)
        if include_usage is None or isinstance(include_usage, bool):
            return include_usage is True
    text = "stream_options may hold include_usage, true or false, and nothing else"
    raise invalid(f"{text}; got {quoted(options)}", "stream_options")


def _boolean(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false, got {quoted(value)}", name)
    return value


def _strings(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    texts = tuple(text for text in value if isinstance(text, str))
    return texts if len(texts) == len(value) else None


def _seed(fields: Mapping[str, object]) -> int | None:
    seed = fields.get("seed")
    if seed is None:
        return None
    if type(seed) is not int or seed not in _SEEDS:
        raise invalid(f"seed must be a whole number of at most 64 bits, got {quoted(seed)}", "seed")
    return seed


def _integer(
    fields: Mapping[str, object], name: str, default: int, lowest: int, highest: int
) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not lowest <= value <= highest:
        text = f"{name} must be a whole number from {lowest} to {highest}, got {quoted(value)}"
        raise invalid(text, name)
    return value


def _number(fields: Mapping[str, object], name: str, lowest: float, highest: float) -> float:
    value = fields.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"{name} must be a number, got {quoted(value)}", name)
    if not lowest <= value <= highest:
        text = f"{name} must be from {lowest:g} to {highest:g}, got {quoted(value)}"
        raise invalid(text, name)
    return float(value)
