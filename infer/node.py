"""An inference node: follows a run's releases and answers requests from the newest one.

Threads: HTTP in the main one, the model in one of its own, the follower in ``gradmq-swap``, which
turns each release into a module and swaps one reference.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gradmq import link
from gradmq.errors import GradmqError, JobError
from gradmq.infer.batching import require_batchable
from gradmq.infer.follower import Follower
from gradmq.infer.http import make_app
from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.infer.server import HttpServer
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.job import Job
from gradmq.security.token import read_token

log = logging.getLogger(__name__)

#: A release is looked for at least this often; the stream's thread wakes the wait earlier.
FOLLOW_S = 0.25


def serve(
    job: Job,
    broker: str,
    name: str,
    host: str,
    port: int,
    insecure: bool,
    join_timeout_s: float,
    keys: Path | None,
    token_file: Path | None,
    limits: HttpLimits,
    stopped: threading.Event,
) -> None:
    """Serve until ``stopped``; raises SettingsError, JobError or what ended the follower."""
    token = read_token(token_file)
    link.require_closed(host, insecure, closed=bool(token), remedy="infer.token_file")
    if job.serve is None:
        raise JobError(f"job {job.name} does not say how it is served: give it serve=…")
    spec = job.serve()
    require_batchable(spec, limits.batch_rows)
    serving = Serving()
    measures = Measures()
    failure: list[GradmqError] = []
    executor = ThreadPoolExecutor(1, "gradmq-model")
    app = make_app(
        serving,
        job.name,
        spec,
        executor,
        time.monotonic,
        limits=limits,
        token=token,
        measures=measures,
    )
    with HttpServer(app, host, port) as server:
        url = server.url
        log.info("answers at %s", url)
        link.say_if_open(host, bool(token))
        follower = Follower(
            job.model(),
            broker,
            name or None,
            join_timeout_s,
            keys=keys,
            role="infer",
            report=lambda: {"url": url},
        )

        def swap() -> None:
            try:
                _swap_releases(follower, serving, measures, stopped.is_set)
            except GradmqError as error:
                failure.append(error)
            finally:
                stopped.set()

        thread = threading.Thread(target=swap, name="gradmq-swap")
        thread.start()
        try:
            server.serve_until(stopped)
        finally:
            stopped.set()
            thread.join()
            executor.shutdown(wait=True, cancel_futures=True)
    if failure:
        raise failure[0]


def _swap_releases(
    follower: Follower, serving: Serving, measures: Measures, stopped: Callable[[], bool]
) -> None:
    try:
        follower.open(stopped)
        held = None
        while not stopped():
            newest = follower.newest()
            measures.newest_release = newest.number
            if held is None or newest.number > held.number:
                begun_s = time.monotonic()
                held, module = follower.module()
                release = ServedRelease(held.number, held.versions, module)
                serving.offer(release, time.monotonic() - held.age_s)
                measures.swaps.add(time.monotonic() - begun_s)
                if held.number == 1 or held.number % 60 == 0:
                    log.info("serves release %d", held.number)
            else:
                serving.heard_newest(newest.number, time.monotonic() - newest.age_s)
            follower.wait(held, FOLLOW_S)
    finally:
        follower.close()
