"""The end of a run on one screen: what was learned, what became of the pushes, what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from gradmq.view import words
from gradmq.view.figures import Figures, Metric

#: More values of staleness than this are joined into ranges, each twice as wide as the one before.
MOST_BARS = 10

BAR_CELLS = 30

#: A completion is shown up to here; the first release of a model never stops by itself.
COMPLETION_LINES = 6
COMPLETION_CELLS = 300

EIGHTHS = " ▏▎▍▌▋▊▉"

LABEL_WIDTH = 14


@dataclass(frozen=True, slots=True)
class Completion:
    """What a release made of the run's prompt."""

    release: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """Everything the summary tells."""

    run: str
    reason: str
    """Why the run ended, as in "90 s of training", "Ctrl-C", "accuracy >= 0.9 reached"."""
    seconds: float
    """Of training, from the first update."""
    updates: int
    """Made by this run; what it was resumed from had ``updates_before``."""
    samples: int
    rejected: Mapping[str, int]
    staleness: Mapping[int, int]
    """Applied pushes by staleness."""
    metric: Metric | None
    folder: str
    serve_command: str
    updates_before: int = 0
    skipped_nonfinite: int = 0
    lost_updates: int = 0
    prompt: str = ""
    completions: Sequence[Completion] = ()
    """Of the first and the last release, in this order; empty for a model that does no text."""


def run_end(
    figures: Figures,
    *,
    reason: str,
    seconds: float,
    folder: str,
    serve_command: str,
    updates_before: int = 0,
    prompt: str = "",
    completions: Sequence[Completion] = (),
) -> RunEnd:
    """The end of the run that ``figures`` followed to its last status."""
    return RunEnd(
        run=figures.run,
        reason=reason,
        seconds=seconds,
        updates=figures.updates - updates_before,
        updates_before=updates_before,
        samples=figures.samples,
        rejected=figures.rejected,
        staleness=figures.staleness,
        metric=figures.metric,
        folder=folder,
        serve_command=serve_command,
        skipped_nonfinite=sum(worker.skipped_nonfinite for worker in figures.workers),
        lost_updates=sum(shard.lost_updates for shard in figures.shards),
        prompt=prompt,
        completions=completions,
    )


def summary(end: RunEnd) -> Text:
    """The summary, for ``console.print(..., soft_wrap=True)``; ``.plain`` is the same as a str.

    Paths and commands are never cut, so that they can be copied; all else stays below 80 cells.
    """
    blocks = [_result(end), _staleness(end), _completions(end), _left(end)]
    return Text("\n\n").join(block for block in blocks if block)


def _result(end: RunEnd) -> Text:
    title = Text.assemble((words.printable(end.run), "bold"), f" ended: {end.reason}")
    lines = [title, Text()]
    metric = end.metric
    if metric is not None:
        first, last, best = metric.first, metric.last, metric.best
        change = Text.assemble(
            words.reading(first.value), " → ", (words.reading(last.value), "bold")
        )
        change.append(
            f"  release {words.count(first.release)} to {words.count(last.release)}", "dim"
        )
        if best is not None and best != last:
            change.append(
                f", best {words.reading(best.value)} at {words.count(best.release)}", "dim"
            )
        lines.append(_labelled(words.printable(metric.name), change))
    per_s = 1 / end.seconds if end.seconds > 0 else 0.0
    updates = f"{words.count(end.updates)} in {words.duration(end.seconds)}"
    updates += f", {words.rate(end.updates * per_s)} per second"
    if end.updates_before:
        updates += f"; {words.count(end.updates_before)} before"
    lines.append(_labelled("updates", updates))
    samples = f"{words.count(end.samples)}, {words.rate(end.samples * per_s)} per second"
    lines.append(_labelled("samples", samples))
    lines.append(_labelled("rejected", words.reasons(end.rejected) or "none"))
    if end.skipped_nonfinite:
        lines.append(
            _labelled(
                "skipped", f"{words.count(end.skipped_nonfinite)} gradients that were not finite"
            )
        )
    if end.lost_updates:
        lines.append(_labelled("lost", f"at least {words.count(end.lost_updates)} updates"))
    return Text("\n").join(lines)


def _staleness(end: RunEnd) -> Text:
    if not end.staleness:
        return Text()
    median, total = words.median(end.staleness), sum(end.staleness.values())
    lines = [_labelled("staleness", f"median {median}, max {max(end.staleness)}")]
    bars = _bars(end.staleness)
    tallest = max(number for _, number in bars)
    for name, number in bars:
        bar = _bar(number / tallest)
        figures = f"  {words.count(number):>9}  {words.percent(number / total):>5}"
        lines.append(Text.assemble(f"{name:>{LABEL_WIDTH + 2}}  ", (bar, "green"), figures))
    return Text("\n").join(lines)


def _bars(staleness: Mapping[int, int]) -> list[tuple[str, int]]:
    """One bar a value, gaps included; or ranges where that would be too many."""
    most = max(staleness)
    if most < MOST_BARS:
        return [(str(value), staleness.get(value, 0)) for value in range(most + 1)]
    bars = []
    low, high = 0, 0
    while low <= most:
        number = sum(n for value, n in staleness.items() if low <= value <= high)
        bars.append((str(low) if low == high else f"{low}–{high}", number))
        low, high = high + 1, max(2 * high + 1, 1)
    return bars


def _bar(share: float) -> str:
    """What is there is seen, were it one in a million."""
    eighths = max(round(share * BAR_CELLS * 8), 1 if share > 0 else 0)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + EIGHTHS[part].strip()).ljust(BAR_CELLS)


def _completions(end: RunEnd) -> Text:
    if not end.completions:
        return Text()
    lines = [_labelled("prompt", _short(end.prompt))]
    for completion in end.completions:
        lines.append(
            _labelled(f"release {words.count(completion.release)}", _short(completion.text))
        )
    return Text("\n").join(lines)


def _short(text: str) -> str:
    """Foreign text on a few indented lines of this terminal, harmless."""
    room = 80 - LABEL_WIDTH - 4
    lines = []
    for line in words.printable(text[:COMPLETION_CELLS].expandtabs(4), keep="\n").split("\n"):
        lines += [line[i : i + room] for i in range(0, max(len(line), 1), room)]
    more = len(lines) > COMPLETION_LINES or len(text) > COMPLETION_CELLS
    lines = lines[:COMPLETION_LINES]
    while lines and not lines[-1].strip():
        lines.pop()
    indent = "\n" + " " * (LABEL_WIDTH + 4)
    if not lines:
        return "(only white space)" if text else "(nothing)"
    return indent.join(lines) + (" …" if more else "")


def _left(end: RunEnd) -> Text:
    lines = [_labelled("run folder", end.folder)]
    if end.serve_command:
        lines.append(_labelled("serve it again", Text(end.serve_command, "bold")))
    return Text("\n").join(lines)


def _labelled(label: str, value: str | Text) -> Text:
    return Text.assemble("  ", (label.ljust(LABEL_WIDTH), "dim"), "  ", value)
