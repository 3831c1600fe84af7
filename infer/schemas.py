"""Pieces that JSON schemas of requests and answers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}

#: Events, one after the other: no one value that a schema could describe.
EVENTS: Final[Schema] = {}

COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def fields(**properties: Schema) -> Schema:
    """An object that has all of these, and maybe others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def listed(items: Schema) -> Schema:
    """A list of those."""
    return {"type": "array", "items": items}


def maybe(kind: str, **rest: Any) -> Schema:
    """One of that kind, or null."""
    return {"type": [kind, "null"], **rest}
