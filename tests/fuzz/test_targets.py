"""A few seconds of ``make fuzz``: no reader is broken by what it reads, slow at it, or greedy."""

from __future__ import annotations

import json
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import engine
from fuzz.engine import fuzz
from fuzz.mutate import Parts, mutations
from fuzz.targets import (
    COMPLETION_BODIES,
    INFER_BODIES,
    TARGETS,
    Target,
    checkpoint_metadata,
    read_checkpoint_metadata,
    read_completion_body,
    read_infer_body,
)


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutated_input_breaks_a_reader(name: str) -> None:
    target = TARGETS[name]
    stream = mutations(target.corpus(), Random(f"test {name}"))
    found = fuzz(target, islice(stream, target.inputs_in_tests))
    assert found.findings == []
    assert 0 < found.taken < found.inputs == target.inputs_in_tests


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_mutated_was_good(name: str) -> None:
    target = TARGETS[name]
    assert all(target.read(parts) for parts in target.corpus())


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from([1 << 63, -(1 << 63), 1e308, "1e999", "applied", "float32"]),
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=10,
    )


def with_another_value(value: Any, data: st.DataObject) -> Any:
    """The same, with something else in one place, however deep."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: with_another_value(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 4)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], with_another_value(value[at], data), *value[at + 1 :]]
    return data.draw(json_values())


GOOD = {
    "infer-body": (INFER_BODIES, read_infer_body),
    "completion-body": (COMPLETION_BODIES, read_completion_body),
    "checkpoint-metadata": (
        [json.loads(parts[0]) for parts in checkpoint_metadata()],
        read_checkpoint_metadata,
    ),
}


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_any_place_of_good_json_is_refused_or_harmless(
    name: str, data: st.DataObject
) -> None:
    documents, reader = GOOD[name]
    document = with_another_value(data.draw(st.sampled_from(documents)), data)
    assert reader([json.dumps(document).encode()]) in (True, False)


# -- the engine finds what it is there for --------------------------------------------------------


def target(read: Any) -> Target:
    return Target(lambda: [[b"good"]], read, 0)


def test_a_seed_gives_the_same_inputs() -> None:
    one, other, third = (
        list(islice(mutations([[b"good", b"parts"], [b"x"]], Random(seed)), 100)) for seed in "aab"
    )
    assert one == other != third


def test_whatever_a_reader_raises_is_a_finding_with_its_input() -> None:
    def read(parts: Parts) -> bool:
        if parts == [b"bad"]:
            raise SystemExit("gone")
        return True

    found = fuzz(target(read), [[b"x"], [b"bad"], [b"y"]])
    assert found.findings == [("SystemExit: gone", [b"bad"])]
    assert (found.inputs, found.taken) == (3, 2)


def test_what_takes_long_or_much_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LONGEST_S", 0.0)
    assert "it took 0.0" in fuzz(target(lambda parts: True), [[b"x"]]).findings[0][0]
    monkeypatch.setattr(engine, "LONGEST_S", 10.0)
    peaks = iter([0, 0, 1 << 20, 20 << 20])
    monkeypatch.setattr(engine, "_peak_bytes", lambda: next(peaks))
    found = fuzz(target(lambda parts: True), [[b"x"], [b"y"], [b"z"]])
    assert found.findings == [("it took 19 MiB", [b"z"])]
