"""An inference node: takes a run's releases and answers requests from them.

Threads: HTTP in the main one, the model in one of its own, the source of releases in
``gradmq-swap``, which turns each release into a module and swaps one reference.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gradmq import link
from gradmq.config import InferSettings, NetworkSettings
from gradmq.errors import JobError
from gradmq.http_listener import told_address
from gradmq.infer.batching import require_batchable
from gradmq.infer.follower import Follower
from gradmq.infer.guard import Guard
from gradmq.infer.http import make_app
from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.infer.run_watch import RunWatch
from gradmq.infer.server import HttpServer
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.infer.standstill import Standstill
from gradmq.infer.swapping import Swapper
from gradmq.job import Job
from gradmq.security.token import read_token
from gradmq.torch_binding import hollow

log = logging.getLogger(__name__)

#: Gives a node its releases until stopped, in a thread of its own; is told the URL for others.
Source = Callable[[Swapper, str, Callable[[], bool]], None]


def serve(
    job: Job,
    settings: InferSettings,
    network: NetworkSettings,
    source: Source,
    stopped: threading.Event,
    watch: RunWatch | None = None,
) -> None:
    """Serve until ``stopped``; raises SettingsError, JobError or what ended the source.

    ``watch`` is what ``source`` tells of its run; None where there is none.
    """
    host = settings.host
    token = read_token(settings.token_file)
    link.require_closed(host, network.insecure, closed=bool(token), remedy="infer.token_file")
    if job.serve is None:
        raise JobError(f"job {job.name} does not say how it is served: give it serve=…")
    spec = job.serve()
    limits = HttpLimits.of(settings)
    require_batchable(spec, limits.batch_rows)
    serving = Serving(settings.keep_releases, settings.return_to_stable, settings.inplace)
    measures = Measures()
    failure: list[Exception] = []
    executor = ThreadPoolExecutor(1, "gradmq-model")
    standstill = Standstill()
    swapper = Swapper(serving, measures, spec, executor, standstill)
    app = make_app(
        serving,
        job.name,
        spec,
        executor,
        time.monotonic,
        limits=limits,
        token=token,
        max_age_s=settings.max_age,
        measures=measures,
        watch=watch,
        stopping=stopped.is_set,
        standstill=standstill,
    )
    with HttpServer(app, host, settings.port) as server:
        log.info("answers at %s", server.url)
        link.say_if_open(host, bool(token))

        def take() -> None:
            url = f"http://{told_address(host, server.port, network.advertise)}"
            try:
                source(swapper, url, stopped.is_set)
            except Exception as error:  # noqa: BLE001  (raised again in the main thread)
                failure.append(error)
                stopped.set()

        thread = threading.Thread(target=take, name="gradmq-swap")
        thread.start()
        try:
            server.serve_until(stopped)
        finally:
            stopped.set()
            thread.join()
            executor.shutdown(wait=True, cancel_futures=True)
    if failure:
        raise failure[0]


def releases_of_run(
    job: Job,
    broker: str,
    name: str,
    join_timeout_s: float,
    keys: Path | None,
    max_score_drop: float | None = None,
    watch: RunWatch | None = None,
    in_place: bool = False,
) -> Source:
    """The releases of a live run, as they come; the node goes on with the last when it is away.

    ``watch`` is told the run's status about once a second. ``in_place``: one module for all of
    them, as ``infer.inplace`` says.
    """

    def follow(swapper: Swapper, url: str, stopped: Callable[[], bool]) -> None:
        model = job.model()
        follower = Follower(
            model,
            broker,
            name or None,
            join_timeout_s,
            keys=keys,
            role="infer",
            report=lambda: {"url": url, **swapper.serving.report(time.monotonic())},
            on_status=watch.heard if watch else None,
        )
        if in_place:
            model.eval().requires_grad_(False)
        else:
            hollow(model)
        guard = Guard(job.score, max_score_drop)
        try:
            follower.open(stopped)
            swapper.follow(follower, guard, stopped, model if in_place else None)
        finally:
            follower.close()

    return follow


def one_release(release: ServedRelease) -> Source:
    """A release that is at hand; no other will come."""

    def give(swapper: Swapper, url: str, stopped: Callable[[], bool]) -> None:
        swapper.measures.newest_release = release.number
        swapper.offer(release, time.monotonic())
        log.info("serves release %d", release.number)

    return give
