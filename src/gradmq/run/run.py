"""``gradmq run``: all roles of one job on this machine, from the first process to the last."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from gradmq.config import Settings, resolve
from gradmq.errors import BrokerAway, GradmqError, RoleFailed, ShardAway
from gradmq.job import Job
from gradmq.jobs import load
from gradmq.observer import Observer
from gradmq.run.completion import Completions
from gradmq.run.ending import Ending
from gradmq.run.folder import RunFolder
from gradmq.run.local import start_broker, start_shards
from gradmq.run.roles import THREAD_VARIABLES, RoleProcess, end_all, flags
from gradmq.view import Screen
from gradmq.view.summary import RunEnd

log = logging.getLogger(__name__)

#: The status is asked for, and the screen drawn, this often.
LOOK_EVERY_S = 0.25
METRICS_EVERY_S = 1.0

#: After a normal end: for workers to finish their step and drain, the last release to be written,
#: and its evaluation.
STOP_S, SAVE_S, EVALUATE_S = 15.0, 30.0, 30.0
#: After Ctrl-C, all within five seconds.
HURRIED_STOP_S, HURRIED_SAVE_S, HURRIED_END_S = 1.5, 1.5, 1.0


class _Interrupts:
    """Ctrl-C: the first asks for an orderly end, the second ends everything at once."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


@dataclass
class _Run:
    """One run's processes and what is known of it."""

    job: Job
    job_name: str
    settings: Settings
    folder: RunFolder
    interrupts: _Interrupts
    roles: list[RoleProcess] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, RoleFailed] = field(default_factory=dict)
    """Workers that ended badly while the run went on without them."""
    broker_address: str = ""

    def failures(self) -> list[RoleFailed]:
        """Of roles without which the run cannot go on."""
        workers = [role for role in self.roles if role.name.startswith("worker")]
        for role in workers:
            failure = role.failure()
            if failure is not None and role.name not in self.lost:
                self.lost[role.name] = failure
                log.warning("%s; the run goes on without it", failure)
        others = [role.failure() for role in self.roles if role not in workers]
        failures = [failure for failure in others if failure is not None]
        if workers and len(self.lost) == len(workers):
            failures.append(next(iter(self.lost.values())))
        return failures


def run_job(
    job_name: str,
    chosen: Mapping[str, Any],
    config: Path | None,
    init: Path | None,
    resume: Path | None,
) -> int:
    """Train, serve, show; returns the exit status. Raises GradmqError."""
    with _Interrupts() as interrupts:
        earlier = RunFolder.existing(resume) if resume is not None else None
        job_name = job_name or (earlier.job() if earlier else "lm")
        job = load(job_name)
        base = config or (earlier.settings if earlier else None)
        settings = resolve(job.settings, base, os.environ, chosen)
        ending = Ending(settings.run, job.higher_is_better, job.stop)
        folder = earlier or RunFolder.create(settings.run.folder, settings.run.name, job.name)
        folder.write(settings.to_toml(), job_name)
        restore = None
        if earlier is None:
            _write_initial(job_name, folder, settings, init)
        else:
            restore = folder.newest_whole_release(settings.run.shards)
        run = _Run(job, job_name, settings, folder, interrupts)
        try:
            _start(run, restore)
            return _train(run, ending)
        except KeyboardInterrupt:
            for role in run.roles:
                role.kill()
            return 130
        finally:
            _end_processes(run, HURRIED_END_S if interrupts.count else 3.0)


