"""Cases one after the other: each question with its cases, by what they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gradmq.bench import latency, push, scale_idle, scale_shards, scale_workers
from gradmq.bench.echo import EchoCase
from gradmq.bench.hosts import NoHosts
from gradmq.bench.peers import compare
from gradmq.bench.tables import Result
from gradmq.errors import GradmqError


class Measured(Protocol):
    """A result of any question."""

    def as_json(self) -> Result:
        """As it is written down.

        ``correct``, where it has one, is about parameters at the end, ``right`` about answers.
        """
        ...


@dataclass(frozen=True)
class Part:
    """One question, by its name among the results."""

    name: str
    cases: Mapping[str, Callable[[], Measured]]


def measure(wanted: Iterable[Part], say: Callable[[str], None]) -> Result:
    """The results of all cases, by part; ``say`` is told what comes next, and what went wrong.

    A case that fails is one line under ``failed``; a part that cannot be run here is one under
    ``skipped``. Neither stops the rest.
    """
    found: Result = {"failed": [], "skipped": []}
    for part in wanted:
        found[part.name] = []
        for label, case in part.cases.items():
            say(f"{part.name}: {label}")
            try:
                found[part.name].append(case().as_json())
            except NoHosts as error:
                found["skipped"].append(f"{part.name} skipped: {error}")
                say(found["skipped"][-1])
                break
            except GradmqError as error:
                found["failed"].append(f"{part.name}: {label}: {error}")
                say(f"failed: {error}")
    return found


def status(found: Mapping[str, Any]) -> int:
    """The exit status: 1 if anything failed, or parameters or answers were wrong."""
    parts = [part for name, part in found.items() if name not in ("failed", "skipped")]
    results = [r for part in parts if isinstance(part, list) for r in part]
    wrong = [r for r in results if r.get("correct") is False or r.get("right") is False]
    return 1 if wrong or found.get("failed") else 0


def say_on_stderr(line: str) -> None:
    print(f"gradmq bench: {line}", file=sys.stderr, flush=True)


def pushes(cases: Iterable[EchoCase]) -> Part:
    return Part(
        "push", {_label(case, case.transport): partial(push.measure, case) for case in cases}
    )


def latencies(seconds: float) -> Part:
    return Part(
        "latency",
        {
            f"{mb:g} MB, {transport}": partial(latency.one, mb, transport, seconds)
            for mb in latency.SIZES_MB
            for transport in push.transports()
        },
    )


def more_workers(seconds: float, transport: str) -> Part:
    return Part(
        "workers",
        {
            f"{count} workers": partial(scale_workers.one, count, seconds, transport)
            for count in scale_workers.WORKERS
        },
    )


def more_shards(seconds: float) -> Part:
    return Part(
        "shards",
        {
            f"{count} shards": partial(scale_shards.one, count, seconds)
            for count in scale_shards.SHARDS
        },
    )


def idle(seconds: float, transport: str) -> Part:
    return Part("idle", {"8 processes": partial(scale_idle.measure, seconds, transport)})


def peers(cases: Iterable[EchoCase]) -> Part:
    """gradmq on each transport and all peers, side by side in every case."""
    return Part(
        "peers",
        {
            _label(case, peer.name): partial(compare.one, peer, case)
            for case in cases
            for peer in (*compare.own(), *compare.PEERS)
        },
    )


def _label(case: EchoCase, how: str) -> str:
    workers = "1 worker" if case.workers == 1 else f"{case.workers} workers"
    return f"{case.mb:g} MB, {workers}, {how}"
