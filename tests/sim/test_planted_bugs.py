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
from gradmq.ps.effects import Publish, Reply
from gradmq.ps.policy import Admission, Bounded
from gradmq.ps.publishing import PublishTiming
from gradmq.ps.shard import Shard
from gradmq.replica import Release, Releases, Replica
from gradmq.sim.violation import Violation
from gradmq.sim.world import play
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Attached, Publication, Query
from gradmq.worker.session import Session

SEEDS = 2000

Plant = Callable[[pytest.MonkeyPatch], None]


# -- publishing -----------------------------------------------------------------------------------


def a_shard_publishes_per_full_round_only(patch):
    """One push of every attached worker, and nothing else: they wait for each other."""

    def due(self, now, attached, push_waiting):
        return self.unpublished and not self._is_draining(now) and self._applied >= attached

    patch.setattr(PublishTiming, "due", due)


def a_publication_is_not_copied(patch):
    """It goes out while the next push is applied to the same memory."""

    def publish(self, now):
        payload = array_payload(self._parameters)
        self._published = Publication(
            run=self.run, shard=self.part.index, version=self.version, layout=self.layout.hash,
            crc=payload_crc(payload), payload=payload,
        )  # fmt: skip
        self._timing.on_published(now)
        return Publish(self._published)

    patch.setattr(Shard, "_publish", publish)


def nobody_fetches_what_a_beacon_names(patch):
    """Parameters are fetched once, at the beginning; a publication that was dropped stays so."""
    original = Replica.on_beacon

    def on_beacon(self, beacon, now):
        return original(self, beacon, now) if self.versions[beacon.shard] is None else None

    patch.setattr(Replica, "on_beacon", on_beacon)


def a_replica_takes_older_versions(patch):
    """Whatever comes last is taken for the newest: the answer to a fetch, too."""

    def on_publication(self, publication):
        self._copies[publication.shard].newest = publication
        return True

    patch.setattr(Replica, "on_publication", on_publication)


# -- attaching ------------------------------------------------------------------------------------


def a_worker_does_not_attach_to_a_new_incarnation(patch):
    """It stamps its pushes anew and goes on."""
    original = Session._on_incarnation

    def on_incarnation(self, side, incarnation, now):
        if not side.attached:
            original(self, side, incarnation, now)
        elif incarnation > side.incarnation:
            side.incarnation = incarnation
            side.unanswered = {
                seq: replace(push, incarnation=incarnation) for seq, push in side.unanswered.items()
            }
            side.outbox = deque(side.unanswered)

    patch.setattr(Session, "_on_incarnation", on_incarnation)


def a_restarted_shard_waits_for_pushes_that_were_acknowledged(patch):
    """Attaching does not tell it from which seq on the session has no verdict."""
    original = Shard.on_attach

    def on_attach(self, peer, attach):
        row = self._rows.get(attach.session)
        last_seq = row.last_seq if row else 0
        effects = original(self, peer, attach)
        if effects and isinstance(effects[0].message, Attached):
            self._rows[attach.session].last_seq = last_seq
            effects = [Reply(peer, replace(effects[0].message, last_seq=last_seq))]
        return effects

    patch.setattr(Shard, "on_attach", on_attach)


def bases_of_older_incarnations_count(patch):
    """No lineage: any version up to the present one is taken for part of the past."""

    def wrong_base(self, base):
        return "future" if base[1] > self._version else ""

    patch.setattr(Shard, "_wrong_base", wrong_base)


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
        row = self._rows.get(push.session)
        if row is not None and push.seq <= row.last_seq:
            row.last_seq = push.seq - 1
        return original(self, push, now)

    patch.setattr(Shard, "on_push", on_push)


def a_shard_passes_over_gaps(patch):
    """It decides what comes next, as if what is missing had been decided."""
    original = Shard.on_push

    def on_push(self, push, now):
        row = self._rows.get(push.session)
        if row is not None and push.seq > row.last_seq:
            row.last_seq = push.seq - 1
        return original(self, push, now)

    patch.setattr(Shard, "on_push", on_push)


def a_shard_does_not_store_verdicts(patch):
    original = Shard.on_push

    def on_push(self, push, now):
        effects = original(self, push, now)
        if push.session in self._rows:
            self._rows[push.session].verdicts.clear()
        return effects

    patch.setattr(Shard, "on_push", on_push)


