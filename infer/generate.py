"""Text generation: one release is asked for one token after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gradmq.infer.completion_request import CompletionRequest, Messages
from gradmq.infer.refusal import Refused, invalid, model_failed
from gradmq.infer.sampling import Logits, chance, choose, likeliest, logprobs
from gradmq.infer.serving import Holding
from gradmq.infer.settled_text import SettledText
from gradmq.infer.sight import Sight, scored

if TYPE_CHECKING:
    from gradmq.serve import TextModel

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A token, and how likely it was where it stands."""

    text: str
    offset: int
    """Characters of the choice before it."""
    logprob: float | None
    """None of the first token of a prompt, which nothing stands before."""
    likeliest: dict[str, float]
    """Logprobs of the likeliest in its place, by their text."""


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
    scored: tuple[Scored, ...] = ()
    """If they are asked for, the tokens whose text is known by now and was not before."""


class Generation:
    """The completions of one request, wholly on one release; belongs to the model's thread.

    The release's model maps tokens (1, T) int64 to logits (1, T, V), as ``spec`` describes it. The
    same prompt, sampling with a seed, and release give the same text.
    """

    def __init__(
        self, holding: Holding, spec: TextModel, wanted: CompletionRequest, max_scored: int
    ) -> None:
        """Raises ``Refused`` 400 for a prompt that cannot be encoded.

        Also for prompts of more than ``max_scored`` tokens together if those are to be scored.
        """
        self.holding = holding
        self._spec = spec
        self._wanted = wanted
        self.prompt_tokens = 0
        self._prompts: list[_Prompt] = []
        scores = wanted.echo and wanted.logprobs is not None
        for prompt in wanted.prompts:
            text, tokens = _encode(spec, prompt)
            self.prompt_tokens += len(tokens)
            # Only what will be seen: a long prompt takes eight bytes for each token it has.
            seen = tokens if scores else tokens[-spec.context_tokens :]
            self._prompts.append(_Prompt(text if wanted.echo else "", seen))
        if scores and self.prompt_tokens > max_scored:
            text = f"prompts of {self.prompt_tokens} tokens: logprobs are told of at most"
            raise invalid(f"{text} {max_scored} with echo", "prompt")
        self._pieces = self._all_choices()

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

    def _all_choices(self) -> Iterator[Piece]:
        n = self._wanted.n
        for index, prompt in enumerate(self._prompts):
            for copy in range(n):
                if self._wanted.echo:
                    yield from self._echo(index * n + copy, prompt)
                yield from self._completion(index * n + copy, copy, prompt)

    def _completion(self, choice: int, copy: int, prompt: _Prompt) -> Iterator[Piece]:
        sampling = self._wanted.sampling
        sight = Sight(self.holding.release, self._spec, prompt.tokens)
        text = SettledText(self._spec.decode, sampling.stop)
        begins_at = len(prompt.text)
        drawn = chance(None if sampling.seed is None else sampling.seed + copy)
        held: list[Scored] = []
        for left in reversed(range(sampling.max_tokens)):
            logits = sight.logits()
            token = choose(logits, sampling, drawn)
            if self._wanted.logprobs is not None:
                held.append(self._scored(token, logits, begins_at + text.settled))
            sight.add(token)
            piece = text.add(token)
            if left == 0 and not text.stopped:
                piece += text.end()
            reason: FinishReason | None = "stop" if text.stopped else None if left else "length"
            # A token is told of when its text is; one that stands at the end has none.
            upto = begins_at + text.given + (reason == "length")
            yield Piece(
                choice, piece, 1, reason, tuple(each for each in held if each.offset < upto)
            )
            if reason == "stop":
                return
            held = [each for each in held if each.offset >= upto]

    def _echo(self, choice: int, prompt: _Prompt) -> Iterator[Piece]:
        """The prompt itself, its tokens scored if they are asked for."""
        yield Piece(choice, prompt.text, 0)
        if self._wanted.logprobs is None:
            return
        tokens = prompt.tokens
        text = SettledText(self._spec.decode, ())
        first = Scored(self._spec.decode(tokens[:1]), 0, None, {})
        text.add(tokens[0])
        yield Piece(choice, "", 0, scored=(first,))
        for token, logits in scored(self.holding.release, self._spec, tokens):
            yield Piece(choice, "", 0, scored=(self._scored(token, logits, text.settled),))
            text.add(token)

    def _scored(self, token: int, logits: Logits, offset: int) -> Scored:
        values = logprobs(logits)
        count = self._wanted.logprobs or 0
        best: dict[str, float] = {}
        # Highest first: of tokens with the same text the likeliest stays.
        for each in likeliest(values, count):
            best.setdefault(self._spec.decode([each]), float(values[each]))
        text = self._spec.decode([token])
        if count:
            # Always told of, as one more if it is not among the likeliest.
            best.setdefault(text, float(values[token]))
        return Scored(text, offset, float(values[token]), best)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with one piece for each choice."""
    by_choice: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_choice.setdefault(piece.choice, []).append(piece)
    return [
        Piece(
            choice,
            "".join(part.text for part in parts),
            sum(part.completion_tokens for part in parts),
            parts[-1].finish_reason,
            tuple(each for part in parts for each in part.scored),
        )
        for choice, parts in by_choice.items()
    ]


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    """Empty if it is not echoed."""
    tokens: Sequence[int]


def _encode(spec: TextModel, prompt: str | Messages) -> tuple[str, list[int]]:
    """The text to go on from, and its tokens; raises ``Refused`` 400."""
    param = "prompt" if isinstance(prompt, str) else "messages"
    try:
        text = prompt if isinstance(prompt, str) else _templated(spec, prompt)
        tokens = list(spec.encode(text))
    except (ValueError, KeyError) as error:
        raise invalid(f"the {param} cannot be encoded for this model: {error}", param) from None
    if not tokens:
        raise invalid(f"the {param} is empty: there is nothing to go on from", param)
    return text, tokens


def _templated(spec: TextModel, messages: Messages) -> str:
    assert spec.chat is not None, "a node without a template takes no messages"
    return spec.chat(messages)
