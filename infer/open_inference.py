"""The Open Inference Protocol, version 2, with JSON tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_bytes, json_response
from gradmq.infer.infer_request import BINARY_UNSERVED, InferRequest, parse_infer
from gradmq.infer.node_api import NodeApi
from gradmq.infer.predict import predict
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.infer.serving import ServedRelease
from gradmq.infer.tensors import Array, json_from_array
from gradmq.serve import TensorModel, TensorSpec

#: What clients read as the framework that runs the model.
PLATFORM = "gradmq_pytorch"


class OpenInference:
    """Answers ``/v2``: health, metadata and inference of the one model of this node."""

    def __init__(self, node: NodeApi) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The paths of this dialect, with and without a version."""
        routes = [
            Route("/v2", self.server_metadata, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self.model_metadata, methods=["GET"]),
                Route(model + "/ready", self.model_ready, methods=["GET"]),
                Route(model + "/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server_metadata(self, request: Request) -> Response:
        """Name and version of this server, and the extensions of the protocol that it speaks."""
        return json_response({"name": "gradmq", "version": _package_version(), "extensions": []})

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
        spec = self._node.spec
        tensors = spec if isinstance(spec, TensorModel) else TensorModel((), ())
        return json_response(
            {
                "name": self._node.job_name,
                "versions": self._versions(),
                "platform": PLATFORM,
                "inputs": [_described(tensor) for tensor in tensors.inputs],
                "outputs": [_described(tensor) for tensor in tensors.outputs],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Run the model on the tensors of the body."""
        self._check_model(request)
        spec = self._node.spec
        if not isinstance(spec, TensorModel):
            text = f"model {self._node.job_name!r} completes text: use POST /v1/completions"
            raise invalid(text)
        if "inference-header-content-length" in request.headers:
            raise invalid(BINARY_UNSERVED)
        deadline_s = self._node.deadline_s()
        async with self._node.intake.json_object(request, deadline_s) as body:
            wanted = parse_infer(body, spec)
            body.clear()

            def work(release: ServedRelease, abandoned: Callable[[], bool]) -> bytes:
                _check_version(request, release)
                outputs = predict(release, spec, wanted.inputs)
                return json_bytes(self._answer(release, spec, wanted, outputs))

            answered = await self._node.model_thread.run(request, deadline_s, work)
        headers = self._node.release_headers(answered.holding)
        return Response(answered.value, headers=headers, media_type="application/json")

    def _answer(
        self,
        release: ServedRelease,
        spec: TensorModel,
        wanted: InferRequest,
        outputs: Mapping[str, Array],
    ) -> dict[str, object]:
        datatypes = {tensor.name: tensor.datatype for tensor in spec.outputs}
        answer: dict[str, object] = {
            "model_name": self._node.job_name,
            "model_version": str(release.number),
        }
        if wanted.id is not None:
            answer["id"] = wanted.id
        answer["parameters"] = {
            "gradmq_release": str(release.number),
            "gradmq_versions": release.versions_text(),
        }
        answer["outputs"] = [
            {
                "name": name,
                "datatype": datatypes[name],
                "shape": list(outputs[name].shape),
                "data": json_from_array(outputs[name], name, release.number),
            }
            for name in wanted.outputs
        ]
        return answer

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


def _check_version(request: Request, release: ServedRelease) -> None:
    version = request.path_params.get("version", str(release.number))
    if version != str(release.number):
        text = f"version {quoted(version)} is not served here: the current one is {release.number}"
        raise Refused(404, text)


def _described(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _package_version() -> str:
    try:
        return metadata.version("gradmq")
    except metadata.PackageNotFoundError:
        return "unknown"
