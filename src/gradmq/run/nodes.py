"""The inference nodes of a run: one that is lost after it has served is started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from gradmq.run.roles import RoleProcess

#: After the first loss a node is started again at once, then after longer and longer pauses; what
#: does not come to stay in so many tries is given up.
PAUSES_S = (0.0, 1.0, 4.0, 16.0)

#: Who has lived so long came to stay: the pauses begin anew.
STAYED_S = 60.0

Start = Callable[[str, int], RoleProcess]
"""Starts the node of this name at this port."""


class Nodes:
    """Looks after the processes of inference nodes; for one thread.

    A node that has never served is not started again: what keeps it from that is in its settings
    or its job, and is said once. One that ended in good order was told to by somebody.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._ports: dict[str, int] = {}
        """Of those that have served: who asked at an address goes on asking there."""
        self._begun_at: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._due_at: dict[str, float] = {}

    def look(self, roles: list[RoleProcess], status: Mapping[str, Any], now: float) -> list[str]:
        """Take lost nodes out of ``roles`` and put new ones in when it is time; news in words.

        One that is not started again stays in ``roles`` as it ended.
        """
        for row in status.get("infer", ()):
            port = urlsplit(row["url"]).port if row["release"] else None
            if port:
                self._ports[row["name"]] = port
        news = []
        for role in [role for role in roles if role.name in self._ports]:
            self._begun_at.setdefault(role.name, now)
            failure = role.failure()
            pause_s = None if failure is None else self._pause_s(role.name, now)
            if pause_s is not None:
                roles.remove(role)
                role.close()
                self._due_at[role.name] = now + pause_s
                when = f"in {pause_s:g} s" if pause_s else "again"
                news.append(f"{failure}; it is started {when}")
        for name in [name for name, due_at in self._due_at.items() if now >= due_at]:
            del self._due_at[name]
            self._begun_at[name] = now
            roles.append(self._start(name, self._ports[name]))
        return news

    def _pause_s(self, name: str, now: float) -> float | None:
        """How long to wait before the next try; None: there is none left."""
        stayed = now - self._begun_at[name] >= STAYED_S
        tried = 0 if stayed else self._tries.get(name, 0)
        self._tries[name] = tried + 1
        return PAUSES_S[tried] if tried < len(PAUSES_S) else None
