"""Who makes room when a server has as many connections as it may."""

from __future__ import annotations

from gradmq.infer.connections import Connections


def test_up_to_the_limit_nobody_has_to_go() -> None:
    connections: Connections[str] = Connections(2)
    assert connections.add("a") is None
    assert connections.add("b") is None
    assert len(connections) == 2 and not connections.crowded


def test_the_one_that_has_waited_longest_goes_first() -> None:
    connections: Connections[str] = Connections(2)
    connections.add("a")
    connections.add("b")
    connections.work("a")
    connections.wait("a")  # it was answered, and waits anew
    assert connections.add("c") == "b"
    assert connections.add("d") == "a"
    assert len(connections) == 2 and connections.crowded


def test_one_with_a_request_never_goes_rather_the_newcomer() -> None:
    connections: Connections[str] = Connections(1)
    connections.add("a")
    connections.work("a")
    assert connections.add("b") == "b"
    connections.wait("a")
    assert connections.add("c") == "a"


def test_it_is_crowded_until_half_of_the_room_is_free_again() -> None:
    connections: Connections[int] = Connections(4)
    for number in range(5):
        connections.add(number)
    connections.remove(4)
    assert connections.crowded
    connections.remove(3)
    assert not connections.crowded
    connections.remove(3)  # known to nobody any more
    assert len(connections) == 2


def test_those_that_take_nothing_in_are_known_by_age_until_they_do_or_go() -> None:
    connections: Connections[str] = Connections(3)
    for name in ("a", "b", "c"):
        connections.add(name)
        assert connections.unread(name)[-1] == name
    connections.wait("a")  # its answer is whole, and still not taken in
    assert connections.unread("a") == ["a", "b", "c"]
    connections.read("a")
    connections.remove("b")
    assert connections.unread("a") == ["c", "a"]
