"""Requests that wait for the model run together, and none of them can tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from gradmq.errors import SettingsError
from gradmq.infer.batching import require_batchable
from gradmq.infer.limits import HttpLimits
from gradmq.serve import TensorModel, TensorSpec, TextModel

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"
SUMS = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def row(value: float, count: int = 1, **fields: Any) -> dict[str, Any]:
    data = [value] * (3 * count)
    tensor = {"name": "rows", "datatype": "FP32", "shape": [count, 3], "data": data}
    return {"inputs": [tensor], **fields}


def first_output(answer: Any) -> list[float]:
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"]  # type: ignore[no-any-return]


class Seen:
    """A model of sums that keeps how many rows each call had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.rows.append(len(rows))
        return rows.sum(dim=1), rows * 2


class Held:
    """A node whose model is busy, and requests that wait for it."""

    def __init__(self, node: Any, gate: Any, model: SUMS, pool: ThreadPoolExecutor) -> None:
        self.node = node
        self._pool = pool
        self._gate = gate(model)
        node.offer(1, self._gate)
        self.busy = self.post(row(0))
        self._gate.entered.wait()
        self._waiting = 0

    def post(self, body: dict[str, Any], path: str = INFER) -> Future[Any]:
        return self._pool.submit(self.node.post, path, body)

    def queue(self, *bodies: dict[str, Any], path: str = INFER) -> list[Future[Any]]:
        """Post one after the other; each is in the queue before the next is sent."""
        posted = []
        for body in bodies:
            posted.append(self.post(body, path))
            self._waiting += 1
            while self.node.client.get("/gradmq/v1/status").json()["waiting"] < self._waiting:
                pass
        return posted

    def let_go(self) -> None:
        self._gate.go.set()
        assert self.busy.result().status_code == 200


@pytest.fixture
def held(serve_node: Any, gate: Any, sums_spec: TensorModel) -> Iterator[Callable[..., Held]]:
    with ThreadPoolExecutor(16) as pool:
        made: list[Held] = []

        def make(model: SUMS, **limits: Any) -> Held:
            node = serve_node("sums", sums_spec, limits=HttpLimits(**({"batch_rows": 8} | limits)))
            made.append(Held(node, gate, model, pool))
            return made[-1]

        yield make
        for each in made:
            each.let_go()


def test_what_waits_while_the_model_is_busy_runs_in_one_batch(held: Any) -> None:
    seen = Seen()
    busy = held(seen)
    waiting = busy.queue(row(1), row(2, count=2), row(3))
    busy.let_go()
    assert [first_output(each.result()) for each in waiting] == [[3], [6, 6], [9]]
    assert seen.rows == [1, 4]


def test_without_a_batch_size_every_request_runs_by_itself(held: Any) -> None:
    seen = Seen()
    busy = held(seen, batch_rows=1)
    waiting = busy.queue(row(1), row(2))
    busy.let_go()
    assert [first_output(each.result()) for each in waiting] == [[3], [6]]
    assert seen.rows == [1, 1, 1]


def test_each_request_of_a_batch_gets_the_outputs_it_asked_for(held: Any) -> None:
    seen = Seen()
    busy = held(seen)
    only_double = row(1, outputs=[{"name": "double"}], id="one")
    turned = row(2, outputs=[{"name": "double"}, {"name": "sum"}], id="two")
    one, two, three = busy.queue(only_double, turned, row(3))
    busy.let_go()
    answers = [each.result().json() for each in (one, two, three)]
    assert seen.rows == [1, 3]
    assert [[o["name"] for o in answer["outputs"]] for answer in answers] == [
        ["double"],
        ["double", "sum"],
        ["sum", "double"],
    ]
    assert [answer.get("id") for answer in answers] == ["one", "two", None]
    assert answers[0]["outputs"][0]["data"] == [2, 2, 2]
    assert answers[1]["outputs"][1]["data"] == [6]


def test_all_answers_of_a_batch_come_from_one_release(held: Any) -> None:
    busy = held(Seen())
    seen = Seen()
    before = busy.queue(row(1), row(1))
    busy.node.offer(2, seen)
    after = busy.queue(row(1), row(1))
    busy.let_go()
    answers = [each.result() for each in before + after]
    assert {answer.json()["model_version"] for answer in answers} == {"2"}
    assert {answer.headers["x-gradmq-release"] for answer in answers} == {"2"}
    assert seen.rows == [4]


def test_a_version_that_is_gone_is_refused_and_the_rest_of_its_batch_answered(held: Any) -> None:
    busy = held(Seen())
    (old,) = busy.queue(row(1), path="/v2/models/sums/versions/1/infer")
    (other,) = busy.queue(row(2))
    busy.node.offer(2, Seen())
    busy.let_go()
    assert old.result().status_code == 404
    assert "the current one is 2" in old.result().json()["error"]
    assert first_output(other.result()) == [6]


