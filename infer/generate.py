"""Text generation: a plain loop that asks one release for one token after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from gradmq.infer.refusal import Abandoned, Refused, invalid
from gradmq.infer.serving import ServedRelease

if TYPE_CHECKING:
    import torch

    from gradmq.serve import TextModel

#: Enough to see what a model has learned, and still quick without a key/value cache.
DEFAULT_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to stop."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 1.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities reach this sum are drawn from."""
    seed: int | None = None
    """None draws another text each time."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these that appears."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One prompt's completion."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, those of a stop text included."""


def complete(
    release: ServedRelease,
    spec: TextModel,
    prompt: str,
    sampling: Sampling,
    abandoned: Callable[[], bool],
) -> Completion:
    """Complete ``prompt`` wholly on ``release``; runs in the calling thread and may take long.

    ``release.model`` maps tokens (1, T) int64 to logits (1, T, V), with T up to
    ``spec.context_tokens``; of a longer text the model sees the end. The same prompt, sampling
    with a seed, and release give the same text. Raises ``Abandoned`` when ``abandoned()`` is True
    before a token, and ``Refused`` for a prompt that cannot be encoded (400) and for logits that
    are not numbers (500).
    """
    import torch

    prompt_ids = _encode(spec, prompt)
    ids = list(prompt_ids)
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    model = cast("Callable[[torch.Tensor], torch.Tensor]", release.model)
    text, finish_reason = "", "length"
    with torch.inference_mode():
        for _ in range(sampling.max_tokens):
            if abandoned():
                raise Abandoned
            context = torch.tensor([ids[-spec.context_tokens :]], dtype=torch.int64)
            logits = model(context)[0, -1].detach().to("cpu", torch.float32)
            ids.append(_choose(logits, sampling, generator, release.number))
            if sampling.stop:
                text = spec.decode(ids[len(prompt_ids) :])
                if (cut := _first_stop(text, sampling.stop)) is not None:
                    text, finish_reason = text[:cut], "stop"
                    break
    if finish_reason == "length":
        text = spec.decode(ids[len(prompt_ids) :])
    return Completion(
        text=text,
        finish_reason=cast(Literal["stop", "length"], finish_reason),
        prompt_tokens=len(prompt_ids),
        completion_tokens=len(ids) - len(prompt_ids),
    )


def _encode(spec: TextModel, prompt: str) -> list[int]:
    try:
        ids = list(spec.encode(prompt))
    except (ValueError, KeyError) as error:
        text = f"the prompt cannot be encoded for this model: {error}"
        raise invalid(text, "prompt") from None
    if not ids:
        raise invalid("the prompt is empty: there is nothing to go on from", "prompt")
    return ids


def _choose(logits: Any, sampling: Sampling, generator: torch.Generator, number: int) -> int:
    import torch

    # NaN anywhere, an infinite one, or nothing but minus infinity all end in the maximum.
    if not torch.isfinite(logits.max()):
        raise Refused(500, f"release {number} gives logits that are not finite numbers")
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Shifted first: a temperature near 0 would overflow, and only differences matter.
    scaled = (logits - logits.max()) / sampling.temperature
    probabilities = torch.softmax(scaled, dim=-1)
    if sampling.top_p < 1:
        probabilities = _likeliest(probabilities, sampling.top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _likeliest(probabilities: Any, top_p: float) -> Any:
    """Zero all but the fewest tokens whose sum reaches ``top_p``; at least one stays."""
    import torch

    ordered, order = torch.sort(probabilities, descending=True)
    dropped = torch.cumsum(ordered, dim=-1) - ordered >= top_p
    dropped[0] = False
    kept = ordered.masked_fill(dropped, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=None)
