"""``/metrics`` of broker, shard and worker, scraped while they train, and what is built on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import gradmq
from gradmq.jobs import load
from gradmq.run.roles import RoleProcess, end_all
from scraping import OPERATIONS, alerts, check_dashboard, check_expression, families, scraped

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

JOB = Path(__file__).parents[2] / "examples" / "regression.py"
PAGE = OPERATIONS.parent / "metrics.md"

#: What inference nodes measure; tests/node/infer_http/test_metrics.py scrapes them.
OF_NODES = {"gradmq_release_age_seconds"}


@dataclass(frozen=True)
class Run:
    """What one scrape of each role gave."""

    broker: str
    shard: str
    worker: str
    targets: list[dict[str, object]]

    @property
    def measured(self) -> set[str]:
        return families(self.broker) | families(self.shard) | families(self.worker)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A shard with a journal, and a worker of a job, trained for a moment."""
    settings = {"metrics.port": 0, "run.durability": "journal"}
    with gradmq.LocalCluster(load(str(JOB)).model(), settings=settings) as cluster:
        words = [str(JOB), "--broker", cluster.address, "--name", "w", "--metrics-port", "0"]
        log = tmp_path_factory.mktemp("log") / "w.log"
        worker = RoleProcess("w", "gradmq.worker", words, log)
        try:
            while True:
                status = cluster.status()
                (row,) = status["workers"] or [{"applied": 0, "metrics": ""}]
                if row["applied"] >= 5 and row["metrics"]:
                    break
                assert worker.failure() is None
                time.sleep(0.05)
            (shard,) = status["shards"]
            with gradmq.Follower(load(str(JOB)).model(), cluster.address) as follower:
                follower.report_evaluation(follower.update(timeout=5.0), {"rmse": 0.5})
                while not cluster.status()["evaluations"]:
                    time.sleep(0.05)
                yield Run(
                    scrape(status["metrics"]),
                    scrape(shard["metrics"]),
                    scrape(row["metrics"]),
                    httpx.get(f"http://{status['metrics']}/targets").json(),
                )
        finally:
            end_all([worker])


def scrape(address: str) -> str:
    answer = httpx.get(f"http://{address}/metrics", timeout=30.0)
    assert answer.status_code == 200
    return answer.text


def test_a_broker_shows_the_run(run: Run) -> None:
    found = scraped(run.broker)
    assert found["gradmq_run_members"]['role="worker"'] == 1
    assert found["gradmq_run_phase"] == {
        'phase="waiting"': 0,
        'phase="open"': 1,
        'phase="draining"': 0,
    }
    assert found["gradmq_run_release"][""] >= 1
    assert found["gradmq_run_evaluation"] == {'metric="rmse"': 0.5}
    assert found["gradmq_memory_limit_bytes"][""] > found["gradmq_memory_held_bytes"][""] > 0


def test_a_shard_shows_what_it_decided_and_wrote(run: Run) -> None:
    found, shard = scraped(run.shard), 'shard="0"'
    applied = found["gradmq_shard_pushes_applied_total"][shard]
    assert applied >= 5
    assert found["gradmq_shard_version"][shard] == applied
    assert found["gradmq_shard_push_staleness_count"][shard] == applied
    assert found["gradmq_shard_push_seconds_count"][shard] >= applied
    assert found["gradmq_shard_samples_applied_total"][shard] == 256 * applied
    assert found["gradmq_shard_pushes_rejected_total"][f'{shard},reason="norm"'] == 0
    assert found["gradmq_shard_journal_bytes_total"][shard] > 0
    assert found["gradmq_shard_published_bytes_total"][f'{shard},kind="release"'] > 0


def test_a_worker_shows_its_pushes_and_waits(run: Run) -> None:
    found, worker = scraped(run.worker), 'worker="w"'
    applied = found["gradmq_worker_verdicts_total"][f'{worker},outcome="applied",reason=""']
    assert found["gradmq_worker_pushes_total"][worker] >= applied >= 5
    assert found["gradmq_worker_push_to_installed_seconds_count"][worker] >= 5
    assert found["gradmq_worker_wait_seconds_total"][f'{worker},for="join"'] > 0
    assert found["gradmq_worker_window"][worker] == 2


def test_the_broker_names_everybody_who_can_be_scraped(run: Run) -> None:
    labels = [group["labels"] for group in run.targets]
    assert labels == [
        {"run": "local", "role": "broker", "member": "broker"},
        {"run": "local", "role": "ps", "member": "ps-0"},
        {"run": "local", "role": "worker", "member": "w"},
    ]


def test_the_dashboard_draws_only_what_is_measured(run: Run) -> None:
    check_dashboard("grafana-training.json", run.measured | OF_NODES)


def test_the_alerts_ask_only_for_what_is_measured(run: Run) -> None:
    for rule in alerts("gradmq-training"):
        check_expression(rule["expr"], run.measured)


def test_the_page_lists_every_metric_and_no_other(run: Run) -> None:
    page = PAGE.read_text()
    assert [name for name in run.measured if f"`{name}`" not in page] == []
    tables = page.partition("## The broker")[2]
    named = {w for w in tables.replace("`", " ").split() if w.startswith("gradmq_")}
    assert named <= run.measured
