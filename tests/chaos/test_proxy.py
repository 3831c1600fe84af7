"""The proxy hands on every byte, unless it is told to do harm; and then only the harm named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from random import Random

import pytest
import zmq

from chaos.proxy import GREETING_BYTES, Frames, Proxy

PART = bytes(range(256)) * 64


@pytest.fixture
def proxied(free_port: int) -> Iterator[tuple[Proxy, int]]:
    with Proxy(Random(1), "127.0.0.2", "127.0.0.1", [free_port]) as proxy:
        yield proxy, free_port


@pytest.fixture
def pair(proxied: tuple[Proxy, int]) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A PUSH that reaches a PULL through the proxy."""
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as pull,
        context.socket(zmq.PUSH) as push,
    ):
        for end in (pull, push):
            end.linger, end.rcvtimeo, end.sndtimeo = 0, 10_000, 10_000
        pull.bind(f"tcp://127.0.0.1:{proxied[1]}")
        push.connect(f"tcp://127.0.0.2:{proxied[1]}")
        push.send(b"first")
        assert pull.recv() == b"first"
        yield push, pull


@pytest.mark.parametrize("fault", ["", "delay", "drip"])
def test_slow_or_not_every_byte_arrives(
    proxied: tuple[Proxy, int], pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]], fault: str
) -> None:
    push, pull = pair
    proxied[0].set(fault)
    push.send_multipart([b"header", PART, PART])
    assert pull.recv_multipart() == [b"header", PART, PART]


def test_what_is_damaged_is_one_bit_of_a_large_frame(
    proxied: tuple[Proxy, int], pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    push, pull = pair
    proxied[0].set("corrupt")
    damaged = 0
    while not damaged:  # the test's own time limit ends this
        push.send_multipart([b"header" * 1000, PART])
        header, part = pull.recv_multipart()
        assert header == b"header" * 1000
        flipped = sum((a ^ b).bit_count() for a, b in zip(part, PART, strict=True))
        assert flipped == proxied[0].damaged - damaged
        damaged += flipped


def test_a_reset_hangs_up_on_somebody_and_a_cut_on_all_who_spoke(
    proxied: tuple[Proxy, int],
) -> None:
    proxy, port = proxied
    with socket.create_server(("127.0.0.1", port)) as server:

        def echo() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while data := _received(connection):
                        connection.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()

        def hung_up(harm: Callable[[socket.socket], None]) -> bool:
            with socket.create_connection(("127.0.0.2", port), timeout=10) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
                harm(client)
                client.settimeout(0.5)
                try:
                    return client.recv(5) == b""
                except ConnectionResetError:
                    return True
                except TimeoutError:
                    return False

        def cut_off(client: socket.socket) -> None:
            proxy.set("cut")
            client.sendall(b"lost")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(4)
            proxy.set("")

        assert any(hung_up(lambda _: proxy.set("reset")) for _ in range(20))
        proxy.set("")
        assert hung_up(cut_off)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def test_who_is_deaf_is_heard_and_who_is_mute_is_not(
    proxied: tuple[Proxy, int], pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    push, pull = pair
    proxied[0].set("deaf")
    push.send(b"heard")
    assert pull.recv() == b"heard"
    proxied[0].set("mute")
    push.send(b"lost")
    assert not pull.poll(300)


@pytest.mark.parametrize("cut", [1, 2, 7, 100, 5000, 1 << 20])
def test_large_frames_are_found_however_the_stream_is_cut(cut: int) -> None:
    def frame(body: bytes, flags: int = 0) -> bytes:
        if len(body) < 256:
            return bytes([flags, len(body)]) + body
        return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body

    stream = (
        bytes(GREETING_BYTES) + frame(b"h" * 200, 1) + frame(b"H" * 300, 1) + frame(b"p" * 9000)
    )
    stream += frame(b"") + frame(b"q" * 20_000)
    frames, found = Frames(), b""
    for at in range(0, len(stream), cut):
        piece = stream[at : at + cut]
        found += b"".join(piece[start:end] for start, end in frames.large(piece))
    assert found == b"p" * 9000 + b"q" * 20_000
