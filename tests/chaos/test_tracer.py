"""The tracer model shows each push, how often it was applied, and a vector made of two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.tracer import Tracer

TRACER = Tracer(shards=2, pushes=40, copies=3)


def applied(pushes: list[int]) -> dict[str, np.ndarray]:
    arrays = TRACER.zeros()
    for push in pushes:
        for name, gradient in TRACER.gradient(push).items():
            arrays[name] = arrays[name] - gradient
    return arrays


@given(st.dictionaries(st.integers(0, 39), st.integers(1, 3)))
def test_what_was_applied_is_read_from_the_parameters(times: dict[int, int]) -> None:
    pushes = [push for push, count in times.items() for _ in range(count)]
    for shard in TRACER.read(applied(pushes)):
        assert not shard.is_torn
        assert {p: int(c) for p, c in enumerate(shard.counts) if c} == times
        assert shard.total == len(pushes)


@pytest.mark.parametrize("element", range(24))
def test_one_element_of_another_version_is_seen(element: int) -> None:
    arrays = applied([0, 13, 27, 39])
    flat = np.concatenate(list(arrays.values()))
    flat[element] += 1
    torn = [TRACER.read_shard(part).is_torn for part in flat.reshape(2, -1)]
    assert torn == [element < 12, element >= 12]


def test_what_no_push_adds_is_torn() -> None:
    for wrong in (-1.0, 0.5, 4.0**12):
        vector = np.full(3 * TRACER.elements, wrong, np.float32)
        assert TRACER.read_shard(vector).is_torn
