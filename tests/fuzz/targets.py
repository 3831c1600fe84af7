"""The readers of bytes that others wrote: where they get inputs from, and what they may raise.

A target is a corpus of good inputs and a function that reads one. What it may raise it catches
itself: whatever else comes out is a fault.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from PIL import Image
from starlette.requests import Request

from fuzz import journals
from fuzz.mutate import Parts
from gradmq.durable import read_number
from gradmq.errors import CheckpointError, RemoteProtocolError
from gradmq.infer.body import parse_json_object
from gradmq.infer.chat_request import parse_chat
from gradmq.infer.choosing import Choice
from gradmq.infer.completion_request import parse_completion
from gradmq.infer.generate_extension import parse_generate
from gradmq.infer.infer_request import parse_infer, split_body
from gradmq.infer.limits import HttpLimits
from gradmq.infer.refusal import Refused
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.jobs.fashion_picture import inputs_of_picture
from gradmq.layout import Layout, Tensor
from gradmq.ps import checkpoint
from gradmq.ps.state import Row, ShardState
from gradmq.serve import TensorModel, TensorSpec, TextModel
from gradmq.wire.codec import decode, encode, joined, payload_array
from gradmq.wire.messages import Publication, Push, Seed, Verdict

GOLDEN = Path(__file__).parents[1] / "wire" / "golden"


@dataclass(frozen=True, slots=True)
class Target:
    """One reader."""

    corpus: Callable[[], Sequence[Parts]]
    read: Callable[[Parts], bool]
    """True if it was taken; False if it was refused in the way that is right for it."""
    inputs_in_tests: int
    """A few seconds of them."""


def _refused_in_a_line(error: Exception) -> bool:
    """An error is for a person: one line, not the whole input."""
    assert len(str(error)) < 1000 and "\n" not in str(error), str(error)
    return False


# -- the wire -------------------------------------------------------------------------------------


@cache
def golden_messages() -> Sequence[Parts]:
    return [_frames(path.read_bytes()) for path in sorted(GOLDEN.glob("*.bin"))
            if path.stem != "layout"]  # fmt: skip


def _frames(data: bytes) -> Parts:
    """Each behind its length as four bytes, big-endian."""
    frames, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return frames


def read_message(frames: Parts) -> bool:
    try:
        message = decode(frames)
    except RemoteProtocolError as error:
        return _refused_in_a_line(error)
    with contextlib.suppress(RemoteProtocolError):
        if isinstance(message, Push | Seed | Publication):
            payload_array(message.payload, 6, message.crc, "f32")
        if isinstance(message, Publication):
            joined(message, 6)
    assert decode([bytes(frame) for frame in encode(message)]).KIND == message.KIND
    return True


def read_layout(parts: Parts) -> bool:
    try:
        layout = Layout.from_bytes(b"".join(parts))
    except RemoteProtocolError:
        return False
    assert Layout.from_bytes(layout.to_bytes()) == layout
    return True


# -- checkpoints ----------------------------------------------------------------------------------

LAYOUT = Layout((Tensor("w", "float32", (2, 3)), Tensor("b", "bfloat16", (2,))), shards=1)


@cache
def _folder() -> Path:
    """In memory where there is such a place: a million files are written there."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    holder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=parent)
    _kept.append(holder)
    return Path(holder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def checkpoints() -> Sequence[Parts]:
    """Whole files, one with and one without momentum."""
    verdicts = [
        Verdict(seq=7, outcome="applied", version=(2, 41), weight=0.5, staleness=3),
        Verdict(seq=8, outcome="rejected", reason="nonfinite"),
    ]
    found = []
    for momentum in (False, True):
        state = ShardState(
            parameters=np.arange(8, dtype=np.float32),
            optimizer={"momentum": np.ones(8, np.float32)} if momentum else {},
            version=41,
            lineage=((1, -1), (2, 17)),
            rows={16777217: Row("worker-1", 8, deque(verdicts)), 16777219: Row("Änne", 0)},
            release=3,
        )
        path = checkpoint.save(_folder() / "good", "demo", LAYOUT, 0, state)
        found.append([path.read_bytes()])
    return found


def read_checkpoint(parts: Parts) -> bool:
    path = checkpoint.release_path(_folder(), 0, 1)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(parts))
    try:
        checkpoint.load(_folder(), 0, 1)
    except CheckpointError as error:
        return _refused_in_a_line(error)
    return True


@cache
def checkpoint_metadata() -> Sequence[Parts]:
    """The JSON of a checkpoint; what lies behind its crc is read as well."""
    found = []
    for (data,) in checkpoints():
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        found.append([header["__metadata__"]["gradmq"].encode(), data])
    return found


