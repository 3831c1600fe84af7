"""Measured processes: started by subprocess, talked to in lines of JSON, never outliving this one.

What is said in both directions is one JSON object a line with a key ``word``. A process that ends
before it was expected to is an error with its last line on stderr, wherever its parent waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gradmq.bench.processes import descendants, kill
from gradmq.errors import RoleFailed, WaitTimeout
from gradmq.run.roles import THREAD_VARIABLES

Said = dict[str, Any]

#: The folder of ``gradmq`` that this file belongs to, as it is imported here.
PACKAGE = Path(__file__).parents[1]

#: A process that was told to leave, or whose parent went away, has this long.
LEAVE_S = 10.0


class Child:
    """One ``python -m MODULE`` that runs ``bench.child.run``."""

    def __init__(
        self,
        name: str,
        module: str,
        within: Sequence[str] = (),
        python: str = sys.executable,
    ):
        """``within``: a command that runs another one, as in ``ip netns exec NAME``.

        Another ``python`` finds this package too, and beside it what is installed there.
        """
        self.name = name
        self.said: deque[Said] = deque()
        self._unread = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (end() closes it)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADMQ_")}
        environment |= dict.fromkeys(THREAD_VARIABLES, "1")
        if python != sys.executable:
            paths = (str(PACKAGE.parent), environment.get("PYTHONPATH", ""))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its children.
        self._process = subprocess.Popen(
            [*within, python, "-m", module, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def tell(self, word: str, **more: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # read() finds out, and why
            self._process.stdin.write(json.dumps({"word": word, **more}).encode() + b"\n")
            self._process.stdin.flush()

    def read(self) -> None:
        """Take what it has said; raises RoleFailed if it has ended."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            raise self.failure()
        *lines, self._unread = (self._unread + data).split(b"\n")
        self.said.extend(json.loads(line) for line in lines)

    def failure(self) -> RoleFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        words = lines[-1] if lines else f"status {self._process.returncode}"
        return RoleFailed(f"{self.name} ended early: {words}")

    def end(self, within_s: float) -> None:
        """Let it end by itself for so long, then kill it and what it had started."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            kill([*descendants(self.pid), self.pid])
        self._process.wait(LEAVE_S)
        self._process.stdout.close()
        self._stderr.close()


class Crew:
    """The children of one measurement; all have ended when the ``with`` block has."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(LEAVE_S if kind is None else 0.0)

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self.children]

    def start(
        self,
        name: str,
        module: str,
        spec: Mapping[str, Any],
        within: Sequence[str] = (),
        python: str = sys.executable,
    ) -> Child:
        child = Child(name, module, within, python)
        self.children.append(child)
        # A long one is only taken once the child listens: by then it must be known here.
        child.tell("spec", **spec)
        return child

    def tell(self, word: str, **more: Any) -> None:
        for child in self.children:
            child.tell(word, **more)

    def expect(self, word: str, within_s: float) -> list[Said]:
        """What each child says next, which must be this word; raises WaitTimeout, RoleFailed."""
        deadline = time.monotonic() + within_s
        while silent := [child for child in self.children if not child.said]:
            if not self._read_until(deadline):
                who = ", ".join(child.name for child in silent)
                raise WaitTimeout(f"waited {within_s:g} s for {who} to say {word!r}")
        said = [child.said.popleft() for child in self.children]
        for child, answer in zip(self.children, said, strict=True):
            if answer["word"] != word:
                raise RoleFailed(f"{child.name} said {answer['word']!r} where {word!r} belongs")
        return said

    def watch_until(self, moment: float) -> None:
        """Sleep until then; raises RoleFailed as soon as a child ends."""
        while self._read_until(moment):
            pass

    def end(self, within_s: float) -> None:
        """End all: by themselves for so long, then by force."""
        deadline = time.monotonic() + within_s
        while self.children:
            self.children.pop().end(max(0.0, deadline - time.monotonic()))

    def _read_until(self, deadline: float) -> bool:
        """Read from those who speak; False if nobody has until the deadline."""
        with selectors.DefaultSelector() as selector:
            for child in self.children:
                selector.register(child, selectors.EVENT_READ, child)
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        for key, _ in ready:
            key.data.read()
        return bool(ready)
