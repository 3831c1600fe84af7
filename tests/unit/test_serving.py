"""Serving: which release a node answers from, and how old it says that is."""

from __future__ import annotations

from gradmq.infer.serving import ServedRelease, Serving


def release(number: int) -> ServedRelease:
    return ServedRelease(number, ((1, number * 10), (2, number * 10 + 1)), model=f"model {number}")


def test_nothing_is_held_before_the_first_release() -> None:
    serving = Serving()
    serving.heard_newest(3, now=1.0)
    assert serving.current() is None
    assert serving.holding() is None
    assert serving.age_s(now=5.0) is None
    assert serving.statistics(now=5.0).release is None


def test_a_newer_release_takes_the_place_of_the_held_one() -> None:
    serving = Serving()
    assert serving.offer(release(4), heard_newest_at_s=1.0)
    assert serving.offer(release(9), heard_newest_at_s=2.0)
    assert serving.current() == release(9)


def test_a_release_that_is_not_newer_is_passed_over() -> None:
    serving = Serving()
    serving.offer(release(4), heard_newest_at_s=1.0)
    held = serving.current()
    assert not serving.offer(release(4), heard_newest_at_s=2.0)
    assert not serving.offer(release(3), heard_newest_at_s=2.0)
    assert serving.current() is held
    assert serving.age_s(now=3.0) == 2.0


def test_age_counts_from_when_the_release_was_last_heard_to_be_the_newest() -> None:
    serving = Serving()
    serving.offer(release(4), heard_newest_at_s=1.0)
    assert serving.age_s(now=1.5) == 0.5
    serving.heard_newest(4, now=3.0)
    assert serving.age_s(now=3.25) == 0.25


def test_age_grows_while_a_newer_release_is_named_but_not_complete() -> None:
    serving = Serving()
    serving.offer(release(4), heard_newest_at_s=1.0)
    serving.heard_newest(5, now=3.0)
    assert serving.age_s(now=4.0) == 3.0
    serving.offer(release(5), heard_newest_at_s=3.0)
    assert serving.age_s(now=4.0) == 1.0


def test_late_news_never_make_a_release_older_and_age_is_never_negative() -> None:
    serving = Serving()
    serving.offer(release(4), heard_newest_at_s=5.0)
    serving.heard_newest(4, now=2.0)
    assert serving.age_s(now=6.0) == 1.0
    assert serving.age_s(now=4.0) == 0.0


def test_a_request_keeps_its_release_and_its_age_when_the_node_moves_on() -> None:
    serving = Serving()
    serving.offer(release(4), heard_newest_at_s=1.0)
    taken = serving.holding()
    serving.offer(release(5), heard_newest_at_s=7.0)
    assert taken is not None
    assert taken.release == release(4)
    assert taken.age_s(now=8.0) == 7.0
    assert serving.age_s(now=8.0) == 1.0


def test_versions_are_written_as_incarnation_and_version_of_each_shard() -> None:
    assert release(12).versions_text() == "1:120,2:121"


def test_statistics_count_swaps_from_the_second_release_on() -> None:
    serving = Serving()
    for number in (2, 3, 3, 7):
        serving.offer(release(number), heard_newest_at_s=float(number))
    statistics = serving.statistics(now=8.0)
    assert (statistics.first_release, statistics.release) == (2, 7)
    assert (statistics.swaps, statistics.passed_over) == (2, 1)
    assert statistics.versions == ((1, 70), (2, 71))
    assert statistics.age_s == 1.0
