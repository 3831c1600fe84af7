"""Every message of gradmq, one frozen dataclass each; ``docs/wire.md`` is the standard.

A version on the wire is always a pair (incarnation, version). The field ``payload`` is not part of
the header: it travels as raw parts behind it. Worker, shard and broker are called by their roles;
"member" is anyone who joined the broker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

#: Changed when an older peer could misunderstand a message. Unknown keys are ignored, so adding a
#: field with a default does not change it.
WIRE_VERSION = 1

#: A shard never grants more pushes under way, however small they are: it keeps a verdict of each.
MAX_WINDOW = 64

Version = tuple[int, int]
"""(incarnation, version)."""

ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+(%\w+)?\]|[\w.-]+):\d{1,5}", re.ASCII)

Address = Annotated[str, ADDRESS]
"""Where a shard can be reached; a socket connects to nothing that looks otherwise."""

Buffer = bytes | bytearray | memoryview
Payload = tuple[Buffer, ...]

Outcome = Literal["applied", "buffered", "rejected", "unknown"]
Role = Literal["ps", "worker", "infer", "follower", "observer"]
Phase = Literal["waiting", "open", "draining"]
KeyRole = Literal["worker", "ps", "broker", "infer", "reader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A shard's answer to one push."""

    seq: int
    outcome: Outcome
    version: Version | None = None
    """The push leaves the window once the replica holds this version; None: at once."""
    weight: float = 1.0
    staleness: int = 0
    reason: str = ""
    """Why rejected: stale, future, lost_base, nonfinite, norm, malformed, damaged, quarantined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Where shared memory of a process lies: who can open it and finds the nonce is on its host."""

    pid: int
    fd: int
    nonce: bytes
    nbytes: int


# -- worker to shard ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One gradient for one shard; payload: the pieces of the present tensors, back to back."""

    KIND: ClassVar = "push"
    run: str
    shard: int
    incarnation: int
    session: int
    seq: int
    base: Version
    layout: str
    codec: str = "f32"
    present: bytes | None = None
    """A bit per tensor of the table, least significant first; None: all of them."""
    crc: int = 0
    loss: float | None = None
    samples: int = 0
    slot: int | None = None
    """Where the payload lies in the session's segment; None: it follows, with its crc."""
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """Asks a shard to take this session's pushes from ``oldest_unanswered`` on."""

    KIND: ClassVar = "attach"
    run: str
    layout: str
    session: int
    name: str
    oldest_unanswered: int
    """The next seq, where every push is answered."""
    newest_seen: Version | None
    window: int
    """How many pushes the worker would like to have under way."""
    segment: Segment | None = None
    """Of as many slots as that window: where the session's payloads lie, for a shard that can
    open it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What became of this push? Asked after a time-out, before anything is sent again."""

    KIND: ClassVar = "query"
    session: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach:
    """The session is over, by its own wish."""

    KIND: ClassVar = "detach"
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Asks for parameters: the newest, at least ``at_least``; or those of one release."""

    KIND: ClassVar = "fetch"
    run: str
    layout: str
    release: int | None = None
    at_least: Version | None = None
    session: int | None = None
    """Who asks for the newest; if it reads this shard's ring, the answer needs no payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """Initial parameters of one shard, from the worker to whom the broker granted it."""

    KIND: ClassVar = "seed"
    run: str
    layout: str
    shard: int
    session: int
    crc: int
    payload: Payload = field(default=(), repr=False)


