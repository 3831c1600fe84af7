"""``gradmq infer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradmq.cli.options import (
    DEFAULT_BROKER,
    Broker,
    Config,
    Insecure,
    JobName,
    Keys,
    Set,
    settings_of,
)
from gradmq.errors import SettingsError


def infer(
    job: JobName,
    *,
    broker: Broker = DEFAULT_BROKER,
    name: Annotated[str, Parameter(help="Name of this node; default: the broker's choice.")] = "",
    host: Annotated[str | None, Parameter(help="HTTP address; default 127.0.0.1.")] = None,
    advertise: Annotated[
        str | None, Parameter(help="Address told to others; default: --host, or this host's name.")
    ] = None,
    port: Annotated[int | None, Parameter(help="HTTP port; 0: any free one.")] = None,
    token_file: Annotated[
        Path | None, Parameter(help="File (mode 0600) with a token that requests must bear.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            help="Serve what is saved here, without a run: a run's folder, one of checkpoints, or "
            "a .safetensors or .pth file.",
        ),
    ] = None,
    max_age: Annotated[
        str | None, Parameter(help="Say not ready when the newest release is older: 10s.")
    ] = None,
    inplace: Annotated[
        bool | None,
        Parameter(
            help="Write each release over the last one: the memory of one model, none to go back "
            "to.",
            negative="",
        ),
    ] = None,
    keys: Keys = None,
    insecure: Insecure = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Serve a job's releases over HTTP, the newest and the last few, with a page for a browser."""
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        from gradmq.jobs import load

        loaded = load(job)
        settings = settings_of(
            config, set_, loaded.settings, infer__host=host, infer__port=port,
            infer__token_file=token_file, infer__max_age=max_age, infer__inplace=inplace,
            network__keys=keys, network__insecure=insecure, network__advertise=advertise,
        )  # fmt: skip
        from gradmq.infer import node
        from gradmq.infer.run_watch import RunWatch

        watch = RunWatch(loaded.higher_is_better) if checkpoint is None else None
        drop = settings.infer.max_score_drop
        if drop is not None and loaded.score is None:
            raise SettingsError(f"infer.max_score_drop is set, and job {loaded.name} has no score")
        if settings.infer.inplace and (drop is not None or settings.infer.return_to_stable):
            raise SettingsError(
                "infer.inplace leaves nothing to go back to: "
                "use it without infer.max_score_drop and infer.return_to_stable"
            )
        if checkpoint is None:
            source = node.releases_of_run(
                loaded,
                broker,
                name,
                settings.run.join_timeout,
                settings.network.keys,
                drop,
                watch,
                settings.infer.inplace,
            )
        else:
            from gradmq.run.saved import read_saved

            source = node.one_release(read_saved(loaded, checkpoint))
        node.serve(loaded, settings.infer, settings.network, source, stop.event, watch)

    return run_role("infer", main)
