"""Broker and shards as processes on this machine: what a run and a LocalCluster have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from gradmq.config import MetricsSettings
from gradmq.errors import RoleFailed
from gradmq.run.roles import RoleProcess, flags
from gradmq.security.access import ps_name
from gradmq.security.keys import ensure
from gradmq.wire.messages import KeyRole

#: A broker that does not listen by then will not.
LISTEN_S = 15.0


def prepare_keys(
    keys: Path | None, shards: int, workers: Sequence[str] = (), readers: Sequence[str] = ()
) -> None:
    """Have a key in the folder for everyone who is about to be started; raises SettingsError.

    ``readers`` follow releases and say what they found: inference nodes, the evaluator.
    """
    if keys is None:
        return
    roles: dict[str, KeyRole] = {ps_name(i): "ps" for i in range(shards)}
    for name in workers:
        roles[name] = "worker"
    for name in readers:
        roles[name] = "infer"
    ensure(keys, roles)


def start_broker(
    folder: Path, settings: Path, run: str, port: int | None
) -> tuple[RoleProcess, str]:
    """Start a broker and wait until it listens: (process, address); raises RoleFailed.

    Without a port it takes any free one: several runs on one machine do not meet.
    """
    address_file = folder / "broker" / "address"
    address_file.unlink(missing_ok=True)
    broker = RoleProcess(
        "broker",
        "gradmq.broker",
        flags({"config": settings, "state": folder, "name": run, "port": port or 0}),
        folder / "logs" / "broker.log",
    )
    deadline = time.monotonic() + LISTEN_S
    while not address_file.exists():
        failure = broker.failure()
        if failure is not None:
            broker.close()
            raise failure
        if time.monotonic() > deadline:
            broker.kill()
            broker.close()
            raise RoleFailed(f"the broker did not listen within {LISTEN_S:g} s (log: {broker.log})")
        time.sleep(0.01)
    return broker, address_file.read_text().strip()


def start_shards(
    folder: Path,
    settings: Path,
    broker: str,
    count: int,
    metrics: MetricsSettings,
    restore_release: int | None = None,
) -> list[RoleProcess]:
    """Start one parameter server per shard, each with its checkpoints under ``folder``."""
    return [
        start_shard(folder, settings, broker, i, restore_release, metrics.port_after(1 + i))
        for i in range(count)
    ]


def start_shard(
    folder: Path,
    settings: Path,
    broker: str,
    index: int,
    restore_release: int | None = None,
    metrics_port: int | None = None,
) -> RoleProcess:
    """Start the parameter server of one shard."""
    arguments = flags(
        {
            "config": settings,
            "broker": broker,
            "state": folder / "checkpoints",
            "shard": index,
            "restore-release": restore_release,
            "metrics-port": metrics_port,
        }
    )
    log = folder / "logs" / f"ps-{index}.log"
    return RoleProcess(f"ps-{index}", "gradmq.ps", arguments, log)
