"""The layout: tensors of any shape cut into any number of shards, and its bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Piece, Tensor, contiguous_runs

#: 11 elements: no number of shards but 1 and 11 divides them.
UNEVEN = (
    Tensor("a", "float32", (2, 3)),
    Tensor("scalar", "float32", ()),
    Tensor("empty", "float32", (0, 4)),
    Tensor("b", "float16", (3,)),
    Tensor("mean", "float32", (1,), "buffer"),
)


def layouts() -> st.SearchStrategy[Layout]:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    kinds = st.sampled_from(["parameter", "buffer"])
    rows = st.lists(st.tuples(shapes, kinds), max_size=8)
    return st.builds(
        lambda rows, shards: Layout(
            tuple(Tensor(f"t{i}", "float32", shape, kind) for i, (shape, kind) in enumerate(rows)),
            shards,
        ),
        rows,
        st.integers(1, 9),
    )


# -- the cut --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shards", "sizes"),
    [
        (1, [11]),
        (2, [5, 6]),
        (5, [2, 2, 2, 2, 3]),
        (13, [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_shards_differ_by_at_most_one_element(shards: int, sizes: list[int]) -> None:
    parts = Layout(UNEVEN, shards).parts
    assert [part.size for part in parts] == sizes
    assert [part.nbytes for part in parts] == [4 * size for size in sizes]
    assert [part.index for part in parts] == list(range(shards))


def test_a_tensor_may_lie_in_several_shards() -> None:
    first, second = Layout(UNEVEN, 2).parts
    assert first.pieces == (Piece(tensor=0, start=0, offset=0, size=5, is_buffer=False),)
    assert second.pieces == (
        Piece(tensor=0, start=5, offset=0, size=1, is_buffer=False),
        Piece(tensor=1, start=0, offset=1, size=1, is_buffer=False),
        Piece(tensor=3, start=0, offset=2, size=3, is_buffer=False),
        Piece(tensor=4, start=0, offset=5, size=1, is_buffer=True),
    )


def test_a_zero_dimensional_tensor_is_one_element_and_an_empty_one_none() -> None:
    assert [tensor.size for tensor in UNEVEN] == [6, 1, 0, 3, 1]


def test_a_model_without_elements_has_empty_shards() -> None:
    for tensors in ((), (Tensor("empty", "float32", (0,)),)):
        layout = Layout(tensors, 3)
        assert layout.size == 0
        assert [(part.size, part.pieces) for part in layout.parts] == [(0, ())] * 3


@given(layouts())
def test_every_element_lies_in_exactly_one_piece(layout: Layout) -> None:
    covered = [
        (piece.tensor, piece.start + i)
        for part in layout.parts
        for piece in part.pieces
        for i in range(piece.size)
    ]
    assert covered == [(row, i) for row, t in enumerate(layout.tensors) for i in range(t.size)]


@given(layouts())
def test_shards_are_neighbours_and_pieces_fill_them(layout: Layout) -> None:
    for part, following in pairwise(layout.parts):
        assert part.start + part.size == following.start
    for part in layout.parts:
        ends = [0]
        for piece in part.pieces:
            assert piece.offset == ends[-1]
            ends.append(piece.offset + piece.size)
        assert ends[-1] == part.size


def test_the_pieces_of_some_tensors_keep_their_order() -> None:
    (part,) = Layout(UNEVEN, 1).parts
    assert [piece.tensor for piece in part.select(frozenset({4, 0, 2}))] == [0, 4]


# -- runs -----------------------------------------------------------------------------------------


def test_neighbouring_pieces_become_one_run() -> None:
    (part,) = Layout(UNEVEN, 1).parts
    assert contiguous_runs(part.pieces) == [(0, 0, 10, False), (10, 10, 1, True)]


def test_a_run_ends_where_a_tensor_is_absent() -> None:
    (part,) = Layout(UNEVEN, 1).parts
    without_scalar = part.select(frozenset({0, 3, 4}))
    assert contiguous_runs(without_scalar) == [(0, 0, 6, False), (7, 6, 3, False), (10, 9, 1, True)]


@given(layouts(), st.frozensets(st.integers(0, 7)))
def test_runs_cover_the_pieces_back_to_back(layout: Layout, present: frozenset[int]) -> None:
    for part in layout.parts:
        pieces = list(part.select(present))
        in_shard: list[tuple[int, bool]] = []
        packed = 0
        for offset, start, size, is_buffer in contiguous_runs(pieces):
            assert start == packed
            packed += size
            in_shard += [(offset + i, is_buffer) for i in range(size)]
        assert in_shard == [(p.offset + i, p.is_buffer) for p in pieces for i in range(p.size)]


# -- bytes and hash -------------------------------------------------------------------------------


@given(layouts())
def test_a_layout_comes_back_from_its_bytes(layout: Layout) -> None:
    assert Layout.from_bytes(layout.to_bytes()) == layout
    assert Layout.from_bytes(memoryview(layout.to_bytes())).hash == layout.hash


def test_the_hash_is_the_same_in_every_process_and_release() -> None:
    assert Layout(UNEVEN, 2).hash == "f285bc7ff6427b80"


def other_than(row: int, **changes: object) -> tuple[Tensor, ...]:
    before = {name: getattr(UNEVEN[row], name) for name in ("name", "dtype", "shape", "kind")}
    return (*UNEVEN[:row], Tensor(**{**before, **changes}), *UNEVEN[row + 1 :])


@pytest.mark.parametrize(
    ("tensors", "shards", "difference"),
    [
        (UNEVEN, 3, "cut into 2 shards, the other into 3"),
        (other_than(0, shape=(3, 2)), 2, r"parameter 'a' float32\[2, 3\] where .*float32\[3, 2\]"),
        (other_than(1, name="scale"), 2, "'scalar' .* where the other has .*'scale'"),
        (other_than(3, dtype="bfloat16"), 2, "'b' float16.* where the other has .*bfloat16"),
        (other_than(4, kind="parameter"), 2, "buffer 'mean' .* where the other has parameter"),
        (UNEVEN[:-1], 2, "it has besides buffer 'mean'"),
        ((*UNEVEN, Tensor("bias", "float32", (1,))), 2, "it lacks parameter 'bias'"),
    ],
)
def test_a_mismatch_names_the_first_difference(
    tensors: tuple[Tensor, ...], shards: int, difference: str
) -> None:
    mine, other = Layout(UNEVEN, 2), Layout(tensors, shards)
    assert mine.hash != other.hash
    with pytest.raises(
        LayoutMismatch, match=rf"^this model does not match the run's: .*{difference}"
    ):
        mine.require_equal(other, "this model", "the run's")


def test_equal_layouts_match() -> None:
    Layout(UNEVEN, 2).require_equal(Layout(tuple(UNEVEN), 2), "this model", "the run's")
