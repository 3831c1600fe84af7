"""The promises hold in every one of these schedules; a seed that fails is named with its replay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from gradmq.ps.policy import Admission, Bounded
from gradmq.sim.__main__ import main
from gradmq.sim.many import play_all
from gradmq.sim.plan import HARD_WEIGHTS, SHARD_STEPS, WEIGHTS, draw_plan
from gradmq.sim.violation import Violation
from gradmq.sim.world import play

SEEDS = 5000
CHUNK = 1000


@pytest.mark.timeout(180)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_all_promises_are_kept(first: int) -> None:
    broken = [
        text for violations, *_ in play_all(range(first, first + CHUNK)) for text in violations
    ]
    assert not broken, "\n".join(broken)


def played(seed: int) -> str:
    try:
        play(seed)
    except Violation as violation:
        return str(violation)
    return ""


def test_the_schedules_meet_what_they_are_made_for() -> None:
    counts: Counter[str] = Counter()
    for seed in range(250):
        counts.update(play(seed))
    expected = {
        *(f"fault: {kind}" for kind in (*WEIGHTS, *HARD_WEIGHTS)),
        *(f"died: {step}" for step in (*SHARD_STEPS, "before a message")),
        *(f"told {outcome}" for outcome in ("applied", "unknown")),
        *(f"told rejected ({reason})" for reason in ("stale", "lost_base")),
        "lost with a connection",
        "lost by the weather",
        "doubled by the weather",
        "reordered by the weather",
        "dropped by a full queue",
        "answers to nobody",
        "fetches",
        "queries",
        "shard says reattach",
        "shard says not_seen",
        "refused for fenced",
        "refused for release",
        "sessions fenced",
        "ended by a successor",
        "saves",
        "seeds",
        "releases taken",
        "updates lost by restarts",
        "updates reported as lost, at least",
        "damage refused",
        "damaged checkpoints",
        "journals replayed",
        "rollbacks",
        "shards superseded",
        "shards without their disk",
        "superseded shards refused",
    }
    assert {what for what in expected if not counts[what]} == set()


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    program = (
        "from gradmq.sim.world import play; lines = []; counts = play(11, lines.append); "
        "import zlib; print(zlib.crc32(chr(10).join(lines).encode()), sorted(counts.items()))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert "applied" in outputs[0]


def test_a_schedule_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "11"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(str(draw_plan(11)))
    assert "◀ worker-1" in told
    assert "the faults are over" in told
    assert told.endswith("all promises were kept\n")


def test_many_schedules_end_with_their_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--first", "5"]) == 0
    assert "3 schedules, 0 failed" in capsys.readouterr().out


def test_a_failing_seed_prints_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bounded, "admit", lambda self, staleness: Admission(True))
    seed = next(seed for seed in range(100) if played(seed))
    assert main(["--seeds", "1", "--first", str(seed)]) == 1
    assert f"python -m gradmq.sim --seed {seed}]" in capsys.readouterr().out
    assert main(["--seed", str(seed)]) == 1
    printed = capsys.readouterr()
    assert "VIOLATION staleness" in printed.out
    assert "staleness" in printed.err
