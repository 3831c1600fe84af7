"""One page of results that needs nothing else: tables, plots, machine and commit."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from gradmq.bench import sections
from gradmq.bench.svg import CIRCLE, DIAMOND, NO_MARK, SQUARE, TRIANGLE, Series, plot, swatch
from gradmq.bench.tables import Result, Section, cell

#: The number of workers that the plots show; tables have all.
WORKERS = 2

#: Lines keep their look from plot to plot.
LOOKS = {
    "gradmq shm": ("s0", CIRCLE),
    "gradmq tcp": ("s1", SQUARE),
    "torch rpc, shm": ("s2", TRIANGLE),
    "torch rpc, tcp": ("s3", DIAMOND),
    "gloo all_reduce": ("s4", CIRCLE),
    "ray": ("s5", SQUARE),
}
LIMITS = {
    "sgd_loop_gb_per_s": ("SGD loop, one core", "limit-a"),
    "memcpy_gb_per_s": ("memcpy, one core", "limit-b"),
    "tcp_echo_gb_per_s": ("raw TCP echo", "limit-c"),
}


def page(found: Result) -> str:
    """The results that ``gradmq bench all`` wrote, as one HTML page."""
    machine = found["machine"]
    facts = {
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['kernel']}",
        "versions": ", ".join(
            f"{name} {machine[name]}"
            for name in ("gradmq", "python", "numpy", "pyzmq", "libzmq", "torch", "ray")
            if name in machine
        ),
        "commit": found["commit"] or "not in a checkout",
        "command": found["command"],
        "when": found["when"],
        "parameters": verdict(found),
    }
    body = [
        "<h1>gradmq bench</h1>",
        "<dl>",
        *(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()),
        "</dl>",
        *(f'<p class="bad">{escape(line)}</p>' for line in found["failed"]),
        *(f"<p>{escape(line)}</p>" for line in found["skipped"]),
        *figures(found),
        *(table(section) for section in sections.of(found)),
    ]
    style = files("gradmq.bench").joinpath("report.css").read_text()
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>gradmq bench</title>\n<style>\n{style}</style>\n<main>",
            *body,
            "</main>\n</html>\n",
        ]
    )


def verdict(found: Result) -> str:
    """What became of the parameters, in words."""
    results = [r for name in sections.SHOWN for r in found.get(name) or []]
    checked = [r["correct"] for r in results if r.get("correct") is not None]
    wrong = checked.count(False)
    if wrong:
        return f"WRONG at the end of {wrong} of {len(checked)} runs"
    return f"equal to the closed form, bit for bit, at the end of all {len(checked)} runs"


def figures(found: Result) -> list[str]:
    """The plots, each with its legend."""
    compared = [r for r in found.get("peers") or [] if r["workers"] == WORKERS and not r["reason"]]
    pushed = [r for r in found.get("push") or [] if r["workers"] == WORKERS]
    own = [
        Series(name, *LOOKS[name], _points(pushed, "gb_per_s", transport=name.split()[1]))
        for name in ("gradmq shm", "gradmq tcp")
    ]
    limits = [
        Series(text, style, NO_MARK, _points(pushed, key)) for key, (text, style) in LIMITS.items()
    ]
    size = "model, MB"
    return [
        _figure("Against the limits of the machine", size, "GB/s", [*limits, *own]),
        _figure("Beside other libraries", size, "GB/s", _by_peer(compared, "gb_per_s")),
        _figure(
            "What a gradient costs, all processes",
            size,
            "CPU s/GB",
            _by_peer(compared, "total_cpu_s_per_gb"),
        ),
    ]


def table(section: Section) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td{_class(v)}>{escape(cell(v))}</td>" for v in row) + "</tr>"
        for row in section.rows
    )
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return (
        f"<section><h2>{escape(section.title)}</h2>\n"
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f"</table></div>{note}</section>"
    )


def _figure(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    drawn = plot(f"{title}: {y_label} by {x_label}", x_label, y_label, series)
    if not drawn:
        return ""
    legend = "".join(f"<li>{swatch(one)}{escape(one.name)}</li>" for one in series if one.points)
    return (
        f"<figure><figcaption><h2>{escape(title)}</h2>"
        f"<p>{escape(y_label)} by {escape(x_label)}, {WORKERS} workers</p>"
        f"<ul>{legend}</ul></figcaption>\n{drawn}</figure>"
    )


def _by_peer(results: Sequence[Result], key: str) -> list[Series]:
    return [Series(name, *look, _points(results, key, peer=name)) for name, look in LOOKS.items()]


def _points(results: Sequence[Result], key: str, **wanted: str) -> tuple[tuple[float, float], ...]:
    """(size, value) of the results that have these; the last one of a size counts."""
    found = {
        r["mb"]: r[key]
        for r in results
        if r.get(key) and all(r[name] == value for name, value in wanted.items())
    }
    return tuple(sorted(found.items()))


def _class(value: object) -> str:
    return ' class="bad"' if value is False else ""
