"""The answer to ``POST /v2/models/{model}/infer``: JSON, and raw tensors behind it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradmq.infer.binary_tensors import bytes_from_array
from gradmq.infer.body import json_bytes
from gradmq.infer.infer_request import WantedOutput
from gradmq.infer.serving import ServedRelease
from gradmq.infer.tensors import Array, json_from_array

#: Fast rather than small: floating-point numbers hardly become smaller with more effort.
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """A body, and how many of its bytes are the JSON if raw tensors follow."""

    body: bytes
    json_bytes: int | None
    encoding: str | None = None
    """The compression of ``body``, as HTTP names it; ``json_bytes`` counts without it."""

    def compressed(self, encoding: str) -> InferAnswer:
        """This answer in the form of ``encoding``; may take long."""
        if encoding == "gzip":
            body = gzip.compress(self.body, _LEVEL, mtime=0)
        else:
            body = zlib.compress(self.body, _LEVEL)
        return InferAnswer(body, self.json_bytes, encoding)


def render_answer(
    model_name: str,
    release: ServedRelease,
    age_s: float,
    request_id: str | None,
    wanted: Sequence[WantedOutput],
    outputs: Mapping[str, Array],
    datatypes: Mapping[str, str],
) -> InferAnswer:
    """``outputs`` as asked for; raises ``Refused`` 500 for values that JSON cannot write."""
    header: dict[str, object] = {"model_name": model_name, "model_version": str(release.number)}
    if request_id is not None:
        header["id"] = request_id
    header["parameters"] = {
        "gradmq_release": str(release.number),
        "gradmq_versions": release.versions_text(),
        "gradmq_age_ms": str(round(age_s * 1000)),
    }
    entries: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output in wanted:
        name, array = output.name, outputs[output.name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatypes[name],
            "shape": list(array.shape),
        }
        if output.binary:
            raw.append(bytes_from_array(array, datatypes[name]))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = json_from_array(array, name, release.number)
        entries.append(entry)
    header["outputs"] = entries
    as_json = json_bytes(header)
    return InferAnswer(b"".join([as_json, *raw]), len(as_json) if raw else None)


def accepted_encoding(accept_encoding: str) -> str | None:
    """The compression to answer with: only one that is asked for by itself.

    Clients that list everything they can read do so by default, and would only be slowed down.
    """
    asked = accept_encoding.strip().lower()
    return asked if asked in ("gzip", "deflate") else None
