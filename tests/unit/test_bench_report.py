"""The page of a benchmark: complete, self-contained, escaped, and honest about what went wrong."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from gradmq import strict_json
from gradmq.bench import report, sections, suite
from gradmq.bench.hosts import NoHosts
from gradmq.bench.publish import kept
from gradmq.bench.svg import CIRCLE, Axis, Series, plot, ticks
from gradmq.errors import ShardAway

VOID = {"meta", "br", "hr", "img", "input", "link"}


def echoed(mb: float, workers: int, transport: str, gb_per_s: float = 1.25) -> dict[str, Any]:
    return {
        "mb": mb, "workers": workers, "transport": transport, "in_flight": 1, "shards": 1,
        "seconds": 8.0, "warmup": 2.0, "grads_per_s": 1e3 * gb_per_s / mb, "gb_per_s": gb_per_s,
        "p50_ms": 1.5, "p99_ms": 3.5, "server_cpu_s_per_gb": 0.25, "total_cpu_s_per_gb": 0.75,
        "server_rss_mb": 321.0, "start_s": 0.5, "join_s": 0.1, "correct": True,
        "sgd_loop_gb_per_s": 8.0, "memcpy_gb_per_s": 20.0, "tcp_echo_gb_per_s": 2.5,
        "of_sgd_loop": gb_per_s / 8, "of_memcpy": gb_per_s / 20, "of_tcp_echo": gb_per_s / 2.5,
    }  # fmt: skip


def compared(peer: str, reason: str = "") -> dict[str, Any]:
    names = ("gb_per_s", "p50_ms", "p99_ms", "server_cpu_s_per_gb", "total_cpu_s_per_gb",
             "server_rss_mb", "correct", "start_s", "join_s")  # fmt: skip
    figures = {} if reason else {name: echoed(16, 2, "tcp")[name] for name in names}
    return {"peer": peer, "mb": 16, "workers": 2, **figures, "reason": reason}


def asked() -> dict[str, Any]:
    return {
        "requests_per_s": 2000.0, "p50_ms": 9.0, "p99_ms": 20.0, "answers": 16000, "failures": 0,
        "wrong": 0, "what": [], "server_cpu_s_per_1000": 0.4, "client_cpu_s_per_1000": 0.05,
    }  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    """Results with every part, as they are read back from a file."""
    results = {
        "machine": {"cpu": "A <CPU> & more", "cores": 2, "memory_gb": 25.3, "kernel": "Linux 6",
                    "python": "3.11", "libzmq": "4.3.5", "gradmq": "0", "numpy": "2"},
        "commit": "abc1234-dirty",
        "command": "gradmq bench all",
        "when": "2026-01-01 00:00 UTC",
        "failed": ["push: 9 MB: a <shard> was away"],
        "skipped": ["shards skipped: needs root"],
        "push": [echoed(mb, 2, t) for mb in (0.001, 1, 100) for t in ("shm", "tcp")],
        "latency": [{"mb": 1, "transport": "tcp", "pushes": 9, "min_ms": 1.0, "p50_ms": 2.0,
                     "p90_ms": 3.0, "p99_ms": 4.0, "max_ms": math.nan, "correct": True}],
        "publish": [{"mb": 1.0, "subscribers": 2, "seconds": 4.0,
                     "per_s": [[10.0, 11.0], [9.0, 9.5], [8.0, 8.5], [10.0, 11.0]],
                     "kept_beside_stopped": 0.9, "kept_beside_slow": 0.8, "correct": True}],
        "workers": [{"workers": w, "offered_per_s": 200.0, "grads_per_s": 200.0, "p50_ms": 1.0,
                     "server_cpu_ms_per_grad": 0.1 * w, "join_s": 0.1, "correct": True}
                    for w in (1, 2)],
        "shards": [],
        "idle": [{"seconds": 8.0, "broker": 0.001, "shards": 0.002, "workers": 0.003,
                  "follower": 0.004, "total": 0.01, "broker_start_s": 0.3, "shard_start_s": 0.4}],
        "swaps": [{"mb": 16.0, "clients": 8, "offered_per_s": 400.0, "swaps": 9, "swaps_per_s": 9.9,
                   "requests": 99, "failures": 0, "torn": 0, "added_p50_ms": 0.1,
                   "added_p99_ms": math.nan, "quiet": asked(), "swapping": asked(), "right": True}],
        "servers": [{"clients": 32, "of_bare": 0.8, "of_fastapi": 1.2, "of_ray": math.nan,
                     "binary_of_json": 1.3, "right": True, "servers": [
                         {"server": "gradmq", "reason": "", **asked()},
                         {"server": "bare Starlette", "reason": "", **asked()},
                         {"server": "Ray Serve", "reason": "not installed"}]}],
        "beside": [{"clients": 32, "settings": {"run.workers": "2"}, **asked(), "right": True,
                    "updates_per_s": 20.0, "updates_per_s_alone": 40.0, "updates_kept": 0.5,
                    "releases": 9}],
        "batches": [{"clients": 32, "off": asked(), "on": asked(), "rows_per_run": 30.5,
                     "alone_rows_per_s": 1000.0, "limit_rows_per_s": 4000.0, "speed_up": 3.0,
                     "of_limit": 0.9, "right": True}],
        "freshness": [{"mb": 16.0, "transport": "shm", "release": "asked for", "pushes": 9,
                       "min_ms": 1.0, "p50_ms": 2.0, "p90_ms": 3.0, "max_ms": 4.0}],
        "completions": [{"tokens": 256, "off": asked(), "on": asked(), "speed_up": 3.0,
                         "right": True}],
        "peers": [compared("gradmq shm"), compared("torch rpc, tcp"), compared("ray", "not here")],
    }  # fmt: skip
    return dict(json.loads(strict_json.dumps(results)))


class Structure(HTMLParser):
    """Notes what is open, what is in it, and everything that leads out of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.leads_out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.leads_out += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(found: dict[str, Any]) -> None:
    page = report.page(found)
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert structure.leads_out == []
    assert not re.search(r"https?://|@import|url\(|<script", page)
    assert structure.count["table"] == 13  # two of push, one of each other part that has results
    assert structure.count["figure"] == 3


