"""A TCP proxy between members and the ports they were told: slow, broken, deaf or lying by seed.

Listens at one loopback address and connects to the same ports of another. Whatever it does it does
to all its connections, for as long as it is told to; ``corrupt`` flips bits in large ZeroMQ frames
only, which is where payloads are: they have a checksum of gradmq's, headers rely on TCP's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from random import Random

CHUNK = 1 << 16

#: ``drip`` lets so much through at a time, so often.
DRIP_BYTES, DRIP_S = 2048, 0.01

#: ``corrupt`` damages one large frame in so many.
DAMAGED_ONE_IN = 4

#: Frames longer than this are parts of payloads; no header of the tracer model is.
LARGE_BYTES = 8192

GREETING_BYTES = 64


class Frames:
    """Where the bodies of large frames lie in one direction of a ZMTP 3.1 connection."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._skip = GREETING_BYTES
        self._body = 0
        self._is_large = False

    def large(self, chunk: bytes) -> Iterator[tuple[int, int]]:
        """(start, end) of each piece of a large body in the next bytes of the stream."""
        at = 0
        while at < len(chunk):
            if self._skip or self._body:
                taken = min(self._skip or self._body, len(chunk) - at)
                if self._skip:
                    self._skip -= taken
                else:
                    self._body -= taken
                    if self._is_large:
                        yield at, at + taken
                at += taken
                continue
            self._head.append(chunk[at])
            at += 1
            length_bytes = 8 if self._head[0] & 2 else 1
            if len(self._head) == 1 + length_bytes:
                self._body = int.from_bytes(self._head[1:], "big")
                self._is_large = self._body > LARGE_BYTES
                self._head.clear()


class Proxy:
    """Forwards while the ``with`` block lasts, in a thread of its own."""

    def __init__(self, random: Random, listen: str, target: str, ports: Sequence[int]) -> None:
        self._random = random
        self._listen, self._target, self._ports = listen, target, ports
        self._fault = ""
        self._open: set[asyncio.StreamWriter] = set()
        self._lossy: set[asyncio.StreamWriter] = set()
        """Connections whose bytes were lost: nothing may follow."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-proxy", daemon=True)
        self.damaged = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def set(self, fault: str) -> None:
        """From now on this, or "" for nothing.

        ``delay``, ``drip``, ``corrupt``; ``deaf``, ``mute``, ``cut``: what comes to members, from
        them, both ways is lost, and the connection afterwards; ``reset``: half of all, at once.
        """
        self._loop.call_soon_threadsafe(self._set, fault)

    def _set(self, fault: str) -> None:
        self._fault = fault
        broken = self._open if fault == "reset" else self._lossy
        for writer in list(broken):
            if fault != "reset" or self._random.random() < 0.5:
                _reset(writer)
        self._lossy.clear()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        servers = [
            await asyncio.start_server(self._handler(port), self._listen, port)
            for port in self._ports
        ]
        self._ready.set()
        await self._end.wait()
        for server in servers:
            server.close()
        for writer in list(self._open):
            _reset(writer)
        await asyncio.sleep(0)

    def _handler(self, port: int):  # type: ignore[no-untyped-def]
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection(self._target, port)
            except OSError:
                writer.close()
                return
            both = {writer, back}
            self._open |= both
            pumps = [
                asyncio.create_task(self._pump(*ends))
                for ends in ((reader, back, ("mute", "cut")), (there, writer, ("deaf", "cut")))
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                for end in both:
                    end.close()
                self._open -= both
                self._lossy -= both

        return handle

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lost_with: tuple[str, str],
    ) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                large = list(frames.large(chunk))
                if self._fault in lost_with or writer in self._lossy:
                    self._lossy.add(writer)
                    continue
                if self._fault == "delay":
                    await asyncio.sleep(self._random.uniform(0.02, 0.4))
                elif self._fault == "corrupt" and self._random.randrange(DAMAGED_ONE_IN) == 0:
                    chunk = self._damage(chunk, large)
                await self._write(writer, chunk)

    async def _write(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        while self._fault == "drip" and chunk:
            writer.write(chunk[:DRIP_BYTES])
            chunk = chunk[DRIP_BYTES:]
            await writer.drain()
            await asyncio.sleep(DRIP_S)
        writer.write(chunk)
        await writer.drain()

    def _damage(self, chunk: bytes, large: Sequence[tuple[int, int]]) -> bytes:
        if not large:
            return chunk
        start, end = self._random.choice(large)
        damaged = bytearray(chunk)
        damaged[self._random.randrange(start, end)] ^= 1 << self._random.randrange(8)
        self.damaged += 1
        return bytes(damaged)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up without a farewell, as a host that was restarted would."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
