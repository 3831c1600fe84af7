"""One inference of a tensor model: named arrays in, named arrays out, on one release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gradmq.infer.refusal import Refused, invalid
from gradmq.infer.serving import ServedRelease
from gradmq.infer.tensors import DTYPES, Array, as_bfloat16

if TYPE_CHECKING:
    from gradmq.serve import TensorModel, TensorSpec


def predict(
    release: ServedRelease, spec: TensorModel, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Run ``release.model`` on ``inputs``; runs in the calling thread, without gradients.

    The arrays must have the datatypes of ``spec.inputs``; those returned have the names, datatypes
    and shapes of ``spec.outputs``. Raises ``Refused``: 400 when the job's prepare raises
    ``ValueError``, 500 when the job returns something else than it declares.
    """
    import torch

    model = cast("Callable[..., Any]", release.model)
    with torch.inference_mode():
        if spec.prepare is None:
            arguments: tuple[Any, ...] = tuple(
                _as_torch(inputs[tensor.name], tensor) for tensor in spec.inputs
            )
        else:
            arguments = _prepared(spec.prepare, inputs)
        returned = model(*arguments)
        named = _by_name(spec, returned) if spec.finish is None else spec.finish(returned)
        return {tensor.name: _checked(named, tensor) for tensor in spec.outputs}


def _as_torch(array: Array, tensor: TensorSpec) -> Any:
    import torch

    value = torch.from_numpy(array)
    return value.bfloat16() if tensor.datatype == "BF16" else value


def _prepared(
    prepare: Callable[[Mapping[str, Array]], tuple[Any, ...]], inputs: Mapping[str, Array]
) -> tuple[Any, ...]:
    try:
        return prepare(inputs)
    except ValueError as error:
        raise invalid(f"the inputs cannot be used: {error}") from error


def _by_name(spec: TensorModel, returned: Any) -> Mapping[str, Any]:
    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(values) != len(spec.outputs):
        text = f"the model returned {len(values)} outputs, the job names {len(spec.outputs)}"
        raise Refused(500, text)
    return {tensor.name: value for tensor, value in zip(spec.outputs, values, strict=True)}


def _checked(named: Mapping[str, Any], tensor: TensorSpec) -> Array:
    import torch

    if tensor.name not in named:
        raise Refused(500, f"the job's finish gave no output {tensor.name!r}")
    value = named[tensor.name]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # numpy has no bfloat16; the cast below reaches the declared datatype from float32.
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        array: Array = np.asarray(value, dtype=DTYPES[tensor.datatype])
    if tensor.datatype == "BF16":
        array = as_bfloat16(array)
    elif tensor.datatype == "BYTES":
        array = _texts(array, tensor)
    fits = array.ndim == len(tensor.shape) and all(
        want in (-1, size) for want, size in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        got, declared = list(array.shape), list(tensor.shape)
        text = f"output {tensor.name!r} has shape {got}, the job declares {declared}"
        raise Refused(500, text)
    return array


def _texts(array: Array, tensor: TensorSpec) -> Array:
    texts = np.empty(array.size, object)
    for index, value in enumerate(array.flat):
        if not isinstance(value, (bytes, str)):
            kind = type(value).__name__
            text = f"output {tensor.name!r} of BYTES holds a {kind}: the job must give bytes or str"
            raise Refused(500, text)
        texts[index] = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return texts.reshape(array.shape)
