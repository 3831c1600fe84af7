"""gradmq's own paths: is the process alive, and what does it serve?"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_response
from gradmq.infer.measures import Measures
from gradmq.infer.node_api import NodeApi
from gradmq.serve import TextModel


class NodeStatus:
    """Answers ``/healthz`` and ``/gradmq/v1/status``."""

    def __init__(self, node: NodeApi, measures: Measures, waiting: Callable[[], int]) -> None:
        """``waiting`` says how many requests wait for the model."""
        self._node = node
        self._waiting = waiting
        self._measures = measures

    def routes(self) -> list[Route]:
        """The paths of this dialect."""
        return [
            Route("/healthz", self.health, methods=["GET"]),
            Route("/gradmq/v1/status", self.status, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """200 as long as the process answers; being ready to infer is ``/v2/health/ready``."""
        return json_response({"status": "ok"})

    async def status(self, request: Request) -> Response:
        """What is served, how fresh it is, and what was asked of it.

        ``release``, ``first_release`` and ``age_s`` are null before the first release;
        ``versions`` is [incarnation, version] of each shard; ``url`` is the one asked; ``accepts``
        are the content types of files that may be sent instead of tensors, ``sample_prompt`` what
        a text model may be asked.
        """
        spec = self._node.spec
        statistics = self._node.serving.statistics(self._node.clock())
        return json_response(
            {
                "model": self._node.job_name,
                "kind": "text" if isinstance(spec, TextModel) else "tensor",
                "sample_prompt": spec.sample_prompt if isinstance(spec, TextModel) else "",
                "accepts": sorted(self._node.tensors.media),
                "class_names": list(self._node.tensors.class_names),
                "url": str(request.base_url).rstrip("/"),
                "release": statistics.release,
                "first_release": statistics.first_release,
                "versions": [list(version) for version in statistics.versions],
                "age_s": statistics.age_s,
                "swaps": statistics.swaps,
                "waiting": self._waiting(),
                "requests": {
                    "answered": self._measures.count_statuses(range(400)),
                    "refused": self._measures.count_statuses(range(400, 500)),
                    "failed": self._measures.count_statuses(range(500, 600)),
                },
            }
        )
