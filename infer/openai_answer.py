"""Completions as the OpenAI dialect writes them, whole and piece by piece."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gradmq.infer.generate import Piece, Scored, joined
from gradmq.infer.node_api import NodeApi
from gradmq.infer.running import Running
from gradmq.infer.serving import Holding


@dataclass(slots=True)
class Answer:
    """One request's answer: what all of its pieces say, and what they come to together."""

    id_prefix: ClassVar[str] = "cmpl-"
    object_name: ClassVar[str] = "text_completion"
    chunk_name: ClassVar[str] = "text_completion"

    node: NodeApi
    running: Running
    created: int
    """Unix time, seconds."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    completion_tokens: int = 0
    _last_choice: int | None = None

    async def whole(self) -> dict[str, object]:
        """All of it at once."""
        pieces = [piece async for piece in self.running.pieces()]
        self.completion_tokens = sum(piece.completion_tokens for piece in pieces)
        choices = [self._choice(piece) for piece in joined(pieces)]
        return self._object(self.object_name, choices) | {"usage": self._usage()} | self._metadata()

    async def chunks(self) -> AsyncIterator[dict[str, object]]:
        """Piece by piece; the first and the last name the release.

        If the usage is asked for, the last one holds it, and no choice.
        """
        wanted = self.running.wanted
        usage = {"usage": None} if wanted.include_usage else {}
        is_first, finished = True, 0
        async for piece in self.running.pieces():
            self.completion_tokens += piece.completion_tokens
            if not (piece.text or piece.scored or piece.finish_reason):
                continue
            finished += piece.finish_reason is not None
            is_last = finished == wanted.choices and not wanted.include_usage
            chunk = self._object(self.chunk_name, [self._part(piece)]) | usage
            yield chunk | self._metadata() if is_first or is_last else chunk
            is_first = False
        if wanted.include_usage:
            yield self._object(self.chunk_name, []) | {"usage": self._usage()} | self._metadata()

    def _choice(self, piece: Piece) -> dict[str, object]:
        return {
            "index": piece.choice,
            "text": piece.text,
            "finish_reason": piece.finish_reason,
            "logprobs": None if self.running.wanted.logprobs is None else _logprobs(piece.scored),
        }

    def _part(self, piece: Piece) -> dict[str, object]:
        return self._choice(piece)

    def _object(self, name: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.id_prefix + self.id,
            "object": name,
            "created": self.created,
            "model": self.node.job_name,
            # The dialect's word for what a seed's promise holds within: here, one release.
            "system_fingerprint": f"release-{self.running.generation.holding.release.number}",
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        prompt_tokens = self.running.generation.prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
        }

    def _metadata(self) -> dict[str, object]:
        return {"metadata": release_metadata(self.node, self.running.generation.holding)}


class ChatAnswer(Answer):
    """The same of a chat, whose choices are messages, and whose pieces are added to them."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def _choice(self, piece: Piece) -> dict[str, object]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return _choice_of_chat(piece, "message", message)

    def _part(self, piece: Piece) -> dict[str, object]:
        # Pieces come one choice after another: a choice is new if the last piece was of another.
        is_first, self._last_choice = piece.choice != self._last_choice, piece.choice
        delta = {"role": "assistant"} if is_first else {}
        return _choice_of_chat(piece, "delta", delta | {"content": piece.text})


def _choice_of_chat(piece: Piece, name: str, value: object) -> dict[str, object]:
    return {
        "index": piece.choice,
        name: value,
        "finish_reason": piece.finish_reason,
        "logprobs": None,
    }


def release_metadata(node: NodeApi, holding: Holding) -> dict[str, str]:
    """The release as answers name it.

    Strings only: strict clients fail a whole answer over any other value here.
    """
    return {
        "release": str(holding.release.number),
        "versions": holding.release.versions_text(),
        "age_ms": node.age_ms(holding),
    }


def _logprobs(scored: Sequence[Scored]) -> dict[str, object]:
    return {
        "tokens": [token.text for token in scored],
        "token_logprobs": [token.logprob for token in scored],
        "top_logprobs": [token.likeliest or None for token in scored],
        "text_offset": [token.offset for token in scored],
    }
