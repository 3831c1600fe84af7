"""The body of ``POST /v1/completions``, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gradmq.infer.fields import (
    SHARED,
    Fields,
    asked_stream,
    boolean,
    check_model,
    given,
    integer,
    sampling,
    strings,
)
from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import invalid, quoted
from gradmq.infer.sampling import Sampling

_READ: Final = SHARED | {"prompt", "max_tokens", "echo", "logprobs", "best_of"}

#: Fields of the dialect that are not served, each with the only values that change nothing.
_UNSERVED: Final[dict[str, tuple[object, ...]]] = {
    "suffix": ("",),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
}

#: As many likely tokens the dialect lets be asked for.
_MAX_LOGPROBS = 5


#: A conversation, which the job's template makes a text of.
Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked request for completions of one or more prompts."""

    prompts: tuple[str | Messages, ...]
    sampling: Sampling
    n: int = 1
    """Completions of each prompt. The first has the seed, each later one the next number."""
    echo: bool = False
    """The text of a choice begins with its prompt."""
    logprobs: int | None = None
    """Tell how likely each token was, and so many of the likeliest in its place."""
    stream: bool = False
    """Answer piece by piece, as server-sent events."""
    include_usage: bool = False
    """Tell the usage in a last chunk of its own; only of a stream."""

    id: str | None = None
    """The caller's own, where the dialect sends one back."""

    @property
    def choices(self) -> int:
        """Completions in all, those of one prompt after another."""
        return len(self.prompts) * self.n


def parse_completion(
    body: Mapping[str, object], job_name: str, limits: HttpLimits
) -> CompletionRequest:
    """Check ``body``; a field that is null counts as left out.

    Raises ``Refused``: 404 for another model, 400 for a wrong value, for what this node does not
    serve and for fields that it does not know: nothing asked for is ignored silently.
    """
    fields = given(body, _READ, _UNSERVED)
    check_model(fields.get("model", job_name), job_name)
    stream, include_usage = asked_stream(fields)
    n = integer(fields, "n", 1, 1, limits.choices)
    if integer(fields, "best_of", n, 1, limits.choices) != n:
        raise invalid("best_of other than n is not served here: leave it out", "best_of")
    return CompletionRequest(
        _prompts(fields, n, limits),
        sampling(fields, limits),
        n,
        echo=boolean(fields, "echo"),
        logprobs=_logprobs(fields),
        stream=stream,
        include_usage=include_usage,
    )


def _prompts(fields: Fields, n: int, limits: HttpLimits) -> tuple[str, ...]:
    prompt = fields.get("prompt")
    if prompt is None:
        raise invalid("prompt is missing: a string or a list of strings", "prompt")
    texts = (prompt,) if isinstance(prompt, str) else strings(prompt)
    if texts is None:
        text = "prompt must be a string or a list of strings; token ids are not served here"
        raise invalid(f"{text}; got {quoted(prompt)}", "prompt")
    if not 1 <= len(texts) * n <= limits.choices:
        text = f"prompt has {len(texts)} texts, n is {n}"
        raise invalid(f"{text}: 1 to {limits.choices} completions in one request", "prompt")
    return texts


def _logprobs(fields: Fields) -> int | None:
    if "logprobs" not in fields:
        return None
    return integer(fields, "logprobs", 0, 0, _MAX_LOGPROBS)
