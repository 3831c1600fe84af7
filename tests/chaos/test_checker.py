"""The checker finds each kind of broken promise where it was planted, and nothing in a good run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chaos.checker import FinalShard, Findings, Outage, check, survives
from chaos.history import Event, History, read
from chaos.tracer import Seen

PUSHES = 12


def seen(*pushes: int) -> Seen:
    return Seen(np.bincount(pushes, minlength=PUSHES), False)


def begun(push: int) -> Event:
    return {"what": "begun", "at": float(push), "push": push}


def verdict(push: int, outcome: str, version: tuple[int, int] | None) -> Event:
    return {"what": "verdict", "at": push + 0.5, "push": push, "session": 1, "seq": push + 1,
            "outcomes": [outcome], "versions": [version]}  # fmt: skip


def saw(version: tuple[int, int], **more: Any) -> Event:
    return {"what": "saw", "at": 9.0, "versions": [list(version)], "totals": [version[1]],
            "most": [1], "torn": [False], **more}  # fmt: skip


ENDED = {"what": "ended", "at": 10.0, "error": ""}


def good() -> tuple[dict[str, list[Event]], list[FinalShard]]:
    """One shard in two lives: push 2 was rolled back, push 3 rejected, push 4 of nobody knows."""
    worker = [
        {"what": "session", "at": 0.0, "session": 7},
        begun(0), verdict(0, "applied", (1, 1)), saw((1, 1), own=["1"]),
        begun(1), verdict(1, "applied", (1, 2)), begun(2), verdict(2, "applied", (1, 3)),
        saw((1, 3), own=["111"]), begun(3), verdict(3, "rejected", (2, 2)),
        saw((2, 2), own=["1100"]), begun(4), verdict(4, "unknown", None),
        begun(5), verdict(5, "applied", (2, 3)), saw((2, 3), own=["110001"]), ENDED,
    ]  # fmt: skip
    killed = [{"what": "session", "at": 0.0, "session": 8}, begun(6)]
    follower = [saw((1, 2), release=1), saw((2, 3), release=3), ENDED]
    final = FinalShard(3, ((1, -1), (2, 2)), seen(0, 1, 5), starts=2)
    return {"worker-1": worker, "worker-2": killed, "follower": follower}, [final]


def wrong(findings: Findings) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in findings.wrong.items() if texts}


def test_a_good_run_is_found_good_and_says_what_was_rolled_back() -> None:
    findings = check(*good(), "memory", [Outage(0.4, 0.6)])
    assert findings.good, findings.wrong
    assert findings.looked_at["applied"] == 4
    assert findings.looked_at["rolled back"] == 1


def test_what_a_journal_rolled_back_is_lost() -> None:
    assert wrong(check(*good(), "journal")) == {"lost": 1}


Change = Callable[[dict[str, list[Event]], list[FinalShard]], Any]


def final(histories: dict[str, list[Event]], finals: list[FinalShard], **changes: Any) -> None:
    finals[0] = replace(finals[0], **changes)


PLANTED: dict[str, tuple[str, Change]] = {
    "an applied push is not there": ("lost", lambda h, f: final(h, f, seen=seen(0, 5), version=2)),
    "a worker does not see its own": ("lost", lambda h, f: h["worker-1"][3].update(own=["0"])),
    "a push was applied twice": (
        "duplicated", lambda h, f: final(h, f, seen=seen(0, 1, 5, 5), version=4)),
    "a reader saw one twice": ("duplicated", lambda h, f: h["follower"][0].update(most=[2])),
    "two verdicts": (
        "duplicated", lambda h, f: h["worker-2"].append(verdict(5, "applied", (2, 3)))),
    "a rejected push is there": (
        "unexpected", lambda h, f: final(h, f, seen=seen(0, 1, 5, 3), version=4)),
    "what was rolled back is there": (
        "unexpected", lambda h, f: final(h, f, seen=seen(0, 1, 5, 2), version=4)),
    "a push that nobody made": (
        "unexpected", lambda h, f: final(h, f, seen=seen(0, 1, 5, 11), version=4)),
    "a push applied at no version": (
        "unexpected", lambda h, f: h["worker-1"][5].update(versions=[None])),
    "more lives than starts": ("unexpected", lambda h, f: final(h, f, starts=1)),
    "the final parameters are no version": ("torn", lambda h, f: final(h, f, version=4)),
    "a reader saw two versions in one": ("torn", lambda h, f: h["follower"][1].update(torn=[True])),
    "a reader saw another version than was said": (
        "torn", lambda h, f: h["follower"][1].update(totals=[2])),
    "a version that went back": ("backwards", lambda h, f: h["follower"].insert(1, saw((2, 4)))),
    "a release that went back": (
        "backwards", lambda h, f: h["follower"].insert(2, saw((2, 3), release=2))),
    "two workers with one session": (
        "repeated", lambda h, f: h["worker-2"][0].update(session=7)),
    "two releases with one number": (
        "repeated", lambda h, f: h["worker-2"].append(saw((2, 3), release=1))),
    "a push without an answer": (
        "unanswered", lambda h, f: h["worker-1"].insert(-1, begun(8))),
    "a worker that failed": ("failed", lambda h, f: h["worker-2"].append(dict(ENDED, error="x"))),
    "an answer that is an error": (
        "failed", lambda h, f: h["follower"].append({"what": "answered", "status": 500})),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_found(name: str) -> None:
    kind, change = PLANTED[name]
    histories, finals = good()
    change(histories, finals)
    assert wrong(check(histories, finals, "memory")).keys() == {kind}


def test_training_that_stands_still_without_a_broker_is_found() -> None:
    assert wrong(check(*good(), "memory", [Outage(6.0, 8.0)])) == {"stalled": 1}


def test_a_version_survives_unless_a_later_life_went_back_behind_it() -> None:
    lineage = ((1, -1), (2, 10), (4, 15))
    for version, is_there in (
        ((1, 10), True), ((1, 11), False), ((2, 15), True), ((2, 16), False),
        ((3, 16), False), ((4, 99), True),
    ):  # fmt: skip
        assert survives(version, lineage) is is_there


def test_of_a_history_cut_short_all_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.note("begun", push=1)
        history.saw([(1, 1)], [seen(0)])
    text = path.read_text()
    for length in range(len(text)):
        path.write_text(text[:length])
        assert [json.dumps(event) for event in read(path)] == text[:length].split("\n")[:-1]
