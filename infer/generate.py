"""Text generation: one release is asked for one token after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from gradmq.infer.refusal import Refused, invalid, model_failed
from gradmq.infer.sampling import Logits, Sampling, chance, choose
from gradmq.infer.serving import Holding, ServedRelease
from gradmq.infer.settled_text import SettledText

if TYPE_CHECKING:
    import torch

    from gradmq.serve import TextModel

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was added to one choice: the pieces of a choice, joined, are its completion."""

    choice: int
    text: str
    """May be empty: text that a later token may still change is held back."""
    completion_tokens: int
    """Tokens generated, those of a stop text included."""
    finish_reason: FinishReason | None = None
    """Only in the last piece of a choice."""


class Generation:
    """The completions of one request, wholly on one release; belongs to the model's thread.

    The release's model maps tokens (1, T) int64 to logits (1, T, V), as ``spec`` describes it. The
    same prompt, sampling with a seed, and release give the same text.
    """

    def __init__(
        self, holding: Holding, spec: TextModel, prompts: Sequence[str], sampling: Sampling
    ) -> None:
        """Raises ``Refused`` 400 for a prompt that cannot be encoded."""
        self.holding = holding
        self._spec = spec
        self._sampling = sampling
        encoded = [_encode(spec, prompt) for prompt in prompts]
        self.prompt_tokens = sum(map(len, encoded))
        self._pieces = self._choices(encoded)

    def take(self, enough: Callable[[], bool]) -> tuple[list[Piece], bool]:
        """One token after another, at least one, until ``enough``; and whether nothing follows.

        The pieces are joined. Raises ``Refused`` 500 if the model fails or its logits are no
        numbers.
        """
        import torch

        try:
            # Entered once for many tokens: it takes as long as some operations of a small model.
            with torch.inference_mode():
                made: list[Piece] = []
                for piece in self._pieces:
                    made.append(piece)
                    if enough():
                        return joined(made), False
                return joined(made), True
        except Refused:
            raise
        except Exception as error:
            raise model_failed(self.holding.release.number, error) from error

    def _choices(self, prompts: Sequence[list[int]]) -> Iterator[Piece]:
        for index, prompt in enumerate(prompts):
            yield from self._choice(index, prompt)

    def _choice(self, index: int, prompt: list[int]) -> Iterator[Piece]:
        sampling = self._sampling
        sight = _Sight(self.holding.release, self._spec, prompt)
        text = SettledText(self._spec.decode, sampling.stop)
        drawn = chance(sampling.seed)
        for count in range(1, sampling.max_tokens + 1):
            token = choose(sight.logits(), sampling, drawn)
            sight.add(token)
            piece = text.add(token)
            if not text.stopped and count == sampling.max_tokens:
                piece += text.end()
            if text.stopped:
                yield Piece(index, piece, 1, "stop")
                return
            yield Piece(index, piece, 1, "length" if count == sampling.max_tokens else None)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with one piece for each choice."""
    whole: dict[int, Piece] = {}
    for piece in pieces:
        before = whole.get(piece.choice)
        if before is not None:
            piece = Piece(
                piece.choice,
                before.text + piece.text,
                before.completion_tokens + piece.completion_tokens,
                piece.finish_reason,
            )
        whole[piece.choice] = piece
    return list(whole.values())


class _Sight:
    """What one release's model sees of one text while it grows.

    A cache lives and dies in here: it can meet no other text and no other release's weights.
    """

    def __init__(self, release: ServedRelease, spec: TextModel, tokens: Sequence[int]) -> None:
        self._number = release.number
        self._model = cast("Callable[..., torch.Tensor]", release.model)
        self._make_cache = spec.cache
        self._most = spec.context_tokens
        self._tokens = list(tokens[-self._most :])
        self._cache: Any = None

    def add(self, token: int) -> None:
        """The text has this token more. One that outgrows the context begins anew with half."""
        self._tokens.append(token)
        if len(self._tokens) > self._most:
            # A cache holds each token at its place: a text that moves by one needs a new one each
            # time, one that moves by half only now and then.
            del self._tokens[: -max(1, self._most // 2)]
            self._cache = None

    def logits(self) -> Logits:
        """Logits (V,) of the next token; raises ``Refused`` 500 if they are no finite numbers.

        After the first call only once for each token added.
        """
        import torch

        if self._make_cache is None:
            found = self._model(torch.tensor([self._tokens]))
        elif self._cache is None:
            self._cache = self._make_cache(self._model)
            found = self._model(torch.tensor([self._tokens]), self._cache)
        else:
            found = self._model(torch.tensor([self._tokens[-1:]]), self._cache)
        logits: Logits = found[0, -1].to("cpu", torch.float32).numpy()
        # NaN anywhere, an infinite one, or nothing but minus infinity all end in the maximum.
        if not math.isfinite(logits[logits.argmax()]):
            raise Refused(500, f"release {self._number} gives logits that are not finite numbers")
        return logits


def _encode(spec: TextModel, prompt: str) -> list[int]:
    try:
        tokens = list(spec.encode(prompt))
    except (ValueError, KeyError) as error:
        text = f"the prompt cannot be encoded for this model: {error}"
        raise invalid(text, "prompt") from None
    if not tokens:
        raise invalid("the prompt is empty: there is nothing to go on from", "prompt")
    return tokens
