"""Role processes on this machine: started by subprocess, ended with their parent, never forked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradmq.errors import RoleFailed
from gradmq.process import UNTIL_STDIN_CLOSES

#: From SIGTERM to SIGKILL.
TERMINATE_S = 3.0

#: A session's nice value can be set by then, or not at all.
AUTOGROUP_S = 1.0

#: A role's own libraries must not take the cores of the others.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


_started_here: weakref.WeakSet[RoleProcess] = weakref.WeakSet()


class RoleProcess:
    """One ``python -m gradmq.ROLE``; its stderr and stdout go to a log file."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log: Path,
        threads: int = 1,
        nice: int = 0,
    ) -> None:
        """``nice``: by how much others go before it where processors are short, 0 to 19."""
        self.name = name
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADMQ_")}
        environment |= {variable: str(threads) for variable in THREAD_VARIABLES}
        environment[UNTIL_STDIN_CLOSES] = "1"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            # A session of its own: Ctrl-C in the terminal reaches the launcher alone, which then
            # ends the roles in order. The pipe on stdin tells them if the launcher is killed.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=environment,
                start_new_session=True,
            )
        if nice:
            _let_others_go_first(self.pid, nice)
        _started_here.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line it wrote: of a role that failed, its error."""
        with contextlib.suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(self._log_start, self.log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def failure(self) -> RoleFailed | None:
        """The error to raise if it has ended badly."""
        status = self.status
        if status is None or status == 0:
            return None
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            words = self.last_words()
            how = f"ended with status {status}" + (f": {words}" if words else "")
        return RoleFailed(f"{self.name} {how} (log: {self.log})")

    def terminate(self) -> None:
        """Ask it to end."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """True if it ended within the time."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


def end_all(roles: Sequence[RoleProcess], timeout_s: float = TERMINATE_S) -> None:
    """End processes: ask all, wait until the deadline, kill who is left."""
    for role in roles:
        role.terminate()
    deadline = time.monotonic() + timeout_s
    for role in roles:
        if not role.wait(deadline - time.monotonic()):
            role.kill()
            role.wait(timeout_s)
        role.close()


def _let_others_go_first(pid: int, nice: int) -> None:
    """For a process that has just begun: its threads, which come later, take after the first."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
    # Where the kernel shares processors out among sessions (sched_autogroup), that counts within
    # one only, and each session has a nice value of its own.
    session = Path(f"/proc/{pid}/autogroup")
    deadline = time.monotonic() + AUTOGROUP_S
    while time.monotonic() < deadline:
        try:
            session.write_text(str(nice))
        except BlockingIOError:  # users other than root may do it ten times a second
            time.sleep(AUTOGROUP_S / 20)
        except OSError:
            return  # this kernel shares out among threads
        else:
            return


def _let_go() -> None:
    """A forked child must not keep roles alive that end with the death of its parent."""
    for role in list(_started_here):
        role.close()


os.register_at_fork(after_in_child=_let_go)


def flags(values: Mapping[str, object]) -> list[str]:
    """``--key value`` for every value that is not None."""
    out = []
    for key, value in values.items():
        if value is not None:
            out += [f"--{key}", str(value)]
    return out
