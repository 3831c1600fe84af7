"""The OpenAI dialect: the list of models, and completions of texts and of chats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_response
from gradmq.infer.chat_request import parse_chat
from gradmq.infer.completing import Completing
from gradmq.infer.completion_request import CompletionRequest, parse_completion
from gradmq.infer.event_stream import EventStream, json_events
from gradmq.infer.fields import check_model
from gradmq.infer.node_api import NodeApi
from gradmq.infer.openai_answer import Answer, ChatAnswer, release_metadata
from gradmq.infer.refusal import Refused, invalid


class OpenAI:
    """Answers ``/v1``: this node's one model, and completions if it is a text model."""

    def __init__(
        self, node: NodeApi, completing: Completing | None, wall_clock: Callable[[], float]
    ) -> None:
        """``completing`` runs the model; None for one of tensors. ``wall_clock`` is Unix time."""
        self._node = node
        self._completing = completing
        self._wall_clock = wall_clock
        self._created = int(wall_clock())

    def routes(self) -> list[Route]:
        """The paths of this dialect."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """The one model, as a list."""
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The one model, by its name."""
        check_model(request.path_params["model"], self._node.job_name)
        return json_response(self._model())

    def _model(self) -> dict[str, object]:
        model: dict[str, object] = {
            "id": self._node.job_name,
            "object": "model",
            "created": self._created,
            "owned_by": "gradmq",
        }
        holding = self._node.serving.holding()
        return (
            model
            if holding is None
            else model | {"metadata": release_metadata(self._node, holding)}
        )

    async def completions(self, request: Request) -> Response:
        """Complete each prompt, all of them on one release."""
        completing = self._require_text()

        def parse(body: Mapping[str, object]) -> CompletionRequest:
            return parse_completion(body, self._node.job_name, self._node.limits)

        return await self._answer(request, completing, parse, Answer)

    async def chat(self, request: Request) -> Response:
        """Complete a conversation, if the job has a template for one."""
        completing = self._require_text()
        if completing.spec.chat is None:
            text = f"model {self._node.job_name!r} has no chat template: use POST /v1/completions"
            raise Refused(404, text, code="no_chat_template")

        def parse(body: Mapping[str, object]) -> CompletionRequest:
            return parse_chat(body, completing.spec, self._node.job_name, self._node.limits)

        return await self._answer(request, completing, parse, ChatAnswer)

    async def _answer(
        self,
        request: Request,
        completing: Completing,
        parse: Callable[[Mapping[str, object]], CompletionRequest],
        form: type[Answer],
    ) -> Response:
        async with AsyncExitStack() as held:
            running = await held.enter_async_context(completing.begin(request, parse))
            answer = form(self._node, running, int(self._wall_clock()))
            holding = running.generation.holding
            if running.wanted.stream:
                headers, until_s = self._node.release_headers(holding), running.deadline_s
                chunks = json_events(answer.chunks())
                return EventStream(chunks, held.pop_all(), until_s, headers, done=True)
            whole = await answer.whole()
            return json_response(whole, headers=self._node.release_headers(holding))

    def _require_text(self) -> Completing:
        if self._completing is None:
            name = self._node.job_name
            text = f"model {name!r} takes tensors: use POST /v2/models/{name}/infer"
            raise invalid(text, "model")
        return self._completing