def test_a_request_that_the_model_fails_on_spoils_no_other(held: Any) -> None:
    def picky(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if (rows == 13).any():
            raise ArithmeticError("13")
        return rows.sum(dim=1), rows

    busy = held(picky)
    one, bad, two = busy.queue(row(1), row(13), row(2))
    busy.let_go()
    assert bad.result().status_code == 500
    assert "ArithmeticError: 13" in bad.result().json()["error"]
    assert [first_output(one.result()), first_output(two.result())] == [[3], [6]]


def test_an_answer_that_json_cannot_write_spoils_no_other(held: Any) -> None:
    busy = held(lambda rows: (1 / (rows.sum(dim=1) - 3), rows))
    good, bad = busy.queue(row(2), row(1, outputs=[{"name": "sum"}]))
    busy.let_go()
    assert first_output(good.result()) == pytest.approx([1 / 3])
    assert bad.result().status_code == 500
    assert "NaN or infinite" in bad.result().json()["error"]


def test_a_model_that_mixes_rows_is_found_out_and_answers_one_by_one(held: Any) -> None:
    calls = []

    def one_row_whatever(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(rows))
        return rows.sum().reshape(1), rows

    busy = held(one_row_whatever)
    waiting = busy.queue(row(1), row(2))
    busy.let_go()
    assert [first_output(each.result()) for each in waiting] == [[3], [6]]
    assert calls == [1, 2, 1, 1]


def test_a_full_queue_sheds_load_with_retry_after(held: Any) -> None:
    busy = held(Seen(), waiting_requests=2)
    waiting = busy.queue(row(1), row(2))
    refused = busy.node.post(INFER, row(3))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "2 requests are already waiting" in refused.json()["error"]
    busy.let_go()
    assert [first_output(each.result()) for each in waiting] == [[3], [6]]


def test_a_request_ends_at_its_own_timeout_and_is_not_run(held: Any) -> None:
    seen = Seen()
    busy = held(seen)
    refused = busy.node.post(INFER, row(1, parameters={"timeout": 50_000}))
    assert refused.status_code == 504
    assert "no answer after 0.05 s" in refused.json()["error"]
    (waiting,) = busy.queue(row(2))
    busy.let_go()
    assert first_output(waiting.result()) == [6]
    assert seen.rows == [1, 1]


def test_requests_on_an_idle_node_wait_for_each_other_no_longer_than_the_delay(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    seen = Seen()
    limits = HttpLimits(batch_rows=3, batch_delay_s=20.0)
    node = serve_node("sums", sums_spec, limits=limits)
    node.offer(1, seen)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda value: node.post(INFER, row(value)), (1, 2, 3)))
    assert [first_output(answer) for answer in answers] == [[3], [6], [9]]
    assert seen.rows == [3]  # full long before the delay is over
    assert len(first_output(node.post(INFER, row(1, count=5)))) == 5
    assert seen.rows == [3, 5]


def test_a_lone_request_is_run_when_the_delay_is_over(
    serve_node: Any, sums_spec: TensorModel
) -> None:
    node = serve_node("sums", sums_spec, limits=HttpLimits(batch_rows=3, batch_delay_s=0.02))
    node.offer(1, Seen())
    assert first_output(node.post(INFER, row(1))) == [3]


def test_tensors_of_other_shapes_do_not_share_a_batch(serve_node: Any, gate: Any) -> None:
    spec = TensorModel((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
    node = serve_node("wide", spec, limits=HttpLimits(batch_rows=8))
    shapes: list[tuple[int, ...]] = []
    lock = threading.Lock()

    def model(x: torch.Tensor) -> torch.Tensor:
        with lock:
            shapes.append(tuple(x.shape))
        return x.sum(dim=1)

    node.offer(1, model)

    def ask(width: int) -> list[float]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": [1] * width}
        return first_output(node.post("/v2/models/wide/infer", {"inputs": [tensor]}))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, (2, 3, 2, 3, 2, 3))) == [[2], [3], [2], [3], [2], [3]]
    assert sum(rows for rows, width in shapes if width == 2) == 3


def test_the_configuration_tells_of_batches(serve_node: Any, sums_spec: TensorModel) -> None:
    limits = HttpLimits(batch_rows=8, batch_delay_s=0.002)
    config = serve_node("sums", sums_spec, limits=limits).client.get("/v2/models/sums/config")
    assert config.json()["max_batch_size"] == 8
    assert config.json()["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    assert config.json()["input"][0]["dims"] == [3]


def test_batches_of_a_model_that_cannot_have_them_are_refused_at_the_start(
    sums_spec: TensorModel, text_spec: TextModel
) -> None:
    fixed = TensorModel((TensorSpec("x", "FP32", (1, 3)),), sums_spec.outputs)
    require_batchable(sums_spec, 8)
    for spec in (fixed, text_spec):
        require_batchable(spec, 1)
        with pytest.raises(SettingsError, match=r"infer\.max_batch_size is 8, but") as refused:
            require_batchable(spec, 8)
        assert ("TensorModel" in str(refused.value)) == isinstance(spec, TensorModel)