def a_checkpoint_holds_seqs_of_a_later_instant(patch):
    """Its rows are those of the shard itself, which goes on while it is written."""
    original = Shard.snapshot

    def snapshot(self):
        return replace(original(self), rows=self._rows)

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
        self._seeder = directory.seeder

    patch.setattr(Shard, "on_directory", on_directory)


def a_broker_that_restarts_lifts_fences(patch):
    """A shard believes the directory in everything; the session it fenced is live again."""

    def on_directory(self, directory):
        self._seeder = directory.seeder
        self._live = self._spared = frozenset(directory.sessions)
        self._fenced_up_to = directory.horizon
        for session in [s for s in self._rows if self._is_fenced(s)]:
            del self._rows[session]
            self._attached.pop(session, None)

    patch.setattr(Shard, "on_directory", on_directory)


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
        attachment = self._attached.get(query.session)
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
            complete = self.newest = Release(publication.release, ordered)
        return complete

    patch.setattr(Releases, "on_publication", on_publication)


def a_restarted_broker_begins_with_release_1(patch):
    patch.setattr(BrokerReleases, "on_known", lambda self, release: None)


# -- losses ---------------------------------------------------------------------------------------


def a_worker_tells_only_what_its_replica_holds_now(patch):
    """By then it often holds the new life's versions, and what the old one had is forgotten."""
    original = Session._attach

    def attach(self, side):
        return replace(original(self, side), newest_seen=side.newest_seen)

    patch.setattr(Session, "_attach", attach)


PLANTS = [
    (a_shard_publishes_per_full_round_only, {"waits"}),
    (a_publication_is_not_copied, {"never torn"}),
    (nobody_fetches_what_a_beacon_names, {"waits"}),
    (a_replica_takes_older_versions, {"never backwards"}),
    (a_worker_does_not_attach_to_a_new_incarnation, {"attach"}),
    (a_restarted_shard_waits_for_pushes_that_were_acknowledged, {"waits"}),
    (bases_of_older_incarnations_count, {"lineage"}),
    (verdicts_of_older_incarnations_count, {"never backwards", "exactly once"}),
    (a_worker_resends_without_asking, {"blind resend"}),
    (a_shard_decides_doubled_pushes_again, {"exactly once"}),
    (a_shard_passes_over_gaps, {"exactly once"}),
    (a_shard_does_not_store_verdicts, {"exactly once"}),
    (a_checkpoint_holds_seqs_of_a_later_instant, {"exactly once", "lost updates"}),
    (a_push_leaves_the_window_with_its_verdict, {"sequential"}),
    (staleness_is_one_more_than_the_bound, {"staleness"}),
    (rows_of_fenced_sessions_stay, {"fenced"}),
    (a_broker_that_restarts_lifts_fences, {"exactly once"}),
    (a_refusal_of_the_last_session_ends_this_one, {"sessions"}),
    (a_sleeper_takes_its_name_back, {"sessions"}),
    (verdicts_go_where_the_worker_was_when_it_attached, {"waits"}),
    (a_late_welcome_stands_for_the_next_hello, {"waits"}),
    (a_restarted_broker_gives_names_as_the_first_one_did, {"sessions"}),
    (a_release_needs_no_manifest, {"releases"}),
    (a_restarted_broker_begins_with_release_1, {"releases", "waits"}),
    (a_worker_tells_only_what_its_replica_holds_now, {"lost updates"}),
]

#: What needs more faults at once than most schedules have, with a seed that has them.
RARE_PLANTS = [
    (a_checkpoint_forgets_fences, "exactly once", 9094),
]


@pytest.mark.parametrize(
    ("plant", "rules"), [pytest.param(*row, id=row[0].__name__) for row in PLANTS]
)
def test_a_planted_bug_is_found(
    plant: Plant, rules: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    violation = first_violation()
    assert violation is not None, f"not found in {SEEDS} schedules"
    print(violation)  # it names the seed
    assert violation.rule in rules


def first_violation() -> Violation | None:
    for seed in range(SEEDS):
        try:
            play(seed)
        except Violation as violation:
            return violation
    return None


@pytest.mark.parametrize(
    ("plant", "rule", "seed"), [pytest.param(*row, id=row[0].__name__) for row in RARE_PLANTS]
)
def test_a_rare_planted_bug_is_found(
    plant: Plant, rule: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation) as found:
        play(seed)
    assert found.value.rule == rule