def test_the_page_is_for_phones_and_for_the_dark(found: dict[str, Any]) -> None:
    page = report.page(found)
    assert 'name="viewport" content="width=device-width' in page
    assert "@media (prefers-color-scheme: dark)" in page
    for variable in set(re.findall(r"var\((--\w+)\)", page)):
        assert page.count(f"{variable}:") == 2, f"{variable} has one colour for light, one for dark"


def test_the_page_says_machine_commit_command_and_what_went_wrong(found: dict[str, Any]) -> None:
    page = report.page(found)
    assert "A &lt;CPU&gt; &amp; more, 2 cores" in page
    for text in ("abc1234-dirty", "gradmq bench all", "a &lt;shard&gt; was away", "needs root"):
        assert text in page
    assert "at the end of all 12 runs" in page
    found["push"][0]["correct"] = False
    assert "WRONG at the end of 1 of 12 runs" in report.page(found)


def test_a_page_of_nothing_is_a_page(found: dict[str, Any]) -> None:
    structure = Structure()
    structure.feed(report.page(found | {name: [] for name in sections.SHOWN}))
    assert structure.open == []
    assert "svg" not in structure.count


def test_every_part_has_a_table_and_every_row_a_cell_per_column(found: dict[str, Any]) -> None:
    for section in sections.of(found):
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.head)}
        assert section.title in section.text()


def test_peers_are_shown_beside_gradmq_in_the_same_case(found: dict[str, Any]) -> None:
    found["peers"][0]["gb_per_s"] = 5.0
    (section,) = sections.peers(found["peers"])
    shm = section.head.index("gradmq shm: ×")
    assert [row[shm] for row in section.rows[:2]] == [1.0, 4.0]
    assert section.rows[2][-1] == "not here"


def test_servers_are_shown_with_how_many_times_as_many_gradmq_answers(
    found: dict[str, Any],
) -> None:
    (section,) = sections.SHOWN["servers"](found["servers"])
    assert [row[-2] for row in section.rows] == [None, 0.8, None]
    assert section.rows[2][-1] == "not installed"
    assert "1.30 times as many; wanted: 1.3" in section.note


def test_an_exit_status_tells_of_failures_and_of_wrong_parameters_and_answers(
    found: dict[str, Any],
) -> None:
    assert suite.status(found) == 1
    found["failed"] = []
    assert suite.status(found) == 0
    found["latency"][0]["correct"] = False
    assert suite.status(found) == 1
    found["latency"][0]["correct"] = True
    found["beside"][0]["right"] = False
    assert suite.status(found) == 1


def test_a_case_that_fails_leaves_the_rest_to_go_on() -> None:
    class Fine:
        def as_json(self) -> dict[str, Any]:
            return {"correct": True}

    def fails() -> Fine:
        raise ShardAway("gone")

    def has_no_hosts() -> Fine:
        raise NoHosts("needs root")

    said: list[str] = []
    found = suite.measure(
        [
            suite.Part("one", {"a": fails, "b": Fine}),
            suite.Part("two", {"a": has_no_hosts, "b": Fine}),
            suite.Part("three", {"a": Fine}),
        ],
        said.append,
    )
    assert found == {
        "failed": ["one: a: gone"],
        "skipped": ["two skipped: needs root"],
        "one": [{"correct": True}],
        "two": [],
        "three": [{"correct": True}],
    }
    assert said[0] == "one: a"


def test_a_plot_draws_every_series_within_its_frame() -> None:
    points = ((0.001, 0.01), (1.0, 2.0), (400.0, 5.0))
    drawn = plot(
        "t", "x", "y", [Series("a & b", "s0", CIRCLE, points), Series("none", "s1", "", ())]
    )
    assert drawn.count('class="s0"') == 1
    assert drawn.count('class="s0 mark"') == 3
    assert "s1" not in drawn
    assert "<title>a &amp; b, 400: 5</title>" in drawn
    for x, y in re.findall(r"translate\(([\d.]+) ([\d.]+)\)\" d=", drawn):
        assert 0 < float(x) < 480
        assert 0 < float(y) < 300


def test_a_single_point_is_drawn_and_nothing_is_not() -> None:
    assert plot("t", "x", "y", [Series("a", "s0", CIRCLE, ((1.0, 1.0),))]).startswith("<svg")
    assert plot("t", "x", "y", [Series("a", "s0", CIRCLE, ())]) == ""


def test_an_axis_is_logarithmic() -> None:
    axis = Axis(1.0, 100.0, 0.0, 200.0)
    assert [axis.at(1.0), axis.at(10.0), axis.at(100.0)] == [0.0, 100.0, 200.0]
    assert ticks(0.3, 30.0) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert ticks(0.0005, 50.0) == pytest.approx([0.001, 0.01, 0.1, 1, 10])


def test_what_a_subscriber_kept_is_its_worst_part_of_its_own_rate_alone() -> None:
    assert kept((90.0, 40.0), (110.0, 50.0), (90.0, 50.0)) == 0.8
    assert kept((100.0,), (100.0,)) == 1.0
