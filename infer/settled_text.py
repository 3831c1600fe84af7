"""The text of the tokens drawn so far, as far as no later token can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a decoder writes for bytes that are no character, or not one yet.
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"

#: A character of UTF-8 has at most four bytes, so at most three may wait for the last one.
_UNFINISHED = 3


class SettledText:
    """Hands out a text piece by piece; its pieces together are the text, whatever their sizes.

    Held back are the bytes of a character that is not whole yet, and what may be the beginning of a
    stop text, until a later token or the end decides them. The text ends before the first stop text
    that appears.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []
        self._given = 0
        self.settled = 0
        """Characters that are whole, handed out or not: where the text of the next token begins."""
        self.stopped = False
        """A stop text has appeared: nothing comes after this."""

    @property
    def given(self) -> int:
        """Characters handed out."""
        return self._given

    def add(self, token: int) -> str:
        """What of the text is certain once this token follows, beyond what was before."""
        self._tokens.append(token)
        # All of them anew: a decoder may join tokens in ways that only it knows.
        text = self._decode(self._tokens)
        self.settled = len(text) - _unfinished(text)
        return self._hand_out(text[: self.settled], is_end=False)

    def end(self) -> str:
        """What is left, now that no token follows."""
        return self._hand_out(self._decode(self._tokens), is_end=True)

    def _hand_out(self, text: str, is_end: bool) -> str:
        # Nothing before that can belong to a stop text: it would have been held back.
        found = [place for stop in self._stops if (place := text.find(stop, self._given)) >= 0]
        if found:
            self.stopped = True
            upto = min(found)
        else:
            upto = len(text) if is_end else len(text) - self._beginning_of_stop(text)
        piece = text[self._given : upto]
        self._given += len(piece)
        return piece

    def _beginning_of_stop(self, text: str) -> int:
        """How many characters at the end of ``text`` may go on to become a stop text."""
        open_characters = len(text) - self._given
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop) - 1, open_characters) + 1)
                if text.endswith(stop[:length])
            ),
            default=0,
        )


def _unfinished(text: str) -> int:
    tail = text[-_UNFINISHED:]
    return len(tail) - len(tail.rstrip(_NO_CHARACTER))
