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
from gradmq.infer.event_stream import EventStream
from gradmq.infer.fields import check_model
from gradmq.infer.generate import Generation
from gradmq.infer.node_api import NodeApi
from gradmq.infer.openai_answer import Answer, ChatAnswer, release_metadata
from gradmq.infer.refusal import Refused, invalid
from gradmq.serve import TextModel


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
        self._text_model()

        def parse(body: Mapping[str, object]) -> CompletionRequest:
            return parse_completion(body, self._node.job_name, self._node.limits)

        return await self._complete(request, parse, Answer)

    async def chat(self, request: Request) -> Response:
        """Complete a conversation, if the job has a template for one."""
        spec, name = self._text_model(), self._node.job_name
        if spec.chat is None:
            text = f"model {name!r} has no chat template: use POST /v1/completions"
            raise Refused(404, text, code="no_chat_template")

        def parse(body: Mapping[str, object]) -> CompletionRequest:
            return parse_chat(body, spec, name, self._node.limits)

        return await self._complete(request, parse, ChatAnswer)

    async def _complete(
        self,
        request: Request,
        parse: Callable[[Mapping[str, object]], CompletionRequest],
        form: type[Answer],
    ) -> Response:
        spec, limits, deadline_s = self._text_model(), self._node.limits, self._node.deadline_s()
        assert self._completing is not None
        async with AsyncExitStack() as held:
            body = await held.enter_async_context(
                self._node.intake.json_object(request, deadline_s)
            )
            wanted = parse(body)
            running = await held.enter_async_context(
                self._completing.begin(
                    request,
                    self._node.choice(request, deadline_s),
                    lambda holding: Generation(holding, spec, wanted, limits.scored_tokens),
                    deadline_s,
                )
            )
            answer = form(self._node, running, wanted, int(self._wall_clock()))
            holding = running.generation.holding
            if wanted.stream:
                headers = self._node.release_headers(holding)
                return EventStream(answer.chunks(), held.pop_all(), deadline_s, headers, done=True)
            whole = await answer.whole()
            return json_response(whole, headers=self._node.release_headers(holding))

    def _text_model(self) -> TextModel:
        spec, name = self._node.spec, self._node.job_name
        if not isinstance(spec, TextModel):
            text = f"model {name!r} takes tensors: use POST /v2/models/{name}/infer"
            raise invalid(text, "model")
        return spec
