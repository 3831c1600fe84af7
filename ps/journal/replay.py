"""Does again what a journal says: the same steps on the same state give the same bits.

Pure. What makes that true: a step is elementwise arithmetic in float32, in the order of decision,
with the weight and learning rate that were recorded; how the gradient was cut into parts on its way
does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from gradmq.errors import JournalError, RemoteProtocolError, SettingsError
from gradmq.layout import Layout
from gradmq.ps.journal.records import (
    Decided,
    Labelled,
    Opened,
    Record,
    RolledBack,
    Seeded,
    lineage_of,
)
from gradmq.ps.optim import SGD, State, Vector, optimizer_from
from gradmq.ps.parameters import Gradient, NotFinite, Parameters
from gradmq.ps.state import Row, ShardState, copied
from gradmq.ring import RingWriter, own_memory
from gradmq.wire.codec import payload_chunks
from gradmq.wire.messages import MAX_WINDOW, Payload, Verdict, Version


class Replay:
    """One shard's state as the journal makes it."""

    def __init__(
        self,
        run: str,
        layout: Layout,
        shard: int,
        state: ShardState | None,
        skips: Callable[[Decided], bool] = lambda decided: False,
        gone_back_to: Collection[int] = (),
    ) -> None:
        """Begin with a checkpoint, or with nothing. Pushes that ``skips`` names are left out: what
        the others did then stands on other parameters than they saw, as in a run without them.
        A rollback to a release in ``gone_back_to`` then brings that back without them too."""
        self.run = run
        self.layout = layout
        self.shard = shard
        self.replayed = self.skipped = 0
        self._skips = skips
        self._gone_back_to = gone_back_to
        self._contents: dict[int, tuple[Vector, State]] = {}
        self._part = layout.parts[shard]
        ring = RingWriter(own_memory(self._part.size), self._part.size)
        self._parameters = Parameters(self._part.size, SGD(lr=0.0), ring)
        self._rows: dict[int, Row] = {}
        self._lineage: tuple[tuple[int, int], ...] = ()
        self._release = self._position = self._floor = self._incarnation = 0
        self._fenced: tuple[int, frozenset[int]] = (0, frozenset())
        self._optimizer = SGD(lr=0.0)
        self._state = state
        if state is not None:
            self._position, self._release = state.position, state.release
            self._rows, self._lineage = copied(state.rows), state.lineage
            self._floor, self._fenced = state.floor, (state.fenced_up_to, state.spared)

    @property
    def version(self) -> Version:
        """The newest, as the run called it."""
        return self._lineage[-1][0] if self._lineage else 0, self._parameters.version or 0

    @property
    def release(self) -> int:
        return self._release

    def on(self, position: int, record: Record) -> None:
        """The next record; raises JournalError if it cannot follow what came before."""
        match record:
            case Opened():
                self._on_opened(record)
            case Seeded():
                self._install(_vector(record.payload), {}, 0)
                self._lineage = ((self._incarnation, -1),)
            case Decided():
                self._on_decided(record)
            case Labelled():
                self._on_labelled(record)
            case RolledBack():
                self._on_rolled_back(record)
        if not isinstance(record, Opened):
            self._position = position

    def _on_opened(self, opened: Opened) -> None:
        if (opened.run, opened.shard) != (self.run, self.shard):
            raise JournalError(
                f"the journal is of shard {opened.shard} of run {opened.run}, "
                f"not of shard {self.shard} of {self.run}"
            )
        if opened.layout != self.layout.to_bytes():
            raise JournalError("the journal is of another layout than the checkpoint")
        try:
            self._optimizer = optimizer_from(opened.optimizer)
        except SettingsError as error:
            raise JournalError(f"the journal is of an unknown optimizer: {error}") from None
        self._incarnation = opened.incarnation
        lineage = lineage_of(opened)
        if lineage and (not self._lineage or lineage[-1][0] > self._lineage[-1][0]):
            self._lineage = lineage
        state, self._state = self._state, None
        if state is not None:
            self._parameters.optimizer = self._optimizer
            self._install(state.parameters, state.optimizer, state.version)

    def _install(self, values: Vector, optimizer: State, version: int) -> None:
        if values.shape != (self._part.size,):
            raise JournalError(f"{values.size} values where {self._part.size} belong")
        self._parameters.optimizer = self._optimizer
        self._parameters.install(values, optimizer, version)

    def _on_decided(self, decided: Decided) -> None:
        row = self._rows.setdefault(decided.session, Row(decided.worker))
        row.last_seq = decided.seq
        row.verdicts.append(
            Verdict(
                seq=decided.seq,
                outcome=decided.outcome,
                version=decided.version,
                weight=decided.weight,
                staleness=decided.staleness,
                reason=decided.reason,
            )
        )
        while len(row.verdicts) > MAX_WINDOW:
            row.verdicts.popleft()
        if decided.outcome != "applied" or decided.version is None:
            return
        if self._skips(decided):
            self.skipped += 1
            self._parameters.version = decided.version[1]
            return
        self._apply(decided, decided.version[1])

    def _apply(self, decided: Decided, version: int) -> None:
        if self._parameters.version != version - 1:
            raise JournalError(
                f"version {version} follows {self._parameters.version} in the journal"
            )
        try:
            self._parameters.optimizer = replace(self._optimizer, lr=decided.lr)
            runs, _ = self.layout.runs(self.shard, decided.present)
            gradient = Gradient(payload_chunks(decided.payload), None)
            self._parameters.apply(gradient, runs, decided.weight)
        except (SettingsError, RemoteProtocolError, NotFinite, ValueError, IndexError) as error:
            raise JournalError(f"version {version} cannot be made again: {error!r}") from None
        self.replayed += 1

    def _on_labelled(self, record: Labelled) -> None:
        self._release = max(self._release, record.release)
        if record.release in self._gone_back_to:
            optimizer = {name: vector.copy() for name, vector in self._parameters.state.items()}
            self._contents[record.release] = self._parameters.values.copy(), optimizer

    def _on_rolled_back(self, record: RolledBack) -> None:
        values = _vector(record.payload)
        if values.size != self._part.size * (len(record.optimizer) + 1):
            raise JournalError(
                f"a rollback of {values.size} values to {self._part.size} parameters"
            )
        parameters, *vectors = np.split(values, len(record.optimizer) + 1)
        optimizer = dict(zip(record.optimizer, vectors, strict=True))
        parameters, optimizer = self._contents.get(record.contents_of, (parameters, optimizer))
        self._install(parameters, optimizer, record.version[1])
        self._floor = record.version[1]

    def state(self) -> ShardState | None:
        """What the shard had after the last record; None: it never had parameters."""
        if self._state is not None:
            return replace(self._state, lineage=self._lineage)  # a checkpoint, and nothing since
        if self._parameters.version is None:
            return None
        return ShardState(
            parameters=self._parameters.values.copy(),
            optimizer=self._parameters.state,
            version=self._parameters.version,
            lineage=self._lineage,
            rows=self._rows,
            release=self._release,
            fenced_up_to=self._fenced[0],
            spared=self._fenced[1],
            position=self._position,
            floor=self._floor,
        )


def _vector(payload: Payload) -> Vector:
    if sum(map(len, payload)) % 4:
        raise JournalError("a payload that is not made of float32")
    return np.concatenate([np.empty(0, np.float32), *payload_chunks(payload)])
