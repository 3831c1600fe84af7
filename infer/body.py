"""Request bodies in, JSON answers out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gradmq.infer.inflate import Inflater
from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import RETRY_AFTER_S, Refused, invalid


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, which is in lower case; quicker than ``request.headers``."""
    for key, value in request.scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


class Intake:
    """Reads request bodies and bounds what all of them together hold in memory.

    Used by the event loop's thread only.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._held_bytes = 0

    @contextlib.asynccontextmanager
    async def json_object(
        self, request: Request, deadline_s: float
    ) -> AsyncIterator[dict[str, object]]:
        """The body of ``request`` as a JSON object; its bytes count as held until the block ends.

        Raises ``Refused`` as ``body`` does, and 400 with the position for what is not JSON.
        """
        async with self.body(request, deadline_s) as body:
            yield parse_json_object(body)

    @contextlib.asynccontextmanager
    async def body(self, request: Request, deadline_s: float) -> AsyncIterator[bytearray]:
        """The body of ``request``, inflated; its bytes count as held until the block ends.

        ``deadline_s`` is an instant of the event loop's clock. Raises ``Refused``: 400 for one that
        is not compressed as it says, 408 for one that comes too slowly, 413 for one over the limit,
        415 for a compression that is not read here, 429 when the bodies of other requests fill the
        budget.
        """
        inflater = Inflater(header(request, b"content-encoding") or "")
        announced = header(request, b"content-length") or ""
        if announced.isdecimal() and int(announced) > self._limits.body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            await self._read_into(body, request, inflater, deadline_s)
            yield body
        finally:
            self._held_bytes -= len(body)

    async def _read_into(
        self, body: bytearray, request: Request, inflater: Inflater, deadline_s: float
    ) -> None:
        try:
            async with asyncio.timeout_at(deadline_s):
                async for chunk in request.stream():
                    for piece in inflater.pieces(chunk):
                        self._admit(len(body), len(piece))
                        body += piece
            inflater.end()
        except TimeoutError:
            came = f"{len(body)} bytes came in {self._limits.request_s:g} s"
            text = f"the body arrives too slowly: {came}, the limit here"
            raise Refused(408, text, close=True) from None
        except ClientDisconnect:
            raise Refused(499, "the client went away while sending the body", close=True) from None

    def _admit(self, have_bytes: int, more_bytes: int) -> None:
        if have_bytes + more_bytes > self._limits.body_bytes:
            raise self._too_large()
        if self._held_bytes + more_bytes > self._limits.held_body_bytes:
            limit = f"{self._limits.held_body_bytes} bytes"
            text = f"the bodies of other requests fill {limit}, the limit here"
            raise Refused(429, text, retry_after_s=RETRY_AFTER_S, close=True)
        self._held_bytes += more_bytes

    def _too_large(self) -> Refused:
        text = f"the body is larger than {self._limits.body_bytes} bytes, the limit here"
        return Refused(413, text, close=True)


def parse_json_object(body: bytes | bytearray | memoryview) -> dict[str, object]:
    """``body`` as a JSON object; raises ``Refused`` 400 that names the position of the fault.

    A whole number beyond 64 bits may come as a float.
    """
    if not body:
        raise invalid("the body is empty: send a JSON object")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _parse_json(bytes(body))
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object, {...}")
    return value


def _parse_json(body: bytes) -> object:
    """What orjson does not take, by Python's own parser: it may be JSON all the same, and if not,
    this one says why in words that people know.
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} (character {error.pos})"
        raise invalid(f"the body is not JSON: {error.msg} at {where}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError:
        # Python refuses to build integers of thousands of digits.
        raise invalid("the body holds a number with too many digits") from None


def _refuse_constant(name: str) -> object:
    raise invalid(f"the body is not JSON: it holds {name}, which JSON has no number for")


def json_response(
    content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """``content`` as a JSON answer."""
    return Response(
        json_bytes(content), status_code=status, headers=headers, media_type="application/json"
    )


def json_bytes(content: Mapping[str, object]) -> bytes:
    """``content`` as strict JSON in UTF-8; raises ``ValueError`` for NaN and infinities.

    Text that a caller sent may hold lone surrogates, which UTF-8 cannot write: they become ``?``.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")
