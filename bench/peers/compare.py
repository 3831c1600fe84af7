"""The same work on gradmq and on every peer that is installed, each with deadlines of its own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradmq.bench.crew import Crew, Said
from gradmq.bench.echo import EchoCase, EchoRun, Groups, conduct
from gradmq.bench.processes import descendants
from gradmq.bench.push import echo, transports
from gradmq.errors import GradmqError


@dataclass(frozen=True)
class Peer:
    """Something that can run ps-echo, and what it needs for that."""

    name: str
    module: str
    run: Callable[[EchoCase], EchoRun]
    least_workers: int = 1

    def missing(self, case: EchoCase) -> str:
        """Why this case cannot be run; "" if it can."""
        if find_spec(self.module) is None:
            return "not installed"
        if case.workers < self.least_workers:
            return f"needs {self.least_workers} workers"
        return ""


@dataclass(frozen=True)
class PeerResult:
    """One peer's figures; without ``run``, the reason."""

    peer: str
    case: EchoCase
    run: EchoRun | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        figures = asdict(self.run.figures) if self.run else {}
        of_case = {"mb": self.case.mb, "workers": self.case.workers}
        return {"peer": self.peer, **of_case, **figures, "reason": self.reason}


def one(peer: Peer, case: EchoCase) -> PeerResult:
    """Run one peer; what it fails at is the reason, not an error."""
    reason = peer.missing(case)
    if reason:
        return PeerResult(peer.name, case, None, reason)
    try:
        return PeerResult(peer.name, case, peer.run(case))
    except GradmqError as error:
        return PeerResult(peer.name, case, None, f"failed: {error}")


def own() -> list[Peer]:
    """gradmq, once a transport."""
    return [
        Peer(f"gradmq {transport}", "numpy", partial(_gradmq, transport=transport))
        for transport in transports()
    ]


def _gradmq(case: EchoCase, transport: str) -> EchoRun:
    return echo(replace(case, transport=transport))


def _torch_rpc(case: EchoCase, transport: str) -> EchoRun:
    with tempfile.TemporaryDirectory(prefix="gradmq-") as folder, Crew() as crew:
        spec = _spec(case, folder) | {"transport": transport}
        for rank in range(case.workers + 1):
            name = f"rpc-worker-{rank - 1}" if rank else "rpc-server"
            crew.start(name, "gradmq.bench.peers.torch_rpc", {**spec, "rank": rank})
        groups = Groups(crew.pids[:1], crew.pids)
        return conduct(crew, case, lambda joined: groups, math.nan)


def _gloo(case: EchoCase) -> EchoRun:
    with tempfile.TemporaryDirectory(prefix="gradmq-") as folder, Crew() as crew:
        for rank in range(case.workers):
            spec = {**_spec(case, folder), "rank": rank}
            crew.start(f"gloo-{rank}", "gradmq.bench.peers.gloo", spec)
        groups = Groups([], crew.pids)
        return conduct(crew, case, lambda joined: groups, math.nan)


def _ray(case: EchoCase) -> EchoRun:
    with tempfile.TemporaryDirectory(prefix="gradmq-") as folder, Crew() as crew:
        driver = crew.start("ray-driver", "gradmq.bench.peers.ray_actor", _spec(case, folder))

        def groups(joined: list[Said]) -> Groups:
            return Groups([joined[0]["server"]], [driver.pid, *descendants(driver.pid)])

        return conduct(crew, case, groups, math.nan)


def _spec(case: EchoCase, folder: str) -> dict[str, Any]:
    return {
        "mb": case.mb,
        "workers": case.workers,
        "folder": folder,
        "rendezvous": str(Path(folder, "rendezvous")),
    }


PEERS = (
    Peer("torch rpc, shm", "torch", partial(_torch_rpc, transport="shm")),
    Peer("torch rpc, tcp", "torch", partial(_torch_rpc, transport="tcp")),
    Peer("gloo all_reduce", "torch", _gloo, least_workers=2),
    Peer("ray", "ray", _ray),
)