def _write_initial(job: str, folder: RunFolder, settings: Settings, init: Path | None) -> None:
    run = settings.run
    arguments = [job, folder.path, run.shards, run.seed, run.data or "", init or ""]
    finished = subprocess.run(
        [sys.executable, "-m", "gradmq.run.initial", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["it said nothing"]
        raise GradmqError(lines[-1].removeprefix("gradmq: "))


def _start(run: _Run, restore: int | None) -> None:
    """Start all roles; the order does not matter, everyone waits for whom they need."""
    settings, folder, job = run.settings, run.folder, run.job_name
    logs = folder.path / "logs"
    broker, address = start_broker(folder.path, folder.settings, folder.name)
    run.roles.append(broker)
    run.broker_address = address
    run.roles += start_shards(folder.path, folder.settings, address, settings.run.shards, restore)
    workers = settings.run.workers
    threads = settings.worker.threads or max(1, (os.cpu_count() or 1) // workers)
    common = {"broker": address, "config": folder.settings}
    for i in range(workers):
        name = f"worker-{i + 1}"
        arguments = [job, *flags({"name": name, **common})]
        log_file = logs / f"{name}.log"
        run.roles.append(RoleProcess(name, "gradmq.worker", arguments, log_file, threads))
    if run.job.serve is not None:
        for i in range(settings.run.infer):
            name = f"infer-{i + 1}"
            port = settings.infer.port + i if settings.infer.port else 0
            arguments = [job, *flags({"name": name, "port": port, **common})]
            run.roles.append(RoleProcess(name, "gradmq.infer", arguments, logs / f"{name}.log"))
    if run.job.evaluate is not None:
        arguments = [job, address, str(folder.path)]
        log_file = logs / "evaluator.log"
        run.roles.append(RoleProcess("evaluator", "gradmq.run.evaluator", arguments, log_file))


def _train(run: _Run, ending: Ending) -> int:
    with Observer(run.broker_address) as observer, Completions(run.job) as completions:
        with Screen(run.folder.name, run.folder.path) as screen:
            reason, failure = _watch(run, observer, ending, screen, completions)
            trained_s = ending.trained_s(time.monotonic())
            last_release = _stop(run, observer, ending, screen)
        if not run.interrupts.count and failure is None:
            completions.finish(run.status)
        end = RunEnd(
            reason=reason,
            status=run.status,
            trained_s=trained_s,
            higher_is_better=run.job.higher_is_better,
            completions=completions.pairs(),
            folder=run.folder.path,
            saved_release=last_release,
            resume_command=f"gradmq run --resume {run.folder.path}",
        )
        screen.summary(end)
    if failure is not None:
        raise failure
    if run.lost:
        raise next(iter(run.lost.values()))
    return 130 if run.interrupts.count and not ending.first_update_at else 0


def _watch(
    run: _Run, observer: Observer, ending: Ending, screen: Screen, completions: Completions
) -> tuple[str, GradmqError | None]:
    """Look at the run until it is over; returns why, and the failure that ended it, if any."""
    metrics_at = 0.0
    while True:
        try:
            run.status = observer.status(timeout=5.0)
        except BrokerAway as error:
            failures = run.failures()
            return "the broker is away", failures[0] if failures else error
        now = time.monotonic()
        reason = ending.update(run.status, now)
        failures = run.failures()
        screen.update(run.status, ending.progress(now), now)
        completions.look(run.status)
        if now >= metrics_at:
            metrics_at = now + METRICS_EVERY_S
            run.folder.append_metrics({"trained_s": ending.trained_s(now), **run.status})
        if run.interrupts.count:
            return "Ctrl-C", None
        if failures:
            return str(failures[0]), failures[0]
        if reason:
            return reason, None
        time.sleep(LOOK_EVERY_S)


def _stop(run: _Run, observer: Observer, ending: Ending, screen: Screen) -> int:
    """Let workers finish, make the last release and judge it; returns its number, 0 if unsaved."""
    hurried = bool(run.interrupts.count)
    try:
        observer.stop_workers("the run is over")
        _until(run, observer, screen, lambda s: not any(w["live"] for w in s["workers"]),
               HURRIED_STOP_S if hurried else STOP_S)  # fmt: skip
        if run.status.get("phase") == "waiting" or ending.first_update_at is None:
            return 0
        number = observer.make_release(True, HURRIED_SAVE_S if hurried else SAVE_S)
        if run.job.evaluate is not None and not hurried:
            _until(run, observer, screen, lambda s: _is_judged(s, number), EVALUATE_S)
        run.status = observer.status()
    except (BrokerAway, ShardAway) as error:
        log.error("no last checkpoint: %s", error)
        return 0
    return number


def _is_judged(status: Mapping[str, Any], release: int) -> bool:
    return any(e["release"] >= release for e in status["evaluations"])


def _until(
    run: _Run,
    observer: Observer,
    screen: Screen,
    done: Callable[[dict[str, Any]], bool],
    timeout_s: float,
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run.status = observer.status(timeout=2.0)
        screen.update(run.status, None, time.monotonic())
        if done(run.status):
            return
        time.sleep(LOOK_EVERY_S / 5)


def _end_processes(run: _Run, timeout_s: float) -> None:
    """Shards and followers first: their goodbyes need a broker."""
    end_all([role for role in run.roles if role.name != "broker"], timeout_s)
    end_all([role for role in run.roles if role.name == "broker"], timeout_s)