# -- shard to worker and follower -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The session may push; everything up to ``last_seq`` is decided."""

    KIND: ClassVar = "attached"
    session: int
    incarnation: int
    last_seq: int
    window: int
    verdicts: tuple[Verdict, ...] = ()
    ring: Segment | None = None
    """The shard has opened the session's segment, and this is where its parameters lie."""
    not_shared: str = ""
    """Why it could not open the segment that it was offered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reattach:
    """The shard cannot decide this session's pushes as they stand; attach (again)."""

    KIND: ClassVar = "reattach"
    session: int
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Verdicts of one session, in order of seq."""

    KIND: ClassVar = "verdicts"
    session: int
    incarnation: int
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSeen:
    """Answer to Query: not decided here; ``idle`` says that no push waits to be read either."""

    KIND: ClassVar = "not_seen"
    session: int
    incarnation: int
    seq: int
    idle: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that cannot be granted, and why."""

    KIND: ClassVar = "refused"
    reason: Literal["fenced", "layout", "run", "memory", "name", "role", "shard", "wire", "release"]
    text: str
    session: int | None = None
    """Whose request it was, if a session's: the answer may come when that is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One version of one shard, whole; ``release`` is set on the release topic and in fetches."""

    KIND: ClassVar = "publication"
    run: str
    shard: int
    version: Version
    layout: str
    codec: str = "f32"
    crc: int = 0
    release: int | None = None
    in_ring: bool = False
    """It is in the ring that the receiver reads, or a newer one is: no payload."""
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """What a subscriber of this shard must have by now: all of it came before, on this stream."""

    KIND: ClassVar = "beacon"
    run: str
    shard: int
    version: Version
    published: Version
    release: int
    last_seqs: dict[int, int]
    """Last decided seq by session."""


