"""A run as plain lines, for logs and wherever there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator

from gradmq.view import words
from gradmq.view.figures import Figures, Wait

#: Often enough to see that it lives, seldom enough to read a whole run.
LINE_EVERY_S = 5.0

#: More waits than this that begin or end at once are counted, not listed.
LISTED = 3


class PlainLines:
    """Says what is new: a line every few seconds, and at once what waits, comes or is measured."""

    def __init__(self) -> None:
        self._due_at = 0.0
        self._waiting_for = ""
        self._waits: dict[str, Wait] = {}
        self._evaluated: int | None = None
        self._urls: set[str] = set()

    def lines(self, figures: Figures) -> list[str]:
        """What to print after an update of ``figures``; each line without its newline."""
        texts = [*self._phase(figures), *self._events(figures)]
        if figures.elapsed_s >= self._due_at:
            self._due_at = figures.elapsed_s + LINE_EVERY_S
            if not figures.waiting_for:
                texts.append(_regular(figures))
        return [f"[{int(figures.elapsed_s):>4} s] {text}" for text in texts]

    def _phase(self, figures: Figures) -> Iterator[str]:
        if figures.waiting_for == self._waiting_for:
            return
        self._waiting_for = figures.waiting_for
        if figures.waiting_for:
            yield f"waiting for: {words.printable(figures.waiting_for)}"
        else:
            yield f"{words.printable(figures.run)} has started"

    def _events(self, figures: Figures) -> Iterator[str]:
        if not figures.waiting_for:  # until then every member waits, for the same
            yield from self._changed_waits(figures)
        for node in figures.infer:
            if node.url and node.url not in self._urls:
                self._urls.add(node.url)
                who, url = words.printable(node.name), words.printable(node.url)
                yield f"{who} serves at {url} (open it in a browser)"
        metric = figures.metric
        if metric is not None and metric.last.release != self._evaluated:
            self._evaluated = metric.last.release
            best = ", the best so far" if metric.last == metric.best else ""
            value = words.reading(metric.last.value)
            name = words.printable(metric.name)
            yield f"release {words.count(metric.last.release)}: {name} {value}{best}"

    def _changed_waits(self, figures: Figures) -> Iterator[str]:
        waits = _waits(figures)
        begun = [
            f"{who} {words.waiting(wait, figures.now)}"
            for who, wait in waits.items()
            if who not in self._waits or self._waits[who].kind != wait.kind
        ]
        present = _present(figures)
        ended = [
            f"{who} goes on after {words.duration(figures.now - wait.since)}"
            if who in present
            else f"{who} has left"
            for who, wait in self._waits.items()
            if who not in waits
        ]
        self._waits = waits
        yield from _listed(begun, "more began to wait")
        yield from _listed(ended, "more waits ended")


def _regular(figures: Figures) -> str:
    parts = [
        words.printable(figures.run),
        f"updates {words.count(figures.updates)} ({words.rate(figures.updates_per_s)}/s)",
        f"loss {words.reading(figures.loss)}",
    ]
    if figures.metric is not None:
        name = words.printable(figures.metric.name)
        parts.append(f"{name} {words.reading(figures.metric.last.value)}")
    if figures.staleness:
        median = words.median(figures.staleness)
        parts.append(f"staleness {median}/{max(figures.staleness)}")
    rejected = words.reasons(figures.rejected) or "0"
    parts.append(f"rejected {rejected}")
    parts.append(_release(figures))
    return "  ".join(parts)


def _release(figures: Figures) -> str:
    """What is served, by the node that is furthest behind; else the newest there is."""
    served = [node for node in figures.infer if node.live and node.age_s is not None]
    if not served:
        return f"release {words.count(figures.release)}"
    last = min(served, key=lambda node: node.served)
    return f"release {words.count(last.served)} (age {words.duration(last.age_s or 0.0)})"


def _waits(figures: Figures) -> dict[str, Wait]:
    """By a name that says what it is."""
    waits = {f"shard {shard.index}": shard.wait for shard in figures.shards}
    waits |= {words.printable(worker.name): worker.wait for worker in figures.workers}
    nodes = (*figures.infer, *figures.followers)
    waits |= {words.printable(node.name): node.wait for node in nodes}
    return {who: wait for who, wait in waits.items() if wait is not None}


def _present(figures: Figures) -> set[str]:
    names = {f"shard {shard.index}" for shard in figures.shards}
    names |= {words.printable(worker.name) for worker in figures.workers if worker.live}
    nodes = (*figures.infer, *figures.followers)
    return names | {words.printable(node.name) for node in nodes if node.live}


def _listed(texts: list[str], more: str) -> Iterator[str]:
    yield from texts[:LISTED]
    if len(texts) > LISTED:
        yield f"{len(texts) - LISTED} {more}"
