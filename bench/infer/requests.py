"""Inference requests as bytes, and what an answer must say; pure."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: How the raw tensors of a binary answer are read.
_FORMATS = {"FP32": "f", "INT64": "q"}

_BINARY_HEADER = "inference-header-content-length"

#: Bodies that were found right are not read again; so many of one request, since the last bits of a
#: result depend on what it was computed beside.
_KNOWN_BODIES = 64

#: Float32 sums of some hundred terms, in whatever order.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4


def post(host: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """One HTTP/1.1 request that keeps its connection."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def infer_json(name: str, datatype: str, shape: Sequence[int], data: Sequence[float]) -> bytes:
    """The body of an Open Inference request with one tensor as a list of numbers."""
    tensor = {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def infer_binary(
    name: str, datatype: str, shape: Sequence[int], raw: bytes, outputs: Sequence[str] = ()
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the same with the tensor behind the JSON; wants a binary answer.

    ``outputs``: those that are wanted; none: all.
    """
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    asked: dict[str, Any] = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    if outputs:
        asked["outputs"] = [{"name": output} for output in outputs]
    head = json.dumps(asked, separators=(",", ":")).encode()
    return head + raw, {
        "content-type": "application/octet-stream",
        _BINARY_HEADER: str(len(head)),
    }


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    def content(self) -> dict[str, Any]:
        """The JSON of it; outputs that came in binary have their ``data`` as in the others."""
        json_bytes = int(self.headers.get(_BINARY_HEADER, len(self.body)))
        content: dict[str, Any] = json.loads(self.body[:json_bytes])
        at = json_bytes
        for output in content.get("outputs", ()):
            if "data" not in output:
                size = output["parameters"]["binary_data_size"]
                form = _FORMATS[output["datatype"]]
                count = size // struct.calcsize("<" + form)
                output["data"] = struct.unpack_from(f"<{count}{form}", self.body, at)
                at += size
        return content


#: Why the answer to the request with this number is wrong; "" if it is right.
Check = Callable[[int, Answer], str]


def expects(outputs: Sequence[Sequence[Sequence[float]]]) -> Check:
    """By request: the numbers of each output, in order, as near as float32 makes them."""
    known: dict[int, set[bytes]] = {number: set() for number in range(len(outputs))}

    def check(number: int, answer: Answer) -> str:
        if answer.body in known[number]:
            return ""
        given = [output["data"] for output in answer.content()["outputs"]]
        if not _near(given, outputs[number]):
            return f"request {number}: got {_short(given)}, wanted {_short(outputs[number])}"
        if len(known[number]) < _KNOWN_BODIES:
            known[number].add(answer.body)
        return ""

    return check


def expects_version(number: int, answer: Answer) -> str:
    """Every parameter is the version: the least and the largest one, and what the answer names."""
    content = answer.content()
    _, _, version = content["parameters"]["gradmq_versions"].partition(":")
    low, high = (output["data"][0] for output in content["outputs"])
    if low == high == float(version):
        return ""
    return f"version {version} with parameters from {low} to {high}"


def expects_finite(count: int) -> Check:
    """So many finite numbers: of a model that learns meanwhile nothing else is known."""

    def check(number: int, answer: Answer) -> str:
        (output,) = answer.content()["outputs"]
        data = output["data"]
        if len(data) == count and all(map(math.isfinite, data)):
            return ""
        return f"request {number}: got {_short([data])}, wanted {count} finite numbers"

    return check


def expects_tokens(count: int) -> Check:
    """A completion of so many tokens."""

    def check(number: int, answer: Answer) -> str:
        got = answer.content()["usage"]["completion_tokens"]
        return "" if got == count else f"request {number}: got {got} tokens, wanted {count}"

    return check


def check_of(spec: Mapping[str, Any]) -> Check:
    """The check that a process of clients is told of: one of those above, by name."""
    match spec:
        case {"outputs": outputs}:
            return expects(outputs)
        case {"version": True}:
            return expects_version
        case {"finite": count}:
            return expects_finite(count)
        case {"tokens": count}:
            return expects_tokens(count)
    raise ValueError(f"no check is called {spec}")


def _near(given: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> bool:
    return len(given) == len(wanted) and all(
        len(one) == len(other)
        and all(
            math.isclose(a, b, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
            for a, b in zip(one, other, strict=True)
        )
        for one, other in zip(given, wanted, strict=True)
    )


def _short(outputs: Sequence[Sequence[float]]) -> str:
    text = str([list(output)[:4] for output in outputs])
    return text if len(text) <= 200 else text[:200] + "…"
