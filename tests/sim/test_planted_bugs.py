"""Bugs planted in the production classes: the schedules that all pass without them find each.

Each breaks one rule of the protocol, as somebody who found the rule needless would break it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from gradmq.broker.directory import Members
from gradmq.broker.releases import Releases as BrokerReleases
from gradmq.membership import Membership
from gradmq.ps.effects import Reply
from gradmq.ps.lineage import Lineage
from gradmq.ps.policy import Admission, Bounded
from gradmq.ps.publications import Publications
from gradmq.ps.publishing import PublishTiming
from gradmq.ps.sessions import Sessions
from gradmq.ps.shard import Shard
from gradmq.replica import Release, Releases, Replica
from gradmq.ring import RingWriter
from gradmq.sim.violation import Violation
from gradmq.wire.messages import Attached, Query
from gradmq.worker.session import Session

Plant = Callable[[pytest.MonkeyPatch], None]
Find = Callable[[int], Violation]


# -- publishing -----------------------------------------------------------------------------------


def a_shard_publishes_per_full_round_only(patch):
    """One push of every attached worker, and nothing else: they wait for each other."""

    def due(self, now, attached, push_waiting):
        return self.unpublished and not self._is_draining(now) and self._applied >= attached

    patch.setattr(PublishTiming, "due", due)


def what_was_fetched_is_not_copied(patch):
    """It goes out of a slot into which the next version but two is written."""

    def copied(self):
        return self._of(self._parameters.values)

    patch.setattr(Publications, "copied", copied)


def a_copy_outlives_its_version(patch):
    """What was copied once is sent to whoever asks, whatever was applied since."""

    def copied(self):
        self._copy = self._copy or self._of(self._parameters.values.copy())
        return self._copy

    patch.setattr(Publications, "copied", copied)
    patch.setattr(Publications, "on_change", lambda self: None)


def a_version_is_made_in_place(patch):
    """The next one is written over the newest, from which a publication is being sent."""
    patch.setattr(RingWriter, "begin", lambda self, lent=(): self.values)


def nobody_fetches_what_a_beacon_names(patch):
    """Parameters are fetched once, at the beginning; a publication that was dropped stays so."""
    original = Replica.on_beacon

    def on_beacon(self, beacon, now):
        return original(self, beacon, now) if self.versions[beacon.shard] is None else None

    patch.setattr(Replica, "on_beacon", on_beacon)


def a_replica_takes_older_versions(patch):
    """Whatever comes last is taken for the newest: the answer to a fetch, too."""

    def on_publication(self, publication):
        copy = self._copies[publication.shard]
        copy.newest, copy.version = publication, publication.version
        return True

    patch.setattr(Replica, "on_publication", on_publication)


# -- shared memory --------------------------------------------------------------------------------


def a_slot_is_used_again_before_every_shard_has_answered(patch):
    """The next gradient is written over one that some shard has not read yet."""
    patch.setattr(Session, "free_slot", lambda self: 0)


def the_ring_of_a_life_that_is_over_is_read_on(patch):
    """It was opened once; that a new life has a new one is passed over."""
    original = Replica.open_ring

    def open_ring(self, shard, incarnation, ring):
        if not self.has_ring(shard):
            original(self, shard, incarnation, ring)

    patch.setattr(Replica, "open_ring", open_ring)


def a_ring_is_looked_at_only_when_it_is_opened(patch):
    """After that a worker waits to be told, and nobody tells who does not subscribe."""
    original = Replica.look

    def look(self, shard):
        if self.versions[shard] is None:
            original(self, shard)

    patch.setattr(Replica, "look", look)


# -- attaching ------------------------------------------------------------------------------------


def a_worker_does_not_attach_to_a_new_incarnation(patch):
    """It stamps its pushes anew and goes on."""
    original = Session._on_incarnation

    def on_incarnation(self, side, incarnation, now):
        if not side.attached:
            original(self, side, incarnation, now)
        elif incarnation > side.incarnation:
            side.incarnation = incarnation
            for pushed in side.unanswered.values():
                pushed.restamp(incarnation, side.shared)
            side.outbox = deque(side.unanswered)

    patch.setattr(Session, "_on_incarnation", on_incarnation)


def a_restarted_shard_waits_for_pushes_that_were_acknowledged(patch):
    """Attaching does not tell it from which seq on the session has no verdict."""
    original = Shard.on_attach

    def on_attach(self, peer, attach, *shared):
        row = self._sessions.rows.get(attach.session)
        last_seq = row.last_seq if row else 0
        effects = original(self, peer, attach, *shared)
        if effects and isinstance(effects[0].message, Attached):
            self._sessions.rows[attach.session].last_seq = last_seq
            effects = [Reply(peer, replace(effects[0].message, last_seq=last_seq))]
        return effects

    patch.setattr(Shard, "on_attach", on_attach)


def bases_of_older_incarnations_count(patch):
    """No lineage: any version up to the present one is taken for part of the past."""

    def wrong_base(self, base, present):
        return "future" if base[1] > present else ""

    patch.setattr(Lineage, "wrong_base", wrong_base)


def verdicts_of_older_incarnations_count(patch):
    original = Session.on_verdicts

    def on_verdicts(self, shard, message, now):
        present = self._sides[shard].incarnation
        original(self, shard, replace(message, incarnation=present), now)

    patch.setattr(Session, "on_verdicts", on_verdicts)


# -- once -----------------------------------------------------------------------------------------


def a_worker_resends_without_asking(patch):
    original = Session.on_time

    def on_time(self, now):
        effects = []
        for effect in original(self, now):
            if isinstance(effect.message, Query):
                side = self._sides[effect.shard]
                side.outbox = deque(side.unanswered)
            else:
                effects.append(effect)
        return effects

    patch.setattr(Session, "on_time", on_time)


def a_shard_decides_doubled_pushes_again(patch):
    original = Shard.on_push

    def on_push(self, push, now):
        row = self._sessions.rows.get(push.session)
        if row is not None and push.seq <= row.last_seq:
            row.last_seq = push.seq - 1
        return original(self, push, now)

    patch.setattr(Shard, "on_push", on_push)


def a_shard_passes_over_gaps(patch):
    """It decides what comes next, as if what is missing had been decided."""
    original = Shard.on_push

    def on_push(self, push, now):
        row = self._sessions.rows.get(push.session)
        if row is not None and push.seq > row.last_seq:
            row.last_seq = push.seq - 1
        return original(self, push, now)

    patch.setattr(Shard, "on_push", on_push)


def a_shard_does_not_store_verdicts(patch):
    original = Shard.on_push

    def on_push(self, push, now):
        effects = original(self, push, now)
        if push.session in self._sessions.rows:
            self._sessions.rows[push.session].verdicts.clear()
        return effects

    patch.setattr(Shard, "on_push", on_push)


def a_checkpoint_holds_seqs_of_a_later_instant(patch):
    """Its rows are those of the shard itself, which goes on while it is written."""
    original = Shard.snapshot

    def snapshot(self):
        return replace(original(self), rows=self._sessions.rows)

    patch.setattr(Shard, "snapshot", snapshot)


# -- windows and staleness ------------------------------------------------------------------------


def a_push_leaves_the_window_with_its_verdict(patch):
    """Not only when the replica holds the version that the verdict names."""
    original = Session._answer

    def answer(self, shard, verdict, now):
        original(self, shard, verdict, now)
        self._sides[shard].landing.clear()

    patch.setattr(Session, "_answer", answer)


def staleness_is_one_more_than_the_bound(patch):
    patch.setattr(Bounded, "admit", lambda self, staleness: Admission(staleness <= self.bound + 1))


# -- sessions -------------------------------------------------------------------------------------


def rows_of_fenced_sessions_stay(patch):
    def on_directory(self, directory):
        self._live = frozenset(directory.sessions)

    patch.setattr(Sessions, "on_directory", on_directory)


def a_broker_that_restarts_lifts_fences(patch):
    """A shard believes the directory in everything; the session it fenced is live again."""

    def on_directory(self, directory):
        self._live = self.spared = frozenset(directory.sessions)
        self.fenced_up_to = directory.horizon
        for session in [s for s in self.rows if self.is_fenced(s)]:
            del self.rows[session]
            self.attached.pop(session, None)

    patch.setattr(Sessions, "on_directory", on_directory)


def a_refusal_of_the_last_session_ends_this_one(patch):
    original = Session.on_refused

    def on_refused(self, shard, message, now):
        original(self, shard, replace(message, session=None), now)

    patch.setattr(Session, "on_refused", on_refused)


def a_sleeper_takes_its_name_back(patch):
    """Of two sessions of one name, the one that spoke last lives, not the newest."""
    original = Members.on_hello

    def on_hello(self, peer, hello, now):
        if hello.session is not None and self.members.get(peer) is None:
            others = [m for m in self.workers() if m.name == hello.name]
            if any(m.session > hello.session for m in others):
                hello = replace(hello, session=None)
        return original(self, peer, hello, now)

    patch.setattr(Members, "on_hello", on_hello)


def verdicts_go_where_the_worker_was_when_it_attached(patch):
    """Its connection has broken since; each verdict must be asked for."""
    original = Shard.on_query

    def on_query(self, peer, query, push_waiting):
        attachment = self._sessions.attached.get(query.session)
        was = attachment.peer if attachment else peer
        effects = original(self, peer, query, push_waiting)
        if attachment:
            attachment.peer = was
        return effects

    patch.setattr(Shard, "on_query", on_query)


def a_late_welcome_stands_for_the_next_hello(patch):
    """What a member had to say meanwhile, such as where a shard listens, is never said."""
    original = Membership.on_welcome

    def on_welcome(self, welcome, now):
        self._untold = False
        original(self, welcome, now)

    patch.setattr(Membership, "on_welcome", on_welcome)


def a_restarted_broker_gives_names_as_the_first_one_did(patch):
    """Its first worker without a name gets one that somebody has who is not back yet."""
    original = Members.__init__

    def init(self, run, shards, incarnation, settings, now):
        original(self, run, shards, incarnation, settings, now)
        self._incarnation = 1

    patch.setattr(Members, "__init__", init)


def a_checkpoint_forgets_fences(patch):
    original = Shard.snapshot

    def snapshot(self):
        return replace(original(self), fenced_up_to=0, spared=frozenset())

    patch.setattr(Shard, "snapshot", snapshot)


# -- releases -------------------------------------------------------------------------------------


def a_release_needs_no_manifest(patch):
    """Once every shard has sent its part it is taken, whether or not it will ever close."""
    original = Releases.on_publication

    def on_publication(self, publication):
        complete = original(self, publication)
        parts = self._parts.get(publication.release, {})
        if complete is None and len(parts) == self._layout.shards:
            ordered = tuple(parts[shard] for shard in range(self._layout.shards))
            complete = Release(publication.release, ordered)
            self._have = publication.release
            self._forget_what_is_complete()
        return complete

    patch.setattr(Releases, "on_publication", on_publication)


def a_restarted_broker_begins_with_release_1(patch):
    patch.setattr(BrokerReleases, "on_known", lambda self, release: None)


# -- losses ---------------------------------------------------------------------------------------


def a_worker_tells_only_what_its_replica_holds_now(patch):
    """By then it often holds the new life's versions, and what the old one had is forgotten."""
    original = Session._attach

    def attach(self, shard):
        return replace(original(self, shard), newest_seen=self._sides[shard].newest_seen)

    patch.setattr(Session, "_attach", attach)


