"""A gradient makes the next version whole or leaves everything as it was, however it came cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq.layout import Layout, Run, Tensor, contiguous_runs
from gradmq.ps.optim import BLOCK, SGD, Vector
from gradmq.ps.parameters import Damaged, Gradient, NormAboveLimit, NotFinite, Parameters
from gradmq.ring import RingReader, RingWriter, own_memory
from gradmq.wire.codec import payload_chunks, payload_crc

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.1},
    "weight decay": {"lr": 0.1, "weight_decay": 0.01},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "Nesterov and weight decay": {
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.01,
    },
}

#: Two blocks, the last one cut; the second tensor lies in both, and a buffer between parameters.
SIZES = (BLOCK - 3, 5, 211, 300)
BUFFER = 2
LAYOUT = Layout(
    tuple(
        Tensor(f"t{i}", "float32", (size,), "buffer" if i == BUFFER else "parameter")
        for i, size in enumerate(SIZES)
    ),
    shards=1,
)
(PART,) = LAYOUT.parts
ALL = frozenset(range(len(SIZES)))


class Held:
    """Parameters, and a reader who looks on."""

    def __init__(self, optimizer: SGD, initial: Vector, max_norm: float | None = None) -> None:
        memory = own_memory(initial.size)
        self.optimizer = optimizer
        ring = RingWriter(memory, initial.size)
        self.parameters = Parameters(initial.size, optimizer, ring, max_norm)
        self.reader = RingReader(memory, initial.size)
        self.parameters.install(initial, {}, 0)

    def apply(
        self,
        *chunks: Vector,
        rows: frozenset[int] = ALL,
        crc: int | None = None,
        weight: float = 1.0,
    ) -> None:
        runs = contiguous_runs(PART.select(rows))
        self.parameters.apply(Gradient(chunks, crc), runs, weight)

    def twin(self) -> Held:
        """Another one with the same version, parameters and state."""
        twin = Held(self.optimizer, self.parameters.values)
        assert self.parameters.version is not None
        twin.parameters.install(
            self.parameters.values, self.parameters.state, self.parameters.version
        )
        return twin

    @property
    def bits(self) -> tuple[int | None, bytes, dict[str, bytes]]:
        """Version, parameters and state, to the last bit."""
        state = {name: vector.tobytes() for name, vector in self.parameters.state.items()}
        return self.parameters.version, self.parameters.values.tobytes(), state


def crc_of(*chunks: Vector) -> int:
    return payload_crc([chunk.tobytes() for chunk in chunks])


def cut(vector: Vector, *ends: int) -> list[Vector]:
    return np.split(vector, ends)


def random_vector(seed: int, size: int = PART.size) -> Vector:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.fixture(params=SETTINGS)
def held(request: pytest.FixtureRequest) -> Held:
    """Parameters that have some updates behind them, so that no state is zero."""
    held = Held(SGD(**SETTINGS[request.param]), random_vector(1))
    held.apply(random_vector(2))
    held.apply(random_vector(3))
    return held


# -- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, BLOCK, PART.size - 1], ids=["first", "between", "last"])
def test_one_value_that_is_not_finite_changes_nothing(held: Held, at: int, value: float) -> None:
    before, view = held.bits, held.reader.newest()
    wrong = random_vector(4)
    wrong[at] = value
    with pytest.raises(NotFinite):
        held.apply(wrong)
    assert held.bits == before
    assert held.reader.newest() == view
    assert held.reader.is_intact(view)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_gradient_above_the_limit_changes_nothing_and_one_below_is_applied_as_without(
    name: str,
) -> None:
    gradient = random_vector(4)
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    free = Held(SGD(**SETTINGS[name]), random_vector(1))
    limited = Held(SGD(**SETTINGS[name]), random_vector(1), max_norm=norm * 1.001)
    for held in (free, limited):
        held.apply(gradient)
        held.apply(random_vector(5) * np.float32(0.9))
    assert limited.bits == free.bits
    # Each block alone is below the limit; their sum is found above it in the last one.
    for longer in (gradient * np.float32(1.01), gradient * np.float32(1e30)):
        with pytest.raises(NormAboveLimit):
            limited.apply(longer)
        assert limited.bits == free.bits


@pytest.mark.parametrize("size", [3, PART.size])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_with_a_limit_what_is_not_finite_is_still_called_so(size: int, value: float) -> None:
    held = Held(SGD(lr=0.1), random_vector(1), max_norm=1e18)
    before = held.bits
    wrong = random_vector(4)
    wrong[size - 1] = value
    with pytest.raises(NotFinite):
        held.apply(wrong)
    assert held.bits == before


@pytest.mark.parametrize("at", [0, PART.size - 1], ids=["first", "last"])
def test_one_damaged_bit_changes_nothing(held: Held, at: int) -> None:
    before, view = held.bits, held.reader.newest()
    sent = random_vector(4)
    crc = crc_of(sent)
    sent.view(np.uint32)[at] ^= 1
    with pytest.raises(Damaged):
        held.apply(*cut(sent, 7, BLOCK), crc=crc)
    assert held.bits == before
    assert held.reader.newest() == view
    assert held.reader.is_intact(view)


def test_what_comes_after_a_refused_gradient_is_applied_as_if_that_had_not_come(
    held: Held,
) -> None:
    twin = held.twin()
    wrong = random_vector(4)
    wrong[-1] = np.nan
    for _ in range(4):
        with pytest.raises(NotFinite):
            held.apply(wrong)
        with pytest.raises(Damaged):
            held.apply(random_vector(5), crc=1)
    held.apply(random_vector(6))
    twin.apply(random_vector(6))
    assert held.bits == twin.bits


def test_the_last_version_can_be_read_while_the_next_is_made(held: Held) -> None:
    view, values = held.reader.newest(), held.parameters.values.copy()
    held.apply(random_vector(4))
    np.testing.assert_array_equal(view.values, values)
    assert held.reader.is_intact(view)
    newer = held.reader.newest()
    assert newer.version == view.version + 1 == held.parameters.version
    np.testing.assert_array_equal(newer.values, held.parameters.values)


def test_a_slot_that_is_lent_keeps_its_version_through_updates_and_refusals(held: Held) -> None:
    lent, values = held.parameters.slot, held.parameters.values.copy()
    held.parameters.lent.add(lent)
    view = held.reader.newest()
    wrong = random_vector(4)
    wrong[0] = np.nan
    for seed in range(6):
        held.apply(random_vector(seed))
        with pytest.raises(NotFinite):
            held.apply(wrong)
        assert held.parameters.slot != lent
    np.testing.assert_array_equal(view.values, values)
    assert held.reader.is_intact(view)


def test_a_slot_that_is_lent_keeps_its_version_through_a_rollback(held: Held) -> None:
    lent, values = held.parameters.slot, held.parameters.values
    held.parameters.lent.add(lent)
    before = values.tobytes()
    for version in range(5, 9):
        held.parameters.install(random_vector(version), {}, version)
        assert held.parameters.slot != lent
    assert values.tobytes() == before


def test_first_parameters_are_copied_and_state_that_is_missing_begins_fresh() -> None:
    held = Held(SGD(lr=0.1, momentum=0.9), random_vector(1))
    values = random_vector(7)
    held.parameters.install(values, {}, 41)
    held.apply(random_vector(8))
    assert held.parameters.version == 42
    np.testing.assert_array_equal(values, random_vector(7))
    assert held.parameters.state["momentum"].any()
    held.parameters.install(values, {"momentum": values}, 7)
    held.apply(random_vector(8))
    np.testing.assert_array_equal(values, random_vector(7))


# -- however it comes -----------------------------------------------------------------------------


@pytest.mark.parametrize("with_crc", [True, False], ids=["with crc", "without"])
@pytest.mark.parametrize(
    "ends",
    [
        (),
        (1,),
        (BLOCK,),
        (BLOCK - 4, BLOCK - 3, BLOCK - 2),
        (3, 3, BLOCK + 1, PART.size - 1),
        tuple(range(0, PART.size, 70_001)),
    ],
)
def test_where_a_gradient_is_cut_is_seen_nowhere(
    held: Held, ends: tuple[int, ...], with_crc: bool
) -> None:
    twin = held.twin()
    whole = random_vector(4)
    twin.apply(whole, weight=0.25)
    held.apply(*cut(whole, *ends), crc=crc_of(whole) if with_crc else None, weight=0.25)
    assert held.bits == twin.bits


@pytest.mark.parametrize("first", [{0}, {1, 3}, {BUFFER}, {0, BUFFER}, {0, 1, 2}])
def test_two_pushes_of_a_part_each_are_one_of_the_whole(held: Held, first: set[int]) -> None:
    twin = held.twin()
    whole = random_vector(4)
    twin.apply(whole)
    for rows in (frozenset(first), ALL - first):
        packed = np.concatenate([whole[p.offset : p.offset + p.size] for p in PART.select(rows)])
        held.apply(*cut(packed, 2, packed.size // 2), rows=rows)
    assert held.bits[1:] == twin.bits[1:]
    assert held.parameters.version == 4


def test_what_a_push_leaves_out_is_the_same_bit_for_bit_and_its_state_too(held: Held) -> None:
    before = held.parameters.values.copy()
    state = {name: vector.copy() for name, vector in held.parameters.state.items()}
    (piece,) = PART.select(frozenset({1}))
    held.apply(random_vector(4, piece.size), rows=frozenset({1}))
    inside = slice(piece.offset, piece.offset + piece.size)
    for vector, was in (
        (held.parameters.values, before),
        *((held.parameters.state[name], state[name]) for name in state),
    ):
        assert (vector[inside] != was[inside]).any()
        changed = vector.copy()
        changed[inside] = was[inside]
        np.testing.assert_array_equal(changed, was)


def test_a_buffers_difference_is_taken_away_at_full_weight_and_has_no_state(held: Held) -> None:
    before = held.parameters.values.copy()
    (piece,) = PART.select(frozenset({BUFFER}))
    inside = slice(piece.offset, piece.offset + piece.size)
    away = random_vector(4)
    held.apply(away, weight=0.25)
    np.testing.assert_array_equal(held.parameters.values[inside], before[inside] - away[inside])
    for vector in held.parameters.state.values():
        assert not vector[inside].any()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(0, 24), max_size=5).map(sorted),
    st.data(),
)
def test_any_tensors_in_any_pieces_are_applied_where_they_belong(
    tensors: list[tuple[int, bool]], ends: list[int], data: st.DataObject
) -> None:
    layout = Layout(
        tuple(
            Tensor(f"t{i}", "float32", (size,), "buffer" if is_buffer else "parameter")
            for i, (size, is_buffer) in enumerate(tensors)
        ),
        shards=1,
    )
    rows = data.draw(st.sets(st.integers(0, len(tensors) - 1)))
    pieces = list(layout.parts[0].select(frozenset(rows)))
    initial = np.arange(layout.parts[0].size, dtype=np.float32)
    held = Held(SGD(lr=0.5), initial)
    packed = np.arange(100, 100 + sum(p.size for p in pieces), dtype=np.float32)
    chunks = cut(packed, *(min(end, packed.size) for end in ends))
    expected, at = initial.copy(), 0
    for piece in pieces:
        rate = np.float32(1.0 if piece.is_buffer else 0.5)
        expected[piece.offset : piece.offset + piece.size] -= rate * packed[at : at + piece.size]
        at += piece.size
    held.parameters.apply(Gradient(tuple(chunks), crc_of(packed)), contiguous_runs(pieces), 1.0)
    np.testing.assert_array_equal(held.parameters.values, expected)


@pytest.mark.parametrize("parts", [[1, 3], [4, 4, 5], [3, 0, 2], [7, 1]])
def test_a_payload_cut_through_an_element_is_applied_like_any_other(parts: Sequence[int]) -> None:
    size = 6
    held = Held(SGD(lr=1.0), np.zeros(size, np.float32))
    sent = np.arange(size, dtype=np.float32).tobytes()
    payload, at = [], 0
    for nbytes in (*parts, 4 * size - sum(parts)):
        payload.append(sent[at : at + nbytes])
        at += nbytes
    chunks = payload_chunks(tuple(payload))
    runs: list[Run] = [(0, 0, size, False)]
    held.parameters.apply(Gradient(chunks, payload_crc(payload)), runs, 1.0)
    np.testing.assert_array_equal(held.parameters.values, -np.arange(size))


# -- the formula ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_its_formula(
    momentum: float, weight_decay: float, nesterov: bool, weight: float
) -> None:
    size = 1000
    optimizer = SGD(0.05, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    p = random_vector(1, size)
    held = Held(optimizer, p)
    b = np.zeros(size, np.float32)
    f32 = np.float32
    for step in range(5):
        g = random_vector(10 + step, size)
        held.parameters.apply(Gradient((g,), None), [(0, 0, size, False)], weight)
        g = f32(weight) * g + f32(weight_decay) * p
        b = f32(momentum) * b + g
        p = p - f32(0.05) * (g + f32(momentum) * b if nesterov else b)
    np.testing.assert_array_equal(held.parameters.values, p)
    if momentum:
        np.testing.assert_array_equal(held.parameters.state["momentum"], b)
