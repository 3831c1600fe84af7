"""``gradmq bench``: one command a question."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

app = App(name="bench", help="Measure gradmq on this machine, beside what the machine can do.")

ABOVE_0 = validators.Number(gt=0)
FROM_1 = validators.Number(gte=1)

Mb = Annotated[
    float, Parameter(help="Size of the model in MB (1e6 bytes); fractions too.", validator=ABOVE_0)
]
Workers = Annotated[int, Parameter(help="Worker processes.", validator=FROM_1)]
Transport = Annotated[
    Literal["auto", "shm", "tcp"], Parameter(help="How gradients and parameters travel.")
]
Seconds = Annotated[float, Parameter(help="Measure for so many seconds.", validator=ABOVE_0)]
Warmup = Annotated[
    float, Parameter(help="Seconds before that.", validator=validators.Number(gte=0))
]
Json = Annotated[
    bool, Parameter("--json", help="Print one JSON object on the last line.", negative="")
]


@app.command
def push(
    *,
    mb: Mb = 100.0,
    workers: Workers = 2,
    transport: Transport = "auto",
    in_flight: Annotated[
        int, Parameter(help="Pushes a worker may have under way.", validator=FROM_1)
    ] = 1,
    shards: Annotated[int, Parameter(help="Parameter server processes.", validator=FROM_1)] = 1,
    durability: Annotated[
        Literal["memory", "journal"], Parameter(help="What a verdict means: see run.durability.")
    ] = "memory",
    keys: Annotated[
        bool, Parameter(help="With CURVE keys, made for this run.", negative="")
    ] = False,
    seconds: Seconds = 8.0,
    warmup: Warmup = 2.0,
    json_: Json = False,
) -> int:
    """How fast gradients get in and parameters that include them come out."""
    from gradmq import strict_json
    from gradmq.bench import sections, suite
    from gradmq.bench.echo import EchoCase
    from gradmq.bench.push import measure

    case = EchoCase(mb, workers, transport, in_flight, shards, seconds, warmup, durability, keys)
    with _ended_by_signals():
        result = measure(case).as_json()
    for section in sections.push([result]):
        print(section.text())
    if json_:
        print(strict_json.dumps(result))
    return suite.status({"push": [result]})


@app.command
def latency(*, seconds: Seconds = 3.0, json_: Json = False) -> int:
    """How long a push takes, by size of the model and transport; one worker."""
    from gradmq.bench import suite

    with _ended_by_signals():
        found = suite.measure([suite.latencies(seconds)], suite.say_on_stderr)
    return _shown(found, json_)


@app.command
def publish(
    *,
    mb: Mb = 1.0,
    subscribers: Annotated[int, Parameter(help="Those that keep up.", validator=FROM_1)] = 4,
    seconds: Seconds = 4.0,
    json_: Json = False,
) -> int:
    """Whether a subscriber that reads slowly, or stops reading, holds up the others."""
    from gradmq.bench.publish import measure

    with _ended_by_signals():
        result = measure(mb, subscribers, seconds).as_json()
    return _shown({"publish": [result]}, json_)


@app.command
def scale(
    *parts: Annotated[
        Literal["workers", "shards", "idle"],
        Parameter(help="What to measure; default: all three.", show_default=False),
    ],
    transport: Transport = "auto",
    seconds: Seconds = 8.0,
    json_: Json = False,
) -> int:
    """What more workers cost, what more shards bring, what a run costs that does nothing."""
    from gradmq.bench import suite

    every = {
        "workers": suite.more_workers(seconds, transport),
        "shards": suite.more_shards(seconds),
        "idle": suite.idle(seconds, transport),
    }
    with _ended_by_signals():
        found = suite.measure([every[part] for part in parts or every], suite.say_on_stderr)
    return _shown(found, json_)


@app.command
def peers(
    *,
    mb: Mb = 16.0,
    workers: Workers = 2,
    seconds: Seconds = 8.0,
    warmup: Warmup = 2.0,
    json_: Json = False,
) -> int:
    """The same work on other libraries, those that are installed: torch RPC, gloo, Ray."""
    from gradmq.bench import suite
    from gradmq.bench.echo import EchoCase

    case = EchoCase(mb, workers, "auto", 1, 1, seconds, warmup)
    with _ended_by_signals():
        found = suite.measure([suite.peers([case])], suite.say_on_stderr)
    return _shown(found, json_)


@app.command
def infer(
    *parts: Annotated[
        Literal["swaps", "servers", "beside", "batches", "freshness", "completions"],
        Parameter(help="What to measure; default: all of it.", show_default=False),
    ],
    clients: Annotated[int, Parameter(help="Clients that ask at once.", validator=FROM_1)] = 32,
    swaps: Annotated[
        int, Parameter(help="Swaps that no request may notice.", validator=FROM_1)
    ] = 1000,
    pushes: Annotated[
        int, Parameter(help="Updates whose way to an answer is timed.", validator=FROM_1)
    ] = 50,
    python: Annotated[
        Path | None,
        Parameter(help="A Python that has FastAPI and ray[serve]; default: this one."),
    ] = None,
    set_: Annotated[
        list[str],
        Parameter(
            name="--set",
            help="A setting of the run with busy workers, as KEY=VALUE; may be repeated.",
            negative="",
            consume_multiple=False,
            show_default=False,
        ),
    ] = [],  # noqa: B006  (cyclopts reads the default, nobody writes to it)
    seconds: Seconds = 8.0,
    json_: Json = False,
) -> int:
    """How an inference node answers: while models are swapped, beside other servers, in batches."""
    import sys

    from gradmq.bench import machine, suite
    from gradmq.bench.infer.parts import Chosen
    from gradmq.bench.infer.parts import parts as all_parts

    settings = dict(pair.partition("=")[::2] for pair in set_)
    every = all_parts(
        Chosen(seconds, clients, swaps, pushes, str(python or sys.executable), settings)
    )
    with _ended_by_signals():
        found = suite.measure([every[part] for part in parts or every], suite.say_on_stderr)
    return _shown({**machine.origin(), **found}, json_)


@app.command(name="all")
def everything(
    *,
    quick: Annotated[bool, Parameter(help="Fewer cases, shorter runs.", negative="")] = False,
    report: Annotated[
        Path | None, Parameter(help="Write a page with tables and plots to this .html file.")
    ] = None,
    out: Annotated[Path, Parameter(help="Write the results to this JSON file.")] = Path(
        "gradmq-bench.json"
    ),
) -> int:
    """A table of cases of all of it, with the machine, the commit and a report."""
    from gradmq.bench.everything import FULL, QUICK, run

    with _ended_by_signals():
        return run(QUICK if quick else FULL, report, out)


def _shown(found: dict[str, Any], json: bool) -> int:
    """Print the tables, and the results by part as JSON; returns the exit status."""
    from gradmq import strict_json
    from gradmq.bench import sections, suite

    for section in sections.of(found):
        print(section.text())
    if json:
        print(strict_json.dumps(found))
    return suite.status(found)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends a measurement like Ctrl-C does: in order, with nothing left behind."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
