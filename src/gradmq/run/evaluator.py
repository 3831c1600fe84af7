"""The evaluator: a follower that judges releases on held-out data, beside training."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gradmq.config import resolve
from gradmq.durable import write_atomically
from gradmq.errors import JobError
from gradmq.infer.follower import FollowedRelease, Follower
from gradmq.job import Job, JobContext
from gradmq.jobs import load
from gradmq.process import StopFlag, run_role
from gradmq.run.ending import is_better
from gradmq.run.folder import RunFolder
from gradmq.run.saved import saved_release
from gradmq.torch_binding import hollow

log = logging.getLogger(__name__)

#: How soon a stop is heard.
POLL_S = 0.25


def evaluate(
    job: Job,
    broker: str,
    state: Path,
    best: Path,
    shards: int,
    data: str | None,
    every_s: float,
    join_timeout_s: float,
    keys: Path | None,
    stopped: Callable[[], bool],
) -> None:
    """Judge the release the run began with, then the newest every ``every_s`` seconds.

    Writes the parameters of the best release to ``best``. Raises JobError if the job's own code
    fails, and what ``Follower`` raises.
    """
    model = job.model()
    context = JobContext(data=data)
    _, first = saved_release(model, state, shards, 0)
    metrics = judge(job, first, context)
    keeper = _Best(job, best)
    keeper.offer(0, metrics, first)
    with Follower(model, broker, "evaluator", join_timeout_s, keys=keys) as follower:
        del first
        hollow(model)  # from here on a mould
        beginning = FollowedRelease(0, (), 0.0)
        follower.report_evaluation(beginning, metrics)
        release = beginning
        due_at = time.monotonic() + every_s
        while not stopped():
            if time.monotonic() < due_at and not follower.stopping:
                follower.wait(follower.newest(), POLL_S)
                continue
            if not follower.wait(release, POLL_S):
                continue
            due_at = time.monotonic() + every_s
            taken = follower.take()
            release, module = taken.about, taken.module()
            del taken
            metrics = judge(job, module, context)
            keeper.offer(release.number, metrics, module)
            follower.report_evaluation(release, metrics)


def judge(job: Job, model: torch.nn.Module, context: JobContext) -> dict[str, float]:
    """The job's metrics of a model in eval mode; raises JobError if they are no numbers."""
    assert job.evaluate is not None
    with torch.inference_mode():
        metrics: object = job.evaluate(model.eval(), context)
    if not isinstance(metrics, Mapping) or not metrics:
        raise JobError(f"job {job.name}: evaluate returned {metrics!r:.60}, not metrics by name")
    return {str(name): float(value) for name, value in metrics.items()}


class _Best:
    """Keeps the parameters of the best release on disk."""

    def __init__(self, job: Job, path: Path) -> None:
        self._higher_is_better = job.higher_is_better
        self._path = path
        self._value = _value_of(path)

    def offer(self, release: int, metrics: Mapping[str, float], model: torch.nn.Module) -> None:
        value = next(iter(metrics.values()))
        if not is_better(value, self._value, self._higher_is_better):
            return
        self._value = value
        tensors = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in model.state_dict().items()
        }
        about = {"release": str(release), **{name: repr(v) for name, v in metrics.items()}}
        about["value"] = repr(value)
        write_atomically(self._path, lambda beside: save_file(tensors, beside, about))


def _value_of(path: Path) -> float | None:
    """What the best release of an earlier part of the run achieved; None if there is none."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["value"])


def main() -> int:
    """``python -m gradmq.run.evaluator JOB BROKER FOLDER``, a role of ``gradmq run``."""
    job_name, broker, folder = sys.argv[1:]

    def role(stop: StopFlag) -> None:
        run = RunFolder.existing(Path(folder))
        settings = resolve({}, run.settings, {}, {})
        evaluate(
            load(job_name),
            broker,
            run.checkpoints,
            run.best,
            settings.run.shards,
            settings.run.data,
            settings.run.evaluate_every,
            settings.run.join_timeout,
            settings.network.keys,
            stop,
        )

    return run_role("evaluator", role)


if __name__ == "__main__":
    sys.exit(main())
