"""What a node measures of the requests it answers and the releases it takes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final

from gradmq.exposition import Histogram, Stage

#: Seconds; from what a small model takes on an idle node to what people do not wait for.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: Releases whose own latencies are kept: a label that grows with every release would never end.
_RELEASES: Final = 4


class Measures:
    """Written by the event loop's thread; what is of swaps, by the one that swaps.

    Everything only grows, so that what reads it now and then can subtract.
    """

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        """Answers to requests to the model (every POST), by HTTP status."""
        self.latency = Histogram(_SECONDS)
        """Of requests that a release answered, whatever the dialect."""
        self.latency_by_release: OrderedDict[int, Histogram] = OrderedDict()
        self.success = Stage()
        """Inference requests only, as everything below it."""
        self.failures: dict[str, Stage] = {}
        self.queue = Stage()
        self.compute_input = Stage()
        self.compute_infer = Stage()
        self.compute_output = Stage()
        self.rows = 0
        self.executions = 0
        self.last_inference_at_s = 0.0
        """Unix time; 0 before the first."""
        self.batch_rows = Histogram(_SIZES)
        self.batch_requests = Histogram(_SIZES)
        self.swaps = Stage()
        self.applied_to_servable = Histogram(_SECONDS)
        """From the last update in a release to the instant at which the release may answer."""
        self.newest_release = 0
        """The newest that came whole to this node, served or not."""

    def count_statuses(self, statuses: range) -> int:
        """Answers whose HTTP status is one of these."""
        return sum(count for status, count in self.statuses.items() if status in statuses)

    def answered(self, release: int, seconds: float) -> None:
        """A release answered a request; ``seconds`` from its head to the end of the answer."""
        self.latency.observe(seconds)
        of_release = self.latency_by_release.get(release)
        if of_release is None:
            if len(self.latency_by_release) == _RELEASES:
                oldest = min(self.latency_by_release)
                if release < oldest:
                    return
                del self.latency_by_release[oldest]
            of_release = self.latency_by_release[release] = Histogram(_SECONDS)
        of_release.observe(seconds)

    def failed(self, status: int, seconds: float) -> None:
        """An inference request was refused."""
        reasons = {429: "REJECTED", 499: "CANCELED"}
        reason = reasons.get(status, "BACKEND" if status >= 500 else "OTHER")
        self.failures.setdefault(reason, Stage()).add(seconds)

    def batch(
        self,
        waited_s: Sequence[float],
        rows: int,
        executions: int,
        *,
        input_s: float,
        infer_s: float,
        output_s: float,
    ) -> None:
        """One batch ran; ``waited_s`` of each of its requests, ``rows`` of all together."""
        requests = len(waited_s)
        for seconds in waited_s:
            self.queue.add(seconds)
        # As Triton counts: each request spends the whole time of its batch.
        self.compute_input.add(input_s, requests)
        self.compute_infer.add(infer_s, requests)
        self.compute_output.add(output_s, requests)
        self.rows += rows
        self.executions += executions
        self.batch_rows.observe(rows)
        self.batch_requests.observe(requests)
