"""How a planted bug is looked for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest

from gradmq.sim.violation import Violation
from gradmq.sim.world import play

#: In so many schedules every planted bug must be found.
SEEDS = 2000


@pytest.fixture
def find() -> Callable[[int], Violation]:
    """Play the seed that has shown it before, then all in order, to the first violation."""

    def first(hint: int) -> Violation:
        for seed in chain([hint], range(SEEDS)):
            try:
                play(seed)
            except Violation as violation:
                print(violation)  # it names the seed, which is the new hint
                return violation
        pytest.fail(f"not found in {SEEDS} schedules")

    return first
