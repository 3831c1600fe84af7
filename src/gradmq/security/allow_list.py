"""The allow-list of a run as its broker sees it: read at the start, and again when it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gradmq.errors import SettingsError
from gradmq.security.access import Access, read_allow_list
from gradmq.security.keys import ALLOWED, allowed_in, read_secret

log = logging.getLogger(__name__)

#: A revoked key is refused everywhere within a second: half of it goes by here at most.
LOOK_EVERY_S = 0.5

Stamp = tuple[int, int, int]


class AllowList:
    """Watches one file. What it cannot read allows nobody: a line its owner, a file everyone."""

    def __init__(self, keys: Path) -> None:
        """``keys``: the folder, or the broker's key file, beside which the list lies."""
        self._folder = keys if keys.is_dir() else keys.parent
        self._stamp: Stamp | None = None
        self._look_at = 0.0

    def read(self) -> Access:
        """The list at the start; raises SettingsError if anything is wrong with it."""
        self._stamp = self._stamp_now()
        return Access(allowed_in(self._folder))

    def changed(self, now: float) -> Access | None:
        """The list as it is now, if it is another than before; looks at most twice a second."""
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY_S
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            entries, wrong = read_allow_list(read_secret(self._folder / ALLOWED, "put it back"))
        except SettingsError as error:
            log.error("nobody is allowed any more: %s", error)
            return Access()
        for text in wrong:
            log.error("%s: %s; it allows nobody", self._folder / ALLOWED, text)
        log.info("the allow-list has %d keys now", len(entries))
        return Access(entries)

    def _stamp_now(self) -> Stamp | None:
        try:
            found = os.stat(self._folder / ALLOWED)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
