"""All questions in one go, written down with machine, commit and command."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gradmq import strict_json
from gradmq.bench import machine, publish, push, report, sections, suite
from gradmq.bench.echo import EchoCase
from gradmq.bench.infer import parts as infer
from gradmq.bench.suite import Part
from gradmq.bench.tables import Result


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how many seconds each."""

    push_mb: tuple[float, ...]
    push_workers: tuple[int, ...]
    peers: tuple[tuple[float, int], ...]
    """(MB, workers) of the cases that peers run too."""
    seconds: float
    warmup: float
    swaps: int
    pushes: int
    """Of the questions about inference nodes, as on their own command line."""


FULL = Plan(
    push_mb=(0.001, 1, 16, 100, 400),
    push_workers=(1, 2, 4),
    peers=((1, 2), (16, 1), (16, 2), (16, 4), (100, 1), (100, 2), (100, 4), (400, 2)),
    seconds=8.0,
    warmup=2.0,
    swaps=1000,
    pushes=50,
)
QUICK = Plan(
    push_mb=(0.001, 1, 16, 100),
    push_workers=(1, 2),
    peers=((1, 2), (16, 2), (100, 2)),
    seconds=2.0,
    warmup=1.0,
    swaps=100,
    pushes=10,
)


def run(plan: Plan, page: Path | None, out: Path) -> int:
    """Measure, show each table as it is done, write the files; returns the exit status."""
    found: Result = {**machine.origin(), "failed": [], "skipped": []}
    for part in parts(plan):
        more = suite.measure([part], suite.say_on_stderr)
        found |= {**more, **{key: found[key] + more[key] for key in ("failed", "skipped")}}
        for section in sections.of(more):
            print(section.text(), flush=True)
        # What there is is kept, should the rest be interrupted.
        _write(out, strict_json.dumps(found) + "\n")
    if page is not None:
        _write(page, report.page(found))
    return suite.status(found)


def parts(plan: Plan) -> list[Part]:
    """Every question with the cases of this plan."""
    seconds, warmup = plan.seconds, plan.warmup
    fan_out = partial(publish.measure, 1.0, 4, seconds)
    return [
        suite.pushes(
            EchoCase(mb, workers, transport, 1, 1, seconds, warmup)
            for mb in plan.push_mb
            for workers in plan.push_workers
            for transport in push.transports()
        ),
        suite.latencies(seconds),
        Part("publish", {"1 MB, 4 subscribers": fan_out}),
        suite.more_workers(seconds, "auto"),
        suite.more_shards(seconds),
        suite.idle(seconds, "auto"),
        suite.peers(
            EchoCase(mb, workers, "auto", 1, 1, seconds, warmup) for mb, workers in plan.peers
        ),
        *infer.parts(infer.Chosen(seconds, swaps=plan.swaps, pushes=plan.pushes)).values(),
    ]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
