"""What a process did and saw, a line of JSON each, on disk before it goes on.

A process that is killed leaves a last line that may be cut; all others are whole. Times are
seconds of the system's monotonic clock, one for all processes of a host.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from chaos.tracer import Seen

Event = dict[str, Any]


class History:
    """Writes one process's events; usable from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> History:
        self._file = self._path.open("a", buffering=1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.note("ended", error="" if error is None else f"{type(error).__name__}: {error}")
        self._file.close()

    def note(self, what: str, **more: Any) -> None:
        self._file.write(json.dumps({"what": what, "at": time.monotonic(), **more}) + "\n")

    def saw(self, versions: Sequence[tuple[int, int]], seen: Sequence[Seen], **more: Any) -> None:
        """Parameters of all shards, with the version that each was said to be."""
        self.note(
            "saw",
            versions=versions,
            totals=[shard.total for shard in seen],
            most=[int(shard.counts.max(initial=0)) for shard in seen],
            torn=[shard.is_torn for shard in seen],
            **more,
        )


def read(path: Path) -> Iterator[Event]:
    """All whole events of one process."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
