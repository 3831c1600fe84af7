"""``/metrics`` and ``stats`` as their readers find them, and what is drawn and alerted by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.serve import TensorModel
from scraping import alerts, check_dashboard, check_expression, families, scraped

pytestmark = pytest.mark.torch

DOCS = Path(__file__).parents[3] / "docs"
INFER = "/v2/models/sums/infer"


def one_row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": list(values)}]}


@pytest.fixture
def asked_node(serve_node: Any, sums_spec: TensorModel) -> Any:
    """Asked three times: two answers, one refusal; then a failure by another release."""
    node = serve_node("sums", sums_spec, limits=HttpLimits(batch_rows=8))
    node.offer(3, lambda rows: (rows.sum(dim=1), rows))
    node.post(INFER, one_row(1, 2, 3))
    node.post(INFER, {"inputs": [one_row()["inputs"][0] | {"shape": [2, 3], "data": [0] * 6}]})
    node.post(INFER, {})
    node.offer(4, lambda rows: rows @ rows)
    node.post(INFER, one_row(1, 2, 3))
    return node


def test_metrics_count_what_was_asked_and_what_is_served(asked_node: Any) -> None:
    answer = asked_node.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = scraped(answer.text)
    model, triton = 'model="sums"', 'model="sums",version="all"'
    assert found["gradmq_release"] == {model: 4}
    assert found["gradmq_release_age_seconds"][model] >= 0
    assert found["gradmq_swaps_total"] == {model: 1}
    assert found["gradmq_waiting_requests"] == {model: 0}
    assert found["gradmq_requests_total"] == {
        f'{model},code="200"': 2,
        f'{model},code="400"': 1,
        f'{model},code="500"': 1,
    }
    assert found["gradmq_request_seconds_count"] == {model: 2}
    assert found["gradmq_release_request_seconds_count"] == {f'{model},release="3"': 2}
    assert found["gradmq_batch_rows_sum"] == {model: 3}
    assert found["nv_inference_request_success"] == {triton: 2}
    assert found["nv_inference_request_failure"] == {
        f'{triton},reason="BACKEND"': 1,
        f'{triton},reason="OTHER"': 1,
    }
    assert found["nv_inference_count"] == {triton: 3}
    assert found["nv_inference_exec_count"] == {triton: 2}
    whole = found["nv_inference_request_duration_us"][triton]
    assert whole >= found["nv_inference_compute_infer_duration_us"][triton] > 0


def test_buckets_grow_up_to_the_count(asked_node: Any) -> None:
    found = scraped(asked_node.client.get("/metrics").text)
    buckets = list(found["gradmq_request_seconds_bucket"].values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["gradmq_request_seconds_count"]['model="sums"'] == 2


def test_before_the_first_release_there_is_none_to_show(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    found = scraped(serve_node("sums", sums_spec).client.get("/metrics").text)
    assert "gradmq_release" not in found
    assert found["gradmq_swaps_total"] == {'model="sums"': 0}


def test_the_lag_is_how_many_releases_came_after_the_one_that_answers(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    measures = Measures()
    node = serve_node("sums", sums_spec, measures=measures)
    node.offer(3, lambda rows: rows)
    measures.newest_release = 5
    measures.swaps.add(0.5)
    found = scraped(node.client.get("/metrics").text)
    assert found["gradmq_release_lag"] == {'model="sums"': 2}
    assert found["gradmq_swap_seconds_sum"] == {'model="sums"': 0.5}


def test_completions_are_measured_too(letters_node: Any) -> None:
    def answers() -> float:
        found = scraped(letters_node.client.get("/metrics").text)
        assert "nv_inference_count" not in found
        return found["gradmq_request_seconds_count"]['model="letters"']

    before = answers()
    letters_node.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert answers() == before + 1


def test_metrics_are_for_who_bears_the_token(serve_node: Any, sums_spec: TensorModel) -> None:
    node = serve_node("sums", sums_spec, token="t" * 20)
    assert node.client.get("/metrics").status_code == 401


def test_statistics_are_those_that_perf_analyzer_subtracts(asked_node: Any) -> None:
    for path in ("/v2/models/stats", "/v2/models/sums/stats", "/v2/models/sums/versions/4/stats"):
        (model,) = asked_node.client.get(path).json()["model_stats"]
        assert (model["name"], model["version"]) == ("sums", "4")
        assert (model["inference_count"], model["execution_count"]) == (3, 2)
        assert model["last_inference"] > 0
        assert {name: stat["count"] for name, stat in model["inference_stats"].items()} == {
            "success": 2,
            "fail": 2,
            "queue": 2,
            "compute_input": 2,
            "compute_infer": 2,
            "compute_output": 2,
            "cache_hit": 0,
            "cache_miss": 0,
        }
    assert asked_node.client.get("/v2/models/products/stats").status_code == 404
    assert asked_node.client.get("/v2/models/sums/versions/9/stats").status_code == 404


# What is built on the names.


def test_the_dashboard_draws_only_what_is_measured(asked_node: Any) -> None:
    check_dashboard("grafana-dashboard.json", families(asked_node.client.get("/metrics").text))


def test_the_alerts_ask_only_for_what_is_measured(asked_node: Any) -> None:
    measured = families(asked_node.client.get("/metrics").text)
    for rule in alerts("gradmq-infer"):
        check_expression(rule["expr"], measured)


def test_the_page_lists_every_metric(asked_node: Any) -> None:
    page = (DOCS / "serving.md").read_text()
    missing = [n for n in families(asked_node.client.get("/metrics").text) if n not in page]
    assert missing == []
