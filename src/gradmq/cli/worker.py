"""``gradmq worker``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gradmq.cli.options import (
    DEFAULT_BROKER,
    NO_METRICS,
    Broker,
    Config,
    Insecure,
    JobName,
    Keys,
    MetricsFlags,
    Set,
    settings_of,
)


def worker(
    job: JobName,
    *,
    broker: Broker = DEFAULT_BROKER,
    name: Annotated[str, Parameter(help="Name of this worker; default: the broker's choice.")] = "",
    data: Annotated[str | None, Parameter(help="Folder with the job's data.")] = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Compute gradients of a job and push them."""
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        from gradmq.jobs import load

        loaded = load(job)
        settings = settings_of(
            config, set_, loaded.settings, run__data=data, network__keys=keys,
            network__insecure=insecure, **metrics.settings(),
        )  # fmt: skip
        from gradmq.worker.training import train

        train(
            loaded,
            broker,
            name,
            settings.worker.max_in_flight,
            settings.run.seed,
            settings.run.data,
            settings.run.join_timeout,
            settings.worker.step_timeout,
            settings.network.keys,
            stop,
            settings.metrics,
            settings.network.insecure,
        )

    return run_role("worker", main)
