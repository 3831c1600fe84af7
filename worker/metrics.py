"""What a worker shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from gradmq.exposition import Family, histogram, one
from gradmq.worker.tally import WorkerStatistics


def families(name: str, found: WorkerStatistics) -> Iterator[Family]:
    """Of the worker with this name."""
    label = {"worker": name}

    def gauge(key: str, text: str, value: float) -> Family:
        return one(f"gradmq_worker_{key}", "gauge", text, value, **label)

    def counter(key: str, text: str, value: float) -> Family:
        return one(f"gradmq_worker_{key}_total", "counter", text, value, **label)

    yield gauge("session", "Its present session; another one after it was fenced.", found.session)
    yield counter("pushes", "Gradients pushed.", found.pushes)
    yield counter("samples", "Samples of the gradients pushed.", found.samples)
    text = "Gradients not pushed because they were not finite."
    yield counter("skipped_nonfinite", text, found.skipped_nonfinite)
    yield gauge("pushes_in_flight", "Pushes in the window.", found.in_flight)
    yield gauge("window", "Pushes that the window takes.", found.max_in_flight)
    verdicts = [
        ("", {**label, "outcome": outcome, "reason": reason}, count)
        for (outcome, reason), count in {("applied", ""): 0, **found.verdicts}.items()
    ]
    text = "Verdicts, one per push and shard, by outcome and reason."
    yield Family("gradmq_worker_verdicts_total", "counter", text, verdicts)
    waits = [("", {**label, "for": what}, seconds) for what, seconds in found.waited_s.items()]
    text = "Time that the program waited, by what for."
    yield Family("gradmq_worker_wait_seconds_total", "counter", text, waits)
    text = "From an applied push to parameters in the model that hold it."
    yield histogram("gradmq_worker_push_to_installed_seconds", text, found.installed_after, label)
    text = "How often parameters were overwritten while they were copied."
    yield counter("torn_reads", text, found.torn_reads)
    yield gauge("quarantined", "1 while its pushes are not looked at.", found.quarantined)
    if found.loss is not None:
        yield gauge("loss", "The last one.", found.loss)
