"""Who moved the weights: every push that a journal holds, and what each worker's came to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from gradmq.history.journals import shard_histories
from gradmq.ps.journal.records import Decided
from gradmq.wire.codec import payload_chunks


@dataclass(frozen=True, slots=True)
class Move:
    """One push on one shard, and how far it moved the weights."""

    shard: int
    decided: Decided = field(repr=False)
    norm: float
    """Of the gradient, in this shard; 0 if it was not applied."""

    def as_json(self) -> dict[str, Any]:
        decided = self.decided
        return {
            "shard": self.shard,
            "version": decided.version[1] if decided.version else None,
            "worker": decided.worker,
            "session": decided.session,
            "seq": decided.seq,
            "outcome": decided.outcome,
            "reason": decided.reason,
            "staleness": decided.staleness,
            "weight": decided.weight,
            "lr": decided.lr,
            "norm": self.norm,
            "loss": decided.loss,
            "samples": decided.samples,
        }

    def line(self) -> str:
        decided = self.decided
        version = decided.version[1] if decided.version else "–"
        loss = "" if decided.loss is None else f"{decided.loss:.4g}"
        outcome = decided.outcome + (f" ({decided.reason})" if decided.reason else "")
        return (
            f"{self.shard:5d} {version!s:>8} {decided.worker:16} {decided.session:10d} "
            f"{decided.seq:7d} {decided.staleness:5d} {decided.weight:6.3g} {decided.lr:8.3g} "
            f"{self.norm:10.4g} {loss:>8} {outcome}"
        )


HEADING = (
    "shard  version worker              session     seq stale weight       lr       norm"
    "     loss outcome"
)


@dataclass(slots=True)
class Share:
    """What one worker's pushes came to, on all shards together."""

    applied: int = 0
    rejected: int = 0
    path: float = 0.0
    """The sum of learning rate · weight · norm over its steps: how far they went, in all."""

    def add(self, move: Move) -> None:
        decided = move.decided
        if decided.outcome == "applied":
            self.applied += 1
            self.path += decided.lr * decided.weight * move.norm
        else:
            self.rejected += 1


def moves(run: Path, shard: int | None, worker: str | None) -> Iterator[Move]:
    """The pushes in a run's journals, shard by shard, as they were decided; raises GradmqError."""
    for history in shard_histories(run):
        if shard not in (None, history.index):
            continue
        for stored in history.records():
            record = stored.record
            if isinstance(record, Decided) and worker in (None, record.worker):
                yield Move(history.index, record, _norm(record))


def shares(found: Iterable[Move]) -> dict[str, Share]:
    """By worker."""
    out: dict[str, Share] = {}
    for move in found:
        out.setdefault(move.decided.worker, Share()).add(move)
    return out


def _norm(decided: Decided) -> float:
    chunks = payload_chunks(decided.payload)
    return sqrt(sum(float(np.dot(chunk, chunk)) for chunk in chunks))
