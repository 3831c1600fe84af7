"""The OpenAI dialect: the list of models, and completions of text."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_response
from gradmq.infer.completion_request import check_model, parse_completion
from gradmq.infer.generate import Completion, complete
from gradmq.infer.node_api import NodeApi
from gradmq.infer.refusal import invalid
from gradmq.infer.serving import Holding, ServedRelease
from gradmq.serve import TextModel


class OpenAI:
    """Answers ``/v1``: this node's one model, and completions if it is a text model."""

    def __init__(self, node: NodeApi, wall_clock: Callable[[], float]) -> None:
        self._node = node
        self._wall_clock = wall_clock
        self._created = int(wall_clock())

    def routes(self) -> list[Route]:
        """The paths of this dialect."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
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
        return model if holding is None else model | {"metadata": self._metadata(holding)}

    async def completions(self, request: Request) -> Response:
        """Complete each prompt, all of them on one release."""
        spec = self._node.spec
        if not isinstance(spec, TextModel):
            name = self._node.job_name
            text = f"model {name!r} takes tensors: use POST /v2/models/{name}/infer"
            raise invalid(text, "model")
        deadline_s = self._node.deadline_s()
        async with self._node.intake.json_object(request, deadline_s) as body:
            wanted = parse_completion(body, self._node.job_name, self._node.limits)

            def work(release: ServedRelease, abandoned: Callable[[], bool]) -> list[Completion]:
                return [
                    complete(release, spec, prompt, wanted.sampling, abandoned)
                    for prompt in wanted.prompts
                ]

            answered = await self._node.model_thread.run(request, deadline_s, work)
        return json_response(
            self._answer(answered.value, answered.holding),
            headers=self._node.release_headers(answered.holding),
        )

    def _answer(self, completions: list[Completion], holding: Holding) -> dict[str, object]:
        prompt_tokens = sum(completion.prompt_tokens for completion in completions)
        completion_tokens = sum(completion.completion_tokens for completion in completions)
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(self._wall_clock()),
            "model": self._node.job_name,
            # The dialect's word for what a seed's promise holds within: here, one release.
            "system_fingerprint": f"release-{holding.release.number}",
            "choices": [
                {
                    "index": index,
                    "text": completion.text,
                    "finish_reason": completion.finish_reason,
                    "logprobs": None,
                }
                for index, completion in enumerate(completions)
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
            "metadata": self._metadata(holding),
        }

    def _metadata(self, holding: Holding) -> dict[str, str]:
        # Strings only: strict clients fail a whole answer over any other value here.
        return {
            "release": str(holding.release.number),
            "versions": holding.release.versions_text(),
            "age_ms": self._node.age_ms(holding),
        }
