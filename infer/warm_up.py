"""Runs the first release once before anybody asks: what torch only sets up then is done by then."""

from __future__ import annotations

import logging
import time

import numpy as np

from gradmq.infer.predict import predict
from gradmq.infer.serving import ServedRelease
from gradmq.infer.sight import Sight
from gradmq.infer.tensors import DTYPES, Array
from gradmq.serve import TensorModel, TensorSpec, TextModel

log = logging.getLogger(__name__)

#: What a text model without a sample prompt goes on from.
_PROMPT = "."


def warm_up(release: ServedRelease, spec: TensorModel | TextModel) -> None:
    """Run ``release.model`` on a smallest input, in the calling thread: the model's own.

    A job may not take that input, as its ``prepare`` may ask for more: then nothing is warm, and
    that is all.
    """
    begun_s = time.monotonic()
    try:
        if isinstance(spec, TensorModel):
            predict(release, spec, {tensor.name: _smallest(tensor) for tensor in spec.inputs})
        else:
            _next_token(release, spec)
    except Exception as error:  # noqa: BLE001  (the job's own code; a request is told of it)
        log.debug("release %d was not warmed up: %s", release.number, error)
    else:
        log.debug("release %d ran once in %.3f s", release.number, time.monotonic() - begun_s)


def _smallest(tensor: TensorSpec) -> Array:
    shape = [1 if size == -1 else size for size in tensor.shape]
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", object)
    return np.zeros(shape, DTYPES[tensor.datatype])


def _next_token(release: ServedRelease, spec: TextModel) -> None:
    import torch

    with torch.inference_mode():
        Sight(release, spec, spec.encode(spec.sample_prompt or _PROMPT)).logits()
