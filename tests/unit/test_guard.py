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
    return [guard.why_unfit(torch.nn.Linear(1, 1)) for _ in values]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_value_that_is_not_finite_makes_a_release_unfit(
    value: float, dtype: torch.dtype
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(dtype)
    guard = Guard()
    assert guard.why_unfit(model) == ""
    model.get_buffer("1.running_mean")[2] = value
    assert guard.why_unfit(model) == "has a value in '1.running_mean' that is not finite"
    model.get_parameter("0.weight").data[3, 1] = value
    assert guard.why_unfit(model) == "has a value in '0.weight' that is not finite"


def test_what_has_no_values_or_no_fractions_is_fit() -> None:
    model = torch.nn.Linear(3, 1)
    model.register_buffer("none", torch.zeros(0))
    model.register_buffer("steps", torch.tensor([7]))
    model.register_buffer("mask", torch.tensor([True]))
    assert Guard().why_unfit(model) == ""


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

    said = Guard(fails, 0.0).why_unfit(torch.nn.Linear(1, 1))
    assert said == "cannot be scored: ValueError: no data"
