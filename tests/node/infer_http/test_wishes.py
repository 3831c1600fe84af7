"""What a request may ask of the release that answers it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch

from gradmq.infer.limits import HttpLimits
from gradmq.serve import TensorModel, TextModel

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"
ROW = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}]}


def constant(value: float) -> Any:
    return lambda rows: (torch.full((len(rows),), value), rows)


@pytest.fixture
def node(serve_node: Any, sums_spec: TensorModel) -> Any:
    """Holds releases 3, 8 and 9, of which the newest answers; keeps three."""
    node = serve_node("sums", sums_spec, keep=3)
    for number in (3, 8, 9):
        node.offer(number, constant(number))
    return node


def ask(node: Any, query: str = "", path: str = INFER, **wishes: str) -> Any:
    """``max_age="2s"`` becomes the header x-gradmq-max-age."""
    headers = {f"x-gradmq-{name.replace('_', '-')}": value for name, value in wishes.items()}
    return node.client.post(path + query, json=ROW, headers=headers)


@pytest.mark.parametrize("version", [3, 8, 9])
def test_a_pinned_release_answers_by_header_by_query_and_by_the_version_in_the_path(
    node: Any, version: int
) -> None:
    for answer in (
        ask(node, pin=str(version)),
        ask(node, query=f"?pin={version}"),
        ask(node, path=f"/v2/models/sums/versions/{version}/infer"),
    ):
        assert answer.json()["outputs"][0]["data"] == [version]
        assert answer.headers["x-gradmq-release"] == str(version)


def test_the_versions_of_the_model_are_the_releases_held(node: Any) -> None:
    assert node.client.get("/v2/models/sums").json()["versions"] == ["3", "8", "9"]
    assert node.client.get("/v2/models/sums/versions/3/ready").status_code == 200
    refused = node.client.get("/v2/models/sums/versions/4")
    assert refused.status_code == 404
    assert "held are 3, 8, 9" in refused.json()["error"]
    assert ask(node, path="/v2/models/sums/versions/4/infer").status_code == 404


@pytest.mark.parametrize("version", ["newest", "03", "-1", "3.0", "1" * 30])
def test_a_version_in_the_path_that_is_no_number_of_a_release_is_not_found(
    node: Any, version: str
) -> None:
    refused = ask(node, path=f"/v2/models/sums/versions/{version}/infer")
    assert refused.status_code == 404
    assert version[:20] in refused.json()["error"]


def test_a_wish_that_will_not_come_true_is_refused_at_once_with_what_is_there(node: Any) -> None:
    refused = ask(node, pin="4")
    assert refused.status_code == 409
    assert refused.json()["error"].startswith(
        "release 4 is not held here; held are 3, 8, 9; "
        "this node has release 9, versions 1:90,2:91, age 0."
    )
    assert refused.headers["x-gradmq-release"] == "9"
    lost = ask(node, min_version="1:90,1:7")
    assert lost.status_code == 409
    assert "of a later life than 1:7: that update may be lost" in lost.json()["error"]


def test_a_wish_that_may_come_true_is_refused_when_its_wait_is_over(node: Any) -> None:
    for wish in ({"min_release": "10"}, {"min_version": "1:90,2:92"}, {"pin": "12"}):
        refused = ask(node, wait="10ms", **wish)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "after a wait of 0.01 s; this node has release 9" in refused.json()["error"]


def test_without_a_wait_of_its_own_a_request_waits_as_long_as_it_may_take(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(request_s=0.3))
    node.offer(1, constant(1))
    refused = ask(node, min_release="2")
    assert refused.status_code == 503
    assert "release 1 is older than 2" in refused.json()["error"]


@pytest.mark.parametrize(
    "wish", [{"min_release": "10"}, {"max_age": "30s"}, {"min_version": "1:95,-"}, {"pin": "10"}]
)
def test_a_request_waits_for_what_it_wishes_and_is_then_answered_from_it(
    serve_node: Any, sums_spec: TensorModel, wish: dict[str, str]
) -> None:
    node = serve_node("sums", sums_spec)
    node.offer(9, constant(9), age_s=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, node, **wish)
        # Answered by the loop that the first request waits in: by then it has been looked at.
        assert ask(node).json()["outputs"][0]["data"] == [9]
        node.offer(10, constant(10))
        answer = waiting.result()
    assert answer.json()["outputs"][0]["data"] == [10]
    assert answer.json()["parameters"]["gradmq_versions"] == "1:100,2:101"


def test_a_request_may_wait_for_the_first_release(serve_node: Any, sums_spec: TensorModel) -> None:
    node = serve_node("sums", sums_spec)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, node, wait="20s")
        node.client.get("/healthz")
        node.offer(1, constant(1))
        assert waiting.result().headers["x-gradmq-release"] == "1"


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"max_age": "soon"}, "max_age must be a duration, as in 2s or 500ms: 'soon'"),
        ({"max_age": "1.2.3"}, "max_age must be a duration"),
        ({"min_release": "-1"}, "min_release must be the number of a release, got '-1'"),
        ({"pin": "9" * 30}, "pin must be the number of a release"),
        ({"min_version": "4711"}, "min_version must be INCARNATION:VERSION of each shard"),
        ({"maxage": "2s"}, "unknown header 'x-gradmq-maxage': a request may say max_age"),
        ({"pin": "3", "query": "?pin=8"}, "pin is given twice"),
        ({"query": "?wait=1s&wait=2s"}, "wait is given twice"),
        ({"pin": "8", "path": "/v2/models/sums/versions/9/infer"}, "request to version 9"),
    ],
)
def test_a_wish_that_cannot_be_read_is_refused(node: Any, wish: dict[str, str], says: str) -> None:
    refused = ask(node, **wish)
    assert refused.status_code == 400
    assert says in refused.json()["error"]


def test_a_completion_may_wish_too_through_the_client_of_the_dialect(
    serve_node: Any, text_spec: TextModel
) -> None:
    node = serve_node("letters", text_spec, keep=2)
    for number in (1, 2):
        node.offer(number, lambda ids: torch.nn.functional.one_hot((ids + 1) % 256, 256).float())
    with openai.OpenAI(base_url=node.url + "/v1", api_key="none", max_retries=0) as client:
        wish = {"x-gradmq-pin": "1"}
        answer = client.completions.create(
            model="letters", prompt="a", max_tokens=1, extra_headers=wish
        )
        assert answer.system_fingerprint == "release-1"
        with pytest.raises(openai.ConflictError) as refused:
            client.completions.create(model="letters", prompt="a", extra_query={"pin": "0"})
        assert refused.value.code == "release_not_held"


def test_a_split_sends_the_same_request_id_to_the_same_release_and_counts(node: Any) -> None:
    node.serving.label("stable", 3)
    node.serving.split({"stable": 1, "newest": 1})
    by_id: dict[str, set[str]] = {}
    for name in [*"abcdefghijklmnop"] * 2:
        headers = {"x-request-id": name}
        answer = node.client.post(INFER, json=ROW, headers=headers)
        by_id.setdefault(name, set()).add(answer.headers["x-gradmq-release"])
    assert all(len(releases) == 1 for releases in by_id.values())
    assert set.union(*by_id.values()) == {"3", "9"}
    assert sum(held.answers for held in node.serving.held()) == 32


def test_a_node_that_hears_nothing_new_stays_ready_only_up_to_its_age(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, max_age_s=30.0)
    node.offer(1, constant(1), age_s=60)
    assert node.client.get("/v2/health/ready").status_code == 503
    assert node.client.get("/v2/models/sums/ready").status_code == 503
    assert ask(node).status_code == 200
    node.offer(2, constant(2))
    assert node.client.get("/v2/health/ready").status_code == 200
    assert node.client.get("/v2/models/sums/ready").status_code == 200
