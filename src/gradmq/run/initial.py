"""The first parameters of a job: built in a process of its own before any role starts.

What is wrong with a job or its data is known here, once, instead of in every worker's log.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gradmq.errors import GradmqError
from gradmq.job import Job, JobContext
from gradmq.jobs import load
from gradmq.run.folder import RunFolder
from gradmq.run.release_zero import write_release_0


def write_job(job: Job, state: Path, run: str, shards: int, seed: int, init: Path | None) -> None:
    """Build the job's model, from a parameter file if one is given, and write its release 0."""
    import torch

    from gradmq.parameters_file import load_into
    from gradmq.torch_binding import TorchBinding

    torch.manual_seed(seed)
    model = job.model()
    if init is not None:
        load_into(model, init)
    write_release_0(state, run, TorchBinding(model), shards)


def check_data(job: Job, context: JobContext) -> None:
    """Draw one batch: missing data is found here, not in every worker's log."""
    next(iter(job.batches(context)))


def main() -> int:
    """``python -m gradmq.run.initial JOB FOLDER SHARDS SEED DATA INIT``; "" where not given."""
    job_name, folder, shards, seed, data, init = sys.argv[1:]
    try:
        job = load(job_name)
        check_data(job, JobContext(seed=int(seed), data=data or None))
        path = RunFolder(Path(folder))
        write_job(
            job, path.checkpoints, path.name, int(shards), int(seed), Path(init) if init else None
        )
    except GradmqError as error:
        print(f"gradmq: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
