"""What a worker counts of its pushes."""

from __future__ import annotations

from gradmq.wire.messages import MAX_WINDOW, Verdict, Version
from gradmq.worker.session import Answered
from gradmq.worker.tally import Tally


def applied(seq: int, version: Version) -> Verdict:
    return Verdict(seq=seq, outcome="applied", version=version)


def rejected(seq: int, reason: str, version: Version | None = None) -> Verdict:
    return Verdict(seq=seq, outcome="rejected", reason=reason, version=version)


def test_a_push_is_installed_once_the_model_has_every_version_that_holds_it() -> None:
    tally = Tally(now=0.0)
    tally.pushed(7, 1, 32, now=10.0)
    tally.answered(Answered(7, 1, (applied(1, (1, 5)), applied(1, (1, 9)))))
    for versions, count in ([(1, 5), (1, 8)], 0), ([(1, 4), (1, 9)], 0), ([(2, 0), (1, 9)], 1):
        tally.installed(versions, now=12.0)
        assert sum(tally.installed_after.counts) == count
    assert tally.installed_after.total == 2.0
    assert not tally.has_landing


def test_a_program_that_installs_nothing_is_no_leak() -> None:
    tally = Tally(now=0.0)
    for seq in range(1, 10 * MAX_WINDOW):
        tally.pushed(7, seq, 32, now=float(seq))
        tally.answered(Answered(7, seq, (applied(seq, (1, seq)),)))
    tally.installed([(1, seq)], now=float(seq))
    assert sum(tally.installed_after.counts) == MAX_WINDOW


def test_verdicts_are_counted_by_what_they_said() -> None:
    tally = Tally(now=0.0)
    for seq in (1, 2):
        tally.pushed(7, seq, 32, now=0.0)
        tally.answered(Answered(7, seq, (applied(seq, (1, seq)), rejected(seq, "norm"))))
    assert tally.verdicts == {("applied", ""): 2, ("rejected", "norm"): 2}


def test_a_push_that_no_shard_applied_is_not_waited_for() -> None:
    tally = Tally(now=0.0)
    tally.pushed(7, 1, 32, now=0.0)
    tally.answered(Answered(7, 1, (rejected(1, "stale", (1, 5)),)))
    tally.answered(Answered(7, 2, (applied(2, (1, 6)),)))  # of a push that it never made
    assert not tally.has_landing
    assert tally.pushes == 1


def test_a_rate_is_that_of_the_last_few_times_it_was_asked_for() -> None:
    tally = Tally(now=0.0)
    for second in range(1, 10):
        tally.pushed(7, second, 10 if second < 5 else 30, now=float(second))
        rate = tally.samples_per_s(float(second))
    assert tally.samples == 190
    assert rate == (190 - 20) / 7
