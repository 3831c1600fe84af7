"""Files as requests: a picture or another kind that the job can make a model's inputs of."""

from __future__ import annotations

import asyncio
import logging

import numpy as np

from gradmq.infer.infer_request import InferRequest, WantedOutput
from gradmq.infer.refusal import Refused, invalid
from gradmq.infer.tensors import DTYPES, Array, as_bfloat16
from gradmq.serve import TensorModel, TensorSpec

_log = logging.getLogger(__name__)


class MediaReader:
    """Reads the files that a model's ``media`` names; used by the event loop's thread.

    One after the other, in a thread beside the model's: what is read may be much larger than the
    file, and the model goes on meanwhile.
    """

    def __init__(self, spec: TensorModel) -> None:
        self._spec = spec
        self._reading = asyncio.Lock()

    def kind(self, content_type: str) -> str | None:
        """The kind of file that a request's ``content-type`` names; None: it is no file.

        Clients send tensors with a wrong content type or with none: only those that the job
        declares mean anything.
        """
        kind = content_type.partition(";")[0].strip().lower()
        return kind if kind in self._spec.media else None

    def hint(self, body: bytes | bytearray) -> str:
        """How to send a file, to be added to what is wrong with a body that may be one."""
        if not self._spec.media or body.startswith(b"{"):
            return ""
        return f"; a file is sent with its content-type: {', '.join(sorted(self._spec.media))}"

    async def read(self, kind: str, content: bytes, deadline_s: float) -> InferRequest:
        """The request that a file is; ``deadline_s`` is an instant of the event loop's clock.

        Raises ``Refused``: 400 for a file that cannot be used, 504 at the deadline, 500 when the
        job fails on it.
        """
        if not content:
            raise invalid(f"the body is empty: send a file of {kind}")
        try:
            async with asyncio.timeout_at(deadline_s), self._reading:
                inputs = await asyncio.to_thread(self._inputs, kind, content)
        except TimeoutError:
            raise Refused(504, f"the {kind} was not read in time: others came before it") from None
        outputs = tuple(WantedOutput(tensor.name, binary=False) for tensor in self._spec.outputs)
        return InferRequest(None, inputs, outputs, None)

    def _inputs(self, kind: str, content: bytes) -> dict[str, Array]:
        try:
            named = self._spec.media[kind](content)
            return {
                tensor.name: _checked(named[tensor.name], tensor) for tensor in self._spec.inputs
            }
        except ValueError as error:
            raise invalid(f"the {kind} cannot be used: {error}") from error
        except Exception as error:
            _log.exception("the job failed on a file of %s", kind)
            text = f"the job failed on this {kind}: {type(error).__name__}: {error}"
            raise Refused(500, text) from error


def _checked(value: object, tensor: TensorSpec) -> Array:
    """Raises ``TypeError`` for another shape than the job declares: the job's fault."""
    array: Array = np.asarray(value, DTYPES[tensor.datatype])
    fits = array.ndim == len(tensor.shape) and all(
        want in (-1, size) for want, size in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        got, declared = list(array.shape), list(tensor.shape)
        raise TypeError(f"input {tensor.name!r} has shape {got}, the job declares {declared}")
    return as_bfloat16(array) if tensor.datatype == "BF16" else array
