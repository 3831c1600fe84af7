"""How many connections a server has at once, and which one makes room for the next."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Connections(Generic[T]):
    """At most ``most`` connections; used by one thread.

    Where there is no room for another one, the one goes that has waited longest for a request to
    begin: opening connections and saying nothing keeps nobody out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[T, None] = {}
        self._busy: set[T] = set()
        self._unread: dict[T, None] = {}
        self.crowded = False
        """True from the first that had to go until half of the room is free again."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def add(self, connection: T) -> T | None:
        """One more, which waits for a request; returns who has to go for it, maybe itself."""
        self.wait(connection)
        if len(self) <= self._most:
            return None
        self.crowded = True
        oldest = next(iter(self._waiting))
        self.remove(oldest)
        return oldest

    def wait(self, connection: T) -> None:
        """It waits for a request, from now on."""
        self._leave(connection)
        self._waiting[connection] = None

    def work(self, connection: T) -> None:
        """It has a request under way."""
        self._leave(connection)
        self._busy.add(connection)

    def remove(self, connection: T) -> None:
        """It is gone; one that is not known is no matter."""
        self.read(connection)
        self._leave(connection)

    def unread(self, connection: T) -> list[T]:
        """Its other side does not take in what it gets; returns all such, the oldest first."""
        self._unread.setdefault(connection)
        return list(self._unread)

    def read(self, connection: T) -> None:
        """Its other side took in what it got."""
        self._unread.pop(connection, None)

    def _leave(self, connection: T) -> None:
        self._waiting.pop(connection, None)
        self._busy.discard(connection)
        if len(self) <= self._most // 2:
            self.crowded = False
