"""Raw garbage on every port of every role, while the run goes on.

Bytes that are no ZMTP; a good greeting with mutated messages behind it; mutated HTTP requests.
After all of it the processes must be the same ones, their logs without a traceback, their memory
what it was, and a worker that trained through it must have had every push applied once.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import psutil

import gradmq
from fuzz.engine import MOST_BYTES
from fuzz.mutate import Parts, mutations
from fuzz.targets import INFER_BODIES, golden_messages
from gradmq.run.roles import RoleProcess, end_all

ELEMENTS = 64
ANSWER_S = 0.02

#: A ZMTP 3.1 greeting with the mechanism NULL, and what follows it of each kind of socket.
GREETING = b"\xff" + 8 * b"\0" + b"\x7f\x03\x01NULL" + 48 * b"\0"
SOCKETS = {"gradients": b"PUSH", "parameters": b"SUB", "control": b"DEALER", "broker": b"DEALER"}

JOB = f"""
import torch, gradmq

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros({ELEMENTS}))

    def forward(self, rows):
        return rows * self.weight[0]

job = gradmq.Job(
    name="line", model=Line, batches=lambda context: iter(()), loss="mse_loss",
    serve=lambda: gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("rows", "FP32", (-1, 3)),),
        outputs=(gradmq.TensorSpec("y", "FP32", (-1, 3)),),
    ),
)
"""


@dataclass(slots=True)
class PortsFuzzed:
    """What came of it."""

    connections: int = 0
    grown_bytes: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def fuzz_ports(random: Random, connections: int) -> PortsFuzzed:
    """So many connections to each port of a broker, two shards and an inference node."""
    found = PortsFuzzed()
    # Over TCP, so that everything goes through these ports.
    settings = {"network.transport": "tcp", "metrics.port": 0}
    with (
        tempfile.TemporaryDirectory(prefix="gradmq-fuzz-") as name,
        gradmq.LocalCluster(
            zeros(), shards=2, optimizer=gradmq.SGD(lr=1.0), staleness=gradmq.Unbounded(),
            settings=settings, folder=Path(name) / "run",
        ) as cluster,
        gradmq.Worker(zeros(), cluster.address, name="unmoved") as worker,
        _node(Path(name), cluster) as node,
    ):  # fmt: skip
        metrics = cluster.status()["shards"][0]["metrics"]
        ports = {**zmtp_ports(cluster), "http": node.port, "metrics": port_of(metrics)}
        processes = {"broker": cluster.pids("broker")[0], "infer": node.process.pid}
        processes |= {f"ps-{i}": pid for i, pid in enumerate(cluster.pids("ps"))}
        roles = {role: psutil.Process(pid) for role, pid in processes.items()}
        for port, number in ports.items():
            _attack(port, number, random, 50)  # what is made at the first bad peer is made now
        before = {role: process.memory_info().rss for role, process in roles.items()}
        training = _Training(worker)
        training.start()
        for port, number in ports.items():
            for fault in _attack(port, number, random, connections):
                found.findings.append(fault)
            found.connections += connections
        pushed = training.end()
        for role, process in roles.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                found.findings.append(f"{role} has ended")
                continue
            found.grown_bytes[role] = process.memory_info().rss - before[role]
            if found.grown_bytes[role] > MOST_BYTES:
                found.findings.append(f"{role} grew by {found.grown_bytes[role] >> 20} MiB")
        worker.pull()
        values = set(worker.parameters()["weight"].tolist())
        if values != {float(-pushed)}:
            found.findings.append(f"{pushed} pushes, but the parameters are {sorted(values)}")
        for log in Path(name).glob("**/*.log"):
            text = log.read_text(errors="replace")
            if "Traceback" in text:
                found.findings.append(f"{log.name}: {text[text.index('Traceback') :][-1500:]}")
    return found


def zeros() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"weight": np.zeros(ELEMENTS, np.float32)}


class _Training(threading.Thread):
    """Pushes ones until it is told to end."""

    def __init__(self, worker: gradmq.Worker) -> None:
        super().__init__(name="fuzz-training")
        self._worker = worker
        self._ended = threading.Event()
        self._pushed = 0
        self._error: Exception | None = None

    def run(self) -> None:
        ones = {"weight": np.ones(ELEMENTS, np.float32)}
        try:
            while not self._ended.wait(0.01):
                assert self._worker.push(ones).verdict(30.0).applied
                self._pushed += 1
        except (gradmq.GradmqError, AssertionError) as error:
            self._error = error

    def end(self) -> int:
        self._ended.set()
        self.join()
        if self._error is not None:
            raise self._error
        return self._pushed


@dataclass(frozen=True, slots=True)
class _Node:
    process: RoleProcess
    port: int


@contextlib.contextmanager
def _node(folder: Path, cluster: gradmq.LocalCluster) -> Iterator[_Node]:
    job = folder / "line.py"
    job.write_text(JOB)
    words = [str(job), "--broker", cluster.address, "--host", "127.0.0.1"]
    process = RoleProcess("infer", "gradmq.infer", words, folder / "infer.log")
    try:
        while not (urls := [m["url"] for m in cluster.status()["infer"] if m["release"]]):
            if process.status is not None:
                raise AssertionError(process.last_words())
        yield _Node(process, port_of(urls[0]))
    finally:
        end_all([process], 10.0)


def zmtp_ports(cluster: gradmq.LocalCluster) -> Mapping[str, int]:
    gradients, parameters, control = cluster.status()["shards"][0]["addresses"]
    named = {"broker": cluster.address, "gradients": gradients, "parameters": parameters,
             "control": control}  # fmt: skip
    return {port: port_of(address) for port, address in named.items()}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _attack(port: str, number: int, random: Random, connections: int) -> Iterator[str]:
    """One connection after the other, each with its own garbage; what should not be is told."""
    if port in SOCKETS:
        garbage = zmtp_garbage(SOCKETS[port], random)
    else:
        garbage = http_garbage(random) if port == "http" else metrics_garbage(random)
    for data in islice(garbage, connections):
        try:
            with socket.create_connection(("127.0.0.1", number), timeout=10.0) as connection:
                connection.settimeout(ANSWER_S if port in SOCKETS else 5.0)
                answer = _say(connection, data)
        except OSError as error:
            yield f"{port} takes no connection any more: {error}"
            return
        fault = b"500" if port == "metrics" else b"5"  # a busy shard says 503
        if port not in SOCKETS and answer[9:].startswith(fault):
            yield f"{port}: {data!r} was answered {answer!r}"


def _say(connection: socket.socket, data: bytes) -> bytes:
    """All of it, then the end; what comes back until the other side hangs up or waits."""
    answer = b""
    with contextlib.suppress(OSError):  # it may hang up in the midst of it
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65_536):
            answer += more
    return answer


def zmtp_garbage(socket_type: bytes, random: Random) -> Iterator[bytes]:
    """Noise, mutated handshakes, and mutated messages behind a good one."""
    ready = b"\x05READY\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    handshake = [GREETING, bytes([4, len(ready)]) + ready]
    handshakes = mutations([handshake], random)
    messages = mutations(golden_messages(), random)
    while True:
        match random.randrange(4):
            case 0:
                yield random.randbytes(random.choice((1, 64, 1000, 70_000)))
            case 1:
                yield b"".join(next(handshakes)) + zmtp_frames(next(messages))
            case _:
                several = (zmtp_frames(next(messages)) for _ in range(random.randrange(1, 6)))
                yield b"".join(handshake) + b"".join(several)


def zmtp_frames(parts: Sequence[bytes]) -> bytes:
    """One multipart message."""
    out = b""
    for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        more = 1 if left else 0
        if len(part) < 256:
            out += bytes([more, len(part)]) + part
        else:
            out += bytes([more | 2]) + len(part).to_bytes(8, "big") + part
    return out


def http_garbage(random: Random) -> Iterator[bytes]:
    """Good requests, mutated in their bodies, and in everything."""
    bodies: list[Parts] = [[json.dumps(body).encode()] for body in INFER_BODIES]
    mutated_bodies = mutations(bodies, random)
    requests = mutations([[http_request(body)] for (body,) in bodies], random)
    while True:
        if random.random() < 0.5:
            yield http_request(b"".join(next(mutated_bodies)))
        else:
            yield b"".join(next(requests))


def metrics_garbage(random: Random) -> Iterator[bytes]:
    """Scrapes, mutated, and once in a while one that is far too long."""
    scrape = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
    for request in mutations([[scrape]], random):
        yield request[0] if random.random() < 0.9 else request[0].replace(b"\r\n\r\n", b"") * 1000


def http_request(body: bytes) -> bytes:
    head = (
        "POST /v2/models/line/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
