"""The Open Inference Protocol, version 2, with its binary and its configuration extension."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.batching import Batching
from gradmq.infer.body import header, json_response, parse_json_object
from gradmq.infer.infer_answer import InferAnswer, accepted_encoding
from gradmq.infer.infer_request import (
    BINARY_HEADER,
    BINARY_HEADER_BYTES,
    InferRequest,
    parse_infer,
    split_body,
)
from gradmq.infer.measures import Measures
from gradmq.infer.media import MediaReader
from gradmq.infer.model_statistics import model_statistics
from gradmq.infer.model_thread import until_possible
from gradmq.infer.node_api import NodeApi
from gradmq.infer.openapi import package_version
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.serve import TensorModel, TensorSpec

#: What clients read as the framework that runs the model.
PLATFORM = "gradmq_pytorch"

#: By the names that Triton gave them.
_EXTENSIONS = ["binary_tensor_data", "generate", "model_configuration", "statistics"]


class OpenInference:
    """Answers ``/v2``: health, metadata and inference of the one model of this node."""

    def __init__(
        self,
        node: NodeApi,
        batching: Batching | None,
        measures: Measures,
        wall_clock: Callable[[], float],
    ) -> None:
        """``batching`` runs the model; None for one of text. ``wall_clock`` is Unix time."""
        self._node = node
        self._batching = batching
        self._measures = measures
        self._wall_clock = wall_clock
        self._media = MediaReader(node.tensors)

    def routes(self) -> list[Route]:
        """The paths of this dialect, with and without a version."""
        routes = [
            Route("/v2", self.server_metadata, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/models/stats", self.statistics, methods=["GET"]),
            Route("/v2/repository/index", self.repository_index, methods=["POST"]),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self.model_metadata, methods=["GET"]),
                Route(model + "/ready", self.model_ready, methods=["GET"]),
                Route(model + "/stats", self.statistics, methods=["GET"]),
                Route(model + "/config", self.model_config, methods=["GET"]),
                Route(model + "/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server_metadata(self, request: Request) -> Response:
        """Name and version of this server, and the extensions of the protocol that it speaks."""
        return json_response(
            {"name": "gradmq", "version": package_version(), "extensions": _EXTENSIONS}
        )

    async def live(self, request: Request) -> Response:
        """200 as long as the process answers at all."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 once there is a release to serve that is no older than it may be, else 503."""
        ready = self._node.is_ready()
        # The specification names the key "live" here, its clients read "ready".
        return json_response({"ready": ready, "live": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """As ``ready``, for the model, or for one version of it."""
        self._check_model(request)
        self._check_held(request)
        ready = self._node.is_ready()
        content = {"name": self._node.job_name, "ready": ready}
        return json_response(content, 200 if ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """Versions, inputs and outputs of the model."""
        self._check_model(request)
        self._check_held(request)
        tensors = self._node.tensors
        return json_response(
            {
                "name": self._node.job_name,
                "versions": self._versions(),
                "platform": PLATFORM,
                "inputs": [_described(tensor) for tensor in tensors.inputs],
                "outputs": [_described(tensor) for tensor in tensors.outputs],
            }
        )

    async def model_config(self, request: Request) -> Response:
        """The model as Triton's clients want it described."""
        self._check_model(request)
        self._check_held(request)
        tensors = self._node.tensors
        limits = self._node.limits
        batches = limits.batch_rows > 1
        config: dict[str, object] = {
            "name": self._node.job_name,
            "platform": PLATFORM,
            "backend": "gradmq",
            "version_policy": {"latest": {"num_versions": 1}},
            # With 0 the first dimension is part of the shapes below, as in the metadata.
            "max_batch_size": limits.batch_rows if batches else 0,
            "input": [_configured(tensor, batches) for tensor in tensors.inputs],
            "output": [_configured(tensor, batches) for tensor in tensors.outputs],
        }
        if batches:
            delay_us = round(limits.batch_delay_s * 1e6)
            config["dynamic_batching"] = {"max_queue_delay_microseconds": delay_us}
        return json_response(config)

    async def repository_index(self, request: Request) -> Response:
        """The one model, and the release that is held; with ``ready`` asked for, only if it is."""
        async with self._node.intake.body(request, self._node.deadline_s()) as body:
            asked = parse_json_object(body) if body else {}
        only_ready = asked.get("ready", False)
        if not isinstance(only_ready, bool):
            raise invalid(f"ready must be true or false, got {quoted(only_ready)}")
        release = self._node.serving.current()
        model = {"name": self._node.job_name, "version": "", "state": "UNAVAILABLE"}
        if release is None:
            model["reason"] = "waiting for the first release"
        else:
            model |= {"version": str(release.number), "state": "READY", "reason": ""}
        listed = [] if release is None and only_ready else [model]
        return Response(json.dumps(listed), media_type="application/json")

    async def statistics(self, request: Request) -> Response:
        """Counts and times of the inference requests since this node started."""
        release = self._node.serving.current()
        if "model" in request.path_params:
            self._check_model(request)
            self._check_held(request)
        version = "" if release is None else str(release.number)
        return json_response(model_statistics(self._node.job_name, version, self._measures))

    async def infer(self, request: Request) -> Response:
        """Run the model on the tensors of the body, or on a file that the job reads."""
        begun_s = self._node.clock()
        try:
            response = await self._infer(request)
        except Refused as refused:
            self._measures.failed(refused.status, self._node.clock() - begun_s)
            raise
        self._measures.success.add(self._node.clock() - begun_s)
        self._measures.last_inference_at_s = self._wall_clock()
        return response

    async def _infer(self, request: Request) -> Response:
        self._check_model(request)
        spec = self._node.spec
        if not isinstance(spec, TensorModel) or self._batching is None:
            text = f"model {self._node.job_name!r} completes text: use POST /v1/completions"
            raise invalid(text)
        deadline_s = self._node.deadline_s()
        encoding = accepted_encoding(header(request, b"accept-encoding") or "")
        async with self._node.intake.body(request, deadline_s) as body:
            wanted = await self._wanted(request, spec, body, deadline_s)
            choice = self._node.choice(request, deadline_s)
            await until_possible(request, choice)
            answered = await self._batching.infer(
                request, wanted, choice.holding, encoding, deadline_s
            )
        headers = self._node.release_headers(answered.holding)
        return _infer_response(answered.value, headers)

    async def _wanted(
        self, request: Request, spec: TensorModel, body: bytearray, deadline_s: float
    ) -> InferRequest:
        kind = self._media.kind(header(request, b"content-type") or "")
        if kind is not None:
            return await self._media.read(kind, bytes(body), deadline_s)
        try:
            json_bytes = header(request, BINARY_HEADER_BYTES)
            asked, tensors = split_body(memoryview(body), json_bytes)
        except Refused as refused:
            raise invalid(refused.text + self._media.hint(body)) from None
        # No field of the protocol, but KServe's client says in the body too what it asks.
        named = asked.pop("model_name", self._node.job_name)
        if named != self._node.job_name:
            text = f"model_name is {quoted(named)} in a request to {self._node.job_name!r}"
            raise invalid(text)
        wanted = parse_infer(asked, spec, tensors)
        asked.clear()
        return wanted

    def _check_held(self, request: Request) -> None:
        """Raises ``Refused`` 404 for a version in the path that is not held."""
        numbers = self._versions()
        version = request.path_params.get("version")
        if version is not None and numbers and version not in numbers:
            text = f"version {quoted(version)} is not served here: held are {', '.join(numbers)}"
            raise Refused(404, text)

    def _versions(self) -> list[str]:
        return [str(held.release.number) for held in self._node.serving.held()]

    def _check_model(self, request: Request) -> None:
        name = request.path_params["model"]
        if name != self._node.job_name:
            text = f"no model {quoted(name)} here: this node serves {self._node.job_name!r}"
            raise Refused(404, text)


def _infer_response(answer: InferAnswer, headers: dict[str, str]) -> Response:
    media_type = "application/json"
    if answer.json_bytes is not None:
        headers[BINARY_HEADER] = str(answer.json_bytes)
        media_type = "application/octet-stream"
    if answer.encoding is not None:
        headers |= {"content-encoding": answer.encoding, "vary": "accept-encoding"}
    return Response(answer.body, headers=headers, media_type=media_type)


def _described(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _configured(tensor: TensorSpec, batches: bool) -> dict[str, object]:
    triton = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{triton}",
        "dims": list(tensor.shape[batches:]),
    }
