"""A segment is opened by a process that has every right to it, or NotShared says why not."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gradmq.shared_memory import NONCE_BYTES, NotShared, SharedMemory, open_segment
from gradmq.wire.messages import Segment

NBYTES = 3 * mmap.PAGESIZE

#: Opens the segment that it is given, as the user that it is given, and says what it finds.
OTHER_PROCESS = """
import os, sys
from gradmq.shared_memory import NotShared, open_segment
from gradmq.wire.messages import Segment

if len(sys.argv) > 2:
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
segment = Segment(**eval(sys.argv[1]))
try:
    memory = open_segment(segment, segment.nbytes)
except NotShared as error:
    print("not shared:", error)
else:
    print(bytes(memory[16:21]))
    try:
        memory[16] = 0
    except TypeError:
        print("read-only")
    sys.stdout.flush()
    sys.stdin.read()
    print(bytes(memory[16:21]))
"""


@contextmanager
def another_process(
    segment: Segment, *words: str, before: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    command = [*before, sys.executable, "-c", OTHER_PROCESS, repr(asdict(segment)), *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


@pytest.fixture
def shared() -> SharedMemory:
    shared = SharedMemory("test", NBYTES)
    shared.memory[NONCE_BYTES : NONCE_BYTES + 5] = b"hello"
    return shared


@pytest.fixture
def fds() -> Iterator[ExitStack]:
    """Closes the descriptors that a test opens."""
    with ExitStack() as stack:
        yield stack


def described(fds: ExitStack, fd: int, nbytes: int = NBYTES, nonce: bytes = bytes(16)) -> Segment:
    fds.callback(os.close, fd)
    return Segment(pid=os.getpid(), fd=fd, nonce=nonce, nbytes=nbytes)


# -- shared ---------------------------------------------------------------------------------------


def test_another_process_reads_what_this_one_writes_and_cannot_write(shared: SharedMemory) -> None:
    with another_process(shared.segment) as process:
        assert line_of(process) == "b'hello'"
        assert line_of(process) == "read-only"
        shared.memory[NONCE_BYTES : NONCE_BYTES + 5] = b"world"
        assert process.stdin is not None
        process.stdin.close()
        assert line_of(process) == "b'world'"
        assert process.wait() == 0


def test_a_segment_begins_with_its_nonce_and_is_else_zero() -> None:
    one, two = SharedMemory("test", NBYTES), SharedMemory("test", NBYTES)
    for shared in (one, two):
        assert len(shared.segment.nonce) == NONCE_BYTES
        assert shared.memory[:NONCE_BYTES] == shared.segment.nonce
        assert bytes(shared.memory[NONCE_BYTES:]) == bytes(NBYTES - NONCE_BYTES)
    assert one.segment.nonce != two.segment.nonce


def test_a_mapping_outlives_what_was_mapped() -> None:
    shared = SharedMemory("test", NBYTES)
    shared.memory[NONCE_BYTES : NONCE_BYTES + 5] = b"hello"
    segment = shared.segment
    memory = open_segment(segment, NBYTES)
    del shared
    gc.collect()
    assert memory[NONCE_BYTES : NONCE_BYTES + 5] == b"hello"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(segment.fd)


def test_the_size_of_a_segment_cannot_be_changed(shared: SharedMemory) -> None:
    for nbytes in (0, NBYTES - 1, NBYTES + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.segment.fd, nbytes)
    with pytest.raises(PermissionError):
        fcntl.fcntl(shared.segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert os.fstat(shared.segment.fd).st_size == NBYTES


def test_there_is_no_file_of_it_anywhere(shared: SharedMemory) -> None:
    assert os.fstat(shared.segment.fd).st_nlink == 0
    assert not any(Path("/dev/shm").glob("*gradmq*"))


def test_a_child_program_does_not_inherit_it(shared: SharedMemory) -> None:
    assert not os.get_inheritable(shared.segment.fd)


# -- not shared -----------------------------------------------------------------------------------


def refusal(segment: Segment, nbytes: int = NBYTES) -> str:
    with pytest.raises(NotShared) as refused:
        open_segment(segment, nbytes)
    reason = str(refused.value)
    assert "\n" not in reason
    return reason


def test_another_nonce(shared: SharedMemory) -> None:
    for nonce in (bytes(16), b"", shared.segment.nonce[:15], shared.segment.nonce + b"x"):
        assert "another nonce" in refusal(replace(shared.segment, nonce=nonce))


@pytest.mark.parametrize("nbytes", [0, NBYTES - 1, NBYTES + mmap.PAGESIZE, (1 << 63) - 1])
def test_another_size_than_the_reader_needs(shared: SharedMemory, nbytes: int) -> None:
    said = refusal(replace(shared.segment, nbytes=nbytes))
    assert said == f"a segment of {nbytes} bytes where {NBYTES} belong"
    assert "bytes" in refusal(shared.segment, nbytes)


@pytest.mark.parametrize("nbytes", [0, mmap.PAGESIZE, NBYTES + 1])
def test_another_size_than_was_said(nbytes: int) -> None:
    shared = SharedMemory("test", nbytes) if nbytes else SharedMemory("test", mmap.PAGESIZE)
    assert "not 12288" in refusal(replace(shared.segment, nbytes=NBYTES))


def test_a_process_that_has_ended() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    segment = Segment(pid=ended.pid, fd=3, nonce=bytes(16), nbytes=NBYTES)
    assert "No such file" in refusal(segment)


@pytest.mark.parametrize("pid", [0, (1 << 22) + 1, (1 << 63) - 1])
def test_a_process_that_cannot_be(pid: int) -> None:
    assert "No such file" in refusal(Segment(pid=pid, fd=3, nonce=bytes(16), nbytes=NBYTES))


def test_a_segment_of_a_maker_that_was_killed() -> None:
    program = """
