"""What is asked: an inference node, or another server, as a process with its own deadline."""

from __future__ import annotations

import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradmq.bench.crew import Crew
from gradmq.bench.processes import descendants
from gradmq.errors import RoleFailed, WaitTimeout
from gradmq.run.roles import RoleProcess, end_all, flags

#: A server that does not answer by then will not; Ray takes most of it.
START_S = 90.0

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Server:
    """Where it answers, and the process that was started for it."""

    url: str
    pid: int

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def metric(self, name: str) -> float:
        """The sum of a metric's series, as ``/metrics`` of a node shows them now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=START_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name
        )

    def pids(self) -> list[int]:
        """Of it and of all that it has started."""
        return [self.pid, *descendants(self.pid)]


@contextmanager
def node(
    folder: Path, job: Path, settings: Mapping[str, object] | None = None, **words: object
) -> Iterator[Server]:
    """``gradmq infer JOB``, as its user starts it, until it is ready; ``words`` are its flags."""
    name = f"node-{time.monotonic_ns()}"
    sets = [word for k, v in (settings or {}).items() for word in ("--set", f"{k}={v}")]
    arguments = [str(job), *flags({"port": 0, **words}), *sets]
    role = RoleProcess(name, "gradmq.infer", arguments, folder / f"{name}.log")
    try:
        yield _ready(role)
    finally:
        end_all([role])


def _ready(role: RoleProcess) -> Server:
    deadline = time.monotonic() + START_S
    while True:
        found = re.search(r"answers at (http://\S+)", role.log.read_text(errors="replace"))
        if found and _answers(f"{found[1]}/v2/health/ready"):
            return Server(found[1], role.pid)
        failure = role.failure()
        if failure is not None:
            raise failure
        if time.monotonic() > deadline:
            raise WaitTimeout(f"waited {START_S:g} s for {role.name} to be ready")
        time.sleep(_LOOK_EVERY_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=START_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
    except OSError as error:
        raise RoleFailed(f"{url} does not answer: {error}") from None


@contextmanager
def peer(module: str, spec: Mapping[str, Any], python: str = sys.executable) -> Iterator[Server]:
    """A module here that serves the same model in another way; says ``up`` with its port."""
    with Crew() as crew:
        child = crew.start(module.rpartition(".")[2], module, spec, python=python)
        (said,) = crew.expect("up", START_S)
        yield Server(f"http://127.0.0.1:{said['port']}", child.pid)
        crew.tell("leave")
