"""Do more shards, each behind a link of its own, carry as much more?

Every shard has a host and a link of 200 Mbit/s each way; broker and worker sit on the hub. Hosts
are network namespaces, which only root can make.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradmq.bench import workload
from gradmq.bench.crew import Crew
from gradmq.bench.echo import EchoCase, Groups, conduct
from gradmq.bench.hosts import HUB_ADDRESS, Hosts
from gradmq.bench.push import transport_setting, worker_spec
from gradmq.config import resolve
from gradmq.models import bound
from gradmq.process import UNTIL_STDIN_CLOSES
from gradmq.run.release_zero import write_release_0
from gradmq.run.roles import THREAD_VARIABLES, flags

SHARDS = (1, 2, 4)
MBIT = 200
LINK_BYTES_PER_S = MBIT * 1e6 / 8

MB = 8.0

#: One worker with this window keeps both directions busy: while one push is on its way, the
#: parameters of the one before come back.
IN_FLIGHT = 3

WARMUP_S = 2.0
BROKER = f"tcp://{HUB_ADDRESS}:5550"

#: From SIGTERM to SIGKILL.
END_S = 5.0


@dataclass(frozen=True)
class ShardsResult:
    """One number of shards."""

    shards: int
    gb_per_s: float
    up_payload: float
    """Gradient bytes as a part of what the links carry in that direction."""
    up_wire: float
    down_wire: float
    """All bytes on the links, headers and all: from the worker, and to it."""
    p50_ms: float
    correct: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def one(shards: int, seconds: float) -> ShardsResult:
    case = EchoCase(MB, 1, "tcp", IN_FLIGHT, shards, seconds, WARMUP_S)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradmq-")))
        hosts = stack.enter_context(Hosts(shards, MBIT))
        servers = _start_roles(stack, folder, hosts)
        crew = stack.enter_context(Crew())
        spec = worker_spec(case, BROKER, range(1))
        crew.start("worker-0", "gradmq.bench.echo_worker", spec, hosts.on(hosts.hub))
        groups = Groups(servers, [*servers, *crew.pids])
        run = conduct(crew, case, lambda joined: groups, 0.0, meter=hosts.wire_bytes)
    capacity = LINK_BYTES_PER_S * shards
    up, down = run.metered
    return ShardsResult(
        shards=shards,
        gb_per_s=run.figures.gb_per_s,
        up_payload=run.figures.gb_per_s * 1e9 / capacity,
        up_wire=up / seconds / capacity,
        down_wire=down / seconds / capacity,
        p50_ms=run.figures.p50_ms,
        correct=run.figures.correct,
    )


def _start_roles(stack: ExitStack, folder: Path, hosts: Hosts) -> list[int]:
    """A broker on the hub, a shard on each other host; the processes of the shards."""
    count = len(hosts.names)
    chosen = {"run.shards": count, "optimizer.lr": workload.LR, "staleness.rule": "unbounded"}
    settings = folder / "settings.toml"
    settings.write_text(resolve({}, None, {}, {**chosen, **transport_setting("tcp")}).to_toml())
    checkpoints = folder / "checkpoints"
    write_release_0(checkpoints, "local", bound(workload.model(MB)), count)
    common = ["--insecure", *flags({"config": settings})]
    where = flags({"bind": HUB_ADDRESS, "port": 5550, "state": folder, "name": "local"})
    stack.enter_context(_role(hosts.on(hosts.hub), "gradmq.broker", [*common, *where], folder))
    pids = []
    for shard, (name, address) in enumerate(zip(hosts.names, hosts.addresses, strict=True)):
        where = flags({"bind": address, "broker": BROKER, "state": checkpoints, "shard": shard})
        role = _role(hosts.on(name), "gradmq.ps", [*common, *where], folder)
        pids.append(stack.enter_context(role).pid)
    return pids


@contextmanager
def _role(
    within: Sequence[str], module: str, arguments: Sequence[str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A role on a host; it ends with this process, whatever becomes of it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADMQ_")}
    environment |= {UNTIL_STDIN_CLOSES: "1", **dict.fromkeys(THREAD_VARIABLES, "1")}
    with (folder / "roles.log").open("ab") as log:
        process = subprocess.Popen(
            [*within, sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_S)
        assert process.stdin is not None
        process.stdin.close()
