"""A schedule told line by line, for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from gradmq.sim.schedule import Schedule
from gradmq.wire.messages import Message, Verdict

#: Long, the same in every message, or said by the line already.
LEFT_OUT = frozenset(
    {"payload", "run", "layout", "crc", "codec", "host", "addresses", "settings", "report", "loss",
     "samples", "lease_s", "shards", "weight"}
)  # fmt: skip


class Trace:
    """Writes what happens, with the virtual time in front."""

    def __init__(self, schedule: Schedule, write: Callable[[str], None]) -> None:
        self._schedule = schedule
        self._write = write

    def note(self, who: str, text: str) -> None:
        self._write(f"{self._schedule.elapsed_s:9.4f}  {who:<12} {text}")

    def arrives(self, sender: object, receiver: object, message: Message, held: bool) -> None:
        late = "  (doubled or held back)" if held else ""
        self.note(str(receiver), f"◀ {sender!s:<12} {describe(message)}{late}")


def describe(message: Message) -> str:
    """A message in one line, without what is the same in all of them."""
    return " ".join([message.KIND, *_values(message)])


def _values(record: Any) -> list[str]:
    return [
        f"{item.name}={_plain(getattr(record, item.name))}"
        for item in fields(record)
        if item.name not in LEFT_OUT and getattr(record, item.name) not in (None, "", ())
    ]


def _plain(value: Any) -> str:
    if isinstance(value, Verdict):
        return " ".join(_values(value))
    if isinstance(value, tuple) and value and isinstance(value[0], Verdict):
        return "[" + "; ".join(_plain(verdict) for verdict in value) + "]"
    return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)
