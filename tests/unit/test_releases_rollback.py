"""A release with the contents of an older one: only together, one at a time, and answered."""

from __future__ import annotations

from gradmq.broker.releases import AnswerRelease, Begin, Releases
from gradmq.wire.messages import Label, ReleaseMade

VERSIONS = ((1, 5), (1, 5))


def releases() -> Releases:
    made = Releases(2, every_s=1e9, save_every_s=1e9)
    made.on_known(7)
    made.on_time(0.0, None)
    return made


def begun(made: Releases) -> Label:
    begin = made.on_time(1.0, VERSIONS, followed=False)[-1]
    assert isinstance(begin, Begin)
    return begin.label


def test_a_rollback_is_a_new_release_that_is_saved() -> None:
    made = releases()
    assert made.on_ask(b"p", True, 3, [(1, 3), (3, 5)]) == []
    assert begun(made) == Label(release=8, save=True, contents_of=3)


def test_a_release_that_one_shard_lacks_is_refused_with_those_that_all_have() -> None:
    made = releases()
    (answer,) = made.on_ask(b"p", True, 3, [(1, 3, 5), (1, 5)])
    error = "release 3 is not on the disk of shards [1]; all of them have [1, 5]"
    assert answer == AnswerRelease(b"p", ReleaseMade(release=3, error=error))
    assert made.on_time(1.0, VERSIONS, followed=False) == []


def test_two_rollbacks_are_two_releases_and_whoever_only_wants_one_shares_the_first() -> None:
    made = releases()
    on_disk = [(1, 3), (1, 3)]
    made.on_ask(b"a", False)
    made.on_ask(b"b", True, 3, on_disk)
    made.on_ask(b"c", True, 1, on_disk)
    assert begun(made).contents_of == 3
    made.on_new_life(0)  # abandoned: asked again
    assert begun(made) == Label(release=9, save=True, contents_of=3)
