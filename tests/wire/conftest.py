"""One message of every kind, with every field set, and the files that hold their bytes.

A golden file is the frames of one message, each behind its length as four bytes, big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, settings

from gradmq.layout import Layout, Tensor
from gradmq.wire import messages
from gradmq.wire.codec import payload_crc
from gradmq.wire.messages import (
    AllowedKey,
    AskReadmit,
    AskRelease,
    AskStatus,
    AskStop,
    Attach,
    Attached,
    Beacon,
    Detach,
    Directory,
    Evaluated,
    Fetch,
    Goodbye,
    Hello,
    Label,
    Labelled,
    Manifest,
    ManifestEntry,
    Message,
    NotSeen,
    Publication,
    Push,
    Query,
    Reattach,
    Refused,
    Rejoin,
    ReleaseMade,
    Renew,
    Renewed,
    Saved,
    Seed,
    Segment,
    ShardEntry,
    Standing,
    Status,
    Verdict,
    Verdicts,
    Welcome,
)

# The same examples every time, however slow the machine is.
settings.register_profile(
    "gradmq", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gradmq")

FOLDER = Path(__file__).parent / "golden"

LAYOUT = Layout(
    (
        Tensor("embed.weight", "float32", (3, 2)),
        Tensor("scale", "float16", ()),
        Tensor("head.weight", "bfloat16", (2, 1, 2)),
        Tensor("unused", "float32", (0, 4)),
        Tensor("norm.running_mean", "float32", (2,), "buffer"),
    ),
    shards=2,
)
HASH = "9171f836374c7709"
VALUES = struct.pack("<6f", 1.0, -2.5, 0.0, 3.4e38, 1e-45, 0.1)
CRC = payload_crc([VALUES])

KEY = "CSk/rJD}cits!wIjG?1=Ffo-t>sE}(nwEQm}0TkF"
ADDRESSES = ("tcp://10.0.0.5:5551", "tcp://ps-1.example:5552", "tcp://[fd00::7]:5553")
APPLIED = Verdict(seq=7, outcome="applied", version=(3, 41), weight=0.5, staleness=2)
REJECTED = Verdict(seq=8, outcome="rejected", version=(3, 41), staleness=9, reason="stale")
SEGMENT = Segment(pid=4242, fd=17, nonce=bytes(range(16)), nbytes=12288)
MANIFEST = Manifest(
    release=12,
    shards=(
        ManifestEntry(version=(3, 41), crc=CRC),
        ManifestEntry(version=(1, 1 << 40), crc=0xFFFFFFFF),
    ),
)

GOLDEN: dict[str, Message] = {
    "push": Push(
        run="demo",
        shard=1,
        incarnation=3,
        session=16777217,
        seq=7,
        base=(3, 39),
        layout=HASH,
        codec="f32",
        present=b"\x13",
        crc=CRC,
        loss=2.25,
        samples=64,
        payload=(VALUES,),
    ),
    "push.slot": Push(
        run="demo",
        shard=1,
        incarnation=3,
        session=16777217,
        seq=7,
        base=(3, 39),
        layout=HASH,
        samples=64,
        slot=1,
    ),
    "push.header-only": Push(
        run="demo",
        shard=0,
        incarnation=1,
        session=16777217,
        seq=1,
        base=(1, 0),
        layout=HASH,
        present=b"\x00",
    ),
    "attach": Attach(
        run="demo",
        layout=HASH,
        session=16777217,
        name="worker-1",
        oldest_unanswered=7,
        newest_seen=(2, 40),
        window=2,
        segment=SEGMENT,
    ),
    "attach.first": Attach(
        run="demo",
        layout=HASH,
        session=16777217,
        name="Änne",
        oldest_unanswered=1,
        newest_seen=None,
        window=64,
    ),
    "query": Query(session=16777217, seq=7),
    "detach": Detach(session=16777217),
    "fetch": Fetch(run="demo", layout=HASH, release=12, at_least=(3, 41)),
    "fetch.newest": Fetch(run="demo", layout=HASH),
    "fetch.in-ring": Fetch(run="demo", layout=HASH, at_least=(3, 41), session=16777217),
    "seed": Seed(run="demo", layout=HASH, shard=1, session=16777217, crc=CRC, payload=(VALUES,)),
    "attached": Attached(
        session=16777217,
        incarnation=3,
        last_seq=8,
        window=2,
        verdicts=(APPLIED, REJECTED),
        ring=SEGMENT,
    ),
    "attached.not-shared": Attached(
        session=16777217,
        incarnation=1,
        last_seq=0,
        window=64,
        not_shared="cannot open /proc/4242/fd/17: Permission denied",
    ),
    "reattach": Reattach(session=16777217, incarnation=3),
    "verdicts": Verdicts(session=16777217, incarnation=3, verdicts=(APPLIED, REJECTED)),
    "not_seen": NotSeen(session=16777217, incarnation=3, seq=9, idle=True),
    "refused": Refused(reason="fenced", text="session 16777217 is not live", session=16777217),
    "publication": Publication(
        run="demo", shard=1, version=(3, 41), layout=HASH, crc=CRC, payload=(VALUES,)
    ),
    "publication.in-ring": Publication(
        run="demo", shard=1, version=(3, 41), layout=HASH, in_ring=True
    ),
    "publication.release": Publication(
        run="demo", shard=1, version=(3, 41), layout=HASH, crc=CRC, release=12, payload=(VALUES,)
    ),
    "beacon": Beacon(
        run="demo",
        shard=1,
        version=(3, 41),
        published=(3, 40),
        release=12,
        last_seqs={16777217: 8, 16777218: 300},
    ),
    "hello": Hello(
        role="ps",
        name="ps-1",
        host="node-7",
        pid=4242,
        run="demo",
        session=16777217,
        shard=1,
        incarnation=3,
        ready=True,
        release=12,
        addresses=ADDRESSES,
        payload=(LAYOUT.to_bytes(),),
    ),
    "hello.first": Hello(role="infer", name="", host="node-7", pid=4242),
    "renew": Renew(
        report={
            "ready": True,
            "version": 41,
            "waiting_for": "",
            "workers": {
                "worker-1": {
                    "applied": 7,
                    "samples": 448,
                    "rejected": {"stale": 1},
                    "staleness": [[0, 5], [2, 2]],
                }
            },
            "standings": {"worker-1": {"number": 1, "why": "5 nonfinite", "for_s": 2.5}},
            "loss": None,
            "samples_per_s": 812.5,
            "temperature": {"of a later release": [1, 2.5, "x", None, False]},
        }
    ),
    "goodbye": Goodbye(),
    "labelled": Labelled(release=12, shard=1, version=(3, 41), crc=CRC, since_applied_s=0.25),
    "saved": Saved(release=12, shard=1, error="no space left on device"),
    "evaluated": Evaluated(release=12, metrics={"bits_per_byte": 2.5, "accuracy": 0.875}),
    "ask_status": AskStatus(),
    "ask_release": AskRelease(save=True),
    "ask_stop": AskStop(reason="90 s have passed"),
    "ask_readmit": AskReadmit(name="worker-1"),
    "directory": Directory(
        serial=17,
        run="demo",
        phase="open",
        shards=(
            ShardEntry(index=0, incarnation=1, addresses=ADDRESSES, ready=True),
            ShardEntry(index=1, incarnation=3, addresses=ADDRESSES, ready=False),
        ),
        sessions=(16777217, 16777219),
        horizon=16777219,
        seeder=16777217,
        standings={
            "worker-1": Standing(number=1, why="5 nonfinite", for_s=2.5),
            "Änne": Standing(number=2),
        },
        payload=(LAYOUT.to_bytes(),),
    ),
    "directory.keys": Directory(
        serial=9,
        run="demo",
        phase="open",
        shards=(ShardEntry(index=0, incarnation=1, addresses=ADDRESSES, ready=True, key=KEY),),
        sessions=(16777217,),
        horizon=16777217,
        seeder=0,
        allowed=(
            AllowedKey(name="ps-0", role="ps", key=KEY),
            AllowedKey(name="w", role="worker", key=KEY[::-1]),
        ),
        owners={16777217: "w"},
    ),
    "welcome": Welcome(
        run="demo",
        name="worker-1",
        session=16777217,
        shards=2,
        lease_s=10.0,
        settings={
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False},
            "staleness": {"rule": "bounded", "bound": 8},
            "max_in_flight": 2,
        },
    ),
    "renewed": Renewed(serial=17, manifest=MANIFEST),
    "rejoin": Rejoin(),
    "label": Label(release=12, save=True, closed=11),
    "manifest": replace(MANIFEST, since_applied_s=0.5),
    "release_made": ReleaseMade(release=12, error="release 12 was abandoned"),
    "status": Status(status={"run": "demo", "shards": [{"index": 0, "live": True}], "loss": None}),
}


def kinds() -> set[str]:
    return {message.KIND for message in get_args(messages.Message)}


def to_file(frames: list[Any]) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + bytes(frame) for frame in frames)


def from_file(name: str) -> list[bytes]:
    data, frames = (FOLDER / f"{name}.bin").read_bytes(), []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    return frames


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_name" in metafunc.fixturenames:
        metafunc.parametrize("golden_name", GOLDEN)


@pytest.fixture
def golden_message(golden_name: str) -> Message:
    """The message whose bytes are in the file of this name."""
    return GOLDEN[golden_name]


@pytest.fixture
def golden_frames(golden_name: str) -> list[bytes]:
    return from_file(golden_name)


@pytest.fixture(scope="session")
def all_golden_frames() -> dict[str, list[bytes]]:
    return {name: from_file(name) for name in GOLDEN}


@pytest.fixture(scope="session")
def golden_layout() -> tuple[Layout, str]:
    """The layout in golden/layout.bin, and its hash."""
    return LAYOUT, HASH
