"""Fields of a JSON body, each checked as it is read; one that is null counts as left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.infer.sampling import DEFAULT_MAX_TOKENS, Sampling

Fields = Mapping[str, object]

#: What torch's generators take as a seed, and so what people are used to.
_SEEDS = range(-(2**63), 2**64)

_MAX_STOPS = 4

#: A longer one would cost more to look for than to generate.
_MAX_STOP_CHARACTERS = 256

#: What ``sampling`` and ``asked_stream`` read.
SHARED: Final = frozenset(
    {"model", "temperature", "top_p", "seed", "stop", "n", "stream", "stream_options"}
)

#: Asks for nothing from this node; clients send it by default.
_IGNORED: Final = frozenset({"user"})


def given(body: Fields, read: Iterable[str], unserved: Mapping[str, tuple[object, ...]]) -> Fields:
    """The fields of ``body`` that are not null.

    Raises ``Refused`` 400 for one that is neither in ``read`` nor known to change nothing:
    ``unserved`` has the values at which a field of the dialect asks for nothing.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    for name, value in fields.items():
        if name in unserved:
            if not any(type(value) is type(same) and value == same for same in unserved[name]):
                raise invalid(f"{name}={quoted(value)} is not served here: leave it out", name)
        elif name not in read and name not in _IGNORED:
            raise invalid(f"unknown field {quoted(name)}", name)
    return fields


def check_model(name: object, job_name: str) -> None:
    """Raises ``Refused``: 400 if ``name`` is no string, 404 if it is not the served model."""
    if not isinstance(name, str):
        raise invalid(f"model must be a string, got {quoted(name)}", "model")
    if name != job_name:
        text = f"no model {quoted(name)} here: this node serves {job_name!r}"
        raise Refused(404, text, param="model", code="model_not_found")


def sampling(fields: Fields, limits: HttpLimits, max_tokens: str = "max_tokens") -> Sampling:
    """How tokens are to be chosen; ``max_tokens`` is the field's name in this dialect."""
    most = limits.completion_tokens
    return Sampling(
        max_tokens=integer(fields, max_tokens, DEFAULT_MAX_TOKENS, 1, most),
        temperature=_number(fields, "temperature", 0.0, 2.0),
        top_p=_number(fields, "top_p", 0.0, 1.0),
        seed=_seed(fields),
        stop=_stop(fields),
    )


def asked_stream(fields: Fields) -> tuple[bool, bool]:
    """Whether the answer is to be streamed, and whether the stream tells its usage."""
    stream = boolean(fields, "stream")
    options = fields.get("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise invalid("stream_options are only for stream=true", "stream_options")
    if isinstance(options, dict) and options.keys() <= {"include_usage"}:
        include_usage = options.get("include_usage")
        if include_usage is None or isinstance(include_usage, bool):
            return stream, include_usage is True
    text = "stream_options may hold include_usage, true or false, and nothing else"
    raise invalid(f"{text}; got {quoted(options)}", "stream_options")


def boolean(fields: Fields, name: str) -> bool:
    """A field that is false unless said."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false, got {quoted(value)}", name)
    return value


def integer(fields: Fields, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number within bounds; ``default`` may lie outside them."""
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not lowest <= value <= highest:
        text = f"{name} must be a whole number from {lowest} to {highest}, got {quoted(value)}"
        raise invalid(text, name)
    return value


def strings(value: object) -> tuple[str, ...] | None:
    """A list of strings, or None if it is something else."""
    if not isinstance(value, list):
        return None
    texts = tuple(text for text in value if isinstance(text, str))
    return texts if len(texts) == len(value) else None


def _number(fields: Fields, name: str, lowest: float, highest: float) -> float:
    value = fields.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"{name} must be a number, got {quoted(value)}", name)
    if not lowest <= value <= highest:
        text = f"{name} must be from {lowest:g} to {highest:g}, got {quoted(value)}"
        raise invalid(text, name)
    return float(value)


def _seed(fields: Fields) -> int | None:
    seed = fields.get("seed")
    if seed is None:
        return None
    if type(seed) is not int or seed not in _SEEDS:
        raise invalid(f"seed must be a whole number of at most 64 bits, got {quoted(seed)}", "seed")
    return seed


def _stop(fields: Fields) -> tuple[str, ...]:
    stop = fields.get("stop", [])
    texts = (stop,) if isinstance(stop, str) else strings(stop)
    if texts is None or len(texts) > _MAX_STOPS or "" in texts:
        text = f"stop must be a text or up to {_MAX_STOPS} of them, none empty; got {quoted(stop)}"
        raise invalid(text, "stop")
    longest = max(map(len, texts), default=0)
    if longest > _MAX_STOP_CHARACTERS:
        text = f"a stop text of {longest} characters: at most {_MAX_STOP_CHARACTERS} are served"
        raise invalid(text, "stop")
    return texts
