"""What a person sees of a run: figures out of statuses, the table, plain lines, the summary."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from gradmq.view import words
from gradmq.view.figures import Figures, Metric, Reading
from gradmq.view.plain import PlainLines
from gradmq.view.rates import Rates
from gradmq.view.summary import Completion, RunEnd, run_end, summary
from gradmq.view.table import Progress, render

# -- statuses -------------------------------------------------------------------------------------


def shard(index: int = 0, **fields: Any) -> dict[str, Any]:
    row = {"index": index, "incarnation": 1, "version": 0, "live": True, "pushed_bytes": 0}
    row |= {"waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0}
    return {**row, "lost_updates": 0, **fields}


def absent_shard(index: int = 0) -> dict[str, Any]:
    return shard(index, live=False, incarnation=0, waiting_for="to join")


def worker(name: str = "worker-1", **fields: Any) -> dict[str, Any]:
    row = {"name": name, "live": True, "seq": 1, "applied": 0, "samples": 0, "rejected": {}}
    row |= {"staleness": {"median": 0, "max": 0, "histogram": []}, "share": 0.0}
    row |= {"samples_per_s": 0.0, "loss": None, "skipped_nonfinite": 0, "lost": False}
    return {**row, "waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0, **fields}


def node(name: str = "infer-1", **fields: Any) -> dict[str, Any]:
    row = {"name": name, "live": True, "release": 0, "age_s": None}
    row |= {"url": "http://127.0.0.1:8000", "waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0}
    return {**row, **fields}


def status(**fields: Any) -> dict[str, Any]:
    whole = {"run": "lm", "phase": "open", "waiting_for": "", "release": {"number": 0}}
    whole |= {"shards": [shard()], "workers": [], "infer": [], "followers": [], "evaluations": []}
    return {**whole, **fields}


def after(*statuses: tuple[float, dict[str, Any]], higher_is_better: bool = False) -> Figures:
    figures = Figures(higher_is_better)
    for now, each in statuses:
        figures.update(each, now)
    return figures


def evaluated(*values: float, name: str = "bits_per_byte") -> list[dict[str, float]]:
    return [{"release": i, name: value} for i, value in enumerate(values, start=1)]


def shown(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def line_with(part: str, lines: list[str]) -> str:
    return next(line for line in lines if part in line)


# -- rates ----------------------------------------------------------------------------------------


def test_a_rate_needs_two_reports() -> None:
    rates = Rates()
    rates.add(0.0, incarnation=1, version=10, pushed_bytes=100)
    assert rates.per_s() == (None, None)
    rates.add(2.0, incarnation=1, version=30, pushed_bytes=500)
    assert rates.per_s() == (10.0, 200.0)


def test_a_rate_forgets_what_lies_before_its_window() -> None:
    rates = Rates()
    for half_seconds in range(40):
        at = half_seconds / 2
        rates.add(at, 1, version=int(10 * min(at, 10) + 40 * max(at - 10, 0)), pushed_bytes=0)
    assert rates.per_s() == (40.0, 0.0)


def test_the_rate_of_a_slow_shard_does_not_jump_between_none_and_one() -> None:
    rates, seen = Rates(), []
    for half_seconds in range(240):
        at = half_seconds / 2
        rates.add(at, 1, version=int(at / 8), pushed_bytes=0)
        if at >= 40:
            seen.append(rates.per_s()[0])
    assert min(seen) >= 0.09
    assert max(seen) <= 0.15


@pytest.mark.parametrize("updates_per_s", [2, 40])
def test_a_shard_that_stops_has_rate_zero_within_seconds_and_keeps_it(updates_per_s: int) -> None:
    rates, seen = Rates(), []
    for half_seconds in range(160):
        at = half_seconds / 2
        rates.add(at, 1, version=int(updates_per_s * min(at, 12)), pushed_bytes=0)
        if at >= 18:
            seen.append(rates.per_s())
    assert set(seen) == {(0.0, 0.0)}


def test_after_a_long_gap_between_reports_the_rate_is_that_of_the_gap() -> None:
    rates = Rates()
    rates.add(0.0, 1, version=0, pushed_bytes=0)
    rates.add(100.0, 1, version=200, pushed_bytes=1000)
    assert rates.per_s() == (2.0, 10.0)


def test_a_new_incarnation_starts_its_rate_anew() -> None:
    rates = Rates()
    rates.add(0.0, 1, version=500, pushed_bytes=9000)
    rates.add(1.0, 1, version=540, pushed_bytes=9900)
    rates.add(3.0, 2, version=400, pushed_bytes=0)
    assert rates.per_s() == (None, None)
    rates.add(4.0, 2, version=420, pushed_bytes=50)
    assert rates.per_s() == (20.0, 50.0)


# -- figures --------------------------------------------------------------------------------------


def test_asking_more_often_than_members_report_does_not_change_a_rate() -> None:
    """Reports come every 0.5 s; the same one is seen twice, older the second time."""
    figures = Figures()
    for quarter in range(41):
        now = quarter / 4
        reported = int(now * 2) / 2
        row = shard(version=int(40 * reported), pushed_bytes=int(4e6 * reported))
        figures.update(status(shards=[{**row, "silent_s": now - reported}]), now)
        if now >= 1:
            assert figures.updates_per_s == pytest.approx(40.0)
            assert figures.shards[0].pushed_mb_per_s == pytest.approx(4.0)


def test_the_updates_of_a_run_are_those_of_the_shard_that_has_most() -> None:
    figures = after((0.0, status(shards=[shard(0, version=70), shard(1, version=0)])))
    assert figures.updates == 70


def test_a_momentary_wait_is_not_shown_and_one_that_lasts_is_with_its_beginning() -> None:
    row = worker(seq=7, waiting_for="shard 0: to attach", waiting_s=1.9)
    figures = after((11.9, status(workers=[row])))
    assert figures.workers[0].wait is None
    figures.update(status(workers=[{**row, "waiting_s": 2.5}]), 12.5)
    wait = figures.workers[0].wait
    assert wait is not None
    assert (wait.kind, wait.what, wait.since) == ("waits", "shard 0: to attach", 10.0)
    figures.update(status(workers=[worker(seq=8)]), 13.0)
    assert figures.workers[0].wait is None


def test_one_status_is_enough_to_show_who_waits_who_is_silent_and_who_is_lost() -> None:
    away = {"live": False, "waiting_s": 15.0, "silent_s": 15.0}
    whole = status(
        shards=[shard(version=1204, incarnation=2, **away)],
        workers=[
            worker("a", waiting_for="shard 0: verdict on push 9", waiting_s=14.0),
            worker("b", silent_s=3.0),
            worker("c", live=False, lost=True, silent_s=12.0),
        ],
        infer=[node("d", live=False, silent_s=11.0)],
    )
    lines = shown(render(after((0.0, whole))))
    assert lines[lines.index(line_with("1,204", lines)) + 1] == "  away for 15 s"
    for name, note in (
        ("a ", "waits 14 s for shard 0: verdict on push 9"),
        ("b ", "silent for 3.0 s"),
        ("c  ", "away for 12 s"),
        ("d ", "away for 11 s"),
    ):
        at = next(i for i, line in enumerate(lines) if line.startswith(name))
        assert lines[at + 1] == f"  {note}"
    assert line_with("c   ", lines).split()[1] == "lost"


def test_a_silent_shard_is_named_and_has_no_rate() -> None:
    figures = after((0.0, status()), (1.0, status()), (4.0, status(shards=[shard(silent_s=3.0)])))
    assert figures.shards[0].updates_per_s is None
    wait = figures.shards[0].wait
    assert wait is not None
    assert (wait.kind, wait.since) == ("silent", 1.0)


def test_a_shard_that_left_is_away_since_it_was_last_heard_and_keeps_its_version() -> None:
    gone = shard(version=90, incarnation=3, live=False, waiting_for="to join", waiting_s=7.0)
    figures = after((0.0, status()), (9.0, status(shards=[{**gone, "silent_s": 7.0}])))
    row = figures.shards[0]
    assert (row.version, row.incarnation, row.updates_per_s) == (90, 3, None)
    assert row.wait is not None
    assert (row.wait.kind, row.wait.since) == ("away", 2.0)
    assert figures.updates == 90


def test_a_shard_that_never_came_is_absent_since_the_broker_began() -> None:
    figures = after((3.0, status(shards=[{**absent_shard(), "waiting_s": 1.0}])))
    wait = figures.shards[0].wait
    assert wait is not None
    assert (wait.kind, wait.since) == ("absent", 2.0)


def test_a_departed_worker_waits_for_nobody() -> None:
    gone = worker(live=False, silent_s=60.0, waiting_for="shard 0: to attach")
    assert after((0.0, status(workers=[gone]))).workers[0].wait is None


def test_the_training_loss_is_the_mean_of_what_was_reported_lately() -> None:
    def losses(first: float, second: float) -> dict[str, Any]:
        return status(workers=[worker("worker-1", loss=first), worker("worker-2", loss=second)])

    figures = after((0.0, losses(9.0, 9.0)), (10.0, losses(4.0, 2.0)), (11.0, losses(3.0, 1.0)))
    assert figures.loss == pytest.approx(2.5)


def test_the_training_loss_stays_when_nobody_reports() -> None:
    silent = status(workers=[worker(loss=4.0, silent_s=60.0)])
    figures = after((0.0, status(workers=[worker(loss=4.0)])), (60.0, silent))
    assert figures.loss == 4.0


def test_a_loss_that_is_not_a_number_is_shown_as_it_is() -> None:
    figures = after((0.0, status(workers=[worker(loss=math.nan)])))
    assert figures.loss is not None
    assert math.isnan(figures.loss)


def test_an_age_goes_on_while_its_node_is_silent() -> None:
    figures = after((0.0, status(infer=[node(release=3, age_s=0.4, silent_s=5.0)])))
    assert figures.infer[0].age_s == pytest.approx(5.4)


def test_totals_are_over_all_workers_departed_ones_too() -> None:
    staleness = {"median": 1, "max": 3, "histogram": [[1, 5], [3, 2]]}
    here = worker(samples=100, rejected={"stale": 2}, staleness=staleness)
    gone = worker("worker-2", live=False, samples=50, rejected={"stale": 1}, staleness=staleness)
    figures = after((0.0, status(workers=[here, gone])))
    assert figures.samples == 150
    assert figures.rejected == {"stale": 3}
    assert figures.staleness == {1: 10, 3: 4}


# -- the metric -----------------------------------------------------------------------------------


def test_the_headline_metric_is_the_first_of_the_evaluations_with_first_last_and_best() -> None:
    both = [{**e, "seconds": 2.0} for e in evaluated(8.0, 3.0, 4.0)]
    metric = after((0.0, status(evaluations=both))).metric
    assert metric == Metric("bits_per_byte", Reading(1, 8.0), Reading(3, 4.0), Reading(2, 3.0))


def test_a_metric_that_is_better_when_higher_is_best_when_highest() -> None:
    whole = status(evaluations=evaluated(0.1, 0.9, 0.8, name="accuracy"))
    figures = after((0.0, whole), higher_is_better=True)
    assert figures.metric is not None
    assert figures.metric.best == Reading(2, 0.9)


def test_first_and_best_stay_after_the_broker_has_forgotten_them() -> None:
    kept = evaluated(8.0, 3.0, 4.0)
    figures = after((0.0, status(evaluations=kept)), (1.0, status(evaluations=kept[2:])))
    figures.update(status(evaluations=[]), 2.0)
    assert figures.metric is not None
    assert (figures.metric.first.value, figures.metric.best.value) == (8.0, 3.0)


def test_a_reading_that_is_not_a_number_is_never_the_best() -> None:
    figures = after((0.0, status(evaluations=evaluated(math.nan, 5.0, math.nan))))
    assert figures.metric is not None
    assert figures.metric.best == Reading(2, 5.0)


def test_without_the_job_nothing_is_called_the_best() -> None:
    figures = Figures()
    figures.update(status(evaluations=evaluated(8.0, 3.0)), 0.0)
    assert figures.metric is not None
    assert figures.metric.best is None
    assert "bits_per_byte 3.000 at release 2   first 8.000" in line_with(
        "loss", shown(render(figures))
    )


# -- the table ------------------------------------------------------------------------------------


def busy_status() -> dict[str, Any]:
    staleness = {"median": 1, "max": 3, "histogram": [[0, 600], [1, 1200], [3, 8]]}
    return status(
        release={"number": 33},
        shards=[
            shard(0, version=1204, pushed_bytes=10_000_000),
            shard(1, version=1199, incarnation=2, lost_updates=11),
        ],
        workers=[
            worker(applied=604, share=0.52, samples_per_s=1310.0, staleness=staleness, loss=2.298),
            worker("worker-2", rejected={"stale": 10, "lost_base": 2}, skipped_nonfinite=3),
            worker("worker-3", live=False, share=0.1),
        ],
        infer=[node(release=33, age_s=0.4)],
        followers=[node("evaluation", release=33, age_s=0.1, url="")],
        evaluations=evaluated(8.012, 3.021),
    )


def test_a_node_is_shown_with_the_release_that_it_answers_with_and_why() -> None:
    pinned = node(release=33, answering=31, steering="rolled back from release 32", age_s=2.0)
    split = node("infer-2", release=33, answering=0, steering="split: stable=9, newest=1", age_s=0)
    plain = node("infer-3", release=34, answering=33, age_s=0.4)
    figures = after((0.0, status(infer=[pinned, split, plain])))
    lines = shown(render(figures))
    assert [line_with(f"infer-{i}", lines).split()[1] for i in (1, 2, 3)] == ["31", "33", "33"]
    assert "  rolled back from release 32; the newest is 33" in lines
    assert "  split: stable=9, newest=1; the newest is 33" in lines
    assert "release 31 (age 2.0 s)" in PlainLines().lines(figures)[-1]


def test_the_table_shows_what_every_member_does() -> None:
    lines = shown(render(after((0.0, busy_status())), Progress(35, 90, "s")))
    assert "training" in lines[0]
    assert "38 %  35 of 90 s" in lines[1]
    assert "bits_per_byte 3.021 at release 2, the best   first 8.012" in line_with("loss", lines)
    assert "http://127.0.0.1:8000" in line_with("infer-1", lines)
    assert line_with("1,199", lines).endswith("  incarnation 2")
    assert "  lost at least 11 updates" in lines
    first = line_with("worker-1", lines).split()
    assert " ".join(first) == "worker-1 1,310 52 % med 1, max 3 604 0 2.298"
    assert line_with("worker-3", lines).split()[1] == "left"
    assert "rejected: 10 stale, 2 lost_base; skipped: 3 not finite" in line_with("stale,", lines)
    assert not any("evaluation" in line for line in lines)


def test_the_columns_end_where_the_bar_ends() -> None:
    lines = shown(render(after((0.0, busy_status())), Progress(35, 90, "s")))
    assert len(lines[1]) == len(line_with("samples/s", lines)) == 80


def test_a_run_that_is_not_open_says_what_it_waits_for() -> None:
    waiting = status(phase="waiting", waiting_for="initial parameters, from the first worker")
    lines = shown(render(after((0.0, waiting))))
    assert lines[0] == "lm  waiting for: initial parameters, from the first worker"


def test_trouble_is_told_in_words_with_its_duration_first() -> None:
    what = "shard 0: verdict on push 12, silent for 8.1 s; " + "x" * 99
    gone = shard(live=False, waiting_for="to join", waiting_s=12.0, silent_s=12.0)
    stuck = worker(waiting_for=what, waiting_s=12.0)
    lines = shown(render(after((0.0, status(shards=[gone], workers=[stuck])))))
    assert "  away for 12 s" in lines
    assert line_with("waits", lines).startswith("  waits 12 s for shard 0: verdict on push 12")
    assert line_with("waits", lines).endswith("…")


def test_a_worker_in_quarantine_is_trouble_whatever_else_it_waits_for() -> None:
    why = "5 of its last 5 pushes to shard 0 were rejected: 5 norm"
    row = worker(quarantine=why, quarantined_s=7.0, waiting_for="shard 0: to attach", waiting_s=9.0)
    figures, plain = after((0.0, status(workers=[row]))), PlainLines()
    assert f"  in quarantine for 7.0 s: {why}" in shown(render(figures, width=120), width=120)
    assert f"[   0 s] worker-1 in quarantine for 7.0 s: {why}" in plain.lines(figures)
    figures.update(status(workers=[worker()]), 4.0)
    assert plain.lines(figures) == ["[   4 s] worker-1 goes on after 11 s"]


def test_without_an_end_condition_there_is_no_bar() -> None:
    lines = shown(render(after((0.0, status())), Progress(1234, 0, "updates", "until Ctrl-C")))
    assert lines[1] == "1,234 updates  until Ctrl-C"


def test_a_single_look_at_a_run_tells_no_duration() -> None:
    (title, blank, *_) = shown(render(after((7.0, status()))))
    assert "training" in title
    assert blank == ""
    assert shown(render(after((7.0, status()), (9.0, status()))))[1] == "2.0 s"


def test_a_bar_beyond_its_end_is_full() -> None:
    lines = shown(render(after((0.0, status())), Progress(95, 90, "s")))
    assert "─" not in lines[1]
    assert "100 %" in lines[1]


@pytest.mark.parametrize("height", [24, 40, 200])
def test_a_low_terminal_cuts_the_longest_block_and_says_so(height: int) -> None:
    crowd = {**busy_status(), "workers": [worker(f"worker-{i}") for i in range(100)]}
    lines = shown(render(after((0.0, crowd)), height=height))
    assert len(lines) <= height
    assert any("infer-1" in line for line in lines)
    assert any("more lines" in line for line in lines) == (height < 100)


def test_many_shards_say_once_what_the_counts_of_workers_count() -> None:
    lines = shown(render(after((0.0, busy_status()))))
    assert sum("one per push and shard" in line for line in lines) == 1


NAMES = st.text(min_size=1, max_size=40)
NUMBERS = st.integers(0, 10**12)
RATES = st.floats(0, 1e12) | st.just(math.inf)
VALUES = st.floats(allow_nan=True, allow_infinity=True)


@given(NAMES, NUMBERS, RATES, VALUES, st.sampled_from([40, 79, 80, 81, 120, 300]))
def test_no_line_is_wider_than_the_terminal(
    name: str, number: int, rate: float, value: float, width: int
) -> None:
    staleness = {"median": number, "max": number, "histogram": [[number, number]]}
    crowded = worker(name, applied=number, rejected={name: number}, staleness=staleness)
    crowded |= {"samples_per_s": rate, "loss": value, "waiting_for": name, "silent_s": 0.0}
    everything = status(
        run=name,
        shards=[shard(number, version=number, incarnation=number)],
        workers=[crowded],
        infer=[node(name, release=number, age_s=rate, url=name)],
        evaluations=[{"release": number, name: value}],
    )
    figures = after((0.0, everything), (50.0, everything))
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    rendered = render(figures, Progress(number, number, "samples", name), width=width)
    lines = console.render_lines(rendered, console.options, pad=False)
    texts = ["".join(segment.text for segment in line) for line in lines]
    assert all(cell_len(text) <= width for text in texts)
    assert len(texts) == len(render(figures, Progress(1, 2, "s"), width=width).renderables)
    assert all(text.isprintable() for text in texts)


# -- plain lines ----------------------------------------------------------------------------------


def test_a_plain_line_has_the_figures_of_the_run() -> None:
    figures = after((0.0, busy_status()), (35.0, busy_status()))
    lines = PlainLines().lines(figures)
    assert lines[-1] == (
        "[  35 s] lm  updates 1,204 (0.0/s)  loss 2.298  bits_per_byte 3.021  staleness 1/3"
        "  rejected 10 stale, 2 lost_base  release 33 (age 0.4 s)"
    )


def test_plain_lines_come_every_five_seconds() -> None:
    figures, plain, at = Figures(), PlainLines(), []
    for quarter in range(81):
        figures.update(status(), quarter / 4)
        at += [quarter / 4 for line in plain.lines(figures) if "updates" in line]
    assert at == [0.0, 5.0, 10.0, 15.0, 20.0]


def test_a_wait_is_told_when_it_appears_and_when_it_ends_and_not_in_between() -> None:
    figures, plain, lines = Figures(), PlainLines(), []
    for second in range(1, 5):
        row = worker(seq=3, waiting_for="shard 0: to attach", waiting_s=float(second))
        figures.update(status(workers=[row]), second)
        lines += plain.lines(figures)
    figures.update(status(workers=[worker(seq=4)]), 5.0)
    lines += plain.lines(figures)
    assert [line for line in lines if "worker-1" in line] == [
        "[   1 s] worker-1 waits 2.0 s for shard 0: to attach",
        "[   4 s] worker-1 goes on after 5.0 s",
    ]


def test_a_member_that_leaves_while_it_waits_does_not_go_on() -> None:
    row = worker(seq=3, waiting_for="shard 0: to attach", waiting_s=3.0)
    figures, plain = after((0.0, status()), (3.0, status(workers=[row]))), PlainLines()
    plain.lines(figures)
    figures.update(status(workers=[worker(live=False)]), 4.0)
    assert plain.lines(figures) == ["[   4 s] worker-1 has left"]


def test_many_waits_at_once_are_counted() -> None:
    waits = {"waiting_for": "shard 0: to attach", "waiting_s": 3.0}
    crowd = [worker(f"worker-{i}", seq=3, **waits) for i in range(20)]
    figures, plain = after((0.0, status())), PlainLines()
    plain.lines(figures)
    figures.update(status(workers=crowd), 3.0)
    lines = plain.lines(figures)
    assert len(lines) == 4
    assert lines[-1].endswith("17 more began to wait")


def test_before_a_run_opens_the_reason_is_said_once() -> None:
    figures, plain, lines = Figures(), PlainLines(), []
    waiting = status(phase="waiting", waiting_for="shards [0] to join", shards=[absent_shard()])
    for second in range(12):
        figures.update(waiting, second)
        lines += plain.lines(figures)
    figures.update(status(), 12.0)
    lines += plain.lines(figures)
    assert lines[:2] == ["[   0 s] waiting for: shards [0] to join", "[  12 s] lm has started"]


def test_an_evaluation_and_an_address_are_told_at_once_and_once() -> None:
    figures, plain = after((0.0, status())), PlainLines()
    plain.lines(figures)
    figures.update(busy_status(), 1.0)
    assert plain.lines(figures) == [
        "[   1 s] infer-1 serves at http://127.0.0.1:8000 (open it in a browser)",
        "[   1 s] release 2: bits_per_byte 3.021, the best so far",
    ]
    figures.update(busy_status(), 2.0)
    assert plain.lines(figures) == []


def test_the_evaluation_of_what_the_run_started_from_is_told_too() -> None:
    figures = after((0.0, status(evaluations=[{"release": 0, "error": 0.5}])))
    assert "[   0 s] release 0: error 0.500, the best so far" in PlainLines().lines(figures)


# -- the summary ----------------------------------------------------------------------------------


def end(**fields: Any) -> RunEnd:
    whole: dict[str, Any] = {
        "run": "lm",
        "reason": "90 s of training",
        "seconds": 90.0,
        "updates": 3700,
        "samples": 118_400,
        "rejected": {},
        "staleness": {0: 1000, 1: 2000, 2: 600, 3: 100},
        "metric": Metric("bits_per_byte", Reading(1, 8.01), Reading(91, 2.41), Reading(85, 2.4)),
        "folder": "runs/lm-3",
        "serve_command": "gradmq infer --run runs/lm-3",
    }
    return RunEnd(**{**whole, **fields})


def test_the_summary_tells_the_whole_run() -> None:
    text = summary(end()).plain
    assert text.startswith("lm ended: 90 s of training\n")
    assert "8.010 → 2.410  release 1 to 91, best 2.400 at 85" in text
    assert "3,700 in 90 s, 41.1 per second" in text
    assert "rejected        none" in text
    assert "median 1, max 3" in text
    assert text.endswith("serve it again  gradmq infer --run runs/lm-3")


def test_the_longest_bar_belongs_to_the_most_frequent_staleness() -> None:
    bars = {line.split()[0]: line.count("█") for line in bar_lines(end())}
    assert bars == {"0": 15, "1": 30, "2": 9, "3": 1}


def test_wide_staleness_is_joined_into_ranges_and_nothing_is_lost() -> None:
    lines = bar_lines(end(staleness={0: 5, 9: 1, 200: 1_000_000}))
    names = [line.split()[0] for line in lines]
    assert names == ["0", "1", "2–3", "4–7", "8–15", "16–31", "32–63", "64–127", "128–255"]
    assert [int(line.split()[-3].replace(",", "")) for line in lines] == [
        5, 0, 0, 0, 1, 0, 0, 0, 1_000_000,
    ]  # fmt: skip
    assert "▏" in lines[0], "what is there is seen"


def bar_lines(run: RunEnd) -> list[str]:
    lines = summary(run).plain.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("  staleness"))
    return lines[first + 1 : lines.index("", first)]


def test_a_run_without_a_single_update_has_a_summary() -> None:
    text = summary(end(updates=0, samples=0, seconds=0.0, staleness={}, metric=None)).plain
    assert "0 in 0.0 s, 0.0 per second" in text
    assert "staleness" not in text


def test_completions_cannot_move_the_cursor_and_keep_their_lines() -> None:
    first = Completion(1, "\x1b[2J\x00\r\x9b" + "q" * 400)
    last = Completion(91, "argv):\n\treturn 0\n\n")
    text = summary(end(prompt="def main(", completions=(first, last))).plain
    assert all(c.isprintable() or c == "\n" for c in text)
    assert max(map(len, text.splitlines())) <= 80
    assert "  release 91      argv):\n                      return 0\n" in text


def test_paths_and_commands_are_whole_on_a_narrow_terminal() -> None:
    folder = "runs/" + "long-name-" * 20
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(summary(end(folder=folder)), soft_wrap=True)
    assert folder in capture.get()


def test_the_end_of_a_resumed_run_counts_its_own_updates() -> None:
    figures = after((0.0, status(shards=[shard(version=5300)])))
    run = run_end(
        figures, reason="Ctrl-C", seconds=10.0, folder="r", serve_command="", updates_before=5000
    )
    assert "300 in 10 s, 30.0 per second; 5,000 before" in summary(run).plain


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (120, "2 min 00 s"),
        (3725, "62 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@given(VALUES)
def test_a_reading_fits_its_column(value: float) -> None:
    assert len(words.reading(value)) <= 9


@given(NUMBERS)
def test_a_count_below_a_trillion_fits_its_column(number: int) -> None:
    assert len(words.count(number)) <= 13
