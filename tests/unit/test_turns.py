"""Turns go round; who waits comes in when there is room."""

from __future__ import annotations

from gradmq.infer.turns import Turns


def taken(turns: Turns[str], count: int) -> str:
    return "".join(turns.next() or "-" for _ in range(count))


def test_each_gets_one_turn_in_a_round() -> None:
    turns: Turns[str] = Turns(8)
    for name in "abc":
        turns.add(name)
    assert taken(turns, 7) == "abcabca"


def test_who_comes_during_a_turn_has_the_next_one_of_that_round() -> None:
    turns: Turns[str] = Turns(8)
    turns.add("a")
    assert taken(turns, 2) == "aa"
    turns.add("b")
    assert taken(turns, 4) == "baba"


def test_nobody_has_a_turn_when_nobody_is_there() -> None:
    turns: Turns[str] = Turns(8)
    assert turns.next() is None
    turns.add("a")
    turns.remove("a")
    turns.remove("a")
    assert turns.next() is None


def test_who_is_gone_has_no_turn_and_takes_none_from_others() -> None:
    turns: Turns[str] = Turns(8)
    for name in "abc":
        turns.add(name)
    assert taken(turns, 1) == "a"
    turns.remove("a")
    assert taken(turns, 3) == "bcb"
    turns.remove("c")
    assert taken(turns, 2) == "bb"


def test_beyond_the_bound_they_wait_in_order_for_a_place() -> None:
    turns: Turns[str] = Turns(2)
    for name in "abcd":
        turns.add(name)
    assert taken(turns, 4) == "abab"
    turns.remove("b")
    assert taken(turns, 4) == "acac"
    turns.remove("d")
    turns.remove("a")
    assert taken(turns, 2) == "cc"


def test_who_may_not_begin_waits_until_the_turns_are_filled_again() -> None:
    allowed = [True, False, False]
    turns: Turns[str] = Turns(8, lambda: allowed.pop(0))
    for name in "ab":
        turns.add(name)
    assert taken(turns, 2) == "aa"
    assert turns.remove("a")
    assert taken(turns, 1) == "-"
    allowed.append(True)
    turns.fill()
    assert taken(turns, 1) == "b"
    assert allowed == []


def test_it_is_told_whether_who_is_forgotten_had_turns() -> None:
    turns: Turns[str] = Turns(1)
    for name in "ab":
        turns.add(name)
    assert [turns.remove(name) for name in "baa"] == [False, True, False]
