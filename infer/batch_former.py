"""Which waiting requests run together, and when: requests in, batches out, time as an argument."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """One request in the queue; two are the same only if they are one object."""

    what: T
    key: Hashable
    """Only requests with equal keys fit into one batch."""
    rows: int
    """How much of a batch it fills."""
    arrived_s: float
    deadline_s: float
    """Nobody wants the answer from then on."""


class _Group(Generic[T]):
    """Requests that fit together, in order of arrival."""

    def __init__(self) -> None:
        self.waiting: dict[Waiting[T], None] = {}
        self.rows = 0

    @property
    def oldest(self) -> Waiting[T]:
        return next(iter(self.waiting))


class BatchFormer(Generic[T]):
    """Forms batches of at most ``max_rows`` rows in order of arrival; used by one thread.

    A batch is due once it is full, or once one of its requests has waited ``max_delay_s``, or half
    the time that it has if that is less. The oldest request that is due leads the next batch, so
    none is overtaken for ever; within a key none is overtaken at all. One of more rows than fit is
    a batch by itself, and waits for nobody.
    """

    def __init__(self, max_rows: int, max_delay_s: float, max_waiting: int) -> None:
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._max_waiting = max_waiting
        self._groups: dict[Hashable, _Group[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, waiting: Waiting[T]) -> bool:
        """Queue a request, which arrived no earlier than those before it; False if it is full."""
        if self._count >= self._max_waiting:
            return False
        group = self._groups.setdefault(waiting.key, _Group())
        group.waiting[waiting] = None
        group.rows += waiting.rows
        self._count += 1
        return True

    def remove(self, waiting: Waiting[T]) -> None:
        """Forget a request that nobody waits for any more; one that was taken is no matter."""
        group = self._groups.get(waiting.key)
        if group is not None and waiting in group.waiting:
            del group.waiting[waiting]
            group.rows -= waiting.rows
            self._count -= 1
            if not group.waiting:
                del self._groups[waiting.key]

    def take(self, now: float) -> list[Waiting[T]]:
        """The next batch if one is due; what is past its deadline is dropped instead of run."""
        while due := [group for group in self._groups.values() if self._due_s(group) <= now]:
            group = min(due, key=lambda group: group.oldest.arrived_s)
            batch: list[Waiting[T]] = []
            rows = 0
            for waiting in list(group.waiting):
                if waiting.deadline_s <= now:
                    self.remove(waiting)
                    continue
                if batch and rows + waiting.rows > self._max_rows:
                    break
                self.remove(waiting)
                batch.append(waiting)
                rows += waiting.rows
            if batch:
                return batch
        return []

    def next_due_s(self) -> float | None:
        """When the next batch is due if nothing else comes; None if nothing waits."""
        return min(map(self._due_s, self._groups.values()), default=None)

    def _due_s(self, group: _Group[T]) -> float:
        if group.rows >= self._max_rows:
            return group.oldest.arrived_s
        return min(
            waiting.arrived_s + min(self._max_delay_s, (waiting.deadline_s - waiting.arrived_s) / 2)
            for waiting in group.waiting
        )
