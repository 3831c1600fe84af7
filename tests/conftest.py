"""What every test may count on: one thread per library, a free port, nothing left by others.

A test that leaves a process, a thread or a shared memory file behind fails, and the process and the
file are removed so that the next test starts clean. A test that drops a ZeroMQ socket or context
without closing it fails too.
"""

from __future__ import annotations

import gc
import os

# Read once by the numeric libraries when they load, and inherited by every process a test starts:
# several roles with a thread per core each would only take turns on a small machine.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest
import zmq.sugar.context
import zmq.sugar.socket

#: What a test started may still be ending when the test returns; this long, all of it together.
GRACE_S = 3.0

#: Found in the environment of every process that a test starts, orphans included. Its name does not
#: begin with GRADMQ_ because those are settings.
MARK = "TEST_RUN_OF_GRADMQ"
os.environ[MARK] = uuid.uuid4().hex

#: Python starts these helpers for itself, once, and ends them when it ends.
HELPERS_OF_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

#: Looked at once and not started here; most processes of a machine are.
_foreign_pids = set(psutil.pids())

#: Below the range from which the system takes ports for outgoing connections: nothing but another
#: test run takes one of these between the look and the use.
_ports = count(20_000 + os.getpid() * 7 % 10_000)

#: What pyzmq says of sockets and contexts that were dropped open. As a warning turned into an error
#: it would stop pyzmq from closing the socket, and the context would then wait for it for ever.
_dropped_open: list[str] = []


def _note_dropped_open(text: str, category: type[Warning], **_: object) -> None:
    _dropped_open.append(text)


zmq.sugar.socket.warn = zmq.sugar.context.warn = _note_dropped_open


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens; no two tests of one run get the same."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: count() does not end")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails the test that leaves something behind which was not there before."""
    yield from _watch()


@pytest.fixture(autouse=True, scope="session")
def fixtures_leave_nothing_behind() -> Iterator[None]:
    """Fails the last test if something shared by several tests was left behind."""
    for _ in _watch():
        yield
        gc.collect()  # what is only held by a cycle is dropped here at the latest


def _watch() -> Iterator[None]:
    processes_before = set(_processes())
    threads_before = set(threading.enumerate())
    files_before = set(_shared_memory_files())
    yield
    deadline = time.monotonic() + GRACE_S
    processes = set(_processes()) - processes_before
    if processes:
        psutil.wait_procs(processes, timeout=GRACE_S)
        # Asked anew: what ended may have left children of its own.
        processes = set(_processes()) - processes_before
    threads = {t for t in set(threading.enumerate()) - threads_before if _must_end(t)}
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    files = set(_shared_memory_files()) - files_before
    left = [
        *_dropped_open,
        *(f"process {_describe(process)}" for process in processes),
        *(f"thread {thread.name}" for thread in threads if thread.is_alive()),
        *(f"file {path}" for path in files),
    ]
    _dropped_open.clear()
    for process in processes:
        _end(process)
    for path in files:
        path.unlink(missing_ok=True)
    if left:
        pytest.fail("left behind: " + "; ".join(sorted(left)), pytrace=False)


def _processes() -> Iterator[psutil.Process]:
    """What this run started and is still running: by its mark, or by descent without one."""
    pids = set(psutil.pids())
    _foreign_pids.intersection_update(pids)
    for pid in pids - _foreign_pids - {os.getpid()}:
        try:
            process = psutil.Process(pid)
            if not _carries_mark(process) and psutil.Process() not in process.parents():
                # A process in the middle of an exec shows no environment: look at it again later.
                if time.time() - process.create_time() > GRACE_S:
                    _foreign_pids.add(pid)
            elif process.status() != psutil.STATUS_ZOMBIE and not _helps_python(process):
                yield process
        except psutil.NoSuchProcess:
            continue


def _carries_mark(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == os.environ[MARK]
    except psutil.AccessDenied:
        return False


def _helps_python(process: psutil.Process) -> bool:
    command = " ".join(process.cmdline())
    return any(helper in command for helper in HELPERS_OF_PYTHON)


def _must_end(thread: threading.Thread) -> bool:
    if thread.name.startswith("pytest_timeout"):
        return False
    return not thread.daemon or thread.name.startswith("gradmq")


def _shared_memory_files() -> Iterator[Path]:
    return Path("/dev/shm").glob("*gradmq*")


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({' '.join(process.cmdline())[:200]})"
    except psutil.NoSuchProcess:
        return str(process.pid)


def _end(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(GRACE_S)
    except psutil.NoSuchProcess:
        return
