"""Which base versions count, by the lives that a shard had."""

from __future__ import annotations

import numpy as np

from gradmq.ps.lineage import Lineage
from gradmq.ps.state import ShardState


def restored(incarnation: int, *lives: tuple[int, int], floor: int = 0) -> Lineage:
    """Of a shard whose present life began with the last of these."""
    *earlier, (_, version) = lives
    lineage = Lineage(incarnation)
    parameters = np.zeros(0, np.float32)
    lineage.restore(ShardState(parameters, {}, version, tuple(earlier), {}, 0, floor=floor))
    return lineage


def test_a_base_of_the_present_life_counts_up_to_the_present_version() -> None:
    lineage = Lineage(1)
    lineage.begin()
    assert lineage.wrong_base((1, 3), 3) == ""
    assert lineage.wrong_base((1, 4), 3) == "future"


def test_everything_is_of_the_future_while_there_are_no_parameters() -> None:
    assert Lineage(1).wrong_base((1, 0), None) == "future"


def test_a_base_of_an_older_life_counts_if_every_later_one_began_at_or_above_it() -> None:
    lineage = restored(3, (1, -1), (2, 10), (3, 8))
    assert lineage.wrong_base((1, 8), 20) == ""
    assert lineage.wrong_base((1, 9), 20) == "lost_base"
    assert lineage.wrong_base((2, 9), 20) == "lost_base"
    assert lineage.wrong_base((4, 8), 20) == "future"


def test_no_base_below_a_rollback_counts() -> None:
    lineage = restored(2, (1, -1), (2, 10), floor=6)
    assert lineage.wrong_base((1, 5), 10) == "lost_base"
    assert lineage.wrong_base((1, 6), 10) == ""


def test_what_somebody_saw_of_an_older_life_beyond_the_last_restart_is_lost() -> None:
    lineage = restored(2, (1, -1), (2, 10))
    assert lineage.lost_since((1, 13)) == 3
    assert lineage.lost_since((1, 7)) == 0
    assert lineage.lost_since((2, 13)) == 0
    assert lineage.lost_since(None) == 0


def test_a_shard_that_began_anew_has_lost_all_that_was_seen() -> None:
    lineage = Lineage(2)
    lineage.begin()
    assert lineage.lost_since((1, 13)) == 13
