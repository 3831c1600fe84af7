"""Curves in bounded memory, and what a node makes of the statuses of its run."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq import strict_json
from gradmq.infer.history import History
from gradmq.infer.run_watch import RunWatch


def history_of(count: int, recent: int) -> list[int]:
    history: History[int] = History(recent)
    for point in range(count):
        history.add(point)
    return history.points()


def test_a_short_history_is_whole() -> None:
    assert history_of(8, recent=4) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_longer_one_is_thinned_where_it_is_old() -> None:
    assert history_of(12, recent=4) == [0, 2, 4, 6, 8, 9, 10, 11]
    assert history_of(13, recent=4) == [0, 4, 8, 9, 10, 11, 12]


@given(st.integers(0, 500), st.integers(1, 8))
def test_a_history_is_bounded_ordered_and_keeps_its_beginning_and_its_end(
    count: int, recent: int
) -> None:
    points = history_of(count, recent)
    assert len(points) == min(count, len(points)) <= 2 * recent
    assert points == sorted(set(points))
    assert points[:1] == list(range(count))[:1]
    assert points[-recent:] == list(range(count))[-recent:]
    older = points[:-recent]
    assert len({after - before for before, after in pairwise(older)}) <= 1


def status(release: int, **fields: Any) -> dict[str, Any]:
    return {
        "run": "lm",
        "phase": "open",
        "waiting_for": "",
        "release": {"number": release},
        "shards": [],
        "workers": [],
        "infer": [],
        "followers": [],
        "evaluations": [],
        **fields,
    }


def worker(**fields: Any) -> dict[str, Any]:
    row = {"name": "worker-1", "live": True, "lost": False, "seq": 1, "applied": 3, "samples": 9}
    row |= {"staleness": {"median": 0, "max": 1, "histogram": [[0, 2], [1, 1]]}, "share": 1.0}
    row |= {"rejected": {}, "samples_per_s": 2.0, "loss": 2.5, "skipped_nonfinite": 0}
    return {**row, "waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0, **fields}


def test_the_history_has_one_point_for_each_release_that_was_seen() -> None:
    watch = RunWatch()
    for now, release in ((10.0, 0), (11.0, 1), (12.0, 1), (13.0, 4)):
        watch.heard(status(release, workers=[worker()]), now)
    assert watch.history()["points"] == [[0, 0.0, 0, 2.5], [1, 1.0, 0, 2.5], [4, 3.0, 0, 2.5]]
    assert watch.report(13.5)["point"] == [4, 3.0, 0, 2.5]


def test_evaluations_that_the_status_has_forgotten_are_remembered() -> None:
    watch = RunWatch(higher_is_better=True)
    evaluations = [{"release": n, "accuracy": n / 10} for n in range(4)]
    watch.heard(status(1, evaluations=evaluations[:2]), 1.0)
    watch.heard(status(3, evaluations=evaluations[1:]), 2.0)
    assert watch.history()["evaluations"] == evaluations
    metric = watch.report(2.0)["metric"]
    assert (metric["name"], metric["first"], metric["best"]) == ("accuracy", 0.0, 0.3)


def test_a_report_says_how_long_nothing_was_heard_and_waits_in_words_that_go_on() -> None:
    watch = RunWatch()
    assert watch.report(5.0)["silent_s"] is None
    watch.heard(status(7, workers=[worker(waiting_for="shard 1", waiting_s=3.0)]), 10.0)
    report = watch.report(14.0)
    assert report["silent_s"] == 4.0
    assert report["staleness"] == [[0, 2], [1, 1]]
    assert report["workers"][0]["wait"] == "waits"
    assert report["workers"][0]["wait_text"] == "waits 7.0 s for shard 1"


def test_a_loss_that_is_no_number_can_be_told_as_json() -> None:
    watch = RunWatch()
    watch.heard(status(7, workers=[worker(loss=float("nan"))]), 10.0)
    told = json.loads(strict_json.dumps([watch.report(10.0), watch.history()]))
    assert told[0]["loss"] is None
    assert told[1]["points"] == [[7, 0.0, 0, None]]


def test_a_status_that_cannot_be_read_is_named_once_and_changes_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = RunWatch()
    watch.heard(status(7), 10.0)
    with caplog.at_level(logging.WARNING):
        watch.heard({"run": "lm"}, 11.0)
        watch.heard({"run": "lm"}, 12.0)
    assert watch.report(12.0)["silent_s"] == 2.0
    assert watch.report(12.0)["release"] == 7
    assert [record.getMessage() for record in caplog.records] == [
        "the broker's status cannot be read: KeyError('phase')"
    ]