import sys
from gradmq.shared_memory import SharedMemory
shared = SharedMemory("test", int(sys.argv[1]))
print(shared.segment.pid, shared.segment.fd, shared.segment.nonce.hex(), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(NBYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        pid, fd, nonce = line_of(process).split()
        segment = Segment(pid=int(pid), fd=int(fd), nonce=bytes.fromhex(nonce), nbytes=NBYTES)
        memory = open_segment(segment, NBYTES)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert memory[:NONCE_BYTES] == segment.nonce
        assert "No such file" in refusal(segment)


def test_a_descriptor_that_was_closed(shared: SharedMemory) -> None:
    segment = replace(shared.segment, fd=os.dup(shared.segment.fd))
    os.close(segment.fd)
    assert "No such file" in refusal(segment)


@pytest.mark.parametrize("fd", [1 << 20, (1 << 63) - 1])
def test_a_descriptor_that_cannot_be(shared: SharedMemory, fd: int) -> None:
    assert "No such file" in refusal(replace(shared.segment, fd=fd))


def memfd(name: str, seals: int) -> int:
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, NBYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    "seals",
    [
        0,
        fcntl.F_SEAL_SHRINK,
        fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW,
    ],
)
def test_memory_whose_size_or_seals_could_still_change(fds: ExitStack, seals: int) -> None:
    segment = described(fds, memfd("gradmq-test", seals))
    assert "is not sealed, so its size could change" in refusal(segment)


def test_sealed_memory_of_another_program(fds: ExitStack) -> None:
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert "is no segment" in refusal(described(fds, memfd("something", sealed)))


def regular_file(folder: Path) -> int:
    path = folder / "memfd:gradmq-test"
    path.write_bytes(bytes(NBYTES))
    return os.open(path, os.O_RDONLY)


def fifo(folder: Path) -> int:
    """Nobody ever writes to it."""
    path = folder / "memfd:gradmq-test"
    os.mkfifo(path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def folder_itself(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY)


def device(folder: Path) -> int:
    return os.open("/dev/zero", os.O_RDONLY)


def pipe(folder: Path) -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def unlinked(folder: Path) -> int:
    fd = regular_file(folder)
    (folder / "memfd:gradmq-test").unlink()
    return fd


@pytest.mark.parametrize("make", [regular_file, unlinked, fifo, folder_itself, device, pipe])
def test_what_is_no_shared_memory_is_not_even_opened(
    make: Callable[[Path], int], fds: ExitStack, tmp_path: Path
) -> None:
    assert "is no segment" in refusal(described(fds, make(tmp_path)))


@pytest.mark.root
def test_a_process_of_another_user(shared: SharedMemory) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with another_process(shared.segment, "65534") as process:
        path = f"/proc/{shared.segment.pid}/fd/{shared.segment.fd}"
        assert line_of(process) == f"not shared: cannot open {path}: Permission denied"


@pytest.mark.root
def test_a_process_of_another_process_namespace(shared: SharedMemory) -> None:
    if os.geteuid() != 0:
        pytest.skip("process namespaces need root")
    apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    probe = subprocess.run([*apart, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"process namespaces cannot be made here: {probe.stderr.strip()}")
    with another_process(shared.segment, before=apart) as process:
        assert line_of(process).startswith("not shared: ")


# -- what there is no memory for ------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """Of shared memory in this process, and what each is."""
    gc.collect()
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of listdir
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: path for fd, path in found.items() if "memfd" in path}


def test_more_than_can_be_is_said_and_leaves_no_descriptor() -> None:
    before = descriptors()
    with pytest.raises(NotShared, match=r"no \d+ bytes of shared memory"):
        SharedMemory("test", 1 << 62)
    assert descriptors() == before


def test_refusals_leave_no_descriptor(shared: SharedMemory, fds: ExitStack) -> None:
    unsealed = described(fds, memfd("gradmq-test", 0))
    before = descriptors()
    for segment in (unsealed, replace(shared.segment, nonce=bytes(16))):
        refusal(segment)
    assert descriptors() == before
