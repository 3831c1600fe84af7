"""The measured work, ps-echo: a model in eight tensors, gradients of small integers, the outcome.

Every worker pushes the same gradient again and again. Its elements are whole numbers from 1 to
``magnitude``, the learning rate is a power of two and all parameters begin at zero: each is at the
end a whole number of units, whatever the order of the pushes was, and float32 holds it exactly
below 2**24. The numbers repeat with a prime period and are shifted by tensor and worker, so that a
part, a tensor or a worker in another's place shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Arrays = dict[str, Vector]

TENSORS = 8
LR = 2.0**-10
#: Whole numbers that float32 tells apart.
EXACT_UNITS = 1 << 24


def sizes(mb: float) -> tuple[int, ...]:
    """Elements of each tensor of a model of ``mb`` megabytes (1e6 bytes), one at least."""
    elements = max(TENSORS, round(mb * 1e6 / 4))
    return tuple((elements + place) // TENSORS for place in range(TENSORS))


def model(mb: float) -> Arrays:
    """The model, all zero, in memory that is there already."""
    return {f"tensor{row}": np.full(size, 0, np.float32) for row, size in enumerate(sizes(mb))}


def magnitude(mb: float) -> int:
    """The largest element of a gradient: a prime, the smaller the more pushes a second brings."""
    return 251 if mb >= 10 else 61 if mb >= 0.1 else 13


def gradients(mb: float, worker: int) -> Arrays:
    """What this worker pushes."""
    return {name: -vector / np.float32(LR) for name, vector in outcome(mb, {worker: 1}).items()}


def outcome(mb: float, applied: Mapping[int, int]) -> Arrays:
    """The closed form of the parameters, after so many applied pushes of each worker."""
    return {
        f"tensor{row}": np.resize(_cycle(mb, row, applied), size)
        for row, size in enumerate(sizes(mb))
    }


def agrees(mb: float, applied: Mapping[int, int], parameters: Mapping[str, Vector]) -> bool:
    """True if these are the parameters after so many pushes of each worker, bit for bit."""
    if list(parameters) != list(model(0)):
        return False
    return all(
        _repeats(vector, _cycle(mb, row, applied), size)
        for row, (size, vector) in enumerate(zip(sizes(mb), parameters.values(), strict=True))
    )


def is_exact(mb: float, applied: Sequence[int]) -> bool:
    """True if float32 holds the outcome of so many pushes exactly."""
    return sum(applied) * magnitude(mb) < EXACT_UNITS


def _cycle(mb: float, row: int, applied: Mapping[int, int]) -> Vector:
    """One period of a tensor's parameters."""
    period = magnitude(mb)
    places = np.arange(period)
    units = np.zeros(period, np.int64)
    for worker, count in applied.items():
        units += count * (1 + (places + 31 * row + 7 * worker) % period)
    return (0.0 - LR * units).astype(np.float32)


def _repeats(vector: Vector, cycle: Vector, size: int) -> bool:
    """True if ``vector`` is ``cycle`` over and over; compared in place, as bits."""
    if vector.shape != (size,) or vector.dtype != np.float32:
        return False
    bits, wanted = vector.view(np.uint32), cycle.view(np.uint32)
    whole = size - size % len(cycle)
    return bool(
        (bits[:whole].reshape(-1, len(cycle)) == wanted).all()
        and (bits[whole:] == wanted[: size - whole]).all()
    )
