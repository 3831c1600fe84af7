"""The live table: figures laid out for a terminal, for ``rich.live.Live``.

Every column has a fixed width and every line is cut, never wrapped: nothing moves but the digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.text import Text

from gradmq.view import words
from gradmq.view.figures import Figures, Metric, NodeFigures, Wait, WorkerFigures

#: The columns fill this; on a wider terminal only names, notes and addresses go beyond.
WIDTH = 80

TITLE = "bold"
QUIET = "dim"
TROUBLE = "bold red"
ATTENTION = "yellow"
DONE = "green"

PHASES = {"waiting": "starting", "open": "training", "draining": "finishing"}

GAP = "  "


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is toward the end condition that a bar can show.

    ``total`` 0: no such condition. ``text`` names the others, as in "or accuracy >= 0.9".
    """

    done: float
    total: float
    unit: str
    """As in "s", "updates" or "samples"."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    align: Literal["left", "right"] = "right"


SHARD_COLUMNS = (
    _Column("version", 10),
    _Column("updates/s", 9),
    _Column("MB/s in", 8),
)

NODE_COLUMNS = (
    _Column("release", 10),
    _Column("age", 12),
)

WORKER_COLUMNS = (
    _Column("samples/s", 10),
    _Column("share", 5),
    _Column("staleness", 14),
    _Column("applied", 9),
    _Column("rejected", 8),
    _Column("loss", 9),
)

#: What the columns of workers leave to names; a narrower terminal takes from it, down to the least.
NAME_WIDTH = WIDTH - sum(column.width + len(GAP) for column in WORKER_COLUMNS)
LEAST_NAME_WIDTH = 9


def render(
    figures: Figures,
    progress: Progress | None = None,
    *,
    width: int = 80,
    height: int | None = None,
) -> Group:
    """The table at this instant, of lines at most ``width`` cells wide and at most ``height`` many.

    Holds no reference to ``figures``: any thread may print it later. Where the terminal is too low,
    the last lines of the longest block give way to one that says how many are missing.
    """
    names = _name_width(figures, width)
    blocks = [
        _head(figures, progress, min(width, WIDTH)),
        _nodes(figures, names),
        _shards(figures, names),
        _workers(figures, names),
    ]
    blocks = [block for block in blocks if block]
    if height is not None:
        _lower(blocks, height)
    lines = [line for block in blocks for line in (*block, Text())][:-1]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _name_width(figures: Figures, width: int) -> int:
    nodes = (*figures.infer, *figures.followers)
    names = [*(worker.name for worker in figures.workers), *(node.name for node in nodes)]
    wanted = max(NAME_WIDTH, *map(len, names), 0)
    return max(min(wanted, NAME_WIDTH + width - WIDTH), LEAST_NAME_WIDTH)


def _head(figures: Figures, progress: Progress | None, width: int) -> list[Text]:
    title = Text.assemble((words.printable(figures.run), TITLE))
    if figures.waiting_for:
        title.append("  waiting for: ", ATTENTION)
        title.append(words.printable(figures.waiting_for))
    else:
        title.append(f"  {PHASES.get(figures.phase, figures.phase)}")
        if figures.release:
            title.append(f"  release {words.count(figures.release)}", QUIET)
    lines = [title]
    if progress is not None:
        lines.append(_bar(progress, width))
    elif figures.elapsed_s:  # a first look has no length
        lines.append(Text(words.duration(figures.elapsed_s), QUIET))
    return [*lines, Text(), _learning(figures)]


def _bar(progress: Progress, width: int) -> Text:
    """Its two parts differ in shape, not in colour alone."""
    done, total = max(progress.done, 0.0), progress.total
    label = f"{words.count(int(done))} {progress.unit}"
    if total > 0:
        share = min(done / total, 1.0)
        now, end = words.count(int(done)), words.count(int(total))
        label = f"{int(100 * share):>3} %  {now:>{len(end)}} of {end} {progress.unit}"
    label = words.printable("  ".join(part for part in (label, progress.text) if part))
    cells = min(max(width - len(label) - 2, 10), width - 2)
    if total <= 0 or cells < 10:
        return Text(label)
    filled = int(cells * share)
    return Text.assemble(("━" * filled, DONE), ("─" * (cells - filled), QUIET), "  ", label)


def _learning(figures: Figures) -> Text:
    line = Text.assemble(("loss ", QUIET), (words.reading(figures.loss), TITLE))
    metric = figures.metric
    if metric is None:
        return line.append("   not yet evaluated", QUIET)
    line.append(f"   {words.printable(metric.name)} ", QUIET)
    line.append(words.reading(metric.last.value), TITLE)
    return line.append(f" at release {words.count(metric.last.release)}{_compared(metric)}", QUIET)


def _compared(metric: Metric) -> str:
    first, best = f"   first {words.reading(metric.first.value)}", metric.best
    if best is None:
        return first
    if best == metric.last:
        return f", the best{first}"
    return f"   best {words.reading(best.value)} at {words.count(best.release)}{first}"


# -- blocks ---------------------------------------------------------------------------------------


def _nodes(figures: Figures, name_width: int) -> list[Text]:
    columns = (_Column("serving", name_width, "left"), *NODE_COLUMNS)
    # A follower that does well needs no line: what it measures stands above.
    nodes = [*figures.infer, *(follower for follower in figures.followers if follower.wait)]
    lines = [_titles(columns)] if nodes else []
    for node in nodes:
        lines.append(_node(node, columns))
        if node.steering:
            newest = f"the newest is {words.count(node.release)}"
            lines.append(Text(f"  {words.printable(node.steering)}; {newest}", ATTENTION))
        lines += _note(node.wait, figures.now)
    return lines


def _node(node: NodeFigures, columns: Sequence[_Column]) -> Text:
    release = words.count(node.served) if node.served or node.age_s is not None else words.NONE
    age = words.NONE if node.age_s is None else words.duration(node.age_s)
    line = _row(columns, [node.name, release, age])
    return line.append(f"  {words.printable(node.url)}")


def _shards(figures: Figures, name_width: int) -> list[Text]:
    columns = (_Column("shard", name_width, "left"), *SHARD_COLUMNS)
    lines = [_titles(columns)] if figures.shards else []
    for shard in figures.shards:
        cells = [
            str(shard.index),
            words.count(shard.version),
            words.rate(shard.updates_per_s),
            words.rate(shard.pushed_mb_per_s),
        ]
        line = _row(columns, cells)
        if shard.incarnation > 1:
            line.append(f"{GAP}incarnation {shard.incarnation}", QUIET)
        lines.append(line)
        lines += _note(shard.wait, figures.now)
        if shard.lost_updates:
            lines.append(Text(f"  lost at least {words.count(shard.lost_updates)} updates", QUIET))
    return lines


def _workers(figures: Figures, name_width: int) -> list[Text]:
    columns = (_Column("worker", name_width, "left"), *WORKER_COLUMNS)
    lines = [_titles(columns)] if figures.workers else []
    for worker in figures.workers:
        line = _row(columns, _worker_cells(worker))
        if not worker.live:
            line.stylize(QUIET)
        lines.append(line)
        lines += _note(worker.wait, figures.now)
        odd = _oddities(worker)
        if odd:
            lines.append(Text(f"  {odd}", QUIET))
    if figures.workers and len(figures.shards) > 1:
        lines.append(Text("applied and rejected count verdicts, one per push and shard", QUIET))
    return lines


def _worker_cells(worker: WorkerFigures) -> list[str]:
    return [
        worker.name,
        words.rate(worker.samples_per_s) if worker.live else "lost" if worker.lost else "left",
        words.percent(worker.share),
        f"med {worker.staleness_median}, max {worker.staleness_max}",
        words.count(worker.applied),
        words.count(sum(worker.rejected.values())),
        words.reading(worker.loss),
    ]


def _oddities(worker: WorkerFigures) -> str:
    """What became of pushes that were not applied; "" where all were."""
    odd = []
    if any(worker.rejected.values()):
        odd.append(f"rejected: {words.reasons(worker.rejected)}")
    if worker.skipped_nonfinite:
        odd.append(f"skipped: {words.count(worker.skipped_nonfinite)} not finite")
    return "; ".join(odd)


def _note(wait: Wait | None, now: float) -> list[Text]:
    if wait is None:
        return []
    return [
        Text(
            f"  {words.waiting(wait, now)}",
            TROUBLE if wait.kind in ("away", "silent", "quarantined") else ATTENTION,
        )
    ]


# -- lines ----------------------------------------------------------------------------------------


def _titles(columns: Sequence[_Column]) -> Text:
    line = _row(columns, [column.title for column in columns])
    line.stylize(QUIET)
    return line


def _row(columns: Sequence[_Column], cells: Sequence[str]) -> Text:
    line = Text()
    for i, (column, content) in enumerate(zip(columns, cells, strict=True)):
        cell = Text(words.printable(content), overflow="ellipsis")
        cell.align(column.align, column.width)
        line.append(GAP if i else "").append_text(cell)
    return line


def _lower(blocks: list[list[Text]], height: int) -> None:
    """Cut the longest blocks until all fit; the head stays whole."""
    for block in sorted(blocks[1:], key=len, reverse=True):
        excess = sum(map(len, blocks)) + len(blocks) - 1 - height
        if excess <= 0:
            return
        kept = max(len(block) - excess - 1, 2)
        if kept < len(block) - 1:
            missing = len(block) - kept
            block[kept:] = [Text(f"… {missing} more lines; `gradmq status` has them all", QUIET)]
