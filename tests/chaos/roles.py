"""The processes of a run, started with the commands that a user types, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradmq.failpoints import VARIABLE as FAILPOINTS
from gradmq.process import UNTIL_STDIN_CLOSES
from gradmq.run.roles import THREAD_VARIABLES

#: Where ``chaos`` is imported from.
TOOLS = Path(__file__).parents[1]


class Role:
    """One place in a run, and the processes that take it one after the other."""

    def __init__(
        self,
        role: str,
        name: str,
        words: Sequence[object],
        folder: Path,
        within: Sequence[str] = (),
        more_environment: Mapping[str, str] | None = None,
    ) -> None:
        """``within``: a command that runs another one, as in ``ip netns exec NAME``."""
        self.role = role
        self.name = name
        self.words = [str(word) for word in words]
        self.log = folder / f"{name}.log"
        self.starts = 0
        self.started_at = 0.0
        self.armed = ""
        """The failpoints of the present process."""
        self._folder = folder
        self._within = within
        self._more = dict(more_environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._was_killed = False

    def start(self, failpoints: str = "") -> None:
        """A new process, with the same command as the last one."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADMQ_")}
        environment |= dict.fromkeys(THREAD_VARIABLES, "1")
        environment |= {UNTIL_STDIN_CLOSES: "1", **self._more}
        # Roles run in a folder of their own: what is found from here is not found from there.
        found = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), TOOLS]
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in found)
        if failpoints:
            environment[FAILPOINTS] = failpoints
        self.close()
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*self._within, sys.executable, "-m", *self.words],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=environment,
                cwd=self._folder,
                start_new_session=True,
            )
        self.armed = failpoints
        self.starts += 1
        self.started_at = time.monotonic()
        self._was_killed = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ended_itself(self) -> int | None:
        """The exit status of a process that nobody killed from here; None: there is no such."""
        if self._process is None or self._was_killed:
            return None
        return self._process.poll()

    def kill(self) -> bool:
        """SIGKILL; False if it had ended before."""
        if not self.is_up:
            return False
        self._was_killed = True
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        return self._process.returncode == -signal.SIGKILL

    def signal(self, number: int) -> None:
        if self.is_up:
            os.kill(self.pid, number)

    def wait(self, within_s: float) -> int | None:
        """The exit status; None if it has not ended after so long."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within_s)
        return None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Let go of a process that has ended."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None
