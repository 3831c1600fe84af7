"""The guard: what a release must be before a node serves it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from gradmq.infer.guard import Guard

pytestmark = pytest.mark.torch


def scores(*values: float) -> Iterator[float]:
    return iter(values)


def verdicts(*values: float, drop: float | None) -> list[str]:
    """What a guard says of models that score these, one after the other."""
    coming = scores(*values)
    guard = Guard(lambda model: next(coming), drop)
    return [guard.why_worse(torch.nn.Linear(1, 1)) for _ in values]


def test_a_drop_is_measured_from_the_last_fit_release() -> None:
    assert verdicts(0.8, 0.75, 0.6, 0.66, 0.9, 0.79, drop=0.1) == [
        "",
        "",
        "scores 0.6 after 0.75, a drop of more than 0.1",
        "",
        "",
        "scores 0.79 after 0.9, a drop of more than 0.1",
    ]


def test_without_a_tolerated_drop_nothing_is_scored() -> None:
    assert verdicts(0.8, 0.1, drop=None) == ["", ""]


def test_a_score_that_is_no_number_or_fails_makes_a_release_unfit() -> None:
    assert verdicts(math.nan, 0.5, drop=1.0) == ["scores nan", ""]

    def fails(model: torch.nn.Module) -> float:
        raise ValueError("no data")

    said = Guard(fails, 0.0).why_worse(torch.nn.Linear(1, 1))
    assert said == "cannot be scored: ValueError: no data"
