"""Tensors as the binary extension has them: raw, little-endian, row-major, one after the other."""

from __future__ import annotations

import math
import struct
from typing import Final

import numpy as np

from gradmq.infer.refusal import invalid
from gradmq.infer.tensors import DTYPES, MAX_TEXTS, Array, as_bfloat16

#: Before each element of a BYTES tensor: how many bytes it has.
_LENGTH: Final = struct.Struct("<I")


def array_from_bytes(raw: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """The tensor of ``shape`` that ``raw`` holds; shares its memory where it can.

    Raises ``Refused`` 400 if ``raw`` is not exactly that tensor.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(raw, count, name).reshape(shape)
    stored = np.dtype("<u2") if datatype == "BF16" else DTYPES[datatype].newbyteorder("<")
    if len(raw) != count * stored.itemsize:
        need = f"shape {list(shape)} of {datatype} needs {count * stored.itemsize}"
        raise invalid(f"input {name!r}: binary_data_size is {len(raw)}, {need}")
    if datatype == "BOOL":
        as_numbers = np.frombuffer(raw, np.uint8)
        if as_numbers.max(initial=0) > 1:
            raise invalid(f"input {name!r}: a BOOL is one byte, 0 or 1")
    values = np.frombuffer(raw, stored)
    if datatype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    # Behind a JSON header of any length the values may lie where torch cannot read them.
    return np.require(values, DTYPES[datatype], ["C", "A"]).reshape(shape)


def bytes_from_array(array: Array, datatype: str) -> bytes:
    """``array``, of the dtype that ``datatype`` has in ``DTYPES``, as it travels."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in array.reshape(-1))
    if datatype == "BF16":
        return (as_bfloat16(array).view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _texts(raw: memoryview, count: int, name: str) -> Array:
    if count > MAX_TEXTS:
        raise invalid(f"input {name!r}: {count} elements of BYTES, at most {MAX_TEXTS} are taken")
    texts = np.empty(count, object)
    start = 0
    for index in range(count):
        begin = start + _LENGTH.size
        end = begin + _LENGTH.unpack_from(raw, start)[0] if begin <= len(raw) else begin
        if end > len(raw):
            raise invalid(f"input {name!r}: its bytes end within element {index} of {count}")
        texts[index] = bytes(raw[begin:end])
        start = end
    if start != len(raw):
        text = f"input {name!r}: {len(raw) - start} bytes follow the last of {count} elements"
        raise invalid(text)
    return texts
