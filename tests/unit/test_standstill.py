"""One thread has the model to itself once what runs on it has ended."""

from __future__ import annotations

import queue
import threading

from gradmq.infer.standstill import Standstill


def test_what_runs_ends_first_and_what_comes_waits() -> None:
    standstill = Standstill()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    leave = threading.Event()
    standstill.when_over = lambda: told.put("over")

    def swap() -> None:
        told.put("wants")
        with standstill.hold(lambda: False) as still:
            told.put(f"still {still}")
            leave.wait(20)

    assert standstill.begin()
    thread = threading.Thread(target=swap)
    thread.start()
    assert told.get(timeout=20) == "wants"
    while standstill.begin():
        standstill.end()  # until it is wanted; the test's own time limit ends this
    assert told.empty(), "the first one runs still"
    standstill.end()
    assert told.get(timeout=20) == "still True"
    assert not standstill.begin()
    leave.set()
    assert told.get(timeout=20) == "over"
    thread.join()
    assert standstill.begin()


def test_a_node_that_is_told_to_end_does_not_wait_for_what_runs() -> None:
    standstill = Standstill()
    assert standstill.begin()
    with standstill.hold(lambda: True) as still:
        assert not still
        assert not standstill.begin()
    assert standstill.begin()
