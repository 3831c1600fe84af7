"""Numpy arrays as tensors of a layout, and gradients cut for their shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.binding import (
    BLOCK,
    ArrayBinding,
    Gradients,
    first_not_finite,
    scatter,
    whole_tensors,
)
from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Tensor

Vector = npt.NDArray[np.float32]

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (3, 2),
    "scalar": (),
    "empty": (0, 4),
    "half": (4,),
}


def arrays(first: float = 0.0) -> dict[str, npt.NDArray[Any]]:
    """Eleven elements, counted up from the first."""
    out, at = {}, first
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        dtype = np.float16 if name == "half" else np.float32
        out[name] = np.arange(at, at + size, dtype=dtype).reshape(shape)
        at += size
    return out


def packed(layout: Layout, flat: dict[int, Vector]) -> list[Vector]:
    """The values of these tensors by shard."""
    vectors, finite = Gradients(layout, flat).packed()
    assert finite
    return vectors


def chunks(layout: Layout, flat: dict[int, Vector], elements: int = 3) -> list[list[Vector]]:
    """The same in chunks of so many elements, the last ones shorter."""
    return [
        [vector[at : at + elements] for at in range(0, vector.size, elements)]
        for vector in packed(layout, flat)
    ]


@pytest.fixture
def binding() -> ArrayBinding:
    return ArrayBinding(arrays())


# -- the table, and what it refuses ---------------------------------------------------------------


def test_arrays_are_parameters_in_their_own_order(binding: ArrayBinding) -> None:
    assert binding.tensors == (
        Tensor("matrix", "float32", (3, 2)),
        Tensor("scalar", "float32", ()),
        Tensor("empty", "float32", (0, 4)),
        Tensor("half", "float16", (4,)),
    )


@pytest.mark.parametrize("dtype", ["float64", "int32", "complex64", ">f4", "bool", "U3"])
def test_other_dtypes_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(LayoutMismatch, match=rf"^array 'w' is {np.dtype(dtype)}; .*float32"):
        ArrayBinding({"w": np.zeros(3, dtype)})


@pytest.mark.parametrize("value", [[1.0, 2.0], 3.0, None])
def test_what_is_no_array_is_refused_by_name(value: Any) -> None:
    with pytest.raises(LayoutMismatch, match=r"^'w' is a \w+; give a numpy array"):
        ArrayBinding({"w": value})


def test_an_array_that_cannot_be_written_is_refused() -> None:
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    with pytest.raises(LayoutMismatch, match="'w' is read-only; give a writable copy"):
        ArrayBinding({"w": array})


# -- reading and installing -----------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 2, 3, 100])
@pytest.mark.parametrize("shards", [1, 2, 5, 20])
def test_values_come_back_through_any_number_of_shards_and_chunks(
    shards: int, elements: int
) -> None:
    layout = Layout(ArrayBinding(arrays()).tensors, shards)
    source, target = ArrayBinding(arrays(first=7.0)), ArrayBinding(arrays())
    target.install(layout, chunks(layout, source.read(), elements))
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(target.arrays[name], array)
        assert target.arrays[name].dtype == array.dtype


def test_arrays_are_written_in_place_whatever_their_memory_looks_like() -> None:
    transposed = np.zeros((2, 3), np.float32).T
    strided = np.zeros(8, np.float32)[::2]
    binding = ArrayBinding({"transposed": transposed, "strided": strided})
    layout = Layout(binding.tensors, 3)
    counted = {0: np.arange(6, dtype=np.float32), 1: np.arange(6, 10, dtype=np.float32)}
    binding.install(layout, chunks(layout, counted))
    np.testing.assert_array_equal(transposed, np.arange(6).reshape(3, 2))
    np.testing.assert_array_equal(strided, np.arange(6, 10))
    np.testing.assert_array_equal(binding.read()[0], counted[0])


def test_a_shard_without_chunks_is_left_alone() -> None:
    binding = ArrayBinding({"w": np.zeros(4, np.float32)})
    layout = Layout(binding.tensors, 2)
    binding.install(layout, [(), (np.array([3.0, 4.0], np.float32),)])
    np.testing.assert_array_equal(binding.arrays["w"], [0, 0, 3, 4])
    binding.install(layout, [(np.array([1.0, 2.0], np.float32),), ()])
    np.testing.assert_array_equal(binding.arrays["w"], [1, 2, 3, 4])


def test_what_was_read_does_not_change_with_the_arrays(binding: ArrayBinding) -> None:
    before = binding.read()
    binding.arrays["matrix"][...] = -1.0
    np.testing.assert_array_equal(before[0], np.arange(6))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 8))
def test_every_element_is_written_once_where_it_belongs(
    sizes: list[int], shards: int, elements: int
) -> None:
    layout = Layout(tuple(Tensor(f"t{i}", "float32", (n,)) for i, n in enumerate(sizes)), shards)
    chance = np.random.default_rng(5)
    flat = {row: chance.random(size, np.float32) for row, size in enumerate(sizes)}
    written = {row: np.full(size, np.nan, np.float32) for row, size in enumerate(sizes)}

    def write(row: int, start: int, values: Vector) -> None:
        there = written[row][start : start + values.size]
        assert there.size == values.size > 0
        assert np.isnan(there).all()
        there[:] = values

    cut = chunks(layout, flat, elements)
    scatter(layout, cut, write)
    whole = whole_tensors(layout, cut)
    for row, vector in flat.items():
        np.testing.assert_array_equal(written[row], vector)
        np.testing.assert_array_equal(whole.get(row, np.empty(0)), vector)


def test_whole_tensors_keep_no_memory_of_the_chunks() -> None:
    layout = Layout((Tensor("a", "float32", (2,)), Tensor("b", "float32", (4,))), 1)
    vector = np.arange(6, dtype=np.float32)
    whole = whole_tensors(layout, [(vector[:3], vector[3:])])
    assert not any(np.shares_memory(tensor, vector) for tensor in whole.values())
    np.testing.assert_array_equal(whole[0], [0, 1])
    np.testing.assert_array_equal(whole[1], [2, 3, 4, 5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_the_tensor_with_a_value_that_is_not_finite_is_named(
    value: float, dtype: str, at: int
) -> None:
    layout = Layout((Tensor("a", dtype, (2,)), Tensor("b", dtype, (4,))), 2)
    vector = np.arange(6, dtype=np.float32)
    assert first_not_finite(layout, [(vector[:3],), (vector[3:],)]) == ""
    vector[at] = value
    assert first_not_finite(layout, [(vector[:3],), (vector[3:],)]) == ("a" if at < 2 else "b")


# -- gradients, cut -------------------------------------------------------------------------------


def bits(present: bytes | None) -> list[int]:
    assert present is not None
    return [row for row in range(8 * len(present)) if present[row // 8] >> row % 8 & 1]


def test_a_gradient_of_everything_needs_no_bitmap(binding: ArrayBinding) -> None:
    assert Gradients(Layout(binding.tensors, 2), binding.read()).present is None


def test_a_gradient_of_some_tensors_names_them_and_holds_only_them() -> None:
    layout = Layout(tuple(Tensor(f"t{i}", "float32", (2,)) for i in range(10)), 2)
    cut = Gradients(layout, {9: np.ones(2, np.float32), 0: np.zeros(2, np.float32)})
    assert cut.present is not None
    assert (len(cut.present), bits(cut.present)) == (2, [0, 9])
    assert cut.sizes == (2, 2)
    vectors, finite = cut.packed()
    assert finite
    assert [vector.tolist() for vector in vectors] == [[0.0, 0.0], [1.0, 1.0]]


def test_a_gradient_of_nothing_is_header_only(binding: ArrayBinding) -> None:
    cut = Gradients(Layout(binding.tensors, 2), {})
    vectors, finite = cut.packed()
    assert (finite, bits(cut.present), cut.sizes) == (True, [], (0, 0))
    assert [vector.tolist() for vector in vectors] == [[], []]


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, BLOCK + 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_says_so(value: float, at: int) -> None:
    layout = Layout((Tensor("w", "float32", (BLOCK + 5,)),), 2)
    gradient = np.ones(BLOCK + 5, np.float32)
    gradient[at] = value
    assert not Gradients(layout, {0: gradient}).packed()[1]


@pytest.mark.parametrize("value", [3e38, 1e-45])
def test_the_largest_and_smallest_values_are_finite(value: float) -> None:
    layout = Layout((Tensor("w", "float32", (100,)),), 1)
    assert Gradients(layout, {0: np.full(100, value, np.float32)}).packed()[1]


def test_what_was_packed_does_not_change_with_what_it_was_cut_from() -> None:
    layout = Layout((Tensor("w", "float32", (3,)),), 1)
    gradient = np.ones(3, np.float32)
    (vector,) = packed(layout, {0: gradient})
    gradient[:] = 9.0
    np.testing.assert_array_equal(vector, np.ones(3))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_packing_writes_each_shards_elements_into_its_slot_and_nothing_behind_them(
    shards: int,
) -> None:
    layout = Layout((Tensor("a", "float32", (4,)), Tensor("b", "float32", (6,))), shards)
    slots = [np.full(part.size, -1.0, np.float32) for part in layout.parts]
    cut = Gradients(layout, {1: np.arange(6, dtype=np.float32)})
    assert cut.pack(slots)
    written = [slot[:size] for slot, size in zip(slots, cut.sizes, strict=True)]
    np.testing.assert_array_equal(np.concatenate(written), np.arange(6))
    for slot, size in zip(slots, cut.sizes, strict=True):
        assert (slot[size:] == -1.0).all()


def test_what_lies_in_its_slot_already_is_looked_at_all_the_same() -> None:
    layout = Layout((Tensor("w", "float32", (4,)),), 1)
    slot = np.arange(4, dtype=np.float32)
    assert Gradients(layout, {0: slot}).pack([slot])
    np.testing.assert_array_equal(slot, np.arange(4))
    slot[2] = np.nan
    assert not Gradients(layout, {0: slot}).pack([slot])


# -- gradients by name ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_gradients_by_name_become_flat_float32(binding: ArrayBinding, dtype: str) -> None:
    named = binding.named({"scalar": np.array(3, dtype), "matrix": np.ones((3, 2), dtype)})
    assert {row: vector.tolist() for row, vector in named.items()} == {1: [3.0], 0: [1.0] * 6}
    assert {vector.dtype for vector in named.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("gradients", "why"),
    [
        ({"matrx": 1.0}, "no tensor is called 'matrx'; there are matrix, scalar, empty, half"),
        ({"matrix": np.ones(6)}, r"'matrix' has shape \[6\], the tensor \[3, 2\]"),
        ({"scalar": np.array(1j)}, "'scalar' is complex128; use float32"),
        ({"scalar": np.array(True)}, "'scalar' is bool; use float32"),
        ({"scalar": "a"}, "'scalar' is <U1; use float32"),
    ],
)
def test_gradients_that_do_not_fit_are_refused_by_name(
    binding: ArrayBinding, gradients: dict[str, Any], why: str
) -> None:
    with pytest.raises(LayoutMismatch, match=why):
        binding.named(gradients)
