"""Shared memory between processes of one host: sealed memfds, opened through /proc.

A process makes a segment and tells others where it is: its pid, the file descriptor, and a random
nonce. Whoever can open that and finds the nonce in it is on the same host, in the same process
namespace, and of the same user; nobody else is, and they use TCP. The seals fix the size, so a
reader cannot be killed by a file that shrinks under it; there is no file in any folder, so nothing
is left behind however a process ends. Linux only; elsewhere every call says so.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import sys
import threading
import weakref

from gradmq.wire.messages import Segment

NONCE_BYTES = 16

_PREFIX = "/memfd:gradmq-"

_lock = threading.Lock()


class NotShared(Exception):
    """There is no shared memory between these two processes; the text says why."""


def fence() -> None:
    """Nothing this thread reads or writes moves across: a lock is a barrier on every processor."""
    with _lock:
        pass


class SharedMemory:
    """A segment of this process; gone when this object and every mapping of it are."""

    def __init__(self, name: str, nbytes: int) -> None:
        """``name`` is what /proc shows; raises NotShared."""
        if sys.platform != "linux":
            raise NotShared("shared memory between processes needs Linux")
        try:
            fd = os.memfd_create(f"gradmq-{name}", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        except OSError as error:
            raise NotShared(f"cannot make shared memory: {error.strerror}") from None
        weakref.finalize(self, os.close, fd)
        try:
            os.ftruncate(fd, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self.memory = mmap.mmap(fd, nbytes)
        except OSError as error:
            raise NotShared(f"no {nbytes} bytes of shared memory: {error.strerror}") from None
        nonce = secrets.token_bytes(NONCE_BYTES)
        self.memory[:NONCE_BYTES] = nonce
        self.segment = Segment(pid=os.getpid(), fd=fd, nonce=nonce, nbytes=nbytes)
        """What others need to open it."""


def open_segment(segment: Segment, nbytes: int) -> mmap.mmap:
    """Map another process's segment, read-only; raises NotShared if it is not what it must be."""
    if sys.platform != "linux":
        raise NotShared("shared memory between processes needs Linux")
    if segment.nbytes != nbytes:
        raise NotShared(f"a segment of {segment.nbytes} bytes where {nbytes} belong")
    path = f"/proc/{segment.pid}/fd/{segment.fd}"
    try:
        # Looked at before it is opened: opening some kinds of file has effects of its own.
        if not os.readlink(path).startswith(_PREFIX):
            raise NotShared(f"{path} is no segment: another process namespace, or a stale one")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotShared(f"cannot open {path}: {error.strerror}") from None
    try:
        if os.fstat(fd).st_size != nbytes:
            raise NotShared(f"{path} has {os.fstat(fd).st_size} bytes, not {nbytes}")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise NotShared(f"{path} is not sealed, so its size could change")
        memory = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
    except OSError as error:
        raise NotShared(f"cannot map {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if memory[:NONCE_BYTES] != segment.nonce:
        raise NotShared(f"{path} holds another nonce: it is another process's")
    return memory


if sys.platform == "linux":
    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
