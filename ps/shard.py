"""A shard: decides every push exactly once, applies it, and says when to publish.

Pure: events come in through ``on_…`` methods with the time as an argument, effects are returned;
``node.py`` performs them. The rules are those of ``docs/design.md`` §7; each is named where it is
kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from gradmq.errors import RemoteProtocolError
from gradmq.layout import Layout, contiguous_runs
from gradmq.ps.effects import Effect, Publish, Reply, Save, TellBroker
from gradmq.ps.optim import Optimizer, Vector, is_finite
from gradmq.ps.policy import Policy
from gradmq.ps.publishing import PublishTiming
from gradmq.ps.state import Row, ShardState, copied
from gradmq.ps.tally import Tally
from gradmq.wire.codec import array_payload, payload_array, payload_crc
from gradmq.wire.messages import (
    MAX_WINDOW,
    Attach,
    Attached,
    Beacon,
    Detach,
    Directory,
    Fetch,
    Label,
    Labelled,
    NotSeen,
    Publication,
    Push,
    Query,
    Reattach,
    Refused,
    Seed,
    Verdict,
    Verdicts,
    Version,
)


@dataclass(slots=True)
class _Attachment:
    peer: bytes
    window: int
    pending: list[Verdict] = field(default_factory=list)


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
    ) -> None:
        self.run = run
        self.layout = layout
        self.part = layout.parts[index]
        self.incarnation = incarnation
        self.tally = Tally()
        self._optimizer = optimizer
        self._policy = policy
        self._push_budget_bytes = push_budget_bytes
        self._timing = PublishTiming()
        self._parameters = np.zeros(self.part.size, np.float32)
        self._state = optimizer.state(self.part.size)
        self._version: int | None = None
        self._lineage: tuple[tuple[int, int], ...] = ()
        self._rows: dict[int, Row] = {}
        self._attached: dict[int, _Attachment] = {}
        self._live: frozenset[int] = frozenset()
        self._fenced_up_to = 0
        self._spared: frozenset[int] = frozenset()
        """Sessions up to there that are not fenced."""
        self._ended: set[int] = set()
        """Sessions that detached and that the directory still lists."""
        self._seeder = 0
        self._published: Publication | None = None
        self._releases: dict[int, Publication] = {}
        self._release = 0
        self._all_runs = contiguous_runs(self.part.pieces)

    # -- parameters: from the first to the last ---------------------------------------------------

    @property
    def ready(self) -> bool:
        """True once there are parameters."""
        return self._version is not None

    @property
    def version(self) -> Version:
        return (self.incarnation, self._version or 0)

    @property
    def release(self) -> int:
        """The newest release this shard has labelled."""
        return self._release

    def restore(self, state: ShardState) -> None:
        """Continue from a checkpoint, as a new incarnation."""
        self._parameters = np.array(state.parameters, np.float32)
        fresh = self._optimizer.state(self.part.size)
        self._state = {k: np.array(state.optimizer.get(k, v)) for k, v in fresh.items()}
        self._version = state.version
        self._lineage = (*state.lineage, (self.incarnation, state.version))
        self._rows = copied(state.rows)
        self._release = state.release
        self._fenced_up_to = state.fenced_up_to
        self._spared = state.spared

    def on_seed(self, peer: bytes, seed: Seed) -> list[Effect]:
        """First parameters, from the worker to whom the broker granted it; else refused."""
        if self._version is not None:
            return []  # a repetition: the first one counted
        granted = seed.session == self._seeder and seed.shard == self.part.index
        if not granted or seed.run != self.run or seed.layout != self.layout.hash:
            return [
                Reply(peer, Refused(reason="role", text="not the seeding this shard waits for"))
            ]
        values = payload_array(seed.payload, self.part.size, seed.crc, "f32")
        self._parameters = np.array(values)
        self._version = 0
        self._lineage = ((self.incarnation, -1),)
        return []

    def snapshot(self) -> ShardState:
        """A copy of the whole state."""
        return ShardState(
            parameters=self._parameters.copy(),
            optimizer={name: vector.copy() for name, vector in self._state.items()},
            version=self._version or 0,
            lineage=self._lineage,
            rows=copied(self._rows),
            release=self._release,
            fenced_up_to=self._fenced_up_to,
            spared=self._spared,
        )

    # -- sessions ---------------------------------------------------------------------------------

    def on_directory(self, directory: Directory) -> None:
        """The broker's list of live sessions; the rows of fenced ones go.

        What was fenced once stays so: a broker that was restarted does not know it any more, and
        may list such a session again, whose pushes would be decided a second time without its row.
        """
        self._seeder = directory.seeder
        self._live = frozenset(s for s in directory.sessions if not self._is_fenced(s))
        if directory.horizon >= self._fenced_up_to:
            self._fenced_up_to = directory.horizon
            self._spared = self._live
        self._ended.intersection_update(directory.sessions)
        for session in [s for s in self._rows if self._is_fenced(s)]:
            del self._rows[session]
            self._attached.pop(session, None)

    def _is_fenced(self, session: int) -> bool:
        if session in self._ended:
            return True
        return session <= self._fenced_up_to and session not in self._spared

    def on_attach(self, peer: bytes, attach: Attach) -> list[Effect]:
        """Rule *Attach*: from here on the session's pushes are decided, beginning at last_seq+1."""
        refusal = self._refuse_attach(attach)
        if refusal is not None:
            return [Reply(peer, refusal)]
        if attach.session not in self._rows and attach.session not in self._live:
            return []  # the directory that lists it is still under way; the worker asks again
        window = self._grant_window(attach)
        if window == 0:
            return [Reply(peer, self._no_memory())]
        row = self._rows.setdefault(attach.session, Row(attach.name))
        acknowledged = attach.oldest_unanswered - 1
        if row.last_seq < acknowledged:
            # Verdicts were given for pushes that this incarnation does not know: they were lost
            # with the memory of the last one, and deciding them again is not possible.
            row.last_seq = acknowledged
            row.verdicts.clear()
            newest = attach.newest_seen
            if newest is not None and newest[0] < self.incarnation:
                lost = newest[1] - self._restored_version
                self.tally.lost_updates = max(self.tally.lost_updates, lost)
        self._attached[attach.session] = _Attachment(peer, window)
        stored = tuple(v for v in row.verdicts if v.seq >= attach.oldest_unanswered)
        return [
            Reply(
                peer,
                Attached(
                    session=attach.session,
                    incarnation=self.incarnation,
                    last_seq=row.last_seq,
                    window=window,
                    verdicts=stored,
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
        if self._is_fenced(attach.session):
            text = f"session {attach.session} is not live"
            return Refused(reason="fenced", text=text, session=attach.session)
        return None

    @property
    def _restored_version(self) -> int:
        return max(0, self._lineage[-1][1]) if self._lineage else 0

    def _grant_window(self, attach: Attach) -> int:
        """P6: the pushes of all windows together fit the budget; one worker is always served."""
        others = [a.window for s, a in self._attached.items() if s != attach.session]
        free = self._push_budget_bytes // max(1, self.part.nbytes) - sum(others)
        return max(0 if others else 1, min(attach.window, free, MAX_WINDOW))

    def _no_memory(self) -> Refused:
        return Refused(
            reason="memory",
            text=f"push budget of {self._push_budget_bytes} bytes is used up by "
            f"{len(self._attached)} workers; raise ps.push_budget_mb or start fewer",
        )

    def on_detach(self, detach: Detach) -> None:
        """The session is over for good: an Attach that comes late does not begin it anew."""
        self._attached.pop(detach.session, None)
        if self._rows.pop(detach.session, None) is not None:
            self._ended.add(detach.session)

    def on_query(self, peer: bytes, query: Query, push_waiting: bool) -> list[Effect]:
        """Rule *Ask before resending*."""
        row = self._rows.get(query.session)
        attachment = self._attached.get(query.session)
        if row is None or attachment is None:
            return [Reply(peer, self._reattach(query.session))]
        attachment.peer = peer  # another one after the worker's connection broke
        if query.seq > row.last_seq:
            unseen = NotSeen(
                session=query.session,
                incarnation=self.incarnation,
                seq=query.seq,
                idle=not push_waiting,
            )
            return [Reply(peer, unseen)]
        again = tuple(v for v in row.verdicts if v.seq >= query.seq)
        if not again or again[0].seq != query.seq:
            # Not stored any more (its window shrank): attaching again ends it as unknown.
            del self._attached[query.session]
            return [Reply(peer, self._reattach(query.session))]
        return [
            Reply(
                peer, Verdicts(session=query.session, incarnation=self.incarnation, verdicts=again)
            )
        ]

    def _reattach(self, session: int) -> Reattach:
        return Reattach(session=session, incarnation=self.incarnation)

    # -- pushes -----------------------------------------------------------------------------------

    def on_push(self, push: Push, now: float) -> list[Effect]:
        """Decide a push: k+1 is decided, ≤ k is answered as before, > k+1 asks to attach again."""
        attachment = self._attached.get(push.session)
        if attachment is None or push.run != self.run or push.shard != self.part.index:
            return []  # nobody to tell: the worker's query will find out
        if push.incarnation != self.incarnation:
            return []  # sent before its session attached here; it was stamped anew and sent again
        row = self._rows[push.session]
        if push.seq > row.last_seq + 1:
            del self._attached[push.session]
            return [Reply(attachment.peer, self._reattach(push.session))]
        if push.seq <= row.last_seq:
            attachment.pending.extend(v for v in row.verdicts if v.seq == push.seq)
            return []
        verdict = self._decide(push, now)
        row.last_seq = push.seq
        row.verdicts.append(verdict)
        while len(row.verdicts) > attachment.window:
            row.verdicts.popleft()
        attachment.pending.append(verdict)
        self.tally.count(row.name, push, verdict, sum(map(len, push.payload)))
        return []

    def take_verdicts(self) -> list[Effect]:
        """The verdicts given since the last call, one message per worker."""
        effects: list[Effect] = []
        for session, attachment in self._attached.items():
            if attachment.pending:
                message = Verdicts(
                    session=session,
                    incarnation=self.incarnation,
                    verdicts=tuple(attachment.pending),
                )
                effects.append(Reply(attachment.peer, message))
                attachment.pending = []
        return effects

    def _decide(self, push: Push, now: float) -> Verdict:
        wrong_base = self._wrong_base(push.base)
        if wrong_base:
            # It names a version: the worker goes on once it holds parameters that do count.
            return Verdict(
                seq=push.seq, outcome="rejected", reason=wrong_base, version=self.version
            )
        assert self._version is not None
        staleness = self._version - push.base[1]
        try:
            runs, gradient = self._open_push(push)
        except RemoteProtocolError:
            return Verdict(seq=push.seq, outcome="rejected", reason="malformed")
        if not runs:
            return Verdict(seq=push.seq, outcome="applied", staleness=staleness)
        admission = self._policy.admit(staleness)
        if not admission.apply:
            self._timing.ask()
            return Verdict(
                seq=push.seq,
                outcome="rejected",
                reason="stale",
                staleness=staleness,
                version=self.version,
            )
        if not is_finite(gradient):
            return Verdict(seq=push.seq, outcome="rejected", reason="nonfinite")
        self._apply(runs, gradient, admission.weight)
        self._version += 1
        self._timing.on_apply(now)
        return Verdict(
            seq=push.seq,
            outcome="applied",
            version=self.version,
            weight=admission.weight,
            staleness=staleness,
        )

    def _wrong_base(self, base: Version) -> str:
        """Rule *Lineage*: "" if the base version is part of this shard's past."""
        incarnation, version = base
        if self._version is None or incarnation > self.incarnation:
            return "future"
        if incarnation == self.incarnation:
            return "future" if version > self._version else ""
        survived = all(version <= at for later, at in self._lineage if later > incarnation)
        return "" if survived else "lost_base"

    def _open_push(self, push: Push) -> tuple[list[tuple[int, int, int, bool]], Vector]:
        if push.layout != self.layout.hash:
            raise RemoteProtocolError(f"layout {push.layout}, this run has {self.layout.hash}")
        runs = self._all_runs
        if push.present is not None:
            tensors = len(self.layout.tensors)
            if len(push.present) != (tensors + 7) // 8:
                raise RemoteProtocolError(f"{len(push.present)} bytes for {tensors} tensors")
            runs = contiguous_runs(self.part.select(_rows_of(push.present)))
        size = sum(run[2] for run in runs)
        return runs, payload_array(push.payload, size, push.crc, push.codec)

    def _apply(
        self, runs: Iterable[tuple[int, int, int, bool]], gradient: Vector, weight: float
    ) -> None:
        for offset, start, size, is_buffer in runs:
            parameters = self._parameters[offset : offset + size]
            change = gradient[start : start + size]
            if is_buffer:
                # A buffer travels as what a step took away from it, at full weight: a running
                # mean has its own rate, and the optimizer's has no place in it.
                np.subtract(parameters, change, out=parameters)
            else:
                state = {k: v[offset : offset + size] for k, v in self._state.items()}
                self._optimizer.apply(parameters, change, state, weight)

    # -- publications and releases ----------------------------------------------------------------

    def on_time(self, now: float, push_waiting: bool) -> list[Effect]:
        """Publish or send a beacon, if it is time to."""
        if self._version is None:
            return []
        if self._published is None or self._timing.due(now, len(self._attached), push_waiting):
            return [self._publish(now)]
        if self._timing.beacon_due(now):
            self._timing.on_beacon(now)
            return [Publish(self._beacon())]
        return []

    def next_deadline(self, now: float) -> float:
        """``on_time`` has nothing to do before this time unless something else happens first."""
        return float("inf") if self._version is None else self._timing.next_deadline(now)

    def on_drained(self, now: float) -> None:
        self._timing.on_drained(now)

    def _publish(self, now: float) -> Publish:
        payload = array_payload(self._parameters.copy())
        self._published = Publication(
            run=self.run,
            shard=self.part.index,
            version=self.version,
            layout=self.layout.hash,
            crc=payload_crc(payload),
            payload=payload,
        )
        self._timing.on_published(now)
        return Publish(self._published)

    def _beacon(self) -> Beacon:
        assert self._published is not None
        return Beacon(
            run=self.run,
            shard=self.part.index,
            version=self.version,
            published=self._published.version,
            release=self._release,
            last_seqs={session: self._rows[session].last_seq for session in self._attached},
        )

    def on_fetch(self, peer: bytes, fetch: Fetch, now: float) -> list[Effect]:
        """Rule *Fetch*: the one repair. Newest parameters are published to all on the way."""
        if fetch.run != self.run or fetch.layout != self.layout.hash:
            return [
                Reply(peer, Refused(reason="layout", text=f"run {self.run} has another layout"))
            ]
        if self._version is None:
            return []  # the fetcher asks again; the broker says that parameters are awaited
        if fetch.release is not None:
            kept = self._releases.get(fetch.release)
            if kept is None:
                text = f"release {fetch.release} is not kept any more"
                return [Reply(peer, Refused(reason="release", text=text))]
            return [Reply(peer, kept)]
        effects: list[Effect] = []
        if self._published is None or self._published.version != self.version:
            effects.append(self._publish(now))
        assert self._published is not None
        return [*effects, Reply(peer, self._published)]

    def on_label(self, label: Label, now: float) -> list[Effect]:
        """Rule *Release*: publish the present version under this number, changed or not."""
        if self._version is None or label.release <= self._release:
            return []
        effects: list[Effect] = []
        if self._published is None or self._published.version != self.version:
            effects.append(self._publish(now))
        assert self._published is not None
        self._release = label.release
        part = Publication(
            run=self.run,
            shard=self.part.index,
            version=self.version,
            layout=self.layout.hash,
            crc=self._published.crc,
            release=label.release,
            payload=self._published.payload,
        )
        # r's bytes stay until r+1 has closed; one more may be under way.
        self._releases = dict(sorted({**self._releases, label.release: part}.items())[-3:])
        labelled = Labelled(
            release=label.release, shard=self.part.index, version=self.version, crc=part.crc
        )
        effects += [Publish(part), TellBroker(labelled)]
        if label.save:
            effects.append(Save(label.release, self.snapshot()))
        return effects

    def report(self) -> dict[str, object]:
        """For the broker's status."""
        return {
            "ready": self.ready,
            "incarnation": self.incarnation,
            "version": self._version or 0,
            "release": self._release,
            "parameter_bytes": self.part.nbytes,
            "attached": len(self._attached),
            "waiting_for": "" if self.ready else "initial parameters",
            **self.tally.report(),
        }


def _rows_of(present: bytes) -> frozenset[int]:
    return frozenset(
        8 * i + bit for i, byte in enumerate(present) for bit in range(8) if byte >> bit & 1
    )
