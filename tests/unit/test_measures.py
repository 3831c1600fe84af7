"""Measures and the text that Prometheus reads."""

from __future__ import annotations

from gradmq.exposition import Family, Histogram, one, render
from gradmq.infer.measures import Measures
from gradmq.infer.model_statistics import model_statistics


def test_the_text_format_to_the_byte() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.25, 0.5, 3.0):
        histogram.observe(value)
    families = [
        one("up", "gauge", "Whether.", 1, model='a "b" \\ c\nd'),
        Family("none_total", "counter", "Nothing yet.", []),
        Family("took_seconds", "histogram", "How\nlong.", list(histogram.samples({"m": "x"}))),
    ]
    assert render(families).decode() == (
        "# HELP up Whether.\n"
        "# TYPE up gauge\n"
        'up{model="a \\"b\\" \\\\ c\\nd"} 1\n'
        "# HELP none_total Nothing yet.\n"
        "# TYPE none_total counter\n"
        "# HELP took_seconds How\\nlong.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{m="x",le="0.5"} 2\n'
        'took_seconds_bucket{m="x",le="1"} 2\n'
        'took_seconds_bucket{m="x",le="+Inf"} 3\n'
        'took_seconds_sum{m="x"} 3.75\n'
        'took_seconds_count{m="x"} 3\n'
    )


def test_what_is_no_finite_number_has_a_name_of_its_own() -> None:
    values = {"nan": float("nan"), "up": float("inf"), "down": float("-inf")}
    family = Family("loss", "gauge", "x", [("", {"l": name}, v) for name, v in values.items()])
    assert render([family]).decode().splitlines()[2:] == [
        'loss{l="nan"} NaN',
        'loss{l="up"} +Inf',
        'loss{l="down"} -Inf',
    ]


def test_latencies_are_kept_of_the_newest_releases_only() -> None:
    measures = Measures()
    for release in range(1, 1001):
        measures.answered(release, 0.1)
        measures.answered(release - 1, 0.1)
    measures.answered(2, 0.1)
    assert list(measures.latency_by_release) == [997, 998, 999, 1000]
    assert sum(measures.latency.counts) == 2001
    assert sum(measures.latency_by_release[999].counts) == 2


def test_each_request_of_a_batch_spends_the_time_of_the_batch() -> None:
    measures = Measures()
    measures.batch([0.5, 0.25], 6, 1, input_s=1.0, infer_s=2.0, output_s=4.0)
    statistics = model_statistics("m", "7", measures)["model_stats"]
    assert isinstance(statistics, list)
    (model,) = statistics
    assert (model["inference_count"], model["execution_count"]) == (6, 1)
    assert model["inference_stats"]["queue"] == {"count": 2, "ns": 750_000_000}
    assert model["inference_stats"]["compute_infer"] == {"count": 2, "ns": 4_000_000_000}


def test_failures_are_told_apart_by_who_is_to_blame() -> None:
    measures = Measures()
    for status in (400, 404, 429, 499, 500, 504):
        measures.failed(status, 1.0)
    counts = {reason: stage.count for reason, stage in measures.failures.items()}
    assert counts == {"OTHER": 2, "REJECTED": 1, "CANCELED": 1, "BACKEND": 2}
