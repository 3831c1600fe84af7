"""The body of ``POST /v2/models/{model}/infer``, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradmq.infer.refusal import invalid, quoted
from gradmq.infer.tensors import Array, array_from_json, shape_from_json
from gradmq.serve import TensorModel, TensorSpec

BINARY_UNSERVED = (
    "the binary tensor extension is not served here: send and ask for JSON tensors"
    " (binary_data=False in tritonclient)"
)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked inference request."""

    id: str | None
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    """Names of the outputs to answer with, in the order asked for."""


def parse_infer(body: Mapping[str, Any], spec: TensorModel) -> InferRequest:
    """Check the body of an inference request; raises ``Refused`` 400."""
    unknown = sorted(set(body) - {"id", "parameters", "inputs", "outputs"})
    if unknown:
        raise invalid(f"unknown field {quoted(unknown[0])}")
    request_id = body.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise invalid(f"id must be a string, got {quoted(request_id)}")
    _check_parameters(body.get("parameters"), "binary_data_output", "the request")
    return InferRequest(request_id, _inputs(body, spec), _outputs(body, spec))


def _inputs(body: Mapping[str, Any], spec: TensorModel) -> dict[str, Array]:
    wanted = {tensor.name: tensor for tensor in spec.inputs}
    arrays: dict[str, Array] = {}
    for entry in _named_entries(body.get("inputs"), "inputs"):
        name = entry["name"]
        if name not in wanted:
            text = f"unknown input {quoted(name)}: the model has {_listed(spec.inputs)}"
            raise invalid(text)
        if name in arrays:
            raise invalid(f"input {name!r} is given twice")
        arrays[name] = _input(entry, wanted[name])
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise invalid(f"input {missing[0]!r} is missing: the model has {_listed(spec.inputs)}")
    return arrays


def _input(entry: Mapping[str, Any], tensor: TensorSpec) -> Array:
    name = tensor.name
    _check_parameters(entry.get("parameters"), "binary_data_size", f"input {name!r}")
    if entry.get("datatype") != tensor.datatype:
        got = quoted(entry.get("datatype"))
        raise invalid(f"input {name!r}: datatype must be {tensor.datatype!r}, got {got}")
    shape = shape_from_json(entry.get("shape"), tensor.shape, name)
    if "data" not in entry:
        raise invalid(f"input {name!r} has no data")
    return array_from_json(entry["data"], tensor.datatype, shape, name)


def _outputs(body: Mapping[str, Any], spec: TensorModel) -> tuple[str, ...]:
    known = [tensor.name for tensor in spec.outputs]
    if not body.get("outputs"):
        return tuple(known)
    names: list[str] = []
    for entry in _named_entries(body["outputs"], "outputs"):
        name = entry["name"]
        if name not in known:
            text = f"unknown output {quoted(name)}: the model has {_listed(spec.outputs)}"
            raise invalid(text)
        if name in names:
            raise invalid(f"output {name!r} is asked for twice")
        _check_parameters(entry.get("parameters"), "binary_data", f"output {name!r}")
        names.append(name)
    return tuple(names)


def _named_entries(value: object, field: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise invalid(f"{field} must be a list, got {quoted(value)}")
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            text = f"each entry of {field} must be an object with a name, got {quoted(entry)}"
            raise invalid(text)
    return value


def _check_parameters(value: object, binary: str, whose: str) -> None:
    """Refuse every parameter: ignoring one silently would answer another question.

    ``binary`` names the one that asks for the binary extension and may be false.
    """
    if value is None:
        return
    if not isinstance(value, dict):
        raise invalid(f"parameters of {whose} must be an object, got {quoted(value)}")
    for name, setting in value.items():
        if name != binary:
            raise invalid(f"parameter {quoted(name)} of {whose} is not served here")
        if setting is not False:
            raise invalid(f"{BINARY_UNSERVED} ({binary} of {whose})")


def _listed(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)
