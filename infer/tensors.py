"""Tensors as the Open Inference Protocol's JSON has them: nested or flat lists, checked."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gradmq.infer.refusal import Refused, invalid, quoted

Array = np.ndarray[Any, np.dtype[Any]]

#: The protocol's datatypes, and what they are in numpy: BF16 is float32 that bfloat16 can hold,
#: BYTES are objects of type bytes.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.float32),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

#: Kinds of a parsed JSON list (numpy's letters; O is Python's own whole numbers) that a tensor of
#: each kind may be made of.
_ACCEPTED_KINDS: Final = {"b": "b", "i": "iuO", "u": "iuO", "f": "iuf"}

#: Bounds what a shape may promise beyond its data: [1000000000, 0] needs none.
_MAX_ELEMENTS = 2**26

#: Elements of one BYTES tensor: they are taken one by one.
MAX_TEXTS: Final = 2**16

_LARGEST_BFLOAT16: Final = float.fromhex("0x1.fep127")


def _limits(datatype: str) -> tuple[float, float]:
    """The least and the largest value of a datatype: ints of whole numbers, floats of others."""
    dtype = DTYPES[datatype]
    if dtype.kind in "iu":
        whole = np.iinfo(dtype)
        return int(whole.min), int(whole.max)
    if dtype.kind == "b":
        return False, True
    largest = _LARGEST_BFLOAT16 if datatype == "BF16" else float(np.finfo(dtype).max)
    return -largest, largest


_LIMITS: Final = {name: _limits(name) for name in DTYPES if name != "BYTES"}


def shape_from_json(value: object, accepted: tuple[int, ...], name: str) -> tuple[int, ...]:
    """A request's shape, checked against the model's, in which -1 is any size.

    Raises ``Refused`` 400.
    """
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise invalid(f"input {name!r}: shape must be a list of sizes, got {quoted(value)}")
    fits = len(value) == len(accepted) and all(
        want in (-1, size) for want, size in zip(accepted, value, strict=True)
    )
    if not fits:
        text = f"input {name!r}: shape {quoted(value)} does not fit the model's {list(accepted)}"
        raise invalid(text)
    if math.prod(max(size, 1) for size in value) > _MAX_ELEMENTS:
        text = f"input {name!r}: shape {quoted(value)} is larger than {_MAX_ELEMENTS} elements"
        raise invalid(text)
    return tuple(value)


def array_from_json(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """A new contiguous array of ``shape`` from nested or flat row-major ``data``.

    Raises ``Refused`` 400 for a wrong size, a value of another kind or out of the datatype's range.
    """
    dtype = DTYPES[datatype]
    parsed = _texts(data, name) if datatype == "BYTES" else _parse(data, dtype, name)
    if parsed.shape != shape and (parsed.ndim != 1 or parsed.size != math.prod(shape)):
        got = f"{parsed.size} values" if parsed.ndim == 1 else f"shape {list(parsed.shape)}"
        text = f"input {name!r}: data has {got}, shape {list(shape)} needs {math.prod(shape)}"
        raise invalid(text)
    if datatype == "BYTES":
        return parsed.reshape(shape)
    if parsed.size and parsed.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise invalid(f"input {name!r}: data holds values that are not {datatype}")
    if parsed.size and not _in_range(parsed, *_LIMITS[datatype]):
        raise invalid(f"input {name!r}: data holds values out of the range of {datatype}")
    array = np.ascontiguousarray(parsed.astype(dtype).reshape(shape))
    return as_bfloat16(array) if datatype == "BF16" else array


def _texts(data: object, name: str) -> Array:
    if not isinstance(data, list):
        raise invalid(f"input {name!r}: data must be a list, got {quoted(data)}")
    try:
        parsed = np.asarray(data, dtype=object)
    except ValueError:
        raise invalid(f"input {name!r}: data is neither flat nor evenly nested") from None
    if parsed.size > MAX_TEXTS:
        text = f"input {name!r}: {parsed.size} texts, at most {MAX_TEXTS} are taken"
        raise invalid(text)
    texts = np.empty(parsed.size, object)
    for index, value in enumerate(parsed.flat):
        if not isinstance(value, str):
            raise invalid(f"input {name!r}: data of BYTES must be strings, got {quoted(value)}")
        try:
            texts[index] = value.encode()
        except UnicodeEncodeError:
            text = f"input {name!r}: element {index} holds half a surrogate pair, which is no text"
            raise invalid(text) from None
    return texts.reshape(parsed.shape)


def _parse(data: object, dtype: np.dtype[Any], name: str) -> Array:
    if not isinstance(data, list):
        raise invalid(f"input {name!r}: data must be a list, got {quoted(data)}")
    try:
        parsed = np.asarray(data)
    except ValueError:
        text = f"input {name!r}: data is neither flat nor evenly nested"
        raise invalid(text) from None
    if dtype.kind in "iu" and parsed.dtype.kind in "fO":
        # numpy makes floats of whole numbers that int64 and uint64 only hold together.
        exact = np.asarray(data, dtype=object)
        if all(type(value) is int for value in exact.flat):
            return exact
    if parsed.dtype.kind not in "biuf":
        text = f"input {name!r}: data must hold numbers of at most 64 bits, or booleans"
        raise invalid(text)
    return parsed


def _in_range(parsed: Array, least: float, largest: float) -> bool:
    # Python's own numbers compare exactly, whatever kinds they are of.
    exact = float if parsed.dtype.kind == "f" else int
    return least <= exact(parsed.min()) and exact(parsed.max()) <= largest


def as_bfloat16(array: Array) -> Array:
    """float32 values rounded to the nearest that bfloat16 has, ties to even; a new array."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    # The carry of a NaN's low bits would make an infinity, or zero, of it.
    quiet = (bits | np.uint32(0x400000)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(array), quiet, rounded).view(np.float32)


def json_from_array(array: Array, name: str, number: int) -> list[Any]:
    """``array`` as a flat row-major list; refuses what JSON cannot write (``Refused`` 500)."""
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        text = f"output {name!r} of release {number} is NaN or infinite, which JSON cannot write"
        raise Refused(500, text + ": ask for it in binary")
    if array.dtype.kind == "O":
        return [_text(value, name, number) for value in array.reshape(-1)]
    flat: list[Any] = array.reshape(-1).tolist()
    return flat


def _text(value: bytes, name: str, number: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = f"output {name!r} of release {number} is not UTF-8, which JSON cannot write"
        raise Refused(500, text + ": ask for it in binary") from None
