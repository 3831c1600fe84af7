"""The batch former: which requests run together, in which order, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.infer.batch_former import BatchFormer, Waiting


def former(max_rows: int = 4, max_delay_s: float = 0.0, max_waiting: int = 100) -> BatchFormer[str]:
    return BatchFormer(max_rows, max_delay_s, max_waiting)


def waiting(
    what: str, arrived_s: float, rows: int = 1, key: str = "k", deadline_s: float = 1e9
) -> Waiting[str]:
    return Waiting(what, key, rows, arrived_s, deadline_s)


def names(batch: list[Waiting[str]]) -> str:
    return "".join(each.what for each in batch)


def test_what_waits_runs_together_up_to_the_largest_size() -> None:
    queue = former(max_rows=4)
    for i, name in enumerate("abcdef"):
        assert queue.add(waiting(name, i))
    assert names(queue.take(10.0)) == "abcd"
    assert names(queue.take(10.0)) == "ef"
    assert queue.take(10.0) == []
    assert len(queue) == 0


def test_without_delay_nobody_waits_for_others() -> None:
    queue = former(max_delay_s=0.0)
    queue.add(waiting("a", 1.0))
    assert queue.next_due_s() == 1.0
    assert names(queue.take(1.0)) == "a"


def test_the_delay_counts_from_the_arrival_of_the_oldest() -> None:
    queue = former(max_delay_s=0.5)
    queue.add(waiting("a", 1.0))
    queue.add(waiting("b", 1.4))
    assert queue.take(1.49) == []
    assert queue.next_due_s() == 1.5
    assert names(queue.take(1.5)) == "ab"
    assert queue.next_due_s() is None


def test_a_full_batch_does_not_wait_for_its_delay() -> None:
    queue = former(max_rows=3, max_delay_s=0.5)
    for name in "abc":
        queue.add(waiting(name, 1.0))
    assert names(queue.take(1.0)) == "abc"


def test_a_request_larger_than_a_batch_runs_at_once_and_alone() -> None:
    queue = former(max_rows=4, max_delay_s=0.5)
    queue.add(waiting("A", 1.0, rows=9))
    assert names(queue.take(1.0)) == "A"
    queue.add(waiting("b", 2.0))
    queue.add(waiting("C", 2.0, rows=9))
    queue.add(waiting("d", 2.0))
    assert [names(queue.take(2.0)) for _ in range(2)] == ["b", "C"]
    assert queue.take(2.0) == []
    assert names(queue.take(2.5)) == "d"


def test_a_request_that_does_not_fit_is_not_overtaken_by_a_smaller_one() -> None:
    queue = former(max_rows=4)
    for name, rows in (("a", 3), ("b", 2), ("c", 1)):
        queue.add(waiting(name, 1.0, rows))
    assert [names(queue.take(1.0)) for _ in range(2)] == ["a", "bc"]


def test_only_requests_of_one_key_run_together_and_the_oldest_leads() -> None:
    queue = former()
    for i, (name, key) in enumerate((("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"))):
        queue.add(waiting(name, i, key=key))
    assert [names(queue.take(10.0)) for _ in range(2)] == ["ac", "bd"]


def test_a_full_batch_of_another_key_does_not_wait_for_a_lonely_older_request() -> None:
    queue = former(max_rows=2, max_delay_s=5.0)
    queue.add(waiting("a", 1.0, key="x"))
    queue.add(waiting("b", 2.0, key="y"))
    queue.add(waiting("c", 2.0, key="y"))
    assert names(queue.take(2.0)) == "bc"
    assert names(queue.take(6.0)) == "a"


def test_a_full_queue_takes_nothing_until_there_is_room() -> None:
    queue = former(max_waiting=2)
    assert queue.add(waiting("a", 1.0))
    assert queue.add(waiting("b", 1.0))
    assert not queue.add(waiting("c", 1.0))
    queue.take(1.0)
    assert queue.add(waiting("c", 1.0))


def test_who_went_away_is_not_run_and_may_go_twice() -> None:
    queue = former()
    a, b = waiting("a", 1.0), waiting("b", 1.0)
    queue.add(a)
    queue.add(b)
    queue.remove(a)
    queue.remove(a)
    assert names(queue.take(1.0)) == "b"
    queue.remove(b)
    assert len(queue) == 0


def test_what_is_past_its_deadline_is_dropped_and_what_is_short_of_time_waits_less() -> None:
    queue = former(max_delay_s=5.0)
    queue.add(waiting("a", 1.0, deadline_s=2.0))
    assert queue.next_due_s() == 1.5
    queue.add(waiting("b", 1.2))
    assert names(queue.take(2.0)) == "b"


@dataclass
class Step:
    wait_s: float
    key: int
    rows: int
    lasts_s: float
    take: bool = field(default=False)


steps = st.lists(
    st.builds(
        Step,
        wait_s=st.integers(0, 20).map(lambda tenths: tenths / 10),
        key=st.integers(0, 2),
        rows=st.integers(1, 7),
        lasts_s=st.integers(1, 100).map(lambda tenths: tenths / 10),
        take=st.booleans(),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 6), st.sampled_from([0.0, 0.5, 3.0]))
def test_whatever_comes_each_request_runs_once_in_order_in_a_batch_that_fits(
    script: list[Step], max_rows: int, max_delay_s: float
) -> None:
    queue: BatchFormer[int] = BatchFormer(max_rows, max_delay_s, 1000)
    ran: list[Waiting[int]] = []
    added: list[Waiting[int]] = []
    now = 0.0

    def take() -> bool:
        due_s = queue.next_due_s()
        waited = {each: None for each in added if each not in ran}
        batch = queue.take(now)
        assert bool(batch) <= (due_s is not None and due_s <= now)
        if not batch:
            return False
        assert len({each.key for each in batch}) == 1
        assert all(each.deadline_s > now for each in batch)
        total = sum(each.rows for each in batch)
        assert len(batch) == 1 or total <= max_rows
        # Within a key nobody who still has time is left behind for one who came later.
        same = [each for each in waited if each.key == batch[0].key and each.deadline_s > now]
        assert batch == same[: len(batch)]
        ran.extend(batch)
        return True

    for number, step in enumerate(script):
        now += step.wait_s
        one = Waiting(number, step.key, step.rows, now, now + step.lasts_s)
        added.append(one)
        assert queue.add(one)
        if step.take:
            take()
    while (due_s := queue.next_due_s()) is not None:
        now = max(now, due_s)
        take()
    assert len(queue) == 0
    assert len(set(map(id, ran))) == len(ran)
    assert {each.what for each in added if each.deadline_s > now} <= {each.what for each in ran}


@pytest.mark.parametrize("max_delay_s", [0.0, 1.0])
def test_a_steady_stream_of_one_key_does_not_starve_another(max_delay_s: float) -> None:
    queue = former(max_rows=2, max_delay_s=max_delay_s)
    queue.add(waiting("z", 0.0, key="rare"))
    ran = ""
    for i in range(20):
        now = i / 4
        queue.add(waiting("a", now))
        queue.add(waiting("b", now))
        ran += names(queue.take(now))
    assert "z" in ran[: 2 + 8 * int(max_delay_s)]
