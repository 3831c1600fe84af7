"""What a person reads of results: titles, columns, rows; for the terminal and for a page.

Results come as the JSON that is written, so that a file can be shown again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradmq.bench.figures import ratio
from gradmq.bench.infer import tables as infer
from gradmq.bench.tables import Result, Section, cell, percent

#: What is wanted of the fan-out and of the shards, as docs/bench.md says.
WANTED_KEPT = 0.95
WANTED_SPEED_UP = 3.6
WANTED_LINK = 0.90


def _with_keys(result: Result) -> Result:
    """The same, its transport named after both."""
    named = f"{result['transport']} + keys" if result.get("keys") else result["transport"]
    return {**result, "transport": named}


def push(results: Sequence[Result]) -> list[Section]:
    """ps-echo: the figures, and the limits of the same runs."""
    names = ("MB", "workers", "transport", "in flight", "shards")
    keys = ("mb", "workers", "transport", "in_flight", "shards")
    cases = [(f"{r['mb']:g}", *(r[key] for key in keys[1:])) for r in map(_with_keys, results)]
    figures = (
        "grads_per_s", "gb_per_s", "p50_ms", "p99_ms", "server_cpu_s_per_gb",
        "total_cpu_s_per_gb", "server_rss_mb", "start_s", "join_s", "correct",
    )  # fmt: skip
    head = (
        *names, "grads/s", "GB/s", "p50 ms", "p99 ms", "server CPU s/GB", "all CPU s/GB",
        "server MB", "start s", "join s", "correct",
    )  # fmt: skip
    limits = ("sgd_loop", "memcpy", "tcp_echo")
    limits_head = (*names, "GB/s", "SGD loop", "reached", "memcpy", "reached", "raw TCP", "reached")
    return [
        Section(
            "ps-echo: push a gradient, hold parameters that include it",
            head,
            tuple(
                (*case, *(r[key] for key in figures))
                for case, r in zip(cases, results, strict=True)
            ),
        ),
        Section(
            "The same, beside the limits measured in the same run, in GB/s",
            limits_head,
            tuple(
                (
                    *case,
                    r["gb_per_s"],
                    *(c for n in limits for c in (r[f"{n}_gb_per_s"], percent(r[f"of_{n}"]))),
                )
                for case, r in zip(cases, results, strict=True)
            ),
            "SGD loop and memcpy: one core. Raw TCP: an echo over as many connections as workers.",
        ),
    ]


def latency(results: Sequence[Result]) -> list[Section]:
    keys = ("transport", "pushes", "min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "correct")
    return [
        Section(
            "From a push to parameters that include it, one worker, in ms",
            ("MB", "transport", "pushes", "min", "p50", "p90", "p99", "max", "correct"),
            tuple((f"{r['mb']:g}", *(r[key] for key in keys)) for r in results),
        )
    ]


def publish(results: Sequence[Result]) -> list[Section]:
    return [
        Section(
            f"Publications per second of {r['subscribers']} subscribers, {r['mb']:g} MB, TCP",
            ("subscriber", "alone", "beside a stopped one", "beside a slow one", "alone again"),
            tuple((str(n), *rates) for n, rates in enumerate(zip(*r["per_s"], strict=True))),
            f"Who lost most kept {percent(r['kept_beside_stopped'])} of its rate beside the "
            f"stopped one, {percent(r['kept_beside_slow'])} beside the slow one "
            f"(wanted: {WANTED_KEPT:.0%}). "
            f"Parameters at the end correct: {cell(r['correct'])}.",
        )
        for r in results
    ]


def workers(results: Sequence[Result]) -> list[Section]:
    keys = ("workers", "grads_per_s", "server_cpu_ms_per_grad", "p50_ms", "join_s", "correct")
    costs = [r["server_cpu_ms_per_grad"] for r in results]
    return [
        Section(
            f"More workers at the same total rate ({results[0]['offered_per_s']:g} gradients/s)",
            ("workers", "grads/s", "server CPU ms/gradient", "p50 ms", "join s", "correct"),
            tuple(tuple(r[key] for key in keys) for r in results),
            f"The dearest gradient costs {max(costs) / min(costs):.1f} times the cheapest.",
        )
    ]


def shards(results: Sequence[Result]) -> list[Section]:
    shares = ("up_payload", "up_wire", "down_wire")
    return [
        Section(
            "More shards, each behind a link of its own",
            ("shards", "GB/s", "speed-up", "up: gradients", "up: wire", "down: wire", "correct"),
            tuple(
                (
                    r["shards"],
                    r["gb_per_s"],
                    ratio(r["gb_per_s"], results[0]["gb_per_s"]),
                    *(percent(r[share]) for share in shares),
                    r["correct"],
                )
                for r in results
            ),
            "Shares of what the links carry in that direction. Wanted of four shards: "
            f"{WANTED_SPEED_UP} times one, and {WANTED_LINK:.0%} of the links.",
        )
    ]


def idle(results: Sequence[Result]) -> list[Section]:
    names = {"broker": "broker", "shards": "2 shards", "workers": "4 workers",
             "follower": "1 follower", "total": "all 8"}  # fmt: skip
    return [
        Section(
            f"A run that does nothing, over {r['seconds']:g} s",
            ("processes", "of one core"),
            tuple((name, f"{r[role]:.2%}") for role, name in names.items()),
            f"A broker listens {r['broker_start_s']:.2f} s after its start; a shard takes pushes "
            f"{r['shard_start_s']:.2f} s after its own.",
        )
        for r in results
    ]


def peers(results: Sequence[Result]) -> list[Section]:
    """Every peer beside gradmq in the same case."""
    keys = ("gb_per_s", "p50_ms", "p99_ms", "server_cpu_s_per_gb", "total_cpu_s_per_gb",
            "server_rss_mb", "correct")  # fmt: skip
    own = {(r["mb"], r["workers"], r["peer"]): r.get("gb_per_s", math.nan) for r in results}
    rows: list[tuple[object, ...]] = []
    for r in results:
        size = r["mb"], r["workers"]
        times = [
            ratio(own.get((*size, f"gradmq {transport}"), math.nan), r.get("gb_per_s", math.nan))
            for transport in ("shm", "tcp")
        ]
        rows.append((f"{size[0]:g}", size[1], r["peer"], *map(r.get, keys), *times, r["reason"]))
    head = (
        "MB", "workers", "on", "GB/s", "p50 ms", "p99 ms", "server CPU s/GB", "all CPU s/GB",
        "server MB", "correct", "gradmq shm: ×", "gradmq tcp: ×", "",
    )  # fmt: skip
    note = "gloo has no server and is synchronous: a round counts as one gradient of every worker."
    return [Section("The same ps-echo on other libraries", head, tuple(rows), note)]


#: By their names among the results, in the order in which they are shown.
SHOWN: dict[str, Callable[[Sequence[Result]], list[Section]]] = {
    "push": push,
    "peers": peers,
    "latency": latency,
    "publish": publish,
    "workers": workers,
    "shards": shards,
    "idle": idle,
    **infer.SHOWN,
}


def of(found: Result) -> list[Section]:
    """The tables of all parts that have results."""
    return [
        section for name, show in SHOWN.items() if found.get(name) for section in show(found[name])
    ]
