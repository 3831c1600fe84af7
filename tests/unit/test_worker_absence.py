"""When a worker's program is taken for one that hangs."""

from __future__ import annotations

from gradmq.worker.absence import Absence


def test_a_program_is_named_once_it_is_silent_for_longer_than_a_moment() -> None:
    absence = Absence()
    absence.begin(10.0)
    assert absence.waiting_for(11.4) == ""
    assert absence.waiting_for(11.6) == "its program: the next gradient, silent for 1.6 s"


def test_a_program_that_is_here_is_not_waited_for() -> None:
    absence = Absence()
    assert absence.waiting_for(100.0) == ""
    absence.begin(100.0)
    absence.end(100.5)
    assert absence.waiting_for(200.0) == ""


def test_a_program_may_take_a_few_times_as_long_as_it_usually_does() -> None:
    absence = Absence()
    absence.begin(10.0)
    absence.end(15.0)
    absence.begin(15.0)
    assert absence.waiting_for(34.9) == ""
    assert absence.waiting_for(35.1) != ""


def test_what_took_long_a_while_ago_is_not_usual_any_more() -> None:
    absence = Absence()
    absence.begin(10.0)
    absence.end(110.0)
    for now in range(200, 216):
        absence.begin(float(now))
        absence.end(now + 0.1)
    absence.begin(300.0)
    assert absence.waiting_for(302.0) != ""