#: With the rules that they break, and a seed that has shown it: it is tried first.
PLANTS = [
    (a_shard_publishes_per_full_round_only, {"waits"}, 8),
    (what_was_fetched_is_not_copied, {"never torn"}, 0),
    (a_copy_outlives_its_version, {"never torn"}, 0),
    (a_version_is_made_in_place, {"never torn"}, 0),
    (nobody_fetches_what_a_beacon_names, {"waits"}, 4),
    (a_replica_takes_older_versions, {"never backwards"}, 5),
    (a_slot_is_used_again_before_every_shard_has_answered, {"never torn", "exactly once"}, 1),
    (the_ring_of_a_life_that_is_over_is_read_on, {"waits"}, 1),
    (a_ring_is_looked_at_only_when_it_is_opened, {"waits"}, 1),
    (a_worker_does_not_attach_to_a_new_incarnation, {"attach"}, 1),
    (a_restarted_shard_waits_for_pushes_that_were_acknowledged, {"waits"}, 2),
    (bases_of_older_incarnations_count, {"lineage"}, 12),
    (verdicts_of_older_incarnations_count, {"never backwards", "exactly once"}, 42),
    (a_worker_resends_without_asking, {"blind resend"}, 5),
    (a_shard_decides_doubled_pushes_again, {"exactly once"}, 1),
    (a_shard_passes_over_gaps, {"exactly once"}, 1),
    (a_shard_does_not_store_verdicts, {"exactly once"}, 17),
    (a_checkpoint_holds_seqs_of_a_later_instant, {"exactly once", "lost updates"}, 231),
    (a_push_leaves_the_window_with_its_verdict, {"sequential"}, 4),
    (staleness_is_one_more_than_the_bound, {"staleness"}, 3),
    (rows_of_fenced_sessions_stay, {"fenced", "waits"}, 0),
    (a_broker_that_restarts_lifts_fences, {"exactly once", "sequential"}, 266),
    (a_checkpoint_forgets_fences, {"exactly once"}, 613),
    (a_refusal_of_the_last_session_ends_this_one, {"sessions"}, 129),
    (a_sleeper_takes_its_name_back, {"sessions"}, 35),
    (verdicts_go_where_the_worker_was_when_it_attached, {"waits"}, 152),
    (a_late_welcome_stands_for_the_next_hello, {"waits"}, 62),
    (a_restarted_broker_gives_names_as_the_first_one_did, {"sessions"}, 88),
    (a_release_needs_no_manifest, {"releases"}, 1),
    (a_restarted_broker_begins_with_release_1, {"releases", "waits"}, 51),
    (a_worker_tells_only_what_its_replica_holds_now, {"lost updates"}, 33),
]


@pytest.mark.parametrize(
    ("plant", "rules", "hint"), [pytest.param(*row, id=row[0].__name__) for row in PLANTS]
)
def test_a_planted_bug_is_found(
    plant: Plant, rules: set[str], hint: int, monkeypatch: pytest.MonkeyPatch, find: Find
) -> None:
    plant(monkeypatch)
    assert find(hint).rule in rules
