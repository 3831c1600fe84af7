"""One run under faults: started, hurt, healed, stopped in good order, and checked."""

from __future__ import annotations

import heapq
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import gradmq
from chaos.checker import FinalShard, Findings, Outage, check
from chaos.history import read
from chaos.network import Network
from chaos.plan import Fault, faults
from chaos.roles import Role
from chaos.served import SIZES
from chaos.tracer import Tracer
from gradmq.config import all_keys
from gradmq.ps import checkpoint

WORKERS = 3
#: Pushes of one life of a worker: then it leaves in good order, and another one comes.
BLOCK = 200

#: The longest that a run may take to be well, and for the broker to have its directory again.
WELL_S = 60.0
DIRECTORY_S = 5.0

TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """What is done in one round."""

    network: str
    durability: str
    seed: int
    kills: int
    shards: int = 2
    pushes: int = 48_000
    copies: int = 4
    staleness: str = "bounded"
    hurry: float = 1.0
    """The faults come so many times as fast."""


@dataclass(slots=True)
class Done:
    """What was done to whom."""

    kills: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    directory_s: list[float] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(kind of finding, text), of what no history tells."""


class Round:
    """The driver; one thread."""

    def __init__(self, case: Case, network: Network, folder: Path) -> None:
        self.case = case
        self.done = Done()
        self.tracer = Tracer(case.shards, case.pushes, case.copies)
        self._network = network
        self._folder = folder
        self._random = Random(f"chaos {case.seed} driver")
        self._next_push = 0
        self._lives = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._roles = list(self._make_roles())

    # -- from the beginning to the end ------------------------------------------------------------

    def run(self) -> Findings:
        """All of it; raises what makes it pointless to go on."""
        try:
            for role in self._roles:
                self._start(role)
            self._wait_until_well("at the start")
            self._release_saved()
            self._hurt()
            self._heal()
            finals = self._stop()
        finally:
            for role in self._roles:
                role.kill()
                role.close()
        histories = {path.stem: list(read(path)) for path in self._folder.glob("*.jsonl")}
        findings = check(histories, finals, self.case.durability, self.done.outages)
        for kind, text in self.done.failures:
            findings.add(kind, text)
        return findings

    def _hurt(self) -> None:
        # By seed alone: what a fault does must not change which one is next.
        names = failpoint_names()
        plan = faults(Random(f"chaos {self.case.seed}"), self._network.faults, names)
        for fault in plan:
            if self.done.kills.total() >= self.case.kills or self._used_up():
                return
            self._perform(fault)
            self._pass_until(time.monotonic() + fault.rest_s / self.case.hurry)

    def _heal(self) -> None:
        while self._due:
            self._pass()
        self._network.heal()
        self._wait_until_well("after the faults")
        healed_at = time.monotonic()
        names = [role.name for role in self._roles if role.role in ("worker", "client", "follower")]
        while missing := [name for name in names if not self._has_gone_on(name, healed_at)]:
            self._pass_until(time.monotonic() + 0.5)
            if time.monotonic() > healed_at + WELL_S:
                self._fail("stalled", f"{missing} did not go on {WELL_S:g} s after the last fault")
                return

    def _stop(self) -> list[FinalShard]:
        told = self._gradmq("stop", self._network.broker)
        if told.returncode:
            self._fail("failed", f"gradmq stop: {told.stdout} {told.stderr}")
            return []
        release = int(told.stdout.split()[-1])
        for role in self._roles:
            if role.role == "worker":
                self._expect_end(role)
        for role in reversed(self._roles):
            if role.role != "worker":
                role.signal(signal.SIGTERM)
                self._expect_end(role)
        finals = []
        for shard, role in enumerate(r for r in self._roles if r.role == "ps"):
            try:
                _, _, state = checkpoint.load(self._folder / "state", shard, release)
            except gradmq.CheckpointError as error:
                self._fail("lost", f"the last release of shard {shard}: {error}")
                return []
            seen = self.tracer.read_shard(state.parameters)
            finals.append(FinalShard(state.version, state.lineage, seen, role.starts))
        return finals

    def _expect_end(self, role: Role) -> None:
        status = role.wait(30.0)
        if status != 0:
            self._fail("failed", f"{role.name} ended with {status}: {role.last_words()}")

    # -- the roles --------------------------------------------------------------------------------

    def _make_roles(self) -> Iterator[Role]:
        network, folder = self._network, self._folder
        (folder / "run.toml").write_text(settings(self.case, network.transport))
        sizes = [self.case.shards, self.case.pushes, self.case.copies]
        told = {SIZES: " ".join(map(str, sizes))}
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
            yield role("worker", place, "chaos.worker", network.broker)
        yield role("follower", 1, "chaos.follower", network.broker)
        job = Path(__file__).with_name("served.py")
        yield role("infer", 1, "gradmq", "infer", job, "--broker", network.broker,
                   "--host", "127.0.0.1", "--port", network.http_port)  # fmt: skip
        yield role("client", 1, "chaos.client", f"http://127.0.0.1:{network.http_port}")

    def _start(self, role: Role, failpoints: str = "") -> None:
        """As it was started before; who writes a history begins a new one."""
        history = self._folder / f"{role.name}-{next(self._lives)}.jsonl"
        sizes = [self.case.shards, self.case.pushes, self.case.copies]
        words: list[object] = role.words[:2]
        match role.role:
            case "worker":
                words += [role.name, history, *sizes, self._next_push, BLOCK]
                self._next_push += BLOCK
            case "follower":
                words += [role.name, history, *sizes]
            case "client":
                words += [history, self.case.shards]
            case _:
                words = list(role.words)
        role.words = list(map(str, words))
        role.start(failpoints)

    def _used_up(self) -> bool:
        return self._next_push + WORKERS * BLOCK > self.case.pushes

    def _pick(self, kind: str, part: float) -> Role:
        of_kind = [role for role in self._roles if role.role == kind]
        return of_kind[int(part * len(of_kind))]

    # -- faults -----------------------------------------------------------------------------------

    def _perform(self, fault: Fault) -> None:
        match fault.kind:
            case "kill" if fault.quiet:
                self._kill_the_broker_alone(fault)
            case "kill":
                role = self._pick(fault.role, fault.pick)
                if role.kill():
                    self.done.kills[role.role] += 1
                    self._later(fault.lasts_s, lambda: self._start_again(role, fault.failpoints))
            case "pause":
                role = self._pick(fault.role, fault.pick)
                role.signal(signal.SIGSTOP)
                self.done.others["pause"] += 1
                self._later(fault.lasts_s, lambda: role.signal(signal.SIGCONT))
            case kind:
                self._network.begin(kind, fault.pick)
                self.done.others[kind] += 1
                self._later(fault.lasts_s, self._network.heal)

    def _start_again(self, role: Role, failpoints: str = "") -> None:
        if not role.is_up:
            self._start(role, failpoints)

    def _kill_the_broker_alone(self, fault: Fault) -> None:
        """All is well, then the broker is away, then it is there again: nothing else happens."""
        while self._due:
            self._pass()
        self._wait_until_well("before the broker was killed")
        (broker,) = (role for role in self._roles if role.role == "broker")
        killed_at = time.monotonic()
        if not broker.kill():
            return
        self.done.kills["broker"] += 1
        members = [r for r in self._roles if r.role in ("worker", "follower", "infer") and r.is_up]
        self._pass_until(killed_at + fault.lasts_s)
        self._start(broker)
        started_at = time.monotonic()
        self.done.outages.append(Outage(killed_at, started_at))
        self._wait_until_well(
            "after the broker was killed",
            {r.name for r in members if r.is_up and r.started_at < killed_at},
        )
        took_s = time.monotonic() - started_at
        self.done.directory_s.append(took_s)
        if took_s > DIRECTORY_S:
            self._fail("stalled", f"the broker had its directory again after {took_s:.1f} s")

    # -- time -------------------------------------------------------------------------------------

    def _later(self, in_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + in_s, next(self._order), action))

    def _pass_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self._pass()

    def _pass(self) -> None:
        """Do what is due, and start again who has ended."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for role in self._roles:
            status = role.ended_itself
            if status is None:
                continue
            if status == -signal.SIGKILL and "=kill" in role.armed:
                self.done.kills[role.role] += 1
                self.done.failpoints[role.armed.partition("=")[0]] += 1
            elif status != 0 or role.role != "worker":
                self._fail("failed", f"{role.name} ended with {status}: {role.last_words()}")
            self._start(role)
        time.sleep(TICK_S)

    def _fail(self, kind: str, text: str) -> None:
        self.done.failures.append((kind, text))

    # -- what the run says of itself ---------------------------------------------------------------

    def _wait_until_well(self, when: str, members: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """All shards are there and nobody waits for them, and these members are known."""
        deadline = time.monotonic() + WELL_S
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            self._pass()
            told = self._gradmq("status", self._network.broker, "--json")
            if told.returncode:
                continue
            status = json.loads(told.stdout)
            there = [w["name"] for w in status["workers"] if w["live"]]
            there += [m["name"] for m in (*status["followers"], *status["infer"])]
            shards = status["shards"]
            if there and all(s["live"] for s in shards) and members - {"infer-1"} <= {*there}:
                return
        self._fail("stalled", f"not well {WELL_S:g} s {when}: {json.dumps(status)}")

    def _release_saved(self) -> None:
        """From here on every shard has something to come back to."""
        deadline = time.monotonic() + WELL_S
        while time.monotonic() < deadline:
            self._pass_until(time.monotonic() + 0.5)
            told = self._gradmq("status", self._network.broker, "--json")
            if not told.returncode and json.loads(told.stdout)["release"]["saved"]:
                return
        raise gradmq.WaitTimeout("no release was saved at the start")

    def _has_gone_on(self, name: str, since: float) -> bool:
        return any(
            event["at"] > since
            and (event["what"] == "saw" or "applied" in event.get("outcomes", ()))
            for path in self._folder.glob(f"{name}-*.jsonl")
            for event in read(path)
        )

    def _gradmq(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self._network.within("status", 0), sys.executable, "-m", "gradmq", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)


def settings(case: Case, transport: str) -> str:
    """The settings file of all roles."""
    text = f"""
[run]
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
    if "ps.durability" in {key for key, *_ in all_keys()}:
        text += f'\n[ps]\ndurability = "{case.durability}"\n'
    return text


def durabilities() -> list[str]:
    """Those that this gradmq knows, the strictest first."""
    known = {key for key, *_ in all_keys()}
    return ["journal", "memory"] if "ps.durability" in known else ["memory"]


def failpoint_names() -> list[str]:
    """The failpoints that a shard can meet, as its source has them."""
    package = Path(gradmq.__file__).parent
    sources = [*package.glob("*.py"), *package.glob("ps/*.py")]
    return sorted(
        name
        for source in sources
        for name in re.findall(r'\bfailpoint\("([a-z0-9_.]+)"\)', source.read_text())
    )
