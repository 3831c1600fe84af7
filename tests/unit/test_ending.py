"""When a run ends, and why."""

from __future__ import annotations

from typing import Any

import pytest

from gradmq.config import Settings
from gradmq.errors import SettingsError
from gradmq.run.ending import Ending, Until, is_better


def ending(higher_is_better: bool = False, stop: Any = None, **settings: Any) -> Ending:
    run = Settings.model_validate({"run": settings}).run
    return Ending(run, higher_is_better, stop)


def status(version: int, samples: int = 0, evaluations: Any = (), phase: str = "open") -> Any:
    return {
        "phase": phase,
        "shards": [{"version": version}],
        "workers": [{"samples": samples}],
        "evaluations": [{"release": n, **metrics} for n, metrics in evaluations],
    }


def test_time_counts_from_the_first_update_and_not_from_the_start() -> None:
    end = ending(**{"for": "90s"})
    assert end.update(status(0), now=0.0) == ""
    assert end.update(status(0), now=500.0) == ""
    assert end.update(status(1), now=510.0) == ""
    assert end.update(status(2), now=599.9) == ""
    assert end.update(status(3), now=600.0) == "90 s of training"


def test_updates_of_a_resumed_run_count_from_where_it_began() -> None:
    end = ending(updates=10)
    assert end.update(status(1000), now=0.0) == ""
    assert end.update(status(1009), now=1.0) == ""
    assert end.updates_before == 1000
    assert end.update(status(1010), now=2.0) == "10 updates"


def test_whichever_holds_first_ends_it_and_stays_the_reason() -> None:
    end = ending(updates=100, samples=50)
    assert end.update(status(0), now=0.0) == ""
    assert end.update(status(1, samples=50), now=1.0) == "50 samples"
    assert end.update(status(100, samples=500), now=2.0) == "50 samples"


def test_a_metric_ends_it() -> None:
    end = ending(until="accuracy>=0.9")
    assert end.update(status(1, evaluations=[(0, {"accuracy": 0.1})]), now=0.0) == ""
    end_text = end.update(status(2, evaluations=[(5, {"accuracy": 0.9})]), now=1.0)
    assert end_text == "accuracy>=0.9 reached"


def test_patience_counts_evaluations_without_improvement_each_once() -> None:
    end = ending(patience=2)
    seen = [(0, {"loss": 3.0}), (1, {"loss": 2.0}), (2, {"loss": 2.5})]
    assert end.update(status(1, evaluations=seen), now=0.0) == ""
    assert end.update(status(1, evaluations=seen), now=1.0) == ""
    seen.append((3, {"loss": float("nan")}))
    assert end.update(status(1, evaluations=seen), now=2.0) == "no improvement in 2 evaluations"


def test_a_metric_that_the_job_does_not_evaluate_is_named_with_those_it_does() -> None:
    end = ending(until="acuracy>0.5")
    with pytest.raises(SettingsError, match="'acuracy'; the job evaluates accuracy, loss"):
        end.update(status(1, evaluations=[(0, {"accuracy": 0.1, "loss": 2.0})]), now=0.0)


@pytest.mark.parametrize("text", ["accuracy", "accuracy=0.9", ">=0.9", "accuracy>=high"])
def test_a_condition_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match=r"run.until is"):
        Until.parse(text)


def test_better_is_lower_unless_the_job_says_higher_and_no_number_is_never_better() -> None:
    assert is_better(1.0, 2.0, higher_is_better=False)
    assert is_better(2.0, 1.0, higher_is_better=True)
    assert not is_better(1.0, 1.0, higher_is_better=False)
    assert not is_better(float("nan"), None, higher_is_better=False)
