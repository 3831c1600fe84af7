"""Serving: which release a node answers from, and how old it says that is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import floats

from gradmq.infer.serving import Holding, ServedRelease, Serving, TurnedDown
from gradmq.infer.steering import NotHeld
from gradmq.infer.wish import Lack, Wish

NOTHING = Wish()


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


def held_by(serving: Serving) -> list[int]:
    return [held.release.number for held in serving.held()]


def answers(serving: Serving, wish: Wish = NOTHING, point: float = 0.0, now: float = 0.0) -> int:
    """The number of the release that answers; a Lack fails the test with its text."""
    chosen = serving.choose(wish, point, now)
    assert isinstance(chosen, Holding), chosen
    return chosen.release.number


def lacks(serving: Serving, wish: Wish, now: float = 0.0) -> Lack:
    chosen = serving.choose(wish, 0.0, now)
    assert isinstance(chosen, Lack), f"answered by {chosen.release.number}"
    return chosen


def serving_with(*numbers: int, keep: int = 3, return_to_stable: bool = False) -> Serving:
    serving = Serving(keep, return_to_stable)
    for number in numbers:
        serving.offer(release(number), heard_newest_at_s=0.0)
    return serving


def test_the_last_releases_are_held_and_the_newest_answers() -> None:
    serving = serving_with(1, 2, 3, 4)
    assert held_by(serving) == [2, 3, 4]
    assert answers(serving) == 4


def test_a_release_that_is_pinned_or_labelled_is_held_however_many_come() -> None:
    serving = serving_with(1, 2, 3)
    serving.pin(1)
    serving.label("stable", 2)
    for number in (4, 5, 6, 7):
        serving.offer(release(number), heard_newest_at_s=0.0)
    assert held_by(serving) == [1, 2, 5, 6, 7]
    assert answers(serving) == 1
    serving.unfreeze()
    serving.unlabel("stable")
    assert held_by(serving) == [5, 6, 7]
    assert answers(serving) == 7


def test_a_frozen_node_answers_from_where_it_was_until_it_is_told_otherwise() -> None:
    serving = serving_with(4)
    serving.freeze()
    serving.offer(release(5), heard_newest_at_s=0.0)
    assert answers(serving) == 4
    assert serving.newest() is not serving.holding()
    serving.unfreeze()
    assert answers(serving) == 5


def test_a_roll_back_goes_one_release_further_back_each_time() -> None:
    serving = serving_with(4, 6, 9)
    serving.roll_back()
    assert answers(serving) == 6
    serving.roll_back()
    assert answers(serving) == 4
    with pytest.raises(NotHeld, match="nothing older than release 4 is held; held are 4, 6, 9"):
        serving.roll_back()


def test_steering_names_what_is_not_there() -> None:
    empty = Serving()
    for steer in (empty.freeze, empty.roll_back, lambda: empty.label("stable")):
        with pytest.raises(NotHeld, match="no release is held here yet"):
            steer()
    serving = serving_with(4)
    with pytest.raises(NotHeld, match="release 3 is not held here; held are 4"):
        serving.pin(3)
    with pytest.raises(NotHeld, match="'best' is no label: there are stable, canary"):
        serving.label("best")
    with pytest.raises(NotHeld, match="no release is labelled 'canary'"):
        serving.split({"newest": 1, "canary": 1})
    with pytest.raises(NotHeld, match="no release is labelled 'canary'"):
        serving.unlabel("canary")
    assert answers(serving) == 4


@given(point=floats(0, 1, exclude_max=True))
def test_a_split_gives_each_label_its_share_of_the_points(point: float) -> None:
    serving = serving_with(4, 5)
    serving.label("stable", 4)
    serving.split({"stable": 3, "newest": 1})
    assert answers(serving, point=point) == (4 if point < 0.75 else 5)


def test_the_newest_of_a_split_moves_on_and_the_labelled_stays() -> None:
    serving = serving_with(4, 5)
    serving.label("stable", 4)
    serving.split({"stable": 3, "newest": 1})
    serving.offer(release(6), heard_newest_at_s=0.0)
    assert [answers(serving, point=point) for point in (0.0, 0.9)] == [4, 6]
    with pytest.raises(NotHeld, match="requests are split by 'stable'"):
        serving.unlabel("stable")


def test_a_wish_for_a_release_is_granted_from_what_is_held_whatever_is_pinned() -> None:
    serving = serving_with(3, 4, 5)
    serving.pin(3)
    assert answers(serving, Wish(pin=4)) == 4
    assert lacks(serving, Wish(pin=2)) == Lack(
        "release 2 is not held here; held are 3, 4, 5", later=False
    )
    assert lacks(serving, Wish(pin=6)).later


def test_a_wish_for_newer_or_younger_waits_where_the_newest_answers() -> None:
    serving = serving_with(4)
    for wish, text in (
        (Wish(min_release=5), "release 4 is older than 5"),
        (Wish(max_age_s=2.0), "release 4 has an age of 3.000 s, more than 2 s"),
        (Wish(min_versions=((1, 40), (2, 42))), "release 4 has version 2:41 of shard 1, not yet"),
    ):
        lack = lacks(serving, wish, now=3.0)
        assert lack.text.startswith(text)
        assert lack.later
    serving.offer(release(5), heard_newest_at_s=3.0)
    assert answers(serving, Wish(min_release=5, max_age_s=2.0), now=3.0) == 5
    assert answers(serving, Wish(min_versions=((1, 50), None))) == 5


def test_a_wish_for_newer_is_refused_at_once_where_an_older_one_is_pinned() -> None:
    serving = serving_with(4, 5)
    serving.pin(4, "bad loss")
    assert lacks(serving, Wish(min_release=5)) == Lack(
        "release 4 is older than 5; this node stays at release 4 (bad loss)", later=False
    )


def test_before_the_first_release_every_wish_waits() -> None:
    assert lacks(Serving(), Wish(pin=3)).later
    assert lacks(Serving(), NOTHING).later


def test_an_update_of_an_earlier_life_of_a_shard_is_not_taken_for_granted() -> None:
    """The shard may have come back without it, and counted past its number since."""
    lack = Wish(min_versions=((1, 9), None)).lack(4, ((2, 40), (1, 7)), 0.0)
    assert lack == Lack(
        "has version 2:40 of shard 0, of a later life than 1:9: that update may be lost",
        later=False,
    )


def test_versions_of_another_number_of_shards_are_refused() -> None:
    assert lacks(serving_with(4), Wish(min_versions=((1, 1),))) == Lack(
        "release 4 has versions of 2 shards, not 1", later=False
    )


def test_a_release_that_is_not_fit_is_counted_and_the_old_one_goes_on() -> None:
    serving = serving_with(4)
    serving.turn_down(5, "has a weight that is not finite")
    serving.heard_newest(5, now=2.0)
    assert answers(serving) == 4
    assert serving.age_s(now=3.0) == 3.0
    assert serving.statistics(now=3.0).turned_down == 1
    assert serving.last_turned_down == TurnedDown(5, "has a weight that is not finite")
    serving.offer(release(6), heard_newest_at_s=3.0)
    assert answers(serving) == 6


def test_a_node_told_so_returns_to_stable_when_a_release_is_not_fit() -> None:
    serving = serving_with(3, 4, return_to_stable=True)
    serving.turn_down(5, "is bad")
    assert answers(serving) == 4  # none is labelled
    serving.label("stable", 3)
    serving.turn_down(6, "is bad")
    serving.offer(release(7), heard_newest_at_s=0.0)
    assert answers(serving) == 3
    assert serving.mode_text() == (
        "this node stays at release 3 (back to stable, as release 6 is bad)"
    )
    serving.unfreeze()
    assert answers(serving) == 7


def test_the_run_is_told_what_answers_and_why_it_is_not_the_newest() -> None:
    serving = Serving(keep=3)
    assert serving.report(now=9.0) == {"answering": 0, "steering": "", "age_s": None}
    for number in (4, 5, 6):
        serving.offer(release(number), heard_newest_at_s=float(number))
    assert serving.report(now=9.0) == {"answering": 6, "steering": "", "age_s": 3.0}
    serving.roll_back()
    why = "rolled back from release 6"
    assert serving.report(now=9.0) == {"answering": 5, "steering": why, "age_s": 4.0}
    serving.label("stable")
    serving.split({"stable": 95, "newest": 5})
    why = "split: stable=95, newest=5"
    assert serving.report(now=9.0) == {"answering": 0, "steering": why, "age_s": 3.0}


def test_answers_are_counted_by_release_as_long_as_it_is_held() -> None:
    serving = serving_with(4, 5, keep=2)
    for number in (4, 5, 5, 3):
        serving.count_answer(number)
    assert [(held.release.number, held.answers) for held in serving.held()] == [(4, 1), (5, 2)]


def test_a_node_is_ready_while_it_hears_of_the_run_also_if_an_older_release_answers() -> None:
    serving = Serving(2)
    assert not serving.is_ready(0.0, None)
    serving.offer(release(4), heard_newest_at_s=0.0)
    serving.freeze()
    serving.offer(release(5), heard_newest_at_s=9.0)
    assert serving.is_ready(10.0, max_age_s=2.0)
    assert serving.is_ready(99.0, max_age_s=None)
    assert not serving.is_ready(99.0, max_age_s=2.0)


# -- in place -------------------------------------------------------------------------------------


def in_place(*numbers: int) -> Serving:
    serving = Serving(keep=3, in_place=True)
    for number in numbers:
        serving.offer(release(number), heard_newest_at_s=0.0)
    return serving


def test_of_what_is_written_in_place_the_newest_alone_is_held() -> None:
    serving = in_place(1, 2, 3)
    assert held_by(serving) == [3]
    assert lacks(serving, Wish(pin=2)) == Lack(
        "release 2 is not held here; held are 3", later=False
    )
    with pytest.raises(NotHeld, match="release 2 is not held here"):
        serving.pin(2)
    with pytest.raises(NotHeld, match="nothing older than release 3"):
        serving.roll_back()
    with pytest.raises(NotHeld, match=r"over the last one \(infer.inplace\)"):
        serving.label("stable")


def test_nothing_newer_is_taken_while_the_one_release_is_pinned() -> None:
    serving = in_place(3)
    assert serving.takes_newer
    serving.freeze()
    assert not serving.takes_newer
    for wish in (Wish(pin=4), Wish(min_release=4), Wish(max_age_s=1.0)):
        assert not lacks(serving, wish, now=9.0).later
    serving.unfreeze()
    assert lacks(serving, Wish(min_release=4)).later
    serving.pin(3)
    assert not serving.takes_newer
    assert serving_with(3).takes_newer


def test_a_pin_that_comes_while_a_release_is_written_stays_with_what_is_written() -> None:
    serving = in_place(3)
    serving.freeze()
    serving.offer(release(4), heard_newest_at_s=0.0)
    assert answers(serving) == 4, "there is no other"
    assert serving.mode_text() == "this node stays at release 4 (frozen)"
    assert not serving.takes_newer


def test_what_was_half_written_is_not_answered_from() -> None:
    serving = in_place(3)
    serving.freeze()
    serving.withdraw()
    assert serving.holding() is None
    assert held_by(serving) == []
    assert lacks(serving, NOTHING).later
