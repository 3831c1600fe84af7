"""``gradmq run``, everything at once on this machine, and ``gradmq serve``, of what it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradmq.cli.options import Config, Set, pairs


def run(
    job: Annotated[
        str,
        Parameter(
            help="A built-in job (lm, fashion-mnist) or a Python file; default: lm, or what the "
            "resumed run trains.",
            show_default=False,
        ),
    ] = "",
    *,
    for_: Annotated[
        str | None, Parameter("--for", help="Train for so long: 90s, 5m, 1.5h.")
    ] = None,
    updates: Annotated[int | None, Parameter(help="End after so many updates.")] = None,
    samples: Annotated[int | None, Parameter(help="End after so many applied samples.")] = None,
    until: Annotated[str | None, Parameter(help='End once this holds: "accuracy>=0.9".')] = None,
    patience: Annotated[
        int | None, Parameter(help="End after so many evaluations without improvement.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Worker processes; default 2.")] = None,
    shards: Annotated[int | None, Parameter(help="Parameter server processes; default 1.")] = None,
    lr: Annotated[float | None, Parameter(help="Learning rate; default: the job's.")] = None,
    data: Annotated[str | None, Parameter(help="Folder with the job's data.")] = None,
    name: Annotated[str | None, Parameter(help="Name of the run and its folder.")] = None,
    init: Annotated[
        Path | None, Parameter(help="Start from a .safetensors or .pth parameter file.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Continue the run in this folder.")] = None,
    keys: Annotated[
        Path | None, Parameter(help="Keys folder; what is missing in it is made.")
    ] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006  (cyclopts reads the default, nobody writes to it)
) -> int:
    """Train a job on this machine and serve it while it learns."""
    from gradmq.run.run import run_job

    chosen = {
        "run.for": for_,
        "run.updates": updates,
        "run.samples": samples,
        "run.until": until,
        "run.patience": patience,
        "run.workers": workers,
        "run.shards": shards,
        "optimizer.lr": lr,
        "run.data": data,
        "run.name": name,
        "network.keys": keys,
    }
    return run_job(job, {**chosen, **pairs(set_)}, config, init, resume)


def serve(
    run: Annotated[Path, Parameter(help="Folder of a run, as in runs/lm-1.")],
    *,
    port: Annotated[
        int | None, Parameter(help="HTTP port; 0: any free one; default: the run's.")
    ] = None,
) -> int:
    """Serve the newest release of a finished run, until Ctrl-C."""
    from gradmq.run.run import serve_run

    return serve_run(run, port)
