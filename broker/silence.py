"""Who has fallen silent: news for the log, long before a lease runs out; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradmq.broker.directory import Member

#: A member reports every 0.5 s; one that misses four reports is called silent.
SILENT_AFTER_S = 2.0


class Silence:
    """Says once that a member has fallen silent, and once that it is heard again."""

    def __init__(self) -> None:
        self._since: dict[bytes, float] = {}
        """By peer: when it was last heard before it fell silent."""

    def look(self, members: Iterable[Member], now: float) -> Iterator[str]:
        """What is new since the last look, a line each."""
        before, self._since = self._since, {}
        for member in members:
            since = before.get(member.peer)
            silent = now - member.heard_at > SILENT_AFTER_S
            if silent:
                self._since[member.peer] = member.heard_at
            if silent and since is None:
                where = f"process {member.pid} on {member.host}"
                yield f"{member.name}: silent for {now - member.heard_at:.1f} s ({where})"
            elif since is not None and not silent:
                yield f"{member.name}: heard again after {now - since:.1f} s"
