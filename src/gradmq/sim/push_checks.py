"""Every push: decided once, at a staleness that is allowed, and its worker told what is true.

``ShardHistory`` knows what truly happened; these checks compare it with what each worker was told.
All are black boxes around the production classes: they see what goes in and what comes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gradmq.ps.effects import Effect, Reply
from gradmq.ps.shard import Shard
from gradmq.sim.history import PushId, ShardHistory
from gradmq.sim.plan import AMPLE_PUSH_BUDGET, Plan
from gradmq.sim.tracer import TracerGradient
from gradmq.sim.violation import Violation
from gradmq.wire.messages import Attach, Attached, NotSeen, Push, Verdict, Verdicts, Version
from gradmq.worker.session import Answered

if TYPE_CHECKING:
    from gradmq.sim.shard import SimShard
    from gradmq.sim.worker import SimWorker

#: Once the network is calm, a session may ask after pushes this often per shard, to repair what
#: was lost before; more means that every push needs a question.
QUERIES_WHEN_CALM = 3


class PushChecks:
    """What became of every push, and who was told what about it."""

    def __init__(self, plan: Plan, histories: Sequence[ShardHistory], counts: Counter[str]) -> None:
        self.is_calm = False
        """Set once the faults are over."""
        self._plan = plan
        self._histories = histories
        self._counts = counts
        self._gradients: dict[PushId, TracerGradient] = {}
        self._pushers: dict[PushId, SimWorker] = {}
        self._sessions: set[int] = set()
        self._staleness: dict[tuple[int, PushId, Version], int] = {}
        self._told: dict[PushId, tuple[Verdict, ...]] = {}
        self._was_unknown = False
        self._acknowledged: dict[tuple[int, int], list[tuple[int, Version]]] = defaultdict(list)
        """By (session, shard): (seq, version) of what the session was told is applied."""
        self._attached_life: dict[tuple[int, int], int] = {}
        """By (session, shard): the incarnation that attached it last."""
        self._sent: dict[tuple[int, int], set[int]] = defaultdict(set)
        """By (session, shard): seqs that nobody said are lost."""
        self._queries: Counter[tuple[int, int]] = Counter()

    # -- a shard ----------------------------------------------------------------------------------

    def restored(self, index: int, shard: Shard, origin: Version | None) -> None:
        """A life of a shard has its first parameters."""
        state = shard.snapshot().parameters.tobytes()
        self._histories[index].begin(*shard.version, state, origin)

    def rolled_back(self, process: SimShard, before: Version, origin: Version) -> None:
        """A shard has taken the contents of an older release for its next version."""
        assert process.shard is not None
        history, after = self._histories[process.index], process.shard.version
        if after != (before[0], before[1] + 1):
            text = f"{process} went back from version {before} to {after}"
            raise Violation("never backwards", text)
        history.roll_back(process.incarnation, origin)
        if process.shard.snapshot().parameters.tobytes() != history.state(after):
            raise Violation("never torn", f"{process} went back to other bytes than {origin}")
        self._counts["rollbacks"] += 1

    def decided(self, process: SimShard, push: Push, before: Version, after: Version) -> None:
        """A shard has read a push: either nothing changed, or it was applied, and rightly."""
        if after == before:
            return
        history = self._histories[process.index]
        where = f"{process} applied seq {push.seq} of session {push.session}"
        if after != (before[0], before[1] + 1):
            raise Violation("never backwards", f"{where}: from version {before} to {after}")
        push_id = (push.session, push.seq)
        places = self._gradients[push_id].places[process.index]
        if places is None:
            raise Violation("exactly once", f"{where}, which has no tensor there")
        directory = process.directory
        if directory is not None and (
            push.session <= directory.horizon and push.session not in directory.sessions
        ):
            raise Violation("fenced", f"{where}, which the directory says is fenced")
        staleness = self._staleness_of(where, history, push.base, before)
        superseded = None
        if process.is_superseded and process.shard is not None:
            superseded = process.shard.snapshot().parameters.tobytes()
        history.apply(before[0], push_id, places, superseded)
        self._staleness[process.index, push_id, after] = staleness
        self._counts["applied"] += 1

    def _staleness_of(
        self, where: str, history: ShardHistory, base: Version, before: Version
    ) -> int:
        if not history.holds(before, base):
            raise Violation("lineage", f"{where} on {before}, which never went through {base}")
        staleness = before[1] - base[1]
        if staleness < 0 or (self._plan.bound is not None and staleness > self._plan.bound):
            raise Violation("staleness", f"{where} with staleness {staleness}, {self._plan.policy}")
        # What a session left behind that was fenced, its successor need not have seen.
        is_sequential = self._plan.is_sequential and len(self._sessions) == 1
        if staleness > 0 and is_sequential and not self._was_unknown:
            raise Violation("sequential", f"{where} on {before}, computed on {base}")
        return staleness

    def attached(self, process: SimShard, attach: Attach, effects: Sequence[Effect]) -> None:
        """What the session was told is applied and this life lacks is reported as lost."""
        if not any(isinstance(e, Reply) and isinstance(e.message, Attached) for e in effects):
            return
        assert process.shard is not None
        key = (attach.session, process.index)
        life_before = self._attached_life.get(key, 0)
        if not process.shard.ready or process.incarnation < life_before:
            return
        self._attached_life[key] = process.incarnation
        history, version = self._histories[process.index], process.shard.version
        lost = [
            at
            for seq, at in self._acknowledged[key]
            if at[0] == life_before
            and seq < attach.oldest_unanswered
            and not history.follows(version, at)
        ]
        least = max((at[1] for at in lost), default=0) - history.restored_version(version[0])
        if lost and process.shard.tally.lost_updates < least:
            raise Violation(
                "lost updates",
                f"{process} reports {process.shard.tally.lost_updates} lost updates; session "
                f"{attach.session} alone was told of {lost[-1]}: {least} at least",
            )

    # -- a worker ---------------------------------------------------------------------------------

    def pushed(self, worker: SimWorker, session: int, seq: int, gradient: TracerGradient) -> None:
        """A worker made a push."""
        self._gradients[session, seq] = gradient
        self._pushers[session, seq] = worker
        self._sessions.add(session)
        self._counts["pushes"] += 1

    def sent(self, worker: SimWorker, push: Push) -> None:
        """A push leaves a worker: to a shard that attached it, and once unless it was lost."""
        what = f"{worker} sends seq {push.seq} to shard {push.shard}"
        if worker.attached_to.get(push.shard) != push.incarnation:
            raise Violation(
                "attach",
                f"{what} as for incarnation {push.incarnation}, "
                f"attached to {worker.attached_to.get(push.shard)}",
            )
        sent = self._sent[push.session, push.shard]
        if push.seq in sent:
            raise Violation("blind resend", f"{what} again, and nobody said that it was lost")
        sent.add(push.seq)

    def attachment(self, worker: SimWorker, shard: int, message: Attached) -> None:
        """A worker was attached: what it sent before may be sent again."""
        assert worker.session is not None
        if message.session == worker.session.session:
            before = worker.attached_to.get(shard, 0)
            worker.attached_to[shard] = max(before, message.incarnation)
            self._sent[message.session, shard].clear()

    def not_seen(self, shard: int, message: NotSeen) -> None:
        """A shard that reads nothing else has not seen a push: it may be sent again."""
        if message.idle:
            self._sent[message.session, shard].clear()

    def queried(self, worker: SimWorker, shard: int) -> None:
        """A worker asks after a push; once all is calm there is no need to."""
        assert worker.session is not None
        if self.is_calm:
            key = (worker.session.session, shard)
            self._queries[key] += 1
            if self._queries[key] > QUERIES_WHEN_CALM:
                text = f"{worker} must ask shard {shard} after one push after the other"
                raise Violation("waits", text)

    @contextmanager
    def verdicts(self, worker: SimWorker, shard: int, message: Verdicts) -> Iterator[None]:
        """A dead life of a shard has no say once the worker has heard of a later one."""
        session = worker.session
        assert session is not None
        before = (session.unanswered, session.in_flight)
        yield
        is_of_dead = message.incarnation < worker.heard_of.get(shard, 0)
        if is_of_dead and (session.unanswered, session.in_flight) != before:
            raise Violation(
                "never backwards",
                f"{worker} took verdicts of incarnation {message.incarnation} of shard {shard}, "
                f"and knows of {worker.heard_of[shard]}",
            )

    def answered(self, worker: SimWorker, answered: Answered) -> None:
        """All shards have answered a push, truly."""
        push_id = (answered.session, answered.seq)
        if push_id in self._told:
            raise Violation("exactly once", f"{worker} was answered seq {answered.seq} twice")
        self._told[push_id] = answered.verdicts
        for shard, verdict in enumerate(answered.verdicts):
            reason = f" ({verdict.reason})" if verdict.outcome == "rejected" else ""
            self._counts[f"told {verdict.outcome}{reason}"] += 1
            if verdict.outcome == "unknown":
                self._require_reason_not_to_know(worker, shard, push_id)
            if verdict.outcome == "applied":
                self._require_applied(worker, shard, push_id, verdict)

    def _require_reason_not_to_know(self, worker: SimWorker, shard: int, push_id: PushId) -> None:
        """A verdict may be unknown after a fence or a restart, or where a window has shrunk."""
        self._was_unknown = True
        assert worker.session is not None
        excused = worker.session.fenced or self._plan.push_budget < AMPLE_PUSH_BUDGET
        if not excused and (self._plan.journalled or self._histories[shard].lives == 1):
            text = f"{worker} never learned what shard {shard} did with {push_id}"
            raise Violation("exactly once", text)

    def _require_applied(
        self, worker: SimWorker, shard: int, push_id: PushId, verdict: Verdict
    ) -> None:
        told = f"{worker} was told that shard {shard} applied seq {push_id[1]}"
        if verdict.version is None:
            if self._gradients[push_id].places[shard] is not None:
                raise Violation("exactly once", f"{told} at no version")
            return
        truth = self._staleness.get((shard, push_id, verdict.version))
        if truth is None:
            raise Violation("exactly once", f"{told} at {verdict.version}; it was not")
        if truth != verdict.staleness:
            raise Violation("staleness", f"{told} at {verdict.staleness}; it was {truth}")
        self._acknowledged[push_id[0], shard].append((push_id[1], verdict.version))

    # -- the end ----------------------------------------------------------------------------------

    def finish(self, shards: Sequence[SimShard], live: Sequence[SimWorker]) -> None:
        """All is quiet: every push has the fate that its worker was told."""
        for push_id, worker in self._pushers.items():
            verdicts = self._told.get(push_id)
            if verdicts is None:
                if worker in live:
                    raise Violation("waits", f"{worker} never heard of seq {push_id[1]}")
                continue
            for process, verdict in zip(shards, verdicts, strict=True):
                self._require_fate(process, push_id, verdict)
        for process in shards:
            self._require_bounded_rows(process)
            self._require_lower_bound(process)

    def _require_fate(self, process: SimShard, push_id: PushId, verdict: Verdict) -> None:
        """In the parameters if and only if told as applied, but for what a restart has lost."""
        assert process.shard is not None
        history, version = self._histories[process.index], process.shard.version
        is_in = history.is_in(version, push_id)
        if verdict.outcome == "rejected" and is_in:
            text = f"{process} holds seq {push_id[1]} of session {push_id[0]}, told as rejected"
            raise Violation("exactly once", text)
        if verdict.outcome == "applied" and verdict.version is not None:
            told = f"seq {push_id[1]} of session {push_id[0]}, told as applied at {verdict.version}"
            if self._plan.journalled and not history.follows(version, verdict.version):
                raise Violation("journalled", f"{process} at {version} never had {told}")
            should = history.holds(version, verdict.version)
            if is_in != should:
                raise Violation(
                    "exactly once",
                    f"{process} at {version} {'holds' if is_in else 'lacks'} {told}",
                )

    def _require_bounded_rows(self, process: SimShard) -> None:
        assert process.shard is not None
        directory = process.directory
        if directory is None:
            return
        for session in process.shard.snapshot().rows:
            if session <= directory.horizon and session not in directory.sessions:
                raise Violation("fenced", f"{process} keeps a row of session {session}, fenced")

    def _require_lower_bound(self, process: SimShard) -> None:
        assert process.shard is not None
        lost = self._histories[process.index].lost_before(process.incarnation)
        reported = process.shard.tally.lost_updates
        self._counts["updates lost by restarts"] += lost
        self._counts["updates reported as lost, at least"] += reported
        if reported > lost:
            text = f"{process} reports at least {reported} lost updates; it was {lost}"
            raise Violation("lost updates", text)
