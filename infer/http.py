"""The HTTP application of an inference node: its dialects, its errors, and what every answer says.

Paths under ``/v1`` speak the OpenAI dialect, paths under ``/v2`` the Open Inference Protocol,
everything else gradmq's own; each has its own form of error.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gradmq.infer.batching import Batching
from gradmq.infer.bearer import Bearer
from gradmq.infer.body import Intake
from gradmq.infer.completing import Completing
from gradmq.infer.control import Control
from gradmq.infer.error_answers import render_error
from gradmq.infer.events import Events
from gradmq.infer.generate_extension import GenerateExtension
from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.infer.metrics import Metrics
from gradmq.infer.node_api import NodeApi
from gradmq.infer.node_status import NodeStatus
from gradmq.infer.open_inference import OpenInference
from gradmq.infer.openai import OpenAI
from gradmq.infer.openapi import OpenApi
from gradmq.infer.page import Page
from gradmq.infer.refusal import Refused, quoted
from gradmq.infer.request_id import RequestId
from gradmq.infer.run_watch import RunWatch
from gradmq.infer.serving import Serving
from gradmq.infer.stamp import Stamp
from gradmq.infer.standstill import Standstill
from gradmq.serve import TensorModel, TextModel

_PATHS = (
    "this node answers /v2 (Open Inference Protocol), /v1/models, /v1/completions, "
    "/v1/chat/completions, /healthz, /metrics, /openapi.json, /gradmq/v1/status, "
    "/gradmq/v1/serving, /gradmq/v1/events and, to browsers, /"
)


def make_app(
    serving: Serving,
    job_name: str,
    spec: TensorModel | TextModel,
    executor: Executor,
    clock: Callable[[], float],
    *,
    limits: HttpLimits | None = None,
    token: str = "",
    max_age_s: float | None = None,
    wall_clock: Callable[[], float] = time.time,
    measures: Measures | None = None,
    watch: RunWatch | None = None,
    stopping: Callable[[], bool] = lambda: False,
    standstill: Standstill | None = None,
) -> ASGIApp:
    """The ASGI application that answers for the releases that ``serving`` holds.

    Models run on ``executor``, whose one thread they never share with the event loop; the caller
    keeps it and shuts it down after the server. ``clock`` is monotonic seconds, the same that
    ``serving`` is told about releases with; ``wall_clock`` is Unix time, for ``created`` fields.
    With a ``token``, requests must bear it. Above ``max_age_s`` the node says that it is not ready.
    ``measures`` is added to, and shown at ``/metrics``. ``watch`` knows the run, if there is
    one. Streams without end are ended when ``stopping`` says so. In a ``standstill`` no completion
    runs.
    """
    limits = HttpLimits() if limits is None else limits
    node = NodeApi(
        job_name=job_name,
        spec=spec,
        serving=serving,
        intake=Intake(limits),
        limits=limits,
        clock=clock,
        max_age_s=max_age_s,
    )
    measures = Measures() if measures is None else measures
    batching, completing = None, None
    waiting: Batching | Completing
    if isinstance(spec, TensorModel):
        waiting = batching = Batching(job_name, spec, executor, limits, measures, clock)
    else:
        standstill = Standstill() if standstill is None else standstill
        waiting = completing = Completing(node, spec, executor, standstill)
    open_inference = OpenInference(node, batching, measures, wall_clock)
    routes = [
        *open_inference.routes(),
        *GenerateExtension(node, completing).routes(),
        *OpenAI(node, completing, wall_clock).routes(),
        *NodeStatus(node, measures, lambda: waiting.waiting).routes(),
        *Metrics(node, measures, lambda: waiting.waiting).routes(),
        *Control(node).routes(),
        *Page().routes(),
        *Events(node, measures, lambda: waiting.waiting, watch, stopping).routes(),
        *OpenApi(node).routes(),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _answer_unknown_path,
            Refused: _answer_refused,
            Exception: _answer_fault,
        },
    )
    # A slash too many is an unknown path, not a redirect to a name taken from the Host header.
    app.router.redirect_slashes = False
    stamped = Stamp(_Shortcut(app, open_inference.infer, job_name), node, measures)
    return RequestId(Bearer(stamped, token) if token else stamped)


class _Shortcut:
    """Takes inference requests to their endpoint past the routes and what wraps them.

    Matching a path with every route before, and three layers that look for errors, cost such a
    request as much as reading it and writing its answer.
    """

    def __init__(
        self, app: ASGIApp, infer: Callable[[Request], Awaitable[Response]], job_name: str
    ) -> None:
        self._app = app
        self._infer = infer
        self._path = f"/v2/models/{job_name}/infer"
        self._parameters = {"model": job_name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope.get("path") != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["path_params"] = self._parameters
        request = Request(scope, receive, send)
        try:
            response = await self._infer(request)
        except Refused as refused:
            response = await _answer_refused(request, refused)
        except Exception as error:
            await (await _answer_fault(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)


async def _answer_unknown_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    asked = f"{request.method} {quoted(request.url.path)}"
    headers = dict(getattr(error, "headers", None) or {})
    if status == 405:
        text = f"{asked} is not served: the path takes {headers.get('Allow', 'another method')}"
    else:
        text = f"{asked} is not served: {_PATHS}"
    return render_error(request.url.path, Refused(status, text), headers)


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return render_error(request.url.path, error)


async def _answer_fault(request: Request, error: Exception) -> Response:
    """Only for faults of this node itself; the server writes the traceback to the log."""
    text = f"this node failed on the request: {type(error).__name__}"
    return render_error(request.url.path, Refused(500, text))