def read_checkpoint_metadata(parts: Parts) -> bool:
    """The mutated JSON in a good file, under a crc that fits it."""
    text = parts[0].decode(errors="replace")
    (data,) = checkpoints()[0]
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = {
        "gradmq": text,
        "gradmq.crc32c": f"{crc32c.crc32c(text.encode()):08x}",
    }
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return read_checkpoint([struct.pack("<Q", len(packed)), packed, data[8 + size :]])


def read_number_file(parts: Parts) -> bool:
    path = _folder() / "incarnation"
    path.write_bytes(b"".join(parts))
    try:
        read_number(path)
    except CheckpointError as error:
        return _refused_in_a_line(error)
    return True


# -- HTTP -----------------------------------------------------------------------------------------

SPEC = TensorModel(
    inputs=(TensorSpec("rows", "FP32", (-1, 3)), TensorSpec("ids", "INT64", (-1,))),
    outputs=(TensorSpec("sum", "FP32", (-1,)), TensorSpec("double", "FP32", (-1, 3))),
)

INFER_BODIES = [
    {"id": "1", "parameters": {"binary_data_output": False}, "inputs": [
        {"name": "rows", "datatype": "FP32", "shape": [2, 3], "data": [[1, 2, 3], [4.5, 5, 6e3]]},
        {"name": "ids", "datatype": "INT64", "shape": [2], "data": [1, -9007199254740993]},
    ], "outputs": [{"name": "sum"}, {"name": "double", "parameters": {"binary_data": False}}]},
    {"inputs": [
        {"name": "rows", "datatype": "FP32", "shape": [0, 3], "data": []},
        {"name": "ids", "datatype": "INT64", "shape": [1], "data": [9223372036854775807]},
    ]},
]  # fmt: skip

COMPLETION_BODIES = [
    {"model": "text", "prompt": ["Once", "ünd \ud83d\ude00"], "max_tokens": 5, "temperature": 0.7,
     "top_p": 0.9, "seed": 7, "stop": ["\n"], "user": "x", "n": 1, "logit_bias": {}},
    {"prompt": "Twice", "stream": False, "stop": None, "best_of": 1, "presence_penalty": 0.0},
    {"prompt": "And", "stream": True, "stream_options": {"include_usage": True}, "n": 3,
     "logprobs": 2, "echo": True, "best_of": 3},
    {"messages": [{"role": "system", "content": "Be"},
                  {"role": "user", "name": "me", "content": [{"type": "text", "text": "a"}]},
                  {"role": "assistant", "content": "b", "tool_calls": None, "annotations": []}],
     "max_completion_tokens": 3, "response_format": {"type": "text"}, "tools": []},
    {"id": "7", "text_input": "on", "parameters": {"max_tokens": 3, "stop_words": [""]}, "seed": 1},
]  # fmt: skip

CHAT = TextModel(encode=list, decode=str, context_tokens=8, chat=str, chat_stop=("<end>",))


def read_infer_body(parts: Parts) -> bool:
    try:
        wanted = parse_infer(parse_json_object(b"".join(parts)), SPEC)
    except Refused as error:
        return _refused_well(error)
    assert set(wanted.inputs) == {"rows", "ids"}
    return True


BINARY_SPEC = TensorModel(
    inputs=(
        TensorSpec("of-FP32", "FP32", (-1,)),
        TensorSpec("of-BYTES", "BYTES", (-1,)),
        TensorSpec("of-BOOL", "BOOL", (-1,)),
        TensorSpec("of-BF16", "BF16", (-1,)),
    ),
    outputs=(TensorSpec("sum", "FP32", (-1,)),),
    prepare=lambda arrays: tuple(arrays.values()),
)


def _binary_bodies() -> Sequence[Parts]:
    """The JSON, the tensors behind it, and the header that says where the one ends."""
    raw = {
        "FP32": bytes(range(8)),
        "BYTES": struct.pack("<I2sI", 2, b"ab", 0),
        "BOOL": b"\x00\x01",
        "BF16": b"\x80\x3f\xc0\x7f",
    }
    inputs = [
        {"name": f"of-{kind}", "datatype": kind, "shape": [2],
         "parameters": {"binary_data_size": len(data)}}
        for kind, data in raw.items()
    ]  # fmt: skip
    parameters = {"binary_data_output": True, "timeout": 1000}
    header = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return [[header, b"".join(raw.values()), str(len(header)).encode()]]


def read_binary_body(parts: Parts) -> bool:
    json_bytes = parts[2].decode("latin-1") if len(parts) > 2 else None
    body = memoryview(bytearray(b"".join(parts[:2])))
    try:
        header, tensors = split_body(body, json_bytes)
        wanted = parse_infer(header, BINARY_SPEC, tensors)
    except Refused as error:
        return _refused_well(error)
    assert set(wanted.inputs) == {tensor.name for tensor in BINARY_SPEC.inputs}
    return True


