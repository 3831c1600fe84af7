"""What every HTTP dialect of a node works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from gradmq.infer.body import Intake
from gradmq.infer.choosing import Choice
from gradmq.infer.limits import HttpLimits
from gradmq.infer.serving import Holding, Serving
from gradmq.serve import TensorModel, TextModel

#: On every answer once there is a release: its number, and its age in milliseconds.
RELEASE_HEADER = "x-gradmq-release"
AGE_HEADER = "x-gradmq-age-ms"


@dataclass(frozen=True, slots=True)
class NodeApi:
    """The one model of this node, and the ways to it."""

    job_name: str
    spec: TensorModel | TextModel
    serving: Serving
    intake: Intake
    limits: HttpLimits
    clock: Callable[[], float]
    """Monotonic seconds; the clock that the stream's thread reports releases with."""
    max_age_s: float | None = None
    """Above this age of its newest release the node is not ready; None: it always is."""

    @property
    def tensors(self) -> TensorModel:
        """The model as one of tensors; one of text has none."""
        return self.spec if isinstance(self.spec, TensorModel) else TensorModel((), ())

    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.serving.is_ready(self.clock(), self.max_age_s)

    def deadline_s(self) -> float:
        """When a request that begins now must be answered, on the running event loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.request_s

    def choice(self, request: Request, deadline_s: float) -> Choice:
        """What this request wishes for; raises ``Refused`` 400 for a wrong wish."""
        left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        return Choice(request, self.serving, self.clock, left_s)

    def age_ms(self, holding: Holding) -> str:
        """The age of a release at this moment, as answers carry it."""
        return str(round(holding.age_s(self.clock()) * 1000))

    def release_headers(self, holding: Holding) -> dict[str, str]:
        """The headers that name the release an answer came from."""
        return {RELEASE_HEADER: str(holding.release.number), AGE_HEADER: self.age_ms(holding)}
