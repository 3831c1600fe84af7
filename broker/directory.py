"""The directory: who is a member, where the shards are, which sessions live; pure.

A name has one live session, the newest. A lease that runs out fences its session: shards forget it
and will never attach it again. After a restart of the broker nothing is fenced for one lease, so
that everybody who lives can come back with the session they have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradmq.errors import LayoutMismatch, RemoteProtocolError
from gradmq.layout import Layout
from gradmq.security.access import Access
from gradmq.standings import Standings
from gradmq.wire.messages import (
    Directory,
    Hello,
    Payload,
    Phase,
    Refused,
    Rejoin,
    Role,
    ShardEntry,
    Standing,
    Version,
    Welcome,
)

#: A member that says nothing for this long is gone; its session is fenced.
LEASE_S = 10.0

#: Nodes and programs that fell silent for good stay in the status for so long.
LOST_SHOWN_S = 600.0

#: Sessions of one life of the broker: far more than it will ever give out.
SESSIONS_PER_LIFE = 1 << 24

#: Who lives renews its lease more often.
SILENT_S = 1.0

#: Far more than can have a hello on its way when their name is taken over.
GAVE_WAY_KEPT = 64

FOLLOWING: frozenset[Role] = frozenset({"infer", "follower"})


@dataclass(slots=True)
class Member:
    """One process that joined."""

    peer: bytes
    role: Role
    name: str
    host: str
    pid: int
    session: int
    heard_at: float
    key: str = ""
    """That it proved; "" in a run without keys."""
    shard: int | None = None
    incarnation: int = 0
    addresses: tuple[str, ...] = ()
    ready: bool = False
    informed: bool = False
    """Has the directory as it stands (if it arrived: a renewal tells)."""
    knows_layout: bool = False
    report: dict[str, Any] = field(default_factory=dict)
    waiting_since: float | None = None
    """Since when it says that it waits and makes no progress."""
    reached: tuple[object, ...] = ()
    lost: bool = False
    """Gone without a goodbye: its lease ran out."""

    def on_report(self, report: dict[str, Any], phase: Phase, now: float) -> None:
        """Another seq, version or release than before is progress; so is that the run opened."""
        reached = (phase, *(report.get(key) for key in ("seq", "version", "release")))
        if not report.get("waiting_for"):
            self.waiting_since = None
        elif self.waiting_since is None or reached != self.reached:
            self.waiting_since = now
        self.reached = reached
        self.heard_at, self.report = now, report


@dataclass(frozen=True, slots=True)
class Tell:
    """Effect: send this to one peer."""

    peer: bytes
    message: Welcome | Refused | Rejoin | Directory


class Members:
    """Joins, renews and expires members, and says when the directory has changed."""

    def __init__(
        self, run: str, shards: int, incarnation: int, settings: Mapping[str, Any], now: float
    ) -> None:
        self.run = run
        self.shards = shards
        self.layout: Layout | None = None
        self.members: dict[bytes, Member] = {}
        self.departed: dict[str, Member] = {}
        """By name: workers that left, whose share of the run stays visible; and who was lost."""
        self.standings = Standings()
        """Who is in quarantine: a shard finds it, the directory tells all."""
        self.departed_shards: dict[int, Member] = {}
        self.began_at = now
        self.phase: Phase = "waiting"
        self.serial = 0
        """Counts the changes of the directory."""
        self.newest_known_release = 0
        self.access: Access | None = None
        """None: the run has no keys."""
        self._settings = dict(settings)
        self._incarnation = incarnation
        self._first_session = incarnation * SESSIONS_PER_LIFE
        self._last_session = self._first_session
        self._numbered: dict[Role, int] = {}
        self._grace_until = now + LEASE_S
        self._gave_way: deque[bytes] = deque(maxlen=GAVE_WAY_KEPT)
        """Peers that were told so: a hello of theirs that they repeated is no new one."""
        self._seeder = 0
        self._changed = False

    # -- joining ----------------------------------------------------------------------------------

    def on_access(self, access: Access) -> list[Member]:
        """Another allow-list: whose key is not on it is gone at once; returns those."""
        self.access = access
        self._changed = True  # shards go by it, and have it from the directory
        revoked = [m for m in self.members.values() if not access.knows(m.key)]
        for member in revoked:
            del self.members[member.peer]
            self._depart(member)
        return revoked

    def on_hello(self, peer: bytes, hello: Hello, now: float, key: str = "") -> list[Tell]:
        """Welcome a member, or say why not; ``key`` is the one that it proved."""
        answers = self._on_hello(peer, hello, now)
        member = self.members.get(peer)
        if member is not None:
            member.key = key
        return answers

    def _on_hello(self, peer: bytes, hello: Hello, now: float) -> list[Tell]:
        if hello.run is not None and hello.run != self.run:
            text = f"this broker runs {self.run}, not {hello.run}; check the broker's address"
            return [Tell(peer, Refused(reason="run", text=text))]
        refusal = self._refuse_layout(hello)
        if refusal is not None:
            return [Tell(peer, refusal)]
        self.newest_known_release = max(self.newest_known_release, hello.release)
        match hello.role:
            case "ps":
                return self._join_shard(peer, hello, now)
            case "worker":
                return self._join_worker(peer, hello, now)
            case _:
                member = self._add(peer, hello, self._name_for(peer, hello), 0, now)
                self._forget_last_life(member, now)
                return [self._welcome(peer)]

    def _refuse_layout(self, hello: Hello) -> Refused | None:
        """Take the layout of the first who has one; everyone else's must be the same."""
        if not hello.payload:
            return None
        try:
            theirs = Layout.from_bytes(b"".join(hello.payload))
            if hello.role != "ps":
                theirs = Layout(theirs.tensors, self.shards)  # only a shard's is cut already
            if self.layout is None and hello.role in ("ps", "worker"):
                if theirs.shards != self.shards:
                    text = f"a checkpoint of {theirs.shards} shards in a run of {self.shards}"
                    return Refused(reason="layout", text=text)
                self.layout = theirs
                self._changed = True
            if self.layout is not None:
                theirs.require_equal(self.layout, "this model", "the run's")
        except (LayoutMismatch, RemoteProtocolError) as error:
            return Refused(reason="layout", text=str(error))
        return None

    def _join_shard(self, peer: bytes, hello: Hello, now: float) -> list[Tell]:
        index = hello.shard if hello.shard is not None else 0
        if index >= self.shards:
            text = (
                f"there is no shard {index} in a run of {self.shards}; use 0 to {self.shards - 1}"
            )
            return [Tell(peer, Refused(reason="shard", text=text))]
        if len(hello.addresses) not in (0, 3):
            text = f"a shard has three addresses, shard {index} gave {len(hello.addresses)}"
            return [Tell(peer, Refused(reason="wire", text=text))]
        other = self.shard(index)
        incarnation = hello.incarnation or 0
        if other is not None and other.peer != peer:
            # The same process on a new connection is no second one.
            is_it = (other.host, other.pid) == (hello.host, hello.pid)
            if incarnation < other.incarnation or (incarnation == other.incarnation and not is_it):
                text = (
                    f"shard {index} is already served by process {other.pid} on {other.host} "
                    f"as incarnation {other.incarnation}"
                )
                return [Tell(peer, Refused(reason="shard", text=text))]
            del self.members[other.peer]
        member = self._add(peer, hello, f"ps-{index}", 0, now)
        member.shard = index
        member.incarnation = incarnation
        member.addresses = hello.addresses
        member.ready = hello.ready
        self.departed_shards.pop(index, None)
        self._changed = True
        self._open_if_complete()
        return [self._welcome(peer)]

    def _join_worker(self, peer: bytes, hello: Hello, now: float) -> list[Tell]:
        effects: list[Tell] = []
        name = self._name_for(peer, hello)
        other = next((m for m in self.workers() if m.name == name and m.peer != peer), None)
        if peer in self._gave_way:
            text = f"the name {name!r} was taken over while this hello was on its way"
            return [Tell(peer, Refused(reason="name", text=text))]
        if other is not None and hello.session is not None and hello.session < other.session:
            text = f"the name {name!r} has a newer session, of process {other.pid} on {other.host}"
            return [Tell(peer, Refused(reason="name", text=text))]
        if other is not None and not self._is_same_process(other, hello):
            text = f"the name {name!r} was taken over by process {hello.pid} on {hello.host}"
            effects.append(Tell(other.peer, Refused(reason="name", text=text)))
            self._gave_way.append(other.peer)
        if other is not None:
            del self.members[other.peer]
        session = self._session_for(hello, peer, other)
        self._add(peer, hello, name, session, now)
        self._changed = True
        return [*effects, self._welcome(peer)]

    @staticmethod
    def _is_same_process(member: Member, hello: Hello) -> bool:
        """One process that connects anew does not take over from itself."""
        return (member.host, member.pid) == (hello.host, hello.pid) and (
            member.session == hello.session
        )

    def _session_for(self, hello: Hello, peer: bytes, other: Member | None) -> int:
        """Continue a session that still lives, or may (just after a restart); else a new one."""
        known = self.members.get(peer)
        wanted = hello.session
        if known is not None:
            return known.session
        if wanted and other is not None and other.session == wanted:
            return wanted
        from_before = wanted and wanted <= self._first_session
        if from_before and self._horizon == 0:
            return wanted or 0
        self._last_session += 1
        return self._last_session

    def _name_for(self, peer: bytes, hello: Hello) -> str:
        if hello.name:
            return hello.name
        known = self.members.get(peer)
        if known is not None:
            return known.name
        taken = {m.name for m in self.members.values()} | set(self.departed)
        # Who was named by an earlier life may not have come back yet, and keeps its name.
        life = f"{self._incarnation}." if self._incarnation > 1 else ""
        while True:
            self._numbered[hello.role] = self._numbered.get(hello.role, 0) + 1
            name = f"{hello.role}-{life}{self._numbered[hello.role]}"
            if name not in taken:
                return name

    def _add(self, peer: bytes, hello: Hello, name: str, session: int, now: float) -> Member:
        before = self.members.get(peer)
        member = Member(peer, hello.role, name, hello.host, hello.pid, session, now)
        if before is not None:
            member.report, member.waiting_since = before.report, before.waiting_since
            member.reached = before.reached
        self.members[peer] = member
        self.departed.pop(name, None)
        return member

    def _welcome(self, peer: bytes) -> Tell:
        member = self.members[peer]
        return Tell(
            peer,
            Welcome(
                run=self.run,
                name=member.name,
                session=member.session,
                shards=self.shards,
                lease_s=LEASE_S,
                settings=self._settings,
            ),
        )

    # -- staying and leaving ----------------------------------------------------------------------

    def on_renew(self, peer: bytes, report: dict[str, Any], now: float) -> Tell | None:
        """Renew a lease; a peer nobody knows is asked to say hello."""
        member = self.members.get(peer)
        if member is None:
            return Tell(peer, Rejoin())
        member.on_report(report, self.phase, now)
        if member.role == "ps" and bool(report.get("ready")) and not member.ready:
            member.ready = True
            self._changed = True
        told = {name: Standing(**_known(s)) for name, s in report.get("standings", {}).items()}
        if member.role == "ps" and self.standings.hear(told, now):
            self._changed = True
        self._open_if_complete()
        return None

    def on_readmit(self, name: str, now: float) -> bool:
        """Let a worker out of quarantine; False if it is in none."""
        ended = self.standings.end(name, now)
        self._changed = self._changed or ended
        return ended

    def on_goodbye(self, peer: bytes) -> None:
        member = self.members.pop(peer, None)
        if member is not None:
            self._depart(member)

    def on_stop(self) -> None:
        """Ask all workers to finish; shards and followers stay."""
        self.phase = "draining"
        self._changed = True

    def on_stopped(self, lasted_s: float, now: float) -> None:
        """The broker itself stood still: it cannot say that anybody was silent meanwhile."""
        for member in self.members.values():
            member.heard_at = min(now, member.heard_at + lasted_s)

    def on_time(self, now: float) -> list[Tell]:
        """Expire leases; push the directory to everyone if it has changed."""
        for member in [m for m in self.members.values() if now - m.heard_at > LEASE_S]:
            del self.members[member.peer]
            member.lost = True
            self._depart(member)
        for member in [m for m in self.departed.values() if m.role != "worker"]:
            if now - member.heard_at > LOST_SHOWN_S:
                del self.departed[member.name]
        if self._grace_until and now >= self._grace_until:
            self._grace_until = 0.0
            self._changed = True
        seeder = self._choose_seeder()
        if seeder != self._seeder:
            self._seeder, self._changed = seeder, True
        if self._changed:
            self._changed = False
            self.serial += 1
            for member in self.members.values():
                member.informed = False
        return [self._directory(m, now) for m in self.members.values() if not m.informed]

    def _depart(self, member: Member) -> None:
        self._changed = True
        if member.shard is not None:
            self.departed_shards[member.shard] = member
        elif member.role == "worker" or (member.lost and self._is_missed(member)):
            self.departed[member.name] = member

    def _forget_last_life(self, follower: Member, now: float) -> None:
        """One of this name and host that fell silent was started again: it is not waited for.

        If it was only stopped, it is asked to say hello, as whoever is not known.
        """
        for member in list(self.members.values()):
            same = (member.role, member.name, member.host) == (
                follower.role,
                follower.name,
                follower.host,
            )
            if same and member.pid != follower.pid and now - member.heard_at > SILENT_S:
                del self.members[member.peer]

    def _is_missed(self, follower: Member) -> bool:
        """Unless one of its name is there: the same, started again before this lease ran out."""
        live = {member.name for member in self.members.values()}
        return follower.role in FOLLOWING and follower.name not in live

    @property
    def _horizon(self) -> int:
        return 0 if self._grace_until else self._last_session

    def _choose_seeder(self) -> int:
        """The first worker may seed, as long as a shard lacks parameters and the worker lives."""
        if self.layout is None or all(m.ready for m in self.shard_members()):
            return 0
        sessions = sorted(m.session for m in self.workers())
        return self._seeder if self._seeder in sessions else next(iter(sessions), 0)

    def _open_if_complete(self) -> None:
        """Open once all shards are ready and have reported: a run's status is never half known."""
        if self.phase == "waiting" and self.versions() is not None:
            self.phase = "open"
            self._changed = True

    def _directory(self, member: Member, now: float) -> Tell:
        member.informed = True
        payload: Payload = ()
        for_shard = member.role == "ps" and self.access is not None
        if self.layout is not None and not member.knows_layout:
            member.knows_layout = True
            payload = (self.layout.to_bytes(),)
        return Tell(
            member.peer,
            Directory(
                serial=self.serial,
                run=self.run,
                phase=self.phase,
                shards=tuple(
                    ShardEntry(
                        index=m.shard or 0,
                        incarnation=m.incarnation,
                        addresses=m.addresses,
                        ready=m.ready,
                        key=m.key,
                    )
                    for m in self.shard_members()
                    if m.addresses
                ),
                sessions=tuple(sorted(m.session for m in self.workers())),
                horizon=self._horizon,
                seeder=self._seeder,
                standings=self.standings.tell(now),
                allowed=self.access.allowed if for_shard and self.access else (),
                owners={m.session: m.name for m in self.workers()} if for_shard else {},
                payload=payload,
            ),
        )

    # -- who is there -----------------------------------------------------------------------------

    def workers(self) -> Iterator[Member]:
        return (m for m in self.members.values() if m.role == "worker")

    def followers(self) -> Iterator[Member]:
        return (m for m in self.members.values() if m.role in FOLLOWING)

    def shard_members(self) -> Iterator[Member]:
        """The shards that are there, by index."""
        members = (m for m in self.members.values() if m.shard is not None)
        return iter(sorted(members, key=lambda m: m.shard or 0))

    def shard(self, index: int) -> Member | None:
        return next((m for m in self.shard_members() if m.shard == index), None)

    def saved_releases(self) -> list[tuple[int, ...]]:
        """What each shard has on disk, as last reported; none of a shard that is away."""
        members = (self.shard(index) for index in range(self.shards))
        return [tuple(m.report.get("saved", ())) if m else () for m in members]

    def versions(self) -> tuple[Version, ...] | None:
        """Of all shards, as last reported; None if one is away or not ready."""
        members = [m for m in self.shard_members() if m.ready and m.addresses and m.report]
        if len(members) < self.shards:
            return None
        return tuple((m.incarnation, int(m.report.get("version", 0))) for m in members)


def _known(standing: Mapping[str, Any]) -> dict[str, Any]:
    """What a report, a map that may hold more, says of a worker's standing."""
    return {key: standing[key] for key in ("number", "why", "for_s") if key in standing}
