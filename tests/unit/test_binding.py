"""Numpy arrays as tensors of a layout, and gradients cut for their shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.binding import ArrayBinding, Gradients, scatter, vector_of
from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Tensor
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Publication

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


def publications(layout: Layout, flat: dict[int, Vector]) -> list[Publication]:
    """One for each shard, holding these tensors."""
    return [
        Publication(
            run="demo",
            shard=i,
            version=(1, 1),
            layout=layout.hash,
            crc=payload_crc(payload),
            payload=payload,
        )
        for i, payload in enumerate(Gradients(layout, flat).payloads)
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


@pytest.mark.parametrize("shards", [1, 2, 5, 20])
def test_values_come_back_through_any_number_of_shards(shards: int) -> None:
    layout = Layout(ArrayBinding(arrays()).tensors, shards)
    source, target = ArrayBinding(arrays(first=7.0)), ArrayBinding(arrays())
    target.install(layout, publications(layout, source.read()))
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(target.arrays[name], array)
        assert target.arrays[name].dtype == array.dtype


def test_arrays_are_written_in_place_whatever_their_memory_looks_like() -> None:
    transposed = np.zeros((2, 3), np.float32).T
    strided = np.zeros(8, np.float32)[::2]
    binding = ArrayBinding({"transposed": transposed, "strided": strided})
    layout = Layout(binding.tensors, 3)
    counted = {0: np.arange(6, dtype=np.float32), 1: np.arange(6, 10, dtype=np.float32)}
    binding.install(layout, publications(layout, counted))
    np.testing.assert_array_equal(transposed, np.arange(6).reshape(3, 2))
    np.testing.assert_array_equal(strided, np.arange(6, 10))
    np.testing.assert_array_equal(binding.read()[0], counted[0])


def test_what_was_read_does_not_change_with_the_arrays(binding: ArrayBinding) -> None:
    before = binding.read()
    binding.arrays["matrix"][...] = -1.0
    np.testing.assert_array_equal(before[0], np.arange(6))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 7))
def test_every_tensor_is_written_once_and_whole(sizes: list[int], shards: int) -> None:
    layout = Layout(tuple(Tensor(f"t{i}", "float32", (n,)) for i, n in enumerate(sizes)), shards)
    chance = np.random.default_rng(5)
    flat = {row: chance.random(size, np.float32) for row, size in enumerate(sizes)}
    written: dict[int, Vector] = {}

    def write(row: int, vector: Vector) -> None:
        assert row not in written
        written[row] = vector.copy()

    scatter(layout, publications(layout, flat), write)
    assert sorted(written) == [row for row, size in enumerate(sizes) if size]
    for row, vector in written.items():
        np.testing.assert_array_equal(vector, flat[row])


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
    assert [b"".join(payload) for payload in cut.payloads] == [
        np.zeros(2, np.float32).tobytes(),
        np.ones(2, np.float32).tobytes(),
    ]
    assert cut.crcs == [payload_crc(payload) for payload in cut.payloads]


def test_a_gradient_of_nothing_is_header_only(binding: ArrayBinding) -> None:
    cut = Gradients(Layout(binding.tensors, 2), {})
    assert (cut.finite, bits(cut.present), cut.payloads, cut.crcs) == (True, [], [(), ()], [0, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_says_so_and_has_nothing_to_send(value: float) -> None:
    layout = Layout((Tensor("w", "float32", (3,)),), 1)
    cut = Gradients(layout, {0: np.array([1.0, value, 2.0], np.float32)})
    assert not cut.finite
    assert cut.payloads == []


@pytest.mark.parametrize("value", [3e38, 1e-45])
def test_the_largest_and_smallest_values_are_finite(value: float) -> None:
    layout = Layout((Tensor("w", "float32", (100,)),), 1)
    assert Gradients(layout, {0: np.full(100, value, np.float32)}).finite


def test_a_payload_does_not_change_with_what_it_was_cut_from() -> None:
    layout = Layout((Tensor("w", "float32", (3,)),), 1)
    gradient = np.ones(3, np.float32)
    cut = Gradients(layout, {0: gradient})
    gradient[:] = 9.0
    assert b"".join(cut.payloads[0]) == np.ones(3, np.float32).tobytes()


def test_a_publication_without_elements_is_an_empty_vector() -> None:
    empty = Publication(
        run="demo", shard=0, version=(1, 1), layout="x", payload=array_payload(np.empty(0, "f4"))
    )
    assert vector_of(empty).shape == (0,)


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
