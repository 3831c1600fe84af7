"""``gradmq run``: all roles of one job on this machine, from the first process to the last."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from gradmq.config import RunSettings, Settings, resolve
from gradmq.errors import BrokerAway, GradmqError, RoleFailed, ShardAway
from gradmq.job import Job
from gradmq.jobs import load
from gradmq.observer import Observer
from gradmq.run.completion import Completions
from gradmq.run.ending import Ending
from gradmq.run.folder import RunFolder
from gradmq.run.local import prepare_keys, start_broker, start_shards
from gradmq.run.nodes import Nodes
from gradmq.run.roles import THREAD_VARIABLES, RoleProcess, end_all, flags
from gradmq.security.token import read_token
from gradmq.view.screen import Screen
from gradmq.view.summary import run_end
from gradmq.view.table import Progress

log = logging.getLogger(__name__)

EVALUATOR = "evaluator"

#: The status is asked for, and the screen drawn, this often.
LOOK_EVERY_S = 0.25
METRICS_EVERY_S = 1.0

#: A broker on this machine that says nothing for so long is named; training goes on without it.
LOOK_TIMEOUT_S = 3.0
#: One whose process lives is given up only after this long.
BROKER_GIVEN_UP_S = 60.0

#: After a normal end: for workers to finish their step and drain, the last release to be written,
#: and its evaluation.
STOP_S, SAVE_S, EVALUATE_S = 15.0, 30.0, 30.0
#: A wait at the end that lasts longer is named on the screen.
NAMED_AFTER_S = 2.0
#: After Ctrl-C, all within five seconds.
HURRIED_STOP_S, HURRIED_SAVE_S, HURRIED_END_S = 1.5, 1.5, 1.0


class _Interrupts:
    """Ctrl-C: the first asks for an orderly end, the second ends everything at once."""

    def __init__(self) -> None:
        self._count = 0
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

    def came(self) -> bool:
        return self._count > 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
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
    """Roles that ended badly, by name."""
    nodes: Nodes | None = None
    broker_address: str = ""

    def look_at_roles(self) -> list[RoleFailed]:
        """Note who ended badly; returns the failures without which the run could go on: none left.

        A run needs its broker, all shards, and one worker. Serving and judging can fail beside it.
        """
        for role in self.roles:
            failure = role.failure()
            if failure is not None:
                self.lost.setdefault(role.name, failure)
        workers = {role.name for role in self.roles if role.name.startswith("worker")}
        needed = [failure for name, failure in self.lost.items() if self._is_needed(name)]
        if workers and workers <= self.lost.keys():
            needed += [self.lost[name] for name in sorted(workers)]
        return needed

    def _is_needed(self, role: str) -> bool:
        if role == EVALUATOR:  # without it, a run that ends by a metric would never end
            settings = self.settings.run
            return bool(settings.until or settings.patience or self.job.stop)
        return role == "broker" or role.startswith("ps-")


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
        if job_name.endswith(".py"):
            job_name = str(Path(job_name).resolve())  # a run may be resumed from elsewhere
        job = load(job_name)
        base = config or (earlier.settings if earlier else None)
        settings = resolve(job.settings, base, os.environ, chosen)
        ending = Ending(settings.run, job.higher_is_better, job.stop)
        _prepare_secrets(settings)
        folder = earlier or RunFolder.create(settings.run.folder, settings.run.name, job.name)
        folder.write(settings.to_toml(), job_name)
        restore = None
        if earlier is not None:
            restore = folder.release_to_restore(settings.run.shards)
        else:
            try:
                _write_initial(job_name, folder, settings, init, interrupts)
            except GradmqError:
                shutil.rmtree(folder.path)  # nothing ran: nothing to keep
                raise
        if interrupts.came():
            if earlier is None:
                shutil.rmtree(folder.path)
            return 130
        run = _Run(job, job_name, settings, folder, interrupts)
        return _run_all(run, restore, lambda: _train(run, ending))


def serve_run(path: Path, port: int | None) -> int:
    """Serve the newest release of a finished run until Ctrl-C; raises GradmqError."""
    with _Interrupts() as interrupts:
        folder = RunFolder.existing(path)
        settings = resolve({}, folder.settings, os.environ, {"infer.port": port})
        restore = folder.release_to_restore(settings.run.shards)
        _prepare_secrets(settings)
        run = _Run(load(folder.job()), folder.job(), settings, folder, interrupts)
        return _run_all(run, restore, lambda: _show(run), training=False)


def _names(run: RunSettings) -> tuple[list[str], list[str]]:
    """Of the workers and inference nodes of a run."""
    workers = [f"worker-{i + 1}" for i in range(run.workers)]
    return workers, [f"infer-{i + 1}" for i in range(run.infer)]


def _prepare_secrets(settings: Settings) -> None:
    """See to keys and token before anything is written; raises SettingsError."""
    workers, nodes = _names(settings.run)
    read_token(settings.infer.token_file)
    read_token(settings.metrics.token_file)
    prepare_keys(settings.network.keys, settings.run.shards, workers, [*nodes, EVALUATOR])


def _run_all(
    run: _Run, restore: int | None, until_end: Callable[[], int], training: bool = True
) -> int:
    """Start the roles, wait for the end, and leave no process behind however it comes."""
    try:
        _start(run, restore, training)
        return until_end()
    except KeyboardInterrupt:
        for role in run.roles:
            role.kill()
        return 130
    finally:
        _end_processes(run, HURRIED_END_S if run.interrupts.came() else 3.0)


def _show(run: _Run) -> int:
    """Watch a run that only serves; nothing is trained, nothing saved."""
    nothing_ends_it = Ending(RunSettings.model_construct(), False, None)
    with (
        Observer(run.broker_address, run.settings.network.keys) as observer,
        Completions(None, None) as completions,
        Screen() as screen,
    ):
        _, failure = _watch(run, observer, nothing_ends_it, screen, completions)
    if failure is not None:
        raise failure
    return 0


def _write_initial(
    job: str,
    folder: RunFolder,
    settings: Settings,
    init: Path | None,
    interrupts: _Interrupts,
) -> None:
    """Have release 0 written by a process of its own, which a first Ctrl-C ends."""
    run = settings.run
    arguments = [job, folder.path, run.shards, run.seed, run.data or "", init or ""]
    with subprocess.Popen(
        [sys.executable, "-m", "gradmq.run.initial", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the launcher's to handle
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
    ) as process:
        while True:
            try:
                _, stderr = process.communicate(timeout=LOOK_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                if interrupts.came():
                    process.kill()
    if process.returncode and not interrupts.came():
        lines = stderr.strip().splitlines() or ["it said nothing"]
        raise GradmqError(lines[-1].removeprefix("gradmq: "))


def _start(run: _Run, restore: int | None, training: bool) -> None:
    """Start all roles; the order does not matter, everyone waits for whom they need."""
    settings, folder, job = run.settings, run.folder, run.job_name
    logs = folder.path / "logs"
    workers = settings.run.workers if training else 0
    names, nodes = _names(settings.run)
    broker, address = start_broker(folder.path, folder.settings, folder.name, settings.network.port)
    run.roles.append(broker)
    run.broker_address = address
    shards, metrics = settings.run.shards, settings.metrics
    run.roles += start_shards(folder.path, folder.settings, address, shards, metrics, restore)
    threads = settings.worker.threads or max(1, (os.cpu_count() or 1) // max(1, workers))
    # Who asks a node notices every millisecond; workers only take as long as they take.
    nice = settings.worker.nice if nodes and run.job.serve is not None else 0
    common = {"broker": address, "config": folder.settings}
    for i, name in enumerate(names[:workers]):
        port = metrics.port_after(1 + shards + i)
        arguments = [job, *flags({"name": name, "metrics-port": port, **common})]
        log_file = logs / f"{name}.log"
        run.roles.append(RoleProcess(name, "gradmq.worker", arguments, log_file, threads, nice))
    if run.job.serve is not None:

        def start_node(name: str, port: int) -> RoleProcess:
            arguments = [job, *flags({"name": name, "port": port, **common})]
            return RoleProcess(name, "gradmq.infer", arguments, logs / f"{name}.log")

        for i, name in enumerate(nodes):
            port = settings.infer.port
            run.roles.append(start_node(name, port and port + i))
        run.nodes = Nodes(start_node)
    if run.job.evaluate is not None and training:
        arguments = [job, address, str(folder.path)]
        log_file = logs / f"{EVALUATOR}.log"
        run.roles.append(RoleProcess(EVALUATOR, "gradmq.run.evaluator", arguments, log_file))


def _train(run: _Run, ending: Ending) -> int:
    """From the first look to the summary; raises what ended the run badly."""
    screen = Screen(run.job.higher_is_better)
    with (
        Observer(run.broker_address, run.settings.network.keys) as observer,
        Completions(run.job, run.settings.infer.token_file) as completions,
    ):
        with screen:
            reason, failure = _watch(run, observer, ending, screen, completions)
            trained_s = ending.trained_s(time.monotonic())
            if failure is None:
                _stop(run, observer, ending, screen)
            if not run.interrupts.came() and failure is None:
                completions.finish(run.status)
        end = run_end(
            screen.figures,
            reason=reason,
            seconds=trained_s,
            updates_before=ending.updates_before,
            folder=str(run.folder.path),
            serve_command=f"gradmq serve {run.folder.path}",
            prompt=completions.prompt,
            completions=completions.answers(),
        )
        screen.summary(end)
    run.look_at_roles()
    failure = failure or next(iter(run.lost.values()), None)
    if failure is not None:
        raise failure
    return 130 if run.interrupts.came() and ending.first_update_at is None else 0


def _watch(
    run: _Run, observer: Observer, ending: Ending, screen: Screen, completions: Completions
) -> tuple[str, GradmqError | None]:
    """Look at the run until it is over; returns why, and the failure that ended it, if any."""
    metrics_at = 0.0
    told: set[str] = set()
    heard_at = time.monotonic()
    while True:
        try:
            run.status = observer.status(timeout=LOOK_TIMEOUT_S)
        except BrokerAway as error:
            failures = run.look_at_roles()
            silent_s = time.monotonic() - heard_at
            if failures or run.interrupts.came() or silent_s > BROKER_GIVEN_UP_S:
                return "the broker is away", failures[0] if failures else error
            screen.say(f"broker silent for {silent_s:.0f} s; training goes on without it")
            continue
        now = heard_at = time.monotonic()
        reason = ending.update(run.status, now)
        for news in run.nodes.look(run.roles, run.status, now) if run.nodes else ():
            screen.say(news)
        failures = run.look_at_roles()
        if not failures:
            for name in run.lost.keys() - told:
                screen.say(f"{run.lost[name]}; the run goes on without it")
                told.add(name)
        screen.update(run.status, _progress(ending, now), now)
        completions.look(run.status)
        if now >= metrics_at:
            metrics_at = now + METRICS_EVERY_S
            run.folder.append_metrics({"trained_s": ending.trained_s(now), **run.status})
        if run.interrupts.came():
            return "Ctrl-C", None
        if failures:
            return failures[0].args[0], failures[0]
        if reason:
            return reason, None
        time.sleep(LOOK_EVERY_S)


def _progress(ending: Ending, now: float) -> Progress | None:
    counted = ending.progress(now)
    return Progress(*counted) if counted else None


def _stop(run: _Run, observer: Observer, ending: Ending, screen: Screen) -> None:
    """Let the workers finish, have the last release written, and judged unless it is urgent."""
    hurried = bool(run.interrupts.came())
    try:
        observer.stop_workers("the run is over")
        limit_s = HURRIED_STOP_S if hurried else STOP_S
        _wait(run, observer, screen, "the workers to finish", limit_s, _have_left)
        if ending.first_update_at is None:
            return  # nothing to lose: release 0 is on disk
        number = observer.make_release(True, HURRIED_SAVE_S if hurried else SAVE_S)
        if run.job.evaluate is not None and not hurried:
            is_judged = partial(_is_judged, release=number)
            _wait(
                run, observer, screen, f"the evaluation of release {number}", EVALUATE_S, is_judged
            )
    except (BrokerAway, ShardAway) as error:
        screen.say(f"the last checkpoint could not be written: {error}")


def _have_left(status: Mapping[str, Any]) -> bool:
    return not any(worker["live"] for worker in status["workers"])


def _is_judged(status: Mapping[str, Any], release: int) -> bool:
    return any(evaluation["release"] >= release for evaluation in status["evaluations"])


def _wait(
    run: _Run,
    observer: Observer,
    screen: Screen,
    what: str,
    timeout_s: float,
    is_over: Callable[[Mapping[str, Any]], bool],
) -> None:
    """Wait for something at the end of a run; a wait that lasts is named, one in vain too."""
    started = time.monotonic()
    told = False
    while (waited_s := time.monotonic() - started) < timeout_s:
        run.status = observer.status(timeout=LOOK_TIMEOUT_S)
        screen.update(run.status, None, time.monotonic())
        if is_over(run.status):
            return
        if waited_s > NAMED_AFTER_S and not told:
            told = True
            screen.say(f"waits for {what}, at most {timeout_s:g} s")
        time.sleep(LOOK_EVERY_S / 5)
    screen.say(f"gave up waiting for {what} after {timeout_s:g} s")


def _end_processes(run: _Run, timeout_s: float) -> None:
    """Shards and followers first: their goodbyes need a broker."""
    end_all([role for role in run.roles if role.name != "broker"], timeout_s)
    end_all([role for role in run.roles if role.name == "broker"], timeout_s)
