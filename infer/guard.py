"""What a release must be before it is served: of finite numbers, and no worse than tolerated.

That it is whole and unaltered is known by then: ``Releases`` compares every part's version and crc
with the broker's manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from gradmq.infer.follower import TakenRelease

if TYPE_CHECKING:
    Score = Callable[[torch.nn.Module], float]


class Guard:
    """Looks at one release after the other, in one thread; the last fit one sets the measure."""

    def __init__(self, score: Score | None = None, max_score_drop: float | None = None) -> None:
        """``score``, higher is better, is only asked for if there is a ``max_score_drop``."""
        self._score = None if max_score_drop is None else score
        self._max_score_drop = max_score_drop or 0.0
        self._last_score: float | None = None

    def why_unfit(self, release: TakenRelease) -> str:
        """Why what came is not to be served, as in "release 7 …"; "" if it is, as far as it goes.

        What a release does not bring, as a mask of the job's own, may well hold infinities.
        """
        name = release.first_not_finite()
        return f"has a value in {name!r} that is not finite" if name else ""

    def why_worse(self, model: torch.nn.Module) -> str:
        """The same of the model that it has become."""
        if self._score is None:
            return ""
        try:
            with torch.inference_mode():
                score = float(self._score(model))
        except Exception as error:  # noqa: BLE001  (the job's own code)
            return f"cannot be scored: {type(error).__name__}: {error}"
        if not math.isfinite(score):
            return f"scores {score}"
        last = self._last_score
        if last is not None and score < last - self._max_score_drop:
            text = f"scores {score:.6g} after {last:.6g}"
            return f"{text}, a drop of more than {self._max_score_drop:g}"
        self._last_score = score
        return ""
