"""How the next token is chosen from a model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Enough to see what a model has learned, and soon there.
DEFAULT_MAX_TOKENS = 64

#: Seeds are taken modulo this; numpy's generators take no negative ones.
_SEEDS = 2**64

#: The largest number below 1.
_BELOW_1 = 1 - 2**-53

#: Stands for what cannot be drawn at all: JSON has no infinity.
_LEAST_LOGPROB = -9999.0

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to stop."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 1.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities reach this sum are drawn from."""
    seed: int | None = None
    """None draws another text each time."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these that appears."""


def chance(seed: int | None) -> np.random.Generator:
    """Numbers for ``choose``: the same for the same seed, others each time without one."""
    return np.random.Generator(np.random.PCG64(None if seed is None else seed % _SEEDS))


def choose(logits: Logits, sampling: Sampling, drawn: np.random.Generator) -> int:
    """One token by finite logits (V,) of float32; takes at most one number from ``drawn``."""
    likeliest = int(logits.argmax())
    if sampling.temperature == 0:
        return likeliest
    # Shifted first: a temperature near 0 would overflow, and only differences matter.
    weights = np.subtract(logits, logits[likeliest], dtype=np.float64)
    weights /= sampling.temperature
    np.exp(weights, out=weights)
    order = None
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        weights = weights[order]
        before = np.cumsum(weights) - weights
        # The fewest whose sum reaches top_p; at least the likeliest stays.
        weights = weights[: max(1, np.searchsorted(before, sampling.top_p * weights.sum()))]
    sums = weights.cumsum()
    # The first sum above the point: what cannot be drawn adds nothing and is passed over. A point
    # at the end itself, by rounding, belongs to the last that can.
    point = drawn.random() * sums[-1]
    place = int(sums.searchsorted(min(point, sums[-1] * _BELOW_1), side="right"))
    return place if order is None else int(order[place])


def logprobs(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural logarithms of the model's own probabilities, whatever the sampling makes of them."""
    shifted: npt.NDArray[np.float64] = np.subtract(logits, logits.max(), dtype=np.float64)
    shifted -= np.log(np.exp(shifted).sum())
    np.maximum(shifted, _LEAST_LOGPROB, out=shifted)
    return shifted


def likeliest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """The tokens with the ``count`` highest of ``values``, the highest first."""
    return [int(token) for token in np.argsort(-values, kind="stable")[:count]]
