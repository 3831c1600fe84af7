"""``gradmq ps``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradmq.cli.options import (
    DEFAULT_BROKER,
    NO_METRICS,
    Advertise,
    Bind,
    Broker,
    Config,
    Insecure,
    Keys,
    MetricsFlags,
    Set,
    State,
    settings_of,
)


def ps(
    *,
    broker: Broker = DEFAULT_BROKER,
    shard: Annotated[int, Parameter(help="Which shard, from 0.")] = 0,
    port: Annotated[
        int, Parameter(help="First of three ports to listen on; 0: any free ones.")
    ] = 0,
    bind: Bind = None,
    advertise: Advertise = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    state: State = Path("gradmq-state"),
    restore_release: Annotated[
        int | None, Parameter(help="Start from this release; default: the newest on disk.")
    ] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Own one shard of the parameters: apply gradients, publish versions."""
    from gradmq import link
    from gradmq.process import StopFlag, run_role
    from gradmq.ps.node import PsNode, PsOptions

    def main(stop: StopFlag) -> None:
        settings = settings_of(
            config, set_, network__bind=bind, network__advertise=advertise,
            network__insecure=insecure, network__keys=keys,
            **metrics.settings(),
        )  # fmt: skip
        network = settings.network
        options = PsOptions(
            broker=broker,
            shard=shard,
            state=state,
            bind=network.bind,
            port=port,
            advertise=link.advertised(network.bind, network.advertise),
            insecure=network.insecure,
            push_budget_bytes=settings.ps.push_budget_mb * 1_000_000,
            restore_release=restore_release,
            kept_checkpoints=settings.ps.keep_checkpoints,
            keys=network.keys,
            metrics=settings.metrics,
        )
        PsNode(options).run(stop)

    return run_role("ps", main)
