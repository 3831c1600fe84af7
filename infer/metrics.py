"""``/metrics`` for Prometheus: gradmq's own names, and Triton's beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.exposition import CONTENT_TYPE, Family, Stage, histogram, one, render, summary
from gradmq.infer.measures import Measures
from gradmq.infer.node_api import NodeApi
from gradmq.serve import TensorModel

#: Triton's label; a series for each release would never end.
_ALL_VERSIONS = "all"


class Metrics:
    """Answers ``/metrics``."""

    def __init__(self, node: NodeApi, measures: Measures, waiting: Callable[[], int]) -> None:
        """``waiting`` says how many requests wait for the model."""
        self._node = node
        self._measures = measures
        self._waiting = waiting
        self._model = {"model": node.job_name}

    def routes(self) -> list[Route]:
        """The path."""
        return [Route("/metrics", self.metrics, methods=["GET"])]

    async def metrics(self, request: Request) -> Response:
        """Everything that is measured, as of now."""
        families = [*self._releases(), *self._requests()]
        if isinstance(self._node.spec, TensorModel):
            families += [*self._batches(), *self._triton()]
        return Response(render(families), headers={"content-type": CONTENT_TYPE})

    def _releases(self) -> Iterator[Family]:
        now = self._node.clock()
        found, measures, model = self._node.serving.statistics(now), self._measures, self._model
        if found.release is not None and found.age_s is not None:
            text = "Number of the release that answers."
            yield one("gradmq_release", "gauge", text, found.release, **model)
            text = "Since this node last heard that the release that answers is the newest."
            yield one("gradmq_release_age_seconds", "gauge", text, found.age_s, **model)
            text = "Releases that came whole after the one that answers."
            lag = max(0, measures.newest_release - found.release)
            yield one("gradmq_release_lag", "gauge", text, lag, **model)
        text = "How often one release took the place of another."
        yield one("gradmq_swaps_total", "counter", text, found.swaps, **model)
        text = "Releases that came when one at least as new was held."
        yield one("gradmq_releases_passed_over_total", "counter", text, found.passed_over, **model)
        text = "Releases that were not served: not finite, or scored too low."
        yield one("gradmq_releases_skipped_total", "counter", text, found.turned_down, **model)
        text = "Time to make a release ready and to swap it in."
        yield summary("gradmq_swap_seconds", text, measures.swaps, model)
        text = "From the last update in a release, applied on a shard, to when it may answer here."
        yield histogram(
            "gradmq_applied_to_servable_seconds", text, measures.applied_to_servable, model
        )

    def _requests(self) -> Iterator[Family]:
        measures, model = self._measures, self._model
        counts = [("", {**model, "code": str(c)}, n) for c, n in sorted(measures.statuses.items())]
        text = "Answers to requests to the model, by HTTP status."
        yield Family("gradmq_requests_total", "counter", text, counts)
        text = "Requests that wait for the model."
        yield one("gradmq_waiting_requests", "gauge", text, self._waiting(), **model)
        text = "From the head of a request that a release answered to the end of the answer."
        yield histogram("gradmq_request_seconds", text, measures.latency, model)
        by_release = [
            sample
            for number, latency in list(measures.latency_by_release.items())
            for sample in latency.samples({**model, "release": str(number)})
        ]
        text = "The same for each of the newest releases that answered."
        yield Family("gradmq_release_request_seconds", "histogram", text, by_release)

    def _batches(self) -> Iterator[Family]:
        measures, model = self._measures, self._model
        text = "Rows that the model ran on at once."
        yield histogram("gradmq_batch_rows", text, measures.batch_rows, model)
        text = "Requests that the model ran on at once."
        yield histogram("gradmq_batch_requests", text, measures.batch_requests, model)

    def _triton(self) -> Iterator[Family]:
        measures = self._measures
        labels = {**self._model, "version": _ALL_VERSIONS}

        def counter(name: str, text: str, value: float) -> Family:
            return one(f"nv_inference_{name}", "counter", text, value, **labels)

        yield counter("request_success", "Inference requests answered.", measures.success.count)
        failures = [
            ("", {**labels, "reason": reason}, float(stage.count))
            for reason, stage in sorted(measures.failures.items())
        ]
        text = "Inference requests refused, by reason."
        yield Family("nv_inference_request_failure", "counter", text, failures)
        yield counter("count", "Rows that the model ran on.", measures.rows)
        yield counter("exec_count", "How often the model ran.", measures.executions)
        text = "Inference requests that wait for the model."
        yield one("nv_inference_pending_request_count", "gauge", text, self._waiting(), **labels)
        stages: tuple[tuple[str, str, Stage], ...] = (
            ("request", "Whole time of requests answered.", measures.success),
            ("queue", "Time that requests waited for the model.", measures.queue),
            ("compute_input", "Time of putting batches together.", measures.compute_input),
            ("compute_infer", "Time of the model, for each request.", measures.compute_infer),
            ("compute_output", "Time of writing answers.", measures.compute_output),
        )
        for name, text, stage in stages:
            microseconds = round(stage.seconds * 1e6)
            yield counter(f"{name}_duration_us", f"{text[:-1]}, in microseconds.", microseconds)