# -- member to broker -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Joins a run; payload: the layout, where the member has one."""

    KIND: ClassVar = "hello"
    role: Role
    name: str
    host: str
    pid: int
    run: str | None = None
    session: int | None = None
    """A session to be continued after the broker was away."""
    shard: int | None = None
    incarnation: int | None = None
    ready: bool = False
    """A shard that has parameters."""
    release: int = 0
    """The newest release this member knows; numbers are never reused."""
    addresses: tuple[Address, ...] = ()
    """Of a shard that listens, three: gradients, parameters, control."""
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether a worker's pushes are looked at; of two that are told, the larger number counts."""

    number: int
    """Grows with every change: odd is in quarantine, even is let back."""
    why: str = ""
    for_s: float = 0.0
    """How long it has been so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """What one shard decided on the pushes of one worker."""

    applied: int
    samples: int
    rejected: dict[str, int]
    """By reason."""
    staleness: tuple[tuple[int, int], ...]
    """(staleness, how many pushes were applied at it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The keys of a report that mean something; a member sends those that it has."""

    waiting_for: str = ""
    """Who is waited for, in words; empty: nobody."""
    # of a shard
    ready: bool = False
    incarnation: int = 0
    version: int = 0
    parameter_bytes: int = 0
    attached: int = 0
    """How many sessions may push."""
    pushed_bytes: int = 0
    lost_updates: int = 0
    """At least so many were lost with a restart."""
    shared: int = 0
    """How many of the attached sessions use shared memory."""
    saved: tuple[int, ...] = ()
    """The releases that it has on disk, oldest first."""
    workers: dict[str, WorkerCounts] = field(default_factory=dict)
    """By the worker's name."""
    standings: dict[str, Standing] = field(default_factory=dict)
    """Of the workers that are or were in quarantine, by name."""
    # of a worker
    seq: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    skipped_nonfinite: int = 0
    transport: str = ""
    """shm, tcp, or shm+tcp where shards differ."""
    torn_reads: int = 0
    """How often parameters in shared memory were overwritten while they were copied."""
    # of a shard or a follower
    release: int = 0
    # of a follower
    age_s: float | None = None
    url: str = ""
    answering: int = 0
    """The release that answers; 0: none, or several, or it serves nothing."""
    steering: str = ""
    """Why that is not just the newest, in words."""
    # of a shard or a worker
    metrics: str = ""
    """HOST:PORT where it shows metrics over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Renews the lease and reports what the broker's status shows of this member."""

    KIND: ClassVar = "renew"
    report: Annotated[dict[str, Any], Report]
    """A map with keys of Report; others are kept and mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """The member leaves in good order."""

    KIND: ClassVar = "goodbye"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A shard has labelled a release: the version, and the crc of the payload it published."""

    KIND: ClassVar = "labelled"
    release: int
    shard: int
    version: Version
    crc: int
    since_applied_s: float | None = None
    """When this was sent, since the last update in that version was applied; None: none was in
    this life of the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A shard has a release on disk, or could not write it (``error``)."""

    KIND: ClassVar = "saved"
    release: int
    shard: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Metrics of one release."""

    KIND: ClassVar = "evaluated"
    release: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskStatus:
    """Asks for Status."""

    KIND: ClassVar = "ask_status"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRelease:
    """Asks for a new release, on disk too if ``save``; answered by ReleaseMade."""

    KIND: ClassVar = "ask_release"
    save: bool
    contents_of: int | None = None
    """Go back to this release, which all shards have on disk: the new one holds the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskStop:
    """Asks that all workers stop; answered by the phase ``draining`` in the directory."""

    KIND: ClassVar = "ask_stop"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReadmit:
    """Asks to let a worker out of quarantine; answered by the directory's standings."""

    KIND: ClassVar = "ask_readmit"
    name: str


# -- broker to member -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """Where a shard is."""

    index: int
    incarnation: int
    addresses: tuple[Address, ...]
    ready: bool
    key: str = ""
    """Its public key, by which whoever connects knows it; empty: the run has no keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedKey:
    """A line of the allow-list: a public key, whose it is, and what that one may do."""

    name: str
    role: KeyRole
    key: str
    """In Z85."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Who is where; pushed to every member when it changes. Payload: the layout, if known."""

    KIND: ClassVar = "directory"
    serial: int
    """Grows with every change."""
    run: str
    phase: Phase
    shards: tuple[ShardEntry, ...]
    sessions: tuple[int, ...]
    """Live ones."""
    horizon: int
    """A session up to here that is not live is fenced."""
    seeder: int
    """The session that may seed shards without parameters; 0: none."""
    standings: dict[str, Standing] = field(default_factory=dict)
    """Of the workers that are or were in quarantine, by name."""
    allowed: tuple[AllowedKey, ...] = ()
    """To a shard of a run with keys: who may connect to it."""
    owners: dict[int, str] = field(default_factory=dict)
    """To a shard of a run with keys: the worker's name by live session."""
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The member has joined; the directory follows."""

    KIND: ClassVar = "welcome"
    run: str
    name: str
    session: int
    shards: int
    lease_s: float
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """One shard's part in a release."""

    version: Version
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A closed release: one version per shard."""

    KIND: ClassVar = "manifest"
    release: int
    shards: tuple[ManifestEntry, ...]
    since_applied_s: float | None = None
    """When this was sent, since the last update in the release was applied; None: not known, or
    the manifest is told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The lease is renewed; whoever has an older directory or manifest has missed one."""

    KIND: ClassVar = "renewed"
    serial: int
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoin:
    """The broker does not know this member (it was restarted, or the lease ran out)."""

    KIND: ClassVar = "rejoin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Asks a shard to label its present version as a release; with ``save``, on disk too."""

    KIND: ClassVar = "label"
    release: int
    save: bool
    closed: int = 0
    """The newest closed release: followers may still fetch that one, but none before it."""
    contents_of: int | None = None
    """First make what this saved release holds the next version; None: the present one it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMade:
    """Answer to AskRelease; an empty ``error`` means closed, and saved where that was asked."""

    KIND: ClassVar = "release_made"
    release: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The structure that ``gradmq status --json`` prints."""

    KIND: ClassVar = "status"
    status: dict[str, Any]


Message = (
    Push | Attach | Query | Detach | Fetch | Seed
    | Attached | Reattach | Verdicts | NotSeen | Refused | Publication | Beacon
    | Hello | Renew | Goodbye | Labelled | Saved | Evaluated | AskStatus | AskRelease | AskStop
    | AskReadmit | Directory | Welcome | Renewed | Rejoin | Label | Manifest | ReleaseMade | Status
)  # fmt: skip
