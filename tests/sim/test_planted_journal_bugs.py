"""Bugs planted in the journal, in recovery and in going back: the schedules find each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gradmq.broker.directory import Members
from gradmq.ps.durability import Durability
from gradmq.ps.effects import Append
from gradmq.ps.journal.chain import Chain, Records, superseded
from gradmq.ps.journal.records import decision
from gradmq.ps.journal.replay import Replay
from gradmq.ps.parameters import Parameters
from gradmq.ps.sessions import Sessions
from gradmq.ps.shard import Shard
from gradmq.sim.violation import Violation

Plant = Callable[[pytest.MonkeyPatch], None]
Find = Callable[[int], Violation]


# -- durable first --------------------------------------------------------------------------------


def a_verdict_does_not_wait_for_its_record(patch):
    original = Sessions.decided
    patch.setattr(Sessions, "decided", lambda self, s, verdict, at=None: original(self, s, verdict))


def a_label_does_not_wait_for_its_record(patch):
    patch.setattr(Durability, "hold", lambda self, effects: effects)


def an_attach_is_answered_with_verdicts_that_are_not_on_disk(patch):
    original = Shard.on_attach

    def on_attach(self, peer, attach, *shared):
        row = self._sessions.rows.get(attach.session)
        if row is not None:
            row.said_up_to = row.last_seq
        return original(self, peer, attach, *shared)

    patch.setattr(Shard, "on_attach", on_attach)


def what_is_being_written_counts_as_on_disk(patch):
    """One record too many is said to be durable."""
    original = Shard.on_durable
    patch.setattr(Shard, "on_durable", lambda self, position: original(self, position + 1))


# -- recovery -------------------------------------------------------------------------------------


def all_damage_is_taken_for_a_torn_end(patch):
    """What was on disk, and promised, is cut off."""
    patch.setattr(Records, "_on_damage", lambda self, *damage: None)


def a_torn_end_stays_and_what_was_read_is_not_synced(patch):
    original = Records.after
    patch.setattr(Records, "after", lambda self, position, repair=False: original(self, position))


def what_was_read_is_synced_only_if_something_was_torn(patch):
    original = Records._read

    def read(self, segment, first, after, chained, repair, is_last):
        yield from original(self, segment, first, after, chained, False, is_last)
        if repair and self.cut_bytes:
            segment.keep(len(segment.data()) - self.cut_bytes)

    patch.setattr(Records, "_read", read)


def a_record_says_that_it_is_on_disk_itself(patch):
    """So a torn end is taken for damage to what was promised."""
    original = Chain.add

    def add(self, batch):
        self.durable = batch[-1][0]
        return original(self, batch)

    patch.setattr(Chain, "add", add)


def a_life_that_read_no_record_ties_its_first_one_to_nothing(patch):
    original = Records._read

    def read(self, *arguments):
        position = self.end.position
        yield from original(self, *arguments)
        if self.end.position == position:
            self.end.crc = 0

    patch.setattr(Records, "_read", read)


def a_replay_skips_what_was_rejected(patch):
    original = Replay._on_decided

    def on_decided(self, decided):
        if decided.outcome == "applied":
            original(self, decided)

    patch.setattr(Replay, "_on_decided", on_decided)


def a_replay_keeps_no_verdicts(patch):
    original = Replay._on_decided

    def on_decided(self, decided):
        original(self, decided)
        self._rows[decided.session].verdicts.clear()

    patch.setattr(Replay, "_on_decided", on_decided)


def positions_are_off_by_one_after_a_restart(patch):
    original = Shard.restore

    def restore(self, state):
        original(self, state)
        self._durability.position -= 1

    patch.setattr(Shard, "restore", restore)


def a_checkpoint_claims_one_record_more_than_it_holds(patch):
    original = Shard.snapshot

    def snapshot(self):
        state = original(self)
        return replace(state, position=state.position + 1)

    patch.setattr(Shard, "snapshot", snapshot)


def a_segment_goes_that_a_checkpoint_needs(patch):
    patch.setattr(
        "gradmq.sim.disk.superseded", lambda firsts, position: superseded(firsts, position + 3)
    )


# -- what is recorded -----------------------------------------------------------------------------


def a_record_does_not_say_which_tensors_are_in_it(patch):
    patch.setattr("gradmq.ps.shard.decision", lambda *a: replace(decision(*a), present=None))


def rejections_are_not_recorded(patch):
    original = Shard.on_push

    def on_push(self, push, now):
        position = self._durability.position
        effects = original(self, push, now)
        append = effects[0] if effects else None
        if isinstance(append, Append) and append.record.outcome == "rejected":
            self._durability.position = position
            return effects[1:]
        return effects

    patch.setattr(Shard, "on_push", on_push)


# -- going back -----------------------------------------------------------------------------------


def a_rollback_forgets_its_floor(patch):
    original = Shard._roll_back

    def roll_back(self, *arguments):
        effects = original(self, *arguments)
        self._lineage.floor = 0
        return effects

    patch.setattr(Shard, "_roll_back", roll_back)


def a_replay_forgets_the_floor(patch):
    original = Replay._on_rolled_back

    def on_rolled_back(self, record):
        original(self, record)
        self._floor = 0

    patch.setattr(Replay, "_on_rolled_back", on_rolled_back)


def a_rollback_keeps_the_copy_of_what_was_before(patch):
    """Whoever fetches the next version gets the abandoned one."""
    original = Shard._roll_back

    def roll_back(self, *arguments):
        kept = self.publications.copied()
        effects = original(self, *arguments)
        self.publications._copy = replace(kept, version=self.version)
        return effects

    patch.setattr(Shard, "_roll_back", roll_back)


def a_rollback_writes_where_a_publication_is_being_sent_from(patch):
    original = Parameters.install

    def install(self, values, state, version):
        lent, self.lent = self.lent, set()
        original(self, values, state, version)
        self.lent = lent

    patch.setattr(Parameters, "install", install)


# -- two lives at once ----------------------------------------------------------------------------


def an_older_life_is_taken_back_into_the_directory(patch):
    """Whoever said hello last is the shard."""
    original = Members._join_shard

    def join_shard(self, peer, hello, now):
        other = self.shard(hello.shard)
        if other is not None and other.peer != peer:
            other.incarnation = 0
        return original(self, peer, hello, now)

    patch.setattr(Members, "_join_shard", join_shard)


#: With the rules that they break, and a seed that has shown it: it is tried first.
PLANTS = [
    (a_verdict_does_not_wait_for_its_record, {"durable first"}, 0),
    (a_label_does_not_wait_for_its_record, {"durable first"}, 0),
    (an_attach_is_answered_with_verdicts_that_are_not_on_disk, {"durable first"}, 1),
    (what_is_being_written_counts_as_on_disk, {"durable first"}, 0),
    (all_damage_is_taken_for_a_torn_end, {"journal"}, 81),
    (a_torn_end_stays_and_what_was_read_is_not_synced, {"journal", "durable first"}, 81),
    (what_was_read_is_synced_only_if_something_was_torn, {"journal", "durable first"}, 81),
    (a_record_says_that_it_is_on_disk_itself, {"journal", "durable first"}, 15),
    (a_life_that_read_no_record_ties_its_first_one_to_nothing, {"journal", "replay"}, 1),
    (a_replay_skips_what_was_rejected, {"journalled", "exactly once"}, 5),
    (a_replay_keeps_no_verdicts, {"exactly once", "waits"}, 1),
    (positions_are_off_by_one_after_a_restart, {"raises"}, 0),
    (a_checkpoint_claims_one_record_more_than_it_holds, {"journal", "journalled"}, 1),
    (a_segment_goes_that_a_checkpoint_needs, {"journal"}, 135),
    (a_record_does_not_say_which_tensors_are_in_it, {"journal", "replay"}, 3),
    (rejections_are_not_recorded, {"durable first"}, 3),
    (a_rollback_forgets_its_floor, {"lineage"}, 12),
    (a_replay_forgets_the_floor, {"lineage"}, 430),
    (a_rollback_keeps_the_copy_of_what_was_before, {"never torn"}, 12),
    (a_rollback_writes_where_a_publication_is_being_sent_from, {"never torn"}, 30),
    (an_older_life_is_taken_back_into_the_directory, {"superseded"}, 10),
]


@pytest.mark.parametrize(
    ("plant", "rules", "hint"), [pytest.param(*row, id=row[0].__name__) for row in PLANTS]
)
def test_a_planted_bug_is_found(
    plant: Plant, rules: set[str], hint: int, monkeypatch: pytest.MonkeyPatch, find: Find
) -> None:
    plant(monkeypatch)
    assert find(hint).rule in rules
