"""A follower that holds the newest release and does nothing with it."""

from __future__ import annotations

from typing import Any

from gradmq.bench import workload
from gradmq.bench.child import Parent, run
from gradmq.infer.follower import Follower

#: The first release is there already, or is made within a second.
JOIN_S = 60.0


def main(parent: Parent, spec: dict[str, Any]) -> None:
    parent.say("up")
    parent.await_word("join")
    with Follower(workload.model(spec["mb"]), spec["address"]) as follower:
        follower.update(timeout=JOIN_S)
        parent.say("joined")
        parent.await_word("leave")


if __name__ == "__main__":
    run(main)
