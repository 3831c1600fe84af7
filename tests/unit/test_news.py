"""How old a release is said to be."""

from __future__ import annotations

import math

import pytest

from gradmq.infer.news import MOST, ReleaseNews
from gradmq.wire.messages import Manifest


def manifest(release: int, since_applied_s: float | None = None) -> Manifest:
    return Manifest(release=release, shards=(), since_applied_s=since_applied_s)


def test_the_age_counts_from_when_it_was_last_said_to_be_the_newest() -> None:
    news = ReleaseNews()
    assert news.age_s(3, now=9.0) == math.inf
    news.on_manifest(manifest(3), now=10.0)
    news.on_complete(3, now=12.0)
    assert news.age_s(3, now=12.5) == 2.5, "its way here is part of it"
    news.on_manifest(manifest(3), now=13.0)
    assert news.age_s(3, now=13.5) == 0.5


def test_of_one_that_comes_late_it_counts_from_when_it_was_the_newest() -> None:
    news = ReleaseNews()
    for number in (3, 4, 5):
        news.on_manifest(manifest(number), now=10.0 + number)
    news.on_manifest(manifest(3), now=16.0)
    news.on_complete(3, now=17.0)
    assert news.age_s(3, now=18.0) == 5.0
    news.on_complete(5, now=18.0)
    assert news.age_s(5, now=18.0) == 3.0
    assert news.age_s(3, now=18.0) == math.inf, "nobody asks after what was replaced"


def test_how_old_its_last_update_is_counts_from_when_it_closed() -> None:
    news = ReleaseNews()
    news.on_manifest(manifest(3, since_applied_s=0.5), now=10.0)
    news.on_manifest(manifest(3), now=11.0)
    news.on_manifest(manifest(4, since_applied_s=0.25), now=11.0)
    news.on_complete(3, now=12.0)
    assert news.since_applied_s(3, now=12.0) == 2.5
    assert news.since_applied_s(4, now=12.0) == 1.25
    assert news.since_applied_s(5, now=12.0) is None


@pytest.mark.parametrize("since_s", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_counts_as_not_told(since_s: float) -> None:
    news = ReleaseNews()
    news.on_manifest(manifest(3, since_s), now=10.0)
    assert news.since_applied_s(3, now=10.0) is None


def test_releases_that_never_come_do_not_pile_up() -> None:
    news = ReleaseNews()
    news.on_manifest(manifest(1), now=1.0)
    news.on_complete(1, now=1.0)
    for number in range(2, 10 * MOST):
        news.on_manifest(manifest(number), now=float(number))
    assert len(news._news) == MOST + 1
    assert news.age_s(1, now=11.0) == 10.0
