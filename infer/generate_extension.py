"""Triton's extension of the Open Inference Protocol for text: one in, one out, or as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_response
from gradmq.infer.completing import Completing
from gradmq.infer.completion_request import CompletionRequest
from gradmq.infer.event_stream import EventStream, json_events
from gradmq.infer.fields import boolean, given, sampling
from gradmq.infer.generate import joined
from gradmq.infer.limits import HttpLimits
from gradmq.infer.node_api import NodeApi
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.infer.running import Running

_READ: Final = frozenset({"max_tokens", "temperature", "top_p", "seed", "stop", "stream"})

#: Beside these, what stands in the body is a parameter.
_OF_REQUEST: Final = frozenset({"id", "text_input", "parameters"})

#: Clients of TensorRT-LLM send them always, with these values for none.
_UNSERVED: Final[dict[str, tuple[object, ...]]] = {
    "bad_words": ("", [], [""]),
    "stop_words": ("", [], [""]),
}


class GenerateExtension:
    """Answers ``/v2/models/NAME/generate`` and ``generate_stream``, of a text model."""

    def __init__(self, node: NodeApi, completing: Completing | None) -> None:
        """``completing`` runs the model; None for one of tensors."""
        self._node = node
        self._completing = completing

    def routes(self) -> list[Route]:
        """The two paths, with and without a version."""
        return [
            Route(f"/v2/models/{{model}}{version}/{name}", endpoint, methods=["POST"])
            for version in ("", "/versions/{version}")
            for name, endpoint in (
                ("generate", self.generate),
                ("generate_stream", self.generate_stream),
            )
        ]

    async def generate(self, request: Request) -> Response:
        """Complete a text, and answer it whole."""
        async with self._begin(request, False) as running:
            (piece,) = joined([piece async for piece in running.pieces()])
            headers = self._node.release_headers(running.generation.holding)
            return json_response(self._answer(running, piece.text), headers=headers)

    async def generate_stream(self, request: Request) -> Response:
        """Complete a text, and answer it piece by piece."""
        async with AsyncExitStack() as held:
            running = await held.enter_async_context(self._begin(request, True))
            headers = self._node.release_headers(running.generation.holding)
            answers = json_events(self._answers(running))
            return EventStream(answers, held.pop_all(), running.deadline_s, headers)

    async def _answers(self, running: Running) -> AsyncIterator[dict[str, object]]:
        async for piece in running.pieces():
            if piece.text or piece.finish_reason:
                yield self._answer(running, piece.text)

    def _answer(self, running: Running, text: str) -> dict[str, object]:
        answer: dict[str, object] = {
            "model_name": self._node.job_name,
            "model_version": str(running.generation.holding.release.number),
            "text_output": text,
        }
        return answer if running.wanted.id is None else {"id": running.wanted.id} | answer

    def _begin(self, request: Request, stream: bool) -> AbstractAsyncContextManager[Running]:
        name = self._node.job_name
        asked = request.path_params["model"]
        if asked != name:
            raise Refused(404, f"no model {quoted(asked)} here: this node serves {name!r}")
        if self._completing is None:
            text = f"model {name!r} takes tensors: use POST /v2/models/{name}/infer"
            raise invalid(text)
        parse = partial(parse_generate, stream=stream, limits=self._node.limits)
        return self._completing.begin(request, parse)


def parse_generate(
    body: Mapping[str, object], *, stream: bool, limits: HttpLimits
) -> CompletionRequest:
    """Check ``body``: ``text_input``, and parameters under ``parameters`` or beside it.

    Raises ``Refused`` 400 for a wrong value and for what this node does not know.
    """
    beside = {name: value for name, value in body.items() if name not in _OF_REQUEST}
    text = body.get("text_input")
    if not isinstance(text, str):
        raise invalid(f"text_input must be a text, got {quoted(text)}", "text_input")
    under = body.get("parameters") or {}
    if not isinstance(under, dict):
        raise invalid(f"parameters must be an object, got {quoted(under)}", "parameters")
    if twice := beside.keys() & under.keys():
        raise invalid(f"{quoted(min(twice))} is given twice")
    own_id = body.get("id")
    if own_id is not None and not isinstance(own_id, str):
        raise invalid(f"id must be a text, got {quoted(own_id)}", "id")
    fields = given(beside | under, _READ, _UNSERVED)
    if "stream" in fields and boolean(fields, "stream") != stream:
        raise invalid("stream is told by the path: generate_stream, or generate", "stream")
    return CompletionRequest((text,), sampling(fields, limits), stream=stream, id=own_id)
