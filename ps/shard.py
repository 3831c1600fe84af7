"""A shard: decides every push exactly once, applies it, and says when to publish.

Pure: events come in through ``on_…`` methods with the time as an argument, effects are returned;
``node.py`` performs them. The rules are those of ``docs/design.md`` §7; each is named where it is
kept.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gradmq.layout import Layout
from gradmq.ps.durability import Durability
from gradmq.ps.effects import Effect, Publish, Quarantined, Reply, Save, TellBroker
from gradmq.ps.journal.records import Labelled as LabelledRecord
from gradmq.ps.journal.records import Seeded, decision, rollback
from gradmq.ps.judge import Judge, payload_of, rejected
from gradmq.ps.lineage import Lineage
from gradmq.ps.optim import Optimizer
from gradmq.ps.parameters import Parameters
from gradmq.ps.policy import Policy
from gradmq.ps.publications import Publications
from gradmq.ps.publishing import PublishTiming
from gradmq.ps.quarantine import Quarantine
from gradmq.ps.sessions import NOTHING_SHARED, Sessions, SharedSlots
from gradmq.ps.state import ShardState, copied
from gradmq.ps.tally import Tally
from gradmq.ring import RingWriter, own_memory
from gradmq.wire.codec import payload_array
from gradmq.wire.messages import (
    Attach,
    Attached,
    Beacon,
    Detach,
    Directory,
    Fetch,
    Label,
    Labelled,
    Push,
    Query,
    Reattach,
    Refused,
    Seed,
    Segment,
    Version,
)


class Shard:
    """The parameters of one part of the layout, and the one order in which they change."""

    def __init__(
        self,
        run: str,
        layout: Layout,
        index: int,
        incarnation: int,
        optimizer: Optimizer,
        policy: Policy,
        push_budget_bytes: int = 1 << 30,
        ring: RingWriter | None = None,
        ring_segment: Segment | None = None,
        journalled: bool = False,
        max_gradient_norm: float | None = None,
    ) -> None:
        """``ring_segment`` tells workers of this host where the ring lies; None: they use TCP.

        With ``journalled``, every decision is an Append too, and is said once that is durable.
        ``max_gradient_norm`` is of the part that one push has for this shard; None: no limit.
        """
        self.run = run
        self.layout = layout
        self.part = layout.parts[index]
        self.incarnation = incarnation
        self.tally = Tally()
        self._timing = PublishTiming()
        ring = ring or RingWriter(own_memory(self.part.size), self.part.size)
        self._parameters = Parameters(self.part.size, optimizer, ring, max_gradient_norm)
        self._lineage = Lineage(incarnation)
        self._judge = Judge(layout, index, policy, self._parameters, self._lineage)
        self.publications = Publications(run, index, layout.hash, incarnation, self._parameters)
        self._quarantine = Quarantine(index)
        self._ring_segment = ring_segment
        self._sessions = Sessions(incarnation, self.part.nbytes, push_budget_bytes)
        self._seeder = 0
        self._release = 0
        self._labelled_version: Version | None = None
        self._applied_at: float | None = None
        """When this life last changed the parameters."""
        self._durability = Durability(journalled, self.part.nbytes)

    # -- parameters: from the first to the last ---------------------------------------------------

    @property
    def ready(self) -> bool:
        """True once there are parameters."""
        return self._parameters.version is not None

    @property
    def version(self) -> Version:
        return (self.incarnation, self._parameters.version or 0)

    @property
    def release(self) -> int:
        """The newest release this shard has labelled."""
        return self._release

    @property
    def is_unlabelled(self) -> bool:
        """True while the present version is newer than the last that was labelled in this life."""
        return self.ready and self.version != self._labelled_version

    @property
    def optimizer_settings(self) -> dict[str, Any]:
        """Of the optimizer, as settings that make it again."""
        return self._parameters.optimizer.settings()

    @property
    def lineage(self) -> tuple[tuple[int, int], ...]:
        """(incarnation, version it was restored at), oldest first; −1: it began with new ones."""
        return self._lineage.lives

    def restore(self, state: ShardState) -> None:
        """Continue from a checkpoint, as a new incarnation."""
        self._parameters.install(state.parameters, state.optimizer, state.version)
        self._lineage.restore(state)
        self._release = state.release
        self._durability.position = state.position
        self._sessions.restore(state.rows, state.fenced_up_to, state.spared)

    def on_seed(self, peer: bytes, seed: Seed) -> list[Effect]:
        """First parameters, from the worker to whom the broker granted it; else refused."""
        if self.ready:
            return []  # a repetition: the first one counted
        granted = seed.session == self._seeder and seed.shard == self.part.index
        if not granted or seed.run != self.run or seed.layout != self.layout.hash:
            return [
                Reply(peer, Refused(reason="role", text="not the seeding this shard waits for"))
            ]
        values = payload_array(seed.payload, self.part.size, seed.crc, "f32")
        self._parameters.install(values, {}, 0)
        self._lineage.begin()
        return self._durability.record(lambda: Seeded(payload=seed.payload))

    def snapshot(self) -> ShardState:
        """A copy of the whole state."""
        payload = self.publications.copied().payload
        return ShardState(
            parameters=np.frombuffer(payload[0], np.float32) if payload else np.empty(0, "f4"),
            optimizer={name: vector.copy() for name, vector in self._parameters.state.items()},
            version=self._parameters.version or 0,
            lineage=self._lineage.lives,
            rows=copied(self._sessions.rows),
            release=self._release,
            fenced_up_to=self._sessions.fenced_up_to,
            spared=self._sessions.spared,
            position=self._durability.position,
            floor=self._lineage.floor,
        )

    def on_durable(self, position: int) -> list[Effect]:
        """The journal is on disk up to there: what waited for it may be said."""
        self._sessions.on_durable(position)
        return [*self._durability.on_durable(position), *self.take_verdicts()]

    # -- sessions ---------------------------------------------------------------------------------

    def owner(self, session: int) -> str:
        """The worker to which a session was given, as far as that is known here."""
        return self._sessions.owner(session)

    def on_directory(self, directory: Directory, now: float) -> None:
        """The broker's list of live sessions, who may seed, and who is in quarantine."""
        self._seeder = directory.seeder
        self._quarantine.standings.hear(directory.standings, now)
        self._sessions.on_directory(directory)

    def on_attach(
        self, peer: bytes, attach: Attach, shared: SharedSlots = NOTHING_SHARED
    ) -> list[Effect]:
        """Rule *Attach*: from here on the session's pushes are decided, beginning at last_seq+1."""
        refusal = self._refuse_attach(attach)
        if refusal is not None:
            return [Reply(peer, refusal)]
        if not (self.ready and self._sessions.is_known(attach.session)):
            # The parameters, or the directory that lists it, are still under way: it asks again.
            return []
        known = self._sessions.rows.get(attach.session)
        if known is not None and known.said_up_to < known.last_seq:
            return []  # what it wants to know is on its way to the disk: it asks again
        row = self._sessions.attach(peer, attach, shared.vectors)
        if isinstance(row, Refused):
            return [Reply(peer, row)]
        if row.last_seq < attach.oldest_unanswered - 1:
            self._sessions.pass_over(row, attach.oldest_unanswered - 1)
            lost = self._lineage.lost_since(attach.newest_seen)
            self.tally.lost_updates = max(self.tally.lost_updates, lost)
        return [
            Reply(
                peer,
                Attached(
                    session=attach.session,
                    incarnation=self.incarnation,
                    last_seq=row.last_seq,
                    window=self._sessions.attached[attach.session].window,
                    verdicts=tuple(v for v in row.verdicts if v.seq >= attach.oldest_unanswered),
                    ring=self._ring_segment if shared.vectors else None,
                    not_shared=shared.reason,
                ),
            )
        ]

    def _refuse_attach(self, attach: Attach) -> Refused | None:
        if attach.run != self.run:
            return Refused(reason="run", text=f"this shard is of run {self.run}, not {attach.run}")
        if attach.layout != self.layout.hash:
            return Refused(
                reason="layout", text=f"layout {attach.layout} here is {self.layout.hash}"
            )
        if self._sessions.is_fenced(attach.session):
            text = f"session {attach.session} is not live"
            return Refused(reason="fenced", text=text, session=attach.session)
        return None

    def on_detach(self, detach: Detach) -> None:
        """The session is over, by its own wish."""
        self._sessions.end(detach.session)

    def on_query(self, peer: bytes, query: Query, push_waiting: bool) -> list[Effect]:
        """Rule *Ask before resending*."""
        answer = self._sessions.answer(peer, query, push_waiting)
        return [] if answer is None else [Reply(peer, answer)]

    # -- pushes -----------------------------------------------------------------------------------

    def on_push(self, push: Push, now: float) -> list[Effect]:
        """Decide a push: k+1 is decided, ≤ k is answered as before, > k+1 asks to attach again."""
        attachment = self._sessions.attached.get(push.session)
        if attachment is None or push.run != self.run or push.shard != self.part.index:
            return []  # nobody to tell: the worker's query will find out
        if push.incarnation != self.incarnation:
            return []  # sent before its session attached here; it was stamped anew and sent again
        row = self._sessions.rows[push.session]
        if push.seq > row.last_seq + 1:
            del self._sessions.attached[push.session]
            again = Reattach(session=push.session, incarnation=self.incarnation)
            return [Reply(attachment.peer, again)]
        if push.seq <= row.last_seq:
            attachment.pending.extend(v for v in row.verdicts if v.seq == push.seq)
            return []
        if self._quarantine.holds(row.name):
            verdict, elements = rejected(push, "quarantined"), 0
        else:
            verdict, elements = self._judge.decide(push, attachment.slots)
        applied = verdict.outcome == "applied"
        if applied and verdict.version is not None:
            self._on_change(now)
        elif verdict.reason == "stale":
            self._timing.ask()
        nbytes = sum(map(len, push.payload)) if push.slot is None else 4 * elements
        self.tally.count(row.name, push, verdict, nbytes)
        why = self._quarantine.decided(row.name, verdict.reason, now)
        effects: list[Effect] = [Quarantined(row.name, why)] if why else []
        if not self._durability.journalled:
            self._sessions.decided(push.session, verdict)
            return effects
        payload = payload_of(push, attachment.slots, elements) if applied else ()
        effects += self._durability.record(
            lambda: decision(row.name, push, verdict, self._parameters.optimizer.lr, payload)
        )
        self._sessions.decided(push.session, verdict, self._durability.position)
        return effects + self._durability.on_applied(nbytes if applied else 0)

    def take_verdicts(self) -> list[Effect]:
        """The verdicts given since the last call, one message per worker."""
        return [Reply(peer, verdicts) for peer, verdicts in self._sessions.take_verdicts()]

    def _on_change(self, now: float) -> None:
        self._applied_at = now
        self.publications.on_change()
        self._timing.on_apply(now)

    # -- publications and releases ----------------------------------------------------------------

    def on_readers(self, present: bool) -> None:
        """Whether anybody reads the stream of newest versions."""
        self._timing.readers = present

    def on_subscriber(self) -> None:
        """Somebody has begun to listen to the stream."""
        self._timing.on_subscriber()

    def on_time(self, now: float, push_waiting: bool) -> list[Effect]:
        """Publish or send a beacon, if it is time to."""
        if not self.ready:
            return []
        unpublished = self.publications.newest is None and self._timing.readers
        attached = len(self._sessions.attached)
        if unpublished or self._timing.due(now, attached, push_waiting):
            self._timing.on_published(now)
            return [self.publications.next()]
        if self._timing.beacon_due(now):
            self._timing.on_beacon(now)
            return [Publish(self._beacon())]
        return []

    def next_deadline(self, now: float) -> float:
        """``on_time`` has nothing to do before this time unless something else happens first."""
        return self._timing.next_deadline(now) if self.ready else float("inf")

    def on_drained(self, now: float) -> None:
        """The newest publication has left for every reader that still reads."""
        self._timing.on_drained(now)

    def on_slot_free(self, slot: int) -> None:
        """The publication that was sent from this slot is with no reader's connection any more."""
        self._parameters.lent.discard(slot)

    def _beacon(self) -> Beacon:
        return Beacon(
            run=self.run,
            shard=self.part.index,
            version=self.version,
            published=self.publications.newest or (self.incarnation, 0),
            release=self._release,
            last_seqs={s: self._sessions.rows[s].last_seq for s in self._sessions.attached},
        )

    def on_fetch(self, peer: bytes, fetch: Fetch) -> list[Effect]:
        """Rule *Fetch*: the one repair."""
        if fetch.run != self.run or fetch.layout != self.layout.hash:
            return [
                Reply(peer, Refused(reason="layout", text=f"run {self.run} has another layout"))
            ]
        if not self.ready:
            return []  # the fetcher asks again; the broker says that parameters are awaited
        if fetch.release is None:
            asker = self._sessions.attached.get(fetch.session or 0)
            if asker is not None and asker.slots:
                return [Reply(peer, self.publications.in_ring())]
            return [Reply(peer, self.publications.fetched())]
        kept = self.publications.kept(fetch.release)
        if kept is None:
            text = f"release {fetch.release} is not kept any more"
            return [Reply(peer, Refused(reason="release", text=text))]
        return [Reply(peer, kept)]

    def on_label(
        self, label: Label, contents: ShardState | None = None, now: float = 0.0
    ) -> list[Effect]:
        """Rule *Release*: publish the present version under this number, changed or not.

        With ``contents``, what the label's older release holds becomes the present version first.
        """
        if not self.ready or label.release <= self._release:
            return []
        self._release = label.release
        effects = self._roll_back(label, contents, now) if contents else []
        effects += self._durability.record(
            lambda: LabelledRecord(release=label.release, version=self.version)
        )
        part = self.publications.label(label)
        self._labelled_version = self.version
        labelled = Labelled(
            release=label.release, shard=self.part.index, version=self.version, crc=part.crc
        )
        made: list[Effect] = [Publish(part), TellBroker(labelled, self._applied_at)]
        if label.save:
            self._durability.on_saved()
            made.append(Save(label.release, self.snapshot()))
        return effects + self._durability.hold(made)

    def _roll_back(self, label: Label, contents: ShardState, now: float) -> list[Effect]:
        """A new version like any other; but no gradient of an older one counts any more."""
        version = self.version[1] + 1
        self._parameters.install(contents.parameters, contents.optimizer, version)
        self._lineage.floor = version
        self._on_change(now)
        return self._durability.record(
            lambda: rollback(label.contents_of or 0, self.version, contents)
        )

    def report(self, now: float) -> dict[str, object]:
        """For the broker's status."""
        standings = self._quarantine.standings.tell(now)
        attached = self._sessions.attached
        return {
            "ready": self.ready,
            "incarnation": self.incarnation,
            "version": self.version[1],
            "release": self._release,
            "parameter_bytes": self.part.nbytes,
            "attached": len(attached),
            "shared": sum(bool(attachment.slots) for attachment in attached.values()),
            "waiting_for": "" if self.ready else "initial parameters",
            "standings": {name: asdict(standing) for name, standing in standings.items()},
            **self.tally.report(),
        }
