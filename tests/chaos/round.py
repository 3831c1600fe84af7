"""A run under faults: hurt by seed, healed, stopped in good order, and checked."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import gradmq
from chaos.checker import Findings, Outage, check
from chaos.history import read
from chaos.network import Network
from chaos.plan import Fault, faults
from chaos.roles import Role
from chaos.run import WELL_S, Case, TracedRun

#: The longest that a broker may take from its start until it has its directory again.
DIRECTORY_S = 5.0


@dataclass(slots=True)
class Done:
    """What was done to whom."""

    kills: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    directory_s: list[float] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)


class Round(TracedRun):
    """So many kills, and what else a seed has in store; ``hurry``: faults come so much faster."""

    def __init__(
        self,
        case: Case,
        network: Network,
        folder: Path,
        seed: int,
        kills: int,
        hurry: float = 1.0,
        directory_s: float = DIRECTORY_S,
    ) -> None:
        super().__init__(case, network, folder)
        self.done = Done()
        self._seed, self._kills, self._hurry = seed, kills, hurry
        self._directory_s = directory_s

    def run(self) -> Findings:
        """All of it; raises what makes it pointless to go on."""
        try:
            self.begin()
            self._hurt()
            self._heal()
            finals = self.stop()
        finally:
            self.kill_all()
        histories = {path.stem: list(read(path)) for path in self.folder.glob("*.jsonl")}
        findings = check(histories, finals, self.case.durability, self.done.outages)
        for kind, text in self.failures:
            findings.add(kind, text)
        return findings

    def _hurt(self) -> None:
        # By seed alone: what a fault does must not change which one is next.
        plan = faults(Random(f"chaos {self._seed}"), self.network.faults, failpoint_names())
        for fault in plan:
            if self.done.kills.total() >= self._kills or self.is_used_up:
                return
            self._perform(fault)
            self.pass_until(time.monotonic() + fault.rest_s / self._hurry)

    def _heal(self) -> None:
        self.pass_until_nothing_is_due()
        self.network.heal()
        for role in self.roles:
            if role.armed:  # its turn may come while the run is stopped, and nobody starts it again
                role.kill()
                self.start(role)
        self._wait_until_all_go_on("worker", "client", "follower")

    def _wait_until_all_go_on(self, *kinds: str) -> None:
        """Everybody must do something new, now that nothing is wrong."""
        self.wait_until_well("after a fault")
        since = time.monotonic()
        names = [role.name for kind in kinds for role in self.of(kind)]
        while missing := [name for name in names if not self._has_gone_on(name, since)]:
            self.pass_until(time.monotonic() + 0.2)
            if time.monotonic() > since + WELL_S:
                self.fail("stalled", f"{missing} did not go on {WELL_S:g} s after a fault")
                return

    def _has_gone_on(self, name: str, since: float) -> bool:
        """True if a worker had a push applied since, or an observer saw something."""
        newest = max(self.folder.glob(f"{name}-*.jsonl"), key=lambda path: path.stat().st_mtime)
        return any(
            event["at"] > since and ("applied" in event.get("outcomes", ()) or "release" in event)
            for event in read(newest)
        )

    # -- faults -----------------------------------------------------------------------------------

    def _perform(self, fault: Fault) -> None:
        match fault.kind:
            case "kill" if fault.quiet:
                self._kill_the_broker_alone(fault)
            case "kill":
                role = self._pick(fault)
                if role.kill():
                    self.done.kills[role.role] += 1
                    self.later(fault.lasts_s, lambda: self._start_again(role, fault.failpoints))
            case "pause":
                role = self._pick(fault)
                role.signal(signal.SIGSTOP)
                self.done.others["pause"] += 1
                self.later(fault.lasts_s, lambda: role.signal(signal.SIGCONT))
            case kind:
                self.network.begin(kind, fault.pick)
                self.done.others[kind] += 1
                self.later(fault.lasts_s, self.network.heal)

    def _pick(self, fault: Fault) -> Role:
        of_kind = self.of(fault.role)
        return of_kind[int(fault.pick * len(of_kind))]

    def _start_again(self, role: Role, failpoints: str = "") -> None:
        if not role.is_up:
            self.start(role, failpoints)

    def on_ended(self, role: Role, status: int) -> None:
        if status == -signal.SIGKILL and "=kill" in role.armed:
            self.done.kills[role.role] += 1
            self.done.failpoints[role.armed.partition("=")[0]] += 1
        else:
            super().on_ended(role, status)

    def _kill_the_broker_alone(self, fault: Fault) -> None:
        """All is well, then the broker is away, then it is there again: nothing else happens."""
        self.pass_until_nothing_is_due()
        self._wait_until_all_go_on("worker")
        starts = [role.starts for role in self.of("ps")]
        (broker,) = self.of("broker")
        killed_at = time.monotonic()
        if not broker.kill():
            return
        self.done.kills["broker"] += 1
        self.pass_until(killed_at + fault.lasts_s)
        self.start(broker)
        # Who was started in between is not known to anybody yet.
        members = [*self.of("worker"), *self.of("follower")]
        known = {role.name for role in members if role.is_up and role.started_at < killed_at}
        not_yet = self.wait_until_well("after the broker was killed", frozenset(known))
        if starts != [role.starts for role in self.of("ps")]:
            return  # a failpoint had its turn: the broker was not away alone
        self.done.outages.append(Outage(killed_at, broker.started_at))
        self.done.directory_s.append(time.monotonic() - broker.started_at)
        late_s = not_yet - broker.started_at
        if late_s > self._directory_s:
            self.fail("stalled", f"the broker had no directory {late_s:.1f} s after its start")


def failpoint_names() -> list[str]:
    """The failpoints that a shard can meet, as its source has them."""
    package = Path(gradmq.__file__).parent
    sources = [*package.glob("*.py"), *package.glob("ps/**/*.py")]
    return sorted(
        name
        for source in sources
        for name in re.findall(r'\bfailpoint\("([a-z0-9_.]+)"\)', source.read_text())
    )
