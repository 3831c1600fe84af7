"""Compressed request bodies, inflated piece by piece so that a small one cannot become huge."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gradmq.infer.refusal import Refused, quoted

#: By the name in HTTP: what zlib expects around the data.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

#: Most that one piece inflates to; between two of them a limit can be looked at.
_PIECE_BYTES = 2**18


class Inflater:
    """Takes the pieces of one body in order; ``identity`` passes them on as they are."""

    def __init__(self, encoding: str) -> None:
        """Raises ``Refused`` 415 for an encoding that is not read here."""
        encoding = encoding.strip().lower()
        self._encoding = encoding
        self._zlib = None
        if encoding in _WINDOW_BITS:
            self._zlib = zlib.decompressobj(_WINDOW_BITS[encoding])
        elif encoding not in ("", "identity"):
            text = f"content-encoding {quoted(encoding)} is not accepted: gzip and deflate are"
            raise Refused(415, text, close=True)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` inflates to; raises ``Refused`` 400 if it is not what it is said to be."""
        if self._zlib is None:
            yield data
            return
        more = bool(data)
        while more:
            if self._zlib.eof:
                raise _broken(f"the body goes on behind the end of its {self._encoding} data")
            try:
                piece = self._zlib.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise _broken(f"the body is not {self._encoding}, as it is said to be") from None
            yield piece
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
            # A full piece may have left something inside, with all of the input taken.
            more = bool(data) or (len(piece) == _PIECE_BYTES and not self._zlib.eof)

    def end(self) -> None:
        """The body is over; raises ``Refused`` 400 if the data is not."""
        if self._zlib is not None and not self._zlib.eof:
            raise _broken(f"the body ends within its {self._encoding} data")


def _broken(text: str) -> Refused:
    return Refused(400, text, close=True)
