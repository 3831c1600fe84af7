"""The arithmetic behind a benchmark's figures."""

from __future__ import annotations

import math

import pytest

from gradmq.bench.figures import Window, percentile, ratio
from gradmq.bench.tables import number, table


@pytest.mark.parametrize(
    ("start", "end", "share"),
    [
        (10.0, 14.0, 1.0),
        (8.0, 12.0, 0.5),
        (19.0, 23.0, 0.25),
        (5.0, 25.0, 0.5),
        (5.0, 10.0, 0.0),
        (20.0, 21.0, 0.0),
        (12.0, 12.0, 1.0),
        (20.0, 20.0, 0.0),
    ],
)
def test_work_counts_by_the_share_of_its_time_within_the_window(
    start: float, end: float, share: float
) -> None:
    assert Window(10.0, 20.0).share_of(start, end) == share


def test_back_to_back_work_counts_exactly_once_in_adjoining_windows() -> None:
    windows = [Window(k * 0.7, (k + 1) * 0.7) for k in range(10)]
    work = [(k * 0.25, (k + 1) * 0.25) for k in range(28)]
    shares = [window.share_of(*piece) for window in windows for piece in work]
    assert math.isclose(sum(shares), len(work))


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.50) == percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert math.isnan(percentile([], 0.5))


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert ratio(1.0, 4.0) == 0.25
    assert math.isnan(ratio(1.0, 0.0))


def test_numbers_have_three_digits_and_no_exponent() -> None:
    values = [0.0, 0.00123456, 0.0123, 1.0, 12.345, 123.4, 1234567.0, float("nan")]
    shown = ["0", "0.00123", "0.0123", "1.00", "12.3", "123", "1,234,567", "–"]
    assert [number(value) for value in values] == shown


def test_a_table_is_aligned_and_says_no_loudly() -> None:
    assert table(("case", "GB/s", "correct"), [("a", 1.5, True), ("long", 12.0, False)]) == (
        "case  GB/s  correct\n"
        "a     1.50      yes\n"
        "long  12.0       NO"
    )  # fmt: skip
