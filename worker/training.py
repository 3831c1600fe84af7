"""A worker process: one job's training loop around the public Worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gradmq.config import MetricsSettings
from gradmq.errors import JobError, ShardAway
from gradmq.job import Job, JobContext
from gradmq.metrics_server import MetricsServer, metrics_page
from gradmq.worker.client import Worker
from gradmq.worker.metrics import families

log = logging.getLogger(__name__)

#: A wait is broken up so that a stop is heard within this time.
WAIT_SLICE_S = 1.0


def train(
    job: Job,
    broker: str,
    name: str,
    max_in_flight: int,
    seed: int,
    data: str | None,
    join_timeout_s: float,
    step_timeout_s: float,
    keys: Path | None,
    stopped: Callable[[], bool],
    metrics: MetricsSettings,
    insecure: bool,
) -> None:
    """Train until ``stopped``, or until the run asks its workers to finish.

    Raises JobError if the job's own code fails, SettingsError if ``metrics`` cannot be shown, and
    what ``Worker`` raises.
    """
    model = job.model()
    loss_function = loss_of(job)
    model.train()
    worker = Worker(
        model,
        broker,
        name or None,
        max_in_flight,
        timeout=join_timeout_s,
        keys=keys,
        report=lambda: {"metrics": server.address},
    )
    server = MetricsServer(
        metrics,
        insecure,
        lambda: metrics_page(list(families(worker.name, worker.statistics()))),
    )
    with ExitStack() as stack:
        stack.enter_context(server)
        stack.push(worker.open(stopped))
        if stopped():
            return
        # Every session has a data order of its own: a worker that comes back repeats nothing.
        context = JobContext(seed=seed + worker.session, data=data)
        torch.manual_seed(context.seed)
        log.info("%s joined as session %d", worker.name, worker.session)
        for inputs, targets in job.batches(context):
            if stopped() or worker.stopping:
                break
            loss = loss_function(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            _step(worker, loss, len(inputs), step_timeout_s, stopped)


def _step(
    worker: Worker,
    loss: torch.Tensor,
    samples: int,
    timeout_s: float,
    stopped: Callable[[], bool],
) -> None:
    """One step; a wait says at once for whom, and ends when the process must."""
    deadline = time.monotonic() + timeout_s
    try:
        worker.step(loss=loss, samples=samples, timeout=WAIT_SLICE_S)
        return
    except ShardAway as error:
        log.warning("%s", error)
    while not stopped():
        try:
            worker.catch_up(timeout=WAIT_SLICE_S)
        except ShardAway:
            if time.monotonic() > deadline:
                raise
            continue
        log.info("goes on")
        return


def loss_of(job: Job) -> Callable[[Any, Any], torch.Tensor]:
    """The job's loss, by name or as it is; raises JobError."""
    if not isinstance(job.loss, str):
        return job.loss
    function = getattr(torch.nn.functional, job.loss, None)
    if not callable(function):
        raise JobError(f"job {job.name}: torch.nn.functional has no {job.loss!r}")
    loss: Callable[[Any, Any], torch.Tensor] = function
    return loss
