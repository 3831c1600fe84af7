"""``gradmq broker``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradmq.cli.options import (
    DEFAULT_PORT,
    NO_METRICS,
    Advertise,
    Bind,
    Config,
    Insecure,
    Keys,
    MetricsFlags,
    Set,
    State,
    settings_of,
)


def broker(
    *,
    name: Annotated[str, Parameter(help="Name of the run.")] = "run",
    shards: Annotated[int | None, Parameter(help="How many shards the run has; default 1.")] = None,
    port: Annotated[
        int | None, Parameter(help="Port to listen on; default 5550, or what --config says.")
    ] = None,
    bind: Bind = None,
    advertise: Advertise = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    state: State = Path("gradmq-state"),
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Hold the directory of one run: who is where, which release is newest."""
    from gradmq import link
    from gradmq.broker.node import BrokerNode, BrokerOptions
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        settings = settings_of(
            config, set_, run__shards=shards, network__port=port, network__bind=bind,
            network__advertise=advertise, network__insecure=insecure, network__keys=keys,
            **metrics.settings(),
        )  # fmt: skip
        network = settings.network
        options = BrokerOptions(
            run=name,
            shards=settings.run.shards,
            state=state,
            bind=network.bind,
            port=DEFAULT_PORT if network.port is None else network.port,
            advertise=link.advertised(network.bind, network.advertise),
            insecure=network.insecure,
            release_every_s=settings.run.release_every,
            save_every_s=settings.run.save_every,
            settings=settings.told_to_members(),
            keys=network.keys,
            metrics=settings.metrics,
        )
        BrokerNode(options).run(stop)

    return run_role("broker", main)
