"""Requests and answers of the Open Inference Protocol for one model, as JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gradmq.serve import DATATYPES, TensorModel, TensorSpec

Schema = Mapping[str, Any]

_SIZE: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**26}


def tensor_metadata() -> Schema:
    """A tensor as metadata names it; -1 is a size that may vary."""
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": sorted(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
    }


def infer_request(model_name: str, model: TensorModel) -> Schema:
    """The JSON of an inference request; data are flat or nested."""
    outputs = [tensor.name for tensor in model.outputs]
    output = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": outputs},
            "parameters": _parameters(binary_data={"type": "boolean"}),
        },
    }
    inputs = [_tensor(tensor, _parameters(binary_data_size=_SIZE)) for tensor in model.inputs]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "model_name": {"const": model_name},
            "parameters": _parameters(
                binary_data_output={"type": "boolean"}, timeout={"type": "integer", "minimum": 1}
            ),
            "inputs": {
                "type": "array",
                "items": {"anyOf": inputs} if inputs else {},
                "minItems": len(inputs),
                "maxItems": len(inputs),
            },
            "outputs": {
                "type": ["array", "null"],
                "items": output,
                "maxItems": len(outputs),
            },
        },
        "additionalProperties": False,
        "examples": [{"inputs": [_example(tensor) for tensor in model.inputs]}],
    }


def infer_answer(model: TensorModel) -> Schema:
    """The JSON of an answer; binary outputs have no data, which follow the JSON."""
    size = _parameters(binary_data_size=_SIZE)
    return {
        "type": "object",
        "required": ["model_name", "model_version", "parameters", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object", "additionalProperties": {"type": "string"}},
            "outputs": {
                "type": "array",
                "items": {"anyOf": [_tensor(tensor, size) for tensor in model.outputs]}
                if model.outputs
                else {},
            },
        },
    }


def _tensor(tensor: TensorSpec, parameters: Schema) -> Schema:
    leaf = _element(tensor.datatype)
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": {
                "type": "array",
                "description": f"As {list(tensor.shape)}, in which -1 is any size.",
                "items": _SIZE,
                "minItems": len(tensor.shape),
                "maxItems": len(tensor.shape),
            },
            "data": {"type": "array", "items": {"anyOf": [leaf, {"type": "array"}]}},
            "parameters": parameters,
        },
    }


def _parameters(**known: Schema) -> Schema:
    """Others are refused."""
    return {"type": ["object", "null"], "properties": known, "additionalProperties": False}


def _element(datatype: str) -> Schema:
    if datatype == "BOOL":
        return {"type": "boolean"}
    if datatype == "BYTES":
        return {"type": "string"}
    if datatype.startswith(("INT", "UINT")):
        signed, bits = datatype.startswith("INT"), int(datatype.partition("INT")[2])
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return {"type": "integer", "minimum": low, "maximum": high}
    return {"type": "number"}


def _example(tensor: TensorSpec) -> Schema:
    """One row of zeros, or of empty texts."""
    shape = [1 if size == -1 else size for size in tensor.shape]
    count = 1
    for size in shape:
        count *= size
    zero: object = {"BOOL": False, "BYTES": ""}.get(tensor.datatype, 0)
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": shape,
        "data": [zero] * count,
    }
