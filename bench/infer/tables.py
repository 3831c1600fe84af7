"""What a person reads of how a node answers: a table a question, and what is wanted below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradmq.bench.tables import Result, Section, cell, number, percent

#: By these names in the results.
OWN, BINARY, OWN_BESIDE_RAY = "gradmq", "gradmq, binary tensors", "gradmq, in Ray's turn"
BARE, FASTAPI, RAY = "bare Starlette", "FastAPI", "Ray Serve"

#: What clients see: keys of ``load.Figures.as_json``, and the columns.
_SEEN = {
    "requests_per_s": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "failures": "failures",
    "wrong": "wrong",
    "server_cpu_s_per_1000": "server CPU s/1000",
    "client_cpu_s_per_1000": "clients CPU s/1000",
}


def swaps(results: Sequence[Result]) -> list[Section]:
    keys = ("clients", "offered_per_s", "swaps", "swaps_per_s", "requests", "failures", "torn")
    head = ("MB", "clients", "offered/s", "swaps", "swaps/s", "requests", "failures", "torn",
            "p50 ms", "added", "p99 ms", "added")  # fmt: skip
    rows = tuple(
        (
            f"{r['mb']:g}",
            *(r[key] for key in keys),
            r["swapping"]["p50_ms"],
            r["added_p50_ms"],
            r["swapping"]["p99_ms"],
            r["added_p99_ms"],
        )
        for r in results
    )
    note = (
        "Offered 0: as many as are answered. Added: to what the same clients saw without swaps, by "
        "turns. Wanted: no failure, none torn, 2 ms added to p99 at 10 swaps/s."
    )
    return [Section("Requests while the model is swapped", head, rows, note)]


def servers(results: Sequence[Result]) -> list[Section]:
    times = {BARE: "of_bare", FASTAPI: "of_fastapi", RAY: "of_ray"}
    return [
        Section(
            f"A small model, one row a request, {r['clients']} clients",
            ("server", *_SEEN.values(), "gradmq: ×", ""),
            tuple(
                (
                    one["server"],
                    *(one.get(key) for key in _SEEN),
                    r.get(times.get(one["server"], "")),
                    one["reason"],
                )
                for one in r["servers"]
            ),
            "×: how many times as many gradmq answers, by turns with it. Wanted: 0.8 of bare "
            "Starlette's, 1.2 of FastAPI's, 2 of Ray Serve's. With binary tensors it answers "
            f"{cell(r['binary_of_json'])} times as many; wanted: 1.3.",
        )
        for r in results
    ]


def beside(results: Sequence[Result]) -> list[Section]:
    rows = tuple(
        (
            " ".join(f"{k}={v}" for k, v in r["settings"].items()) or "defaults",
            *(r[key] for key in _SEEN),
            r["updates_per_s"],
            percent(r["updates_kept"]),
        )
        for r in results
    )
    head = ("settings", *_SEEN.values(), "updates/s", "of those alone")
    title = f"The same node beside two busy workers, {results[0]['clients']} clients"
    return [Section(title, head, rows, "Wanted: 2,000 requests/s.")]


def batches(results: Sequence[Result]) -> list[Section]:
    return [
        Section(
            f"A small convolutional network, one row a request, {r['clients']} clients",
            ("requests", *_SEEN.values()),
            tuple(
                (name, *(r[kind][key] for key in _SEEN))
                for name, kind in (("one by one", "off"), ("in batches", "on"))
            ),
            f"In batches {number(r['speed_up'])} times as many (wanted: 3, or the model's own "
            f"limit), {number(r['rows_per_run'])} rows at once. By itself, in one thread, the "
            f"model does {number(r['alone_rows_per_s'])} rows/s one by one and "
            f"{number(r['limit_rows_per_s'])} by {r['clients']}: the node reached "
            f"{percent(r['of_limit'])} of that.",
        )
        for r in results
    ]


def freshness(results: Sequence[Result]) -> list[Section]:
    keys = ("transport", "release", "pushes", "min_ms", "p50_ms", "p90_ms", "max_ms")
    head = ("MB", "worker's transport", "release", "pushes", "min", "p50", "p90", "max")
    rows = tuple((f"{r['mb']:g}", *(r[key] for key in keys)) for r in results)
    note = "Wanted of 16 MB, with a release asked for: a p50 of 20 ms (shm) and 40 ms (tcp)."
    title = "From an update's verdict to an answer that has it in it, in ms"
    return [Section(title, head, rows, note)]


def completions(results: Sequence[Result]) -> list[Section]:
    keys = ("p50_ms", "p99_ms", "answers", "failures", "wrong", "server_cpu_s_per_1000")
    head = ("cache of keys and values", "p50 ms", "p99 ms", "completions", "failures", "wrong",
            "server CPU s/1000")  # fmt: skip
    return [
        Section(
            f"Completions of {r['tokens']} tokens, one after the other",
            head,
            tuple((name, *(r[name][key] for key in keys)) for name in ("off", "on")),
            f"With it {number(r['speed_up'])} times as fast; wanted: 3.",
        )
        for r in results
    ]


#: By their names among the results, in the order in which they are shown.
SHOWN: dict[str, Callable[[Sequence[Result]], list[Section]]] = {
    "swaps": swaps,
    "servers": servers,
    "beside": beside,
    "batches": batches,
    "freshness": freshness,
    "completions": completions,
}
