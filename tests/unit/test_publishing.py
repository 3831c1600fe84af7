"""When a shard publishes: soon, seldom, after the last has drained, and waiting for nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.ps.publishing import (
    BEACON_AFTER_S,
    DRAIN_PATIENCE_S,
    DRAIN_POLL_S,
    LATEST_S,
    VAIN_MOMENTS,
    WITHOUT_MOMENTS,
    PublishTiming,
)


def drained(at: float = 0.0) -> PublishTiming:
    """A timing whose last publication left at this time."""
    timing = PublishTiming()
    timing.on_published(at)
    timing.on_drained(at)
    return timing


def test_nothing_is_due_without_an_apply() -> None:
    timing = drained()
    timing.ask()
    assert not timing.due(now=100.0, attached=1, push_waiting=False)
    assert not timing.unpublished


# -- the five reasons, each alone -----------------------------------------------------------------


def test_when_no_push_waits_an_apply_is_published_at_once() -> None:
    timing = drained()
    timing.on_apply(1.0)
    assert timing.due(now=1.0, attached=4, push_waiting=False)


def test_while_pushes_wait_applies_are_gathered() -> None:
    timing = drained()
    timing.on_apply(1.0)
    assert not timing.due(now=1.0, attached=4, push_waiting=True)


@pytest.mark.parametrize(("attached", "enough"), [(0, 1), (1, 1), (4, 4)])
def test_one_apply_for_each_attached_worker_is_enough(attached: int, enough: int) -> None:
    timing = drained()
    for count in range(1, enough + 1):
        timing.on_apply(1.0)
        assert timing.due(now=1.0, attached=attached, push_waiting=True) == (count >= enough)


def test_an_apply_is_published_at_the_latest_after_its_time() -> None:
    timing = drained()
    timing.on_apply(1.0)
    timing.on_apply(1.0 + LATEST_S / 2)
    assert not timing.due(now=1.0 + 0.9 * LATEST_S, attached=9, push_waiting=True)
    assert timing.due(now=1.0 + LATEST_S, attached=9, push_waiting=True)


def test_a_worker_that_was_too_stale_is_served_at_once() -> None:
    timing = drained()
    timing.on_apply(1.0)
    timing.ask()
    assert timing.due(now=1.0, attached=9, push_waiting=True)


def test_a_publication_settles_all_reasons() -> None:
    timing = drained()
    timing.on_apply(1.0)
    timing.ask()
    timing.on_published(1.0)
    timing.on_drained(1.0)
    assert not timing.due(now=9.0, attached=0, push_waiting=False)
    timing.on_apply(9.0)
    assert not timing.due(now=9.0, attached=2, push_waiting=True)


# -- draining -------------------------------------------------------------------------------------


def test_nothing_leaves_while_the_last_publication_drains() -> None:
    timing = drained()
    timing.on_published(1.0)
    timing.on_apply(1.1)
    timing.ask()
    assert not timing.due(now=1.2, attached=0, push_waiting=False)
    assert not timing.beacon_due(now=1.2)
    timing.on_drained(1.2)
    assert timing.due(now=1.2, attached=0, push_waiting=False)


def test_a_reader_that_does_not_read_is_not_waited_for() -> None:
    timing = drained()
    timing.on_published(1.0)
    timing.on_apply(1.1)
    assert timing.due(now=1.0 + DRAIN_PATIENCE_S, attached=0, push_waiting=False)
    assert timing.beacon_due(now=1.0 + DRAIN_PATIENCE_S)


def test_on_a_slow_link_patience_is_four_times_the_longest_drain_of_late() -> None:
    timing = drained()
    timing.on_published(1.0)
    timing.on_drained(2.0)
    timing.on_published(10.0)
    timing.on_apply(10.1)
    assert not timing.due(now=13.9, attached=0, push_waiting=False)
    assert timing.due(now=14.0, attached=0, push_waiting=False)


def test_one_slow_drain_is_forgotten() -> None:
    timing = drained()
    timing.on_published(0.0)
    timing.on_drained(10.0)
    for second in range(100, 200):
        timing.on_published(float(second))
        timing.on_drained(float(second))
    timing.on_published(300.0)
    assert timing.beacon_due(now=300.0 + DRAIN_PATIENCE_S)


# -- beacons --------------------------------------------------------------------------------------


def test_silence_never_lasts_longer_than_a_beacon() -> None:
    timing = drained(at=1.0)
    assert not timing.beacon_due(now=1.0 + 0.9 * BEACON_AFTER_S)
    assert timing.beacon_due(now=1.0 + BEACON_AFTER_S)
    timing.on_beacon(1.0 + BEACON_AFTER_S)
    assert not timing.beacon_due(now=1.0 + 1.9 * BEACON_AFTER_S)


# -- the next deadline ----------------------------------------------------------------------------


def test_the_deadline_is_that_of_the_beacon_or_of_the_oldest_apply() -> None:
    timing = drained(at=1.0)
    assert timing.next_deadline(now=1.0) == 1.0 + BEACON_AFTER_S
    timing.on_apply(1.01)
    assert timing.next_deadline(now=1.01) == 1.01 + LATEST_S


def test_while_a_publication_drains_the_caller_looks_again_but_never_spins() -> None:
    timing = PublishTiming()
    timing.on_published(1.0)
    assert timing.next_deadline(now=1.0) == 1.0 + BEACON_AFTER_S
    assert timing.next_deadline(now=1.2) == 1.2 + DRAIN_POLL_S
    timing.on_apply(1.21)
    assert timing.next_deadline(now=1.21) == 1.21 + DRAIN_POLL_S


EVENTS = st.lists(
    st.tuples(st.sampled_from(["apply", "ask", "drained", "look"]), st.floats(0.001, 0.3)),
    max_size=30,
)

#: Four times the longest drain that EVENTS can make.
LONGEST_PATIENCE_S = 4 * 30 * 0.3


#: 0.35 − 0.1 is less than 0.25, and 0.25 + 0.1 is 0.35.
ROUNDING_S = 1e-9


@given(EVENTS, st.integers(0, 4), st.booleans())
def test_whatever_happens_an_apply_is_published_in_bounded_time_and_nobody_spins(
    events: list[tuple[str, float]], attached: int, push_waiting: bool
) -> None:
    timing, now = PublishTiming(), 0.0
    for event, pause_s in [*events, ("look", LONGEST_PATIENCE_S)]:
        now += pause_s
        if event == "apply":
            timing.on_apply(now)
        elif event == "ask":
            timing.ask()
        elif event == "drained":
            timing.on_drained(now)
        if timing.due(now, attached, push_waiting):
            timing.on_published(now)
        elif timing.beacon_due(now):
            timing.on_beacon(now)
        assert timing.next_deadline(now) > now - ROUNDING_S
    assert not timing.unpublished


# -- moments, and readers that hold others up ------------------------------------------------------


def drained_after(timing: PublishTiming, now: float, drain_s: float) -> float:
    """One publication that took so long to leave; returns the time."""
    timing.on_apply(now)
    timing.on_published(now)
    timing.on_drained(now + drain_s)
    return now + drain_s


def test_the_next_push_is_waited_for_a_moment_when_several_push() -> None:
    timing = PublishTiming()
    now = drained_after(timing, 1.0, 0.01)
    timing.on_apply(now)
    assert not timing.due(now, attached=2, push_waiting=False)
    assert timing.next_deadline(now) == pytest.approx(now + 0.01)
    assert timing.due(now + 0.011, attached=2, push_waiting=False)
    assert timing.due(now, attached=1, push_waiting=False)


def test_moments_together_are_never_longer_than_an_apply_may_wait() -> None:
    timing = PublishTiming()
    now = drained_after(timing, 1.0, 0.2)
    timing.on_apply(now)
    for _ in range(2):
        assert not timing.due(now + 0.19, attached=9, push_waiting=False)
        now += 0.19
        timing.on_apply(now)
    assert timing.due(now + 0.03, attached=9, push_waiting=True)


def test_moments_that_bring_no_push_are_given_up_for_a_while() -> None:
    timing = PublishTiming()
    now, waited = 1.0, []
    for _ in range(VAIN_MOMENTS + WITHOUT_MOMENTS + 2):
        now = drained_after(timing, now, 0.01) + 1.0
        timing.on_apply(now)
        waited.append(not timing.due(now, attached=2, push_waiting=False))
        assert timing.due(now + 0.02, attached=2, push_waiting=False)
        timing.on_published(now + 0.02)
        timing.on_drained(now + 0.03)
        now += 1.0
    assert waited[:VAIN_MOMENTS] == [True] * VAIN_MOMENTS
    assert not any(waited[VAIN_MOMENTS : VAIN_MOMENTS + WITHOUT_MOMENTS // 2])
    assert any(waited[VAIN_MOMENTS + WITHOUT_MOMENTS // 2 :])


def test_after_one_that_was_held_up_patience_is_short() -> None:
    """A reader that does not read must not cost the others a quarter of a second each time."""
    timing = PublishTiming()
    now = drained_after(timing, 1.0, 0.003)
    timing.on_apply(now)
    timing.on_published(now)
    timing.on_apply(now)
    assert not timing.due(now + 0.9 * DRAIN_PATIENCE_S, attached=1, push_waiting=False)
    now += 1.1 * DRAIN_PATIENCE_S
    assert timing.due(now, attached=1, push_waiting=False)
    timing.on_published(now)
    timing.on_apply(now)
    assert not timing.due(now + 0.01, attached=1, push_waiting=False)
    assert timing.due(now + 0.015, attached=1, push_waiting=False)


def test_beacons_come_more_seldom_while_nothing_changes_and_at_once_for_a_subscriber() -> None:
    timing = PublishTiming()
    now, silences = 10.0, []
    timing.on_beacon(now)
    for _ in range(6):
        due = timing.next_deadline(now)
        silences.append(due - now)
        assert timing.beacon_due(due + 1e-9)
        timing.on_beacon(due)
        now = due
    assert silences == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8, 0.8])
    timing.on_subscriber()
    assert timing.beacon_due(now)
    timing.on_apply(now)
    timing.on_beacon(now)
    assert timing.next_deadline(now) <= now + 0.2
