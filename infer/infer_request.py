"""The body of ``POST /v2/models/{model}/infer``, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradmq.infer.binary_tensors import array_from_bytes
from gradmq.infer.body import parse_json_object
from gradmq.infer.refusal import invalid, quoted
from gradmq.infer.tensors import Array, array_from_json, shape_from_json
from gradmq.serve import TensorModel, TensorSpec

#: Says that a body is binary, and how many of its bytes are the JSON before the tensors.
BINARY_HEADER = "inference-header-content-length"
BINARY_HEADER_BYTES = BINARY_HEADER.encode()


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output to answer with, and how."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked inference request."""

    id: str | None
    inputs: Mapping[str, Array]
    """Those that came in binary may share the body's memory."""
    outputs: tuple[WantedOutput, ...]
    """In the order asked for."""
    timeout_s: float | None
    """The client wants no answer later than this."""


def split_body(body: memoryview, json_bytes: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON of a body and the tensors behind it; ``json_bytes`` is what BINARY_HEADER says.

    Raises ``Refused`` 400.
    """
    if json_bytes is None:
        return parse_json_object(body), body[len(body) :]
    # So many digits are no length, and Python would refuse to read thousands of them.
    count = int(json_bytes) if json_bytes.isdecimal() and len(json_bytes) < 20 else -1
    if not 0 <= count <= len(body):
        text = f"{BINARY_HEADER} must be from 0 to {len(body)}, the body's bytes"
        raise invalid(f"{text}; got {quoted(json_bytes)}")
    return parse_json_object(body[:count]), body[count:]


def parse_infer(
    header: Mapping[str, Any], spec: TensorModel, tensors: memoryview | None = None
) -> InferRequest:
    """Check an inference request and the raw tensors behind its JSON; raises ``Refused`` 400."""
    unknown = sorted(set(header) - {"id", "parameters", "inputs", "outputs"})
    if unknown:
        raise invalid(f"unknown field {quoted(unknown[0])}")
    request_id = header.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise invalid(f"id must be a string, got {quoted(request_id)}")
    parameters = _parameters(
        header.get("parameters"), {"binary_data_output", "timeout"}, "the request"
    )
    binary = _flag(parameters, "binary_data_output", False, "the request")
    inputs = _inputs(header, spec, _RawTensors(memoryview(b"") if tensors is None else tensors))
    return InferRequest(request_id, inputs, _outputs(header, spec, binary), _timeout(parameters))


class _RawTensors:
    """The bytes behind the JSON, taken from the front."""

    def __init__(self, rest: memoryview) -> None:
        self.rest = rest

    def take(self, size: object, name: str) -> memoryview:
        if type(size) is not int or size < 0:
            text = f"binary_data_size must be a number of bytes, got {quoted(size)}"
            raise invalid(f"input {name!r}: {text}")
        if size > len(self.rest):
            text = f"{len(self.rest)} bytes are left behind the JSON: set {BINARY_HEADER}"
            raise invalid(f"input {name!r}: binary_data_size is {size}, {text}")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def _inputs(header: Mapping[str, Any], spec: TensorModel, raw: _RawTensors) -> dict[str, Array]:
    wanted = {tensor.name: tensor for tensor in spec.inputs}
    arrays: dict[str, Array] = {}
    for entry in _named_entries(header.get("inputs"), "inputs"):
        name = entry["name"]
        if name not in wanted:
            text = f"unknown input {quoted(name)}: the model has {_listed(spec.inputs)}"
            raise invalid(text)
        if name in arrays:
            raise invalid(f"input {name!r} is given twice")
        arrays[name] = _input(entry, wanted[name], raw)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise invalid(f"input {missing[0]!r} is missing: the model has {_listed(spec.inputs)}")
    if raw.rest.nbytes:
        raise invalid(f"{raw.rest.nbytes} bytes of the body belong to no input's binary_data_size")
    return arrays


def _input(entry: Mapping[str, Any], tensor: TensorSpec, raw: _RawTensors) -> Array:
    name = tensor.name
    parameters = _parameters(entry.get("parameters"), {"binary_data_size"}, f"input {name!r}")
    if entry.get("datatype") != tensor.datatype:
        got = quoted(entry.get("datatype"))
        raise invalid(f"input {name!r}: datatype must be {tensor.datatype!r}, got {got}")
    shape = shape_from_json(entry.get("shape"), tensor.shape, name)
    if "binary_data_size" in parameters:
        if "data" in entry:
            raise invalid(f"input {name!r} has both data and binary_data_size: send one of them")
        taken = raw.take(parameters["binary_data_size"], name)
        return array_from_bytes(taken, tensor.datatype, shape, name)
    if "data" not in entry:
        raise invalid(f"input {name!r} has no data")
    return array_from_json(entry["data"], tensor.datatype, shape, name)


def _outputs(
    header: Mapping[str, Any], spec: TensorModel, binary: bool
) -> tuple[WantedOutput, ...]:
    known = [tensor.name for tensor in spec.outputs]
    if header.get("outputs") in (None, []):
        return tuple(WantedOutput(name, binary) for name in known)
    wanted: dict[str, WantedOutput] = {}
    for entry in _named_entries(header["outputs"], "outputs"):
        name = entry["name"]
        if name not in known:
            text = f"unknown output {quoted(name)}: the model has {_listed(spec.outputs)}"
            raise invalid(text)
        if name in wanted:
            raise invalid(f"output {name!r} is asked for twice")
        whose = f"output {name!r}"
        parameters = _parameters(entry.get("parameters"), {"binary_data"}, whose)
        wanted[name] = WantedOutput(name, _flag(parameters, "binary_data", binary, whose))
    return tuple(wanted.values())


def _named_entries(value: object, field: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise invalid(f"{field} must be a list, got {quoted(value)}")
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            text = f"each entry of {field} must be an object with a name, got {quoted(entry)}"
            raise invalid(text)
    return value


def _parameters(value: object, served: set[str], whose: str) -> Mapping[str, Any]:
    """Refuse all but those ``served``: ignoring one silently would answer another question."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"parameters of {whose} must be an object, got {quoted(value)}")
    for name in value:
        if name not in served:
            raise invalid(f"parameter {quoted(name)} of {whose} is not served here")
    return value


def _flag(parameters: Mapping[str, Any], name: str, default: bool, whose: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{name} of {whose} must be true or false, got {quoted(value)}")
    return value


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value < 1:
        text = f"timeout must be a whole number of microseconds, got {quoted(value)}"
        raise invalid(text)
    return value / 1e6


def _listed(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)
