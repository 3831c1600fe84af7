"""What a release's model sees of a text, and what it says of the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from gradmq.infer.refusal import Refused
from gradmq.infer.sampling import Logits
from gradmq.infer.serving import ServedRelease

if TYPE_CHECKING:
    import torch

    from gradmq.serve import TextModel


class Sight:
    """What the model sees of one text while it grows; runs under ``torch.inference_mode``.

    A cache lives and dies in here: it can meet no other text and no other release's weights.
    """

    def __init__(self, release: ServedRelease, spec: TextModel, tokens: Sequence[int]) -> None:
        self._release = release
        self._make_cache = spec.cache
        self._most = spec.context_tokens
        self._tokens = list(tokens[-self._most :])
        self._cache: Any = None

    def add(self, token: int) -> None:
        """The text has this token more. One that outgrows the context begins anew with half."""
        self._tokens.append(token)
        if len(self._tokens) > self._most:
            # A cache holds each token at its place: a text that moves by one needs a new one each
            # time, one that moves by half only now and then.
            del self._tokens[: -_kept(self._most)]
            self._cache = None

    def logits(self) -> Logits:
        """Logits (V,) of the next token; raises ``Refused`` 500 if they are no finite numbers.

        After the first call only once for each token added.
        """
        tokens = self._tokens
        if self._cache is not None:
            tokens = tokens[-1:]
        elif self._make_cache is not None:
            self._cache = self._make_cache(self._release.model)
        return _finite(self._release, _logits(self._release, tokens, self._cache)[0, -1])


def scored(
    release: ServedRelease, spec: TextModel, tokens: Sequence[int]
) -> Iterator[tuple[int, Logits]]:
    """Each of ``tokens`` but the first, and the logits (V,) that the model gave in its place.

    It sees of the tokens before one what ``Sight`` would let it see had it generated them. Raises
    ``Refused`` 500 for logits that are no finite numbers.
    """
    start, place = 0, 1
    while place < len(tokens):
        cache = spec.cache(release.model) if spec.cache is not None else None
        seen = tokens[start : start + spec.context_tokens]
        logits = _logits(release, seen, cache)[0]
        end = min(start + len(seen) + 1, len(tokens))
        for each in range(place, end):
            yield tokens[each], _finite(release, logits[each - 1 - start])
        start, place = end - _kept(spec.context_tokens), end


def _kept(context_tokens: int) -> int:
    return max(1, context_tokens // 2)


def _logits(release: ServedRelease, tokens: Sequence[int], cache: Any) -> torch.Tensor:
    """Logits (1, T, V) of what follows each of ``tokens``, which are not in ``cache`` yet."""
    import torch

    model = cast("Callable[..., torch.Tensor]", release.model)
    given = torch.tensor([tokens])
    return model(given) if cache is None else model(given, cache)


def _finite(release: ServedRelease, row: torch.Tensor) -> Logits:
    import torch

    logits: Logits = row.to("cpu", torch.float32).numpy()
    # NaN anywhere, an infinite one, or nothing but minus infinity all end in the maximum.
    if not math.isfinite(logits[logits.argmax()]):
        raise Refused(500, f"release {release.number} gives logits that are not finite numbers")
    return logits
