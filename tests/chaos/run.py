"""One run of the tracer model: its roles, started with a user's commands, watched and stopped."""

from __future__ import annotations

import heapq
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import gradmq
from chaos.checker import FinalShard
from chaos.network import Network
from chaos.roles import Role
from chaos.served import SIZES
from chaos.tracer import Tracer
from gradmq.ps import checkpoint

WORKERS = 3
#: Pushes of one life of a worker: then it leaves in good order, and another one comes.
BLOCK = 200

#: The longest that a run may take to be well.
WELL_S = 60.0

#: `gradmq stop` gives workers and shards 60 s each.
COMMAND_S = 150.0

TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """What kind of run it is."""

    network: str
    durability: str
    shards: int = 2
    pushes: int = 48_000
    copies: int = 4
    staleness: str = "bounded"


class TracedRun:
    """A broker, shards, workers, a follower, an inference node and a client; one thread."""

    def __init__(self, case: Case, network: Network, folder: Path) -> None:
        self.case = case
        self.tracer = Tracer(case.shards, case.pushes, case.copies)
        self.failures: list[tuple[str, str]] = []
        """(kind of finding, text), of what no history tells."""
        self.network = network
        self.folder = folder
        self._next_push = 0
        self._lives = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.roles = list(self._make_roles())

    # -- the roles --------------------------------------------------------------------------------

    def _make_roles(self) -> Iterator[Role]:
        network, folder = self.network, self.folder
        (folder / "run.toml").write_text(settings(self.case, network.transport))
        told = {SIZES: " ".join(map(str, self.sizes))}
        common = ["--config", "run.toml", "--state", "state", *network.listen()]

        def role(kind: str, place: int, *words: object) -> Role:
            within = network.within(kind, place)
            return Role(kind, f"{kind}-{place}", words, folder, within, told)

        yield role("broker", 0, "gradmq", "broker", "--name", "chaos",
                   "--port", network.broker_port, *common)  # fmt: skip
        for shard, port in enumerate(network.shard_ports):
            yield role("ps", shard, "gradmq", "ps", "--shard", shard, "--broker", network.broker,
                       "--port", port, *common)  # fmt: skip
        for place in range(WORKERS):
            yield role("worker", place, *self.worker_words(f"worker-{place}"))
        yield role("follower", 1, "chaos.follower", network.broker)
        job = Path(__file__).with_name("served.py")
        yield role("infer", 1, "gradmq", "infer", job, "--broker", network.broker,
                   "--host", "127.0.0.1", "--port", network.http_port)  # fmt: skip
        yield role("client", 1, "chaos.client", f"http://127.0.0.1:{network.http_port}")

    @property
    def sizes(self) -> list[int]:
        return [self.case.shards, self.case.pushes, self.case.copies]

    def worker_words(self, name: str) -> list[object]:
        """The command of a worker's next life, after ``python -m``."""
        first, self._next_push = self._next_push, self._next_push + BLOCK
        history = self._new_history(name)
        return ["chaos.worker", self.network.broker, name, history, *self.sizes, first, BLOCK]

    def start(self, role: Role, failpoints: str = "") -> None:
        """As it was started before; who writes a history begins a new one."""
        match role.role:
            case "worker":
                words = self.worker_words(role.name)
            case "follower":
                history = self._new_history(role.name)
                words = [*role.words[:2], role.name, history, *self.sizes]
            case "client":
                words = [*role.words[:2], self._new_history(role.name), self.case.shards]
            case _:
                words = [*role.words]
        role.words = list(map(str, words))
        role.start(failpoints)

    def _new_history(self, name: str) -> Path:
        return self.folder / f"{name}-{next(self._lives)}.jsonl"

    @property
    def is_used_up(self) -> bool:
        """True once there are no numbers left for another push of everybody."""
        return self._next_push + WORKERS * BLOCK > self.case.pushes

    def of(self, kind: str) -> list[Role]:
        return [role for role in self.roles if role.role == kind]

    # -- from the beginning to the end ------------------------------------------------------------

    def begin(self) -> None:
        """Start all, and wait until every shard has saved what it can come back to."""
        for role in self.roles:
            self.start(role)
        self.wait_until_well("at the start")
        deadline = time.monotonic() + WELL_S
        while not (self.status() or {"release": {"saved": 0}})["release"]["saved"]:
            self.pass_until(time.monotonic() + 0.5)
            if time.monotonic() > deadline:
                raise gradmq.WaitTimeout(f"no release was saved within {WELL_S:g} s")

    def stop(self) -> list[FinalShard]:
        """``gradmq stop``, then SIGTERM: everybody must end well. Returns what is on disk."""
        told = self._gradmq("stop", self.network.broker)
        if told.returncode:
            self.fail("failed", f"gradmq stop: {told.stdout} {told.stderr}")
            return []
        release = int(told.stdout.split()[-1])
        for role in self.of("worker"):
            self._expect_end(role)
        for role in reversed([role for role in self.roles if role.role != "worker"]):
            role.signal(signal.SIGTERM)
            self._expect_end(role)
        finals = []
        for shard, role in enumerate(self.of("ps")):
            try:
                _, _, state = checkpoint.load(self.folder / "state", shard, release)
            except gradmq.CheckpointError as error:
                self.fail("lost", f"the last release of shard {shard}: {error}")
                return []
            seen = self.tracer.read_shard(state.parameters)
            finals.append(FinalShard(state.version, state.lineage, seen, role.starts))
        return finals

    def kill_all(self) -> None:
        for role in self.roles:
            role.kill()
            role.close()

    def _expect_end(self, role: Role) -> None:
        status = role.wait(30.0)
        if status != 0:
            self.fail("failed", f"{role.name} ended with {status}: {role.last_words()}")

    def fail(self, kind: str, text: str) -> None:
        self.failures.append((kind, text))

    # -- time -------------------------------------------------------------------------------------

    def later(self, in_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + in_s, next(self._order), action))

    def pass_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self.one_pass()

    def pass_until_nothing_is_due(self) -> None:
        while self._due:
            self.one_pass()

    def one_pass(self) -> None:
        """Do what is due, and start again who has ended."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for role in self.roles:
            status = role.ended_itself
            if status is not None:
                self.on_ended(role, status)
                self.start(role)
        time.sleep(TICK_S)

    def on_ended(self, role: Role, status: int) -> None:
        """A process has ended by itself; workers do when they have pushed enough."""
        if status != 0 or role.role != "worker":
            self.fail("failed", f"{role.name} ended with {status}: {role.last_words()}")

    # -- what the run says of itself --------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """``gradmq status``, None if the broker does not answer."""
        told = self._gradmq("status", self.network.broker, "--json")
        return None if told.returncode else dict(json.loads(told.stdout))

    def wait_until_well(self, when: str, members: frozenset[str] = frozenset()) -> float:
        """The present process of every shard is there, a worker is, and these members are.

        Returns when it was certainly not so yet: the last time that somebody asked in vain.
        """
        asked_at = began_at = time.monotonic()
        status: dict[str, Any] | None = None
        while asked_at < began_at + WELL_S:
            self.one_pass()
            not_yet, asked_at = asked_at, time.monotonic()
            status = self.status()
            pids = [role.pid for role in self.of("ps")]
            if status is not None and _is_well(status, pids, members):
                return not_yet
        self.fail("stalled", f"not well {WELL_S:g} s {when}: {json.dumps(status)}")
        return asked_at

    def _gradmq(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.network.within("status", 0), sys.executable, "-m", "gradmq", *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            words_said = f"no end after {COMMAND_S:g} s"
            return subprocess.CompletedProcess(command, 124, stdout="", stderr=words_said)


def _is_well(status: dict[str, Any], pids: list[int], members: frozenset[str]) -> bool:
    workers = {worker["name"] for worker in status["workers"] if worker["live"]}
    followers = {member["name"] for member in status["followers"]}
    # One that was killed is shown as live until its lease runs out, or another process comes.
    served = [shard["pid"] for shard in status["shards"]] == pids
    return served and bool(workers) and members <= workers | followers


def settings(case: Case, transport: str) -> str:
    """The settings file of all roles."""
    return f"""
[run]
durability = "{case.durability}"
shards = {case.shards}
release_every = "200ms"
save_every = "1s"

[optimizer]
lr = 1.0

[staleness]
rule = "{case.staleness}"

[network]
transport = "{transport}"
"""


#: What ``run.durability`` may be, the strictest first.
DURABILITIES = ("journal", "memory")
