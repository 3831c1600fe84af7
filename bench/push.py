"""How fast do gradients get in and parameters out? ps-echo on a cluster of this machine."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradmq.bench import limits, workload
from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S, EchoCase, EchoRun, Groups, conduct, echo_name
from gradmq.bench.figures import EchoFigures, ratio
from gradmq.bench.limits import Limits
from gradmq.config import all_keys
from gradmq.errors import SettingsError
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Unbounded
from gradmq.run.cluster import LocalCluster
from gradmq.security import keys as key_files

#: For each limit: enough to be steady, little beside the run itself.
LIMIT_S = 1.0

#: What the shards are given beyond the pushes that may be under way at once; MB.
BUDGET_SPARE_MB = 64


@dataclass(frozen=True)
class EchoResult:
    """Figures beside the limits that were measured in the same run."""

    case: EchoCase
    figures: EchoFigures
    limits: Limits

    def as_json(self) -> dict[str, Any]:
        """One flat object; ``of_LIMIT`` is GB/s as a part of that limit."""
        return {
            **asdict(self.case),
            **asdict(self.figures),
            **asdict(self.limits),
            "of_sgd_loop": ratio(self.figures.gb_per_s, self.limits.sgd_loop_gb_per_s),
            "of_memcpy": ratio(self.figures.gb_per_s, self.limits.memcpy_gb_per_s),
            "of_tcp_echo": ratio(self.figures.gb_per_s, self.limits.tcp_echo_gb_per_s),
        }


def measure(case: EchoCase) -> EchoResult:
    """The limits, then ps-echo; raises GradmqError if anything fails on the way."""
    transport_setting(case.transport)
    found = limits.measure(case.mb, case.workers, min(LIMIT_S, case.seconds / 8))
    return EchoResult(case, echo(case).figures, found)


def echo(case: EchoCase, every_s: float = 0.0, per_process: int = 1) -> EchoRun:
    """Run ps-echo once, on processes of its own, so many workers in each.

    Workers push ``every_s`` apart; 0: as soon as they may.
    """
    started = time.monotonic()
    with _keys_for(case) as keys, cluster_for(case, keys) as cluster, Crew() as crew:
        start_s = time.monotonic() - started
        for first in range(0, case.workers, per_process):
            indices = range(first, min(first + per_process, case.workers))
            spec = worker_spec(case, cluster.address, indices, every_s, keys)
            crew.start(f"worker-{first}", "gradmq.bench.echo_worker", spec)
        servers = cluster.pids("ps")
        groups = Groups(servers, [*servers, *cluster.pids("broker"), *crew.pids])
        return conduct(
            crew,
            case,
            lambda joined: groups,
            start_s,
            lambda applied: workload.agrees(case.mb, applied, cluster.parameters(STEP_S)),
        )


@contextmanager
def _keys_for(case: EchoCase) -> Iterator[Path | None]:
    """A folder with a key for every worker, or None in a case without."""
    if not case.keys:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="gradmq-keys-") as folder:
        path = Path(folder)
        key_files.init(path)
        key_files.ensure(path, {echo_name(index): "worker" for index in range(case.workers)})
        yield path


def cluster_for(case: EchoCase, keys: Path | None = None) -> LocalCluster:
    """Not open yet; raises SettingsError for a transport that this version does not know."""
    under_way_mb = math.ceil(case.workers * case.in_flight * case.mb) + BUDGET_SPARE_MB
    return LocalCluster(
        model=workload.model(case.mb),
        shards=case.shards,
        optimizer=SGD(lr=workload.LR),
        staleness=Unbounded(),
        settings={
            "ps.push_budget_mb": max(1024, under_way_mb),
            **transport_setting(case.transport),
            "run.durability": case.durability,
            "network.keys": keys,
        },
    )


def transports() -> list[str]:
    """The transports that can be chosen."""
    known = {key for key, *_ in all_keys()}
    return ["shm", "tcp"] if "network.transport" in known else ["tcp"]


def transport_setting(transport: str) -> Mapping[str, str]:
    """The setting that chooses a transport; none where there is but TCP to choose."""
    if "shm" in transports():
        return {"network.transport": transport}
    if transport == "shm":
        raise SettingsError("--transport shm: this version has only tcp")
    return {}


def worker_spec(
    case: EchoCase,
    address: str,
    workers: range,
    every_s: float = 0.0,
    keys: Path | None = None,
) -> dict[str, Any]:
    """What a process of workers is told."""
    return {
        "address": address,
        "mb": case.mb,
        "in_flight": case.in_flight,
        "workers": list(workers),
        "every_s": every_s,
        "keys": None if keys is None else str(keys),
    }