def _wishes() -> Sequence[Parts]:
    """The query, the version in the path or nothing, and headers: a name, its value, …"""
    return [
        [b"", b"", b"x-gradmq-min-version", b"1:7,-", b"x-gradmq-wait", b"5s"],
        [b"max_age=2s&min_release=3&wait=500ms", b"", b"x-request-id", b"a-1"],
        [b"pin=4&a=b", b"4"],
        [b"min_version=1%3A4711,2:0", b"", b"X-Gradmq-Max-Age", b"1.5h", b"x-gradmq-pin", b" 4 "],
    ]


@cache
def _two_releases() -> Serving:
    serving = Serving(keep=2)
    for number in (3, 4):
        serving.offer(ServedRelease(number, ((1, 7), (2, 9)), None), heard_newest_at_s=number)
    return serving


def read_wish(parts: Parts) -> bool:
    query, version, *headers = [*parts, b"", b""][: max(2, len(parts))]
    names = (name.lower() for name in headers[::2])  # as the server hands them on
    request = Request(
        {
            "type": "http",
            "query_string": query,
            "path_params": {"version": version.decode("latin-1")} if version else {},
            "headers": list(zip(names, headers[1::2], strict=False)),
        }
    )
    try:
        choice = Choice(request, _two_releases(), lambda: 5.0, left_s=60.0)
    except Refused as error:
        return _refused_well(error, (400, 404))
    try:
        choice.is_possible()
        assert choice.holding().release.number in (3, 4)
    except Refused as error:
        _refused_well(error, (404, 409, 503))  # it was understood
    return True


def read_completion_body(parts: Parts) -> bool:
    """True if it is good for one of the three paths that complete texts."""
    limits = HttpLimits()
    taken = False
    for parse in (
        lambda body: parse_completion(body, "text", limits),
        lambda body: parse_chat(body, CHAT, "text", limits),
        lambda body: parse_generate(body, stream=False, limits=limits),
    ):
        try:
            parse(parse_json_object(b"".join(parts)))
            taken = True
        except Refused as error:
            _refused_well(error)
    return taken


@cache
def pictures() -> Sequence[Parts]:
    """PNG and JPEG of several kinds, each in a few pieces."""
    grey = np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)
    picture = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        found.append(_saved(picture.convert(mode), "PNG", exif=exif))
    found.append(_saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            found.append(_saved(picture.convert(mode), "JPEG", exif=exif, progressive=progressive))
    return [[content[at : at + 100] for at in range(0, len(content), 100)] for content in found]


def _saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def read_picture(parts: Parts) -> bool:
    try:
        (image,) = inputs_of_picture(b"".join(parts)).values()
    except ValueError as error:
        return _refused_in_a_line(error)
    assert image.shape == (1, 28, 28) and image.dtype == np.uint8
    return True


def _refused_well(error: Refused, statuses: Collection[int] = range(400, 500)) -> bool:
    assert error.status in statuses and len(error.text) < 1000
    error.text.encode("utf-8", "replace")
    return False


def _bodies(bodies: Sequence[object]) -> Callable[[], Sequence[Parts]]:
    return lambda: [[json.dumps(body, ensure_ascii=e).encode("utf-8", "replace")]
                    for body in bodies for e in (False, True)]  # fmt: skip


# -- all ------------------------------------------------------------------------------------------


@cache
def _journal() -> journals.JournalTarget:
    return journals.JournalTarget(_folder() / "journal")


TARGETS = {
    "message": Target(golden_messages, read_message, 60_000),
    "layout": Target(lambda: [[(GOLDEN / "layout.bin").read_bytes()]], read_layout, 60_000),
    "checkpoint": Target(checkpoints, read_checkpoint, 10_000),
    "checkpoint-metadata": Target(checkpoint_metadata, read_checkpoint_metadata, 10_000),
    "journal": Target(journals.segments, lambda parts: _journal().read_segment(parts), 5_000),
    "journal-record": Target(journals.records, lambda parts: _journal().read_record(parts), 5_000),
    "number-file": Target(lambda: [[b"7\n"], [b"123456"]], read_number_file, 10_000),
    "infer-body": Target(_bodies(INFER_BODIES), read_infer_body, 40_000),
    "infer-binary": Target(_binary_bodies, read_binary_body, 20_000),
    "wish": Target(_wishes, read_wish, 20_000),
    "picture": Target(pictures, read_picture, 10_000),
    "completion-body": Target(_bodies(COMPLETION_BODIES), read_completion_body, 40_000),
}
